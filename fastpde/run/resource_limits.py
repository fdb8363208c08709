"""Limits on the threads and the memory of this process, by source: the machine, the process's affinity, its control
groups (both versions) and SLURM. The smallest one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_UNLIMITED = 2**60  # bytes: control groups without a limit say a number near 2^63
_MIB = 2**20


@dataclass(frozen=True)
class Place:
    """The places where limits are read: the list of this process's control groups, their folders, the environment."""

    process: Path = Path("/proc/self/cgroup")
    groups: Path = Path("/sys/fs/cgroup")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


def threads(place: Place | None = None) -> dict[str, int]:
    """Return every limit on threads, by its source."""
    place = place or Place()
    found = {"cores of the machine": os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        found["affinity"] = len(os.sched_getaffinity(0))
    found |= _least("cgroup quota", [_quota(folder) for folder in _folders(place, "cpu")])
    # The second one for jobs that ask for no cpus per task: without an affinity nothing else says their share.
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NUMBA_NUM_THREADS"):
        found |= _least(name, [_whole(place.environment.get(name))])
    return found


def memory(place: Place | None = None) -> dict[str, int]:
    """Return every limit on memory in bytes, by its source."""
    place = place or Place()
    found = {"machine": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
    names = ("memory.max", "memory.limit_in_bytes")
    files = [folder / name for folder in _folders(place, "memory") for name in names]
    found |= _least("cgroup", [_whole(_text(file)) for file in files])
    node, cpu = (_whole(place.environment.get(f"SLURM_MEM_PER_{unit}")) for unit in ("NODE", "CPU"))
    cpus = _whole(place.environment.get("SLURM_CPUS_ON_NODE")) or _whole(place.environment.get("SLURM_CPUS_PER_TASK"))
    found |= _least("SLURM_MEM_PER_NODE", [node and node * _MIB])
    return found | _least("SLURM_MEM_PER_CPU", [cpu and cpu * _MIB * (cpus or 1)])


def least(found: dict[str, int]) -> tuple[int, str]:
    """Return the smallest limit and its source."""
    name = min(found, key=lambda name: found[name])
    return found[name], name


def said(found: dict[str, int], show: Callable[[int], str] = str) -> str:
    """Return the smallest limit in words, with all limits that were found."""
    number, name = least(found)
    return f"{show(number)}, by {name} ({', '.join(f'{name} {show(value)}' for name, value in found.items())})"


def _least(name: str, values: list[int | None]) -> dict[str, int]:
    known = [value for value in values if value and value < _UNLIMITED]  # 0 is no limit
    return {name: min(known)} if known else {}


def _folders(place: Place, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's control groups, each followed by its parents, whose limits hold as well."""
    for line in (_text(place.process) or "").splitlines():
        _, names, name = (*line.split(":", 2), "", "")[:3]
        if names and controller not in names.split(","):
            continue
        for root in {place.groups / folder for folder in ((names, controller) if names else (".", "unified"))}:
            own = root / name.lstrip("/")
            yield own
            yield from (folder for folder in own.parents if folder.is_relative_to(root))


def _quota(folder: Path) -> int | None:
    """Return the whole processors that a group may use, quota / period but at least one; None if it has no quota."""
    pair = (_text(folder / "cpu.max") or "").split()
    if len(pair) != 2:
        pair = [_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    quota, period = map(_whole, pair)
    return max(1, quota // period) if quota and period else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _whole(text: str | None) -> int | None:
    """Return a whole number, None for any other text such as "max" and -1."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
