"""Weights: what an attention makes of a score s, w(s), in readable formulas.

A weight is a NamedTuple without fields; its *type* selects the code of a kernel, so kernels are compiled and cached
once per weight and name none. `simd.emitters` has the same formulas for vectors of scores in registers.

To add a weight: one class here, its place in WEIGHTS, and one entry of `simd.emitters`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._types import Array


class Exp(NamedTuple):
    """w(s) = e^s: Softmax, L2, unnormalised exponential and Sinkhorn attention."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return np.exp(s)

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        return np.exp(s)

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Return c, v, v' with E w(z) = c v and E w'(z) = c v' for z ~ N(mean, spread^2); c may overflow."""
        one = np.ones_like(mean)
        return np.exp(mean + 0.5 * spread * spread), one, one


class Sigmoid(NamedTuple):
    """w(s) = 1 / (1 + e^-s): sigmoid attention."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return 1.0 / (1.0 + np.exp(-s))

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        small = np.exp(-np.abs(s))
        return small / (1.0 + small) ** 2

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """As `Exp.expected`, to rounding.

        The trapezoidal rule on [-9, 9] standard deviations: the contour may move up to the poles at distance
        p = pi / spread, which makes its error e^{p^2 / 2 - 2 pi p / step}; e^{-42} leaves room for their order.
        """
        reach, digits = 9.0, 42.0
        p = min(np.pi / max(float(np.max(spread, initial=0.0)), 1e-300), np.sqrt(2.0 * digits))
        step = 2.0 * np.pi * p / (digits + 0.5 * p * p)
        nodes = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1.0) * step
        bell = np.exp(-0.5 * nodes * nodes)
        value, slope = np.zeros_like(mean), np.zeros_like(mean)
        for node, part in zip(nodes, bell / bell.sum(), strict=True):
            z = mean + spread * node
            small = np.exp(-np.abs(z))
            value += part * np.where(z >= 0.0, 1.0, small) / (1.0 + small)
            slope += part * small / (1.0 + small) ** 2
        return np.ones_like(mean), value, slope


class Linear(NamedTuple):
    """w(s) = s: linear attention, which is summed by moments, never pair by pair; and plain linear maps."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return np.asarray(s)

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        return np.ones_like(s)

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """As `Exp.expected`."""
        one = np.ones_like(mean)
        return one, mean, one


WEIGHTS: tuple[Any, ...] = (Exp(), Sigmoid(), Linear())


def is_exponential(weight: Any) -> bool:
    """Return whether w(s + c) = w(c) w(s): a sum may be taken relative to its largest weight."""
    return isinstance(weight, Exp)


def is_bounded(weight: Any) -> bool:
    """Return whether all weights are bounded."""
    return isinstance(weight, Sigmoid)


def is_positive(weight: Any) -> bool:
    """Return whether all weights are positive, so that totals have logarithms."""
    return not isinstance(weight, Linear)
