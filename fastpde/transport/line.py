"""Optimal transport on the line: the monotone coupling, exact for every p >= 1, in O(n log n)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .._types import Array
from ..errors import InputError
from .measures import Weighted


def line_cost(x: Weighted, y: Weighted, p: float) -> float:
    """Return W_p^p of measures on the line: int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du, F, G their distribution functions."""
    if x.w is None and y.w is None and len(x.x) == len(y.x):
        return float((np.abs(np.sort(x.x[:, 0]) - np.sort(y.x[:, 0])) ** p).mean())
    (a, left), (b, right) = _quantiles(x), _quantiles(y)
    # Both quantile functions are constant between neighbouring levels.
    levels = np.union1d(left, right)
    gaps = np.diff(levels, prepend=0.0)
    moved = a[np.searchsorted(left, levels)] - b[np.searchsorted(right, levels)]
    return float(gaps @ np.abs(moved) ** p)


def line_cost_to_normal(x: Weighted, mean: float, deviation: float, p: float) -> float:
    """Return W_p^p of a measure on the line and N(mean, deviation^2), in closed form for p = 1 and 2.

    Token i receives the part of the normal law between the levels u_{i-1} and u_i, over which the integrals of
    z^k phi(z) are known. Raises InputError for other p.
    """
    if p not in (1.0, 2.0):
        raise InputError("p", f"{p:g}", "1 or 2 for the distance to a Gaussian law")
    points, levels = _quantiles(x)
    c = points - mean
    if p == 1.0:
        return _first_power(c, deviation, _ends(levels))
    mass, centre, variance = _parts(levels) if x.w is not None else _equal_parts(len(levels))
    apart = mass * (c - deviation * centre) ** 2
    return float(apart.sum() + deviation**2 * variance)


def _ends(levels: Array) -> Array:
    """Return -inf, then the points at which the standard normal distribution function reaches each level, (n + 1,)."""
    from scipy.special import ndtri

    return np.concatenate(([-np.inf], ndtri(levels)))


def _parts(levels: Array) -> tuple[Array, Array, float]:
    """Cut the standard normal law at levels (n,) of its distribution function.

    Returns the masses (n,) and means (n,) of the parts, and the sum of their masses times variances.
    """
    z = _ends(levels)
    mass, bell, edge = np.diff(levels, prepend=0.0), _bell(z), _edge(z)
    first, second = -np.diff(bell), mass - np.diff(edge)  # int z phi, int z^2 phi
    centre = first / mass
    return mass, centre, float(np.maximum(second - first * centre, 0.0).sum())


@lru_cache(maxsize=1)
def _equal_parts(n: int) -> tuple[Array, Array, float]:
    """Do as `_parts` for n equal levels, which are the same for every projection of n tokens."""
    return _parts(np.arange(1, n + 1) / n)


def _first_power(c: Array, deviation: float, z: Array) -> float:
    """Return sum_i int_{z_{i-1}}^{z_i} |c_i - deviation z| phi(z) dz.

    The sign in each integral changes once, at c_i / deviation.
    """
    from scipy.special import ndtr

    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.where(deviation > 0.0, c / deviation, np.sign(c) * np.inf)
    turn = np.clip(np.nan_to_num(turn, nan=0.0, posinf=np.inf, neginf=-np.inf), z[:-1], z[1:])

    def primitive(at: Array) -> Array:
        return c * ndtr(at) + deviation * _bell(at)

    return float((2.0 * primitive(turn) - primitive(z[:-1]) - primitive(z[1:])).sum())


def _quantiles(x: Weighted) -> tuple[Array, Array]:
    """Return the tokens in order, and the level at which the distribution function reaches each; the last one is 1."""
    if x.w is None:
        return np.sort(x.x[:, 0]), np.arange(1, len(x.x) + 1) / len(x.x)
    order = np.argsort(x.x[:, 0], kind="stable")
    levels = np.minimum(np.cumsum(x.w[order]), 1.0)
    levels[-1] = 1.0
    # Levels that rounding made equal leave a token without mass; it must not divide by it either.
    keep = np.diff(levels, prepend=0.0) > 0.0
    return x.x[order, 0][keep], levels[keep]


def _bell(z: Array) -> Array:
    """Return the standard normal density; 0 at infinity."""
    return np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)


def _edge(z: Array) -> Array:
    """Return z phi(z); 0 at infinity."""
    return np.where(np.isinf(z), 0.0, z) * _bell(z)
