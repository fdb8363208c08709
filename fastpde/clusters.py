"""The clusters of a cloud, and the times over which their number stays the same.

Tokens fall into the cells of a grid of side `length`, aligned with the lowest corner of the cloud; occupied cells that
touch, at a corner too, are one cluster. Two tokens that differ by at most `length` in every coordinate are in one
cluster, and tokens of different clusters differ by more than `length` in some coordinate. What counts are the
differences as they are computed, |x - y| in float64, also where tokens lie on the faces of cells. The time is linear in
the number of tokens where cells hold many of them; tokens spread thin in more than three dimensions take much longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._types import Array, as_numbers, as_tokens, as_weights
from .errors import InputError

# Up to this dimension neighbours are looked up by (3^d - 1) / 2 searches. Above, a tree of the cells finds them.
_SEARCHED = 3
# Relative error of a token's place on the grid. The difference and the quotient that give it are rounded, and so is the
# difference of two tokens that `length` is compared with: three roundings for each of two places, here doubled.
_NEXT = 8 * 2.0**-52


@dataclass(frozen=True)
class Clusters:
    """Clusters in the order of their masses, largest first.

    Attributes:
        labels: (n,) int64, the cluster of each token.
        sizes: (c,) int64, numbers of tokens.
        masses: (c,) float64, their weights; sum 1.
        positions: (c, d) float64, their weighted means.
    """

    labels: Array
    sizes: Array
    masses: Array
    positions: Array

    def __len__(self) -> int:
        return len(self.sizes)

    def count(self, least: float = 0.0) -> int:
        """Return the number of clusters whose mass is at least `least`."""
        return int((self.masses >= least).sum())


def clusters(x: Any, length: float, *, weights: Any = None) -> Clusters:
    """Return the clusters of tokens x (n, d), which gaps wider than `length` separate from one another.

    Tokens within `length` of each other in every coordinate are in one cluster; two tokens of a cluster are joined by
    steps of at most 2 `length`, to rounding, in every coordinate. Choose a `length` well above the width of a cluster
    and below the distance between clusters.

    Args:
        x: tokens (n, d).
        length: a number > 0, in the units of x.
        weights: (n,), positive, sum 1; default 1/n.

    Raises:
        InputError, InputTypeError: naming the argument.
    """
    tokens = as_tokens("x", x)
    if tokens.ndim != 2:
        raise InputError("x", f"shape {tokens.shape}", "one cloud, shape (n, d)")
    size = as_numbers("length", length)
    if size.ndim or not size > 0.0:
        raise InputError("length", repr(length), "a number > 0")
    w = as_weights(weights, tokens.shape)
    masses = np.full(len(tokens), 1.0 / len(tokens)) if w is None else w[0] / w[0].sum()
    cells, inverse = _cells(tokens, float(size))
    labels = _joined(cells)[inverse]
    return _summary(tokens, masses, labels)


def _summary(tokens: Array, masses: Array, labels: Array) -> Clusters:
    """Return the clusters of tokens (n, d) with labels 0, 1, ... (n,), in the order of their masses, largest first."""
    total = np.bincount(labels, masses)
    order = np.argsort(-total, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    means = [np.bincount(labels, masses * column) / total for column in tokens.T.astype(np.float64)]
    return Clusters(place[labels], np.bincount(labels)[order], total[order], np.stack(means, axis=1)[order])


def _cells(tokens: Array, length: float) -> tuple[Array, Array]:
    """Return the occupied cells (c, d) int64 in lexicographic order, and the index of each token's cell (n,)."""
    wide = tokens.astype(np.float64)
    scaled = (wide - wide.min(axis=0)) / length
    if scaled.max() >= 2.0**62:
        raise InputError("length", f"{length:g}", "a length of at least 2^-62 of the cloud's width")
    grid = scaled.astype(np.int64)
    for column, place, values in zip(grid.T, scaled.T, wide.T, strict=True):
        # What rounding may have put into a cell too far lies next to the lower face of its cell.
        if ((column >= 2) & (place - column <= _NEXT * (place + 1.0))).any():
            column[:] = _settled(values, column, length)
    extent = [int(m) + 3 for m in grid.max(axis=0)]
    if np.prod([float(e) for e in extent]) < 2.0**62:
        # One number per cell: sorting numbers is ten times faster than sorting rows.
        keys = _keys(grid, extent)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return grid[first], inverse
    cells, inverse = np.unique(grid, axis=0, return_inverse=True)
    return cells, inverse.reshape(-1)


def _settled(values: Array, cells: Array, length: float) -> Array:
    """Return the cells (n,) of values (n,) along an axis, corrected for rounding.

    A cell is lowered by one where a value within `length` is two cells below.
    """
    distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    x, found, low = distinct.tolist(), cells[first].tolist(), 0
    for i, value in enumerate(x):
        while value - x[low] > length:
            low += 1
        # The lowest value within reach is in the lowest cell of all that are.
        found[i] = min(found[i], found[low] + 1)
    return np.array(found, dtype=np.int64)[inverse]


def _keys(grid: Array, extent: list[int]) -> Array:
    """Return the lexicographic numbers (m,) of cells (m, d) in a grid of `extent` (d,) with a margin of one cell."""
    keys = np.zeros(len(grid), np.int64)
    for column, width in zip(grid.T, extent, strict=True):
        keys = keys * width + column + 1
    return keys


def _joined(cells: Array) -> Array:
    """Return the label (c,) of the connected component of each occupied cell (c, d)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = _touching(cells)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(cells), len(cells)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _touching(cells: Array) -> Array:
    """Return the pairs (e, 2) of indices of cells (c, d) whose coordinates all differ by at most one."""
    d = cells.shape[1]
    extent = [int(m) + 3 for m in cells.max(axis=0)]
    if d > _SEARCHED or np.prod([float(e) for e in extent]) >= 2.0**62:
        from scipy.spatial import cKDTree

        return cKDTree(cells).query_pairs(1.5, p=np.inf, output_type="ndarray")
    keys = _keys(cells, extent)
    found = []
    for step in np.ndindex(*(3,) * d):
        offset = int(_keys(np.array([step]) - 1, extent)[0] - _keys(np.zeros((1, d), np.int64), extent)[0])
        if offset <= 0:
            continue  # each pair once
        places = np.searchsorted(keys, keys + offset)
        hit = np.flatnonzero(keys[np.minimum(places, len(keys) - 1)] == keys + offset)
        found.append(np.stack([hit, places[hit]], axis=1))
    return np.concatenate(found)


@dataclass(frozen=True)
class Plateau:
    """An interval of time: the number of clusters was `count` at all observed times from `start` to `end`."""

    start: float
    end: float
    count: int


def plateaus(t: Any, counts: Any, least: float = 0.0) -> list[Plateau]:
    """Return the metastable times of a run: the longest intervals of equal counts (m,) at rising times t (m,).

    An interval ends where the count is last seen; those shorter than `least` are left out.

    Raises InputError for times that do not rise, or another number of counts.
    """
    times, seen = np.asarray(as_numbers("t", t), float), np.asarray(counts)
    if times.ndim != 1 or not len(times) or (np.diff(times) <= 0.0).any():
        raise InputError("t", f"shape {times.shape}", "rising times (m,)")
    if seen.shape != times.shape:
        raise InputError("counts", f"shape {seen.shape}", f"shape {times.shape}, one count per time")
    starts = np.flatnonzero(np.concatenate(([True], seen[1:] != seen[:-1])))
    ends = np.append(starts[1:], len(seen)) - 1
    found = [Plateau(float(times[a]), float(times[b]), int(seen[a])) for a, b in zip(starts, ends, strict=True)]
    return [plateau for plateau in found if plateau.end - plateau.start >= least]
