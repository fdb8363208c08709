"""The result of an integration, and the record of its states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde import solutions
from fastpde.errors import ExplainedMethods, FieldError, InputError
from fastpde.integrate.controller import Span
from fastpde.integrate.status import Status

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure


@dataclass(frozen=True)
class Solution(ExplainedMethods):
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
        settings: method, and rtol and atol or step, as they were asked for; the noise, if there is some; the names of
            the classes of the attention and of the manifold.
        tangents, tangents_final: (m, k, *shape) and (k, *shape), the derivatives of x and x_final along k directions of
            the initial state, where these were asked for; those of x_final include what a direction does to t_final.
        log_density, log_density_final: (m, n) and (n,) at x and x_final, where they were asked for.
        weights: (n,) of the tokens, where some were given to `fastpde.solve`.
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
    settings: dict[str, Any] = field(default_factory=dict)
    tangents: np.ndarray | None = None
    tangents_final: np.ndarray | None = None
    log_density: np.ndarray | None = None
    log_density_final: np.ndarray | None = None
    weights: np.ndarray | None = None

    @property
    def success(self) -> bool:
        """Whether the run ended as asked: at the end of the span or at a terminal event."""
        return self.status.success

    def __repr__(self) -> str:
        return solutions.shown(self, "t", "x", "tangents", "log_density")

    def summary(self) -> str:
        """Return a few lines: how the run ended, its steps, its tolerances, and what the sums did."""
        return "\n".join([f"{self.status.value}: {self.message}", *solutions.told(self.stats, self.settings)])

    def save(self, path: str | Path) -> Path:
        """Write the solution into a .npz file, whole or not at all, and return its path. Raises OSError.

        It holds t, x, t_final, x_final, status and message (words), tangents, log densities and weights if there are
        any, for event i t_events/i and x_events/i, and stats/NAME and settings/NAME. `numpy.load` reads it.
        """
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("t", "x", "t_final", "x_final", "message")}
        arrays |= solutions.followed(self) | {"status": self.status.value}
        arrays |= {} if self.weights is None else {"weights": self.weights}
        arrays |= solutions.numbered("t_events", self.t_events)
        return solutions.save(path, arrays | solutions.numbered("x_events", self.x_events), self.stats, self.settings)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the tokens at up to six of the times t and t_final, in one dimension their paths, and return the
        Matplotlib figure; write it as a PNG if there is a path. Areas of points, and widths of paths, are weights, if
        there are some.

        Raises InputError if a state is not one of tokens (n, d), OSError.
        """
        from fastpde.plot import canvas, token_panels

        if self.x.ndim != 3:
            raise InputError("plot()", f"states of shape {self.x.shape[1:]}", "tokens (n, d)")
        drawn = token_panels.of_tokens(self.t, self.x, self.t_final, self.x_final, self.status.value, self.weights)
        return canvas.finished(drawn, path)


class Recorder:
    """The states of one system at given times, collected as the run passes them.

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

    def advance(self, until: float, evaluate: Callable[[float, np.ndarray], object]) -> None:
        """Record all times not past `until`; evaluate(t, out) writes the state, and returns False if there is none."""
        while self._count < len(self._times) and self._span.reached(self._times[self._count], until):
            if evaluate(float(self._times[self._count]), self._x[self._count, ...]) is False:
                self._times = np.delete(self._times, self._count)
            else:
                self._count += 1

    @property
    def due(self) -> float:
        """The next of the times; infinity in the direction of the integration if there is none."""
        return float(self._times[self._count]) if self._count < len(self._times) else self._span.direction * math.inf

    @property
    def t(self) -> np.ndarray:
        """The times recorded so far (m,)."""
        return self._times[: self._count].copy()

    @property
    def x(self) -> np.ndarray:
        """The states recorded so far (m, *shape)."""
        return self._x if self._count == len(self._x) else self._x[: self._count].copy()


class BatchRecorder:
    """The states of the systems of a batch at given times, collected as each of them passes these.

    Attributes:
        x: (m, B, ...) the states; nan where a system has not arrived.

    Args:
        times: (m,) times, in the order of the integration.
        span: the interval of integration.
        like: the states (B, ...) of all systems at one time, for shape and dtype.
    """

    def __init__(self, times: np.ndarray, span: Span, like: np.ndarray) -> None:
        self.x = np.full((len(times), *like.shape), np.nan, like.dtype)
        self._direction, self._counts = span.direction, np.zeros(len(like), np.int64)
        # In the order of increasing numbers, and behind the last time infinity.
        self._keys = np.append(span.direction * times, np.inf)

    def advance(
        self, systems: np.ndarray, untils: np.ndarray, evaluate: Callable[[np.ndarray, np.ndarray, np.ndarray], None]
    ) -> None:
        """Record all times of `systems` (k,) not past their `untils` (k,).

        evaluate(t, out, places) writes the states of the systems at some places of `systems`, each at its time of t.
        """
        while True:
            counts = self._counts[systems]
            (due,) = np.nonzero(self._keys[counts] <= self._direction * untils)
            if not len(due):
                return
            rows, which = counts[due], systems[due]
            out = np.empty((len(due), *self.x.shape[2:]), self.x.dtype)
            evaluate(self._direction * self._keys[rows], out, due)
            self.x[rows, which] = out
            self._counts[which] += 1
