"""How fine a grid must be for a tolerance, and what it costs: `kernels.plans` has the bounds and the prices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..kernels import plans

THETAS = np.array([0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0])
_MOST_STEADY = 2  # axes: with more, the cells of a grid for larger boxes would cost too much
_STEP = 4.0  # by which the cells of a steady grid grow
_TYPICAL = 1_000_000  # sources, and targets, for which a steady grid is the cheapest
_BESSELS = plans.MOST_ORDER + 1
_THIN, _THIN_ROUNDING = (0.02, 0.25), 1e-13


@dataclass(frozen=True)
class Grid:
    """A grid for one pair of boxes.

    Attributes:
        slabs, order_z, order_y: (r,) per axis.
        error: bound of the relative error of the sums and of the means relative to the spread of the sources.
        seconds: what one evaluation is expected to take on one thread.
        serial: of that, what more threads do not make faster.
    """

    slabs: Array
    order_z: Array
    order_y: Array
    error: float
    seconds: float
    serial: float


def thinnest(tol: float) -> float:
    """The logits of an axis up to which a box is widened: slopes of less would be differences of rounded numbers."""
    return min(max(_THIN_ROUNDING / tol, _THIN[0]), _THIN[1])


def plan(L: Array, sources: int, targets: int, tol: float, channels: int = 1, thetas: Array = THETAS) -> Grid | None:
    """The cheapest grid for logits L (r,) whose error is below tol, with cells of exponent up to one of `thetas`; None
    where rounding, the orders, memory or the range of numbers forbid all."""
    sizes, trial, bessel = np.empty((3, len(L)), np.int64), np.empty((3, len(L)), np.int64), np.empty(_BESSELS)
    counts = float(sources), float(targets)
    error, seconds = plans.best(L, thetas, *counts, tol, float(channels), sizes, trial, bessel)
    if math.isinf(seconds):
        return None
    serial = plans.CORE * float((sizes[0].astype(float) ** 2 * sizes[1] * sizes[2]).sum())
    return Grid(sizes[0], sizes[1], sizes[2], error, seconds, serial)


def steady(L: Array, cheapest: Grid, tol: float, channels: int = 1) -> Grid:
    """A grid for logits L (r,) whose size does not depend on the number of points: its nodes are those for L rounded up
    to a power of 4^(1/r), so that the box of a Gaussian cloud, which grows with that number, seldom makes it larger.
    `cheapest` is that of `plan`, and is returned for three axes or more, where nodes to spare cost too much."""
    step = math.log(_STEP) / len(L)
    above = np.maximum(np.exp(step * np.ceil(np.log(L) / step - 1e-9)), L)
    if len(L) > _MOST_STEADY:
        return cheapest
    return plan(above, _TYPICAL, _TYPICAL, tol, channels) or cheapest


def prices(L: Array, sources: Array, targets: Array, tol: float, channels: int = 1) -> Array:
    """(q,) seconds of the cheapest grids for q sums with logits L (q, r); inf where there is none."""
    sizes, bessel, out = np.empty((2, 3, L.shape[1]), np.int64), np.empty(_BESSELS), np.empty(len(L))
    counts = np.asarray(sources, float), np.asarray(targets, float)
    plans.prices(np.ascontiguousarray(L), THETAS, *counts, tol, float(channels), sizes[0], sizes[1], bessel, out)
    return out
