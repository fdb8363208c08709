"""Observers: functions that see the state of a run and do not change its steps, in any bit."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Sequence

import numpy as np

from fastpde._numbers import positive, real, whole
from fastpde.errors import Explained, InputError
from fastpde.integrate.controller import Span
from fastpde.integrate.events import read_only
from fastpde.integrate.options import function, sequence

# A point of the time grid closer to the end than this fraction of its spacing is the end.
_SAME_POINT = 1e-9


class Observer(Explained):
    """A user's function callback(t, x) that a run calls at t0, at the given interval, and at the end, once each.

    x is a read-only view, valid during the call: copy what must be kept. Exactly one interval is given.

    Args:
        callback: its result is ignored; its exceptions end the run.
        steps: the number of accepted steps between two calls.
        time: the time between two calls, which are at t0 + k time, by the continuous extension.
        times: the times of the calls (m,), likewise; those outside of the span do not matter.
        walltime: seconds; the call is at the end of the first step after so many since the last call.

    Raises:
        InputError, InputTypeError: not exactly one interval, or one that is no number > 0; times that are no numbers.
    """

    def __init__(
        self,
        callback: Callable[[float, np.ndarray], object],
        *,
        steps: int | None = None,
        time: float | None = None,
        times: Sequence[float] | np.ndarray | None = None,
        walltime: float | None = None,
    ) -> None:
        self.callback = function("Observer.callback", callback, "(t, x)")
        cadences = {"steps": steps, "time": time, "times": times, "walltime": walltime}
        given = [name for name, value in cadences.items() if value is not None]
        if len(given) != 1:
            raise InputError("Observer", " and ".join(given) or "no cadence", f"exactly one of {', '.join(cadences)}")
        asked = () if times is None else sequence("Observer.times", times, "numbers")
        self.times = tuple(sorted({real(f"Observer.times[{i}]", t) for i, t in enumerate(asked)}))
        self.steps = None if steps is None else whole("Observer.steps", steps)
        self.time = None if time is None else positive("Observer.time", time)
        self.walltime = None if walltime is None else positive("Observer.walltime", walltime)

    @property
    def by_time(self) -> bool:
        """Whether calls are at times that need not be ends of steps."""
        return self.time is not None or bool(self.times)


class Watch:
    """One observer during one run: its place between two calls, which is found again from the time after a restart."""

    def __init__(self, observer: Observer, span: Span, t: float, step: int | None) -> None:
        """Find the next call after time t and step number `step`, at which the run goes on; step None: it begins."""
        self._observer, self._span = observer, span
        self._last_t: float | None = None
        self._last_wall = clock.monotonic()
        self._next = 1
        self._times = [s for s in observer.times[:: int(span.direction)] if span.direction * (s - span.start) > 0.0]
        if observer.time is not None:
            self._next = max(1, int(abs(t - span.start) / observer.time) - 1)
        while self._observer.by_time and span.reached(self._point(), t):
            self._next += 1
        if step is not None and self._shown(t, step):
            self._last_t = t

    def _shown(self, t: float, step: int) -> bool:
        """Return whether the state after `step` steps, at t, has been shown.

        It has if a call by steps or time was due there.
        """
        if step == 0 or not self._observer.by_time:
            return step == 0 or (self._observer.steps is not None and step % self._observer.steps == 0)
        return self._point(self._next - 1) == t

    def call(self, t: float, x: np.ndarray) -> None:
        """Call the observer with the state, unless it has been shown at this time."""
        if t != self._last_t:
            self._last_t = t
            self._observer.callback(t, read_only(x))
            self._last_wall = clock.monotonic()

    def between(self, until: float, evaluate: Callable[[float, np.ndarray], bool], buffer: np.ndarray) -> None:
        """Make the calls that are due by time up to `until`, which is within the last step.

        evaluate(t, out) writes the state, and returns whether there is one to be shown.
        """
        if not self._observer.by_time:
            return
        while self._span.reached(t := self._point(), until) and self._span.reached(t, self._span.end):
            self._next += 1
            if evaluate(t, buffer):
                self.call(t, buffer)

    def at_step(self, t: float, y: np.ndarray, step: int) -> None:
        """Make the call due at the end of a step, if any."""
        observer = self._observer
        every_steps = observer.steps is not None and step % observer.steps == 0
        waited = observer.walltime is not None and clock.monotonic() - self._last_wall >= observer.walltime
        if every_steps or waited:
            self.call(t, y)

    @property
    def due(self) -> float:
        """The time of the next call that is due by time; infinity in the direction of the integration if none is."""
        return self._point() if self._observer.by_time else self._span.direction * math.inf

    def steps_left(self, step: int) -> float:
        """Return in how many steps after step number `step` a call is due by steps; infinity: in none."""
        every = self._observer.steps
        return math.inf if every is None else every - step % every

    def _point(self, index: int | None = None) -> float:
        """Return point `index` of the time grid, by default the next one, as a multiple of the spacing.

        A point next to the end is the end. Behind the last of given times there is infinity.
        """
        if self._observer.times:
            place = (self._next if index is None else index) - 1
            return self._times[place] if place < len(self._times) else self._span.direction * math.inf
        spacing = self._observer.time or 0.0
        t = self._span.start + (self._next if index is None else index) * self._span.direction * spacing
        return self._span.end if abs(t - self._span.end) <= _SAME_POINT * spacing else t
