"""Sinkhorn scalings over an abstract kernel: potentials f, g with int e^{f+g+s} dmu = 1 in rows and in columns.

A half-iteration is one sum over all pairs, f = -log int e^{s + g} dmu(y) (a row step) or g = -log int e^{s + f} dmu(x)
(a column step). The plain iteration, a row step and then a column step, g -> c(f(g)), is slow where the kernel
concentrates; a symmetric kernel needs one potential and row steps only, damped. Both are accelerated: see `anderson`.
The merit is the dual value int (f + g) dmu, f the row step of g: it is concave, largest at the solution, and never
falls in a plain step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..parallel.partition import Partition, Undivided
from .anderson import Anderson, Window

# Damping of a symmetric kernel's step: for a positive kernel its linearisation has the spectrum 1 - 0.8 [1, 2].
_DAMPING = 0.8
# The last row step may come with more work: it is announced when the predicted error is within this factor of `tol`.
_MARGIN = 3.0


class Softmin(ABC):
    """A kernel e^{s(x, y)} on a measure mu = sum_i w_i delta_i, for B systems.

    It is evaluated only through logarithms of its sums.
    """

    weights: Array  # (1, n) or (B, n) float64, each row sums to 1
    symmetric: bool  # whether s(x, y) = s(y, x): `columns` is then `rows`

    @property
    def partition(self) -> Partition:
        """The partition: which of all points this process has; arrays (B, n) hold these."""
        return Undivided(self.weights.shape[1])

    @abstractmethod
    def rows(self, g: Array, out: Array, last: bool) -> None:
        """Write -log int e^{s(x_i, y) + g(y)} dmu(y) into out[b, i], (B, n) float64.

        The last call of a scaling has last=True (and others may): other sums over e^{s + g} can be made along with it.
        """

    @abstractmethod
    def columns(self, f: Array, out: Array) -> None:
        """Write -log int e^{s(x, y_j) + f(x)} dmu(x) into out[b, j], (B, n) float64."""


@dataclass(frozen=True)
class Scalings:
    """Potentials with exact rows: f = -log int e^{s + g} dmu, g the argument of the last row step."""

    f: Array  # (B, n)
    g: Array  # (B, n)
    error: Array  # (B,) bound of sum_j w_j |int e^{f + g + s} dmu(x) - 1|, the error of the columns; nan: not known
    half_iterations: int
    rounding: Array  # (B,) whether an error above the tolerance is rounding, so that more steps are of no use


def scale(softmin: Softmin, start: Array, tol: float, max_half: int, window: Window | None = None) -> Scalings:
    """Compute potentials whose columns have an error <= tol in every system, starting from g = `start` (B, n).

    The pair (f, g), f the row step of g and c the column step of f, has the error sum_j w_j |e^{g_j - c_j} - 1|. For a
    symmetric kernel c is not needed: (g, g) has the error e = sum_j w_j |e^{g_j - f_j} - 1| in its rows and columns
    alike, and making the rows exact changes the columns by e at most, so 2e bounds it. A constant may move between f
    and g: e is taken of g - f less its mean.

    A system that has converged, or whose error is rounding or not finite, is left as it is: the result of a system does
    not depend on the others. The scaling ends when this holds for all systems, or after `max_half` half-iterations.
    `window` is that of the scaling of a similar kernel (a warm start); it is changed in place.
    """
    weights, partition, cost = softmin.weights, softmin.partition, 1 if softmin.symmetric else 2
    g, f, c = start.copy(), np.empty_like(start), np.empty_like(start)
    anderson = Anderson(weights, start.shape, window, partition)
    error, foreseen, half, last = np.full(len(g), np.inf), np.inf, 0, False
    rounding = np.zeros(len(g), bool)
    while half + cost < max_half:
        last = foreseen <= _MARGIN * tol
        softmin.rows(g, f, last)
        if not softmin.symmetric:
            softmin.columns(f, c)
        half += cost
        residual = (f if softmin.symmetric else c) - g
        if softmin.symmetric:
            residual -= partition.sum(weights * residual)[:, None]
        before, error = error, (2.0 if softmin.symmetric else 1.0) * _marginal_error(residual, weights, partition)
        merit = partition.sum(weights * (f + g))
        rounding = (error > tol) & (error > 0.5 * before) & (error <= _rounding(f, g, weights, partition))
        rounding &= ~anderson.fallen(merit)
        moving = (error > tol) & ~rounding
        if not moving.any() or half + cost >= max_half:
            break
        foreseen = _foresee(before[moving], error[moving]) if half > cost else np.inf
        if softmin.symmetric:
            residual *= _DAMPING
        anderson.step(g, residual, merit, moving)
    if not last and np.isfinite(error).any():
        softmin.rows(g, f, True)
        half += 1
    return Scalings(f, g, error, half, rounding)


def iterate(softmin: Softmin, start: Array, n_half: int) -> Scalings:
    """Make `n_half` (odd) plain half-iterations from g = `start` (B, n), rows first and last, without an error."""
    g, f = start.copy(), np.empty_like(start)
    for half in range(1, n_half + 1, 2):
        softmin.rows(g, f, half == n_half)
        if half < n_half:
            softmin.columns(f, g)
    return Scalings(f, g, np.full(len(g), np.nan), n_half, np.zeros(len(g), bool))


def _marginal_error(residual: Array, weights: Array, partition: Partition) -> Array:
    """Return sum_j w_j |e^{-r_j} - 1|, (B,); inf on overflow."""
    with np.errstate(over="ignore"):
        return partition.sum(weights * np.abs(np.expm1(-residual)))


def _rounding(f: Array, g: Array, weights: Array, partition: Partition) -> Array:
    """Return the error in the columns that rounding makes of potentials of this size, (B,).

    The means of |f| and |g| count, as they do in the error, once the mean of g has moved to f. They are bounded by the
    scores and the entropy of mu wherever the dual value is no lower than that of g = 0: a step that is off cannot make
    them larger without lowering it.
    """
    mean = partition.sum(weights * g)[:, None]
    size: Array = partition.sum(weights * (np.abs(f + mean) + np.abs(g - mean)))
    return 2.0**-49 * (1.0 + size)


def _foresee(before: Array, error: Array) -> float:
    """Predict the largest error after the next step, if that gains as much as this one."""
    with np.errstate(invalid="ignore", over="ignore"):
        return float((error * np.minimum(error / before, 1.0)).max())
