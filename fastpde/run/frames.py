"""The contents of a run of one system: frames of its tokens, and a row of observables for each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.integrate import Integrator, State
from fastpde.meanfield import token_axis
from fastpde.observable import Line, Observable
from fastpde.parallel.spread import Spread
from fastpde.run import directory, tables, trajectory
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.contents import Contents
from fastpde.run.observables import columns
from fastpde.run.progress import counted
from fastpde.run.ranks import RunCommunicator
from fastpde.run.writer import NullWriter, Writer

Array = np.ndarray[Any, Any]
_STATUS_EVERY = 2.0  # seconds between status.json of steps; every frame writes it too
_TABLE = "observables"


class Frames(Contents):
    """The frames of a run; the directory is made with the first one.

    The tokens (m, d) that its methods take are those of this rank.

    Attributes:
        writer: of the directory.
        run: the integration in this part of the run, once there is one.
    """

    writer: Writer | NullWriter

    def __init__(self, problem: Problem, observables: tuple[Observable, ...], communicator: RunCommunicator) -> None:
        self._problem, self._observables, self._communicator = problem, observables, communicator
        self._watched = [(one.name, one.watch) for one in observables if one.watch is not None]
        self._carried = [(f"{one.name}.", one.along) for one in observables if one.along is not None]
        self.run: Integrator | None = None
        self._t, self._frames = problem.config.time.t_start, 0
        self._stats: dict[str, Any] = {}
        self._earlier = 0.0  # seconds of the integration in earlier parts

    # -- what a directory holds ---------------------------------------------------------------------------------------

    def open(self, folder: Path, kept: Checkpoint | None) -> None:
        writer, ids = self.writer, self._ids()
        like = np.empty((1, self._problem.d), self._problem.config.backend.dtype)
        marks = {} if kept is None else kept.facts["marks"]
        file, frames = folder / directory.TRAJECTORY, len(self._problem.times())

        def stored() -> trajectory.TrajectoryWriter:
            if kept is None:
                version = writer.versions["fastpde"]
                return trajectory.TrajectoryWriter(file, ids, like, frames=frames, version=version)
            return trajectory.TrajectoryWriter.going_on(file, ids, like, frames=frames, kept=marks["trajectory"])

        self._trajectory: Any = writer.file("trajectory", stored)
        further = {one.name: list(one.details) for one in self._observables if one.details}
        names = {_TABLE: columns(self._observables), **further}

        def table(name: str) -> Any:
            make = tables.TableWriter
            return writer.file(name, lambda: make(folder / f"{name}.csv", names[name], marks.get(name)))

        self._tables = {name: table(name) for name in names}
        if (problem := self._problem).config.tokens.positions is not None:
            writer.file("positions", lambda: tables.positions_table(folder, problem, ids, marks.get("positions")))

    def restore(self, kept: Checkpoint) -> None:
        marks, state = kept.facts["marks"], kept.facts["state"]
        for name, watch in self._watched:
            watch.go_on(marks.get(name) or {})
        self._frames = marks["trajectory"]["frames"]
        self._t, self.writer.steps = state["t"], state["step"]
        self._earlier = kept.facts.get("wall_time", kept.facts["elapsed"])  # earlier versions had the latter alone

    def state(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the state of the integration; None if its numbers are not finite, or there is none."""
        if self.run is None or (state := self.run.held()) is None:
            return None
        if self._communicator.largest(not np.isfinite(state.y).all()):
            return None
        numbers, arrays = state.parts()
        axes = {name: token_axis(name) for name in arrays}
        cut = {name: axis for name, axis in axes.items() if axis is not None}
        spread = {name: self._communicator.spread(arrays[name], axis) for name, axis in cut.items()}
        for prefix, along in self._carried:
            arrays |= {prefix + name: array for name, array in along.parts(state.step).items()}
        marks = {name: watch.mark() for name, watch in self._watched}
        facts = {"state": numbers, "marks": marks, "wall_time": self._earlier + self.run.stats()["wall_time"]}
        return facts, arrays | spread

    def span(self) -> tuple[float, float, float]:
        times = self._problem.config.time
        return times.t_start, self._t, times.t_end

    def reached(self) -> dict[str, Any]:
        time = {"t": self._t, "t_end": self._problem.config.time.t_end}
        facts = {name: facts for name, watch in self._watched if (facts := watch.facts())}
        return time | {"step": self.writer.steps, "frames": self._frames} | facts

    def kept(self) -> str:
        return f"{counted(self._frames, 'frame')} up to t = {self._t:.6g}"

    def progress(self, facts: dict[str, Any]) -> int:
        """Return the number of velocities that were computed: those of a step under way are kept, too."""
        return int(facts["state"].get("evaluations", 0))

    def where(self) -> str:
        return f"at t = {self._t:.6g}, step {self.writer.steps}"

    def remarks(self) -> str:
        return " ".join(filter(None, (watch.told() for _, watch in self._watched)))

    def sums(self) -> dict[str, Any]:
        return _plain(self._stats)

    # -- what a run adds ----------------------------------------------------------------------------------------------

    def begin(self, problem: Any, state: State | None, kept: dict[str, Array]) -> None:
        """Begin with an `integrate.Problem`, or go on at a state of it with the arrays that were kept."""
        for prefix, along in self._carried:
            own = {name.removeprefix(prefix): array for name, array in kept.items() if name.startswith(prefix)}
            along.begin(problem, state, own)

    def _follow(self) -> None:
        """Follow the last step, if the run has made one."""
        for _, along in self._carried:
            if self.run is not None:
                along.follow(self.run)

    def frame(self, t: float, x: Array) -> None:
        """Store the tokens and the observables of one time. Collective. Raises OutputError."""
        self._follow()
        numbers, details = self._computed(t, x)
        self._t = max(self._t, t)
        if self.writer.path is None:
            told = f"directory made; {len(self._ids())} of {self._problem.n} tokens are stored per frame"
            self.writer.make(told, lambda: self._add(t, x, numbers, details))
        else:
            self._add(t, x, numbers, details)
            self.writer.write_status(directory.RUNNING, "")

    def step(self, t: float, stats: dict[str, Any]) -> None:
        """Note an accepted step; status.json is replaced every two seconds."""
        self._follow()
        self._t, self.writer.steps = t, int(stats.get("steps", self.writer.steps + 1))
        self._stats = stats | {"wall_time": self._earlier + stats.get("wall_time", 0.0)}
        self.writer.write_status(directory.RUNNING, "", every=_STATUS_EVERY)

    def ended(self, status: str, t: float) -> None:
        """Note how and when the run ended: the time of an event may lie before the end of its step."""
        self.writer.ended(status)
        self._t = t

    def _computed(self, t: float, x: Array) -> tuple[dict[str, float], dict[str, list[Line]]]:
        """Return the numbers of one frame by the names of their columns, and the rows of further tables."""
        tokens, numbers, details = self._communicator.tokens(x), {"t": t}, {}
        for one in self._observables:
            found, rows = one.of_one(t, tokens)
            numbers |= zip(one.columns, found, strict=True)
            if one.details:
                details[one.name] = rows
            if one.watch is not None and (news := one.watch.news()):
                self.writer.log(news)
        return numbers, details

    def _add(self, t: float, x: Array, numbers: dict[str, float], details: dict[str, list[Line]]) -> None:
        self._trajectory.store(t, self._stored(x))
        self._tables[_TABLE].append_named(numbers)
        for name, rows in details.items():
            self._tables[name].append(*rows)
        self._frames += 1

    def _stored(self, x: Array) -> Array | Spread:
        """Return the tokens that are stored, from the tokens x (m, d) of this rank."""
        ids, rows = self._ids(), self._communicator.rows(self._problem.n)
        first, last = np.searchsorted(ids, [rows.start, rows.stop])
        return self._communicator.spread(x if len(ids) == self._problem.n else x[ids[first:last] - rows.start])

    def _ids(self) -> Array:
        """Return the indices of the tokens that are stored."""
        return initial.subset(self._problem.n, self._problem.config.output.max_tokens, seed=self._problem.config.seed)


def _plain(stats: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the statistics that JSON can hold: finite numbers, words, and tables of them."""
    kept: dict[str, Any] = {}
    for name, entry in stats.items():
        if isinstance(entry, dict):
            kept[name] = _plain(entry)
        elif isinstance(entry, bool | str | int):
            kept[name] = entry
        elif isinstance(entry, float | np.number) and math.isfinite(entry):
            kept[name] = float(entry)
    return kept
