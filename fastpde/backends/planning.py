"""How fine a grid must be for a tolerance, and what it costs.

Axis k carries logits up to L_k = (half width of the targets' box) (half width of the sources' box) either way. It is
cut into q slabs per side, so that a cell against the other box has the exponent theta = L / q, and two cells
c = L / q^2. The relative error of the fitted exponential (`cores`), of an axis with p polynomials, is

    sources  d_s = 2 e^c (I_p(theta) + I_{p-1}(theta) / q)      targets  d_t = 5.4 (p / theta) I_p(theta)

including that of the slopes that make means; I_p is a modified Bessel function. The forms are Chebyshev tails of
e^{a x}; the constants were measured on extreme cell pairs. Axes multiply, so with small errors they add. Rounding adds
u (2 e^{2 r theta} + r / 2 e^{4 theta}): all the mass in one corner of a cell, the target in the opposite one. A mean's
error is measured in units of the sources' spread, so the slopes' errors of the axes add like the sides of a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .._types import Array

THETAS = (0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
_ORDERS = range(3, 25)
_UNIT = 1.1e-16
_SOURCES, _TARGETS, _ROUNDING = 0.25, 0.55, 0.2  # shares of the tolerance
_MOST_NODES = 6e8  # of a tensor: 5 GB
MOST_LOGITS = 250.0  # sum of L: e^{2 sum L} is within the range of numbers
THIN = 0.02  # an axis thinner than this is widened: slopes would be differences of rounded numbers


@dataclass(frozen=True)
class Grid:
    """A grid for one pair of boxes.

    Attributes:
        slabs, order_z, order_y: (r,) per axis.
        error: bound of the relative error of the sums and of the means relative to the spread of the sources.
        seconds: what one evaluation is expected to take on one thread.
    """

    slabs: Array
    order_z: Array
    order_y: Array
    error: float
    seconds: float


@lru_cache(maxsize=4096)
def _bessel(theta: float) -> Array:
    """I_0 .. I_25 at theta."""
    from scipy.special import iv

    values: Array = iv(np.arange(_ORDERS.stop + 1), theta)
    return values


def source_error(order: int, theta: float, slabs: int) -> float:
    """d_s of an axis."""
    bessel = _bessel(theta)
    return float(2.0 * math.exp(theta / slabs) * (bessel[order] + bessel[order - 1] / slabs))


def target_error(order: int, theta: float) -> float:
    """d_t of an axis."""
    return float(5.4 * order / theta * _bessel(theta)[order])


def rounding_error(theta: float, axes: int) -> float:
    """What rounding may do in cells of exponent theta."""
    return _UNIT * (2.0 * math.exp(2.0 * axes * theta) + axes / 2.0 * math.exp(4.0 * theta))


def plan(L: Array, sources: int, targets: int, tol: float, channels: int = 1) -> Grid | None:
    """The cheapest grid for logits L (r,) whose error is below tol; None if there is none."""
    if L.sum() > MOST_LOGITS:
        return None
    found = [with_theta(L, theta, sources, targets, tol, channels) for theta in THETAS]
    grids = [grid for grid in found if grid is not None]
    return min(grids, key=lambda grid: grid.seconds, default=None)


def with_theta(L: Array, theta: float, sources: int, targets: int, tol: float, channels: int) -> Grid | None:
    """The grid with cells of exponent up to theta; None if rounding, the orders or memory forbid it."""
    r = len(L)
    slabs = np.maximum(1, np.ceil(L / theta)).astype(np.int64)
    exact = L / slabs
    rounding = rounding_error(float(exact.max()), r)
    if rounding > _ROUNDING * tol:
        return None
    order_z, order_y, errors = np.zeros(r, np.int64), np.zeros(r, np.int64), np.zeros((2, r))
    for k in range(r):
        t, q = float(exact[k]), int(slabs[k])
        p_y = next((p for p in _ORDERS if source_error(p, t, q) <= _SOURCES * tol / r), None)
        p_z = next((p for p in _ORDERS if target_error(p, t) <= _TARGETS * tol / math.sqrt(r)), None)
        if p_y is None or p_z is None:
            return None
        order_y[k], order_z[k] = p_y, p_z
        errors[:, k] = source_error(p_y, t, q), target_error(p_z, t)
    n_y, n_z = slabs * order_y, slabs * order_z
    if max(np.prod(n_y.astype(float)), np.prod(n_z.astype(float))) > _MOST_NODES:
        return None
    error = rounding + float(errors[0].sum()) + math.sqrt(float(np.square(errors[1]).sum()))
    return Grid(slabs, order_z, order_y, error, _seconds(n_y, n_z, order_y, order_z, slabs, sources, targets, channels))


def _seconds(n_y, n_z, order_y, order_z, slabs, sources: int, targets: int, channels: int) -> float:  # type: ignore[no-untyped-def]
    """One evaluation on one thread: sorting and moments, cores, evaluation (FAST.md 4.2)."""
    flops, sizes = 0.0, list(n_y.astype(float))
    for k in range(len(sizes)):
        flops += 2.0 * float(np.prod(sizes)) * float(n_z[k])
        sizes = [*sizes[1:], float(n_z[k])]
    P_y, P_z = float(np.prod(order_y)), float(np.prod(order_z))
    points = sources * (30e-9 + 0.2e-9 * P_y * channels) + targets * (60e-9 + 0.25e-9 * P_z * channels)
    cells = (
        min(float(np.prod(slabs.astype(float))), sources) * P_y
        + min(float(np.prod(slabs.astype(float))), targets) * P_z
    )
    return 1e-3 + points + channels * flops / 12e9 + 3e-9 * cells
