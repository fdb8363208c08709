"""Stopping on a signal or before the walltime is over: installed by the command line only, never by the library.

The first signal is kept for the next `check`, between steps or slices of a sum, where everything is whole. The second
raises `Stopped` wherever Python is. From then on signals do what they do by default: the third ends the process.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU)
_RECENT = 64  # slices that say how long the next ones may take
_COMPILED = 2  # first slices that may have been compiled meanwhile
_LEAVING = 0.4  # seconds to close files and leave
_SLICES = 3.0  # slowest slices to be kept in reserve


class Stopped(Exception):
    """The run was asked to stop; `code` is the exit code that shells expect of a signal, 128 + number.

    at_once: wherever it was, so that its state may be half of anything.
    """

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}" if number else "stopped before the walltime is over"
        )
        self.code, self.at_once = 128 + number, at_once


class StopSignals:
    """A context in which signals are caught.

    Args:
        say: told what a signal will do.
        after: what is finished first, in words.
        deadline: when the process must have ended, on `time.monotonic`; None: whenever it likes.
    """

    def __init__(
        self, say: Callable[[str], object] = lambda _: None, after: str = "this step", deadline: float | None = None
    ) -> None:
        self.number, self.saving = 0, 0.0  # seconds that a checkpoint takes
        self._say, self._after, self._deadline = say, after, deadline
        self._before: dict[int, Any] = {}
        self._held, self._checks, self._last = False, 0, time.monotonic()
        self._gaps: deque[float] = deque(maxlen=_RECENT)

    def __enter__(self) -> StopSignals:
        for number in CAUGHT:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            for other in self._before:
                signal.signal(other, signal.SIG_DFL)
            self._say("fastpde: stopping at once; once more to leave without a word\n")
            raise Stopped(number, at_once=True)
        self.number = number
        self._say(f"fastpde: stopping after {self._after}; once more to stop at once\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """A context in which `check` lets pass: what begins there must be finished."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raise Stopped if a signal came or time is short: called where everything is whole, as often as can be."""
        if self._held:
            return
        now = time.monotonic()
        if self._checks > _COMPILED:
            self._gaps.append(now - self._last)
        self._last, self._checks = now, self._checks + 1
        if self.number:
            raise Stopped(self.number)
        if self._deadline is not None and now + self.reserve() > self._deadline:
            raise Stopped(0)

    def reserve(self) -> float:
        """Return the seconds to be kept for the slice to come, a checkpoint and the way out."""
        return _SLICES * max(self._gaps, default=0.0) + 2.0 * self.saving + _LEAVING
