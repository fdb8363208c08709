"""Sigmoid attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..laws import SigmoidLaw
from .base import Cloud
from .pairwise import PairwiseAttention, Scores
from .parameters import Parameter, Value, scalar

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
