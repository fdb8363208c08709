"""Sums on one grid: all pairs of a box of targets and a box of sources, by moments on cells.

The stages are *moments* of the sources (`kernels.cell_moments`), *translation* to the cells of the targets
(`translation`, `kernels.contraction`), and *expansion* at the targets (`kernels.expansion`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..kernels import cell_moments, cells, chebyshev, contraction, expansion, reduce
from ..parallel.partition import Partition
from ..simd import pool
from . import planning
from .box import Box, picked
from .costs import Estimate
from .reduced_sum import ReducedSum
from .slices import check
from .summation import Summation, Task
from .translation import packed_cores
from .workspace import Workspace

_LOG2 = math.log(2.0)
# Seconds of a sum beside those planned, and the part of the planned ones that are needed.
_FIXED, _PLANNED = 1.3e-3, 0.85
_TENSORS = 2**24  # bytes of moments that are made at a time
_NONE = np.empty(0)
_ALL = np.empty(0, np.int64)


@dataclass(frozen=True)
class Sorted:
    """Points sorted into cells, see `kernels.cells`.

    Attributes:
        half: (r,) half widths of cells.
        kept: the slabs that have points, for each axis.
        centres: (r, most slabs) the centres of these, relative to that of the box.
        local: (r, n) coordinates in the cells, sorted.
        order: (n,) the indices of the sorted points.
        items: (pieces, 4) pieces of cells, see `kernels.cell_moments.add_moments`.
        split: the number of pieces that are not a whole cell.
    """

    half: Array
    kept: list[Array]
    centres: Array
    local: Array
    order: Array
    items: Array
    split: int

    @property
    def counts(self) -> Array:
        return np.array([len(slabs) for slabs in self.kept])

    @staticmethod
    def into(
        points: Array,
        centre: Array,
        half: Array,
        slabs: Array,
        workspace: Workspace,
        name: str,
        partition: Partition | None = None,
    ) -> Sorted:  # fmt: skip
        """Sort points (r, n) of a box that is cut into `slabs` (r,) slabs per axis.

        name: of the arrays in the workspace. partition: of distributed points; then slabs are kept where any process
        has points.
        """
        r, n = points.shape
        low, width, most = centre - half, 2.0 * half / slabs, int(slabs.max())
        used = np.empty((cells.CHUNKS, r, most), np.uint8)
        cells.find_slabs(points, low, width, slabs, used)
        any_here: Array = used.max(axis=0)
        found: Array = (any_here if partition is None else partition.largest(any_here)) > 0
        slots, counts = np.maximum(np.cumsum(found, axis=1) - 1, 0).astype(np.uint32), found.sum(axis=1)
        total = int(np.prod(counts))
        ids = workspace("ids", (n,), np.uint32)
        order, local = workspace(f"order_{name}", (n,), np.int32), workspace(f"local_{name}", (r, n), np.float64)
        histogram, starts = workspace("histogram", (cells.CHUNKS, total), np.int64), np.empty(total + 1, np.int64)
        cells.count(points, low, width, slabs, slots, counts, ids, histogram)
        cells.offsets(histogram, starts)
        cells.scatter(points, low, width, slabs, ids, histogram, order, local)
        items = np.empty((total + n // cells.PIECE + 1, 4), np.int64)
        items = items[: cells.pieces(starts, items)]
        shared = np.bincount(items[:, 0], minlength=total)[items[:, 0]] > 1
        items[:, 3] = np.where(shared, np.cumsum(shared) - 1, -1)
        kept = [np.flatnonzero(row) for row in found]
        centres = np.zeros((r, int(counts.max())))
        for k, own in enumerate(kept):
            centres[k, : len(own)] = 0.5 * width[k] * (2.0 * own + 1.0 - slabs[k])
        return Sorted(0.5 * width, kept, centres, local, order, items, int(shared.sum()))


def on_grid(reduced: ReducedSum, targets: Array | None, sources: Array | None, box: Box, plan: planning.Grid) -> None:
    """Sum `sources` for `targets` (indices; None: all) on the grid planned for their box, and write the results."""
    z, (y, bias, channels) = picked(reduced.z, targets), reduced.sources(sources)
    of = Sorted.into(y, box.y_centre, box.y_half, plan.slabs, reduced.workspace, "y", reduced.partition)
    same = box.like(y, z, reduced.tol)
    to = of if same else Sorted.into(z, box.z_centre, box.z_half, plan.slabs, reduced.workspace, "z")
    side_y, side_z = chebyshev.sides(plan.order_y, of.counts), chebyshev.sides(plan.order_z, to.counts)
    matrices = packed_cores(
        box.z_half, box.y_half, plan, to.kept, of.kept, side_y.sizes, side_z.sizes, reduced.workspace
    )
    weights = source_weights(reduced, of, y, bias, box)
    places = _ALL if targets is None else targets
    expanded = expansion_of(reduced, to, places, box, weights.top * _LOG2)
    many = max(1, _TENSORS // (8 * int(np.prod(side_y.sizes))))  # the same on all processes
    for first in range(-1 if reduced.divided else 0, len(channels), many):
        check()
        some = channels[max(first, 0) : first + many]
        tensors = _moments(reduced, side_y, of, weights._replace(plain=first < 0, channels=some))
        mapped = _translated(reduced, tensors, side_y, side_z, matrices)
        memory = chebyshev.allocate(pool.threads(), side_z, reduced.workspace, len(mapped), expanded.out.shape[1])
        slopes = first < 0 and reduced.gradient
        expansion.expand(side_z, to.items, len(to.items), to.local, to.order, mapped, first, slopes, expanded, memory)


def source_weights(reduced: ReducedSum, of: Sorted, y: Array, bias: Array, box: Box) -> cell_moments.SourceWeights:
    """Return the weights e^{bias + <z_c, y>} of the sorted sources, divided by the largest, for the moments."""
    largest, ordered = np.empty(cells.CHUNKS), _NONE
    reduce.tops(y, bias, box.z_centre, largest)
    if len(bias):
        ordered = reduced.workspace("bias", bias.shape, np.float64)
        cells.arrange(bias, 1.0 / _LOG2, of.order, ordered)
    highest = largest.max(keepdims=True)
    top, along = (
        float((highest if reduced.partition is None else reduced.partition.largest(highest))[0]),
        box.z_centre / _LOG2,
    )
    return cell_moments.SourceWeights(
        along[:, None] * of.centres, along * of.half, top / _LOG2 - float(along @ box.y_centre), ordered, True,
        np.empty((0, len(y[0]))),
    )  # fmt: skip


def expansion_of(reduced: ReducedSum, to: Sorted, targets: Array, box: Box, top: float) -> expansion.Expansion:
    """Return the parameters by which `kernels.expansion` makes results of the sums.

    top: the log of the number by which the weights were divided, less <z_c, y_c>.
    """
    result, rows, e = reduced.result, len(to.half) if reduced.gradient else 0, len(reduced.channels)
    lead, columns = np.ascontiguousarray(result.B[:, :rows]), np.ascontiguousarray(result.B[:, rows : rows + e])
    bent, inverse = np.empty((0, 0, 0)), to.local.shape[1] if e or reduced.products else 0
    if reduced.products:
        bent = np.ascontiguousarray(result.B[:, rows + e :]).reshape(len(lead), e, len(to.half))
        columns += bent @ box.y_centre
        bent /= to.half
    return expansion.Expansion(
        base=result.constant + lead @ box.y_centre[:rows],
        slopes=lead / to.half[:rows],
        columns=columns,
        bent=bent,
        levels=np.abs(to.centres) * box.y_half[:, None] + to.centres * box.y_centre[:, None],
        tilt=to.half * box.y_centre,
        top=top + float(box.z_centre @ box.y_centre) + result.log_factor,
        offset=result.offset,
        targets=targets,
        inverse=reduced.workspace("inverse", (inverse,), np.float64),
        divided=reduced.divided,
        out=result.out,
        log_total=result.log_total,
    )


def _moments(reduced: ReducedSum, side: chebyshev.Sides, of: Sorted, weights: cell_moments.SourceWeights) -> Array:
    """Return the moments of all sorts of weights, one row each."""
    threads, sums = pool.threads(), weights.plain + len(weights.channels)
    tensors = reduced.workspace("tensor", (sums, int(np.prod(side.sizes))), np.float64)
    tensors[:] = 0.0
    partial = reduced.workspace("partial", (max(of.split, 1), sums * side.rows * side.columns), np.float64)
    memory = chebyshev.allocate(threads, side, reduced.workspace, sums)
    cell_moments.add_moments(side, of.items, len(of.items), of.local, of.order, weights, memory, partial, tensors)
    cell_moments.join_pieces(side, of.items, len(of.items), partial, memory.corner[0], tensors)
    if reduced.partition is not None:
        reduced.partition.add_up(tensors)
    return tensors


def _translated(
    reduced: ReducedSum, tensors: Array, side_y: chebyshev.Sides, side_z: chebyshev.Sides, matrices: list[Array]
) -> Array:
    sizes, threads, sums = [int(size) for size in side_y.sizes], pool.threads(), len(tensors)
    for k, matrix in enumerate(matrices):
        first, rest, lanes = sizes[0], int(np.prod(sizes[1:])), int(side_z.sizes[k])
        out = reduced.workspace(f"contracted{k % 2}", (sums, max(rest, contraction.ROW_GROUP) * lanes), np.float64)
        packs = reduced.workspace("packs", (threads, first * contraction.STRIP), np.float64)
        for one, found in zip(tensors, out, strict=True):
            contraction.contract(one, first, rest, matrix, lanes, packs, np.zeros(chebyshev.WIDTH), found)
        tensors, sizes = out, [*sizes[1:], lanes]
    return tensors


class ChebyshevGrid(Summation):
    """One grid for all sources and targets: O(n) for scores of any size that it has the orders for."""

    name = "grid"

    def estimate(self, task: Task) -> Estimate | None:
        of = task.reduced
        if of is None or task.pair.limits is not None:
            return None
        if of.axes == 0:
            return None if task.partition is not None else Estimate(0.0, plan=None)
        n, m, loads = int(task.sources), int(task.targets), of.box.loads
        plan = planning.plan(loads, n, m, of.tol, of.columns)
        if plan is None:
            return None
        parallel, serial = _PLANNED * (plan.seconds - plan.serial), _FIXED + plan.serial
        if task.partition is not None:
            if planning.worth_a_tree(loads, plan.seconds, m):
                return None  # on one process a tree may be faster
            plan = planning.steady(loads, plan, of.tol, of.columns)
        return Estimate(parallel, serial, error=plan.error, plan=plan)

    def attend(self, task: Task, plan: planning.Grid | None) -> None:
        of = task.reduced
        assert of is not None, "estimated"
        if plan is None:
            _uniform(of)
        else:
            on_grid(of, None, None, of.box, plan)
            task.report["grids"] += 1
        task.report["error_bound"] = of.finish(0.0 if plan is None else plan.error)


def _uniform(of: ReducedSum) -> None:
    """Write the same result for every target: no axis carries scores."""
    n, m = of.channels.shape[1], of.z.shape[1]
    bias = of.bias if len(of.bias) else np.zeros(n)
    top = bias.max()
    weights = np.exp(bias - top)
    means = (of.channels * weights).sum(axis=1) / weights.sum()
    logs = np.full(m, top + math.log(weights.sum()))
    reduce.write(np.repeat(means[:, None], m, axis=1), logs, _ALL, of.result)
