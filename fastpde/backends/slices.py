"""Long sums in slices of targets that take a fraction of a second each, so that a process can be asked to stop.

Rows of a sum are independent and slices are made of whole groups of tiles: no bit depends on where they are cut, or on
the clock that says how large they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS = 0.25  # that a slice should take; the promise is half a second
_RATE = 2e9  # work per second of a machine not yet known: a slow one
_CHANGE = 4.0  # largest factor from one slice to the next

_check: Callable[[], object] | None = None


@contextmanager
def checking(check: Callable[[], object]) -> Iterator[None]:
    """A context in which `check` is called before every sum and between its slices; what it raises ends the sum.

    One for the whole process, as signals are.
    """
    global _check
    before, _check = _check, check
    try:
        yield
    finally:
        _check = before


def check() -> None:
    """Calls what `checking` has been given."""
    if _check is not None:
        _check()


class Slices:
    """Cuts sums, with the pace of the ones before."""

    def __init__(self) -> None:
        self._rate = _RATE

    def of(self, targets: int, group: int, work: float) -> Iterator[slice]:
        """Slices of 0 .. targets, in order, of whole groups of `group` targets; `work`: of one target, any unit."""
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
        """Only sums that take a while say how fast they are; one that was compiled meanwhile is forgotten soon."""
        if seconds > 0.2 * _SECONDS:
            self._rate = min(max(work / seconds, self._rate / _CHANGE), self._rate * _CHANGE)
