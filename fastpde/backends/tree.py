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

import numpy as np

from .._types import Array
from ..kernels import cells, reduce
from . import planning
from .gridsum import Box, on_grid, some

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
            on_grid(self, targets, sources, box, plan)

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
        z, (y, bias, channels) = some(self.z, targets), self.sources(sources)
        values = np.concatenate([y if self.gradient else y[:0], channels]).T
        means, logs = self.exact(z.T[None], y.T[None], values[None], bias[None] if len(bias) else None)
        reduce.write(means[0].T, logs[0], _ALL if targets is None else targets, self.result)
        self.report["direct_targets"] += z.shape[1]

    def sources(self, sources: Array | None) -> tuple[Array, Array, Array]:
        """Coordinates, bias and channels of some sources."""
        bias = self.bias if sources is None or not len(self.bias) else self.bias[sources]
        return some(self.y, sources), bias, some(self.channels, sources)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _split(self, targets: Array | None, sources: Array | None, box: Box) -> None:
        """Halves the targets' box across the axis that carries most."""
        k = int(np.argmax(box.loads))
        lower = some(self.z, targets)[k] <= box.z_centre[k]
        every = np.arange(len(lower)) if targets is None else targets
        for part in (every[lower], every[~lower]):
            if len(part):
                z_ends = _ends(self.z[:, part])
                y, bias, _ = self.sources(sources)
                keep = mattering(y, bias, z_ends, _DROP * self.tol / y.shape[1])
                near = sources if keep.all() else np.flatnonzero(keep) if sources is None else sources[keep]
                self._node(part, near, _ends(some(self.y, near)), z_ends)

    def _split_seconds(self, targets: Array | None, sources: Array | None, box: Box) -> float:
        """What small boxes of targets would cost in all, judged by a sample."""
        n, m = _count(sources, self.y), _count(targets, self.z)
        z, (y, bias, _) = some(self.z, _thinned(targets, m)), self.sources(_thinned(sources, n))
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


def _thinned(index: Array | None, count: int) -> Array:
    """At most about _SAMPLE of `count` indices, evenly."""
    step = max(1, count // _SAMPLE)
    return np.arange(0, count, step) if index is None else index[::step]


def _ends(points: Array) -> Array:
    """The corners (2, r) of the box of points (r, n)."""
    return np.stack([points.min(axis=1), points.max(axis=1)])


def mattering(y: Array, bias: Array, z_ends: Array, share: float) -> Array:
    """Which sources (r, n) may have more than `share` of the weight of some target of a box."""
    centre, half = z_ends.mean(axis=0), np.ptp(z_ends, axis=0) / 2
    first = int(np.argmax(centre @ y + (bias if len(bias) else 0.0)))
    partial, keep = np.empty(cells.CHUNKS), np.empty(y.shape[1], np.bool_)
    reduce.reach(y, bias, centre, half, first, partial)
    reduce.mattering(y, bias, centre, half, first, math.log(share * partial.sum()), keep)
    return keep
