"""The conditional Wasserstein distance, for masked attention: tokens move within their position only."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array, as_positions, as_weights
from ..errors import InputError
from .measures import Weighted, as_cloud, as_power, common_unit, same_dimension
from .wasserstein import exact_cost


def conditional_wasserstein(x: Any, y: Any, positions: Any, p: float = 2, *, weights: Any = None) -> float:
    """Return d_p(mu, nu) = (int W_p^p(mu^s, nu^s) dtheta(s))^{1/p}, with the laws mu^s, nu^s at position s.

    At a position of one token W_p is |x_i - y_i|; at one of m tokens it is the exact distance of m and m tokens. So
    d_p >= W_p. With one random token per position d_p does not converge to the distance of the laws they are drawn
    from: that needs many tokens per position.

    Args:
        x, y: tokens (n, d) at the same positions with the same weights.
        positions: (n,), any finite numbers; equal ones are one position.
        p: a number >= 1.
        weights: (n,), positive, sum 1; default 1/n.

    Raises:
        InputError, InputTypeError: naming the argument. TransportError: an assignment that could not be found.

    Source: Theory 9; Castin et al. 2025.
    """
    left, right, p = as_cloud("x", x), as_cloud("y", y), as_power(p)
    same_dimension(left, right)
    n = len(left.x)
    if len(right.x) != n:
        raise InputError("y", f"{len(right.x)} tokens", f"{n}, as x", "Both clouds have one law of positions.")
    w = as_weights(weights, left.x.shape)
    masses = np.full(n, 1.0 / n) if w is None else w[0] / w[0].sum()
    left, right, unit = common_unit(left, right)
    order, starts = _groups(as_positions("positions", positions, n))
    a, b, masses = left.x[order], right.x[order], masses[order]
    counts = np.diff(starts, append=n)
    alone = starts[counts == 1]
    total = float(masses[alone] @ np.linalg.norm(a[alone] - b[alone], axis=1) ** p)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        part = slice(start, start + count)
        mass = masses[part].sum()
        own = None if np.ptp(masses[part]) == 0.0 else masses[part] / mass
        total += mass * exact_cost(Weighted(a[part], own), Weighted(b[part], own), p)
    return float(total ** (1.0 / p) * unit)


def _groups(positions: Array) -> tuple[Array, Array]:
    """Return an order of the tokens by position, and the index in this order at which each position starts."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    return order, np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
