"""What a run of one system leaves behind: frames, moments, status and log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.integrate import State
from fastpde.run import directory, observables, trajectory
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.lock import RunLock
from fastpde.run.record import Record, plain

Array = np.ndarray[Any, Any]
_STATUS_EVERY = 2.0  # seconds between status.json of steps; every frame writes it too


class Recorder(Record):
    """Writes a run frame by frame; the directory is made when the first frame comes."""

    def __init__(self, problem: Problem, target: Path, energy: Callable[[float, Array], Any] | None) -> None:
        super().__init__(problem, target)
        self.energy = energy
        self._t, self._frames = problem.config.time.t_start, 0
        self._stats: dict[str, Any] = {}
        self.snapshot: Callable[[], State | None] = lambda: None  # of the integration, once there is one

    def go_on(self, path: Path, lock: RunLock, found: Checkpoint) -> None:
        """Take an unfinished run from its checkpoint on. Raises InputError, OutputError."""
        self._go_on(path, lock, found)
        facts, x = found.facts, found.arrays["y"]
        marks, frames = facts["marks"], self._expected()
        self._trajectory = trajectory.TrajectoryWriter.going_on(
            path / directory.TRAJECTORY, self._ids(len(x)), x[:1], frames=frames, kept=marks["trajectory"]
        )
        self._writers.append(self._trajectory)
        table = path / directory.OBSERVABLES
        self._observables = observables.ObservablesWriter(table, x.shape[1], marks["observables"])
        self._writers.append(self._observables)
        self._frames = marks["trajectory"]["frames"]
        self._t, self.steps = facts["state"]["t"], facts["state"]["step"]
        self.log(f"goes on from checkpoint {found.number} at t = {self._t:.6g}, step {self.steps}")
        if facts["versions"] != self._versions:
            self.log("with other versions than before: bits may be others from here on")
        self.write_status(directory.RUNNING, "")

    def marks(self) -> dict[str, Any]:
        """Return where trajectory and observables are."""
        return {"trajectory": self._trajectory.mark(), "observables": self._observables.mark()}

    def save_state(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Write a checkpoint of the integration; `end`: how it ended. Never of numbers that are not finite."""
        state = self.snapshot()
        if state is None or not np.isfinite(state.y).all():
            return
        numbers, arrays = state.parts()
        self.save({"state": numbers, "end": end}, arrays, folder)

    def span(self) -> tuple[float, float, float]:
        """Return t_start, the time that the run has reached, and t_end."""
        times = self.problem.config.time
        return times.t_start, self._t, times.t_end

    def reached(self) -> dict[str, Any]:
        """Return the time and the numbers of steps and frames."""
        return {"t": self._t, "t_end": self.problem.config.time.t_end, "step": self.steps, "frames": self._frames}

    def kept(self) -> str:
        """Return how many frames are stored and flushed."""
        if self.path is None:
            return "Nothing was written."
        return f"{self._frames} frames up to t = {self._t:.6g} are kept in {self.path}."

    def backend(self) -> dict[str, Any]:
        """Return the backend and the numbers of the integration."""
        return {**super().backend(), **plain(self._stats)}

    def frame(self, t: float, x: Array) -> None:
        """Store the tokens and the moments of one time. Raises OutputError."""
        energy = None if self.energy is None else float(self.energy(t, x))
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
        ids = self._ids(len(x))

        def fill(folder: Path) -> None:
            file, name = folder / directory.TRAJECTORY, self._versions["fastpde"]
            self._trajectory = trajectory.TrajectoryWriter(file, ids, x[:1], frames=self._expected(), version=name)
            self._writers.append(self._trajectory)
            self._observables = observables.ObservablesWriter(folder / directory.OBSERVABLES, x.shape[1])
            self._writers.append(self._observables)
            self._append(t, x, numbers)
            self.save_state(folder=folder)

        self._make(fill)
        self.log(f"directory made; {len(ids)} of {len(x)} tokens are stored per frame")

    def _ids(self, n: int) -> Array:
        """The tokens that are stored."""
        return initial.subset(n, self.problem.config.output.max_tokens, seed=self.problem.config.seed)

    def _expected(self) -> int:
        """How many frames there will be, if no event ends the run."""
        config = self.problem.config
        span = config.time.t_end - config.time.t_start
        return math.ceil(span / (config.output.every or span) * (1 - 1e-12)) + 1

    def step(self, t: float, stats: dict[str, Any]) -> None:
        """Take note of an accepted step; status.json follows every two seconds."""
        self._t, self.steps, self._stats = t, int(stats.get("steps", self.steps + 1)), stats
        if self.path is not None and time.monotonic() - self._last > _STATUS_EVERY:
            self.write_status(directory.RUNNING, "")

    def ended(self, status: str, t: float) -> None:
        """Take note of how the run ended, and when: an event may be before the end of its step."""
        self._outcome, self._t = {"status": status}, t
