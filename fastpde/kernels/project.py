"""Linear maps of tokens, and their mean, with bits that do not depend on the number of threads.

A map is the score panel without a law: lanes are tokens, the matrix's rows take the place of the sources.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .._jit import jit
from ..laws import LinearLaw
from .panels import score_panel
from .vectors import VECTORS, group_size, lanes_of

_TILES = 16  # token tiles per work item


class Map(NamedTuple):
    """Matrices ready for the panels, with scratch of one row per thread."""

    matrix: np.ndarray  # (B or 1, rows * d) in groups of rows [group][d][row]
    shift: np.ndarray  # (B or 1, rows)
    tokens: np.ndarray  # (threads, d * width)
    result: np.ndarray  # (threads, rows * width)
    group: int
    width: int
    rows: int  # of the matrix, padded to whole groups


def prepare(matrix: np.ndarray, shift: np.ndarray | None, dtype, threads: int, take) -> Map:
    """A map from matrices (B or 1, q, d) and shifts (B or 1, q); `take(name, shape, dtype)` provides scratch."""
    bits = 8 * np.dtype(dtype).itemsize
    group, width = group_size(bits), VECTORS * lanes_of(bits).count
    systems, q, d = matrix.shape
    rows = -(-q // group) * group
    padded = np.zeros((systems, rows, d), dtype)
    padded[:, :q] = matrix
    shifts = np.zeros((1 if shift is None else len(shift), rows), dtype)
    if shift is not None:
        shifts[:, :q] = shift
    return Map(
        np.ascontiguousarray(padded.reshape(systems, -1, group, d).swapaxes(2, 3)).reshape(systems, -1),
        shifts,
        take("map_tokens", (threads, d * width), dtype),
        take("map_result", (threads, rows * width), dtype),
        group,
        width,
        rows,
    )


@jit
def _project_tile(x, origin, matrix, shift, sizes, tokens, result, out):
    """One tile: tokens x (m <= width, d) transposed, the panels, and the results transposed back to out (m, q)."""
    group, width, rows = sizes
    d = x.shape[1]
    for lane in range(width):
        i = min(lane, x.shape[0] - 1)
        for r in range(d):
            # Rounded once, to the working precision: exact for tokens near the origin's scale.
            tokens[r * width + lane] = x[i, r] - origin[r]
    for first in range(0, rows, group):
        score_panel(LinearLaw(), result, first * width, tokens, 0, matrix, first * d, shift, first, d)
    for lane in range(x.shape[0]):
        for c in range(out.shape[1]):
            out[lane, c] = result[c * width + lane]


@jit(parallel=True)
def project(x, origin, linear, out):
    """out[b, i] = matrix[b] (x[b, i] - origin[b]) + shift[b] for x (B, n, d), origin (B or 1, d), out (B, n, q)."""
    systems, n = x.shape[0], x.shape[1]
    size = _TILES * linear.width
    blocks = -(-n // size)
    sizes = (linear.group, linear.width, linear.rows)
    for index in prange(systems * blocks):
        item, thread = np.int64(index), numba.get_thread_id()
        b = item // blocks
        start = (item % blocks) * size
        for first in range(start, min(start + size, n), linear.width):
            last = min(first + linear.width, n)
            _project_tile(
                x[b, first:last], origin[b % origin.shape[0]], linear.matrix[b % linear.matrix.shape[0]],
                linear.shift[b % linear.shift.shape[0]], sizes, linear.tokens[thread], linear.result[thread],
                out[b, first:last],
            )  # fmt: skip


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
