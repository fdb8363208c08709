"""Moments of the tokens: mean, covariance spectrum, effective rank and radius."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpde.config import Problem
from fastpde.observable import Observable
from fastpde.parallel.spread import Blocks, Tokens

Array = np.ndarray[Any, Any]
BLOCK = 65_536  # tokens whose moments are summed together, whichever ranks hold them
LARGEST = 16  # components of the mean and eigenvalues of the covariance that get a column
_AT_WORK = 2**22  # numbers of tokens whose float64 copies are alive at a time


def observable(problem: Problem, attention: Any, backend: Any, positions: Any) -> Observable:
    """Return the moments, which every run records."""
    return Observable("moments", columns(problem.d), of_one, of_many, shared=True)


def columns(d: int) -> list[str]:
    """Return the names of the columns for tokens of dimension d."""
    count = range(min(d, LARGEST))
    means, values = [f"mean_{i}" for i in count], [f"eigenvalue_{i}" for i in count]
    return ["mean_norm", *means, "trace", *values, "effective_rank", "radius"]


def of_one(t: float, tokens: Tokens) -> Array:
    """Return the numbers (c,) of one system, with the same bits for any number of ranks."""
    return _moments(tokens.blocks(BLOCK))


def of_many(t: Array, x: Array) -> Array:
    """Return the numbers (B, c) of systems x (B, n, d)."""
    together = max(1, _AT_WORK // (x.shape[1] * x.shape[2]))
    parts = [_moments(Blocks.alone(x[i : i + together], BLOCK)) for i in range(0, len(x), together)]
    return np.concatenate([np.empty((0, len(columns(x.shape[2])))), *parts])


def _moments(tokens: Blocks) -> Array:
    """Return the moments of tokens (c,), or of each system (B, c); nan and inf where squares overflow.

    Formulas as in `fastpde.observe`.
    """
    n, d = tokens.n, tokens.d
    count = min(d, LARGEST)
    with np.errstate(all="ignore"):
        mean = tokens.sum(lambda x: (np.full((1, x.shape[-2]), 1.0 / n) @ _wide(x))[..., 0, :], (d,))
        cov = tokens.sum(lambda x: _second(_wide(x) - mean[..., None, :], n), (d, d))
        cov = (cov + cov.swapaxes(-1, -2)) / 2
        fine = np.asarray(np.isfinite(cov).all(axis=(-1, -2), keepdims=True))
        values = np.maximum(np.linalg.eigvalsh(np.where(fine, cov, 0.0))[..., ::-1], 0.0)
        p = values / values[..., :1]
        p = p / p.sum(axis=-1, keepdims=True)
        rank = np.exp(-np.where(p > 0, p * np.log(p), 0.0).sum(axis=-1))
        rank = np.where(values[..., 0] == 0.0, 0.0, rank)
        values, rank = np.where(fine[..., 0], values, np.nan), np.where(fine[..., 0, 0], rank, np.nan)
        radius = _radius(tokens)
        norm, trace = np.linalg.norm(mean, axis=-1), np.trace(cov, axis1=-2, axis2=-1)
    single = [norm[..., None], mean[..., :count], trace[..., None], values[..., :count], rank[..., None]]
    return np.concatenate([*single, radius[..., None]], axis=-1)


def _wide(x: Array) -> Array:
    return x.astype(np.float64, copy=False)


def _second(centred: Array, n: int) -> Array:
    return (centred / n).swapaxes(-1, -2) @ centred


def _radius(tokens: Blocks) -> Array:
    """Return max_i |x_i|, scaled against overflow."""
    peak = tokens.largest(lambda x: np.abs(_wide(x)).max(axis=(-1, -2)))
    unit = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)
    return unit * tokens.largest(lambda x: np.linalg.norm(_wide(x) / unit[..., None, None], axis=-1).max(axis=-1))
