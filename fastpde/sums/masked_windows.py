"""Masked sums of exponential weights: the sources before a target's window on a grid, those in it directly.

Windows of B sources need n / B translations of moments and n B / 2 pairs: B = sqrt(2 t rate) balances them, with t the
seconds of a window. Coarse cells with high orders make the grid small, and a translation cheap.

Where scores are too large for one grid, the sources are halved: the targets that see more than the first half get all
of it by a sum without a mask, and each half is halved again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._types import Array
from ..kernels import causal, cell_moments, cells, chebyshev, contraction, expansion, reduce
from ..simd import pool
from ..weights import Exp
from . import planning
from .box import Box
from .chebyshev_grid import Sorted, expansion_of, source_weights
from .costs import Estimate, pair_seconds
from .pair_sum import PairSum
from .reduced_sum import ReducedSum
from .slices import check
from .summation import Summation, Task, examples
from .translation import packed_cores
from .workspace import Workspace

_FLOPS = 25e9  # operations per second of a translation
_NUMBER = 1.2e-9  # seconds per number of a window's tensors, for the passes over them
_CELL = 0.3e-6  # seconds per cell of a window
_MEMORY = 1.5e8  # bytes of the tensors that are held at a time
_MOST_SPREAD = 600.0  # of logs of terms: beyond it early sources might underflow beside later ones
_LEAF = 16384  # sources that are not halved any more: the tree of a sum costs as much as that many directly
_HALVES = 0.5  # time of halves over that of a direct sum, where that takes `_LONG` seconds on one thread: a guess
_LONG = 4.0
_FIXED, _PLANNED = 3.5e-3, 1.1  # seconds of a sum beside those planned, and the factor on these
_RUNNING = 1e-8  # seconds per number of running sums
_NONE = np.empty(0)
_ALL = np.empty(0, np.int64)


class MaskedWindows(Summation):
    """Windows of sources, or halves of them: O(n^1.5), or O(n log n) times the other ways."""

    name = "windows"

    def estimate(self, task: Task) -> Estimate | None:
        of = task.reduced
        if of is None or task.pair.limits is None or task.partition is not None:
            return None
        if of.axes == 0:
            wide = len(of.bias) > 0 and np.ptp(of.bias) > _MOST_SPREAD
            return None if wide else Estimate(_RUNNING * task.sources * of.columns)
        found = _plan(of, of.box)
        if found is not None:
            factor = task.scale * _PLANNED
            shared = factor * (found.seconds - found.pairs)
            return Estimate(shared, _FIXED, factor * found.pairs, error=found.grid.error, plan=found)
        direct = task.scale**2 * task.pair.pairs * pair_seconds(task.pair.columns)
        return Estimate(_HALVES * direct, error=of.tol) if direct > _LONG else None

    def attend(self, task: Task, plan: Windows | None) -> None:
        of, m = task.reduced, task.pair.targets.shape[1]
        assert of is not None and task.pair.limits is not None, "estimated"
        limits, q = task.pair.limits, len(of.carried)
        means = of.workspace("masked_means", (m, q), np.float64)
        logs = of.workspace("masked_logs", (m,), np.float64)
        error = 0.0
        if plan is not None:
            _in_windows(task, of, plan, means, logs)
            task.report["grids"] += 1
            error = plan.grid.error
        elif of.axes == 0:
            _alike(of, limits, means, logs)
        else:
            means[:], logs[:] = 0.0, -math.inf
            _Halves(task, of, limits, means, logs).add((0, of.y.shape[1]), (0, m))
            error = of.tol
        reduce.write(np.ascontiguousarray(means.T), logs, _ALL, of.result)
        task.report["error_bound"] = of.finish(error)

    def examples(self, dtype: Any) -> Iterator[PairSum]:
        yield from examples(dtype, masked=True)


def _alike(of: ReducedSum, limits: Array, means: Array, logs: Array) -> None:
    """Write the means (m, e) of channels and the logs (m,) of totals by running sums, where no axis carries scores."""
    n = of.y.shape[1]
    bias = of.bias if len(of.bias) else np.zeros(n)
    top = bias.max()
    weights = np.exp(bias - top)
    totals, last = _running(weights[None])[0], limits - 1
    means[:] = (_running(of.channels * weights)[:, last] / totals[last]).T
    logs[:] = top + np.log(totals[last])


def _running(rows: Array) -> Array:
    """Return running sums of rows (q, n), made in blocks: rounding grows with the root of n, not with n."""
    q, n = rows.shape
    width = math.isqrt(n) + 1
    whole = np.zeros((q, -(-n // width) * width))
    whole[:, :n] = rows
    sums = np.cumsum(whole.reshape(q, whole.shape[1] // width, width), axis=2)
    sums[:, 1:] += np.cumsum(sums[:, :-1, -1:], axis=1)
    found: Array = sums.reshape(whole.shape)[:, :n]
    return found


# -- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """A grid for all sources, the length of a window, the predicted seconds of both on one thread, and those of pairs
    among them.
    """

    grid: planning.Grid
    length: int
    seconds: float
    pairs: float


def _plan(reduced: ReducedSum, box: Box) -> Windows | None:
    """Return the cheapest grid and windows; None if one grid cannot be used."""
    n, m = reduced.y.shape[1], reduced.z.shape[1]
    spread = np.abs(box.z_centre) @ box.y_half * 2 + (np.ptp(reduced.bias) if len(reduced.bias) else 0.0)
    if not spread + 2.0 * box.loads.sum() <= _MOST_SPREAD:
        return None
    thetas = [planning.THETAS[i : i + 1] for i in range(len(planning.THETAS))]
    plans = [planning.plan(box.loads, n, m, reduced.tol, 1, theta) for theta in thetas]
    found = [_with_windows(plan, n, m, 1 + len(reduced.channels)) for plan in plans if plan is not None]
    return min(found, key=lambda windows: windows.seconds, default=None)


def _with_windows(plan: planning.Grid, n: int, m: int, channels: int) -> Windows:
    sizes = [float(chebyshev.padded(int(size))) for size in plan.slabs * plan.order_y]
    flops, numbers = 0.0, float(np.prod(sizes))
    for k in range(len(sizes)):
        lanes = float(chebyshev.padded(int(plan.slabs[k] * plan.order_z[k])))
        flops += 2.0 * float(np.prod(sizes)) * lanes
        sizes = [*sizes[1:], lanes]
    numbers += float(np.prod(sizes))
    each = channels * (flops / _FLOPS + numbers * _NUMBER + float(np.prod(plan.slabs)) * _CELL) + 2e-6
    length = min(max(128, round(math.sqrt(2.0 * each / pair_seconds(2 * len(sizes)) * n / m) / 64) * 64), n)
    P_y, P_z = float(np.prod(plan.order_y)), float(np.prod(plan.order_z))
    points = n * (50e-9 + 0.25e-9 * P_y * channels) + m * (80e-9 + 0.35e-9 * P_z * channels)
    pairs = m * length / 2 * pair_seconds(2 * len(sizes))
    return Windows(plan, length, points + each * n / length + pairs, pairs)


@dataclass(frozen=True)
class _Side:
    """Points sorted into cells within their windows, and the polynomials of one side of the grid.

    Attributes:
        points: all of them, sorted; their items are not used.
        orders: (r,) the orders of the polynomials.
        bounds: (windows + 1,) the first point of each window.
        ends: (windows, cells) the place behind the last point of each cell, see `kernels.causal.sort`.
    """

    points: Sorted
    orders: Array
    bounds: Array
    ends: Array

    @property
    def sizes(self) -> Array:
        """The lengths (r,) of a window's tensor: the first is not padded."""
        lengths = [int(size) for size in self.orders * self.points.counts]
        return np.array([lengths[0], *map(chebyshev.padded, lengths[1:])])

    @property
    def padded(self) -> Array:
        return np.array([chebyshev.padded(int(size)) for size in self.sizes])

    def behind(self, windows: int) -> chebyshev.Sides:
        """Return the sizes of the tensors of `windows` windows, stored one behind the other."""
        counts = self.points.counts
        return chebyshev.sides(self.orders, np.concatenate([counts[:1] * windows, counts[1:]]))

    def levels(self, levels: Array, windows: int) -> Array:
        """Return the levels of the cells of `windows` windows, stored one behind the other.

        levels: (r, most slabs) those of one window.
        """
        count = int(self.points.counts[0])
        out = np.zeros((len(levels), max(levels.shape[1], count * windows)))
        out[:, : levels.shape[1]] = levels
        out[0, : count * windows] = np.tile(levels[0, :count], windows)
        return out

    def items(self, first: int, last: int, most: int) -> Array:
        """Return the pieces, of at most `most` points each, of the cells of windows first .. last - 1."""
        points = int(self.bounds[last] - self.bounds[first])
        items = np.empty((min((last - first) * self.ends.shape[1], points) + points // most + 1, 4), np.int64)
        return items[: causal.pieces(self.ends, self.bounds, first, last, most, items)]


def _sorted(
    workspace: Workspace, name: str, points: Array, centre: Array, half: Array, slabs: Array, bounds: Array
) -> _Side:
    """Sort points (r, n) of a box within their windows; slabs without points are left out."""
    r, n = points.shape
    low, width = centre - half, 2.0 * half / slabs
    used = np.zeros((cells.CHUNKS, r, int(slabs.max())), np.uint8)
    cells.find_slabs(points, low, width, slabs, used)
    found: Array = used.max(axis=0) > 0
    slots, counts = np.maximum(np.cumsum(found, axis=1) - 1, 0), found.sum(axis=1)
    ends, ids = np.empty((len(bounds) - 1, int(np.prod(counts))), np.int64), workspace("ids", (n,), np.int32)
    order, local = (
        workspace(f"order_{name}", (n,), np.int32),
        workspace(f"local_{name}", (r, n), np.float64),
    )
    causal.sort(points, low, width, slabs, slots, counts, bounds, ids, ends, order, local)
    kept, centres = [np.flatnonzero(row) for row in found], np.zeros((r, int(counts.max())))
    for k, own in enumerate(kept):
        centres[k, : len(own)] = 0.5 * width[k] * (2.0 * own + 1.0 - slabs[k])
    return _Side(Sorted(0.5 * width, kept, centres, local, order, np.empty((0, 4), np.int64), 0), slabs, bounds, ends)


def _in_windows(task: Task, reduced: ReducedSum, found: Windows, means: Array, logs: Array) -> None:
    """Write means (m, q) and logs of total weights (m,) by the grid and the windows `found`."""
    n, plan, q, box, limits = reduced.y.shape[1], found.grid, means.shape[1], reduced.box, task.pair.limits
    assert limits is not None, "masked"
    starts = np.minimum(np.arange(-(-n // found.length) + 1) * found.length, n)
    firsts = np.searchsorted(limits, starts, side="right")  # a target's window has the last source it sees
    of = _sorted(reduced.workspace, "y", reduced.y, box.y_centre, box.y_half, plan.slabs, starts)
    to = of
    if not (np.array_equal(starts, firsts) and box.like(reduced.y, reduced.z, reduced.tol)):
        to = _sorted(reduced.workspace, "z", reduced.z, box.z_centre, box.z_half, plan.slabs, firsts)
    plain = reduce.Result(np.eye(q), np.zeros(q), 0.0, _NONE, means, logs)
    _far(replace(reduced, result=plain), box, plan, replace(of, orders=plan.order_y), replace(to, orders=plan.order_z))
    means[: firsts[1]], logs[: firsts[1]] = 0.0, -math.inf  # the first window's targets see nothing before it
    _near(task, reduced, starts, firsts, means, logs)


def _far(reduced: ReducedSum, box: Box, plan: planning.Grid, of: _Side, to: _Side) -> None:
    """Write the sums over the sources before each target's window, by the grid."""
    windows, threads, size_y, size_z = len(of.bounds) - 1, pool.threads(), of.sizes, to.sizes
    cores = packed_cores(
        box.z_half, box.y_half, plan, to.points.kept, of.points.kept, size_y, to.padded, reduced.workspace
    )
    matrices = np.zeros((len(cores), max(map(len, cores))))
    for row, core in zip(matrices, cores, strict=True):
        row[: len(core)] = core
    tilt = source_weights(reduced, of.points, reduced.y, reduced.bias, box)
    expanded = expansion_of(reduced, to.points, _ALL, box, tilt.top * math.log(2.0))
    carry = reduced.workspace("carry", (1 + len(reduced.channels), int(np.prod(size_y))), np.float64)
    carry[:] = 0.0
    way = max(int(np.prod([*size_y[k + 1 :], *to.padded[: k + 1]])) for k in range(len(cores)))
    memory = (
        reduced.workspace("between", (threads, 2, way), np.float64),
        reduced.workspace("packs", (threads, int(max(size_y.max(), to.padded.max())) * contraction.STRIP), np.float64),
        np.zeros(chebyshev.WIDTH),
    )
    part = int(max(1, min(windows, _MEMORY // (8 * (np.prod(size_y) + np.prod(size_z))))))
    for first in range(0, windows, part):
        last = min(first + part, windows)
        count = last - first
        sources, targets = of.items(first, last, reduced.y.shape[1]), to.items(first, last, cells.PIECE)
        wanted = np.diff(to.bounds[first : last + 1]) > 0
        tensors = reduced.workspace("tensors", (count, int(np.prod(size_y))), np.float64)
        mapped = reduced.workspace("mapped", (count, int(np.prod(size_z))), np.float64)
        weighed, width = tilt._replace(levels=of.levels(tilt.levels, count)), expanded.out.shape[1]
        read = expanded._replace(levels=to.levels(expanded.levels, count))
        for c in range(-1, len(reduced.channels)):
            check()
            weighed = weighed._replace(plain=c < 0, channels=reduced.channels[max(c, 0) : c + 1])
            tensors[:] = 0.0
            side = of.behind(count)
            workspace = chebyshev.allocate(threads, side, reduced.workspace)
            cell_moments.add_moments(
                side, sources, len(sources), of.points.local, of.points.order, weighed, workspace, np.empty((1, 1)),
                tensors.reshape(1, -1),
            )  # fmt: skip
            causal.accumulate(tensors, carry[1 + c])
            causal.contract(tensors, size_y, to.padded, matrices, wanted, *memory, mapped)
            side = to.behind(count)
            workspace = chebyshev.allocate(threads, side, reduced.workspace, 1, width)
            expansion.expand(
                side, targets, len(targets), to.points.local, to.points.order, mapped.reshape(1, -1), c,
                c < 0 and reduced.gradient, read, workspace,
            )  # fmt: skip


def _near(task: Task, reduced: ReducedSum, starts: Array, firsts: Array, means: Array, logs: Array) -> None:
    """Add the sums over each target's own window: many small masked sums, in one batch."""
    length, values = int(starts[1]), reduced.carried
    parts = [(w, at) for w in range(len(firsts) - 1) for at in range(firsts[w], firsts[w + 1], length)]
    own, begin = np.array(parts, np.int64).reshape(-1, 2).T
    end, many = np.minimum(begin + length, firsts[own + 1]), max(1, int(2e6) // length)
    for at in range(0, len(parts), many):
        some = slice(at, at + many)
        source, target = (starts[own[some]], starts[own[some] + 1]), (begin[some], end[some])
        count = len(own[some])

        def lay(name: str, rows: Array, of: tuple[Array, Array], count: int = count) -> Array:
            out = reduced.workspace(f"near_{name}", (count, length, len(rows)), rows.dtype)
            causal.side_by_side(rows, *of, out)
            return out

        seen = lay("seen", np.asarray(task.pair.limits)[None], target)[:, :, 0] - source[0][:, None]
        y = lay("y", reduced.y, source)
        v = y if values.shape == reduced.y.shape and not len(reduced.channels) else lay("values", values, source)
        bias = lay("bias", reduced.bias[None], source)[:, :, 0] if len(reduced.bias) else None
        causal.join(*task.exact(lay("z", reduced.z, target), y, v, bias, seen), *target, means, logs)


# -- halves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Halves:
    """The sums of all targets, means (m, q) and logs of totals (m,), while parts of the sources are added to them."""

    task: Task
    of: ReducedSum
    limits: Array
    means: Array
    logs: Array

    def add(self, sources: tuple[int, int], targets: tuple[int, int]) -> None:
        """Add, to the sums of targets begin .. end - 1, the sources that they see among first .. last - 1.

        The ranges are sources = (first, last), targets = (begin, end); the limits of the targets are in (first, last].
        """
        (first, last), (begin, end) = sources, targets
        if begin == end:
            return
        seen = self.limits[begin:end]
        if seen[0] >= last:
            self._join(sources, targets, None)
        elif last - first <= _LEAF:
            self._join(sources, targets, seen - first)
        else:
            middle = (first + last) // 2
            split = begin + int(np.searchsorted(seen, middle, side="right"))
            self.add((first, middle), (begin, split))
            if split < end:
                self._join((first, middle), (split, end), None)
                self.add((middle, last), (split, end))

    def _join(self, sources: tuple[int, int], targets: tuple[int, int], seen: Array | None) -> None:
        """Add a range of sources, or the first `seen` of them for each target, to the sums of a range of targets."""
        of, by, to = self.of, slice(*sources), slice(*targets)
        z, y = np.ascontiguousarray(of.z[:, to].T)[None], np.ascontiguousarray(of.y[:, by].T)[None]
        values = np.ascontiguousarray(of.carried[:, by].T)[None]
        bias = of.bias[None, by] if len(of.bias) else None
        if seen is None:
            found, totals = np.empty((z.shape[1], values.shape[2])), np.empty(z.shape[1])
            own = None if of.gradient and not len(of.channels) else values
            part = PairSum(Exp(), True, z, y, own, bias, tol=of.tol)
            self.task.fastest(part, found[None], totals[None])
            self.task.parts.append(np.arange(*targets))
            found, totals = found[None], totals[None] + math.log(y.shape[1])
        else:
            found, totals = self.task.exact(z, y, values, bias, seen[None])
        begin, end = (np.array([at]) for at in targets)
        causal.join(found, totals, begin, end, self.means, self.logs)
