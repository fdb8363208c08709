"""Sigmoid attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import NoGaussianClosure
from ..laws import SigmoidLaw
from .base import Cloud
from .closure import Affine, times, transposed
from .pairwise import PairwiseAttention, Scores
from .parameters import Parameter, Value, scalar
from .rates import Rate, norm

if TYPE_CHECKING:
    from ..backends.base import Backend
    from ..backends.tilt import Tilt


class Sigmoid(PairwiseAttention):
    """Gamma_mu(x) = V int y sigma(s(x,y) + bias) dmu(y), sigma(z) = 1/(1 + e^-z), s(x, y) = scale <Qx, Ky>.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = SigmoidLaw()
    normalised = False

    def __init__(self, Q: Value, K: Value, V: Value, scale: Value = 1.0, bias: Value = 0.0) -> None:
        """As `PairwiseAttention`, with a bias: a number, (B,), a function of time, or `Layers`."""
        self.bias = scalar("bias", bias)
        super().__init__(Q, K, V, scale)

    def parameters(self) -> Iterator[Parameter]:
        yield from super().parameters()
        yield self.bias

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        raise NoGaussianClosure(
            "Sigmoid attention is not affine for a Gaussian law: the law stops being Gaussian at once (MATH 2.3). "
            "Its velocity is known: gaussian_velocity."
        )

    def gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        """V (mean E sigma(z) + S A x E sigma'(z)), z ~ N(<Ax, mean> + bias, <Ax, S A x>)."""
        tilt = x @ transposed(self.score_matrix(t))
        seen = tilt @ factor
        bias = self.bias(t)
        centre = times(tilt, mean) + (bias[:, None] if bias.ndim else bias)
        value, slope = _expected_sigmoid(centre, np.sqrt(np.sum(seen * seen, axis=-1)))
        inner = mean[..., None, :] * value[..., None] + (seen @ transposed(factor)) * slope[..., None]
        return inner @ transposed(self.V(t))

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """v (1 + a R^2 / 2), every p: 0 <= sigma <= 1 and 0 <= sigma' <= 1/4."""
        yield Rate.of(norm(self.V(t), W), p, xi=0.5 * norm(self.score_matrix(t)))

    def tilt(self) -> Tilt | None:
        return self.plain_tilt(self.bias(0.0)) if self.bias.constant else None

    def scores(self, cloud: Cloud, t: float, backend: Backend, centre: Array | None) -> Scores:
        plain = super().scores(cloud, t, backend, centre)
        value = self.bias(t)
        if not value.any():
            return plain
        bias = backend.take("bias", cloud.x.shape[:2], cloud.x.dtype)
        bias[...] = np.broadcast_to(value.reshape(-1, 1), bias.shape)
        return Scores(plain.targets, plain.keys, bias)


def _expected_sigmoid(centre: Array, spread: Array) -> tuple[Array, Array]:
    """E sigma(z) and E sigma'(z) for z ~ N(centre, spread^2), elementwise, to rounding.

    The trapezoidal rule on [-9, 9] standard deviations: the contour may move up to the poles at distance
    p = pi / spread, which makes its error e^{p^2 / 2 - 2 pi p / step}; e^{-42} leaves room for their order.
    """
    reach, digits = 9.0, 42.0
    p = min(np.pi / max(float(np.max(spread, initial=0.0)), 1e-300), np.sqrt(2.0 * digits))
    step = 2.0 * np.pi * p / (digits + 0.5 * p * p)
    nodes = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1.0) * step
    bell = np.exp(-0.5 * nodes * nodes)
    value, slope = np.zeros_like(centre), np.zeros_like(centre)
    for node, weight in zip(nodes, bell / bell.sum(), strict=True):
        z = centre + spread * node
        small = np.exp(-np.abs(z))
        value += weight * np.where(z >= 0.0, 1.0, small) / (1.0 + small)
        slope += weight * small / (1.0 + small) ** 2
    return value, slope
