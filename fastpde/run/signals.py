"""Stopping on a signal after the step or block of systems at work: installed by the command line only, never by the
library.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal asked the run to stop; `code` is the exit code that shells expect, 128 + number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class StopSignals:
    """A context in which the first SIGINT or SIGTERM is kept for `check`; the second acts at once, as it
    always did.
    """

    def __init__(self, say: Callable[[str], object] = lambda _: None, after: str = "this step") -> None:
        self.number = 0
        self._say, self._after = say, after
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in CAUGHT:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        self._say(f"fastpde: stopping after {self._after}; once more to leave at once\n")

    def check(self) -> None:
        """Raise Stopped if a signal came: called between steps or blocks, where everything is whole."""
        if self.number:
            raise Stopped(self.number)
