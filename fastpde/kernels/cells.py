"""Points sorted into the cells of a grid: a stable counting sort, the same for any number of threads.

Axis k of a box is cut into equal slabs; slabs without points are left out (`slots` says where the others went). A cell
is one slab per axis, the last axis fastest. Points are rows of coordinates (r, n). Sorted points carry coordinates
local to their cell, in [-1, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from .._jit import jit

CHUNKS = 64  # of points: fixed, so that the order of points does not depend on threads
PIECE = 4096  # points of a cell that one thread takes at a time


class Cells(NamedTuple):
    """A grid of cells over a box, and the points sorted into it."""

    low: np.ndarray  # (r,) lower corner of the box
    width: np.ndarray  # (r,) of a slab
    slots: np.ndarray  # (r, most slabs) int64: index among the slabs that are kept, -1 elsewhere
    counts: np.ndarray  # (r,) int64: slabs kept
    starts: np.ndarray  # (cells + 1,) first point of each cell, after sorting
    local: np.ndarray  # (r, n) local coordinates of the sorted points
    place: np.ndarray  # (n,) where each point went


@jit(inline=True)
def slab_of(value, low, width, slabs):
    """The slab of a coordinate; values on or beyond the faces belong to the outermost slabs."""
    return min(max(int((value - low) / width), 0), slabs - 1)


@jit(parallel=True)
def find_slabs(points, low, width, slabs, used):
    """used[chunk, k, s] <- 1 where slab s of axis k has a point of that chunk."""
    r, n = points.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for k in range(r):
            for s in range(slabs[k]):
                used[c, k, s] = 0
            for i in range(c * size, min((c + 1) * size, n)):
                used[c, k, slab_of(points[k, i], low[k], width[k], slabs[k])] = 1


@jit(inline=True)
def _cell_of(points, i, low, width, slabs, slots, counts):
    cell = 0
    for k in range(points.shape[0]):
        cell = cell * counts[k] + slots[k, slab_of(points[k, i], low[k], width[k], slabs[k])]
    return cell


@jit(parallel=True)
def count(points, low, width, slabs, slots, counts, ids, histogram):
    """ids[i] <- the cell of point i; histogram[chunk, cell] <- points of the chunk there."""
    n = points.shape[1]
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        histogram[c, :] = 0
        for i in range(c * size, min((c + 1) * size, n)):
            cell = _cell_of(points, i, low, width, slabs, slots, counts)
            ids[i] = cell
            histogram[c, cell] += 1


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
def scatter(points, low, width, slabs, ids, histogram, local, place):
    """place[i] <- the sorted place of point i; local[:, place] <- its coordinates in its cell, in [-1, 1]."""
    r, n = points.shape
    size = -(-n // CHUNKS)
    for c in prange(CHUNKS):
        for i in range(c * size, min((c + 1) * size, n)):
            at = histogram[c, ids[i]]
            histogram[c, ids[i]] += 1
            place[i] = at
            for k in range(r):
                slab = slab_of(points[k, i], low[k], width[k], slabs[k])
                u = 2.0 * ((points[k, i] - low[k]) / width[k] - slab) - 1.0
                local[k, at] = min(max(u, -1.0), 1.0)


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
