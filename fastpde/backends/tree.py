"""Sums of e^{<z, y> + b} over sources, in relative error, for any size of logits: grids, direct sums, and a tree.

A node is a box of targets with the sources that matter to it. It is summed on one grid, or directly, or its box
is halved, whichever is expected to be fastest. Sources are weighed at the centre of the box (tilted): with a_j the
score there and the box's half widths H, any target gives source j a weight within e^{+-d_j} of e^{a_j - a_0} relative
to source 0, d_j = sum_k H_k |y_jk - y_0k|. So those that cannot matter are known and dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numba
import numpy as np

from .._types import Array
from ..kernels import cells, grid, reduce
from . import planning
from .cores import packed_cores

_DROP = 0.02  # of tol: the weight of all dropped sources together
_RATE = 0.7e9  # pairs per second of a direct sum on one thread
_SAMPLE = 4096
_LOAD = 8.0  # logits of the boxes that a split is judged by
_SPLIT_FROM = 30.0  # below these logits a grid is never beaten by a split
_WORTH_A_SPLIT = 5e-3  # seconds
_PASS = 20e-9  # seconds for a pass over a point
_JUDGED = 12  # boxes
_ALL = np.empty(0, np.int64)


class Exact(Protocol):
    """Sums over all pairs: targets (B, q, r), sources (B, p, r) with values (B, p, c) and bias (B, p) or None, of which
    a target sees the first `limits` (B, q), or all. Returns means (B, q, c) and logs of total weights (B, q)."""

    def __call__(
        self, z: Array, y: Array, values: Array, bias: Array | None = None, limits: Array | None = None
    ) -> tuple[Array, Array]: ...


@dataclass
class Sum:
    """A reduced sum.

    Attributes:
        y, z: (r, n), (r, m) coordinates of sources and targets.
        bias: (n,) or (0,) log-weights.
        channels: (e, n) values beside the coordinates.
        gradient: whether the means of the coordinates are wanted.
        tol: relative error of sums, and of means relative to the spread of the sources.
        take: memory, as `Backend.take`.
        exact: sums over all pairs.
        result: where the results go.
        report: what was done: grids, targets summed directly, bound of the error.
    """

    y: Array
    z: Array
    bias: Array
    channels: Array
    gradient: bool
    tol: float
    take: Any
    exact: Exact
    result: reduce.Result
    report: dict[str, float] = field(default_factory=dict)

    def run(self, y_ends: Array, z_ends: Array) -> None:
        """Fills the result; y_ends, z_ends (2, r) are the corners of the points' boxes."""
        self.report |= {"grids": 0.0, "direct_targets": 0.0, "error_bound": 0.0}
        if len(self.y) == 0:
            self._uniform()
        else:
            self._node(None, None, y_ends, z_ends)

    def _node(self, targets: Array | None, sources: Array | None, y_ends: Array, z_ends: Array) -> None:
        """Sums `sources` for `targets` (indices; None: all) in boxes with these ends."""
        n, m = _count(sources, self.y), _count(targets, self.z)
        box = Box.around(y_ends, z_ends)
        plan = planning.plan(box.loads, n, m, self.tol, 1 + len(self.channels))
        grid_seconds, direct_seconds = math.inf if plan is None else plan.seconds, n * m / _RATE
        least = min(grid_seconds, direct_seconds)
        worth = least > _WORTH_A_SPLIT and box.loads.sum() > _SPLIT_FROM
        if worth and self._split_seconds(targets, sources, box) < least:
            self._split(targets, sources, box)
        elif plan is None or direct_seconds <= grid_seconds:
            self._directly(targets, sources)
        else:
            self._on_grid(targets, sources, box, plan)

    def _uniform(self) -> None:
        """No axis carries logits: every target gets the same."""
        n, m = self.channels.shape[1], self.z.shape[1]
        bias = self.bias if len(self.bias) else np.zeros(n)
        top = bias.max()
        weights = np.exp(bias - top)
        means = (self.channels * weights).sum(axis=1) / weights.sum()
        logs = np.full(m, top + math.log(weights.sum()))
        reduce.write(np.repeat(means[:, None], m, axis=1), logs, _ALL, self.result)

    def _directly(self, targets: Array | None, sources: Array | None) -> None:
        z, (y, bias, channels) = _some(self.z, targets), self._sources(sources)
        values = np.concatenate([y if self.gradient else y[:0], channels]).T
        means, logs = self.exact(z.T[None], y.T[None], values[None], bias[None] if len(bias) else None)
        reduce.write(means[0].T, logs[0], _ALL if targets is None else targets, self.result)
        self.report["direct_targets"] += z.shape[1]

    def _sources(self, sources: Array | None) -> tuple[Array, Array, Array]:
        """Coordinates, bias and channels of some sources."""
        bias = self.bias if sources is None or not len(self.bias) else self.bias[sources]
        return _some(self.y, sources), bias, _some(self.channels, sources)

    # -- one grid ----------------------------------------------------------------------------------------------------

    def _on_grid(self, targets: Array | None, sources: Array | None, box: Box, plan: planning.Grid) -> None:
        z, (y, bias, channels) = _some(self.z, targets), self._sources(sources)
        r, threads, take = len(y), numba.get_num_threads(), self.take
        of = Sorted.into(y, box.y_centre - box.y_half, box.y_half, plan.slabs, take, "y")
        to = Sorted.into(z, box.z_centre - box.z_half, box.z_half, plan.slabs, take, "z")
        largest = np.empty(cells.CHUNKS)
        reduce.tops(y, bias, box.z_centre, largest)
        weights = take("weights", (1 + len(channels), y.shape[1]), np.float64)
        reduce.weigh(y, bias, box.z_centre, float(largest.max()), channels, of.place, weights)
        side_y, side_z = grid.sides(plan.order_y, of.counts), grid.sides(plan.order_z, to.counts)
        matrices = packed_cores(box.z_half, box.y_half, plan, to.kept, of.kept, side_y.sizes, side_z.sizes)
        slopes, corners = r if self.gradient else 0, np.zeros((threads, r), np.int64)
        found = take("sums", (1 + slopes + len(channels), z.shape[1]), np.float64)
        for c in range(1 + len(channels)):
            tensor = take("tensor", (int(np.prod(side_y.sizes)),), np.float64)
            tensor[:] = 0.0
            partial = take("partial", (max(of.split, 1), side_y.lanes * side_y.rows), np.float64)
            memory = grid.allocate(threads, side_y, take)
            grid.spread(side_y, of.items, of.pieces, of.local, weights[c], memory, partial, corners, tensor)
            grid.gather(side_y, of.items, of.pieces, partial, corners[0], tensor)
            mapped = self._contract(tensor, side_y, side_z, matrices, threads)
            memory, with_slopes = grid.allocate(threads, side_z, take), c == 0 and self.gradient
            rows = found[: 1 + slopes] if c == 0 else found[slopes + c : slopes + c + 1]
            grid.evaluate(side_z, to.items, to.pieces, to.local, mapped, with_slopes, memory, corners, rows)
        frame = reduce.Frame(to.low, to.width, plan.slabs, box.y_centre, box.y_half, float(largest.max()))
        reduce.finish(z, frame, to.place, found, self.gradient, _ALL if targets is None else targets, self.result)
        self.report["grids"] += 1
        self.report["error_bound"] = max(self.report["error_bound"], plan.error)

    def _contract(self, tensor: Array, side_y: Any, side_z: Any, matrices: list[Array], threads: int) -> Array:
        sizes = [int(size) for size in side_y.sizes]
        zeros = np.zeros(grid.WIDTH)
        if len(sizes) == 1:
            first, lanes = sizes[0], int(side_z.sizes[0])
            return np.einsum("j,tjl->tl", tensor, matrices[0].reshape(-1, first, grid.WIDTH)).reshape(lanes)
        for k, matrix in enumerate(matrices):
            first, rest, lanes = sizes[0], int(np.prod(sizes[1:])), int(side_z.sizes[k])
            out = self.take(f"contracted{k % 2}", (rest * lanes,), np.float64)
            packs = self.take("packs", (threads, first * 64), np.float64)
            grid.contract(tensor, first, rest, matrix, lanes, packs, zeros, out)
            tensor, sizes = out, [*sizes[1:], lanes]
        return tensor

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _split(self, targets: Array | None, sources: Array | None, box: Box) -> None:
        """Halves the targets' box across the axis that carries most."""
        k = int(np.argmax(box.loads))
        lower = _some(self.z, targets)[k] <= box.z_centre[k]
        every = np.arange(len(lower)) if targets is None else targets
        for part in (every[lower], every[~lower]):
            if len(part):
                z_ends = _ends(self.z[:, part])
                y, bias, _ = self._sources(sources)
                keep = mattering(y, bias, z_ends, _DROP * self.tol / y.shape[1])
                near = sources if keep.all() else np.flatnonzero(keep) if sources is None else sources[keep]
                self._node(part, near, _ends(_some(self.y, near)), z_ends)

    def _split_seconds(self, targets: Array | None, sources: Array | None, box: Box) -> float:
        """What small boxes of targets would cost in all, judged by a sample."""
        n, m = _count(sources, self.y), _count(targets, self.z)
        z, (y, bias, _) = _some(self.z, _thinned(targets, m)), self._sources(_thinned(sources, n))
        parts = np.maximum(1, np.ceil(box.loads / _LOAD)).astype(np.int64)
        place = (z - (box.z_centre - box.z_half)[:, None]) / (2 * box.z_half / parts)[:, None]
        place = np.clip(place.astype(np.int64), 0, parts[:, None] - 1)
        keys = np.ravel_multi_index(tuple(place), tuple(parts))
        boxes = np.unique(keys)
        judged = boxes[:: max(1, len(boxes) // _JUDGED)]
        total = 0.0
        for key in judged:
            own = z[:, keys == key]
            keep = mattering(y, bias, _ends(own), _DROP * self.tol / n)
            sub = Box.around(_ends(y[:, keep]), _ends(own))
            near, count = int(keep.mean() * n) + 1, int(own.shape[1] * m / z.shape[1]) + 1
            plan = planning.plan(sub.loads, near, count, self.tol, 1 + len(self.channels))
            total += min(near * count / _RATE, math.inf if plan is None else plan.seconds) + _PASS * near
        levels = math.log2(max(float(np.prod(parts.astype(float))), 2.0))
        return total * len(boxes) / len(judged) + levels * _PASS * (n + m)


def _count(index: Array | None, points: Array) -> int:
    return points.shape[1] if index is None else len(index)


def _some(points: Array, index: Array | None) -> Array:
    """Some of the points (r, n), as rows of their own."""
    return points if index is None else np.ascontiguousarray(points[:, index])


def _thinned(index: Array | None, count: int) -> Array:
    """At most about _SAMPLE of `count` indices, evenly."""
    step = max(1, count // _SAMPLE)
    return np.arange(0, count, step) if index is None else index[::step]


def _ends(points: Array) -> Array:
    """The corners (2, r) of the box of points (r, n)."""
    return np.stack([points.min(axis=1), points.max(axis=1)])


@dataclass(frozen=True)
class Box:
    """The boxes of sources and targets of a node, their thin axes widened."""

    y_centre: Array
    y_half: Array
    z_centre: Array
    z_half: Array

    @staticmethod
    def around(y_ends: Array, z_ends: Array) -> Box:
        y_half, z_half = (np.ptp(ends, axis=0) * (0.5 + 1e-12) for ends in (y_ends, z_ends))
        y_half = np.maximum(y_half, 1e-30)
        z_half = np.maximum(z_half, planning.THIN / y_half)
        return Box(y_ends.mean(axis=0), y_half, z_ends.mean(axis=0), z_half)

    @property
    def loads(self) -> Array:
        """L (r,)."""
        return self.y_half * self.z_half


def mattering(y: Array, bias: Array, z_ends: Array, share: float) -> Array:
    """Which sources (r, n) may have more than `share` of the weight of some target of a box."""
    centre, half = z_ends.mean(axis=0), np.ptp(z_ends, axis=0) / 2
    first = int(np.argmax(centre @ y + (bias if len(bias) else 0.0)))
    partial, keep = np.empty(cells.CHUNKS), np.empty(y.shape[1], np.bool_)
    reduce.reach(y, bias, centre, half, first, partial)
    reduce.mattering(y, bias, centre, half, first, math.log(share * partial.sum()), keep)
    return keep


@dataclass(frozen=True)
class Sorted:
    """Points sorted into cells, see `kernels.cells`."""

    low: Array
    width: Array
    kept: list[Array]
    counts: Array
    local: Array
    place: Array
    items: Array
    pieces: int
    split: int  # pieces of cells of more than one

    @staticmethod
    def into(points: Array, low: Array, half: Array, slabs: Array, take: Any, name: str) -> Sorted:
        r, n = points.shape
        width, most = 2.0 * half / slabs, int(slabs.max())
        used = np.zeros((cells.CHUNKS, r, most), np.uint8)
        cells.find_slabs(points, low, width, slabs, used)
        found: Array = used.max(axis=0) > 0
        slots, counts = np.where(found, np.cumsum(found, axis=1) - 1, -1), found.sum(axis=1)
        total = int(np.prod(counts))
        ids, place = take(f"ids_{name}", (n,), np.int32), take(f"place_{name}", (n,), np.int32)
        local = take(f"local_{name}", (r, n), np.float64)
        histogram, starts = np.empty((cells.CHUNKS, total), np.int64), np.empty(total + 1, np.int64)
        cells.count(points, low, width, slabs, slots, counts, ids, histogram)
        cells.offsets(histogram, starts)
        cells.scatter(points, low, width, slabs, ids, histogram, local, place)
        items = np.empty((total + n // cells.PIECE + 1, 4), np.int64)
        pieces = cells.pieces(starts, items)
        cell = items[:pieces, 0]
        shared = np.bincount(cell, minlength=total)[cell] > 1
        items[:pieces, 3] = np.where(shared, np.cumsum(shared) - 1, -1)
        return Sorted(
            low, width, [np.flatnonzero(row) for row in found], counts, local, place, items, pieces, int(shared.sum())
        )
