"""Linear attention without pairs: sum_j w_j <z, y_j> v_j = C z with the moment C = sum_j w_j v_j y_j^T."""

from __future__ import annotations

import numpy as np
from numba import prange

from .._jit import jit

_ROWS = 1024  # tokens per partial moment: the order of summation depends on n alone


@jit(inline=True)
def _add(C, keys, values, weights, b, j):
    n, k, dv = keys.shape[1], keys.shape[2], values.shape[2]
    w = float(weights[b % weights.shape[0], j]) if weights.shape[0] else 1.0 / n
    for c in range(dv):
        for r in range(k):
            C[c, r] += w * float(values[b, j, c]) * float(keys[b, j, r])


@jit(inline=True)
def _apply(C, target, out):
    for c in range(out.shape[0]):
        total = 0.0
        for r in range(target.shape[0]):
            total += C[c, r] * float(target[r])
        out[c] = total


@jit(parallel=True)
def attend_all(targets, keys, values, weights, partial, out):
    """out[b, i] = C_b targets[b, i]. keys (B, n, k), values (B, n, dv), weights (1 or B, n) or (0, 0).

    `partial` (B, blocks, dv, k) float64 is scratch, blocks = ceil(n / 1024).
    """
    systems, n = keys.shape[0], keys.shape[1]
    blocks = partial.shape[1]
    for index in prange(systems * blocks):
        item = np.int64(index)
        b, block = item // blocks, item % blocks
        partial[b, block] = 0.0
        for j in range(block * _ROWS, min(n, (block + 1) * _ROWS)):
            _add(partial[b, block], keys, values, weights, b, j)
    for b in range(systems):
        for block in range(1, blocks):
            partial[b, 0] += partial[b, block]
    m = targets.shape[1]
    for index in prange(systems * m):
        item = np.int64(index)
        b, i = item // m, item % m
        _apply(partial[b, 0], targets[b, i], out[b, i])


@jit(parallel=True)
def attend_masked(targets, keys, values, weights, limits, partial, out):
    """The same for target i seeing the first limits[i] sources only; limits must not decrease. One pass per system."""
    for index in prange(keys.shape[0]):
        b = np.int64(index)
        C = partial[b, 0]
        C[:] = 0.0
        seen = 0
        for i in range(targets.shape[1]):
            for j in range(seen, limits[i]):
                _add(C, keys, values, weights, b, j)
            seen = limits[i]
            _apply(C, targets[b, i], out[b, i])


def blocks_for(n: int) -> int:
    """Partial moments for n sources."""
    return -(-n // _ROWS)
