"""Energies of particle systems (MATH 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._types import Array, as_tokens
from .attention.base import Attention, make_cloud
from .errors import InputTypeError


def interaction_energy(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
) -> float | Array:
    """E(mu) = 1/2 iint weight(s(x, y)) dmu(x) dmu(y), summed over heads; masked pairs count zero. inf on overflow.

    weight is e^s (Softmax, Exponential), e^{-scale |Qx-Ky|^2} (L2), sigma(s + bias) (Sigmoid) or s (Linear).

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.

    Returns:
        A float, or (B,) for a batch.

    Source: MATH 7; Castin et al. 2025.
    """
    from .backends import resolve

    if not isinstance(attention, Attention):
        raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
    tokens = as_tokens("x", x)
    cloud = make_cloud(attention, tokens, weights, positions, None, None)
    attention.check(cloud.x, t)
    total = np.zeros(cloud.x.shape[0])
    for masses in attention.masses(cloud, float(t), resolve(backend)):
        if cloud.weights is None:
            total += 0.5 * masses.mean(axis=1)
        else:
            total += 0.5 * (cloud.weights * masses).sum(axis=1)
    return total if tokens.ndim == 3 else float(total[0])
