"""Small dense work on tokens: means and linear maps, with bits that do not depend on the number of threads."""

from __future__ import annotations

import numpy as np
from numba import prange

from .._jit import jit

_ROWS = 256  # tokens per work item


@jit
def mean(x, out):
    """out[b] = mean over i of x[b, i], accumulated in float64. x (B, n, d), out (B, d)."""
    systems, n, d = x.shape
    for b in range(systems):
        for r in range(d):
            out[b, r] = 0.0
        for i in range(n):
            for r in range(d):
                out[b, r] += x[b, i, r]
        for r in range(d):
            out[b, r] /= n


@jit(parallel=True)
def project(x, transposed, origin, shift, out):
    """out[b, i] = matrix[b] (x[b, i] - origin[b]) + shift[b].

    x (B, n, d); transposed (B or 1, d, q) holds the matrices' transposes; origin (B, d) and shift (B, q) in float64;
    out (B, n, q).
    """
    systems, n, d = x.shape
    q = out.shape[2]
    blocks = -(-n // _ROWS)
    for index in prange(systems * blocks):
        item = np.int64(index)
        b, first = item // blocks, (item % blocks) * _ROWS
        m = b % transposed.shape[0]
        for i in range(first, min(first + _ROWS, n)):
            row = out[b, i]
            for c in range(q):
                row[c] = shift[b, c]
            for r in range(d):
                # The difference is rounded once, to the working precision: exact for tokens near the origin's scale.
                value = x.dtype.type(x[b, i, r] - origin[b, r])
                for c in range(q):
                    row[c] += value * transposed[m, r, c]
