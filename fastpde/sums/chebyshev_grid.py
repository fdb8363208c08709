"""A sum on one grid: all pairs of a box of targets and a box of sources, by moments on cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..kernels import cell_moments, cells, chebyshev, contraction, expansion, reduce
from ..parallel.partition import Partition
from ..simd import pool
from . import planning
from .slices import check
from .translation import packed_cores
from .workspace import Workspace

if TYPE_CHECKING:
    from .box_tree import Sum

_LOG2 = math.log(2.0)
_NARROW = 0.01  # least width of a box of sources, over that of all sources, lest the box of its targets be huge
_SAME = 0.01  # of tol: change of scores up to which targets may be sorted into cells as the sources are
_NONE = np.empty(0)
_ALL = np.empty(0, np.int64)


@dataclass(frozen=True)
class Box:
    """The boxes of the sources and the targets of a sum, with thin axes widened: centres and half widths (r,).

    For several sums at once they are (..., r).
    """

    y_centre: Array
    y_half: Array
    z_centre: Array
    z_half: Array

    @staticmethod
    def around(y_ends: Array, z_ends: Array, span: Array, thinnest: float) -> Box:
        """Return the boxes with these corners (..., 2, r) of sources and targets, thin axes widened.

        span (r,) is the half width of the box of all sources, thinnest the least load that an axis gets.
        """
        y_half, z_half = (np.ptp(ends, axis=-2) * (0.5 + 1e-12) for ends in (y_ends, z_ends))
        y_half = np.maximum(y_half, _NARROW * span)
        z_half = np.maximum(z_half, thinnest / y_half)
        return Box(y_ends.mean(axis=-2), y_half, z_ends.mean(axis=-2), z_half)

    @property
    def loads(self) -> Array:
        """The loads L (..., r) of the axes."""
        return self.y_half * self.z_half

    def like(self, y: Array, z: Array, tol: float) -> bool:
        """Return whether the targets (r, m) are the sources (r, n) moved by a constant, and lie alike in their box."""
        if y.shape != z.shape or not np.allclose(self.y_half, self.z_half, rtol=1e-12, atol=0.0):
            return False
        ends = np.empty((cells.CHUNKS, 2, len(y)))
        reduce.apart(y, z, ends)
        gap = ends[:, 1].max(axis=0) - ends[:, 0].min(axis=0)
        return float((gap + 1e-15 * self.y_half) @ self.y_half) <= _SAME * tol


def some(points: Array, index: Array | None) -> Array:
    """Return the points (r, n) with the indices `index`, as contiguous rows; None: all points, not copied."""
    if index is None:
        return points
    out = np.empty((len(points), len(index)))
    cells.pick(points, index, out)
    return out


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


def on_grid(job: Sum, targets: Array | None, sources: Array | None, box: Box, plan: planning.Grid) -> None:
    """Sum `sources` for `targets` (indices; None: all) on the grid planned for their box, and write the results."""
    z, (y, bias, channels) = some(job.z, targets), job.sources(sources)
    of = Sorted.into(y, box.y_centre, box.y_half, plan.slabs, job.workspace, "y", job.partition)
    same = box.like(y, z, job.tol)
    to = of if same else Sorted.into(z, box.z_centre, box.z_half, plan.slabs, job.workspace, "z")
    side_y, side_z = chebyshev.sides(plan.order_y, of.counts), chebyshev.sides(plan.order_z, to.counts)
    matrices = packed_cores(box.z_half, box.y_half, plan, to.kept, of.kept, side_y.sizes, side_z.sizes, job.workspace)
    tilt = source_weights(job, of, y, bias, box)
    reading = expansion_of(job, to, _ALL if targets is None else targets, box, tilt.top * _LOG2, len(channels))
    for c in range(-1, len(channels)):
        check()
        moments = _moments(job, side_y, of, tilt if c < 0 else tilt._replace(channel=channels[c]))
        mapped = _contract(job, moments, side_y, side_z, matrices)
        memory = chebyshev.allocate(pool.threads(), side_z, job.workspace)
        slopes = c < 0 and job.gradient
        expansion.expand(side_z, to.items, len(to.items), to.local, to.order, mapped, c, slopes, reading, memory)
    job.report["grids"] += 1
    job.report["error_bound"] = max(job.report["error_bound"], plan.error)


def source_weights(job: Sum, of: Sorted, y: Array, bias: Array, box: Box) -> cell_moments.SourceWeights:
    """Return the weights e^{bias + <z_c, y>} of the sorted sources, divided by the largest, for `kernels.grid`."""
    largest, ordered = np.empty(cells.CHUNKS), _NONE
    reduce.tops(y, bias, box.z_centre, largest)
    if len(bias):
        ordered = job.workspace("bias", bias.shape, np.float64)
        cells.arrange(bias, 1.0 / _LOG2, of.order, ordered)
    highest = largest.max(keepdims=True)
    top, along = float((highest if job.partition is None else job.partition.largest(highest))[0]), box.z_centre / _LOG2
    return cell_moments.SourceWeights(
        along[:, None] * of.centres, along * of.half, top / _LOG2 - float(along @ box.y_centre), ordered, _NONE
    )


def expansion_of(job: Sum, to: Sorted, targets: Array, box: Box, top: float, channels: int) -> expansion.Expansion:
    """Return the parameters by which `kernels.evaluate` makes results of the sums.

    top: the log of the number by which the weights were divided, less <z_c, y_c>.
    """
    result, rows = job.result, len(to.half) if job.gradient else 0
    lead = np.ascontiguousarray(result.B[:, :rows])
    return expansion.Expansion(
        base=result.constant + lead @ box.y_centre[:rows],
        slopes=lead / to.half[:rows],
        columns=np.ascontiguousarray(result.B[:, rows:]),
        levels=np.abs(to.centres) * box.y_half[:, None] + to.centres * box.y_centre[:, None],
        tilt=to.half * box.y_centre,
        top=top + float(box.z_centre @ box.y_centre) + result.log_factor,
        offset=result.offset,
        targets=targets,
        inverse=job.workspace("inverse", (to.local.shape[1] if channels else 0,), np.float64),
        out=result.out,
        log_total=result.log_total,
    )


def _moments(job: Sum, side: chebyshev.Sides, of: Sorted, tilt: cell_moments.SourceWeights) -> Array:
    threads = pool.threads()
    tensor = job.workspace("tensor", (int(np.prod(side.sizes)),), np.float64)
    tensor[:] = 0.0
    partial = job.workspace("partial", (max(of.split, 1), side.rows * side.columns), np.float64)
    memory = chebyshev.allocate(threads, side, job.workspace)
    cell_moments.add_moments(side, of.items, len(of.items), of.local, of.order, tilt, memory, partial, tensor)
    cell_moments.join_pieces(side, of.items, len(of.items), partial, memory.corner[0], tensor)
    if job.partition is not None:
        job.partition.add_up(tensor)
    return tensor


def _contract(
    job: Sum, tensor: Array, side_y: chebyshev.Sides, side_z: chebyshev.Sides, matrices: list[Array]
) -> Array:
    sizes, threads = [int(size) for size in side_y.sizes], pool.threads()
    for k, matrix in enumerate(matrices):
        first, rest, lanes = sizes[0], int(np.prod(sizes[1:])), int(side_z.sizes[k])
        out = job.workspace(f"contracted{k % 2}", (max(rest, contraction.ROW_GROUP) * lanes,), np.float64)
        packs = job.workspace("packs", (threads, first * contraction.STRIP), np.float64)
        contraction.contract(tensor, first, rest, matrix, lanes, packs, np.zeros(chebyshev.WIDTH), out)
        tensor, sizes = out, [*sizes[1:], lanes]
    return tensor
