"""Sums of e^{<z, y> + b} by a tree of boxes, in relative error, for scores of any size.

Where one grid for all would be slow, or is out of range, targets and sources are sorted into trees of boxes. A box of
targets is summed on one grid of the sources that matter to it, or directly, leaf by leaf, or in two halves, whichever
is predicted to be fastest: cost estimates are compared from the smallest boxes up, so the choice is the best there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array
from ..kernels import pruned
from . import planning
from .box import Box
from .chebyshev_grid import on_grid
from .costs import Estimate, pair_seconds
from .pair_sum import PairSum
from .reduced_sum import ReducedSum
from .summation import Summation, Task, examples
from .tree_pair import TreePair

_DROP = 0.02  # of tol: the relative weight of all dropped sources together
_FURTHER = 1.75  # time of a pair of a leaf, where only those sources are summed that matter, over that of a direct sum
_GROWING = 4e-7  # seconds per point for a tree
_GATHERING = 1.2e-7  # seconds per source of a grid
_SAMPLE, _EACH, _JUDGED = 4096, 512, 16  # of a sample: points, at least; points in a box; boxes, at least
_LONG, _FINER = 0.1, 64  # seconds of one box from which it is divided into that many
_PARTS = 128  # boxes of targets for which ways are chosen
_FEW = 512  # targets that are not divided any more
_GRID = 2e-3  # seconds of a grid beside the planned ones
_CHEAP = 0.05  # of the time of the best other way: trees that take less are grown without a sample
_CLEARLY = 0.85  # of the time of the best other way: a sample must predict less for the tree
_PROBES = 2  # leaves of a box, from which the time of direct sums is predicted
_FIXED = 3e-3  # seconds of a sum by a tree, whatever its size
_LARGE = 40.0  # half side of a square whose points are summed by a tree


@dataclass(frozen=True)
class Ways:
    """Trees of all sources and targets, and how each part of the targets is summed: see `Judge.ways`."""

    trees: TreePair
    parts: list[tuple[int, tuple[Array, Array], planning.Grid | None]]


class BoxTree(Summation):
    """A tree of boxes, each with a grid of its own or summed directly: any scores of up to four coordinates."""

    name = "tree"
    quick = False

    def estimate(self, task: Task) -> Estimate | None:
        of, least = task.reduced, task.costs.within(task.limit, _FIXED)
        if of is None or of.axes == 0 or task.pair.limits is not None or task.partition is not None:
            return None
        box, n, m = of.box, *(int(points.shape[1]) for points in (of.y, of.z))
        if not planning.worth_a_tree(box.loads, least, task.targets * (of.columns if of.products else 1)):
            return None
        if task.scale != 1.0:
            sampled = _sampled(of, box, least / task.scale)
            return Estimate(task.scale * sampled.parallel, _FIXED, task.scale * sampled.pairs)
        dear = _GROWING * (n + m) > _CHEAP * least
        if dear and task.costs.seconds(_sampled(of, box, least)) > _CLEARLY * task.limit:
            return None
        trees = _forest(of, box, slice(None), slice(None), "tree")
        judge = Judge(trees, 0, of.box_of, of.tol, of.columns, (1, 1), max(_FEW, m // _PARTS))
        shared = judge.seconds - judge.pairs
        return Estimate(shared, _FIXED, judge.pairs, error=_DROP * of.tol, plan=Ways(trees, judge.ways))

    def attend(self, task: Task, plan: Ways) -> None:
        of, trees, error = task.reduced, plan.trees, 0.0
        assert of is not None, "estimated"
        leaves = [trees.below(node) for node, _, grid in plan.parts if grid is None]
        if leaves:
            count = trees.attend(np.concatenate(leaves), of.further, of.gradient, of.result)
            task.report["direct_targets"] += count
        for node, corners, grid in plan.parts:
            if grid is not None:
                targets = trees.targets.order[slice(*trees.targets.ends[node])]
                on_grid(of, targets, trees.sources.order[trees.indices(node)], of.box_of(*corners), grid)
                task.parts.append(targets)
                task.report["grids"] += 1
                error = max(error, grid.error)
        task.report["error_bound"] = of.finish(error + _DROP * of.tol)

    def examples(self, dtype: Any) -> Iterator[PairSum]:
        yield from examples(dtype, _LARGE)


def _sampled(of: ReducedSum, box: Box, least: float) -> Estimate:
    """Predict what a sum by the tree would take, from a sample of sources and targets.

    The sample is as large as a small fraction of `least` seconds allows. Too sparse a sample overestimates the time, by
    up to ten times.
    """
    n, m = of.y.shape[1], of.z.shape[1]
    size = max(_SAMPLE, int(min(n + m, _CHEAP * least / _GROWING)) // 2)
    steps = -(-n // size), -(-m // size)
    sample = _forest(of, box, slice(None, None, steps[0]), slice(None, None, steps[1]), "sample")
    few = max(_FEW // steps[1], size // min(_PARTS, max(_JUDGED, size // _EACH)))
    judge = Judge(sample, 0, of.box_of, of.tol, of.columns, steps, few)
    return Estimate(judge.seconds - judge.pairs + _GROWING * (n + m), _FIXED, judge.pairs)


def _forest(of: ReducedSum, box: Box, sources: slice, targets: slice, name: str) -> TreePair:
    bias = of.bias[sources] if len(of.bias) else of.bias
    halves = box.y_half, box.z_half
    return TreePair(of.y[:, sources], of.z[:, targets], bias, halves, _DROP * of.tol, of.workspace.part(name))


class Judge:
    """The cheapest way to sum the targets of a node of a tree.

    Args:
        trees: trees of one in steps[0] sources and one in steps[1] targets.
        root: the node.
        box: makes the boxes around sources and targets, as `ReducedSum.box_of`.
        tol, channels: those of the sum.
        few: nodes of at most so many targets (of the tree) are not divided, unless their sums take long.

    Attributes:
        seconds: the predicted seconds in all, on one thread of a typical machine.
        pairs: those of direct sums among them.
        ways: for each part (node, corners of its sources and targets, a grid, or None for direct sums).
    """

    def __init__(
        self,
        trees: TreePair,
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
            direct[own] = n[at : at + len(probed)].mean() * m[own] * _FURTHER * pair_seconds(2 * tree.low.shape[1])
            at += len(probed)
        least = np.minimum(grids, direct)
        self.seconds, chosen = self._best(nodes, least, tree.right, last)
        self.pairs = 0.0
        self.ways: list[tuple[int, tuple[Array, Array], planning.Grid | None]] = []
        for i in chosen:
            if i > 0 and least[i] > _LONG and sizes[i] > pruned.TARGETS * _FINER and max(steps) == 1:
                finer = Judge(trees, int(nodes[i]), box, tol, channels, steps, int(sizes[i]) // _FINER)
                if finer.seconds < least[i]:
                    self.seconds += finer.seconds - float(least[i])
                    self.pairs += finer.pairs
                    self.ways += finer.ways
                    continue
            grid = grids[i] < direct[i]
            self.pairs += 0.0 if grid else float(direct[i])
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
