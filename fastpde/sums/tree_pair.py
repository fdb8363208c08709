"""Direct sums over the sources that matter, and the number of these, by trees of the sources and targets of a sum."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .._types import Array
from ..kernels import attend, boxes, pack, pruned, reduce
from ..kernels.boxes import Tree
from ..kernels.layout import layout_for
from ..simd import pool
from .workspace import Workspace

_WORTH_A_THREAD = 30_000  # points: to start one takes a millisecond
_COARSE = 512  # parts of the sources that are distinguished when sources are only counted


class TreePair:
    """Sources and targets of a sum, sorted into trees.

    Attributes:
        sources, targets: the trees.
        leaves: (leaves,) nodes of the targets' tree that are leaves.
    """

    def __init__(
        self, y: Array, z: Array, bias: Array, halves: tuple[Array, Array], share: float, workspace: Workspace
    ) -> None:
        """Sort sources y (r, n) and targets z (r, m) into trees.

        bias: (n,) or (0,) log-weights; halves: half widths (r,) of the boxes of sources and of targets; share: the part
        of a target's total weight that may be left out; workspace: memory that is reused.
        """
        self._workspace, self._share = workspace, math.log(share)
        weighted = np.vstack([y, bias]) if len(bias) else y
        grow = (
            lambda: _grown(weighted, len(y), halves[1], pruned.SOURCES, workspace, "y"),
            lambda: _grown(z, len(z), halves[0], pruned.TARGETS, workspace, "z"),
        )
        # A tree grows on one thread.
        if pool.threads() > 1 and y.shape[1] + z.shape[1] > _WORTH_A_THREAD:
            with ThreadPoolExecutor(2) as both:
                self.sources, self.targets = both.map(lambda tree: tree(), grow)
        else:
            self.sources, self.targets = (tree() for tree in grow)
        self.leaves = np.flatnonzero(self.targets.right < 0)
        threads, leaves = pool.threads(), int((self.sources.right < 0).sum())
        self._search = pruned.Workspace(
            workspace("tree_box", (threads, 3, len(y)), np.float64),
            workspace("tree_kept", (threads, leaves), np.int64),
            workspace("tree_excess", (threads, leaves), np.float64),
        )

    def near(self, nodes: Array) -> tuple[Array, Array]:
        """Return how many sources matter to the nodes (k,) of the targets, and the corners (k, 2, r) of boxes.

        The box of a node contains the sources that matter to it.
        """
        counts, ends = np.empty(len(nodes), np.int64), np.empty((2, len(nodes), self.targets.low.shape[1]))
        small = len(self.sources.order) // _COARSE
        pruned.near(self.sources, self.targets, nodes, self._share, small, self._search, counts, ends[0], ends[1])
        return counts, ends.swapaxes(0, 1)

    def indices(self, node: int) -> Array:
        """Return the places, among the sorted sources, of those that matter to a node of the targets."""
        out = np.empty(len(self.sources.order), np.int64)
        return out[: pruned.indices(self.sources, self.targets, node, self._share, self._search, out)]

    def nodes(self, root: int, few: int) -> Array:
        """Return a node of the targets and those in it, in preorder, without those inside nodes of at most `few`."""
        tree = self.targets
        found, node = [], root
        while node < tree.skip[root]:
            found.append(node)
            node = node + 1 if tree.ends[node, 1] - tree.ends[node, 0] > few else int(tree.skip[node])
        return np.array(found)

    def below(self, node: int, most: int = 2**62) -> Array:
        """Return the leaves of a node of the targets; at most about `most` of them, evenly spaced."""
        first, last = np.searchsorted(self.leaves, [node, self.targets.skip[node]])
        return self.leaves[first : last : max(1, (last - first) // most)]

    def attend(self, leaves: Array, channels: Array, gradient: bool, result: reduce.Result) -> int:
        """Write the results of the targets in some leaves; return how many targets these are.

        channels: (e, n), not sorted, with products if there are any; gradient: whether the means of the coordinates are
        wanted.
        """
        tree, r = self.sources, self.targets.low.shape[1]
        keys = np.ascontiguousarray(tree.points[:r].T)
        bias = np.ascontiguousarray(tree.points[r:])
        values = np.concatenate([keys if gradient else keys[:, :0], channels[:, tree.order].T], axis=1)
        threads, m = pool.threads(), self.targets.points.shape[1]
        layout = layout_for(len(keys), r, values.shape[1], np.dtype(np.float64))
        packed = pack.allocate(1, layout, np.float64, self._workspace)
        pack.pack_sources(keys[None], bias, np.empty((0, 0)), values[None], True, layout, packed)
        scratch = attend.allocate(threads, layout, np.float64, self._workspace)
        means, logs = np.empty((m, values.shape[1])), np.empty((1, m))
        points = np.ascontiguousarray(self.targets.points.T)
        pruned.attend(
            tree, self.targets, leaves, self._share, layout, packed, points, self._search, scratch, means, logs
        )
        ends = self.targets.ends[leaves]
        places = np.concatenate([np.arange(first, last) for first, last in ends])
        reduce.write(np.ascontiguousarray(means[places].T), logs[0, places], self.targets.order[places], result)
        return len(places)


def _grown(points: Array, r: int, scale: Array, unit: int, workspace: Workspace, name: str) -> Tree:
    """Return the tree of points (r, n), or of sources (r + 1, n) whose last row are log-weights.

    scale: (r,) factors on widths when a box is halved; unit: the most points in a leaf.
    """
    n = points.shape[1]
    most = 2 * -(-n // unit)
    inside = workspace(f"tree_points_{name}", points.shape, np.float64)
    inside[:] = points
    flat = {key: workspace(f"tree_{key}_{name}", (most,), np.int64) for key in ("right", "skip")}
    corners = {key: workspace(f"tree_{key}_{name}", (most, r), np.float64) for key in ("low", "high", "mean", "slope")}
    sizes = {key: workspace(f"tree_{key}_{name}", (most,), np.float64) for key in ("weight", "part")}
    ends = workspace(f"tree_ends_{name}", (most, 2), np.int64)
    tree = Tree(points=inside, order=np.arange(n), ends=ends, **flat, **corners, **sizes)
    count = boxes.grow(tree, scale, unit, name == "y")
    return Tree(tree.points, tree.order, *(array[:count] for array in tree[2:]))
