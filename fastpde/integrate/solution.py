"""The result of an integration, and the record of its states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastpde.errors import FieldError
from fastpde.integrate.controller import Span
from fastpde.integrate.status import Status


@dataclass(frozen=True)
class Solution:
    """The result of `integrate`.

    Attributes:
        t, x: times (m,) and states (m, *shape): the points of t_eval that were reached, or the start and the end (one
            row if the run ended where it began).
        status, message: how the run ended, in one word and in a sentence with the remedy.
        t_final, x_final: the last good time and state, at the event if one ended the run.
        t_events, x_events: per event, the times (k,) and states (k, *shape) at which it happened.
        stats: steps, accepted, rejected, evaluations, wall_time in seconds, last_step (the size of the last accepted
            step).
        cause: the error behind `Status.NOT_CONVERGED`; its text is in the message.
    """

    t: np.ndarray
    x: np.ndarray
    status: Status
    message: str
    t_final: float
    x_final: np.ndarray
    t_events: tuple[np.ndarray, ...]
    x_events: tuple[np.ndarray, ...]
    stats: dict[str, float]
    cause: FieldError | None = None

    @property
    def success(self) -> bool:
        """Whether the run ended as asked: at the end of the span or at a terminal event."""
        return self.status.success


class Recorder:
    """The states at given times, collected as the run passes them.

    Args:
        times: (m,) times, in the order of the integration.
        span: the interval of integration.
        like: a state, for shape and dtype.
        after: times up to and including this one are skipped (they belong to the part of the run before a restart).
    """

    def __init__(self, times: np.ndarray, span: Span, like: np.ndarray, after: float | None = None) -> None:
        if after is not None:
            times = times[[not span.reached(t, after) for t in times]]
        self._times, self._span, self._count = times, span, 0
        self._x = np.empty((len(times), *like.shape), like.dtype)

    def advance(self, until: float, evaluate: Callable[[float, np.ndarray], None]) -> None:
        """Record all times not past `until`; evaluate(t, out) writes the state."""
        while self._count < len(self._times) and self._span.reached(self._times[self._count], until):
            evaluate(float(self._times[self._count]), self._x[self._count, ...])
            self._count += 1

    @property
    def t(self) -> np.ndarray:
        """The times recorded so far (m,)."""
        return self._times[: self._count].copy()

    @property
    def x(self) -> np.ndarray:
        """The states recorded so far (m, *shape)."""
        return self._x if self._count == len(self._x) else self._x[: self._count].copy()
