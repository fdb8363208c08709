"""How many coordinates scores depend on at least, from a few of them: a reason for direct sums that costs nothing."""

from __future__ import annotations

import math

import numpy as np

from .._types import Array
from ..parallel.partition import Partition

_ASKED = 32  # points of each side
_ROUNDING = 2.0**-46  # of a score, relative to the sum of its absolute terms: more than any order of summation makes


def too_many(
    targets: Array, keys: Array, most: int, thin: float, partition: Partition, *, centred: bool = True
) -> bool:
    """Return whether a few scores show that more than `most` axes carry them; the reduction says so for others.

    If `most` axes carried all scores (of targets (m, k) and keys (n, k) about a centre, unless it is the origin) up to
    `thin`, a matrix of p x q scores, less the means of its rows, would be one of rank `most` up to
    thin sqrt(p q) in the spectral norm, and its singular values after the first `most` no larger than that (Eckart and
    Young 1936). In many dimensions the reduction itself would cost more than a direct sum.
    """
    if keys.shape[1] <= most:
        return False
    z, y = (x[:: max(1, len(x) // _ASKED)][:_ASKED].astype(np.float64) for x in (targets, keys))
    scores = np.einsum("ik,jk->ij", z, y)  # without BLAS: bits must not depend on threads
    rounding = _ROUNDING * np.einsum("ik,jk->ij", np.abs(z), np.abs(y)).max(initial=0.0)
    if centred:
        scores -= scores.mean(axis=1, keepdims=True)
    least = (thin + rounding) * math.sqrt(scores.size)
    seen = min(scores.shape) > most and np.isfinite(scores).all() and np.isfinite(least)
    shown = bool(seen and np.linalg.svd(scores, compute_uv=False)[most] > least)
    return bool(partition.largest(np.array([float(shown)]))[0])
