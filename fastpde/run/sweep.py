"""A sweep: its cells, each an ordinary run, are run by several processes, one after another in each; the same command
goes on with what is left.

A cell that fails does not stop the others. If a process is killed, its cell is run again from its checkpoint, once. A
signal, the walltime and a full disk stop all processes, with their checkpoints.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastpde.config import memory_estimate
from fastpde.errors import InputError
from fastpde.run import attempt, machine, progress
from fastpde.run.directory import OutputError
from fastpde.run.lock import RunLock
from fastpde.run.signals import Stopped, StopSignals, tell
from fastpde.run.sweep_folder import Folder
from fastpde.run.sweep_pool import Answer, Pool, Worker
from fastpde.run.sweep_table import FAILED, FINISHED, Table
from fastpde.run.sweep_worker import BUSY

DONE, FAILURES, UNWRITABLE, STOPPED = 0, 3, 5, 75
SMALL = 2000  # tokens up to which a cell has one thread, unless --threads is given
_TICK = 0.25  # seconds between checks for signals
_TABLE_EVERY = 30.0  # seconds
_LEAVING = 1.0  # seconds that are kept of a walltime to end processes and write the table
_KILLING = 0.6  # seconds before the end of a walltime from which on no process is waited for
_AT_ONCE = 5.0  # seconds that the processes have after a second signal
_TRIES = 2
_AGAIN, _WAIT = 1.0, 20.0  # seconds between attempts at a cell which another process runs, and of all attempts together
_SHOWN = 10  # failed cells that are named


@dataclass(frozen=True)
class Outcome:
    """The outcome of a sweep: exit code, and the lines to print."""

    code: int
    lines: list[str]


@dataclass(frozen=True)
class Share:
    """The number of processes, and of the threads of each."""

    processes: int
    threads: int


def share(folder: Folder, cells: int, processes: int | None, threads: int | None) -> Share:
    """Divide the cores among the processes of `cells` runs of a sweep, see `divided`."""
    return divided(int(folder.facts["tokens"]), int(folder.facts["memory"]), cells, processes, threads)


def divided(tokens: int, memory: int, cells: int, processes: int | None, threads: int | None) -> Share:
    """Divide the cores among the processes of `cells` runs; numbers that are asked for are kept.

    tokens, memory: of the largest run, in bytes.

    Raises InputError if the processes that are asked for would need more than 80 % of the memory.
    """
    cores = machine.cores()
    if threads is None and tokens <= SMALL:
        threads = 1
    limit, each = memory_estimate.SHARE * machine.memory(), memory
    fitting = max(1, int(limit // each))
    if processes is None:
        processes = max(1, min(cores // (threads or 1), cells, fitting))
    elif min(processes, cells) > fitting:
        came = f"{processes} processes of up to {each / 2**30:.3g} GiB"
        need = f"at most {fitting}: less than 80 % of this machine's memory"
        raise InputError("--local", came, need)
    return Share(processes, threads or max(1, cores // processes))


def run(
    folder: Folder,
    cells: Iterable[int],
    asked: tuple[int | None, int | None],
    *,
    held: RunLock | None = None,
    quiet: bool = False,
    deadline: float | None = None,
) -> Outcome:
    """Run the unfinished ones of some cells of a sweep with `asked` = (processes, threads), None for a default.

    `held`: the lock of the sweep; None if this process runs a part of the cells beside others, and writes no table of
    all cells. Raises InputError as `share` does, and if no process starts.
    """
    table = Table(folder, cells)
    unfinished = [i for i, cell in table.cells.items() if cell.state not in (FINISHED, FAILED)]
    shares = share(folder, len(unfinished), *asked)
    if held is not None:
        folder.clean()
    with StopSignals(tell, "the sums at work", None if deadline is None else deadline - _LEAVING) as signals:
        shown = progress.choose(0.0, len(unfinished), sys.stderr, quiet=quiet or not unfinished, name=progress.CELLS)
        sweep = _Sweep(table, unfinished, shares, deadline, shown, held)
        try:
            sweep.run(signals)
        finally:
            shown.close()
        return sweep.outcome()


class _Sweep:
    """The state of a sweep while it runs."""

    def __init__(
        self,
        table: Table,
        unfinished: list[int],
        shares: Share,
        deadline: float | None,
        shown: progress.Progress,
        held: RunLock | None,
    ) -> None:
        self._table, self._shares, self._shown, self._held = table, shares, shown, held
        self._unfinished = deque(unfinished)
        self._pool = Pool(table.folder, shares.threads, None if deadline is None else deadline - _LEAVING)
        self._until = math.inf if deadline is None else deadline - _KILLING
        self._done = 0
        self._tries: Counter[int] = Counter()
        # Cells where another process is at work: since when, and when to try them again.
        self._since: dict[int, float] = {}
        self._again: dict[int, float] = {}
        self._wrong: dict[int, str] = {}
        self._why, self._unwritable = "", ""
        self._ending = False
        self._unborn = 0  # processes in a row that ended before they could take an order
        self._written = time.monotonic()

    def run(self, signals: StopSignals) -> None:
        """Run all cells, or stop on a signal, at the walltime or if nothing can be written."""
        try:
            try:
                while not self._why and (self._unfinished or self._again or self._at_work()):
                    signals.check()
                    self._hand_out()
                    self._listen()
            except Stopped as stop:
                self._why = str(stop)
                if stop.at_once:
                    self._pool.stop()
            self._ending = True
            self._pool.stop()
            self._drain(self._until)
        except Stopped:  # the second signal
            self._pool.stop()
            self._drain(min(self._until, time.monotonic() + _AT_ONCE))
        finally:
            self._pool.close()

    def _at_work(self) -> int:
        return sum(worker.cell is not None for worker in self._pool.workers)

    def _hand_out(self) -> None:
        """Give cells to idle processes, and start processes while there are cells for them."""
        for cell in [cell for cell, when in self._again.items() if time.monotonic() >= when]:
            del self._again[cell]
            self._unfinished.append(cell)
        while len(self._pool.workers) < min(self._shares.processes, self._at_work() + len(self._unfinished)):
            self._pool.start()
        for worker in self._pool.workers:
            if worker.ready and worker.cell is None and self._unfinished:
                worker.order(self._unfinished.popleft())

    def _drain(self, until: float) -> None:
        """Wait until the time `until` for all processes to end, each after the checkpoint of its cell."""
        while self._pool.workers and time.monotonic() < until:
            self._listen()
            for worker in self._pool.workers:
                worker.dismiss()

    def _listen(self) -> None:
        for answer in self._pool.answers(_TICK):
            if answer.said is None:
                self._ended(answer)
            elif "ready" in answer.said:
                answer.worker.ready, self._unborn = True, 0
            else:
                self._answered(answer.worker, answer.said)
        if self._held is None:
            return
        self._held.beat()
        if time.monotonic() - self._written > _TABLE_EVERY:
            self._written = time.monotonic()
            try:
                self._table.write()
            except OutputError as error:
                self._why = self._unwritable = str(error)

    def _answered(self, worker: Worker, said: dict[str, Any]) -> None:
        cell, code, message = int(said["cell"]), int(said["code"]), str(said["message"])
        worker.cell = None
        self._table.update(cell)
        if code == BUSY:
            now = time.monotonic()
            if now - self._since.setdefault(cell, now) < _WAIT:
                self._again[cell] = now + _AGAIN
        elif code == STOPPED:
            self._why = self._why or message.split(".")[0]
        elif code == UNWRITABLE:
            self._why = self._unwritable = message
        else:
            self._count_done(cell, message if code else "")

    def _count_done(self, cell: int, wrong: str) -> None:
        self._done += 1
        if wrong:
            self._wrong[cell] = wrong
        self._shown.update(self._done, 0)

    def _ended(self, answer: Answer) -> None:
        """Handle the end of a process: unless it was told to stop, run its cell again, or count that as failed.

        Raises InputError if processes end before their first cell.
        """
        cell, how = answer.worker.cell, _how(answer.code)
        if not answer.worker.ready and not self._ending:
            self._unborn += 1
            if self._unborn >= _TRIES:
                raise InputError("sweep", f"a process that {how} before its first cell", "processes that start")
        if cell is None:
            return
        self._table.folder.clean(cell)
        self._table.update(cell)
        if self._why:
            return
        self._tries[cell] += 1
        if self._tries[cell] < _TRIES:
            self._unfinished.append(cell)
        else:
            self._count_done(cell, f"its process {how}, {_TRIES} times")

    def outcome(self) -> Outcome:
        """Write the table and return the outcome of the sweep."""
        lines = self._failures()
        summary = self._table.summary()
        try:
            lines.append(f"{summary}: {self._table.write()}" if self._held is not None else summary)
        except OutputError as error:
            self._unwritable = self._unwritable or str(error)
        if self._unwritable:
            return Outcome(UNWRITABLE, [*lines, self._unwritable])
        if not self._why and self._table.counts().total() > self._table.counts()[FINISHED] + len(self._wrong):
            self._why = "other processes are at work on the rest"
            attempt.note_progress()  # theirs: more time for this one would be of no use
        if self._why:
            return Outcome(STOPPED, [*lines, f"{self._why}. The same command goes on."])
        return Outcome(FAILURES if self._wrong else DONE, lines)

    def _failures(self) -> list[str]:
        """Return lines that name the cells which failed, now or before, and why."""
        for cell, found in self._table.cells.items():
            if found.state == FAILED:
                self._wrong.setdefault(cell, found.far())
        words = self._table.folder.sweep.words
        lines = [f"{words(cell)}: {self._wrong[cell]}" for cell in sorted(self._wrong)[:_SHOWN]]
        more = len(self._wrong) - _SHOWN
        return [*lines, f"and {more} others that failed"] if more > 0 else lines


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
