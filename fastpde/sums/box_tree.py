"""Sums of e^{<z, y> + b} over sources, in relative error, for scores of any size: grids, direct sums, and a tree.

Where one grid for all would be slow, or is out of range, targets and sources are sorted into trees of boxes. A box of
targets is summed on one grid of the sources that matter to it, or directly, leaf by leaf, or in two halves, whichever
is predicted to be fastest: cost estimates are compared from the smallest boxes up, so the choice is the best there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .._types import Array
from ..kernels import pruned, reduce
from ..parallel.partition import Partition
from . import planning
from .chebyshev_grid import Box, on_grid, some
from .tree_pair import Pruned
from .workspace import Workspace

_DROP = 0.02  # of tol: the relative weight of all dropped sources together
_RATE = 0.7e9  # pairs per second of a direct sum on one thread
_PRUNED_RATE = 0.45e9  # the same, over those sources only that matter
_SPLIT_FROM = 30.0  # below these logits a grid is never beaten by a split
_WORTH_A_TREE = 25e-3  # seconds of the best other way: planning a tree takes some 5 ms
_GOOD = 3e-7  # seconds per target: a grid that needs no more is not compared with a tree
_GROWING = 4e-7  # seconds per point for a tree
_GATHERING = 1.2e-7  # seconds per source of a grid
_SAMPLE, _EACH, _JUDGED = 4096, 512, 16  # of a sample: points, at least; points in a box; boxes, at least
_LONG, _FINER = 0.1, 64  # seconds of one box from which it is divided into that many
_PARTS = 128  # boxes of targets for which ways are chosen
_FEW = 512  # targets that are not divided any more
_GRID = 2e-3  # seconds of a grid beside the planned ones
_CHEAP = 0.05  # of the time of one grid, or direct sum: trees that take less are grown without a sample
_CLEARLY = 0.7  # of the time of one grid, or direct sum: a sample must predict less for the tree
_PROBES = 2  # leaves of a box, from which the time of direct sums is predicted
_ALL = np.empty(0, np.int64)


class Exact(Protocol):
    """A function that sums exponential weights over all pairs, and divides by the total weights.

    Targets are (B, q, r), sources (B, p, r) with values (B, p, c) and bias (B, p) or None; a target sees the first
    `limits` (B, q) sources, None: all. It returns means (B, q, c) and logs of total weights (B, q), for masses of 1.
    """

    def __call__(
        self, z: Array, y: Array, values: Array, bias: Array | None = None, limits: Array | None = None
    ) -> tuple[Array, Array]: ...


@dataclass
class Sum:
    """A pair sum in reduced coordinates, and the ways to make it.

    Attributes:
        y, z: (r, n), (r, m) coordinates of sources and targets.
        bias: (n,) or (0,) log-weights.
        channels: (e, n) values beside the coordinates.
        gradient: whether the means of the coordinates are wanted.
        tol: relative error of sums, and of means relative to the spread of the sources.
        workspace: memory that is reused.
        exact: sums over all pairs.
        result: where the results are written.
        report: what was done: grids, targets summed directly, bound of the error.
        parts: the targets of each grid, where there are several.
        within: seconds on one thread; the sum is made by a tree that is predicted to need less, or not at all; inf: by
            the fastest way.
        span: (r,) half widths of the box of all sources.
        partition: which of all sources y are, if other processes have more: only `one_grid` can be called then.
    """

    y: Array
    z: Array
    bias: Array
    channels: Array
    gradient: bool
    tol: float
    workspace: Workspace
    exact: Exact
    result: reduce.Result
    span: Array
    report: dict[str, float] = field(default_factory=dict)
    parts: list[Array] = field(default_factory=list)
    within: float = math.inf
    partition: Partition | None = None

    def box(self, y_ends: Array, z_ends: Array) -> Box:
        """Return the boxes with these corners (..., 2, r)."""
        return Box.around(y_ends, z_ends, self.span, planning.thinnest(self.tol))

    def run(self, y_ends: Array, z_ends: Array) -> bool:
        """Write the result; y_ends, z_ends (2, r) are the corners of the boxes.

        Return False, with nothing written, if it is not predicted to be made `within` its time.
        """
        self.report |= {"grids": 0.0, "direct_targets": 0.0, "error_bound": 0.0}
        if len(self.y) == 0:
            self._uniform()
            return True
        box = self.box(y_ends, z_ends)
        if self.within < math.inf:
            return self._tree(box, self.within)
        self._whole(box)
        return True

    def one_grid(self, y_ends: Array, z_ends: Array, n: int, m: int) -> bool:
        """Write the result on one grid with the sources and targets of other processes, n and m in all.

        Return False, with nothing written, if that is not the way to sum them.
        """
        self.report |= {"grids": 0.0, "direct_targets": 0.0, "error_bound": 0.0}
        if len(self.y) == 0:
            return False
        box = self.box(y_ends, z_ends)
        plan = planning.plan(box.loads, n, m, self.tol, 1 + len(self.channels))
        if plan is None or n * m / _RATE <= plan.seconds or _tree_may_pay(box, plan.seconds, m):
            return False
        on_grid(self, None, None, box, planning.steady(box.loads, plan, self.tol, 1 + len(self.channels)))
        return True

    def _whole(self, box: Box) -> None:
        """Sum by one grid, directly, or by the tree, whichever is predicted to be fastest."""
        n, m = self.y.shape[1], self.z.shape[1]
        plan = planning.plan(box.loads, n, m, self.tol, 1 + len(self.channels))
        grid_seconds, direct_seconds = math.inf if plan is None else plan.seconds, n * m / _RATE
        least = min(grid_seconds, direct_seconds)
        if _tree_may_pay(box, least, m) and self._tree(box, least):
            return
        if plan is None or direct_seconds <= grid_seconds:
            self._directly()
        else:
            on_grid(self, None, None, box, plan)

    def _uniform(self) -> None:
        """Write the same result for every target: no axis carries scores."""
        n, m = self.channels.shape[1], self.z.shape[1]
        bias = self.bias if len(self.bias) else np.zeros(n)
        top = bias.max()
        weights = np.exp(bias - top)
        means = (self.channels * weights).sum(axis=1) / weights.sum()
        logs = np.full(m, top + math.log(weights.sum()))
        reduce.write(np.repeat(means[:, None], m, axis=1), logs, _ALL, self.result)

    def _directly(self) -> None:
        values = np.concatenate([self.y if self.gradient else self.y[:0], self.channels]).T
        bias = self.bias[None] if len(self.bias) else None
        means, logs = self.exact(self.z.T[None], self.y.T[None], values[None], bias)
        reduce.write(np.ascontiguousarray(means[0].T), logs[0], _ALL, self.result)
        self.report["direct_targets"] += self.z.shape[1]

    def sources(self, sources: Array | None) -> tuple[Array, Array, Array]:
        """Return the coordinates, bias and channels of the sources with the indices `sources`; None: of all."""
        bias = self.bias if sources is None or not len(self.bias) else self.bias[sources]
        return some(self.y, sources), bias, some(self.channels, sources)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _tree(self, box: Box, least: float) -> bool:
        """Sum by the tree if it is predicted to take less than `least` seconds; return whether it was."""
        n, m = self.y.shape[1], self.z.shape[1]
        if _GROWING * (n + m) > _CHEAP * least and self.tree_seconds(box, least) > _CLEARLY * least:
            return False
        trees = self._forest(box, slice(None), slice(None), "tree")
        judge = Judge(trees, 0, self.box, self.tol, 1 + len(self.channels), (1, 1), max(_FEW, m // _PARTS))
        if judge.seconds > least:
            return False
        leaves = [trees.below(node) for node, _, plan in judge.ways if plan is None]
        if leaves:
            count = trees.attend(np.concatenate(leaves), self.channels, self.gradient, self.result)
            self.report["direct_targets"] += count
        for node, corners, plan in judge.ways:
            if plan is not None:
                targets = trees.targets.order[slice(*trees.targets.ends[node])]
                on_grid(self, targets, trees.sources.order[trees.indices(node)], self.box(*corners), plan)
                self.parts.append(targets)
        self.report["error_bound"] += _DROP * self.tol
        return True

    def tree_seconds(self, box: Box, least: float) -> float:
        """Predict the seconds of a sum by the tree from a sample of sources and targets.

        The sample is as large as a small fraction of `least` seconds allows. Too sparse a sample overestimates the
        time, by up to ten times.
        """
        n, m = self.y.shape[1], self.z.shape[1]
        size = max(_SAMPLE, int(min(n + m, _CHEAP * least / _GROWING)) // 2)
        steps = -(-n // size), -(-m // size)
        sample = self._forest(box, slice(None, None, steps[0]), slice(None, None, steps[1]), "sample")
        few = max(_FEW // steps[1], size // min(_PARTS, max(_JUDGED, size // _EACH)))
        return Judge(sample, 0, self.box, self.tol, 1 + len(self.channels), steps, few).seconds + _GROWING * (n + m)

    def _forest(self, box: Box, sources: slice, targets: slice, name: str) -> Pruned:
        bias = self.bias[sources] if len(self.bias) else self.bias
        return Pruned(
            self.y[:, sources], self.z[:, targets], bias, (box.y_half, box.z_half), _DROP * self.tol,
            self.workspace.part(name),
        )  # fmt: skip


def _tree_may_pay(box: Box, least: float, targets: int) -> bool:
    """Return whether a tree is worth planning where the best other way takes `least` seconds."""
    return least > max(_WORTH_A_TREE, _GOOD * targets) and _SPLIT_FROM < box.loads.sum() < math.inf


class Judge:
    """The cheapest way to sum the targets of a node of a tree.

    Args:
        trees: trees of one in steps[0] sources and one in steps[1] targets.
        root: the node.
        box: makes the boxes around sources and targets, as `Sum.box`.
        tol, channels: those of the sum.
        few: nodes of at most so many targets (of the tree) are not divided, unless their sums take long.

    Attributes:
        seconds: the predicted seconds in all.
        ways: for each part (node, corners of its sources and targets, a grid, or None for direct sums).
    """

    def __init__(
        self,
        trees: Pruned,
        root: int,
        box: Callable[[Array, Array], Box],
        tol: float,
        channels: int,
        steps: tuple[int, int],
        few: int,
    ) -> None:
        tree = trees.targets
        nodes = trees.nodes(root, few)
        sizes, last = tree.ends[nodes, 1] - tree.ends[nodes, 0], tree.right[nodes] < 0
        last |= sizes <= few
        probes = [trees.below(node, _PROBES) for node in nodes[last]]
        counts, ends = trees.near(np.concatenate([nodes, *probes]))
        n, m = counts * steps[0], sizes * steps[1]
        corners = np.stack([tree.low[nodes], tree.high[nodes]], axis=1)
        loads = box(ends[: len(nodes)], corners).loads
        grids = planning.prices(loads, n[: len(nodes)], m, tol, channels)
        grids += _GRID + _GATHERING * n[: len(nodes)]
        direct, at = np.full(len(nodes), math.inf), len(nodes)
        for own, probed in zip(np.flatnonzero(last), probes, strict=True):
            direct[own] = n[at : at + len(probed)].mean() * m[own] / _PRUNED_RATE
            at += len(probed)
        least = np.minimum(grids, direct)
        self.seconds, chosen = self._best(nodes, least, tree.right, last)
        self.ways: list[tuple[int, tuple[Array, Array], planning.Grid | None]] = []
        for i in chosen:
            if i > 0 and least[i] > _LONG and sizes[i] > pruned.TARGETS * _FINER and max(steps) == 1:
                finer = Judge(trees, int(nodes[i]), box, tol, channels, steps, int(sizes[i]) // _FINER)
                if finer.seconds < least[i]:
                    self.seconds += finer.seconds - float(least[i])
                    self.ways += finer.ways
                    continue
            grid = grids[i] < direct[i]
            plan = planning.plan(loads[i], int(n[i]), int(m[i]), tol, channels) if grid else None
            self.ways.append((int(nodes[i]), (ends[i], corners[i]), plan))

    @staticmethod
    def _best(nodes: Array, least: Array, right: Array, last: Array) -> tuple[float, list[int]]:
        """Return (seconds, places in `nodes`) of the cheapest nodes that make up the first; they are in preorder."""
        place = {int(node): i for i, node in enumerate(nodes)}
        best: list[tuple[float, list[int]]] = [(0.0, [])] * len(nodes)
        for i in range(len(nodes) - 1, -1, -1):
            best[i] = (float(least[i]), [i])
            if not last[i]:
                one, two = best[i + 1], best[place[int(right[nodes[i]])]]
                if one[0] + two[0] < least[i]:
                    best[i] = (one[0] + two[0], one[1] + two[1])
        return best[0]
