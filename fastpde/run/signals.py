"""The stop of a run by a signal or before its walltime is over: used by the command line only, never by the library.

The first signal is noted, and the next `check` raises `Stopped`: between steps or slices of a sum, where the state is
whole. The second signal raises `Stopped` at once, wherever Python is. From then on signals have their default effect:
the third ends the process. Where no state can be harmed, before and after a run, the first signal raises `Stopped` at
once, too (`AtOnce`).

Of several processes that run together all stop, or none: they exchange their signals in `check`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from fastpde.errors import Whole

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU)
_RECENT = 64  # slices that say how long the next ones may take
_COMPILED = 2  # first slices, whose times may include compilation
_AGAIN = 0.01  # seconds until a signal that was lost is sent again
_LEAVING = 0.4  # seconds to close files and leave
_SLICES = 3.0  # slowest slices to be kept in reserve


def tell(text: str) -> None:
    """Write to the standard error, not by its stream: a signal may come while that is written to."""
    os.write(2, text.encode())


class Stopped(Whole, BaseException):
    """A request to stop; `code` is the exit code that shells expect of a signal, 128 + number (0: the walltime).

    at_once: it was raised wherever Python was, so the state may be half changed. It is no `Exception`, because
    libraries that go on after an `Exception` must not go on after this.
    """

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}" if number else "stopped before the walltime is over"
        )
        self.number, self.code, self.at_once = number, 128 + number, at_once


class AtOnce:
    """A context in which signals raise `Stopped` wherever Python is, until the third. A `StopSignals` within has
    precedence.

    Attributes:
        leaving: set when nothing is left to be stopped; the next signal then does nothing.
    """

    def __init__(self) -> None:
        self.leaving = False
        self._stop: Stopped | None = None
        self._came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> AtOnce:
        if threading.current_thread() is threading.main_thread():  # no other thread sees signals
            self._before = {number: signal.signal(number, self._raise) for number in CAUGHT}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._before:
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            if handler is not None:  # None: not set from Python, and cannot be set again
                signal.signal(number, handler)

    def cause(self, error: BaseException) -> BaseException:
        """Return what has ended the context: the signal if one came, even if it has since become another `error`."""
        return error if self._stop is None else self._stop

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        self._came += 1
        if self._came > 1:
            for other in CAUGHT:
                signal.signal(other, signal.SIG_DFL)
        if not self.leaving:
            self._stop = Stopped(number, at_once=True)
            raise self._stop

    def _dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Send a signal again if it came where nothing can be raised, such as in the callback of a weak reference."""
        if self._stop is None or unraisable.exc_value is not self._stop:
            self._hook(unraisable)
            return
        self._came -= 1
        threading.Timer(_AGAIN, os.kill, (os.getpid(), self._stop.number)).start()


class StopSignals:
    """A context in which signals are noted, for `check` to raise.

    Args:
        say: called with a message that says what a signal will do.
        after: what is finished before the stop, in words.
        deadline: the time on `time.monotonic` by which the process must have ended; None if there is no limit.
        largest: returns the largest of the numbers that all processes pass; each passes one in every `check`.
    """

    def __init__(
        self,
        say: Callable[[str], object] = tell,
        after: str = "this step",
        deadline: float | None = None,
        largest: Callable[[int], int] = int,
    ) -> None:
        self.number, self.saving = 0, 0.0  # seconds that a checkpoint takes
        self._say, self._after, self._deadline, self._largest = say, after, deadline, largest
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
        """Disable `check` in a context, for work that must be finished once it has begun."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raise Stopped if a signal came or time is short. It is called where the state is whole, as often as possible.

        Collective: of several processes all call it, and all stop if one has to.
        """
        if not self._held:
            self.agree(self._wanted())

    def check_alone(self) -> None:
        """Raise Stopped as `check` does, but for this process alone; the others learn of it by `agree`."""
        if not self._held and (wanted := self._wanted()):
            raise Stopped(wanted - 1)

    def agree(self, wanted: int = 0) -> None:
        """Raise Stopped on all processes if one has to stop: `wanted` is 1 + the number of its signal, or 0."""
        if found := self._largest(wanted):
            raise Stopped(found - 1)

    def _wanted(self) -> int:
        now = time.monotonic()
        if self._checks > _COMPILED:
            self._gaps.append(now - self._last)
        self._last, self._checks = now, self._checks + 1
        short = self._deadline is not None and now + self.reserve() > self._deadline
        return 1 + self.number if self.number else int(short)

    def reserve(self) -> float:
        """Return the seconds to be reserved for the next slice, a checkpoint and the exit."""
        return _SLICES * max(self._gaps, default=0.0) + 2.0 * self.saving + _LEAVING


class Late:
    """A context for one of several processes: it calls `late` some seconds after a signal, unless `come` was called.

    A process that waits for another is inside MPI, where no Python handler runs, and a process whose sum takes long
    does not answer. So a thread waits, which the interpreter's own handler wakes in any case.
    """

    def __init__(self, seconds: float, late: Callable[[], object]) -> None:
        self._seconds, self._late, self._come = seconds, late, threading.Event()
        self._place, self._bell = os.pipe()
        os.set_blocking(self._bell, False)

    def __enter__(self) -> Late:
        self._before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        signal.set_wakeup_fd(self._before)
        self._come.set()
        os.close(self._bell)

    def come(self) -> None:
        """Note that the processes have come to a stop."""
        self._come.set()

    def _wait(self) -> None:
        while number := os.read(self._place, 1):
            if number[0] in CAUGHT and not self._come.wait(self._seconds):
                self._late()
        os.close(self._place)
