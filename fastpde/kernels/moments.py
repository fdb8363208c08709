"""Linear attention without pairs: sum_j w_j <z, y_j> v_j = C z with the moment C = sum_j w_j v_j y_j^T."""

from __future__ import annotations

import numpy as np
from numba import prange

from .._jit import jit

TILE = 1024  # tokens per partial moment: the order of summation depends on n alone


@jit
def _add(C, keys, values, weights):
    """C += sum_j w_j v_j y_j^T for sources keys (n, k), values (n, dv), weights (n,) or one for all (1,)."""
    n, k, dv = keys.shape[0], keys.shape[1], values.shape[1]
    for j in range(n):
        w = weights[j % weights.shape[0]]
        for c in range(dv):
            value = w * float(values[j, c])
            for r in range(k):
                C[c, r] += value * float(keys[j, r])


@jit
def _apply(C, targets, out):
    """out[i] = C targets[i] for targets (m, k)."""
    for i in range(targets.shape[0]):
        for c in range(out.shape[1]):
            total = 0.0
            for r in range(targets.shape[1]):
                total += C[c, r] * float(targets[i, r])
            out[i, c] = total


@jit(inline=True)
def _weights(weights, b, first, last, each):
    """The weights of some sources of system b: those given, or `each` (1,) for all."""
    return weights[b % weights.shape[0], first:last] if weights.shape[0] else each


@jit
def _masked(C, targets, keys, values, weights, each, limits, b, out):
    C[:, :] = 0.0
    seen = 0
    for i in range(targets.shape[1]):
        if limits[i] > seen:
            _add(C, keys[b, seen : limits[i]], values[b, seen : limits[i]], _weights(weights, b, seen, limits[i], each))
            seen = limits[i]
        _apply(C, targets[b, i : i + 1], out[b, i : i + 1])


@jit(parallel=True)
def of_tiles(keys, values, weights, weight, partial):
    """partial[b, t] <- the moment (dv, k) of tile t of the sources of system b.

    keys (B, n, k), values (B, n, dv), weights (1 or B, n), or (0, 0): each is `weight`; partial (B, tiles, dv, k).
    """
    systems, n, tiles, each = keys.shape[0], keys.shape[1], partial.shape[1], np.full(1, weight)
    for index in prange(systems * tiles):
        item = np.int64(index)
        b, first = item // tiles, (item % tiles) * TILE
        last, C = min(n, first + TILE), partial[b, item % tiles]
        C[:, :] = 0.0
        _add(C, keys[b, first:last], values[b, first:last], _weights(weights, b, first, last, each))


@jit(parallel=True)
def apply(C, targets, out):
    """out[b, i] = C[b] targets[b, i]."""
    systems, m = targets.shape[0], targets.shape[1]
    parts = -(-m // TILE)
    for index in prange(systems * parts):
        item = np.int64(index)
        b, first = item // parts, (item % parts) * TILE
        last = min(m, first + TILE)
        _apply(C[b], targets[b, first:last], out[b, first:last])


@jit(parallel=True)
def attend_masked(targets, keys, values, weights, limits, partial, out):
    """out[b, i] = C targets[b, i], C the moment of the first limits[i] sources; limits must not decrease.

    One pass per system; partial (B, 1, dv, k) is memory.
    """
    each = np.full(1, 1.0 / keys.shape[1])
    for index in prange(keys.shape[0]):
        b = np.int64(index)
        _masked(partial[b, 0], targets, keys, values, weights, each, limits[b % limits.shape[0]], b, out)
