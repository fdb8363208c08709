"""What every run leaves behind: a directory that appears whole, status.json and log.txt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastpde.config import Problem
from fastpde.run import directory, machine, progress
from fastpde.run.directory import OutputError


class Writer(Protocol):
    """An open file of the run."""

    def close(self) -> None:
        """Close the file. Raises OutputError."""


class Record:
    """Writes one run. Subclasses call `_make` with their first results, so what fails before leaves nothing behind."""

    def __init__(self, problem: Problem, target: Path) -> None:
        self.problem, self.target = problem, target
        self.path: Path | None = None
        self.steps = 0
        self._writers: list[Writer] = []
        self._log: list[str] = []
        self._began, self._last = time.monotonic(), 0.0
        self._outcome: dict[str, Any] = {}
        self._machine, self._versions = machine.facts(), machine.versions()

    def span(self) -> tuple[float, float, float]:
        """Return where the run began, where it is and where it ends, in what its progress is measured by."""
        raise NotImplementedError

    def reached(self) -> dict[str, Any]:
        """Return how far the run is, for status.json."""
        raise NotImplementedError

    def kept(self) -> str:
        """Return what of an unfinished run is in the directory, in a sentence."""
        raise NotImplementedError

    def backend(self) -> dict[str, Any]:
        """Return what status.json says about the sums."""
        return {"kind": self.problem.config.backend.kind}

    def log(self, message: str) -> None:
        """Add a line with the time of day to log.txt, at once if the directory is there, else when it is."""
        self._log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {message}\n")
        if self.path is not None:
            file = self.path / directory.LOG
            with directory.writing("the log", file), file.open("a", encoding="utf-8") as stream:
                stream.writelines(self._log)
            self._log.clear()

    def _make(self, fill: Callable[[Path], None]) -> None:
        """Make the directory: fill(folder) opens its writers and stores the first results. Raises OutputError."""
        stage = directory.Stage(self.target)
        try:
            directory.write_config(stage.path, self.problem.config, self.problem.files.folder)
            fill(stage.path)
            directory.write_status(stage.path, self._status(directory.RUNNING, ""))
            self.path = stage.publish()
        except BaseException:
            self.abandon()
            stage.discard()
            raise

    def write_status(self, state: str, message: str) -> None:
        """Replace status.json. Raises OutputError."""
        if self.path is not None:
            directory.write_status(self.path, self._status(state, message))
            self._last = time.monotonic()

    def _status(self, state: str, message: str) -> dict[str, Any]:
        elapsed = time.monotonic() - self._began
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
            "updated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "n": self.problem.n,
            "d": self.problem.d,
            "dtype": self.problem.config.backend.dtype,
            "backend": self.backend(),
            "machine": self._machine,
            "versions": self._versions,
        }

    def finish(self, state: str, message: str) -> None:
        """Close every file and write the last status. Raises OutputError."""
        if self.path is None:
            return
        for writer in self._writers:
            writer.close()
        self.log(f"{state}: {message}")
        self.write_status(state, message)

    def abandon(self, message: str = "") -> None:
        """Close what can be closed after an error, and say so in status.json if that still works."""
        for writer in self._writers:
            try:
                writer.close()
            except OutputError:
                continue
        try:
            self.write_status(directory.FAILED, message)
        except OutputError:
            return


def plain(stats: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of the statistics: finite numbers, words, and tables of them."""
    kept: dict[str, Any] = {}
    for name, entry in stats.items():
        if isinstance(entry, dict):
            kept[name] = plain(entry)
        elif isinstance(entry, bool | str | int):
            kept[name] = entry
        elif isinstance(entry, float | np.number) and math.isfinite(entry):
            kept[name] = float(entry)
    return kept
