"""The record that every run leaves: a directory that appears whole, status.json and log.txt."""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastpde.config import Problem
from fastpde.errors import InputError
from fastpde.run import checkpoint, directory, machine, progress
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.directory import OutputError
from fastpde.run.inputs import digests
from fastpde.run.lock import RunLock, clean_stages

_LONG = 0.5  # seconds: checkpoints that take longer are written less often, see `Record.due`


class Writer(Protocol):
    """An open file of the run."""

    def sync(self) -> None:
        """Write everything to the disk. Raises OutputError."""

    def close(self, *, cut: bool = True) -> None:
        """Close the file; with `cut`, when the run will not go on, remove what was not filled. Raises OutputError."""


class Record:
    """The writer of the directory of one run.

    Subclasses call `_make` with their first results, so that an error before them leaves nothing behind; or `_go_on`
    with the checkpoint of an unfinished run.
    """

    def __init__(self, problem: Problem, target: Path) -> None:
        self.problem, self.target = problem, target
        self.path: Path | None = None
        self.steps = 0
        self._writers: list[Writer] = []
        self._log: list[str] = []
        self._began, self._last = time.monotonic(), 0.0
        self._number, self._saved = 0, time.monotonic()
        self._lock: RunLock | None = None
        self._watch = directory.Watch()
        # Seconds: of the parts before, of the slowest checkpoint, of the last one.
        self._earlier, self.saving, self._took = 0.0, 0.0, 0.0
        self._outcome: dict[str, Any] = {}
        self._machine, self._versions = machine.facts(), machine.versions()

    @cached_property
    def _files(self) -> dict[str, str]:
        return digests(self.problem)

    def span(self) -> tuple[float, float, float]:
        """Return start, present value and end of the quantity that measures progress: time, or number of systems."""
        raise NotImplementedError

    def reached(self) -> dict[str, Any]:
        """Return the entries of status.json that say how far the run is."""
        raise NotImplementedError

    def kept(self) -> str:
        """Return a sentence that says what an unfinished run has left in the directory."""
        raise NotImplementedError

    def remarks(self) -> str:
        """Return a remark on the results, to be added to the message of how the run ended; "" for none."""
        return ""

    def backend(self) -> dict[str, Any]:
        """Return the entry of status.json on the sums."""
        asked = self.problem.config.backend
        return {"kind": asked.kind} | ({} if asked.costs is None else {"costs": asked.costs.table()})

    def marks(self) -> dict[str, Any]:
        """Return the marks of its files for a checkpoint: which part of each belongs to the run now."""
        raise NotImplementedError

    def log(self, message: str) -> None:
        """Add a line with the time of day to log.txt. Lines are kept until the directory has its name."""
        self._log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {message}\n")
        if self.path is not None:
            file = self.path / directory.LOG
            with directory.writing("the log", file), open(file, "a", encoding="utf-8", opener=directory.own) as stream:
                stream.writelines(self._log)
            self._log.clear()

    def _make(self, fill: Callable[[Path], None]) -> None:
        """Make the directory: `fill(folder)` opens its writers and stores the first results. Raises OutputError."""
        clean_stages(self.target)
        stage = directory.Stage(self.target)
        try:
            self._lock = RunLock(stage.path)
            if code := self.problem.code:
                self.log(f"--allow-code: runs code of the user's own, {', '.join(code)}")
            directory.write_config(stage.path, self.problem.config, self.problem.files.folder)
            fill(stage.path)
            directory.write_status(stage.path, self._status(directory.RUNNING, ""))
            self.path = stage.publish()
            self._lock.moved(self.path)
        except BaseException:
            self.abandon()
            stage.discard()
            raise

    def _go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Go on with the unfinished run of the directory `path`, locked by `lock`, from its checkpoint. Raises
        InputError if the files of its configuration were changed.
        """
        if found.facts["files"] != self._files:
            changed = [name for name, digest in self._files.items() if found.facts["files"].get(name) != digest]
            came = f"{path}, whose run has begun with another {', '.join(changed) or 'set of files'}"
            raise InputError("--out", came, "the files of the configuration as they were", directory.REMEDY)
        self.path, self._lock = path, lock
        self._number, self._earlier = found.number + 1, found.facts["elapsed"]
        checkpoint.clean(path)

    def due(self) -> bool:
        """Return whether a checkpoint is due; one that takes long waits until it costs a hundredth of the time."""
        wait = max(self.problem.config.output.checkpoint, 100.0 * self._took if self._took > _LONG else 0.0)
        return self.path is not None and time.monotonic() - self._saved > wait

    def save(self, facts: dict[str, Any], arrays: dict[str, Any], folder: Path | None = None) -> None:
        """Write a checkpoint, after everything that it refers to is on the disk. Raises OutputError."""
        folder = folder or self.path
        if folder is None:
            return
        began = time.monotonic()
        self._watch.check(folder)
        for writer in self._writers:
            writer.sync()
        common = {"files": self._files, "elapsed": self._elapsed(), "versions": self._versions, "marks": self.marks()}
        checkpoint.write(folder, Checkpoint(self._number, common | facts, arrays))
        self._number, self._saved = self._number + 1, time.monotonic()
        self._took = self._saved - began
        self.saving = max(self.saving, self._took)

    def beat(self) -> None:
        """Renew the lock's sign of life."""
        if self._lock is not None:
            self._lock.beat()

    def _elapsed(self) -> float:
        return self._earlier + time.monotonic() - self._began

    def write_status(self, state: str, message: str) -> None:
        """Replace status.json. Raises OutputError."""
        if self.path is not None:
            if state == directory.RUNNING:
                self._watch.check(self.path)
            directory.write_status(self.path, self._status(state, message))
            self._last = time.monotonic()

    def _status(self, state: str, message: str) -> dict[str, Any]:
        elapsed = self._elapsed()
        start, now, end = self.span()
        left = progress.remaining(start, now, end, elapsed) if state == directory.RUNNING else 0.0
        return {
            "state": state,
            "message": message,
            **self._outcome,
            **self.reached(),
            "elapsed_s": round(elapsed, 3),
            "eta_s": round(left, 1) if math.isfinite(left) else None,
            "steps_per_s": round(self.steps / elapsed, 6) if elapsed > 0 else 0.0,
            "checkpoint": self._number - 1,
            "pid": os.getpid(),
            "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "updated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "n": self.problem.n,
            "d": self.problem.d,
            "dtype": self.problem.config.backend.dtype,
            "backend": self.backend(),
            "machine": self._machine,
            "versions": self._versions,
            **({"own_code": own} if (own := self.problem.code) else {}),
        }

    def finish(self, state: str, message: str, code: int | None = None) -> None:
        """Close every file and write the last status; `code` is the exit code of a run that cannot go on.

        Raises OutputError.
        """
        if self.path is None:
            return
        for writer in self._writers:
            writer.close(cut=state != directory.STOPPED)
        self._outcome |= {} if code is None else {"code": code}
        self.log(f"{state}: {message}")
        self.write_status(state, message)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def abandon(self, message: str = "") -> None:
        """Close what can be closed after an error, and write the error to status.json if that still works."""
        for writer in self._writers:
            try:
                writer.close(cut=False)
            except OutputError:
                continue
        try:
            self.write_status(directory.FAILED, message)
        except OutputError:
            return
        finally:
            self._release()


class Silent(Record):
    """The null writer of the ranks other than 0: it writes nothing."""

    def due(self) -> bool:
        """Return False: rank 0 decides."""
        return False

    def save(self, facts: dict[str, Any], arrays: dict[str, Any], folder: Path | None = None) -> None:
        """Write nothing: rank 0 does."""

    def log(self, message: str) -> None:
        """Write nothing: rank 0 does."""

    def write_status(self, state: str, message: str) -> None:
        """Write nothing: rank 0 does."""

    def finish(self, state: str, message: str, code: int | None = None) -> None:
        """Write nothing: rank 0 does."""

    def abandon(self, message: str = "") -> None:
        """Write nothing: rank 0 does."""


def plain(stats: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the statistics that JSON can hold: finite numbers, words, and tables of them."""
    kept: dict[str, Any] = {}
    for name, entry in stats.items():
        if isinstance(entry, dict):
            kept[name] = plain(entry)
        elif isinstance(entry, bool | str | int):
            kept[name] = entry
        elif isinstance(entry, float | np.number) and math.isfinite(entry):
            kept[name] = float(entry)
    return kept
