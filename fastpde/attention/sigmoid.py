"""Sigmoid attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .. import weights
from .parameters import Parameter, Value, scalar
from .score import Score
from .single_head import SingleHead


class Sigmoid(SingleHead):
    """Gamma_mu(x) = V int y sigma(s(x,y) + bias) dmu(y), sigma(z) = 1/(1 + e^-z), s(x, y) = scale <Qx, Ky>.

    Source: Theory 1.1; Castin et al. 2025.
    """

    weight = weights.Sigmoid()
    normalised = False

    def __init__(
        self,
        Q: Value,
        K: Value,
        V: Value,
        scale: Value = 1.0,
        bias: Value = 0.0,
        *,
        weight: weights.Weight | None = None,
    ) -> None:
        """Make a head as `SingleHead` does, with a bias: a number, (B,), a function of time, or `Layers`."""
        self.bias = scalar("bias", bias)
        super().__init__(Q, K, V, scale, weight=weight)

    def parameters(self) -> Iterator[Parameter]:
        yield from super().parameters()
        yield self.bias

    def score(self, t: float) -> Score:
        return replace(super().score(t), bias=self.bias(t))
