"""Passes over points around a sum on a grid: second moments, coordinates as rows, weights, results. Sums are made chunk
by chunk in order: the same for any number of threads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from .._jit import jit
from .cells import CHUNKS


class Result(NamedTuple):
    """What is written for a target with weighted means u (r + e,) and log of total weight g, its offset added to it.

    out <- constant + B u, times factor e^g if not normalised; log_total <- g + log factor, if it has room.
    """

    B: np.ndarray  # (c, r + e)
    constant: np.ndarray  # (c,)
    normalised: bool
    factor: float
    offset: np.ndarray  # (m,); empty: none
    out: np.ndarray  # (m, c)
    log_total: np.ndarray  # (m,) or (0,)


@jit(parallel=True)
def sums(x, origin, partial):
    """partial[c, 0, a] <- sum over chunk c of x_a - origin_a; partial[c, 1 + a, b] <- of their products. x (n, k)."""
    n, k = x.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for a in range(k):
            for b in range(k + 1):
                partial[c, b, a] = 0.0
        for i in range(c * size, min((c + 1) * size, n)):
            for a in range(k):
                value = float(x[i, a]) - origin[a]
                partial[c, 0, a] += value
                for b in range(a + 1):
                    partial[c, 1 + a, b] += value * (float(x[i, b]) - origin[b])


@jit(parallel=True)
def coordinates(x, origin, matrix, out, ends):
    """out[a, i] <- sum_b matrix[a, b] (x[i, b] - origin[b]); ends[c, 0 | 1, a] <- smallest and largest of chunk c."""
    n, k = x.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for a in range(matrix.shape[0]):
            low, high = math.inf, -math.inf
            for i in range(c * size, min((c + 1) * size, n)):
                total = 0.0
                for b in range(k):
                    total += matrix[a, b] * (float(x[i, b]) - origin[b])
                out[a, i] = total
                low, high = min(low, total), max(high, total)
            ends[c, 0, a], ends[c, 1, a] = low, high


@jit(parallel=True)
def apart(x, y, ends):
    """ends[c, 0 | 1, a] <- smallest and largest y[a, i] - x[a, i] of chunk c."""
    n = x.shape[1]
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for a in range(x.shape[0]):
            low, high = math.inf, -math.inf
            for i in range(c * size, min((c + 1) * size, n)):
                gap = y[a, i] - x[a, i]
                low, high = min(low, gap), max(high, gap)
            ends[c, 0, a], ends[c, 1, a] = low, high


@jit(parallel=True)
def remainders(values, origin, B, y, E, out, largest):
    """out[e, i] <- E (values[i] - origin - B y[:, i]); largest[c] <- the largest |entry| of chunk c before E."""
    n, width = values.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        top = 0.0
        for i in range(c * size, min((c + 1) * size, n)):
            for e in range(out.shape[0]):
                out[e, i] = 0.0
            for a in range(width):
                rest = float(values[i, a]) - origin[a]
                for k in range(B.shape[1]):
                    rest -= B[a, k] * y[k, i]
                top = max(top, abs(rest))
                for e in range(out.shape[0]):
                    out[e, i] += E[e, a] * rest
        largest[c] = top


@jit(inline=True)
def _tilted(points, bias, direction, i):
    value = bias[i] if bias.shape[0] else 0.0
    for k in range(points.shape[0]):
        value += direction[k] * points[k, i]
    return value


@jit(parallel=True)
def tops(points, bias, direction, largest):
    """largest[c] <- the largest bias[i] + <direction, point i> of chunk c; bias may be empty."""
    n = points.shape[1]
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        top = -math.inf
        for i in range(c * size, min((c + 1) * size, n)):
            top = max(top, _tilted(points, bias, direction, i))
        largest[c] = top


@jit(parallel=True)
def write(means, logs, targets, result):
    """Writes the result from means (r + e, q) and logs (q,) of some targets; empty: all."""
    m = logs.shape[0]
    size = -(-m // CHUNKS)
    out, log_total = result.out, result.log_total  # what a parallel loop writes must have a name outside of it
    for c in prange(CHUNKS):
        for i in range(c * size, min((c + 1) * size, m)):
            to = targets[i] if targets.shape[0] else i
            log = logs[i] + (result.offset[to] if result.offset.shape[0] else 0.0)
            scale = 1.0 if result.normalised else result.factor * math.exp(log)
            for a in range(out.shape[1]):
                value = result.constant[a]
                for k in range(result.B.shape[1]):
                    value += result.B[a, k] * means[k, i]
                out[to, a] = value * scale
            if log_total.shape[0]:
                log_total[to] = log + math.log(result.factor)
