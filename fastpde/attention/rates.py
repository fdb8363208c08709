"""How fast an attention can move tokens apart: bounds that each variant states of its field (Theory 8.1, 8.2).

Along any coupling of two measures in the ball B_R, |d Gamma| <= w [xi R^2 |dx| + (h + c R^2) (E_kappa |dy|^p)^{1/p}],
and the row density kappa of the average is at most e^{e p R^2}. So W_p grows at most at the rate `Rate.of_distance`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from .parameters import column
from .score import Score


@dataclass(frozen=True)
class Rate:
    """One head's bounds on B_R: |Gamma| <= w R, L(R) = w [xi R^2 + (h + c R^2) e^{e R^2}], w = v R^{2 power} e^{b R^2}.

    xi, h, c, e are arrays (k,) of alternatives: each gives a bound, and the least one counts.
    """

    v: float
    xi: Array
    h: Array
    c: Array
    e: Array
    power: int = 0
    b: float = 0.0
    averages: bool = False  # kappa is normalised: under a mask it is so for every position

    @staticmethod
    def of(
        v: float, p: Array, *, xi: float = 0.0, h: float = 1.0, c: Array | float = 0.0, eta: float = 0.0, **other: Any
    ) -> Rate:
        """Make the bounds for exponents p (k,), with e = eta / p."""
        one = np.ones_like(p)
        return Rate(v, xi * one, h * one, c * one, eta / p, **other)

    def of_size(self, R: float) -> float:
        """Return w(R), the largest rate at which |x| grows."""
        return float(self.v * R ** (2 * self.power) * np.exp(self.b * R * R))

    def of_distance(self, R: float) -> float:
        """Return L(R), the largest rate at which W_p grows."""
        r = R * R
        return self.of_size(R) * float((self.xi * r + (self.h + self.c * r) * np.exp(self.e * r)).min())

    def behind_mask(self, p: float, exponents: Array) -> Rate:
        """Return the bounds in the conditional distance d_p, from those of `exponents` r < p by Hardy's inequality.

        The average over [0, s] is one over positions too: (p / (p - r))^{1/r} is its norm on L^{p/r}; 1 for p = inf.
        """
        if np.isinf(p):
            return self
        hardy = (1.0 / (1.0 - exponents / p)) ** (1.0 / exponents)
        return replace(self, h=self.h * hardy, c=self.c * hardy)


def spread(p: Array) -> Array:
    """Return c_p: 1 for p >= 2, where a standard deviation bounds |y - mean|, and 2 below, where 2 R does."""
    return np.where(p < 2.0, 2.0, 1.0)


def norm(matrix: Array, W: Sequence[Array] = ()) -> float:
    """Return the operator norm of the product of the matrices W and a matrix. Raises InputError for a batch of them."""
    whole = functools.reduce(lambda value, outer: outer @ value, reversed(W), matrix)
    if whole.ndim != 2:
        raise InputError("attention", f"parameters for {len(whole)} systems", "one system", "Take attention.system(b).")
    return float(np.linalg.norm(whole, 2))


def exponents_below(p: float) -> Array:
    """Return exponents r in [1, p) to choose from. Raises InputError for p = 1, where Hardy's inequality fails."""
    if p <= 1.0:
        raise InputError("p", f"{p:g}", "p > 1 for masked attention that averages", "No bound in d_1 is known.")
    return np.array([np.inf]) if np.isinf(p) else 1.0 + (p - 1.0) * np.arange(32) / 32


def of_score(score: Score, p: Array, W: Sequence[Array] = ()) -> Rate | None:
    """Return what bounds the field of a head times the matrices W, for exponents p (k,) of W_p; None: no known bound.

    a = |A|, q and k the norms of Q and K times the root of the scale, v = |W V|, W the product:

        averages by e^{<A x, y>}:           v [a R^2 + (1 + c_p a R^2) e^{2 a R^2 / p}]
        averages by e^{-scale |Qx - Ky|^2}: v [2 a R^2 + (1 + 2 c_p k (q + k) R^2) e^{(q + k)^2 R^2 / p}]
        sums of w(<A x, y> + bias):         v (sup |w| + 2 a R^2 sup |w'|), every p
    """
    if score.positional:
        return None
    v, a = norm(score.V, W), norm(score.matrix)
    if score.shifts and score.distance:
        root = np.sqrt(np.abs(column(score.scale)))
        q, k = norm(root * score.Q), norm(root * score.K)
        return Rate.of(v, p, xi=2.0 * a, c=2.0 * spread(p) * k * (q + k), eta=(q + k) ** 2, averages=True)
    if score.distance or (score.normalised and not score.shifts):
        return None
    if score.shifts:
        return Rate.of(v, p, xi=a, c=spread(p) * a, eta=2.0 * a, averages=True)
    match score.weight:
        case weights.Weight(bounded_by=(value, slope)):  # a weight that is nowhere more than zero moves nothing
            return Rate.of(v * value, p, xi=2.0 * a * slope / value) if value > 0.0 else Rate.of(0.0, p)
        case weights.Exp():  # sup |w| = sup |w'| = e^{a R^2}
            return None if score.bias.any() else Rate.of(v, p, xi=2.0 * a, b=a)
        case weights.Sigmoid():  # at most 1 and 1/4, whatever the bias
            return Rate.of(v, p, xi=0.5 * a)
        case weights.Linear():  # a R^2 and 1
            return None if score.bias.any() else Rate.of(v * a, p, h=3.0, power=1)
    return None
