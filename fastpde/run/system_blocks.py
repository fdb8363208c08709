"""The contents of a run of an ensemble, solved in blocks that take a few seconds each, so that it can be watched and
stopped.

Results do not depend on the blocks: their sizes follow the clock, and the bits stay the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem, memory_estimate
from fastpde.observable import Observable
from fastpde.parallel.spread import Spread
from fastpde.run import directory, machine, tables
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.contents import Contents
from fastpde.run.observables import columns
from fastpde.run.ranks import RunCommunicator
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.trajectory_ensemble import Block, EnsembleData, EnsembleWriter
from fastpde.run.writer import NullWriter, Writer

Array = np.ndarray[Any, Any]
_SECONDS = 2.0  # that a block should take
_PAIRS, _FIRST = 2**20, 1024  # pairs of tokens and systems of the first block, whose time includes the compilation
_GROWTH = 8
_SMALL = 512  # tokens up to which a system has one core, and a block at least some systems per core
COLUMNS = ("system", "status", "t_final", "steps")  # of systems.csv, before the observables of the last state


@dataclass(frozen=True)
class Results:
    """The results of B systems that are recorded: the first axis is that of the systems, the second that of frames; of
    the tokens only the stored ones.

    Attributes:
        x, x_final: (B, m, k, d) and (B, k, d), the states at the times of the output and the last ones.
        rows, last: (B, m, c) and (B, c), the observables at these times, nan after an end, and of the last states.
        status: (B,) the indices of their ends in `fastpde.Status`.
        t_final, steps, rejected: (B,) the times of the ends, and the numbers of accepted and rejected steps.
        sizes: (B,) the largest coordinates of the last states, of all tokens.
        events: (B, e) the times of events, nan where there was none.
    """

    x: Array
    x_final: Array
    rows: Array
    last: Array
    status: Array
    t_final: Array
    steps: Array
    rejected: Array
    sizes: Array
    events: Array

    def gathered(self, communicator: RunCommunicator) -> Results | None:
        """Return the systems of all ranks, in their order, on rank 0; None on the others. Collective."""
        spread = [communicator.spread(getattr(self, field.name)) for field in fields(self)]
        whole = [array.whole() if isinstance(array, Spread) else array for array in spread]
        return Results(*whole) if communicator.leads else None  # type: ignore[arg-type]


class Systems(Contents):
    """The systems of an ensemble, stored block by block; the directory is made when the first block is done.

    Attributes:
        writer: of the directory.
        times: (m,) of the output.
        counts: how many of the systems that are done have ended in which way.
    """

    writer: Writer | NullWriter

    def __init__(self, problem: Problem, observables: tuple[Observable, ...], communicator: RunCommunicator) -> None:
        self.problem, self.communicator, self.times = problem, communicator, problem.times()
        self._observables, self._columns = observables, columns(observables)
        self._ids = initial.subset(problem.n, problem.config.output.max_tokens, seed=problem.config.seed)
        self.counts: Counter[Any] = Counter()
        self._sums = np.zeros((len(self.times), len(self._columns)))
        self._running = np.zeros(len(self.times), dtype=np.int64)
        self._path, self._size = "", 0.0  # the largest coordinate of all last states

    # -- what a directory holds ---------------------------------------------------------------------------------------

    def open(self, folder: Path, kept: Checkpoint | None) -> None:
        problem, marks = self.problem, {} if kept is None else kept.facts["marks"]
        path = folder / directory.ENSEMBLE

        def stored() -> EnsembleWriter:
            if kept is not None:
                return EnsembleWriter.going_on(
                    path, self._ids, self.times, systems=problem.systems, kept=marks["ensemble"]
                )
            return EnsembleWriter(
                path,
                self._ids,
                self.times,
                systems=problem.systems,
                like=np.empty((1, 1, problem.d), problem.config.backend.dtype),
                events=problem.config.events.given,
                columns=self._columns,
                version=self.writer.versions["fastpde"],
            )

        self._file: Any = self.writer.file("ensemble", stored)
        table, names = folder / directory.SYSTEMS, [*COLUMNS, *self._columns[1:]]
        self._table: Any = self.writer.file("table", lambda: tables.TableWriter(table, names, marks.get("table")))
        if problem.config.tokens.positions is not None:
            kept_table, ids = marks.get("positions"), self._ids
            self.writer.file("positions", lambda: tables.positions_table(folder, problem, ids, kept_table))
        if kept is not None:  # columns of an earlier version stay, in their order
            self._columns = ["t", *tables.names_of(table)[len(COLUMNS) :]]

    def restore(self, kept: Checkpoint) -> None:
        import fastpde as fp

        facts = kept.facts
        self.counts = Counter({status: facts["counts"].get(status.value, 0) for status in fp.Status})
        self.counts += Counter()  # drops what never came
        self._sums, self._running = kept.arrays["sums"], kept.arrays["running"]
        self.writer.steps, self._path, self._size = facts["steps"], facts["path"], facts.get("size", 0.0)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        counts = {status.value: count for status, count in self.counts.items()}
        facts = {"counts": counts, "steps": self.writer.steps, "path": self._path, "size": self._size}
        return facts, {"sums": self._sums, "running": self._running}

    @property
    def done(self) -> int:
        """The number of systems that are stored and flushed."""
        return self.counts.total()

    def span(self) -> tuple[float, float, float]:
        return 0, self.done, self.problem.systems

    def reached(self) -> dict[str, Any]:
        counts = {status.value: count for status, count in self.counts.most_common()}
        sizes = {"systems": self.problem.systems, "systems_done": self.done, "counts": counts}
        return sizes | {
            "t_end": self.problem.config.time.t_end, "step": self.writer.steps, "frames": len(self.times),
        }  # fmt: skip

    def kept(self) -> str:
        return f"{self.done} of {self.problem.systems} systems"

    def progress(self, facts: dict[str, Any]) -> int:
        """Return the number of systems that are done."""
        return sum(facts["counts"].values())

    def where(self) -> str:
        return f"after {self.done} systems"

    def remarks(self) -> str:
        end = np.array([[self._size]], self.problem.config.backend.dtype)
        return "".join(event.remark(end) for event in self.problem.events()).strip()

    def sums(self) -> dict[str, Any]:
        return {"path": self._path}

    # -- what a run adds ----------------------------------------------------------------------------------------------

    def results(self, solution: Any) -> Results:
        """Return the results of a `fastpde.EnsembleSolution` that are recorded."""
        import fastpde as fp

        ends, ids = list(fp.Status), slice(None) if len(self._ids) == self.problem.n else self._ids
        rows, last = self._computed(solution)
        self._path = solution.stats["path"]
        return Results(
            x=solution.x[:, :, ids].swapaxes(0, 1),
            x_final=solution.x_final[:, ids],
            rows=rows.swapaxes(0, 1),
            last=last,
            status=np.array([ends.index(status) for status in solution.status]),
            t_final=solution.t_final,
            steps=solution.stats["steps_each"],
            rejected=solution.stats["rejected_each"],
            sizes=np.abs(solution.x_final).max(axis=(1, 2)),
            events=np.array(solution.t_events).reshape(-1, len(solution.t_final)).T,
        )

    def nothing(self) -> Results:
        """Return the results of no systems."""
        m, k, c, d = len(self.times), len(self._ids), len(self._columns), self.problem.d
        kind, e = self.problem.config.backend.dtype, len(self.problem.config.events.given)
        shapes = [((m, k, d), kind), ((k, d), kind), ((m, c), float), ((c,), float), ((), int), ((), float)]
        return Results(*(np.empty((0, *s), t) for s, t in [*shapes, ((), int), ((), int), ((), kind), ((e,), float)]))

    def block(self, mine: Results) -> None:
        """Store the systems that the ranks have solved, in their order. Collective. Raises OutputError."""
        found = mine.gathered(self.communicator)
        if found is not None:
            self._store(found)

    def _store(self, found: Results) -> None:
        writer = self.writer
        if writer.path is None:
            told = f"directory made; {len(self._ids)} of {self.problem.n} tokens are stored per system"
            writer.make(told, lambda: self._append(found))
        else:
            self._append(found)
            writer.write_status(directory.RUNNING, "")
        if writer.due():
            writer.save()

    def _computed(self, solution: Any) -> tuple[Array, Array]:
        """Return the observables at all times (m, B, c), nan after an end, and of the last states (B, c)."""
        running = np.isfinite(solution.x).all(axis=(2, 3))
        rows = np.full((*running.shape, len(self._columns)), np.nan)
        for j, t in enumerate(self.times):
            x = solution.x[j, running[j]]
            rows[j, running[j]] = self._rows(np.full(len(x), t), x)
        return rows, self._rows(solution.t_final, solution.x_final)

    def _rows(self, t: Array, x: Array) -> Array:
        """Return the rows (B, c) of a table of observables, for systems x (B, n, d) at times t (B,)."""
        found = {"t": t} if len(t) else {}
        for one in self._observables if len(t) else ():
            found |= zip(one.columns, one.of_many(t, x).T, strict=True)
        return np.array([found.get(name, np.full(len(t), np.nan)) for name in self._columns]).T

    def _append(self, found: Results) -> None:
        import fastpde as fp

        statuses, rows = [list(fp.Status)[end] for end in found.status], found.rows.swapaxes(0, 1)
        words = [status.value for status in statuses]
        events = dict(zip(self.problem.config.events.given, found.events.T, strict=True))
        x = found.x.swapaxes(0, 1)
        self._file.append(Block(x, found.x_final, found.t_final, words, found.steps, found.rejected, events, rows))
        ends = zip(words, found.steps.tolist(), found.last.tolist(), strict=True)
        self._table.append(*([self.done + b, word, t, s, *rest] for b, (word, s, (t, *rest)) in enumerate(ends)))
        self.counts.update(statuses)
        self._size = max([self._size, *found.sizes.tolist()])
        self.writer.steps += int(found.steps.sum())
        self._add(rows)

    def _add(self, rows: Array) -> None:
        """Add the rows (m, B, c) of B systems to the means of observables.csv, and replace the file in one step."""
        self._sums, running = _summed(self._sums, rows)
        self._running += running
        self.writer.replace_table(directory.OBSERVABLES, *_means(self.times, self._columns, self._sums, self._running))


def _summed(sums: Array, rows: Array) -> tuple[Array, Array]:
    """Return sums (m, c) to which the rows (m, B, c) of systems are added, and how many run at each time (m,).

    One system is added after the other: no bit depends on how they are divided into blocks, which the clock decides.
    """
    running = np.isfinite(rows[:, :, 0])
    with np.errstate(over="ignore", invalid="ignore"):  # of huge tokens
        these = np.concatenate([sums[:, None], np.where(running[:, :, None], rows, 0.0)], axis=1)
        return np.add.accumulate(these, axis=1)[:, -1].copy(), running.sum(axis=1)


def means_text(data: EnsembleData, count: int) -> str:
    """Return the text of observables.csv after the first `count` systems of an ensemble."""
    columns = list(data.observables)
    rows = np.stack([data.observables[name][:, :count] for name in columns], axis=-1)
    sums, running = _summed(np.zeros((len(rows), len(columns))), rows)
    return tables.table_text(*_means(data.time, columns, sums, running))


def _means(times: Array, columns: list[str], sums: Array, running: Array) -> tuple[list[str], list[list[float]]]:
    """Return names and rows of the table of means over the systems that run: their sums (m, c), their numbers (m,)."""
    with np.errstate(invalid="ignore"):
        means = sums / np.where(running, running, np.nan)[:, None]
    means[:, 0] = times
    lines = [[*line, count] for line, count in zip(means.tolist(), running.tolist(), strict=True)]
    return [*columns, "running"], lines


def solve(
    systems: Systems,
    attention: Any,
    tokens: Any,
    arguments: dict[str, Any],
    report: Callable[[int], None],
    signals: StopSignals,
    communicator: RunCommunicator,
) -> None:
    """Solve the systems that are not done yet from their `tokens` (S, n, d) and record them, block by block.

    The systems of each block are divided among the ranks; its size follows the clock of rank 0. `report` is called with
    the number of systems that are done. A signal ends a block anywhere; its systems must be solved again.
    """
    n, most = systems.problem.n, largest(systems, tokens[0].nbytes)
    least = min(most, 2 * machine.cores() if n <= _SMALL else 1)
    check = signals.check if communicator.size == 1 else signals.check_alone
    first, size = systems.done, min(most, _FIRST, max(least, _PAIRS // (n * n)))
    while first < len(tokens):
        signals.check()
        systems.writer.beat()
        last = communicator.largest(min(first + size, len(tokens)) if communicator.leads else 0)
        began = time.monotonic()
        begin, end = (
            first + (last - first) * k // communicator.size for k in (communicator.rank, communicator.rank + 1)
        )

        def progress(done: int, _: Any, begin: int = begin) -> None:
            report(begin + done)
            check()

        mine, wanted = systems.nothing(), 0
        try:
            mine = _part(systems, attention, tokens[begin:end], arguments, begin, progress)
        except Stopped as stop:
            if stop.at_once:
                raise
            wanted = 1 + stop.number
        signals.agree(wanted)
        with signals.held():
            systems.block(mine)
        seconds = time.monotonic() - began
        systems.writer.log(f"systems {first} to {last - 1} in {seconds:.2f} s")
        size = next_size(last - first, seconds, least, most)
        report(last)
        first = last


def _part(
    systems: Systems, attention: Any, tokens: Any, arguments: dict[str, Any], first: int, progress: Any
) -> Results:
    """Solve the systems with these tokens (B, n, d), whose numbers begin with `first`; return what is recorded."""
    import fastpde as fp

    if not len(tokens):
        return systems.nothing()
    arguments = arguments | {"t_eval": systems.times, "first_system": first, "progress": progress}
    return systems.results(fp.solve(attention, tokens, **arguments))


def largest(systems: Systems, size: int) -> int:
    """Return how many systems of `size` bytes each a block may have, for the memory of their frames."""
    return max(1, memory_estimate.BLOCK // (size * len(systems.times)))


def next_size(size: int, seconds: float, least: int, most: int) -> int:
    """Return the size of the next block, from the seconds that a block of `size` systems took."""
    wanted = size * min(_SECONDS / max(seconds, 1e-9), float(_GROWTH))
    return min(most, max(least, int(wanted)))
