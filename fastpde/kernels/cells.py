"""Points sorted into the cells of a grid: a stable counting sort, the same for any number of threads.

Axis k of a box is cut into equal slabs; slabs without points are left out (`slots` has the new numbers of the others).
A cell is one slab per axis, the last axis fastest. Points are rows of coordinates (r, n). Sorted points carry
coordinates local to their cell, in [-1, 1].
"""

from __future__ import annotations

import numpy as np

from .._jit import jit
from ..simd.pool import available, launch

CHUNKS = 64  # chunks of points: a fixed number, so that the order of points does not depend on threads
PIECE = 4096  # points of a cell that one thread treats at a time
_FEW = 20_000  # points that one thread treats before others have begun


@jit(inline=True)
def portion_of(points):
    """Return the chunks that a thread takes at a time."""
    return CHUNKS if points < _FEW else 4


@jit(borrowed=True)
def _find_slabs_item(c, thread, points, low, width, slabs, used):
    r, n = points.shape
    size = -(-n // CHUNKS)
    for k in range(r):
        for s in range(used.shape[2]):
            used[c, k, s] = 0
        row, bottom, inverse, last = points[k, c * size : (c + 1) * size], low[k], 1.0 / width[k], slabs[k] - 1
        for i in range(row.shape[0]):
            used[c, k, slab_of(row[i], bottom, inverse, last)] = 1


@jit
def find_slabs(points, low, width, slabs, used):
    """Write 1 into used[chunk, k, s] if slab s of axis k has a point of that chunk, and 0 otherwise."""
    launch(available(), CHUNKS, portion_of(points.shape[1]), _find_slabs_item, (points, low, width, slabs, used))


@jit(inline=True)
def slab_of(value, low, inverse, last):
    """Return the slab of a coordinate; values on or beyond the faces belong to the outermost slabs 0 and `last`.

    No other formula may be used: it would put points on faces into other slabs. The result is unsigned, because an
    index that is never negative needs no check.
    """
    return np.uint32(min(max(np.int32((value - low) * inverse), np.int32(0)), np.int32(last)))


@jit(borrowed=True)
def _count_item(c, thread, points, low, width, slabs, slots, counts, ids, histogram):
    r, n = points.shape
    size = -(-n // CHUNKS)
    own, found = ids[c * size : (c + 1) * size], histogram[c]
    for cell in range(found.shape[0]):
        found[cell] = 0
    for k in range(r):
        row, bottom, inverse, last = points[k, c * size : (c + 1) * size], low[k], 1.0 / width[k], slabs[k] - 1
        slot, along = slots[k], np.uint32(counts[k] if k > 0 else 0)
        for i in range(row.shape[0]):
            own[i] = own[i] * along + slot[slab_of(row[i], bottom, inverse, last)]
    for i in range(own.shape[0]):
        found[own[i]] += 1


@jit
def count(points, low, width, slabs, slots, counts, ids, histogram):
    """Write the cell of point i into ids[i], and the points per chunk and cell into histogram[chunk, cell]."""
    arguments = (points, low, width, slabs, slots, counts, ids, histogram)
    launch(available(), CHUNKS, portion_of(points.shape[1]), _count_item, arguments)


@jit
def offsets(histogram, starts):
    """Replace the counts in histogram[chunk, cell] by the places where the chunk's points of that cell begin.

    The places where the cells begin, and the number of all points, go into starts (cells + 1,).
    """
    total = 0
    for cell in range(histogram.shape[1]):
        starts[cell] = total
        for c in range(histogram.shape[0]):
            found = histogram[c, cell]
            histogram[c, cell] = total
            total += found
    starts[histogram.shape[1]] = total


@jit(borrowed=True)
def _scatter_item(c, thread, points, low, width, slabs, ids, histogram, order, local):
    r, n = points.shape
    size = -(-n // CHUNKS)
    to, starts = ids[c * size : (c + 1) * size], histogram[c]
    for i in range(to.shape[0]):
        cell = to[i]
        at = starts[cell]
        starts[cell] = at + 1
        to[i] = at
        order[at] = c * size + i
    for k in range(r):
        row, bottom, inverse, last = points[k, c * size : (c + 1) * size], low[k], 1.0 / width[k], slabs[k] - 1
        out = local[k]
        for i in range(row.shape[0]):
            slab = np.int32(slab_of(row[i], bottom, inverse, last))
            u = 2.0 * ((row[i] - bottom) * inverse - slab) - 1.0
            out[to[i]] = min(max(u, -1.0), 1.0)


@jit
def scatter(points, low, width, slabs, ids, histogram, order, local):
    """Write into order[at] the point that is sorted to `at`, and into local[:, at] its coordinates in its cell.

    Local coordinates are in [-1, 1]; histogram is that of `offsets`; ids are those of `count`, and become the places
    that points are sorted to.
    """
    arguments = (points, low, width, slabs, ids, histogram, order, local)
    launch(available(), CHUNKS, portion_of(points.shape[1]), _scatter_item, arguments)


@jit(borrowed=True)
def _arrange_item(chunk, thread, values, factor, order, out):
    size = -(-order.shape[0] // CHUNKS)
    for at in range(chunk * size, min((chunk + 1) * size, order.shape[0])):
        out[at] = factor * values[order[at]]


@jit
def arrange(values, factor, order, out):
    """Write factor * values[order[at]] into out[at]."""
    launch(available(), CHUNKS, portion_of(order.shape[0]), _arrange_item, (values, factor, order, out))


@jit(borrowed=True)
def _pick_item(chunk, thread, points, index, out):
    size = -(-index.shape[0] // CHUNKS)
    for i in range(chunk * size, min((chunk + 1) * size, index.shape[0])):
        for k in range(points.shape[0]):
            out[k, i] = points[k, index[i]]


@jit
def pick(points, index, out):
    """Write points[:, index[i]] into out[:, i]."""
    launch(available(), CHUNKS, portion_of(index.shape[0]), _pick_item, (points, index, out))


@jit
def pieces(starts, items):
    """Write pieces (cell, first point, last point + 1) of at most PIECE points into items[i]; return their number."""
    found = 0
    for cell in range(starts.shape[0] - 1):
        for first in range(starts[cell], starts[cell + 1], PIECE):
            items[found, 0], items[found, 1] = cell, first
            items[found, 2] = min(first + PIECE, starts[cell + 1])
            found += 1
    return found
