"""The walltime of a run: --max-walltime, or the end of its SLURM job, whichever comes first."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path

from fastpde.errors import InputError
from fastpde.run import slurm_job

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PIECES = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+", re.ASCII)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d\d)", re.ASCII)
_NEED = "a time as 90s, 15m, 2h, 1d12h or 1:30:00"
_END = "SLURM_JOB_END_TIME"  # seconds since 1970; set by SLURM from version 23.02 on
_REQUEUE, _PART = 30.0, 0.25  # seconds, but at most this part of all, to put a job into the queue before its end


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


def left(limit: float | None) -> float | None:
    """Return the seconds in which this process must have ended, None if there is no limit.

    They end `limit` seconds after the process began, or some time before the end of its SLURM job, early enough to put
    the job into the queue again; the earlier end counts.
    """
    ends = [] if limit is None else [_began() + limit - time.monotonic()]
    job = _left_of_job()
    if job is not None:
        ends.append(before_end(job))
    return min(ends, default=None)


def deadline(limit: float | None) -> float | None:
    """Return the time on `time.monotonic` by which this process must have ended; see `left`."""
    found = left(limit)
    return None if found is None else time.monotonic() + found


def before_end(seconds: float) -> float:
    """Return the seconds that a command may take in a job of so many, so that the job can be queued again in time."""
    return seconds - min(_REQUEUE, _PART * max(seconds, 0.0))


def _left_of_job() -> float | None:
    """Return the seconds until the end of the SLURM job by its variable, or as SLURM says where that is not set."""
    end = os.environ.get(_END, "")
    if end.isascii() and end.isdigit():
        return int(end[:12]) - time.time()
    return slurm_job.seconds_left()


def _began() -> float:
    """Return the time on `time.monotonic` at which this process began; the present time, where that is not known."""
    try:
        fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic()
    return time.monotonic() - max(age, 0.0)
