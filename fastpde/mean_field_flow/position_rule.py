"""Integrals over the positions that a token sees, int_0^s, by one rule of positions for all s: product integration."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..laws.quadrature import legendre


class PositionRule:
    """The Gauss-Legendre rule of the uniform law of positions on [0, 1], and what its nodes say of a function of s.

    A function is known at the nodes s_b, and thereby its interpolating polynomial sum_b l_b(s) g(s_b). All integrals
    are those of this polynomial: if the function is smooth their error falls faster than any power of the number of
    nodes, where a sum over the nodes up to s has an error of first order.

    Attributes:
        s: (P,) the nodes, increasing.
        weights: (P,) their weights, which sum to 1.

    Source: Theory 13.3.
    """

    def __init__(self, count: int) -> None:
        self.s, self.weights = legendre(count, 0.0, 1.0)
        # l_b(s) = w_b sum_k (2k + 1) P_k(2 s_b - 1) P_k(2 s - 1), k < P.
        degrees = 2.0 * np.arange(count) + 1.0
        self._modes = self.weights * (degrees[:, None] * _legendre_values(2.0 * self.s - 1.0, count).T)

    def interpolation(self, s: Array) -> Array:
        """Return l_b(s) (k, P) at positions s (k,); they sum to 1, and sum_b l_b(s) g(s_b) is the polynomial at s."""
        return np.asarray(_legendre_values(2.0 * s - 1.0, len(self.s)) @ self._modes)

    def average(self, s: Array) -> Array:
        """Return (1/s) int_0^s l_b (k, P), the weights of averages over [0, s], which may be negative and sum to 1.

        At s = 0 that is l_b(0). With x = 2s - 1 the average of P_k, k > 0, is -(1 - x) P_k'(x) / (k (k + 1)), which
        loses no digits at x = -1.
        """
        count = len(self.s)
        values = _legendre_values(2.0 * s - 1.0, count)
        slopes, averages = np.zeros_like(values), np.ones_like(values)
        for k in range(1, count):
            slopes[:, k] = (2 * k - 1) * values[:, k - 1] + (slopes[:, k - 2] if k > 1 else 0.0)
            averages[:, k] = -2.0 * (1.0 - s) * slopes[:, k] / (k * (k + 1.0))
        return np.asarray(averages @ self._modes)


def _legendre_values(x: Array, count: int) -> Array:
    """Return the Legendre polynomials P_j(x) (k, count) at x (k,), j < count."""
    return np.asarray(np.polynomial.legendre.legvander(x, count - 1))
