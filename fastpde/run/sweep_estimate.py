"""The cost estimate of a sweep: that of some of its cells, and of all of them in proportion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastpde import sums
from fastpde.config import Sweep, memory_estimate
from fastpde.run import estimate, machine, progress
from fastpde.run.sweep import Share, divided
from fastpde.run.sweep_folder import planned

_MOST = 6  # cells that are estimated


@dataclass(frozen=True)
class SweepEstimate:
    """The cost estimate of a sweep on this machine.

    Attributes:
        seconds: of the whole sweep, and work: of all cells one after the other.
        share: the processes and threads that it has.
        memory, limit, disk: the bytes of memory of a process and of the machine, and of all directories.
        cells, looked: the number of cells, and of those that were estimated.
    """

    seconds: float
    work: float
    share: Share
    memory: int
    limit: int
    disk: float
    cells: int
    looked: int

    def lines(self) -> list[str]:
        """Return the lines of a short table for people."""
        many = f"{self.share.processes} process{'es' * (self.share.processes > 1)} of {self.share.threads} thread"
        each = estimate.duration(self.work / self.cells)
        memory = self.share.processes * self.memory
        return [
            f"cells       {self.cells}",
            f"time        {estimate.duration(self.seconds)} on {many}{'s' * (self.share.threads > 1)}; a cell {each}",
            f"memory      {estimate.size(memory)} of {estimate.size(self.limit)}; "
            f"a sweep may need {memory_estimate.SHARE:.0%}",
            f"disk        {estimate.size(self.disk)}",
            f"based on    {progress.counted(self.looked, 'cell')}, estimated as runs",
        ]


def estimated(sweep: Sweep, threads: int | None = None) -> SweepEstimate:
    """Return the cost estimate of a sweep, all of whose cells are checked; some that lie evenly are estimated.

    Raises InputError for a cell that cannot be run.
    """
    plan, count = planned(sweep), len(sweep)
    share = divided(plan.tokens, plan.memory, count, None, threads)
    before = sums.threads()
    sums.set_threads(share.threads)
    try:
        chosen = np.unique(np.linspace(0, count - 1, min(count, _MOST)).round().astype(int))
        found, problems = [], [sweep.problem(int(i)) for i in chosen]
        for problem in problems:
            found.append(estimate.estimate(problem))
    finally:
        sums.set_threads(before)
    # A process that is there starts no more, and draws nothing.
    each = [max(one.configured - estimate.overhead(own), 0.0) for one, own in zip(found, problems, strict=True)]
    work, disk = (count * float(np.mean(values)) for values in (each, [one.disk - estimate.PICTURES for one in found]))
    waves = -(-count // share.processes)
    seconds = estimate.START + max(work / share.processes, waves * min(each))
    return SweepEstimate(seconds, work, share, plan.memory, machine.memory(), disk, count, len(chosen))
