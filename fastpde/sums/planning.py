"""The choice of a grid for a tolerance, and its cost estimate, from the bounds and costs in `kernels.plans`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..kernels import plans

THETAS = np.array([0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0])
_MOST_STEADY = 2  # axes: with more, the cells of a grid for larger boxes would cost too much
_STEP = 4.0  # factor by which the number of cells of a steady grid grows
_TYPICAL = 1_000_000  # sources, and targets, for which a steady grid is the cheapest
_BESSELS = plans.MOST_ORDER + 1
_THIN, _THIN_ROUNDING = (0.02, 0.25), 1e-13
_SPLIT_FROM = 30.0  # below these logits a grid is never beaten by a split
_WORTH_A_TREE = 15e-3  # seconds of the best other way, on one thread: planning a tree takes some 5 ms
_GOOD = 3e-7  # seconds per target: a grid that needs no more is not compared with a tree


@dataclass(frozen=True)
class Grid:
    """A grid for one pair of boxes.

    Attributes:
        slabs: (r,) the number of slabs per axis.
        order_z, order_y: (r,) the orders of the polynomials of targets and of sources per axis.
        error: upper bound of the relative error of the sums, and of that of the means relative to the spread of the
            sources.
        seconds: the predicted time of one evaluation on one thread.
        serial: the part of it that more threads do not make shorter.
    """

    slabs: Array
    order_z: Array
    order_y: Array
    error: float
    seconds: float
    serial: float


def thinnest(tol: float) -> float:
    """Return the load to which a box with a smaller load on an axis is widened.

    With smaller loads, slopes would be differences of rounded numbers.
    """
    return min(max(_THIN_ROUNDING / tol, _THIN[0]), _THIN[1])


def plan(L: Array, sources: int, targets: int, tol: float, channels: int = 1, thetas: Array = THETAS) -> Grid | None:
    """Return the cheapest grid for loads L (r,) with an error below tol and cells of exponent up to one of `thetas`.

    Return None where rounding, the orders, memory or the range of numbers forbid all of them.
    """
    sizes, trial, bessel = np.empty((3, len(L)), np.int64), np.empty((3, len(L)), np.int64), np.empty(_BESSELS)
    counts = float(sources), float(targets)
    error, seconds = plans.best(L, thetas, *counts, tol, float(channels), sizes, trial, bessel)
    if math.isinf(seconds):
        return None
    serial = plans.CORE * float((sizes[0].astype(float) ** 2 * sizes[1] * sizes[2]).sum())
    return Grid(sizes[0], sizes[1], sizes[2], error, seconds, serial)


def steady(L: Array, cheapest: Grid, tol: float, channels: int = 1) -> Grid:
    """Return a grid for loads L (r,) whose size does not depend on the number of points.

    Its nodes are those for L rounded up to a power of 4^(1/r), so that the box of a Gaussian cloud, which grows with
    that number, seldom makes it larger. For three axes or more, where unneeded nodes cost too much, return `cheapest`,
    the result of `plan`.
    """
    step = math.log(_STEP) / len(L)
    above = np.maximum(np.exp(step * np.ceil(np.log(L) / step - 1e-9)), L)
    if len(L) > _MOST_STEADY:
        return cheapest
    return plan(above, _TYPICAL, _TYPICAL, tol, channels) or cheapest


def prices(L: Array, sources: Array, targets: Array, tol: float, channels: int = 1) -> Array:
    """Predict the seconds (q,) of the cheapest grids for q sums with loads L (q, r); inf where there is none."""
    sizes, bessel, out = np.empty((2, 3, L.shape[1]), np.int64), np.empty(_BESSELS), np.empty(len(L))
    counts = np.asarray(sources, float), np.asarray(targets, float)
    plans.prices(np.ascontiguousarray(L), THETAS, *counts, tol, float(channels), sizes[0], sizes[1], bessel, out)
    return out


def worth_a_tree(L: Array, seconds: float, targets: float) -> bool:
    """Return whether a tree is worth planning for loads L (r,), if the best other way takes `seconds` on one thread."""
    return seconds > max(_WORTH_A_TREE, _GOOD * targets) and _SPLIT_FROM < float(L.sum()) < math.inf
