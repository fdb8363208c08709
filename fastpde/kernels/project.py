"""Linear maps of tokens, and their mean, with bits that do not depend on the number of threads.

A map is the score panel without a weight: lanes are rows of the matrix, tokens take the place of the sources. Matrices
of a few rows would leave most lanes empty: there lanes are tokens, and the sums are the same to the bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import multiply_add, score_panel
from ..simd.pool import available, launch
from ..simd.vectors import VECTORS, group_size, lanes_of
from ..weights import Linear

_GROUPS = 16  # groups of tokens per work item
_FEW_ROWS = 4  # of a matrix
_FEW = 100_000  # multiplications in a portion: one thread makes them before others have begun


class Map(NamedTuple):
    """Matrices ready for the panels, with workspace of one row per thread."""

    matrix: np.ndarray  # (B or 1, rows * d) in tiles of rows [tile][d][row]
    shift: np.ndarray  # (B or 1, rows)
    zeros: np.ndarray  # (group,) the panels' bias
    tokens: np.ndarray  # (threads, _GROUPS * group * (d + 1))
    result: np.ndarray  # (threads, group * width)
    group: int  # tokens in a panel
    width: int  # rows of the matrix in a tile
    tiles: int


def prepare(matrix: np.ndarray, shift: np.ndarray | None, dtype, threads: int, workspace) -> Map:
    """Make a map of matrices (B or 1, q, d) and shifts (B or 1, q), or None for no shift.

    `workspace(name, shape, dtype)` returns the arrays of workspace.
    """
    bits = 8 * np.dtype(dtype).itemsize
    group, width = group_size(bits), VECTORS * lanes_of(bits).count
    systems, q, d = matrix.shape
    tiles = -(-q // width)
    padded = np.zeros((systems, tiles * width, d), dtype)
    padded[:, :q] = matrix
    shifts = np.zeros((1 if shift is None else len(shift), q), dtype)
    if shift is not None:
        shifts[...] = shift
    return Map(
        np.ascontiguousarray(padded.reshape(systems, tiles, width, d).swapaxes(2, 3)).reshape(systems, -1),
        shifts,
        np.zeros(group, dtype),
        workspace("map_tokens", (threads, _GROUPS * group * (d + 1)), dtype),
        workspace("map_result", (threads, group * width), dtype),
        group,
        width,
        tiles,
    )


@jit(borrowed=True)
def _project_block(x, origin, matrix, shift, zeros, sizes, tokens, result, out):
    """Map the tokens x (m, d), m <= _GROUPS groups, into out (m, q).

    They are packed as [group][d][token] into `tokens`, and then mapped tile by tile.
    """
    group, width, tiles = sizes
    m, d = x.shape
    groups = -(-m // group)
    for g in range(groups):
        for j in range(group):
            i = min(g * group + j, m - 1)
            for r in range(d):
                # Rounded once, to the working precision: exact for tokens near the origin's scale.
                tokens[(g * d + r) * group + j] = x[i, r] - origin[r]
    for tile in range(tiles):
        first = tile * width
        count = min(width, out.shape[1] - first)
        shifts = shift[first : first + count]
        for g in range(groups):
            score_panel(Linear(), result, 0, matrix, first * d, tokens, g * d * group, zeros, 0, d)
            for j in range(min(group, m - g * group)):
                # Views that start at zero: this loop vectorises because its indices cannot be negative.
                row, part = out[g * group + j, first : first + count], result[j * width : j * width + count]
                for c in range(count):
                    row[c] = part[c] + shifts[c]


@jit(borrowed=True)
def _project_few(x, origin, matrix, shift, width, tokens, out):
    """Map tokens as `_project_block` by a matrix of one tile, with tokens packed as [d][token]."""
    m, d = x.shape
    sums = tokens[d * m : (d + 1) * m]
    for r in range(d):
        row, column = tokens[r * m : (r + 1) * m], x[:, r]
        for j in range(m):
            row[j] = column[j] - origin[r]
    for c in range(out.shape[1]):
        sums[:] = 0.0
        for r in range(d):
            row, factor = tokens[r * m : (r + 1) * m], matrix[r * width + c]
            for j in range(m):
                sums[j] = multiply_add(factor, row[j], sums[j])
        column = out[:, c]
        for j in range(m):
            column[j] = sums[j] + shift[c]


@jit(borrowed=True)
def _project_item(index, thread, x, origin, linear, out):
    """Map one block of the tokens of one system."""
    size = _GROUPS * linear.group
    blocks = -(-x.shape[1] // size)
    b, first = index // blocks, (index % blocks) * size
    last = min(first + size, x.shape[1])
    if out.shape[2] <= _FEW_ROWS:
        _project_few(
            x[b, first:last], origin[b % origin.shape[0]], linear.matrix[b % linear.matrix.shape[0]],
            linear.shift[b % linear.shift.shape[0]], linear.width, linear.tokens[thread], out[b, first:last],
        )  # fmt: skip
        return
    _project_block(
        x[b, first:last], origin[b % origin.shape[0]], linear.matrix[b % linear.matrix.shape[0]],
        linear.shift[b % linear.shift.shape[0]], linear.zeros, (linear.group, linear.width, linear.tiles),
        linear.tokens[thread], linear.result[thread], out[b, first:last],
    )  # fmt: skip


@jit
def project(x, origin, linear, out):
    """Map tokens: out[b, i] = matrix[b] (x[b, i] - origin[b]) + shift[b].

    x (B, n, d), origin (B or 1, d), out (B, n, q).
    """
    size = _GROUPS * linear.group
    items = x.shape[0] * -(-x.shape[1] // size)
    numbers = min(size, x.shape[1]) * (x.shape[2] + 4) * (out.shape[2] + 4)
    launch(linear.tokens.shape[0], items, _FEW // numbers, _project_item, (x, origin, linear, out))


@jit(borrowed=True)
def _tile_item(index, thread, x, tile, out):
    b, t = index // out.shape[1], index % out.shape[1]
    out[b, t, :] = 0.0
    for i in range(t * tile, min((t + 1) * tile, x.shape[1])):
        for r in range(x.shape[2]):
            out[b, t, r] += x[b, i, r]


@jit
def tile_sums(x, tile, out):
    """Sum every tile t of `tile` tokens into out[b, t], in float64, for x (B, n, d), out (B, tiles, d)."""
    numbers = min(tile, x.shape[1]) * x.shape[2]
    launch(available(), out.shape[0] * out.shape[1], _FEW // numbers, _tile_item, (x, tile, out))
