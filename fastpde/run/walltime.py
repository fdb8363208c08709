"""The walltime of a run: --max-walltime, or the end of its SLURM job."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path

from fastpde.errors import InputError

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PIECES = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d)", re.ASCII)
_NEED = "a time as 90s, 15m, 2h, 1d12h or 1:30:00"
_END = "SLURM_JOB_END_TIME"  # seconds since 1970


def seconds(text: str) -> float:
    """Return the seconds of a walltime such as 90s, 1d12h or 1:30:00. Raises InputError naming --max-walltime."""
    found = 0.0
    if len(text) < 32 and _PIECES.fullmatch(text):
        found = sum(float(piece[:-1]) * _UNITS[piece[-1]] for piece in re.findall(r"[\d.]+[dhms]", text))
    elif len(text) < 32 and (clock := _CLOCK.fullmatch(text)):
        found = sum(float(part or 0) * unit for part, unit in zip(clock.groups(), (3600.0, 60.0, 1.0), strict=True))
    if not 0.0 < found < math.inf:
        raise InputError("--max-walltime", repr(text), _NEED)
    return found


def deadline(limit: float | None) -> float | None:
    """Return the time on `time.monotonic` by which this process must have ended, None if there is no limit.

    That is `limit` seconds after the process began or, without a limit, the end of its SLURM job.
    """
    ends = [] if limit is None else [_began() + limit]
    slurm = os.environ.get(_END, "")
    if limit is None and slurm.isascii() and slurm.isdigit():
        ends.append(time.monotonic() + int(slurm[:12]) - time.time())
    return min(ends, default=None)


def _began() -> float:
    """Return the time on `time.monotonic` at which this process began; the present time, where that is not known."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()
    return time.monotonic() - max(age, 0.0)
