"""The conditional Wasserstein distance, for masked attention: tokens move within their position only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array, as_positions, as_weights
from ..errors import InputError, explained
from .measures import Weighted, as_cloud, as_power, common_unit, same_dimension
from .wasserstein import exact_cost

_SAME = 1e-9  # relative difference of two masses of one position that is rounding


@explained
def conditional_wasserstein(
    x: Any,
    y: Any,
    positions: Any,
    p: float = 2,
    *,
    weights: Any = None,
    y_positions: Any = None,
    y_weights: Any = None,
) -> float:
    """Return d_p(mu, nu) = (int W_p^p(mu^s, nu^s) dtheta(s))^{1/p}, with the laws mu^s, nu^s at position s.

    At a position of one token and one W_p is |x_i - y_j|; at one of m and k tokens it is their exact distance. So
    d_p >= W_p. With one random token per position d_p does not converge to the distance of the laws they are drawn
    from: that needs many tokens per position.

    Args:
        x, y: tokens (n, d) at the same positions with the same weights; or y (m, d) at `y_positions`.
        positions: (n,), any finite numbers; equal ones are one position.
        p: a number >= 1.
        weights: (n,), positive, sum 1; default 1/n.
        y_positions: (m,), the same positions as those of x, each with the same mass; the numbers of tokens there may
            differ, as of a cloud and a finer one that stands for its limit. Default: those of x.
        y_weights: (m,) as `weights`; default: with `y_positions` 1/m, else those of x.

    Raises:
        InputError, InputTypeError: naming the argument; also where the laws of positions differ, so that d_p is
            infinite. TransportError: an assignment that could not be found.

    Source: Theory 9; Castin et al. 2025.
    """
    left, right, p = as_cloud("x", x), as_cloud("y", y), as_power(p)
    same_dimension(left, right)
    n, m = len(left.x), len(right.x)
    if y_positions is None and m != n:
        raise InputError("y", f"{m} tokens", f"{n}, as x", "Give y_positions, or one law of positions to both clouds.")
    left, right, unit = common_unit(left, right)
    a = _Ordered.of(left.x, as_positions("positions", positions, n), _masses("weights", weights, left.x))
    if y_positions is None:
        w = weights if y_weights is None else y_weights
        b = _Ordered.of(right.x, as_positions("positions", positions, n), _masses("y_weights", w, right.x))
    else:
        at = as_positions("y_positions", y_positions, m)
        b = _Ordered.of(right.x, at, _masses("y_weights", y_weights, right.x))
    _check_marginals(a, b)
    alone = (a.counts == 1) & (b.counts == 1)
    i, j = a.starts[alone], b.starts[alone]
    total = float(a.masses[i] @ np.linalg.norm(a.x[i] - b.x[j], axis=1) ** p)
    for k in np.flatnonzero(~alone).tolist():
        total += a.totals[k] * exact_cost(a.at(k), b.at(k), p)
    return float(total ** (1.0 / p) * unit)


@dataclass(frozen=True)
class _Ordered:
    """Tokens in the order of their positions: positions (k,), and where each starts; masses (n,) and their totals."""

    x: Array
    masses: Array
    positions: Array
    starts: Array
    counts: Array

    @staticmethod
    def of(x: Array, positions: Array, masses: Array) -> _Ordered:
        """Sort tokens (n, d) by position; those of one position stay in their order."""
        order = np.argsort(positions, kind="stable")
        values, starts, counts = np.unique(positions[order], return_index=True, return_counts=True)
        return _Ordered(x[order], masses[order], values, starts, counts)

    @property
    def totals(self) -> Array:
        """The mass (k,) of each position."""
        return np.add.reduceat(self.masses, self.starts)

    def at(self, k: int) -> Weighted:
        """Return the law of the tokens at the k-th position."""
        part = slice(self.starts[k], self.starts[k] + self.counts[k])
        masses = self.masses[part]
        return Weighted(self.x[part], None if np.ptp(masses) == 0.0 else masses / masses.sum())


def _masses(name: str, weights: Any, x: Array) -> Array:
    """Return the masses (n,) of tokens, with sum 1. Raises InputError, InputTypeError."""
    w = as_weights(weights, x.shape, name)
    return np.full(len(x), 1.0 / len(x)) if w is None else w[0] / w[0].sum()


def _check_marginals(a: _Ordered, b: _Ordered) -> None:
    """Raise InputError unless both clouds have the same positions with the same masses: d_p is infinite otherwise."""
    need = "the positions of x, each with the mass that it has there: the distance is infinite otherwise"
    if not np.array_equal(a.positions, b.positions):
        other = np.setxor1d(a.positions, b.positions)
        raise InputError("y_positions", f"{len(other)} positions of one cloud alone, as {other[0]:g}", need)
    off = np.abs(a.totals - b.totals)
    worst = int(np.argmax(off / a.totals))
    if off[worst] > _SAME * a.totals[worst]:
        came = f"masses {a.totals[worst]:.6g} and {b.totals[worst]:.6g} at position {a.positions[worst]:g}"
        raise InputError("y_weights", came, need)
