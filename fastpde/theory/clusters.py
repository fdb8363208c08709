"""The clusters of a cloud, and the times over which their number stays the same.

Clusters are those of single linkage: the connected components of the graph that joins tokens whose distance |x - y|, as
computed in float64, is at most `length`. They do not change when the cloud is turned.

Tokens fall into the cells of a grid, small enough that those of one cell are joined. Two cells are compared only if
they are close and not joined yet, by one token of each first, then by all. The time is linear in the number of tokens
where cells hold many of them; tokens spread thin in more than three dimensions take much longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from .._types import Array, as_numbers, as_tokens, as_weights
from ..errors import InputError, InputTypeError, explained

# Up to this dimension neighbours are looked up by their offsets. Above, a tree of the cells finds them.
_SEARCHED = 3
# How much smaller than length / sqrt(d) a cell is. It covers the rounding of places on the grid up to `_WIDEST`.
_MARGIN, _WIDEST = 2.0**-20, 2.0**30
_CELLS = 2**15  # pairs of cells that are compared at a time
_AT_ONCE = 2**20  # pairs of tokens, or of cells in a tree, that are compared at a time
_SOME = (1, 8)  # tokens of each of two cells that are compared first
_MANY = 2**12  # pairs of tokens of two cells, above which a tree finds the closest
_ROUNDING = 1e-12  # relative, of distances from a tree


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


@explained
def clusters(x: Any, length: float, *, weights: Any = None, progress: Any = False) -> Clusters:
    """Return the clusters of tokens x (n, d): of single linkage, cut at the distance `length`.

    Two tokens are in one cluster if and only if steps from token to token, of at most `length` each, lead from one to
    the other. Choose a `length` well above the distance of neighbours in a cluster and below that between clusters.

    Args:
        x: tokens (n, d).
        length: a number > 0, in the units of x.
        weights: (n,), positive, sum 1; default 1/n.
        progress: True for a bar, or a function of the numbers of cells that are done, and of all.

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Gower, Ross, Minimum spanning trees and single linkage cluster analysis (1969), Appl. Statist. 18, 54-64.
    """
    tokens = as_tokens("x", x)
    if tokens.ndim != 2:
        raise InputError("x", f"shape {tokens.shape}", "one cloud, shape (n, d)")
    size = as_numbers("length", length)
    if size.ndim or not size > 0.0:
        raise InputError("length", repr(length), "a number > 0")
    if not (callable(progress) or isinstance(progress, bool)):
        raise InputTypeError("progress", repr(progress), "True, False or a function")
    w = as_weights(weights, tokens.shape)
    masses = np.full(len(tokens), 1.0 / len(tokens)) if w is None else w[0] / w[0].sum()
    with np.errstate(over="ignore"), _reporting(progress) as report:  # squares of huge distances are inf: far apart
        labels = _Cells(tokens.astype(np.float64), float(size)).joined(report)
    return _summary(tokens, masses, labels)


def _summary(tokens: Array, masses: Array, labels: Array) -> Clusters:
    """Return the clusters of tokens (n, d) with labels 0, 1, ... (n,), in the order of their masses, largest first."""
    total = np.bincount(labels, masses)
    order = np.argsort(-total, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    means = [np.bincount(labels, masses * column) / total for column in tokens.T.astype(np.float64)]
    return Clusters(place[labels], np.bincount(labels)[order], total[order], np.stack(means, axis=1)[order])


class _Cells:
    """The tokens sorted into cells, and which cells are joined so far."""

    def __init__(self, x: Array, length: float) -> None:
        d = x.shape[1]
        self._length = length
        scaled = (x - x.min(axis=0)) / length * (np.sqrt(d) * (1.0 + _MARGIN))
        if not scaled.max() < _WIDEST:
            raise InputError("length", f"{length:g}", "a length of at least 2^-28 of the cloud's width")
        grid = scaled.astype(np.int64)
        self._extent = [int(m) + 5 for m in grid.max(axis=0)]  # a margin of two cells on either side
        self._keyed = bool(np.prod([float(e) for e in self._extent]) < 2.0**62)
        # One number per cell: sorting numbers is ten times faster than sorting rows.
        rows = self._keys(grid) if self._keyed else grid
        found, first, inverse, counts = np.unique(
            rows, axis=None if self._keyed else 0, return_index=True, return_inverse=True, return_counts=True
        )
        self._cells, self._cell_of, self._found = grid[first], inverse.reshape(-1), found
        self._counts, self._starts = counts, np.cumsum(counts) - counts
        self._x = x[np.argsort(self._cell_of, kind="stable")]
        self._labels = np.arange(len(counts))

    def joined(self, report: Callable[[int, int], None]) -> Array:
        """Join all cells with tokens within `length` of each other; return the label (n,) of each token's cluster."""
        for done, pairs in self._close():
            report(done, len(self._cells))
            for start in range(0, len(pairs), _CELLS):
                self._join_near(pairs[start : start + _CELLS])
        return self._labels[self._cell_of]

    def _keys(self, grid: Array) -> Array:
        """Return the lexicographic numbers (m,) of cells (m, d)."""
        keys = np.zeros(len(grid), np.int64)
        for column, width in zip(grid.T, self._extent, strict=True):
            keys = keys * width + column + 2
        return keys

    def _close(self) -> Iterator[tuple[int, Array]]:
        """Yield the pairs (e, 2) of cells that may have tokens within `length`, each once, the closest first.

        Before each: of how many cells the pairs are done.
        """
        d, count = self._cells.shape[1], len(self._cells)
        if d > _SEARCHED or not self._keyed:
            yield from self._close_in_tree()
            return
        offsets = [o for o in product(range(-2, 3), repeat=d) if o > (0,) * d and _reaches(np.array(o))]
        for i, offset in enumerate(sorted(offsets, key=lambda o: sum(v * v for v in o))):
            step = int(self._keys(np.array([offset]))[0] - self._keys(np.zeros((1, d), np.int64))[0])
            places = np.searchsorted(self._found, self._found + step)
            hit = np.flatnonzero(self._found[np.minimum(places, count - 1)] == self._found + step)
            yield i * count // len(offsets), np.stack([hit, places[hit]], axis=1)

    def _close_in_tree(self) -> Iterator[tuple[int, Array]]:
        from scipy.spatial import cKDTree

        d, count = self._cells.shape[1], len(self._cells)
        tree, first, size = cKDTree(self._cells), 0, 64
        while first < count:
            last = min(first + size, count)
            near = tree.query_ball_point(self._cells[first:last], 2.0 * np.sqrt(d) + 1e-9, return_sorted=False)
            lengths = np.array([len(own) for own in near])
            owners = np.repeat(np.arange(first, last), lengths)
            pairs = np.stack([owners, np.concatenate(near).astype(np.int64)], axis=1)
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            yield first, pairs[_reaches(self._cells[pairs[:, 0]] - self._cells[pairs[:, 1]])]
            first, size = last, max(1, int((last - first) * _AT_ONCE / max(lengths.sum(), 1)))

    def _join_near(self, pairs: Array) -> None:
        """Join those of the pairs (e, 2) of cells that have tokens within `length`."""
        for most in _SOME:  # a few tokens of each are enough for most
            pairs = self._apart(pairs)
            self._join_compared(pairs, np.minimum(self._counts[pairs], most))
        pairs = self._apart(pairs)
        counts = self._counts[pairs]
        sizes = counts.prod(axis=1)
        few = (sizes > _SOME[-1] ** 2) & (sizes <= _MANY)
        ends = np.cumsum(sizes[few])
        cuts = np.searchsorted(ends, np.arange(_AT_ONCE, ends[-1] if len(ends) else 0, _AT_ONCE))
        for part in np.split(pairs[few], cuts):
            part = self._apart(part)
            self._join_compared(part, self._counts[part])
        for a, b in pairs[sizes > _MANY]:
            if self._labels[a] != self._labels[b] and self._touch(a, b):
                self._join(np.array([[a, b]]))

    def _join_compared(self, pairs: Array, counts: Array) -> None:
        """Join those of the pairs (e, 2) of cells whose first tokens, `counts` (e, 2) of them, are within `length`."""
        sizes = counts.prod(axis=1)
        owner = np.repeat(np.arange(len(pairs)), sizes)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        one = self._starts[pairs[owner, 0]] + place // counts[owner, 1]
        two = self._starts[pairs[owner, 1]] + place % counts[owner, 1]
        near = _distances(self._x[one], self._x[two]) <= self._length
        self._join(pairs[np.unique(owner[near])])

    def _touch(self, a: int, b: int) -> bool:
        """Return whether two cells of many tokens have some within `length`."""
        from scipy.spatial import cKDTree

        one, two = (self._x[self._starts[c] : self._starts[c] + self._counts[c]] for c in (a, b))
        found, _ = cKDTree(one).query(two, distance_upper_bound=self._length * (1.0 + 1e-9))
        least = float(found.min())
        if abs(least - self._length) > _ROUNDING * self._length:
            return least < self._length
        step = max(1, _AT_ONCE // len(two))
        return any(
            (_distances(one[i : i + step, None], two[None]) <= self._length).any() for i in range(0, len(one), step)
        )

    def _apart(self, pairs: Array) -> Array:
        """Return those of the pairs (e, 2) of cells that are not joined yet."""
        labels = self._labels[pairs]
        return pairs[labels[:, 0] != labels[:, 1]]

    def _join(self, pairs: Array) -> None:
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if not len(pairs):
            return
        one, two = self._labels[pairs].T
        count = int(self._labels.max()) + 1
        graph = coo_matrix((np.ones(len(one), np.int8), (one, two)), shape=(count, count))
        self._labels = connected_components(graph, directed=False)[1].astype(np.int64)[self._labels]


def _reaches(offsets: Array) -> Any:
    """Return for offsets (..., d) of cells whether some of their points are within a length of each other."""
    gaps = np.maximum(np.abs(offsets) - 1, 0)
    return (gaps * gaps).sum(axis=-1) <= offsets.shape[-1] * (1.0 + 4.0 * _MARGIN)


def _distances(x: Array, y: Array) -> Array:
    return np.sqrt(np.square(x - y).sum(axis=-1))


@contextmanager
def _reporting(progress: Any) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the numbers of cells done and of all: it moves a bar, calls progress, or does nothing."""
    if callable(progress) or not progress:
        yield progress if callable(progress) else lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(unit=" cells", file=sys.stderr) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


@dataclass(frozen=True)
class Plateau:
    """An interval of time: the number of clusters was `count` at all observed times from `start` to `end`."""

    start: float
    end: float
    count: int


@explained
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
