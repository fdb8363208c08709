"""The record of a run of an ensemble: block by block the states, ends and moments of its systems, status and log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.run import directory, observables
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.lock import RunLock
from fastpde.run.ranks import Team
from fastpde.run.record import Record, Silent
from fastpde.run.rows import Rows
from fastpde.run.trajectory_ensemble import Block, EnsembleWriter

Array = np.ndarray[Any, Any]
Energy = Callable[[float, Array], Any]
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
    events: Array

    def gathered(self, team: Team) -> Results | None:
        """Return the systems of all ranks, in their order, on rank 0; None on the others. Collective."""
        spread = [team.spread(getattr(self, field.name)) for field in fields(self)]
        whole = [array.whole() if isinstance(array, Rows) else array for array in spread]
        return Results(*whole) if team.leads else None  # type: ignore[arg-type]


class SystemsRecorder(Record):
    """The record of an ensemble, written block by block; the directory is made when the first block is done."""

    def __init__(self, problem: Problem, target: Path, energy: Energy | None, team: Team) -> None:
        super().__init__(problem, target)
        self.energy, self.times, self.team = energy, problem.times(), team
        self._ids = initial.subset(problem.n, problem.config.output.max_tokens, seed=problem.config.seed)
        self.counts: Counter[Any] = Counter()  # of the statuses of the systems that are done
        self._columns = observables.columns(problem.d)
        self._sums = np.zeros((len(self.times), len(self._columns)))
        self._running = np.zeros(len(self.times), dtype=np.int64)
        self._path = ""

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Go on with an unfinished run after the systems of its checkpoint. Raises InputError, OutputError."""
        self._go_on(path, lock, found)
        self._reached(found)
        marks = found.facts["marks"]
        self._file = EnsembleWriter.going_on(
            path / directory.ENSEMBLE, systems=self.problem.systems, kept=marks["ensemble"]
        )
        self._writers.append(self._file)
        self._table = observables.TableWriter(path / directory.SYSTEMS, [], marks["table"])
        self._writers.append(self._table)
        self.log(f"goes on from checkpoint {found.number} after {self.done} systems")
        self.write_status(directory.RUNNING, "")

    def _reached(self, found: Checkpoint) -> None:
        """Restore the state of a checkpoint."""
        import fastpde as fp

        facts = found.facts
        self.counts = Counter({status: facts["counts"].get(status.value, 0) for status in fp.Status})
        self.counts += Counter()  # drops what never came
        self._sums, self._running = found.arrays["sums"], found.arrays["running"]
        self.steps, self._path = facts["steps"], facts["path"]

    def marks(self) -> dict[str, Any]:
        """Return the marks of the ensemble file and of the table."""
        return {"ensemble": self._file.mark(), "table": self._table.mark()}

    def save_state(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Write a checkpoint of the systems that are done; `end`: how the run ended."""
        counts = {status.value: count for status, count in self.counts.items()}
        facts = {"counts": counts, "steps": self.steps, "path": self._path, "end": end}
        self.save(facts, {"sums": self._sums, "running": self._running}, folder)

    @property
    def done(self) -> int:
        """The number of systems that are stored and flushed."""
        return self.counts.total()

    def span(self) -> tuple[float, float, float]:
        """Return 0, the number of systems that are done, and the number of all systems."""
        return 0, self.done, self.problem.systems

    def reached(self) -> dict[str, Any]:
        """Return the numbers of systems, of systems by status, of steps and of frames."""
        counts = {status.value: count for status, count in self.counts.most_common()}
        sizes = {"systems": self.problem.systems, "systems_done": self.done, "counts": counts}
        return sizes | {"t_end": self.problem.config.time.t_end, "step": self.steps, "frames": len(self.times)}

    def kept(self) -> str:
        """Return a sentence that says how many systems are stored and flushed."""
        if self.path is None:
            return "Nothing was written."
        return f"{self.done} of {self.problem.systems} systems are kept in {self.path}."

    def backend(self) -> dict[str, Any]:
        """Return the backend and the way in which it runs the systems."""
        return {**super().backend(), "path": self._path}

    def results(self, solution: Any) -> Results:
        """Return the results of a `fastpde.EnsembleSolution` that are recorded."""
        import fastpde as fp

        ends, ids = list(fp.Status), slice(None) if len(self._ids) == self.problem.n else self._ids
        rows, last = self._moments(solution)
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
            events=np.array(solution.t_events).reshape(-1, len(solution.t_final)).T,
        )

    def nothing(self) -> Results:
        """Return the results of no systems."""
        m, k, c, d = len(self.times), len(self._ids), len(self._columns), self.problem.d
        kind, e = self.problem.config.backend.dtype, len(self.problem.config.events.given)
        shapes = [((m, k, d), kind), ((k, d), kind), ((m, c), float), ((c,), float), ((), int), ((), float)]
        return Results(*(np.empty((0, *s), t) for s, t in [*shapes, ((), int), ((), int), ((e,), float)]))

    def block(self, mine: Results) -> None:
        """Store the systems that the ranks have solved, in their order. Collective. Raises OutputError."""
        found = mine.gathered(self.team)
        if found is not None:
            self._store(found)

    def _store(self, found: Results) -> None:
        if self.path is None:
            self._make(lambda folder: self._fill(folder, found))
            self.log(f"directory made; {len(self._ids)} of {self.problem.n} tokens are stored per system")
        else:
            self._append(self.path, found)
            self.write_status(directory.RUNNING, "")
        if self.due():
            self.save_state()

    def _moments(self, solution: Any) -> tuple[Array, Array]:
        """Return the observables at all times (m, B, c), nan after an end, and of the last states (B, c)."""
        running = np.isfinite(solution.x).all(axis=(2, 3))
        rows = np.full((*running.shape, len(self._columns)), np.nan)
        for j, t in enumerate(self.times):
            x = solution.x[j, running[j]]
            if len(x):
                rows[j, running[j]] = observables.rows(t, x, self._energies(t, x))
        ends = zip(solution.t_final, solution.x_final, strict=True)
        energies = None if self.energy is None else np.array([self._energies(t, x[None])[0] for t, x in ends])
        return rows, observables.rows(solution.t_final, solution.x_final, energies)

    def _energies(self, t: float, x: Array) -> Any:
        return None if self.energy is None else np.asarray(self.energy(float(t), x))

    def _fill(self, folder: Path, found: Results) -> None:
        problem, config = self.problem, self.problem.config
        self._file = EnsembleWriter(
            folder / directory.ENSEMBLE,
            self._ids,
            self.times,
            systems=problem.systems,
            like=found.x_final[:1],
            events=config.events.given,
            columns=self._columns,
            version=self._versions["fastpde"],
        )
        self._writers.append(self._file)
        self._table = observables.TableWriter(folder / directory.SYSTEMS, [*COLUMNS, *self._columns[1:]])
        self._writers.append(self._table)
        self._append(folder, found)
        self.save_state(folder=folder)

    def _append(self, folder: Path, found: Results) -> None:
        import fastpde as fp

        statuses, rows = [list(fp.Status)[end] for end in found.status], found.rows.swapaxes(0, 1)
        words = [status.value for status in statuses]
        events = dict(zip(self.problem.config.events.given, found.events.T, strict=True))
        x = found.x.swapaxes(0, 1)
        self._file.append(Block(x, found.x_final, found.t_final, words, found.steps, found.rejected, events, rows))
        ends = zip(words, found.steps.tolist(), found.last.tolist(), strict=True)
        self._table.append(*([self.done + b, word, t, s, *rest] for b, (word, s, (t, *rest)) in enumerate(ends)))
        self.counts.update(statuses)
        self.steps += int(found.steps.sum())
        self._add(folder, rows)

    def _add(self, folder: Path, rows: Array) -> None:
        """Add the rows (m, B, c) of B systems to the means of observables.csv, and replace the file in one step."""
        running = np.isfinite(rows[:, :, 0])
        with np.errstate(over="ignore", invalid="ignore"):  # of huge tokens
            # One system after the other: no bit depends on how they are divided into blocks, which the clock decides.
            these = np.concatenate([self._sums[:, None], np.where(running[:, :, None], rows, 0.0)], axis=1)
            self._sums = np.add.accumulate(these, axis=1)[:, -1].copy()
            self._running += running.sum(axis=1)
            means = self._sums / np.where(self._running, self._running, np.nan)[:, None]
        means[:, 0] = self.times
        lines = [[*line, count] for line, count in zip(means.tolist(), self._running.tolist(), strict=True)]
        observables.write_table(folder / directory.OBSERVABLES, [*self._columns, "running"], lines)


class SystemsFollower(Silent, SystemsRecorder):
    """The record of an ensemble on a rank other than 0: it sends its results to rank 0 and writes nothing."""

    def go_on(self, path: Path, lock: RunLock | None, found: Checkpoint) -> None:
        """Restore the state of the checkpoint that rank 0 goes on from."""
        self._reached(found)
        self.path = path
