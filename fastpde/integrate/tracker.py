"""The events of one system that have happened so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastpde.integrate.controller import Span
from fastpde.integrate.events import End, Event
from fastpde.step_rules import crosses

# root(index, before, after) returns the time within the last step at which event `index` happened.
Root = Callable[[int, End, End], float]


class Hit(NamedTuple):
    """An event that happened: its index and its time."""

    event: int
    t: float


class Tracker:
    """The record of the events of a system, which are looked for at the start and after each step.

    Args:
        events: the events to look for.
        span: the interval of integration.
        state: returns the state (a new array) at a time within the last step; None: states are not kept.
    """

    def __init__(
        self, events: tuple[Event, ...], span: Span, state: Callable[[float], np.ndarray] | None = None
    ) -> None:
        self._events, self._span, self._state = events, span, state
        self._times: list[list[float]] = [[] for _ in events]
        self._states: list[list[np.ndarray]] = [[] for _ in events]

    def at_start(self, t: float, values: Sequence[float]) -> Hit | None:
        """Record the events already satisfied at the start; return the first terminal one."""
        pairs = zip(self._events, values, strict=True)
        return self._record([Hit(i, t) for i, (event, value) in enumerate(pairs) if event.satisfied_at_start(value)])

    def after_step(
        self, before: tuple[float, Sequence[float]], after: tuple[float, Sequence[float]], root: Root
    ) -> Hit | None:
        """Record the events of a step, from the time and the values at its ends; return the first terminal one."""
        (t0, old), (t, new) = before, after
        hits = [
            Hit(i, t if event.uses_velocity else root(i, (t0, old[i]), (t, new[i])))
            for i, event in enumerate(self._events)
            if crosses(event.direction, old[i], new[i])
        ]
        return self._record(hits)

    def first_times(self) -> list[float]:
        """Return per event the first time at which it happened, nan if it did not."""
        return [times[0] if times else np.nan for times in self._times]

    def times(self) -> tuple[np.ndarray, ...]:
        """Return per event the times (k,) at which it happened."""
        return tuple(np.array(times, dtype=np.float64) for times in self._times)

    def states(self, like: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return per event the states (k, *shape) in which it happened; `like` is a state."""
        return tuple(np.array(found, dtype=like.dtype).reshape(len(found), *like.shape) for found in self._states)

    def _record(self, hits: list[Hit]) -> Hit | None:
        """Keep the hits in the order of the integration, none later than the first terminal one."""
        span = self._span
        hits = sorted(
            hits, key=lambda hit: span.direction * hit.t
        )  # stable: the order given decides between equal times
        last = next((hit for hit in hits if self._events[hit.event].terminal), None)
        for hit in hits:
            if last is not None and not span.reached(hit.t, last.t):
                break
            self._times[hit.event].append(hit.t)
            if self._state is not None:
                self._states[hit.event].append(self._state(hit.t))
        return last
