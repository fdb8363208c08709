"""Points sorted into the cells of a grid: a stable counting sort, the same for any number of threads.

Axis k of a box is cut into equal slabs; slabs without points are left out (`slots` says where the others went). A cell
is one slab per axis, the last axis fastest. Points are rows of coordinates (r, n). Sorted points carry coordinates
local to their cell, in [-1, 1].
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .._jit import jit

CHUNKS = 64  # of points: fixed, so that the order of points does not depend on threads
PIECE = 4096  # points of a cell that one thread takes at a time


@jit(parallel=True)
def find_slabs(points, low, width, slabs, used):
    """used[chunk, k, s] <- 1 where slab s of axis k has a point of that chunk."""
    r, n = points.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for k in range(r):
            for s in range(used.shape[2]):
                used[c, k, s] = 0
            row, bottom, inverse, last = points[k, c * size : (c + 1) * size], low[k], 1.0 / width[k], slabs[k] - 1
            for i in range(row.shape[0]):
                used[c, k, slab_of(row[i], bottom, inverse, last)] = 1


@jit(inline=True)
def slab_of(value, low, inverse, last):
    """The slab of a coordinate; values on or beyond the faces belong to the outermost slabs 0 and `last`. The only
    formula: another one would put points on faces elsewhere. Unsigned: an index that is never negative needs no check.
    """
    return np.uint32(min(max(np.int32((value - low) * inverse), np.int32(0)), np.int32(last)))


@jit(parallel=True)
def count(points, low, width, slabs, slots, counts, ids, histogram):
    """ids[i] <- the cell of point i; histogram[chunk, cell] <- points of the chunk there."""
    r, n = points.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
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
def offsets(histogram, starts):
    """histogram[chunk, cell] <- where the chunk's points of that cell begin; starts <- where the cells do."""
    total = 0
    for cell in range(histogram.shape[1]):
        starts[cell] = total
        for c in range(histogram.shape[0]):
            found = histogram[c, cell]
            histogram[c, cell] = total
            total += found
    starts[histogram.shape[1]] = total


@jit(parallel=True)
def scatter(points, low, width, slabs, ids, histogram, place, order, local):
    """order[at] <- the point that is sorted to `at`; local[:, at] <- its coordinates in its cell, in [-1, 1].

    ids are those of `count`; place (n,) is memory.
    """
    r, n = points.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        own, to, starts = ids[c * size : (c + 1) * size], place[c * size : (c + 1) * size], histogram[c]
        for i in range(own.shape[0]):
            at = starts[own[i]]
            starts[own[i]] = at + 1
            to[i] = at
            order[at] = c * size + i
        for k in range(r):
            row, bottom, inverse, last = points[k, c * size : (c + 1) * size], low[k], 1.0 / width[k], slabs[k] - 1
            out = local[k]
            for i in range(row.shape[0]):
                slab = np.int32(slab_of(row[i], bottom, inverse, last))
                u = 2.0 * ((row[i] - bottom) * inverse - slab) - 1.0
                out[to[i]] = min(max(u, -1.0), 1.0)


@jit(parallel=True)
def arrange(values, factor, order, out):
    """out[at] <- factor values[order[at]]."""
    for at in prange(order.shape[0]):
        out[at] = factor * values[order[at]]


@jit(parallel=True)
def pick(points, index, out):
    """out[:, i] <- points[:, index[i]]."""
    for i in prange(index.shape[0]):
        for k in range(points.shape[0]):
            out[k, i] = points[k, index[i]]


@jit
def pieces(starts, items):
    """items[i] <- (cell, first, last) for pieces of at most PIECE points; returns how many there are."""
    found = 0
    for cell in range(starts.shape[0] - 1):
        for first in range(starts[cell], starts[cell + 1], PIECE):
            items[found, 0], items[found, 1] = cell, first
            items[found, 2] = min(first + PIECE, starts[cell + 1])
            found += 1
    return found
