"""Passes over points around a sum on a grid: second moments, coordinates as rows, weights, results.

Sums are added chunk by chunk in order: they are the same for any number of threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.pool import available, launch
from .cells import CHUNKS, portion_of

_FARTHEST = 2800.0  # a number times e^2800 is beyond the range of numbers, times e^-2800 it is zero


class Result(NamedTuple):
    """Coefficients and outputs of a target's results, from its weighted means u (r + e,) and log of total weight g.

    out = constant + B u,
    log_total = g + offset + log_factor, if it has room.
    """

    B: np.ndarray  # (c, r + e)
    constant: np.ndarray  # (c,)
    log_factor: float
    offset: np.ndarray  # (m,); empty: none
    out: np.ndarray  # (m, c)
    log_total: np.ndarray  # (m,) or (0,)


@jit(borrowed=True)
def _extremes_item(c, thread, x, ends):
    n, k = x.shape
    size = -(-n // CHUNKS)
    for a in range(k):
        low, high = math.inf, -math.inf
        for i in range(c * size, min((c + 1) * size, n)):
            value = float(x[i, a])
            low, high = min(low, value), max(high, value)
        ends[c, 0, a], ends[c, 1, a] = low, high


@jit
def extremes(x, ends):
    """Write the smallest and largest coordinates of every chunk c of points x (n, k) into ends[c, 0] and ends[c, 1]."""
    launch(available(), CHUNKS, portion_of(x.shape[0]), _extremes_item, (x, ends))


@jit
def _sums_item(c, thread, x, origin, matrix, partial):
    n, k = x.shape
    size, q = -(-n // CHUNKS), matrix.shape[0]
    t = np.empty(q)
    for a in range(q):
        for b in range(q + 1):
            partial[c, b, a] = 0.0
    for i in range(c * size, min((c + 1) * size, n)):
        for a in range(q):
            value = 0.0
            for b in range(k):
                value += matrix[a, b] * (float(x[i, b]) - origin[b])
            t[a] = value
            partial[c, 0, a] += value
            for b in range(a + 1):
                partial[c, 1 + a, b] += value * t[b]


@jit
def sums(x, origin, matrix, partial):
    """Sum t = matrix (x - origin) and its products over every chunk c of x (n, k); matrix (q, k).

    partial[c, 0, a] becomes the sum of t_a, and partial[c, 1 + a, b] that of t_a t_b, for b <= a.
    """
    launch(available(), CHUNKS, portion_of(x.shape[0]), _sums_item, (x, origin, matrix, partial))


@jit(borrowed=True)
def _coordinates_item(c, thread, x, origin, matrix, out, ends):
    n, k = x.shape
    size = -(-n // CHUNKS)
    for a in range(matrix.shape[0]):
        low, high = math.inf, -math.inf
        for i in range(c * size, min((c + 1) * size, n)):
            total = 0.0
            for b in range(k):
                total += matrix[a, b] * (float(x[i, b]) - origin[b])
            out[a, i] = total
            low, high = min(low, total), max(high, total)
        ends[c, 0, a], ends[c, 1, a] = low, high


@jit
def coordinates(x, origin, matrix, out, ends):
    """Write sum_b matrix[a, b] (x[i, b] - origin[b]) into out[a, i], for points x (n, k).

    The smallest and largest of chunk c go into ends[c, 0, a] and ends[c, 1, a].
    """
    launch(available(), CHUNKS, portion_of(x.shape[0]), _coordinates_item, (x, origin, matrix, out, ends))


@jit(borrowed=True)
def _apart_item(c, thread, x, y, ends):
    n = x.shape[1]
    size = -(-n // CHUNKS)
    for a in range(x.shape[0]):
        low, high = math.inf, -math.inf
        for i in range(c * size, min((c + 1) * size, n)):
            gap = y[a, i] - x[a, i]
            low, high = min(low, gap), max(high, gap)
        ends[c, 0, a], ends[c, 1, a] = low, high


@jit
def apart(x, y, ends):
    """Write the smallest and largest y[a, i] - x[a, i] of chunk c into ends[c, 0, a] and ends[c, 1, a]; x, y (r, n)."""
    launch(available(), CHUNKS, portion_of(x.shape[1]), _apart_item, (x, y, ends))


@jit(borrowed=True)
def _remainders_item(c, thread, values, origin, B, y, E, out, largest):
    n, width = values.shape
    size = -(-n // CHUNKS)
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


@jit
def remainders(values, origin, B, y, E, out, largest):
    """Write E (values[i] - origin - B y[:, i]) into out[:, i].

    The largest absolute entry of chunk c, before the multiplication by E, goes into largest[c].
    """
    launch(available(), CHUNKS, portion_of(values.shape[0]), _remainders_item, (values, origin, B, y, E, out, largest))


@jit(inline=True)
def _tilted(points, bias, direction, i):
    value = bias[i] if bias.shape[0] else 0.0
    for k in range(points.shape[0]):
        value += direction[k] * points[k, i]
    return value


@jit(borrowed=True)
def _tops_item(c, thread, points, bias, direction, largest):
    n = points.shape[1]
    size = -(-n // CHUNKS)
    top = -math.inf
    for i in range(c * size, min((c + 1) * size, n)):
        top = max(top, _tilted(points, bias, direction, i))
    largest[c] = top


@jit
def tops(points, bias, direction, largest):
    """Write the largest bias[i] + <direction, point i> of chunk c into largest[c]; bias may be empty."""
    launch(available(), CHUNKS, portion_of(points.shape[1]), _tops_item, (points, bias, direction, largest))


@jit(borrowed=True)
def _write_item(c, thread, means, logs, targets, result):
    m = logs.shape[0]
    size = -(-m // CHUNKS)
    out, log_total = result.out, result.log_total
    for i in range(c * size, min((c + 1) * size, m)):
        to = targets[i] if targets.shape[0] else i
        for a in range(out.shape[1]):
            value = result.constant[a]
            for k in range(result.B.shape[1]):
                value += result.B[a, k] * means[k, i]
            out[to, a] = value
        if log_total.shape[0]:
            log_total[to] = logs[i] + (result.offset[to] if result.offset.shape[0] else 0.0) + result.log_factor


@jit
def write(means, logs, targets, result):
    """Write the results from means (r + e, q) and logs (q,) of the targets with the indices `targets`; empty: all."""
    launch(available(), CHUNKS, portion_of(logs.shape[0]), _write_item, (means, logs, targets, result))


@jit(borrowed=True)
def _lift_item(c, thread, out, logs):
    m = logs.shape[0]
    size = -(-m // CHUNKS)
    for i in range(c * size, min((c + 1) * size, m)):
        factor = math.exp(0.25 * min(max(logs[i], -_FARTHEST), _FARTHEST))
        for a in range(out.shape[1]):
            out[i, a] = float(out[i, a]) * factor * factor * factor * factor


@jit
def lift(out, logs):
    """Multiply out[i] by e^logs[i], in four factors.

    A product that is within the range of numbers is right, whatever the size of e^logs[i].
    """
    launch(available(), CHUNKS, portion_of(logs.shape[0]), _lift_item, (out, logs))
