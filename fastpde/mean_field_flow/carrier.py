"""The interface of what carries a law through a span: its points, velocity, flow and density at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from .._types import Array


class Carrier(ABC):
    """The law at all times of a span. Positions s (m,) are None where they do not matter.

    Attributes:
        weights: (q,) of the points of `points`.
        error: (k,) the largest relative error up to each time of the setting.
        how: how the law is known: "closure", "quadrature" or "sobol".
    """

    weights: Array
    error: Array
    how: str

    @abstractmethod
    def points(self, t: float, s: float | None) -> tuple[Array, Array]:
        """Return points (q, d) and weights (q,) whose weighted sums are integrals over the law at position s."""

    @abstractmethod
    def velocity(self, t: float, x: Array, s: Array | None) -> Array:
        """Return the velocity (m, d) at points x (m, d)."""

    @abstractmethod
    def push(self, t: float, x0: Array, s: Array | None) -> Array:
        """Return where the flow carries points x0 (m, d) from the start to t. Raises FieldError."""

    @abstractmethod
    def log_density(self, t: float, x: Array, s: Array | None) -> Array:
        """Return the logarithm (m,) of the density at points x (m, d). Raises FieldError, InputError."""

    @abstractmethod
    def moments(self, t: float, s: float | None) -> tuple[Array, Array]:
        """Return the mean (d,) and the covariance (d, d) of the law at position s."""


class FlowPath:
    """The states of a flow at some times, and at any other by following it from the last one before.

    Args:
        t: (k,) times, increasing.
        states: (k, ...) the states there.
        follow: follow(state, start, end) returns the state at `end`.
    """

    def __init__(self, t: Array, states: Array, follow: Callable[[Array, float, float], Array]) -> None:
        self.t, self.states, self._follow = t, states, follow
        self._between: dict[float, Array] = {}

    def __call__(self, t: float) -> Array:
        """Return the state at a time t of the span, not to be modified. Raises FieldError."""
        frame = int(np.searchsorted(self.t, t, side="right")) - 1
        if self.t[frame] == t:
            return np.asarray(self.states[frame])
        found = self._between.get(t)  # another thread may clear them at any time
        if found is None:
            found = self._follow(self.states[frame], float(self.t[frame]), t)
            if len(self._between) >= len(self.t):
                self._between.clear()
            self._between[t] = found
        return found


def stops_between(t: Array, start: float, end: float) -> Array:
    """Return the times of t (k,) strictly between start and end, from start to end."""
    inner = t[(t > min(start, end)) & (t < max(start, end))]
    return inner if start < end else inner[::-1]
