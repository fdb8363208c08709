"""Stopping on a signal or before the walltime is over: installed by the command line only, never by the library.

The first signal is kept for the next `check`, between steps or slices of a sum, where everything is whole. The second
raises `Stopped` wherever Python is. From then on signals do what they do by default: the third ends the process. Where
no state is at stake, before a run and after it, the first raises `Stopped`, too (`AtOnce`).

Of several processes that run together all stop, or none: what each has to say they tell each other in `check`.
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
_COMPILED = 2  # first slices that may have been compiled meanwhile
_AGAIN = 0.01  # seconds until a signal that was lost is sent again
_LEAVING = 0.4  # seconds to close files and leave
_SLICES = 3.0  # slowest slices to be kept in reserve


class Stopped(Whole, BaseException):
    """The run was asked to stop; `code` is the exit code that shells expect of a signal, 128 + number.

    at_once: wherever it was, so that its state may be half of anything. It is no `Exception`: libraries that go on
    after one of those must not go on after this.
    """

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name}" if number else "stopped before the walltime is over"
        )
        self.number, self.code, self.at_once = number, 128 + number, at_once


class AtOnce:
    """A context in which signals raise `Stopped` where Python is, until the third; `StopSignals` goes before it.

    Attributes:
        leaving: set where nothing is left to be stopped: the next signal does nothing.
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
        """Return what has ended the context: the signal, if one came, whatever has been made of it on the way here."""
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
        """Send a signal again that came where nothing can be raised, as in the callback of a weak reference."""
        if self._stop is None or unraisable.exc_value is not self._stop:
            self._hook(unraisable)
            return
        self._came -= 1
        threading.Timer(_AGAIN, os.kill, (os.getpid(), self._stop.number)).start()


class StopSignals:
    """A context in which signals are caught.

    Args:
        say: told what a signal will do.
        after: what is finished first, in words.
        deadline: when the process must have ended, on `time.monotonic`; None: whenever it likes.
        largest: the largest of the numbers that all processes bring; each brings one in every `check`.
    """

    def __init__(
        self,
        say: Callable[[str], object] = lambda _: None,
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
        """A context in which `check` lets pass: what begins there must be finished."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def check(self) -> None:
        """Raise Stopped if a signal came or time is short: called where everything is whole, as often as can be.

        Of several processes all call it, and stop if one has to.
        """
        if not self._held:
            self.agree(self._wanted())

    def check_alone(self) -> None:
        """The same for this process: the others are told by `agree`."""
        if not self._held and (wanted := self._wanted()):
            raise Stopped(wanted - 1)

    def agree(self, wanted: int = 0) -> None:
        """Raise Stopped on all processes if one of them wants to: 1 + the number of its signal, 0 if it does not."""
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
        """Return the seconds to be kept for the slice to come, a checkpoint and the way out."""
        return _SLICES * max(self._gaps, default=0.0) + 2.0 * self.saving + _LEAVING


class Late:
    """A context of a process among several: calls late() some seconds after a signal, unless `come` is called before.

    A process that waits for another is inside of MPI, where no Python handler runs; and one whose sum takes long does
    not answer. So a thread waits, which the interpreter's own handler wakes in any case.
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
        """Say that the processes have come to a stop."""
        self._come.set()

    def _wait(self) -> None:
        while number := os.read(self._place, 1):
            if number[0] in CAUGHT and not self._come.wait(self._seconds):
                self._late()
        os.close(self._place)
