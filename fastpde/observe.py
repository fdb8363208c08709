"""Read-only diagnostics of a cloud of tokens x (n, d); sums run in float64, block by block, in O(n d) memory
or less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastpde.errors import InputError

Array = np.ndarray[Any, Any]
_BLOCK = 65_536  # rows whose float64 copy is alive at a time


def _weighted(x: Array, weights: Array | None) -> Iterator[tuple[Array, Array]]:
    """Yield blocks of x in float64 with their weights, which sum to 1 over all blocks."""
    if x.ndim != 2 or 0 in x.shape:
        raise InputError("x", f"shape {x.shape}", "tokens of shape (n, d) with n, d >= 1")
    n = len(x)
    if weights is not None and np.shape(weights) != (n,):
        raise InputError("weights", f"shape {np.shape(weights)}", f"shape ({n},)")
    for start in range(0, n, _BLOCK):
        block = np.asarray(x[start : start + _BLOCK], dtype=np.float64)
        if weights is None:
            yield block, np.full(len(block), 1.0 / n)
        else:
            yield block, np.asarray(weights[start : start + _BLOCK], dtype=np.float64)


def mean(x: Array, weights: Array | None = None) -> Array:
    """Return sum_i w_i x_i, shape (d,); weights w (n,) sum to 1, default 1/n. Raises InputError on wrong shapes."""
    return np.sum([w @ block for block, w in _weighted(x, weights)], axis=0)


def covariance(x: Array, weights: Array | None = None, *, mean: Array | None = None) -> Array:
    """Return S = sum_i w_i (x_i - m)(x_i - m)^T, shape (d, d), about the mean m; `mean` is m if it is known already.

    It is inf or nan where squares overflow.
    """
    centre = _mean(x, weights) if mean is None else mean
    total = np.zeros((x.shape[1], x.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for block, w in _weighted(x, weights):
            block = block - centre
            total += (block * w[:, None]).T @ block
        return (total + total.T) / 2


_mean = mean  # `covariance` has an argument of that name


def spectrum(cov: Array) -> Array:
    """Return the eigenvalues of a covariance (d, d), largest first, 0 for those below; nan if it is not finite."""
    if not np.isfinite(cov).all():
        return np.full(len(cov), np.nan)
    return np.maximum(np.linalg.eigvalsh(cov)[::-1], 0.0)


def effective_rank(cov: Array) -> float:
    """Return exp(-sum_i p_i log p_i), p_i = lambda_i / tr S: between 1 and d, 0 for the zero matrix.

    It is scale-free, d for a multiple of the identity and 1 for a line (Roy and Vetterli 2007, with
    eigenvalues in place of singular values).
    """
    values = spectrum(np.asarray(cov, dtype=np.float64))
    if values[0] == 0.0:
        return 0.0
    values = values / values[0]  # the trace of huge values may overflow
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def participation_ratio(cov: Array) -> float:
    """Return (tr S)^2 / tr S^2: between 1 and d, at most `effective_rank`, 0 for the zero matrix.

    It is scale-free, too; small eigenvalues count less than in `effective_rank`.
    """
    values = spectrum(np.asarray(cov, dtype=np.float64))
    if values[0] == 0.0:
        return 0.0
    values = values / values[0]
    return float(values.sum() ** 2 / (values @ values))


def radius(x: Array) -> float:
    """Return max_i |x_i|."""
    # Scaled by the largest entry: squares of 1e200 would overflow.
    peak = max((float(np.abs(block).max()) for block, _ in _weighted(x, None)), default=0.0)
    if peak == 0.0 or not np.isfinite(peak):
        return peak
    return peak * max(float(np.linalg.norm(block / peak, axis=1).max()) for block, _ in _weighted(x, None))


def mean_cosine(x: Array, weights: Array | None = None) -> float:
    """Return the mean cosine of pairs of different tokens, in O(n d) through u_i = x_i / |x_i|.

    sum_{i != j} w_i w_j <u_i, u_j> / sum_{i != j} w_i w_j
        = (|sum_i w_i u_i|^2 - sum_i w_i^2 |u_i|^2) / (1 - sum_i w_i^2).
    A zero token has u = 0. Raises InputError for a single token.
    """
    total, squares, own = np.zeros(x.shape[1] if x.ndim == 2 else 1), 0.0, 0.0
    for block, w in _weighted(x, weights):
        # In powers of two of each token's size: squares of 1e200 would overflow, and those of 1e-200 vanish.
        _, exponents = np.frexp(np.abs(block).max(axis=1, initial=0.0))
        block = np.ldexp(block, -exponents[:, None])
        norm = np.linalg.norm(block, axis=1)
        unit = block / np.where(norm > 0, norm, 1.0)[:, None]
        total = total + w @ unit
        squares += float(w @ w)
        own += float((w * w)[norm > 0].sum())
    if squares >= 1.0:
        raise InputError("x", "a single token", "at least two tokens with a positive weight")
    return (float(total @ total) - own) / (1.0 - squares)
