"""What a run leaves behind: frames, moments, status and log, in a directory that appears with its first
frame.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.run import directory, machine, observables, progress, trajectory
from fastpde.run.directory import OutputError

Array = np.ndarray[Any, Any]
_STATUS_EVERY = 2.0  # seconds between status.json of steps; every frame writes it too


class Recorder:
    """Writes one run. The directory is made when the first frame comes, so what fails before leaves nothing
    behind.
    """

    def __init__(self, problem: Problem, target: Path, energy: Callable[[float, Array], float] | None) -> None:
        self.problem, self.target, self.energy = problem, target, energy
        self.path: Path | None = None
        self._log: list[str] = []
        self._began, self._last = time.monotonic(), 0.0
        self._t, self._steps, self._frames = problem.config.time.t_start, 0, 0
        self._stats: dict[str, Any] = {}
        self._machine, self._versions = machine.facts(), machine.versions()

    @property
    def frames(self) -> int:
        """Frames that are stored and flushed."""
        return self._frames

    @property
    def time(self) -> float:
        """The time that the run has reached."""
        return self._t

    def log(self, message: str) -> None:
        """Add a line with the time of day to log.txt, at once if the directory is there, with the first frame
        if not.
        """
        self._log.append(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {message}\n")
        if self.path is not None:
            file = self.path / directory.LOG
            with directory.writing("the log", file), file.open("a", encoding="utf-8") as stream:
                stream.writelines(self._log)
            self._log.clear()

    def frame(self, t: float, x: Array) -> None:
        """Store the tokens and the moments of one time. Raises OutputError."""
        energy = None if self.energy is None else self.energy(t, x)
        numbers = observables.row(t, x, energy)
        self._t = max(self._t, t)
        if self.path is None:
            self._create(t, x, numbers)
            return
        self._append(t, x, numbers)
        self.write_status(directory.RUNNING, "")

    def _append(self, t: float, x: Array, numbers: list[float]) -> None:
        self._trajectory.append(t, x)
        self._observables.append(numbers)
        self._frames += 1

    def _create(self, t: float, x: Array, numbers: list[float]) -> None:
        config, stage = self.problem.config, directory.Stage(self.target)
        try:
            directory.write_config(stage.path, config, self.problem.files.folder)
            ids = initial.subset(len(x), config.output.max_tokens, seed=config.seed)
            span = config.time.t_end - config.time.t_start
            frames = math.ceil(span / (config.output.every or span) * (1 - 1e-12)) + 1
            file = stage.path / directory.TRAJECTORY
            name = self._versions["fastpde"]
            self._trajectory = trajectory.TrajectoryWriter(file, ids, x[:1], frames=frames, version=name)
            self._observables = observables.ObservablesWriter(stage.path / directory.OBSERVABLES, x.shape[1])
            self._append(t, x, numbers)
            directory.write_status(stage.path, self._status(directory.RUNNING, ""))
            self.path = stage.publish()
        except BaseException:
            self.abandon()
            stage.discard()
            raise
        self.log(f"directory made; {len(ids)} of {len(x)} tokens are stored per frame")

    def step(self, t: float, stats: dict[str, Any]) -> None:
        """Take note of an accepted step; status.json follows every two seconds."""
        self._t, self._steps, self._stats = t, int(stats.get("steps", self._steps + 1)), stats
        if self.path is not None and time.monotonic() - self._last > _STATUS_EVERY:
            self.write_status(directory.RUNNING, "")

    def write_status(self, state: str, message: str) -> None:
        """Replace status.json. Raises OutputError."""
        if self.path is not None:
            directory.write_status(self.path, self._status(state, message))
            self._last = time.monotonic()

    def _status(self, state: str, message: str) -> dict[str, Any]:
        config, elapsed = self.problem.config, time.monotonic() - self._began
        eta = 0.0 if state != directory.RUNNING else self._eta(elapsed)
        return {
            "state": state,
            "message": message,
            "t": self._t,
            "t_end": config.time.t_end,
            "step": self._steps,
            "frames": self._frames,
            "elapsed_s": round(elapsed, 3),
            "eta_s": eta,
            "steps_per_s": round(self._steps / elapsed, 6) if elapsed > 0 else 0.0,
            "updated": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "n": self.problem.n,
            "d": self.problem.d,
            "dtype": config.backend.dtype,
            "backend": {"kind": config.backend.kind, **_plain(self._stats)},
            "machine": self._machine,
            "versions": self._versions,
        }

    def _eta(self, elapsed: float) -> float | None:
        times = self.problem.config.time
        left = progress.remaining(times.t_start, self._t, times.t_end, elapsed)
        return round(left, 1) if math.isfinite(left) else None

    def finish(self, state: str, message: str) -> None:
        """Close every file and write the last status. Raises OutputError."""
        if self.path is None:
            return
        self._trajectory.close()
        self._observables.close()
        self.log(f"{state}: {message}")
        self.write_status(state, message)

    def abandon(self, message: str = "") -> None:
        """Close what can be closed after an error, and say so in status.json if that still works."""
        for writer in ("_trajectory", "_observables"):
            if hasattr(self, writer):
                try:
                    getattr(self, writer).close()
                except OutputError:
                    continue
        try:
            self.write_status(directory.FAILED, message)
        except OutputError:
            return


def _plain(stats: dict[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of the statistics: finite numbers, words, and tables of them."""
    kept: dict[str, Any] = {}
    for name, entry in stats.items():
        if isinstance(entry, dict):
            kept[name] = _plain(entry)
        elif isinstance(entry, bool | str | int):
            kept[name] = entry
        elif isinstance(entry, float | np.number) and math.isfinite(entry):
            kept[name] = float(entry)
    return kept
