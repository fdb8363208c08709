"""What a run of an ensemble leaves behind: block by block the systems' states, ends and moments, status and log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde.config import Problem
from fastpde.run import directory, observables
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.lock import RunLock
from fastpde.run.record import Record
from fastpde.run.trajectory_ensemble import Block, EnsembleWriter

Array = np.ndarray[Any, Any]
Energy = Callable[[float, Array], Any]
COLUMNS = ("system", "status", "t_final", "steps")  # of systems.csv, before the observables of the last state


class SystemsRecorder(Record):
    """Writes an ensemble block by block; the directory is made when the first block is done."""

    def __init__(self, problem: Problem, target: Path, energy: Energy | None) -> None:
        super().__init__(problem, target)
        self.energy, self.times = energy, problem.times()
        self.counts: Counter[Any] = Counter()  # of the statuses of the systems that are done
        self._columns = observables.columns(problem.d)
        self._sums = np.zeros((len(self.times), len(self._columns)))
        self._running = np.zeros(len(self.times), dtype=np.int64)
        self._path = ""

    def go_on(self, path: Path, lock: RunLock, found: Checkpoint) -> None:
        """Take an unfinished run after the systems of its checkpoint. Raises InputError, OutputError."""
        import fastpde as fp

        self._go_on(path, lock, found)
        facts, marks = found.facts, found.facts["marks"]
        self._file = EnsembleWriter.going_on(
            path / directory.ENSEMBLE, systems=self.problem.systems, kept=marks["ensemble"]
        )
        self._writers.append(self._file)
        self._table = observables.TableWriter(path / directory.SYSTEMS, [], marks["table"])
        self._writers.append(self._table)
        self.counts = Counter({status: facts["counts"].get(status.value, 0) for status in fp.Status})
        self.counts += Counter()  # drops what never came
        self._sums, self._running = found.arrays["sums"], found.arrays["running"]
        self.steps, self._path, self._ids = facts["steps"], facts["path"], self._stored()
        self.log(f"goes on from checkpoint {found.number} after {self.done} systems")
        self.write_status(directory.RUNNING, "")

    def marks(self) -> dict[str, Any]:
        """Return where the files of the systems are."""
        return {"ensemble": self._file.mark(), "table": self._table.mark()}

    def save_state(self, end: dict[str, Any] | None = None, folder: Path | None = None) -> None:
        """Write a checkpoint of the systems that are done; `end`: how the run ended."""
        counts = {status.value: count for status, count in self.counts.items()}
        facts = {"counts": counts, "steps": self.steps, "path": self._path, "end": end}
        self.save(facts, {"sums": self._sums, "running": self._running}, folder)

    def _stored(self) -> Array:
        """The tokens that are stored."""
        config = self.problem.config
        return initial.subset(self.problem.n, config.output.max_tokens, seed=config.seed)

    @property
    def done(self) -> int:
        """How many systems are stored and flushed."""
        return self.counts.total()

    def span(self) -> tuple[float, float, float]:
        """Return 0, the number of systems that are done, and that of all."""
        return 0, self.done, self.problem.systems

    def reached(self) -> dict[str, Any]:
        """Return the numbers of systems, of each end, of steps and frames."""
        counts = {status.value: count for status, count in self.counts.most_common()}
        sizes = {"systems": self.problem.systems, "systems_done": self.done, "counts": counts}
        return sizes | {"t_end": self.problem.config.time.t_end, "step": self.steps, "frames": len(self.times)}

    def kept(self) -> str:
        """Return how many systems are stored and flushed."""
        if self.path is None:
            return "Nothing was written."
        return f"{self.done} of {self.problem.systems} systems are kept in {self.path}."

    def backend(self) -> dict[str, Any]:
        """Return the backend and how it runs the systems."""
        return {**super().backend(), "path": self._path}

    def block(self, solution: Any) -> None:
        """Store the systems of one `fastpde.EnsembleSolution`. Raises OutputError."""
        rows, last = self._moments(solution)
        if self.path is None:
            self._make(lambda folder: self._fill(folder, solution, rows, last))
            self.log(f"directory made; {len(self._ids)} of {self.problem.n} tokens are stored per system")
        else:
            self._append(self.path, solution, rows, last)
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

    def _fill(self, folder: Path, solution: Any, rows: Array, last: Array) -> None:
        problem, config = self.problem, self.problem.config
        self._ids = self._stored()
        self._file = EnsembleWriter(
            folder / directory.ENSEMBLE,
            self._ids,
            self.times,
            systems=problem.systems,
            like=solution.x_final[:1],
            events=config.events.given,
            columns=self._columns,
            version=self._versions["fastpde"],
        )
        self._writers.append(self._file)
        self._table = observables.TableWriter(folder / directory.SYSTEMS, [*COLUMNS, *self._columns[1:]])
        self._writers.append(self._table)
        self._append(folder, solution, rows, last)
        self.save_state(folder=folder)

    def _append(self, folder: Path, solution: Any, rows: Array, last: Array) -> None:
        steps, rejected = solution.stats["steps_each"], solution.stats["rejected_each"]
        words = [status.value for status in solution.status]
        ids = slice(None) if len(self._ids) == self.problem.n else self._ids
        states = (solution.x[:, :, ids], solution.x_final[:, ids])
        events = dict(zip(self.problem.config.events.given, solution.t_events, strict=True))
        self._file.append(Block(*states, solution.t_final, words, steps, rejected, events, rows))
        ends = zip(words, steps.tolist(), last.tolist(), strict=True)
        self._table.append(*([self.done + b, word, t, s, *rest] for b, (word, s, (t, *rest)) in enumerate(ends)))
        self.counts.update(solution.status)
        self.steps, self._path = self.steps + int(steps.sum()), solution.stats["path"]
        self._add(folder, rows)

    def _add(self, folder: Path, rows: Array) -> None:
        """Take systems into the means of observables.csv, and replace it in one step."""
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
