"""The writer of a run directory, of one system or of many: it appears whole, with status.json, log.txt, checkpoints.

What the directory holds beside these is its `Contents`. The other ranks of a run have a `NullWriter`: it takes the same
calls, sends to rank 0 what this writes, and writes nothing itself.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from fastpde.config import Problem
from fastpde.errors import InputError
from fastpde.parallel.spread import Spread
from fastpde.run import attempt, checkpoint, directory, machine, progress, tables
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.contents import Contents
from fastpde.run.directory import OutputError
from fastpde.run.inputs import digests
from fastpde.run.lock import RunLock, clean_stages

Array = np.ndarray[Any, Any]
_LONG = 0.5  # seconds: checkpoints that take longer are written less often, see `Writer.due`
T = TypeVar("T", bound="File")


class File(Protocol):
    """An open file of the run."""

    def mark(self) -> dict[str, Any]:
        """Return which part of the file belongs to the run now."""

    def sync(self) -> None:
        """Write everything to the disk. Raises OutputError."""

    def close(self, *, cut: bool = True) -> None:
        """Close the file; with `cut`, when the run will not go on, remove what was not filled. Raises OutputError."""


class NullFile:
    """A file on a rank that does not write: tokens that it is given are sent to rank 0."""

    def store(self, t: float, tokens: Array | Spread) -> None:
        """Send the tokens of a frame to rank 0. Collective."""
        give([tokens])

    def append(self, *rows: Any) -> None:
        """Write nothing."""

    def append_named(self, numbers: Any) -> None:
        """Write nothing."""

    def mark(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


def give(arrays: Iterable[Any]) -> None:
    """Send this rank's parts of arrays to rank 0, in the order in which it writes them. Collective."""
    for array in arrays:
        if isinstance(array, Spread):
            array.give()


class Writer:
    """The writer of the directory of one run.

    Attributes:
        contents: what it holds.
        path: the directory, None before it is made.
        steps: the number of steps so far.
        saving: the seconds that the slowest checkpoint took.
    """

    def __init__(
        self, problem: Problem, target: Path, contents: Contents, compiled: Callable[[], float] = float
    ) -> None:
        """Begin to count the time. `compiled` returns for how many seconds this process has compiled kernels."""
        self.problem, self.target, self.contents = problem, target, contents
        self.path: Path | None = None
        self._folder: Path | None = None  # where it is now: before it has its name, elsewhere
        self.steps = 0
        self._opened: dict[str, File] = {}
        self._log: list[str] = []
        self._began, self._last = time.monotonic(), 0.0
        self._compiled, self._before = compiled, compiled()
        self._number, self._saved = 0, time.monotonic()
        self._far = 0  # progress of the last checkpoint
        self._lock: RunLock | None = None
        self._watch, self._config = directory.Watch(), ""
        # Seconds: of the parts before, and of compilation in them; of the slowest checkpoint, of the last one.
        self._earlier, self._compiled_earlier, self.saving, self._took = 0.0, 0.0, 0.0, 0.0
        self._outcome: dict[str, Any] = {}
        self._machine, self.versions = machine.facts(), machine.versions()

    @cached_property
    def _files(self) -> dict[str, str]:
        return digests(self.problem)

    def file(self, name: str, make: Callable[[], T]) -> T:
        """Return the open file make(), whose `mark` is kept under a name in checkpoints. Raises OutputError."""
        self._opened[name] = found = make()
        return found

    def replace_table(self, name: str, names: list[str], lines: list[list[float]]) -> None:
        """Replace a table as a whole. Raises OutputError."""
        assert self._folder is not None, "the directory is there, or under construction"
        tables.write_table(self._folder / name, names, lines)

    def log(self, message: str) -> None:
        """Add a line with the time of day to log.txt. Lines are kept until the directory has its name."""
        self._log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {message}\n")
        if self.path is not None:
            file = self.path / directory.LOG
            with directory.writing("the log", file), open(file, "a", encoding="utf-8", opener=directory.own) as stream:
                stream.writelines(self._log)
            self._log.clear()

    def make(self, facts: str, fill: Callable[[], None]) -> None:
        """Make the directory: its files are opened, and `fill()` stores the first results. Raises OutputError.

        An error leaves nothing behind. facts: a line for log.txt.
        """
        clean_stages(self.target)
        stage = directory.Stage(self.target)
        try:
            self._lock = RunLock(stage.path)
            if code := self.problem.code:
                self.log(f"--allow-code: runs code of the user's own, {', '.join(code)}")
            self._folder = stage.path
            self._config = directory.write_config(stage.path, self.problem.config, self.problem.files.folder)
            self.contents.open(stage.path, None)
            fill()
            self.save(folder=stage.path)
            directory.write_status(stage.path, self._status(directory.RUNNING, ""))
            self.path = self._folder = stage.publish()
            self._lock.moved(self.path)
        except BaseException:
            self.abandon()
            stage.discard()
            raise
        self.log(facts)

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Go on with the unfinished run of the directory `path`, locked by `lock`, from its checkpoint.

        Raises InputError if files were changed, of the run or of its configuration; OutputError.
        """
        if found.facts["files"] != self._files:
            changed = [name for name, digest in self._files.items() if found.facts["files"].get(name) != digest]
            came = f"{path}, whose run has begun with another {', '.join(changed) or 'set of files'}"
            raise InputError("--out", came, "the files of the configuration as they were", directory.REMEDY)
        self._config = directory.config_digest(path)
        if found.facts.get("config", self._config) != self._config:
            came = f"{path}, whose {directory.CONFIG} was edited"
            raise InputError("--out", came, "the file as the run has left it", directory.REMEDY)
        self.path, self._folder, self._lock = path, path, lock
        self._number, self._earlier = found.number + 1, found.facts["elapsed"]
        self._compiled_earlier = found.facts.get("compiled", 0.0)
        self._far = self.contents.progress(found.facts)
        checkpoint.clean(path)
        try:
            self.contents.open(path, found)
        except BaseException:
            self._close()  # as it was before
            raise
        self.contents.restore(found)
        self.log(f"goes on from checkpoint {found.number} {self.contents.where()}")
        if found.facts["versions"] != self.versions:
            self.log("with other versions than before: bits may be others from here on")
        self.write_status(directory.RUNNING, "")

    def due(self) -> bool:
        """Return whether a checkpoint is due; one that takes long waits until it costs a hundredth of the time."""
        wait = max(self.problem.config.output.checkpoint, 100.0 * self._took if self._took > _LONG else 0.0)
        return self.path is not None and time.monotonic() - self._saved > wait

    def save(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Write a checkpoint, after everything that it refers to is on the disk. Raises OutputError.

        end: how the run ended; folder: that of a directory under construction. Collective.
        """
        state, folder = self.contents.state(), folder or self.path
        if state is None or folder is None:
            return
        began = time.monotonic()
        self._watch.check(folder)
        for file in self._opened.values():
            file.sync()
        marks = self._marks()
        facts, arrays = state
        common: dict[str, Any] = {"files": self._files, "config": self._config, "versions": self.versions}
        common |= {"elapsed": self._elapsed(), "compiled": self._compiling(), "end": end}
        facts = common | facts | {"marks": marks | facts.get("marks", {})}
        checkpoint.write(folder, Checkpoint(self._number, facts, arrays))
        self._number, self._saved = self._number + 1, time.monotonic()
        self._note_progress(self.contents.progress(facts))
        self._took = self._saved - began
        self.saving = max(self.saving, self._took)

    def _note_progress(self, far: int) -> None:
        if far > self._far:
            self._far = far
            attempt.note_progress()

    def _marks(self) -> dict[str, Any]:
        return {name: file.mark() for name, file in self._opened.items()}

    def kept(self) -> str:
        """Return a sentence that says what an unfinished run has left in the directory."""
        return "Nothing was written." if self.path is None else f"{self.contents.kept()} are kept in {self.path}."

    def ended(self, status: str) -> None:
        """Note how a run of one system ended."""
        self._outcome = {"status": status}

    def beat(self) -> None:
        """Renew the lock's sign of life."""
        if self._lock is not None:
            self._lock.beat()

    def _elapsed(self) -> float:
        return self._earlier + time.monotonic() - self._began

    def _compiling(self) -> float:
        return self._compiled_earlier + self._compiled() - self._before

    def write_status(self, state: str, message: str, *, every: float = 0.0) -> None:
        """Replace status.json, unless that was done less than `every` seconds ago. Raises OutputError."""
        if self.path is not None and time.monotonic() - self._last > every:
            if state == directory.RUNNING:
                self._watch.check(self.path)
            directory.write_status(self.path, self._status(state, message))
            self._last = time.monotonic()

    def _status(self, state: str, message: str) -> dict[str, Any]:
        elapsed = self._elapsed()
        start, now, end = self.contents.span()
        left = progress.remaining(start, now, end, elapsed) if state == directory.RUNNING else 0.0
        return {
            "state": state,
            "message": message,
            **self._outcome,
            **self.contents.reached(),
            "elapsed_s": round(elapsed, 3),
            "compile_s": round(self._compiling(), 3),
            "eta_s": round(left, 1) if math.isfinite(left) else None,
            "steps_per_s": round(self.steps / elapsed, 6) if elapsed > 0 else 0.0,
            "checkpoint": self._number - 1,
            "pid": os.getpid(),
            "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "updated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "config": self._config,
            "data": str(self.problem.files.folder.resolve()),
            "n": self.problem.n,
            "d": self.problem.d,
            "dtype": self.problem.config.backend.dtype,
            "backend": self._sums(),
            "machine": self._machine,
            "versions": self.versions,
            **({"own_code": own} if (own := self.problem.code) else {}),
        }

    def _sums(self) -> dict[str, Any]:
        asked = self.problem.config.backend
        costs = {} if asked.costs is None else {"costs": asked.costs.table()}
        return {"kind": asked.kind} | costs | self.contents.sums()

    def finish(self, state: str, message: str, code: int | None = None) -> None:
        """Close every file and write the last status; `code` is the exit code of a run that cannot go on.

        Raises OutputError.
        """
        if self.path is None:
            return
        marks = self._marks()
        for file in self._opened.values():
            file.close(cut=state != directory.STOPPED)
        if state != directory.STOPPED:  # what goes on has the marks of its checkpoint
            self._outcome |= {"marks": marks} | ({} if code is None else {"code": code})
            attempt.note_progress()
        self.log(f"{state}: {message}")
        self.write_status(state, message)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _close(self) -> None:
        """Close what can be closed, as it is."""
        for file in self._opened.values():
            with suppress(OutputError):
                file.close(cut=False)

    def abandon(self, message: str = "") -> None:
        """Close what can be closed after an error, and write the error to status.json if that still works."""
        self._close()
        try:
            if message:
                self.log(f"{directory.FAILED}: {message.splitlines()[0]}")
            self.write_status(directory.FAILED, message)
        except OutputError:
            return
        finally:
            self._release()


class NullWriter:
    """The writer of a rank other than 0: it writes nothing, and sends what rank 0 writes."""

    saving = 0.0

    def __init__(self, problem: Problem, target: Path, contents: Contents, _: Callable[[], float] = float) -> None:
        self.problem, self.target, self.contents = problem, target, contents
        self.path: Path | None = None
        self.steps = 0
        self.versions: dict[str, str] = {}

    def file(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a file that writes nothing."""
        return NullFile()

    def replace_table(self, name: str, names: list[str], lines: list[list[float]]) -> None:
        """Write nothing."""

    def make(self, facts: str, fill: Callable[[], None]) -> None:
        """Take part in the first results."""
        self.contents.open(self.target, None)
        fill()
        self.save()
        self.path = self.target

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Go on from the checkpoint of rank 0."""
        self.path = path
        self.contents.open(path, found)
        self.contents.restore(found)

    def due(self) -> bool:
        """Return False: rank 0 decides."""
        return False

    def save(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Send this rank's part of a checkpoint to rank 0. Collective."""
        state = self.contents.state()
        if state is not None:
            give(state[1].values())

    def kept(self) -> str:
        """Return nothing: rank 0 says it."""
        return ""

    def log(self, message: str) -> None:
        """Write nothing."""

    def ended(self, status: str) -> None:
        """Write nothing."""

    def beat(self) -> None:
        """Write nothing."""

    def write_status(self, state: str, message: str, *, every: float = 0.0) -> None:
        """Write nothing."""

    def finish(self, state: str, message: str, code: int | None = None) -> None:
        """Write nothing."""

    def abandon(self, message: str = "") -> None:
        """Write nothing."""
