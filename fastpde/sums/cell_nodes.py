"""Cells of points and their Chebyshev nodes: weights go from points to nodes, sums from nodes to points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array
from ..kernels import cell_moments, chebyshev, expansion
from ..simd import pool
from .chebyshev_grid import Sorted
from .workspace import Workspace

_NONE = np.empty(0)


@dataclass(frozen=True)
class Cells:
    """Points sorted into cells. Those with many points have Chebyshev nodes; elsewhere the points are their own nodes.

    Attributes:
        sorted: the points.
        side: sizes for the kernels of `kernels.grid`.
        full: (q,) cells with nodes.
        items: the pieces of those.
        single: (s,) sorted places of the points in other cells.
        points: (nodes, r) coordinates of the nodes, cell by cell, the last axis fastest; then of the points in other
            cells.
    """

    sorted: Sorted
    side: Any
    full: Array
    items: Array
    single: Array
    points: Array

    @staticmethod
    def of(x: Array, ends: Array, slabs: Array, orders: Array, workspace: Workspace, name: str) -> Cells:
        half, centre = np.maximum(np.ptp(ends, axis=0) * (0.5 + 1e-12), 1e-30), ends.mean(axis=0)
        at = Sorted.into(x, centre, half, slabs, workspace, name)
        sizes, total = at.items[:, 2] - at.items[:, 1], int(np.prod(at.counts))
        many = np.bincount(at.items[:, 0], sizes, total) > np.prod(orders)
        has_nodes = many[at.items[:, 0]]
        single, full = np.flatnonzero(np.repeat(~has_nodes, sizes)), np.flatnonzero(many)
        cells = np.unravel_index(full, tuple(at.counts))
        local = np.meshgrid(*[_points(p) for p in orders], indexing="ij")
        axes = [
            np.append(centre[k] + at.centres[k][cells[k]][:, None] + at.half[k] * u.reshape(-1), x[k, at.order[single]])
            for k, u in enumerate(local)
        ]
        kept = np.ascontiguousarray(at.items[has_nodes])
        return Cells(at, chebyshev.sides(orders, at.counts), full, kept, single, np.stack(axes, axis=1))

    def gathered(self, weights: Array, workspace: Workspace) -> Array:
        """Return weights of the nodes (nodes,) that give every polynomial the same sum as those of the points.

        weights: (n,) those of the points.
        """
        at, side = self.sorted, self.side
        r, most = at.centres.shape
        tensors = workspace("tensor", (1, int(np.prod(side.sizes))), np.float64)
        tensors[:] = 0.0
        partial = workspace("partial", (max(at.split, 1), side.rows * side.columns), np.float64)
        memory = chebyshev.allocate(pool.threads(), side, workspace)
        channels = np.ascontiguousarray(weights)[None]
        tilt = cell_moments.SourceWeights(np.zeros((r, most)), np.zeros(r), 0.0, _NONE, False, channels)
        cell_moments.add_moments(side, self.items, len(self.items), at.local, at.order, tilt, memory, partial, tensors)
        cell_moments.join_pieces(side, self.items, len(self.items), partial, memory.corner[0], tensors)
        return np.append(self._mapped(self._blocks(tensors[0])[self.full]), weights[at.order[self.single]])

    def spread_out(self, sums: Array, workspace: Workspace) -> Array:
        """Return the values at the points (m,) of the polynomials with the values `sums` (nodes,) at the nodes."""
        at, side = self.sorted, self.side
        tensor = workspace("tensor", (int(np.prod(side.sizes)),), np.float64)
        tensor[:] = 0.0
        nodes = len(sums) - len(self.single)
        blocks = np.zeros((int(np.prod(side.counts)), *side.orders))
        blocks[self.full] = self._mapped(sums[:nodes].reshape(-1, *side.orders), back=True)
        whole = blocks.reshape(*side.counts, *side.orders).transpose(self._interleaved())
        self._inside(tensor)[...] = whole.reshape(tuple(side.counts * side.orders))
        memory = chebyshev.allocate(pool.threads(), side, workspace, 1, 1)
        found = np.empty((at.local.shape[1], 1))
        grid_sums = _plain(at, found)
        expansion.expand(
            side, self.items, len(self.items), at.local, at.order, tensor[None], 0, False, grid_sums, memory
        )  # fmt: skip
        found[at.order[self.single], 0] = sums[nodes:]
        return found[:, 0]

    def _inside(self, tensor: Array) -> Array:
        """Return the tensor without its padding, a view."""
        return tensor.reshape(tuple(self.side.sizes))[
            tuple(slice(size) for size in self.side.counts * self.side.orders)
        ]

    def _interleaved(self) -> tuple[int, ...]:
        """Return the transposition of axes (slabs ..., degrees ...) to (slab, degree, slab, degree, ...)."""
        r = len(self.side.orders)
        return tuple(axis for k in range(r) for axis in (k, r + k))

    def _blocks(self, tensor: Array) -> Array:
        """Return the blocks (cells, p_1, ..., p_r) of all cells of a tensor."""
        split = [size for pair in zip(self.side.counts, self.side.orders, strict=True) for size in pair]
        order = np.argsort(self._interleaved())
        return self._inside(tensor).reshape(split).transpose(order).reshape(-1, *self.side.orders)

    def _mapped(self, blocks: Array, back: bool = False) -> Array:
        """Map moments against polynomials to weights of nodes.

        back: map values at nodes to coefficients of polynomials instead.
        """
        for k, order in enumerate(self.side.orders):
            degree = np.arange(order)[:, None]
            # Whole numbers are reduced first: the cosine of a large angle has lost digits.
            T = np.cos(np.pi / (2 * order) * (degree * (2 * degree.T + 1) % (4 * order)))
            T *= np.where(degree > 0, 2.0, 1.0) / order
            mapped = np.einsum("c...a,ab->c...b", np.moveaxis(blocks, k + 1, -1), T.T if back else T)
            blocks = np.moveaxis(mapped, -1, k + 1)
        return blocks


def _plain(at: Sorted, out: Array) -> expansion.Expansion:
    """Return the parameters by which `expand` writes polynomials as they are into `out` (m, 1)."""
    r, most = at.centres.shape
    nothing, row, at_all = np.zeros((1, 0)), np.zeros(r), np.empty(0, np.int64)
    return expansion.Expansion(
        np.zeros(1), nothing, np.ones((1, 1)), np.empty((0, 0, 0)), np.zeros((r, most)), row, 0.0, _NONE, at_all,
        _NONE, False, out, _NONE,
    )  # fmt: skip


def _points(order: int) -> Array:
    """Return the Chebyshev points (order,)."""
    return np.cos(np.pi * (np.arange(order) + 0.5) / order)
