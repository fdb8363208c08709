"""Quadrature rules: nodes and weights of Gauss rules, of directions and of tensor products; weights sum to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .._numbers import whole
from .._types import Array
from ..errors import InputError
from .law import MOST_NODES, fixed

Rule = tuple[Array, Array]  # nodes (q,) or (q, d), weights (q,)
_MOST = 2000  # points per axis


@lru_cache(maxsize=64)
def _gauss(kind: str, m: int, power: int) -> Rule:
    from scipy import special

    if kind == "hermite":
        x, w = special.roots_hermitenorm(m)
    else:
        x, w = special.roots_legendre(m) if power == 0 else special.roots_jacobi(m, 0.0, float(power))
    return fixed(x), fixed(w / w.sum())


def hermite(m: Any) -> Rule:
    """Return the m nodes (m,) and weights of N(0, 1), exact to degree 2m - 1. Raises InputError, InputTypeError."""
    return _gauss("hermite", whole("m", m, 1, _MOST), 0)


def legendre(m: Any, low: Any, high: Any) -> Rule:
    """Return m nodes (m,) and weights of the uniform law on [low, high], exact to degree 2m - 1.

    Raises InputError, InputTypeError naming m.
    """
    x, w = _gauss("legendre", whole("m", m, 1, _MOST), 0)
    return 0.5 * (low + high) + 0.5 * (high - low) * x, w


def radii(m: Any, d: int) -> Rule:
    """Return m nodes (m,) in (0, 1) and weights of the density d r^{d-1}, exact to degree 2m - 1: a Gauss-Jacobi rule.

    Raises InputError, InputTypeError naming m.
    """
    x, w = _gauss("jacobi", whole("m", m, 1, _MOST), d - 1)
    return 0.5 * (1.0 + x), w


def directions(m: Any, d: int) -> Rule:
    """Return unit vectors (q, d) and weights of the uniform law on the sphere, d = 1, 2, 3, exact to degree 2m - 1.

    They are both signs in d = 1, 2m equal angles in d = 2, and m Gauss-Legendre heights times 2m angles in d = 3.
    Raises InputError, InputTypeError.
    """
    count = whole("m", m, 1, _MOST)
    if d == 1:
        return np.array([[-1.0], [1.0]]), np.array([0.5, 0.5])
    angle = (np.arange(2 * count) + 0.5) * (math.pi / count)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    if d == 2:
        return circle, np.full(2 * count, 0.5 / count)
    if d > 3:
        raise InputError("law", f"dimension {d}", "dimension 1, 2 or 3 for quadrature", "Take sobol(n, seed).")
    height, w = _gauss("legendre", count, 0)
    check_count(m, [count, 2 * count])
    across = np.sqrt((1.0 - height) * (1.0 + height))
    rings = across[:, None, None] * circle
    x = np.concatenate([rings, np.broadcast_to(height[:, None, None], (count, 2 * count, 1))], axis=-1)
    return x.reshape(-1, 3), np.repeat(w, 2 * count) * (0.5 / count)


def polar(m: Any, radius: Rule, d: int) -> Rule:
    """Return the nodes (q, d) and weights of a law with independent radius and uniform direction.

    Raises InputError, InputTypeError.
    """
    e, w = directions(m, d)
    r, v = radius
    check_count(m, [len(r), len(e)])
    return thinned((r[:, None, None] * e).reshape(-1, d), (v[:, None] * w).ravel())


def tensor(rules: Sequence[Rule]) -> Rule:
    """Return the nodes (q, d) and weights (q,) of independent coordinates, or groups of them, from their rules.

    Raises InputError naming m if the nodes are too many.
    """
    check_count(max(len(w) for _, w in rules), [len(w) for _, w in rules])
    x, w = np.empty((1, 0)), np.ones(1)
    for nodes, weights in rules:
        nodes = nodes.reshape(len(weights), -1)
        x = np.concatenate([np.repeat(x, len(nodes), axis=0), np.tile(nodes, (len(x), 1))], axis=1)
        w = (w[:, None] * weights).ravel()
    return thinned(x, w)


def thinned(x: Array, w: Array) -> Rule:
    """Return a rule without the nodes whose weight is 0, its weights divided by their sum."""
    kept = w > 0.0
    return x[kept], w[kept] / w[kept].sum()


def check_count(m: Any, sizes: Sequence[int]) -> None:
    """Raise InputError naming m if a product of rules of these sizes has too many nodes."""
    if math.prod(sizes) > MOST_NODES:
        came = f"{m}, which makes {math.prod(sizes):,} nodes"
        raise InputError("m", came, f"at most {MOST_NODES:,} nodes", "Take a smaller m, or sobol(n, seed).")
