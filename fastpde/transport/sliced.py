"""The sliced Wasserstein distance: the mean over random directions of the exact distances on the line."""

from __future__ import annotations

import numpy as np

from .._numbers import whole
from .._types import Array
from .line import line_cost, line_cost_to_normal
from .measures import Normal, Weighted, common_unit


def sliced(x: Weighted, y: Weighted | Normal, p: float, projections: int, seed: int) -> tuple[float, float]:
    """Return SW_p = (mean over unit vectors u of W_p^p(<u, x>, <u, y>))^{1/p}, and its Monte-Carlo standard error.

    The projections of a Gaussian law are known, so that it is not sampled. O(projections n log n) time, O(n) memory.
    """
    unit = 1.0
    if isinstance(y, Weighted):
        x, y, unit = common_unit(x, y)
    costs = np.array([_cost(x, y, u, p) for u in directions(x.x.shape[1], projections, seed)])
    mean = float(costs.mean())
    value = mean ** (1.0 / p)
    spread = float(costs.std(ddof=1)) / np.sqrt(projections)
    # The root's slope carries the error of the mean over; at zero all costs are zero.
    error = spread / (p * value ** (p - 1.0)) if value > 0.0 else 0.0
    return value * unit, float(error * unit)


def directions(d: int, count: int, seed: int) -> Array:
    """Draw independent uniform unit vectors of R^d, (count, d). Raises InputError naming projections or seed."""
    count, seed = whole("projections", count, 2), whole("seed", seed, 0)
    drawn = np.random.default_rng(seed).normal(size=(count, d))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _cost(x: Weighted, y: Weighted | Normal, u: Array, p: float) -> float:
    seen = Weighted((x.x @ u)[:, None], x.w)
    if isinstance(y, Weighted):
        return line_cost(seen, Weighted((y.x @ u)[:, None], y.w), p)
    return line_cost_to_normal(seen, float(y.mean @ u), float(np.linalg.norm(u @ y.factor)), p)
