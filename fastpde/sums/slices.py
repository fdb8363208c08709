"""Long sums in slices of targets that take a fraction of a second each, so that a process can be asked to stop.

Rows of a sum are independent and slices are made of whole groups of tiles: no bit depends on where they are cut, or on
the clock that decides how large they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..simd.vectors import BITS

_SECONDS = 0.25  # that a slice should take; the promise is half a second
_RATE = 2e7 * BITS  # work per second of a thread, before any has been measured: that of a slow machine
_LEAST = 2e-3  # seconds of a slice that tell the speed: calls take some microseconds, and threads wake up
_CHANGE = 4.0  # largest factor from one slice to the next

_check: Callable[[], object] | None = None


@contextmanager
def checking(check: Callable[[], object]) -> Iterator[None]:
    """Return a context in which `check` is called before every sum and between its slices; what it raises ends the sum.

    There is one for the whole process, as for signals.
    """
    global _check
    before, _check = _check, check
    try:
        yield
    finally:
        _check = before


def check() -> None:
    """Call the function that `checking` has been given, if any."""
    if _check is not None:
        _check()


class Slices:
    """The division of sums into slices, whose sizes follow from the measured speed of earlier ones."""

    def __init__(self) -> None:
        self._rate = _RATE

    def of(self, targets: int, group: int, work: float) -> Iterator[slice]:
        """Yield slices of 0 .. targets, in order, of whole groups of `group` targets.

        work: that of one target, in any unit.
        """
        first = 0
        while first < targets:
            check()
            groups = max(1, int(_SECONDS * self._rate / (work * group)))
            last = min(targets, first + groups * group)
            began = time.monotonic()
            yield slice(first, last)
            self._learn((last - first) * work, time.monotonic() - began)
            first = last

    def _learn(self, work: float, seconds: float) -> None:
        """Update the measured speed by a slice of so much work, if it took long enough to tell.

        One update changes the speed by a factor of 4 at most, so that a slice during which kernels were compiled is
        soon forgotten.
        """
        if seconds > _LEAST:
            self._rate = min(max(work / seconds, self._rate / _CHANGE), self._rate * _CHANGE)
