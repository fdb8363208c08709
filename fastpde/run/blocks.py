"""The systems of an ensemble in blocks that take a few seconds each, so that a run can be watched and stopped.

Results do not depend on the blocks: their sizes follow the clock, and the bits stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastpde.run import machine
from fastpde.run.ranks import Team
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.systems import Results, SystemsRecorder

_SECONDS = 2.0  # that a block should take
_PAIRS, _FIRST = 2**20, 1024  # pairs of tokens and systems of the first block, whose time includes the compilation
_GROWTH = 8
_BYTES = 2**28  # of the frames of a block
_SMALL = 512  # tokens up to which a system has one core, and a block at least some systems per core


def run(
    recorder: SystemsRecorder,
    attention: Any,
    tokens: Any,
    arguments: dict[str, Any],
    report: Callable[[int], None],
    signals: StopSignals,
    team: Team,
) -> None:
    """Solve the systems that are not done yet from their `tokens` (S, n, d) and record them, block by block.

    The systems of each block are divided among the ranks; its size follows the clock of rank 0. `report` is called with
    the number of systems that are done. A signal ends a block anywhere; its systems must be solved again.
    """
    n, most = recorder.problem.n, largest(recorder, tokens[0].nbytes)
    least = min(most, 2 * machine.cores() if n <= _SMALL else 1)
    check = signals.check if team.size == 1 else signals.check_alone
    solve = _Part(recorder, attention, tokens, arguments, report, check)
    first, size = recorder.done, min(most, _FIRST, max(least, _PAIRS // (n * n)))
    while first < len(tokens):
        signals.check()
        recorder.beat()
        last, began = team.largest(min(first + size, len(tokens)) if team.leads else 0), time.monotonic()
        cuts = [first + (last - first) * k // team.size for k in (team.rank, team.rank + 1)]
        mine, wanted = recorder.nothing(), 0
        try:
            mine = solve(*cuts)
        except Stopped as stop:
            if stop.at_once:
                raise
            wanted = 1 + stop.number
        signals.agree(wanted)
        with signals.held():
            recorder.block(mine)
        seconds = time.monotonic() - began
        recorder.log(f"systems {first} to {last - 1} in {seconds:.2f} s")
        size = next_size(last - first, seconds, least, most)
        report(last)
        first = last


class _Part:
    """The solver of a part of the systems."""

    def __init__(
        self,
        recorder: SystemsRecorder,
        attention: Any,
        tokens: Any,
        arguments: dict[str, Any],
        report: Callable[[int], None],
        check: Callable[[], None],
    ) -> None:
        self._recorder, self._attention, self._tokens, self._arguments = recorder, attention, tokens, arguments
        self._report, self._check = report, check

    def __call__(self, first: int, last: int) -> Results:
        """Solve the systems first .. last - 1 and return the results that are recorded."""
        import fastpde as fp

        if first == last:
            return self._recorder.nothing()
        solution = fp.solve(
            self._attention,
            self._tokens[first:last],
            **self._arguments,
            t_eval=self._recorder.times,
            first_system=first,
            progress=_shifted(self._report, first, self._check),
        )
        return self._recorder.results(solution)


def _shifted(report: Callable[[int], None], first: int, check: Callable[[], None]) -> Callable[[int, Any], None]:
    def progress(done: int, stats: Any) -> None:
        report(first + done)
        check()

    return progress


def largest(recorder: SystemsRecorder, size: int) -> int:
    """Return how many systems of `size` bytes each a block may have, for the memory of their frames."""
    return max(1, _BYTES // (size * len(recorder.times)))


def next_size(size: int, seconds: float, least: int, most: int) -> int:
    """Return the size of the next block, from the seconds that a block of `size` systems took."""
    wanted = size * min(_SECONDS / max(seconds, 1e-9), float(_GROWTH))
    return min(most, max(least, int(wanted)))
