"""The events of one run: their values at the ends of steps, and those that have happened so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastpde.integrate.controller import Span
from fastpde.integrate.dense import partition_of
from fastpde.integrate.events import Event, locate, measure
from fastpde.integrate.stepper import Stepper
from fastpde.step_rules import crosses


class Hit(NamedTuple):
    """An event that happened: its index and its time."""

    event: int
    t: float


class Tracker:
    """The search for the events of a run after each step.

    Args:
        events: the events to look for.
        stepper: the stepper, at the time from which to look.
        buffer: an array of the size of a state, for root finding.
    """

    def __init__(self, events: tuple[Event, ...], stepper: Stepper, buffer: Any) -> None:
        self._events, self._stepper, self._buffer = events, stepper, buffer
        self._t, self._values = stepper.state.t, [0.0] * len(events)
        self._times: list[list[float]] = [[] for _ in events]
        self._states: list[list[np.ndarray]] = [[] for _ in events]

    def start(self) -> None:
        """Measure the events at the present state; this may evaluate the field there."""
        self._values = self._measure()

    def at_start(self) -> Hit | None:
        """Record the events already satisfied; return the first terminal one."""
        pairs = zip(self._events, self._values, strict=True)
        return self._record(
            [Hit(i, self._t) for i, (event, value) in enumerate(pairs) if event.satisfied_at_start(value)]
        )

    def after_step(self) -> Hit | None:
        """Record the events of the last step up to the first terminal one; return that one."""
        if not self._events:
            return None
        t, values = self._stepper.state.t, self._measure()
        hits = [
            Hit(i, self._root(i, (self._t, self._values[i]), (t, values[i])))
            for i, event in enumerate(self._events)
            if crosses(event.direction, self._values[i], values[i])
        ]
        self._t, self._values = t, values
        return self._record(hits)

    def times(self) -> tuple[np.ndarray, ...]:
        """Return per event the times (k,) at which it happened."""
        return tuple(np.array(times, dtype=np.float64) for times in self._times)

    def states(self) -> tuple[np.ndarray, ...]:
        """Return per event the states (k, *shape) in which it happened."""
        y = self._stepper.state.y
        return tuple(np.array(states, dtype=y.dtype).reshape(len(states), *y.shape) for states in self._states)

    def _measure(self) -> list[float]:
        stepper, values = self._stepper, []
        partition = partition_of(stepper.space, stepper.state.y)
        for i, event in enumerate(self._events):
            velocity = stepper.refresh() if event.uses_velocity else None
            values.append(measure(f"events[{i}]", event, stepper.state.t, stepper.state.y, velocity, partition))
        return values

    def _root(self, index: int, before: tuple[float, float], after: tuple[float, float]) -> float:
        event = self._events[index]
        if event.uses_velocity:
            return after[0]
        return locate(f"events[{index}]", event, self._stepper.piece(), (before, after), self._buffer)

    def _record(self, hits: list[Hit]) -> Hit | None:
        """Keep the hits in the order of the integration, none later than the first terminal one."""
        span: Span = self._stepper.span
        hits = sorted(
            hits, key=lambda hit: span.direction * hit.t
        )  # stable: the order given decides between equal times
        last = next((hit for hit in hits if self._events[hit.event].terminal), None)
        for hit in hits:
            if last is not None and not span.reached(hit.t, last.t):
                break
            y = np.empty_like(self._stepper.state.y)
            self._stepper.evaluate(hit.t, y)
            self._times[hit.event].append(hit.t)
            self._states[hit.event].append(y)
        return last
