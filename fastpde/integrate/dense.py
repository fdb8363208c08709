"""The continuous extension over the last accepted step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpde.integrate.tableau import Tableau
from fastpde.parallel.partition import Partition, Undivided


def partition_of(space: Any, y: np.ndarray) -> Partition:
    """Return which of all tokens the states of a space hold; a space without a partition holds all of them."""
    found: Partition = getattr(space, "partition", None) or Undivided(y.shape[-2] if y.ndim > 1 else 1)
    return found


@dataclass(frozen=True)
class Chord:
    """The straight line between the ends of a step, y0 + theta (y1 - y0) with y1 = y0 + h sum_s b_s k_s.

    It is the extension of a step with noise: the Brownian path between its ends has not been drawn.
    """

    b: tuple[float, ...]

    def weights_at(self, theta: Any) -> tuple[Any, ...]:
        """Return theta b_s."""
        return tuple(theta * weight for weight in self.b)

    def slopes_at(self, theta: float) -> tuple[float, ...]:
        """Return the derivatives of the weights, b_s."""
        return self.b


@dataclass(frozen=True)
class Summed:
    """The extension of a method by k_first, the sum h sum_s b_s k_s and k_last, see `Tableau.by_sum`."""

    tableau: Tableau
    h: Any

    def weights_at(self, theta: Any) -> tuple[Any, ...]:
        """Return the weights of k_first, of the sum and of k_last, the first and the last multiplied by h."""
        first, total, last = self.tableau.weights_by_sum(theta)
        return self.h * first, total, self.h * last


@dataclass(frozen=True)
class Piece:
    """The continuous extension y(t) over a step, from the stages of the step of size h that leaves y0 at t0.

        y(t0 + theta h) = y0 + h sum_s b_s(theta) k_s,    theta = (t - t0) / h.

    It refers to the stepper's buffers and is valid until the next step is attempted. t0, h and t are numbers, or arrays
    (k,) of the systems of y0 (k, ...). unit: the factor h, or 1.0 if the weights of the extension have it.
    Source: Hairer, Norsett, Wanner (1993) II.6.
    """

    extension: Tableau | Chord | Summed
    space: Any
    t0: Any
    h: Any
    y0: np.ndarray
    stages: np.ndarray
    unit: float | None = None

    @property
    def partition(self) -> Partition:
        """The partition: which of all tokens the states hold."""
        return partition_of(self.space, self.y0)

    def evaluate(self, t: Any, out: np.ndarray) -> None:
        """Write y(t) into `out`; at t0 exactly y0, because all its weights are zero there."""
        weights = self.extension.weights_at((t - self.t0) / self.h)
        self.space.combine(self.y0, self.h if self.unit is None else self.unit, weights, self.stages, out)
