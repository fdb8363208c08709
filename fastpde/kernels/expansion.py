"""Polynomials of a grid's cells at points (L2P), with their gradients, and the weighted means and totals made of them.

    f = sum_a F[cell, a] T_a1(u_1) ... T_ar(u_r) at the cell's points

is a product of small dense matrices over the last axis, and sums along the points over the others. The results made of
f are written at once, at the places that the points had before they were sorted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.dots import sum_products
from ..simd.pool import launch
from ..simd.row_panels import ROW_GROUP, row_panel
from ..weights import Linear
from .chebyshev import BLOCK, WIDTH, corner_of, derive, level_of, outer_index, prepare


class Expansion(NamedTuple):
    """Coefficients and outputs of a target's results, from its sum f, grad f, and the sums h_e of the channels.

    Gradients are in local coordinates. The last term is there if the slopes of the channels are wanted.

        out = base + slopes grad f / f + sum_e columns[:, e] h_e / f + sum_e bent[:, e] grad h_e / f,
        log_total = offset + log f + top + (sum of levels of the cell) + <tilt, u>, natural logs.

    Where f is not among the sums (`divided`), there is no division by f, and no log f, base and slopes are zero.
    """

    base: np.ndarray  # (c,)
    slopes: np.ndarray  # (c, r)
    columns: np.ndarray  # (c, e)
    bent: np.ndarray  # (c, e, r), or (0, 0, 0)
    levels: np.ndarray  # (r, most slabs) of the slabs that are kept; a cell has the sum over the axes
    tilt: np.ndarray  # (r,)
    top: float
    offset: np.ndarray  # (m,) or (0,)
    targets: np.ndarray  # (q,) the places of the results of the q points; (0,): their own order
    inverse: np.ndarray  # (q,) or (0,): 1 / f of the sorted points, for the channels
    divided: bool
    out: np.ndarray  # (m, c)
    log_total: np.ndarray  # (m,) or (0,)


@jit(inline=True)
def _local_tensor(side, corner, tensor, right):
    """Copy the cell's coefficients into right[b * lanes + a], where b is of the last axis and a of all others."""
    r, lanes = side.orders.shape[0], side.lanes
    if r == 1:
        for b in range(side.orders[0]):
            for a in range(lanes):
                right[b * lanes + a] = 0.0
            right[b * lanes] = tensor[corner[0] + b]
        return
    second, last = side.orders[r - 2], side.orders[r - 1]
    for a in range(side.lead // second):
        start = outer_index(side, corner, a) * side.sizes[r - 2] + corner[r - 2]
        for a2 in range(second):
            row = tensor[(start + a2) * side.sizes[r - 1] + corner[r - 1] :]
            for b in range(last):
                right[b * lanes + a * second + a2] = row[b]


@jit(inline=True)
def _sum_polynomials(side, m, gradient, basis, coefficients, begin, product, partial, zeros, found):
    """Write the cell's polynomial, whose coefficients begin at `begin`, at m points into found[j].

    With `gradient`, write its slope along axis k into found[(1 + k) * BLOCK + j].
    """
    r, lanes, degrees = side.orders.shape[0], side.lanes, side.degrees * BLOCK
    last_order = side.orders[r - 1]
    if r == 1:  # a panel would make sums for many columns, of which there is one
        for track in range(2 if gradient else 1):
            row = found[track * BLOCK : track * BLOCK + m]
            row[:] = 0.0
            for b in range(last_order):
                value, factor = basis[track * degrees + b * BLOCK :], coefficients[begin + b * lanes]
                for j in range(m):
                    row[j] += factor * value[j]
        return
    last_at = (side.degrees - last_order) * BLOCK
    for part in range(2 if gradient else 1):
        # Sums over the last axis, of polynomials and of their slopes: one row per product of the others.
        source, result = last_at + part * degrees, part * lanes * BLOCK
        for a in range(0, side.lead, ROW_GROUP):
            for lane in range(0, m, WIDTH):
                row_panel(
                    Linear(), product, result + a * BLOCK + lane, BLOCK, basis, source + lane, BLOCK,
                    coefficients, begin + a, lanes, zeros, 0, last_order,
                )  # fmt: skip
    stride, tracks, rows, other = lanes * BLOCK, 2 if gradient else 1, product, partial
    # Then over the others, the last first. Tracks: the sums, and their slopes along the axes that are done.
    count, at = side.lead, last_at
    for k in range(r - 2, -1, -1):
        order = side.orders[k]
        count, at = count // order, at - order * BLOCK
        step = count * BLOCK
        for a in range(count):
            for lane in range(0, m, WIDTH):
                for track in range(tracks + 1 if gradient else 1):
                    bent = track == tracks
                    origin = (0 if bent else track * stride) + a * order * BLOCK + lane
                    factor = lane + at + (degrees if bent else 0)
                    if k > 0:
                        to = track * step + a * BLOCK + lane
                        sum_products(rows, origin, BLOCK, basis, factor, BLOCK, order, other, to)
                    else:
                        to = (1 + r - track) * BLOCK + lane if track > 0 else lane
                        sum_products(rows, origin, BLOCK, basis, factor, BLOCK, order, found, to)
        tracks, stride = tracks + (1 if gradient else 0), step
        rows, other = other, rows


@jit(inline=True)
def _begin(expansion, level, order, start, m, local, found, inverse, results):
    """Write 1 / f and the logs of the totals, and the base of the results into results[a * BLOCK + j]."""
    for j in range(m):
        inverse[j] = 1.0 / found[j] if expansion.divided else 1.0
    if expansion.inverse.shape[0]:
        kept = expansion.inverse[start : start + m]
        for j in range(m):
            kept[j] = inverse[j]
    if expansion.log_total.shape[0]:
        for j in range(m):
            at = order[start + j]
            to = expansion.targets[at] if expansion.targets.shape[0] else at
            log = level + (math.log(found[j]) if expansion.divided else 0.0)
            for k in range(expansion.tilt.shape[0]):
                log += expansion.tilt[k] * local[k * BLOCK + j]
            if expansion.offset.shape[0]:
                log += expansion.offset[to]
            expansion.log_total[to] = log
    for a in range(expansion.out.shape[1]):
        result = results[a * BLOCK : a * BLOCK + m]
        for j in range(m):
            result[j] = expansion.base[a]


@jit(inline=True)
def _go_on(expansion, start, m, inverse, results):
    """Read 1 / f, as the first pass has left it, and write results of zero."""
    kept = expansion.inverse[start : start + m]
    for j in range(m):
        inverse[j] = kept[j]
    for i in range(results.shape[0]):
        results[i] = 0.0


@jit(inline=True)
def _add_sums(expansion, channel, slopes, m, found, inverse, results):
    """Add the sums of a channel and, with `slopes`, the slopes to the results of m points.

    Of channel -1, which is f itself, these are the slopes alone. Ratios come first: f may be as small as the slopes,
    whose product with the gradient would vanish.
    """
    for k in range(0 if channel >= 0 else 1, 1 + expansion.tilt.shape[0] if slopes else 1):
        row = found[k * BLOCK : k * BLOCK + m]
        for j in range(m):
            row[j] *= inverse[j]
        for a in range(expansion.out.shape[1]):
            if channel < 0:
                factor = expansion.slopes[a, k - 1]
            elif k == 0:
                factor = expansion.columns[a, channel]
            else:
                factor = expansion.bent[a, channel, k - 1]
            if factor != 0.0:
                result = results[a * BLOCK : a * BLOCK + m]
                for j in range(m):
                    result[j] += factor * row[j]


@jit(inline=True)
def _place(expansion, begins, order, start, m, results):
    """Write results[a * BLOCK + j] to the places of the sorted points if this begins the sums, else add them there."""
    for j in range(m):
        at = order[start + j]
        to = expansion.targets[at] if expansion.targets.shape[0] else at
        for a in range(expansion.out.shape[1]):
            value = results[a * BLOCK + j]
            expansion.out[to, a] = value if begins else value + expansion.out[to, a]


@jit(borrowed=True)
def _expand_item(index, thread, side, items, points, order, tensors, first, gradient, expansion, memory):
    """Evaluate one piece of a cell."""
    item, bent = items[index], expansion.bent.shape[0] > 0
    begins = first < (0 if expansion.divided else 1)
    corner, coefficients, basis = memory.corner[thread], memory.coefficients[thread], memory.basis[thread]
    local, found, product = memory.local[thread], memory.found[thread], memory.product[thread]
    inverse, results = memory.inverse[thread], memory.results[thread]
    size = side.orders[side.orders.shape[0] - 1] * side.lanes
    corner_of(side, item[0], corner)
    level = expansion.top + level_of(side, corner, expansion.levels)
    for c in range(tensors.shape[0]):
        _local_tensor(side, corner, tensors[c], coefficients[c * size :])
    for start in range(item[1], item[2], BLOCK):
        m = min(BLOCK, item[2] - start)
        whole = prepare(side, points, start, m, local, basis)
        if gradient or bent:
            derive(side, whole, local, basis)
        if not begins:
            _go_on(expansion, start, m, inverse, results)
        for c in range(tensors.shape[0]):
            slopes = gradient if first + c < 0 else bent
            _sum_polynomials(
                side, whole, slopes, basis, coefficients, c * size, product, memory.partial[thread], memory.zeros, found
            )
            if c == 0 and begins:
                _begin(expansion, level, order, start, m, local, found, inverse, results)
            _add_sums(expansion, first + c, slopes, m, found, inverse, results)
        _place(expansion, begins, order, start, m, results)


@jit
def expand(side, items, count, points, order, tensors, first, gradient, expansion, memory):
    """Evaluate the polynomials with the coefficients `tensors` at all points, and write the results of `expansion`.

    The tensors are those of the channels first, first + 1, ...; channel -1 is the sum f itself, with its gradient if
    `gradient`, and comes first (channel 0, if it is not among the sums): with it the results are written, those of
    others are added. items (count, 4) are pieces of cells.
    """
    arguments = (side, items, points, order, tensors, first, gradient, expansion, memory)
    launch(memory.local.shape[0], count, 1, _expand_item, arguments)
