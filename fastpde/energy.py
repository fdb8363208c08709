"""Energies of particle systems (Theory 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._types import Array, as_tokens
from .attention.base import Attention
from .attention.cloud import Cloud, make_cloud
from .attention.sinkhorn import Sinkhorn
from .errors import InputTypeError


def interaction_energy(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
    log: bool = False,
) -> float | Array:
    """Return E(mu) = 1/2 iint weight(s(x, y)) dmu(x) dmu(y), summed over heads; inf on overflow.

    Masked pairs count zero. The weight is e^s (Softmax, Exponential), e^{-scale |Qx-Ky|^2} (L2), sigma(s + bias)
    (Sigmoid) or s (Linear).

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.
        log: return log E, which does not overflow; nan where the total weight of a token is negative (Linear).

    Returns:
        A float, or (B,) for a batch.

    Source: Theory 7; Castin et al. 2025.
    """
    from .sums import resolve

    if not isinstance(attention, Attention):
        raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
    tokens = as_tokens("x", x)
    summing = resolve(backend)
    cloud = make_cloud(attention, tokens, summing, weights, positions)
    attention.check(cloud.x, t)
    total = np.full(cloud.x.shape[0], -np.inf) if log else np.zeros(cloud.x.shape[0])
    made = attention.log_totals if log else attention.totals
    # Totals may overflow, also to both signs, and their logarithms are nan where they are negative.
    with summing.evaluation(), np.errstate(over="ignore", invalid="ignore"):
        for totals in made(cloud, float(t), summing):
            if log:
                total = np.logaddexp(total, _log_mean(totals, cloud) - np.log(2.0))
            else:
                total += 0.5 * cloud.mean(totals)
    return total if tokens.ndim == 3 else float(total[0])


def _log_mean(logs: Array, cloud: Cloud) -> Array:
    """Return log int e^logs dmu, (B,), for logs (B, n), without overflow."""
    top = cloud.partition.largest(logs.max(axis=1, keepdims=True))
    with np.errstate(invalid="ignore"):
        masses = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
    mean = cloud.mean(masses)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mean) + np.where(np.isfinite(top), top, 0.0)[:, 0])


def sinkhorn_energy(
    attention: Sinkhorn, x: Any, *, weights: Any = None, t: float = 0.0, backend: Any = "auto"
) -> float | Array:
    """Return S_eps(mu) = min_pi int -s dpi + eps KL(pi | mu x mu) = eps (int f + int g) dmu.

    The minimum is over all couplings pi of mu and mu. With Q^T K symmetric the Sinkhorn flow descends the energy for
    V = Q^T K and ascends it for V = -Q^T K.

    Args:
        attention: an `fp.Sinkhorn` without n_half; its tol bounds the marginal error of the potentials.
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.

    Returns:
        A float, or (B,) for a batch.

    Raises:
        InputError, InputTypeError: naming the argument. ConvergenceError: tol was not reached within max_iter.

    Source: Theory 7; Castin et al. 2025.
    """
    from .sums import resolve

    if not isinstance(attention, Sinkhorn):
        need = "an fp.Sinkhorn(Q, K, V)"
        raise InputTypeError("attention", type(attention).__name__, need, "Others have fp.interaction_energy.")
    tokens = as_tokens("x", x)
    summing = resolve(backend)
    cloud = make_cloud(attention, tokens, summing, weights)
    attention.check(cloud.x, t)
    with summing.evaluation():
        total = attention.energy(cloud, float(t), summing)
    return total if tokens.ndim == 3 else float(total[0])
