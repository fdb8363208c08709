"""The inspection of a run directory from outside: how far the run is, and whether all its files are whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Config, parse, times_of
from fastpde.errors import InputError
from fastpde.run import checkpoint, directory, lock, progress
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.system_blocks import means_text
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
    """Check a run directory; return what is in order and what is wrong. Raises InputError if it is none.

    Every number of a result is vouched for: by a digest in a checkpoint, which has one of its own, by one in
    status.json, which has one of its own, or by being made again. Pictures, log.txt, comments and what a run that goes
    on would write anew are not looked at.
    """
    found, results = _status(path), Findings()
    sealed = directory.is_sealed(found)
    results.note(sealed, f"{directory.STATUS} is as it was written", f"{directory.STATUS} was altered")
    try:
        config = parse((path / directory.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        results.wrong.append(f"{directory.CONFIG}: {error}")
        return results.good, results.wrong
    same = found.get("config", digest := directory.config_digest(path)) == digest
    results.note(same, f"{directory.CONFIG} can be read", f"{directory.CONFIG} was edited")
    whole = _checkpoints(path, found.get("checkpoint"), results)
    from fastpde.run import trajectory_file

    marks = [(one.facts["marks"], f"checkpoint {one.number}") for one in whole]
    if isinstance(last := found.get("marks"), dict):
        marks.append((last, directory.STATUS))
    kind, name = _trajectory, directory.TRAJECTORY
    if "systems_done" in found:
        kind, name = _ensemble, directory.ENSEMBLE
    try:
        trajectory_file.open_all(path / name)
        kind(path, found, config, marks, results)
    except (InputError, OSError, KeyError, ValueError, TypeError) as error:
        results.wrong.append(getattr(error, "found", str(error)))
    return results.good, results.wrong


class Findings:
    """What is in order in a directory, and what is wrong."""

    def __init__(self) -> None:
        self.good: list[str] = []
        self.wrong: list[str] = []

    def note(self, fine: bool, good: str, wrong: str) -> None:
        """Add one of two sentences."""
        (self.good if fine else self.wrong).append(good if fine else wrong)

    def expect(self, fine: bool, wrong: str) -> None:
        """Add a sentence if something is wrong."""
        if not fine:
            self.wrong.append(wrong)


Marks = list[tuple[dict[str, Any], str]]  # and whose they are


def _checkpoints(path: Path, last: object, results: Findings) -> list[Checkpoint]:
    """Return the checkpoints that are whole; `last` is the number of the last one, as status.json has it."""
    whole = []
    # The first checkpoint, 0, has none before it; later ones take the place of the one before the last.
    needed = checkpoint.NAMES[: last + 1] if isinstance(last, int) else ()
    for name in checkpoint.NAMES:
        try:
            whole.append(checkpoint.read(path / name))
        except FileNotFoundError:
            results.expect(name not in needed, f"{name} is missing")
        except (checkpoint.Damaged, InputError, OSError) as error:
            results.wrong.append(f"{name}: {error}")
        else:
            results.good.append(f"{name} is whole: number {whole[-1].number}")
    results.expect(bool(whole), "no checkpoint is whole")
    return whole


def _trajectory(path: Path, found: dict[str, Any], config: Config, marks: Marks, results: Findings) -> None:
    """Check that frames and tables are those of every mark, with the same times, of the tokens that were asked for."""
    from fastpde.run import trajectory

    file, table = path / directory.TRAJECTORY, path / directory.OBSERVABLES
    stored, rows = trajectory.read_times(file), read_observables(table)["t"]
    for mark, whose in marks:
        frames = mark["trajectory"]["frames"]
        fine = len(stored) >= frames and trajectory.frames_digest(file, frames) == mark["trajectory"]["digest"]
        results.expect(fine, f"{file.name}: the first {frames} frames are not those of {whose}")
        _tables(path, mark, whose, results)
    ids = initial.subset(int(found["n"]), config.output.max_tokens, seed=config.seed)
    results.expect(np.array_equal(trajectory.read_ids(file), ids), f"{file.name}: the ids of the tokens are others")
    results.expect(bool((np.diff(stored) > 0).all()), f"{file.name}: the times do not increase")
    both = min(len(stored), len(rows))
    # A kill may leave more of one than of the other.
    results.expect(np.array_equal(stored[:both], rows[:both]), f"{table.name}: the times are not those of {file.name}")
    if found.get("state") == directory.FINISHED:
        many = f"{file.name} has {len(stored)} frames; the run has finished with {found.get('frames')}"
        results.expect(len(stored) == len(rows) == found.get("frames"), many)
    results.good.append(f"{file.name} can be read: {progress.counted(len(stored), 'frame')}")


def _tables(path: Path, mark: dict[str, Any], whose: str, results: Findings) -> None:
    """Check the tables that have a mark."""
    for name, part in mark.items():
        if "bytes" in part:
            table = path / (directory.SYSTEMS if name == "table" else f"{name}.csv")
            fine = prefix_digest(table, part["bytes"]) == part["digest"]
            results.expect(fine, f"{table.name} is not that of {whose}")


def _ensemble(path: Path, found: dict[str, Any], config: Config, marks: Marks, results: Findings) -> None:
    """Check that the systems are those of every mark, and that the means of observables are theirs."""
    from fastpde.run import trajectory_ensemble

    file = path / directory.ENSEMBLE
    for mark, whose in marks:
        trajectory_ensemble.check(file, found["systems"], mark["ensemble"])
        _tables(path, mark, whose, results)
        results.good.append(f"{file.name} holds the {mark['ensemble']['systems']} systems of {whose}")
    times, ids = trajectory_ensemble.read_axes(file)
    same = np.array_equal(ids, initial.subset(int(found["n"]), config.output.max_tokens, seed=config.seed))
    results.expect(same, f"{file.name}: the ids of the tokens are others")
    named = trajectory_ensemble.is_labelled(file)
    results.expect(named, f"{file.name}: the names of the observables are not those of its columns")
    results.expect(np.array_equal(times, times_of(config)), f"{file.name}: the times are not those of the output")
    text = (path / directory.OBSERVABLES).read_text(encoding="utf-8")
    data = trajectory_ensemble.read_ensemble(file)
    fine = text == means_text(data, int(text.split("\n", 2)[1].rsplit(",", 1)[1]))
    results.expect(fine, f"{directory.OBSERVABLES} has not the means of the observables in {file.name}")
