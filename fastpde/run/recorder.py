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
from fastpde.run import directory, observables, trajectory
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
        config = self.problem.config
        ids = initial.subset(len(x), config.output.max_tokens, seed=config.seed)

        def fill(folder: Path) -> None:
            span = config.time.t_end - config.time.t_start
            frames = math.ceil(span / (config.output.every or span) * (1 - 1e-12)) + 1
            file, name = folder / directory.TRAJECTORY, self._versions["fastpde"]
            self._trajectory = trajectory.TrajectoryWriter(file, ids, x[:1], frames=frames, version=name)
            self._writers.append(self._trajectory)
            self._observables = observables.ObservablesWriter(folder / directory.OBSERVABLES, x.shape[1])
            self._writers.append(self._observables)
            self._append(t, x, numbers)

        self._make(fill)
        self.log(f"directory made; {len(ids)} of {len(x)} tokens are stored per frame")

    def step(self, t: float, stats: dict[str, Any]) -> None:
        """Take note of an accepted step; status.json follows every two seconds."""
        self._t, self.steps, self._stats = t, int(stats.get("steps", self.steps + 1)), stats
        if self.path is not None and time.monotonic() - self._last > _STATUS_EVERY:
            self.write_status(directory.RUNNING, "")

    def ended(self, status: str, t: float) -> None:
        """Take note of how the run ended, and when: an event may be before the end of its step."""
        self._outcome, self._t = {"status": status}, t
