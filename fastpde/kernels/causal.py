"""Masked sums over a grid: moments of windows of sources, in their order, and running sums of them.

Every window has a tensor of its own. The tensors lie one behind another, as if the first axis had as many more slabs,
so that `cell_moments.add_moments` and `expansion.expand` treat many windows in one call: the number of a cell tells its
window. A tensor is as in `cell_moments`, but for its first axis, which is not padded. Points are sorted within windows.
"""

from __future__ import annotations

import math

import numpy as np

from .._jit import jit
from ..simd.pool import available, launch
from .cells import slab_of
from .chebyshev import WIDTH
from .contraction import STRIP, contract_strip

_COLUMNS = 512  # entries of the windows' tensors that one thread sums at a time


@jit(inline=True)
def _cell_of(points, i, low, width, slabs, slots, counts):
    cell = 0
    for k in range(points.shape[0]):
        cell = cell * counts[k] + slots[k, slab_of(points[k, i], low[k], 1.0 / width[k], slabs[k] - 1)]
    return cell


@jit(borrowed=True)
def _sort_item(w, thread, points, low, width, slabs, slots, counts, bounds, ids, ends, order, local):
    r = points.shape[0]
    ends[w, :] = 0
    for i in range(bounds[w], bounds[w + 1]):
        cell = _cell_of(points, i, low, width, slabs, slots, counts)
        ids[i] = cell
        ends[w, cell] += 1
    total = bounds[w]
    for cell in range(ends.shape[1]):
        found = ends[w, cell]
        ends[w, cell] = total
        total += found
    for i in range(bounds[w], bounds[w + 1]):
        at = ends[w, ids[i]]
        ends[w, ids[i]] += 1
        order[at] = i
        for k in range(r):
            inverse = 1.0 / width[k]
            slab = np.int32(slab_of(points[k, i], low[k], inverse, slabs[k] - 1))
            u = 2.0 * ((points[k, i] - low[k]) * inverse - slab) - 1.0
            local[k, at] = min(max(u, -1.0), 1.0)


@jit
def sort(points, low, width, slabs, slots, counts, bounds, ids, ends, order, local):
    """Sort the points bounds[w] .. bounds[w + 1] - 1 of every window w into cells, stably.

    Write into order[at] the index of the point that is sorted to `at`, into local[:, at] its coordinates in its cell,
    in [-1, 1], and into ends[w, cell] the place behind the last point of the cell. ids (n,) is workspace.
    """
    arguments = (points, low, width, slabs, slots, counts, bounds, ids, ends, order, local)
    launch(available(), ends.shape[0], 1, _sort_item, arguments)


@jit
def pieces(ends, bounds, first, last, most, items):
    """Write the pieces of the cells of the windows first .. last - 1 into `items`; return their number.

    A piece has at most `most` points. Its row of `items` is (cell, first point, last point + 1, -1), where the numbers
    of cells continue from one window to the next.
    """
    found, cells = 0, ends.shape[1]
    for w in range(first, last):
        start = bounds[w]
        for cell in range(cells):
            for at in range(start, ends[w, cell], most):
                items[found, 0], items[found, 1] = (w - first) * cells + cell, at
                items[found, 2], items[found, 3] = min(at + most, ends[w, cell]), -1
                found += 1
            start = ends[w, cell]
    return found


@jit(borrowed=True)
def _accumulate_item(block, thread, tensors, carry):
    windows, size = tensors.shape
    first, last = block * _COLUMNS, min((block + 1) * _COLUMNS, size)
    total = carry[first:last]
    for w in range(windows):
        row = tensors[w, first:last]
        for i in range(row.shape[0]):
            own = row[i]
            row[i] = total[i]
            total[i] += own


@jit
def accumulate(tensors, carry):
    """Replace each tensor by `carry` plus the sum of the tensors before it; then add the sum of all to `carry`.

    tensors (windows, size), carry (size,).
    """
    launch(available(), -(-tensors.shape[1] // _COLUMNS), 1, _accumulate_item, (tensors, carry))


@jit(borrowed=True)
def _contract_line(tensor, matrix, first, out):
    """Contract a tensor of one axis: out[i] = sum_{j < first} tensor[j] matrix[j, i], with a matrix stored in tiles."""
    for tile in range((out.shape[0] + WIDTH - 1) // WIDTH):
        part = out[tile * WIDTH : min((tile + 1) * WIDTH, out.shape[0])]
        for lane in range(part.shape[0]):
            part[lane] = 0.0
        for j in range(first):
            row = matrix[(tile * first + j) * WIDTH : (tile * first + j + 1) * WIDTH]
            for lane in range(part.shape[0]):
                part[lane] += tensor[j] * row[lane]


@jit(borrowed=True)
def _contract_axes(tensor, sizes_y, sizes_z, matrices, between, pack, zeros, out):
    """Apply matrices[k] to axis k of a tensor, for every k, and write the leading entries of the result into `out`."""
    r, source = sizes_y.shape[0], tensor
    for k in range(r):
        rest = 1
        for other in range(k + 1, r):
            rest *= sizes_y[other]
        for other in range(k):
            rest *= sizes_z[other]
        target = between[k % 2]
        for start in range(0, rest, STRIP):
            contract_strip(source, sizes_y[k], rest, start, matrices[k], sizes_z[k], pack, zeros, target)
        source = target
    for i in range(out.shape[0]):
        out[i] = source[i]


@jit(borrowed=True)
def _contract_item(w, thread, tensors, sizes_y, sizes_z, matrices, wanted, betweens, packs, zeros, mapped):
    if wanted[w]:
        if sizes_y.shape[0] == 1:
            _contract_line(tensors[w], matrices[0], sizes_y[0], mapped[w])
        else:
            _contract_axes(tensors[w], sizes_y, sizes_z, matrices, betweens[thread], packs[thread], zeros, mapped[w])


@jit
def contract(tensors, sizes_y, sizes_z, matrices, wanted, betweens, packs, zeros, mapped):
    """Write the tensors of the windows that are wanted, with the matrices applied to their axes (M2L), into mapped[w].

    betweens (threads, 2, largest intermediate tensor) and packs (threads, longest axis * STRIP) are workspace.
    """
    arguments = (tensors, sizes_y, sizes_z, matrices, wanted, betweens, packs, zeros, mapped)
    launch(packs.shape[0], tensors.shape[0], 1, _contract_item, arguments)


@jit(borrowed=True)
def _side_by_side_item(p, thread, rows, firsts, lasts, out):
    for i in range(out.shape[1]):
        at = min(firsts[p] + i, lasts[p] - 1)
        for k in range(out.shape[2]):
            out[p, i, k] = rows[k, at]


@jit
def side_by_side(rows, firsts, lasts, out):
    """Write rows[k, firsts[p] + i] into out[p, i, k]; from lasts[p] on, the column lasts[p] - 1 is repeated."""
    launch(available(), out.shape[0], 1, _side_by_side_item, (rows, firsts, lasts, out))


@jit(borrowed=True)
def _join_item(p, thread, some_means, some_logs, firsts, lasts, means, logs):
    for i in range(lasts[p] - firsts[p]):
        to = firsts[p] + i
        own, other = logs[to], some_logs[p, i]
        top = max(own, other)
        if top == -math.inf:
            continue
        left = math.exp(own - top) if own > -math.inf else 0.0
        right = math.exp(other - top) if other > -math.inf else 0.0
        total = left + right
        for k in range(means.shape[1]):
            kept = left * means[to, k] if left > 0.0 else 0.0
            means[to, k] = (kept + right * some_means[p, i, k]) / total
        logs[to] = top + math.log(total)


@jit
def join(some_means, some_logs, firsts, lasts, means, logs):
    """Add the sums some_means[p, i], some_logs[p, i] to those of the targets firsts[p] + i < lasts[p].

    A sum is a weighted mean and the log of its total weight, -inf for no sources: means (m, q), logs (m,).
    """
    launch(available(), some_logs.shape[0], 1, _join_item, (some_means, some_logs, firsts, lasts, means, logs))
