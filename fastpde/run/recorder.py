"""The record of a run of one system: frames, moments, energies, clusters, status and log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.dissipation import EnergyRow
from fastpde.integrate import State
from fastpde.run import directory, groups, observables, trajectory
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.energies import Watch
from fastpde.run.lock import RunLock
from fastpde.run.ranks import Team
from fastpde.run.record import Record, Silent, plain
from fastpde.run.rows import Rows, token_axis

Array = np.ndarray[Any, Any]
Lines = dict[str, Sequence[Sequence[float | str]]]  # of the tables, by name
_STATUS_EVERY = 2.0  # seconds between status.json of steps; every frame writes it too


class Recorder(Record):
    """The record of a run, written frame by frame; the directory is made with the first frame.

    The tokens (m, d) that its methods take are those of this rank.
    """

    def __init__(
        self,
        problem: Problem,
        target: Path,
        energy: Callable[[float, Array], EnergyRow] | None,
        watch: Watch,
        team: Team,
    ) -> None:
        super().__init__(problem, target)
        self.energy, self.watch, self.team = energy, watch, team
        self._t, self._frames = problem.config.time.t_start, 0
        self._stats: dict[str, Any] = {}
        self._tables: dict[str, observables.TableWriter] = {}
        self.snapshot: Callable[[], State | None] = lambda: None  # of the integration, once there is one

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Go on with an unfinished run from its checkpoint; its directory is locked. Raises InputError, OutputError."""
        self._go_on(path, lock, found)
        facts, x = found.facts, found.arrays["y"]
        marks, frames = facts["marks"], self._expected()
        self._trajectory = trajectory.TrajectoryWriter.going_on(
            path / directory.TRAJECTORY, self._ids(), x[:1], frames=frames, kept=marks["trajectory"]
        )
        self._writers.append(self._trajectory)
        self._open_tables(path, x.shape[1], marks)
        self._reached(facts)
        self.log(f"goes on from checkpoint {found.number} at t = {self._t:.6g}, step {self.steps}")
        if facts["versions"] != self._versions:
            self.log("with other versions than before: bits may be others from here on")
        self.write_status(directory.RUNNING, "")

    def _reached(self, facts: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        marks = facts["marks"]
        self.watch = Watch(self.watch.trend, marks.get("energy"))
        self._frames = marks["trajectory"]["frames"]
        self._t, self.steps = facts["state"]["t"], facts["state"]["step"]

    def marks(self) -> dict[str, Any]:
        """Return the marks of the trajectory, the tables and the check of the energy."""
        tables = {name: table.mark() for name, table in self._tables.items()}
        return {"trajectory": self._trajectory.mark(), "energy": self.watch.mark(), **tables}

    def save_state(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Write a checkpoint of the integration, unless its numbers are not finite; `end`: how it ended."""
        state = self.snapshot()
        if state is None or self.team.largest(not np.isfinite(state.y).all()):
            return
        numbers, arrays = state.parts()
        axes = {name: token_axis(name) for name in arrays}
        spread = {name: self.team.spread(arrays[name], axis) for name, axis in axes.items() if axis is not None}
        self.save({"state": numbers, "end": end}, arrays | spread, folder)

    def span(self) -> tuple[float, float, float]:
        """Return t_start, the time that the run has reached, and t_end."""
        times = self.problem.config.time
        return times.t_start, self._t, times.t_end

    def reached(self) -> dict[str, Any]:
        """Return the time, the numbers of steps and frames, and whether the energy moves as theory predicts."""
        reached = {"t": self._t, "t_end": self.problem.config.time.t_end, "step": self.steps, "frames": self._frames}
        return reached | self.watch.facts()

    def remarks(self) -> str:
        """Return a sentence about energies that contradict the prediction; "" if there are none."""
        return self.watch.told()

    def kept(self) -> str:
        """Return a sentence that says how many frames are stored and flushed."""
        if self.path is None:
            return "Nothing was written."
        return f"{self._frames} frames up to t = {self._t:.6g} are kept in {self.path}."

    def backend(self) -> dict[str, Any]:
        """Return the backend and the statistics of the integration."""
        return {**super().backend(), **plain(self._stats)}

    def frame(self, t: float, x: Array) -> None:
        """Store the tokens and the moments of one time. Raises OutputError."""
        lines = self._lines(t, x)
        self._t = max(self._t, t)
        if self.path is None:
            self._create(t, x, lines)
            return
        self._append(t, x, lines)
        self.write_status(directory.RUNNING, "")

    def _lines(self, t: float, x: Array) -> Lines:
        """Return the rows of each table for one frame."""
        energy = None if self.energy is None else self.energy(t, x)
        tokens = self.team.blocks(x, observables.BLOCK)
        numbers = observables.row(t, tokens, None if energy is None else energy.energy)
        if energy is not None:
            numbers.append(energy.rate)
            if self.watch.see(t, energy):
                self.log(self.watch.told())
        share = self.problem.config.output.clusters
        if share is None:
            return {"observables": [numbers]}
        spread = self.team.spread(x)
        everyone = spread.whole() if isinstance(spread, Rows) else spread
        found = None if everyone is None else groups.of(everyone, share)
        return {"observables": [numbers + groups.counted(found)], "clusters": groups.rows(t, found)}

    def _stored(self, x: Array) -> Array | Rows:
        """Return the tokens that are stored, from the tokens x (m, d) of this rank."""
        ids, rows = self._ids(), self.team.rows(self.problem.n)
        first, last = np.searchsorted(ids, [rows.start, rows.stop])
        return self.team.spread(x if len(ids) == self.problem.n else x[ids[first:last] - rows.start])

    def _append(self, t: float, x: Array, lines: Lines) -> None:
        stored = self._stored(x)
        self._trajectory.store(t, stored.lines() if isinstance(stored, Rows) else [stored])
        for name, rows in lines.items():
            self._tables[name].append(*rows)
        self._frames += 1

    def _open_tables(self, folder: Path, d: int, marks: dict[str, Any]) -> None:
        """Make the tables, or open those of an earlier part of the run at their marks."""
        output = self.problem.config.output
        names = {"observables": observables.columns(d) + ["dissipation"] * (self.energy is not None)}
        if output.clusters is not None:
            names["observables"] += groups.COUNTED
            names["clusters"] = groups.columns(d)
        for name, columns in names.items():
            self._tables[name] = observables.TableWriter(folder / f"{name}.csv", columns, marks.get(name))
            self._writers.append(self._tables[name])

    def _create(self, t: float, x: Array, lines: Lines) -> None:
        ids = self._ids()

        def fill(folder: Path) -> None:
            file, name = folder / directory.TRAJECTORY, self._versions["fastpde"]
            self._trajectory = trajectory.TrajectoryWriter(file, ids, x[:1], frames=self._expected(), version=name)
            self._writers.append(self._trajectory)
            self._open_tables(folder, x.shape[1], {})
            self._append(t, x, lines)
            self.save_state(folder=folder)

        self._make(fill)
        self.log(f"directory made; {len(ids)} of {self.problem.n} tokens are stored per frame")

    def _ids(self) -> Array:
        """Return the indices of the tokens that are stored."""
        return initial.subset(self.problem.n, self.problem.config.output.max_tokens, seed=self.problem.config.seed)

    def _expected(self) -> int:
        """Return the number of frames if no event ends the run."""
        config = self.problem.config
        span = config.time.t_end - config.time.t_start
        return math.ceil(span / (config.output.every or span) * (1 - 1e-12)) + 1

    def step(self, t: float, stats: dict[str, Any]) -> None:
        """Note an accepted step; status.json is replaced every two seconds."""
        self._t, self.steps, self._stats = t, int(stats.get("steps", self.steps + 1)), stats
        if self.path is not None and time.monotonic() - self._last > _STATUS_EVERY:
            self.write_status(directory.RUNNING, "")

    def ended(self, status: str, t: float) -> None:
        """Note how and when the run ended: the time of an event may lie before the end of its step."""
        self._outcome, self._t = {"status": status}, t


class Follower(Silent, Recorder):
    """The record of a run on a rank other than 0: it helps to compute every number and sends its tokens to rank 0, the
    one that writes.
    """

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Restore the state of the checkpoint that rank 0 goes on from."""
        self.path = path
        self._reached(found.facts)

    def _append(self, t: float, x: Array, lines: Lines) -> None:
        self._give([self._stored(x)])
        self._frames += 1

    def _create(self, t: float, x: Array, lines: Lines) -> None:
        self._append(t, x, lines)
        self.save_state()
        self.path = self.target

    def save(self, facts: dict[str, Any], arrays: dict[str, Any], folder: Path | None = None) -> None:
        """Send this rank's rows to rank 0, in the order in which they are written."""
        self._give(arrays.values())

    def _give(self, arrays: Iterable[Any]) -> None:
        for array in arrays:
            if isinstance(array, Rows):
                array.give()
