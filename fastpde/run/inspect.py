"""The inspection of a run directory from outside: how far the run is, and whether all its files are whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import parse
from fastpde.errors import InputError
from fastpde.run import checkpoint, directory, lock
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.tables import prefix_digest, read_observables


def status(path: Path) -> dict[str, str]:
    """Return the state of a run in words, from status.json and the lock. Raises InputError if it is none."""
    found = _status(path)
    state, by = str(found.get("state", "unknown")), lock.held(path)
    if state == directory.RUNNING and not by:
        state = "killed: nobody writes here; the same command goes on"
    elif state == directory.STOPPED:
        state = "stopped: the same command goes on"
    elif state == directory.FAILED and "code" not in found:
        state = "failed: the same command goes on"
    words = {"state": state, "message": str(found.get("message", ""))}
    if by:
        words["process"] = f"{by.get('pid')} on {by.get('host')}"
    if "systems_done" in found:
        words["systems"] = f"{found['systems_done']} of {found.get('systems')}"
    else:
        words["t"] = f"{found.get('t')} of {found.get('t_end')}"
    words |= {name: str(found.get(name)) for name in ("step", "frames", "checkpoint", "memory_mb", "updated")}
    words["rate"] = f"{found.get('steps_per_s')} steps/s"
    words["elapsed"] = duration(found.get("elapsed_s"))
    words["left"] = duration(found.get("eta_s")) if by else ""
    return {name: text for name, text in words.items() if text}


def _status(path: Path) -> dict[str, Any]:
    try:
        return directory.read_status(path)
    except (OSError, ValueError):
        raise InputError("DIR", f"{path}, without a {directory.STATUS} that can be read", "a run directory") from None


def duration(seconds: object) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return "unknown"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def verify(path: Path) -> tuple[list[str], list[str]]:
    """Check a run directory; return what is in order and what is wrong. Raises InputError if it is none."""
    found = _status(path)
    good: list[str] = []
    wrong: list[str] = []
    try:
        parse((path / directory.CONFIG).read_text(encoding="utf-8"))
        good.append(f"{directory.CONFIG} can be read")
    except (OSError, ValueError) as error:
        return good, [f"{directory.CONFIG}: {error}"]
    whole = _checkpoints(path, good, wrong)
    for check in (_trajectory, _ensemble):
        try:
            check(path, found, whole, good, wrong)
        except (InputError, OSError, KeyError) as error:
            wrong.append(str(error))
    return good, wrong


def _checkpoints(path: Path, good: list[str], wrong: list[str]) -> list[Checkpoint]:
    """Return the checkpoints that are whole; append what was found to `good` and `wrong`."""
    whole = []
    for name in checkpoint.NAMES:
        try:
            whole.append(checkpoint.read(path / name))
        except FileNotFoundError:
            continue
        except (checkpoint.Damaged, InputError, OSError) as error:
            wrong.append(f"{name}: {error}")
        else:
            good.append(f"{name} is whole: number {whole[-1].number}")
    if not whole:
        wrong.append("no checkpoint is whole")
    return whole


def _trajectory(path: Path, found: dict[str, Any], whole: list[Checkpoint], good: list[str], wrong: list[str]) -> None:
    """Check that frames and tables are those of every checkpoint, with the same times; append to `good` and `wrong`."""
    from fastpde.run import trajectory

    file, table = path / directory.TRAJECTORY, path / directory.OBSERVABLES
    if "systems_done" in found:
        return
    stored, rows = trajectory.read_times(file), read_observables(table)["t"]
    for one in whole:
        marks = one.facts["marks"]
        frames = marks["trajectory"]["frames"]
        if len(stored) < frames or trajectory.frames_digest(file, frames) != marks["trajectory"]["digest"]:
            wrong.append(f"{file.name}: the first {frames} frames are not those of checkpoint {one.number}")
        for name in sorted(name for name, mark in marks.items() if "bytes" in mark):
            if prefix_digest(path / f"{name}.csv", marks[name]["bytes"]) != marks[name]["digest"]:
                wrong.append(f"{name}.csv is not that of checkpoint {one.number}")
    if not (np.diff(stored) > 0).all():
        wrong.append(f"{file.name}: the times do not increase")
    both = min(len(stored), len(rows))
    if (stored[:both] != rows[:both]).any():  # a kill may leave more of one than of the other
        wrong.append(f"{table.name}: the times are not those of {file.name}")
    if found.get("state") == directory.FINISHED and not len(stored) == len(rows) == found.get("frames"):
        wrong.append(f"{file.name} has {len(stored)} frames; the run has finished with {found.get('frames')}")
    good.append(f"{file.name} can be read: {len(stored)} frames")


def _ensemble(path: Path, found: dict[str, Any], whole: list[Checkpoint], good: list[str], wrong: list[str]) -> None:
    """Check that the systems are those of every checkpoint; append to `good` and `wrong`."""
    from fastpde.run.trajectory_ensemble import EnsembleWriter

    if "systems_done" not in found:
        return
    file, table = path / directory.ENSEMBLE, path / directory.SYSTEMS
    for one in whole:
        marks = one.facts["marks"]
        EnsembleWriter.check(file, found["systems"], marks["ensemble"])
        if prefix_digest(table, marks["table"]["bytes"]) != marks["table"]["digest"]:
            wrong.append(f"{table.name} is not that of checkpoint {one.number}")
        good.append(f"{file.name} holds the {marks['ensemble']['systems']} systems of checkpoint {one.number}")
