"""Moments of the weights of points against products of Chebyshev polynomials on the cells of a grid.

    M[cell, a] = sum over the cell's points j of w_j T_a1(u_1j) ... T_ar(u_rj)

These are products of small dense matrices, made by panels of explicit vectors. Bits do not depend on threads: a cell,
or a piece of one that is large, belongs to one thread, and pieces are added in order. It is the first stage of a sum in
O(n) (P2M); `contraction` makes the second, translation, and `expansion` the third.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.dots import DOT_COLUMNS, DOT_ROWS, dot_panel, exponentials
from ..simd.pool import launch
from .chebyshev import BLOCK, corner_of, level_of, outer_index, prepare


class SourceWeights(NamedTuple):
    """The weights 2^{level of the cell + <slopes, u> + bias - top} of sources, with exponents in units of log 2.

    There are moments of the weights as they are, if `plain`, and of the weights times each of the channels, which have
    the order of the points before sorting.
    """

    levels: np.ndarray  # (r, most slabs) of the slabs that are kept; a cell has the sum over the axes
    slopes: np.ndarray  # (r,)
    top: float
    bias: np.ndarray  # (n,) or (0,): none; in the order of the sorted points
    plain: bool
    channels: np.ndarray  # (e, n)


@jit(inline=True)
def _weigh(tilt, level, order, start, m, whole, local, weight):
    """Write the weight of the sorted point start + j into weight[j] for j < m, and 0 for m <= j < whole."""
    for j in range(whole):
        weight[j] = level
    for k in range(tilt.slopes.shape[0]):
        u, slope = local[k * BLOCK : (k + 1) * BLOCK], tilt.slopes[k]
        for j in range(whole):
            weight[j] += slope * u[j]
    if tilt.bias.shape[0]:
        bias = tilt.bias[start : start + m]
        for j in range(m):
            weight[j] += bias[j]
    exponentials(weight, whole)
    for j in range(m, whole):
        weight[j] = 0.0


@jit(inline=True)
def _times_basis(side, basis, whole, weight, right):
    """Write weight[j] T_b(u_j), T_b the polynomials on the last axis, into right[b * BLOCK + j]; r = 1: the weights."""
    r = side.orders.shape[0]
    at = (side.degrees - side.orders[r - 1]) * BLOCK
    for b in range(side.orders[r - 1] if r > 1 else 1):
        column = right[b * BLOCK : b * BLOCK + whole]
        value = basis[at + b * BLOCK : at + b * BLOCK + whole]
        for j in range(whole):
            column[j] = weight[j] * (value[j] if r > 1 else 1.0)


@jit(inline=True)
def _multiply_out(side, basis, m, left):
    """Write T_a1(u_1j) T_a2(u_2j) ..., one polynomial of every axis but the last, into left[a * BLOCK + j] for j < m.

    It is called for three axes or more; a numbers the products.
    """
    for a in range(side.lead):
        row, rest, at = left[a * BLOCK : a * BLOCK + m], a, side.degrees - side.orders[side.orders.shape[0] - 1]
        for k in range(side.orders.shape[0] - 2, -1, -1):
            at -= side.orders[k]
            factor = (at + rest % side.orders[k]) * BLOCK
            rest //= side.orders[k]
            value = basis[factor : factor + m]
            if k == side.orders.shape[0] - 2:
                for j in range(m):
                    row[j] = value[j]
            else:
                for j in range(m):
                    row[j] *= value[j]


@jit(inline=True)
def _piece_moments(side, points, order, tilt, level, first, last, count, memory, thread, total):
    """Sum weight T_a T_b over the points first .. last - 1 into total[(c * rows + a) * columns + b] for c < count.

    T_b is a polynomial on the last axis, T_a a product of polynomials on all others. With one axis, T_a is a polynomial
    on it and T_b = 1.
    """
    r, rows, columns = side.orders.shape[0], side.rows, side.columns
    local, basis, weight = memory.local[thread], memory.basis[thread], memory.weight[thread]
    left, right, scaled = memory.left[thread], memory.right[thread], memory.scaled[thread]
    for i in range(count * rows * columns):
        total[i] = 0.0
    for start in range(first, last, BLOCK):
        m = min(BLOCK, last - start)
        whole = prepare(side, points, start, m, local, basis)
        _weigh(tilt, level, order, start, m, whole, local, weight)
        if r > 2:
            _multiply_out(side, basis, whole, left)
        for c in range(count):
            channel = c - 1 if tilt.plain else c
            for j in range(whole):
                scaled[j] = weight[j]
            if channel >= 0:
                values = tilt.channels[channel]
                for j in range(m):
                    scaled[j] *= values[order[start + j]]
            _times_basis(side, basis, whole, scaled, right)
            for a in range(0, rows, DOT_ROWS):
                for b in range(0, columns, DOT_COLUMNS):
                    dot_panel(
                        left if r > 2 else basis, a * BLOCK, BLOCK, right, b * BLOCK, BLOCK, whole, total,
                        (c * rows + a) * columns + b, columns,
                    )  # fmt: skip


@jit(borrowed=True)
def _add_to_tensor(side, total, corner, tensor):
    """Add total[a * columns + b] to the entries of the tensor of the cell that begins at `corner`."""
    r, columns = side.orders.shape[0], side.columns
    if r == 1:
        for a in range(side.orders[0]):
            tensor[corner[0] + a] += total[a * columns]
        return
    second, last = side.orders[r - 2], side.orders[r - 1]
    for a in range(side.lead // second):
        start = outer_index(side, corner, a) * side.sizes[r - 2] + corner[r - 2]
        for b in range(second):
            at = (start + b) * side.sizes[r - 1] + corner[r - 1]
            row, found = tensor[at : at + last], total[(a * second + b) * columns :]
            for c in range(last):
                row[c] += found[c]


@jit(borrowed=True)
def _moments_item(index, thread, side, items, points, order, tilt, memory, partial, tensors):
    """Sum the moments of one piece of a cell."""
    item, count, size = items[index], tensors.shape[0], side.rows * side.columns
    total, corner = memory.total[thread], memory.corner[thread]
    corner_of(side, item[0], corner)
    level = level_of(side, corner, tilt.levels) - tilt.top
    _piece_moments(side, points, order, tilt, level, item[1], item[2], count, memory, thread, total)
    if item[3] < 0:
        for c in range(count):
            _add_to_tensor(side, total[c * size : (c + 1) * size], corner, tensors[c])
    else:
        row = partial[item[3]]
        for i in range(count * size):
            row[i] = total[i]


@jit
def add_moments(side, items, count, points, order, tilt, memory, partial, tensors):
    """Add the moments of all points with the weights `tilt` to `tensors` (P2M), one for each sort of weights.

    items (count, 4) are pieces of cells. A cell of one piece is added to the tensors at once; pieces of larger ones are
    kept in `partial`, one row each, for `join_pieces`. items[i, 3] is the row, or -1.
    """
    arguments = (side, items, points, order, tilt, memory, partial, tensors)
    launch(memory.local.shape[0], count, 1, _moments_item, arguments)


@jit
def join_pieces(side, items, count, partial, corner, tensors):
    """Add the pieces that `add_moments` left in `partial` to the tensors, in order."""
    size = side.rows * side.columns
    for index in range(count):
        if items[index, 3] >= 0:
            corner_of(side, items[index, 0], corner)
            row = partial[items[index, 3]]
            for c in range(tensors.shape[0]):
                _add_to_tensor(side, row[c * size : (c + 1) * size], corner, tensors[c])
