"""Sums of bounded weights sigma(<z, y> + b), not separable, in O(n): polynomials on cells, sums between their nodes.

sigma has poles at +-i pi, +-3 i pi, ...: as a function of one coordinate of y, in a cell of half width h, it is

    sigma(s + a t),    |t| <= 1,    a = h max |z|,

and interpolation at p Chebyshev points has an error like rho^-p, rho = |t_0 + sqrt(t_0^2 - 1)|, t_0 = (i pi - s) / a.
So sources are replaced by the nodes of their cells, with the weights that keep the sums of polynomials; these are
summed directly for the nodes of the targets' cells, and polynomials through the results are evaluated at the targets.
In cells with fewer points than nodes the points stay as they are. The sum over nodes is the only one whose cost does
not grow with n: it grows with the logits, like L^(2 r) on r axes.

Errors are absolute: their unit is the largest |value| times the mean weight of a pair. Source: Theory 1.1 for the sum;
Trefethen, Approximation Theory and Approximation Practice (2013), ch. 8, for the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numba
import numpy as np

from .._types import Array
from ..kernels import chebyshev, evaluate, grid
from ..share import Share
from ..weights import Sigmoid
from . import reduction
from .backend import Backend
from .gridsum import Sorted
from .pair_sum import PairSum

_MOST_AXES = 3
_RATE = 0.7e9  # pairs per second of a direct sum on one thread
_OVERHEAD = 5e-3  # seconds of a sum on cells, whatever its size, times the cube of the axes
_REACHES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # a of a cell: larger ones need fewer nodes in all, more per point
_SHARE = 0.9  # of the tolerance, for interpolation; the rest is for rounding
_TENSOR = 15e-9  # seconds per entry of a tensor
_LEAST = 1e-6  # a of a cell that is a point
_THIN = 0.02  # of the tolerance: axes whose loads add up to less are left out
_MOST_NODES = 3e7  # of a tensor
_ROUNDING = (1e-15, 3e-18)  # of an axis, relative to the largest weight: constant, and times its order squared
_SAMPLE = 65536  # points of a sample by which the points of cells are counted
_FINE = (1024, 96, 20)  # boxes per axis in which they are counted, for one to three axes
_SPREAD, _EVALUATE = (30e-9, 0.2e-9), (40e-9, 0.1e-9)  # seconds per point, and per node of its cell
_NONE = np.empty(0)
_EPS = 2.0**-52
_LEAST_WEIGHT = 1e-250  # least mean weight: errors are in units of it
_PAIRS = 128  # sources, and targets, from which the mean weight is estimated
_POLES = np.array([1, 3, 5, 7, 9])  # pairs; those beyond never matter
_MEASURED = 0.7  # of the bound of one axis: what measured errors reach; over several axes, none reached half of the sum


@dataclass(frozen=True)
class Done:
    """The record of a sum that has been made, for its check and report.

    Attributes:
        z, z_ends: (r, m) coordinates of targets, and (2, r) their smallest and largest.
        unit: the unit of errors: the largest |value| times the mean weight.
        rounding: rounding errors of the sums in the precision of the tokens, in that unit.
        error: upper bound of the error, in that unit.
        pairs: number of pairs of nodes that were summed.
    """

    z: Array
    z_ends: Array
    unit: float
    rounding: float
    error: float
    pairs: float


def attend(pair: PairSum, out: Array, tol: float, take: Any, direct: Backend) -> Done | None:
    """Write the sums of one system into `out` (m, c).

    Return None, with nothing written, where a direct sum is as fast, or is the only way: masked, normalised, or with a
    bias that is not the same for all sources.
    """
    n, m = pair.keys.shape[1], pair.targets.shape[1]
    direct_seconds = n * m / _RATE
    bias = _one_bias(pair)
    if direct_seconds < _OVERHEAD or bias is None or pair.normalised or pair.limits is not None or not pair.values.size:
        return None
    mean = _mean_weight(pair, bias)
    unit = float(np.abs(pair.values).max()) * mean
    inside = math.isfinite(unit) and unit > 0.0 and mean > _LEAST_WEIGHT
    sides = _reduce(pair, _THIN * tol * mean, take) if inside else None
    if sides is None or direct_seconds < _OVERHEAD * len(sides[0]) ** 3:
        return None
    y, z, y_ends, z_ends = sides
    loads = float((_reach(y_ends) * _reach(z_ends)).sum())
    # Scores of nodes are rounded like the largest ones there are, and weights like the largest.
    blur = 4.0 * (1.0 + loads + abs(bias)) * _sigma(bias + loads)
    given = (1.0 - _THIN) * tol * mean - blur * _EPS
    nodes = plan(y, z, y_ends, z_ends, bias, given, pair.values.shape[2]) if given > 0.0 else None
    if nodes is None or nodes.seconds > direct_seconds:
        return None
    of, to = Cells.of(y, y_ends, nodes.y, take, "y"), Cells.of(z, z_ends, nodes.z, take, "z")
    if len(of.points) * len(to.points) / _RATE + _OVERHEAD > direct_seconds:
        return None
    _sum(pair, bias, of, to, out, take, direct)
    rounding = float(np.finfo(out.dtype).eps) * blur / mean
    error, pairs = (nodes.error + blur * _EPS) / mean + _THIN * tol, float(len(of.points) * len(to.points))
    return Done(z, z_ends, unit, rounding, error, pairs)


def _sigma(u: float) -> float:
    return float(1.0 / (1.0 + np.exp(-max(u, -700.0))))


def _one_bias(pair: PairSum) -> float | None:
    """Return the bias of all sources; None if they differ."""
    if pair.bias is None:
        return 0.0
    first = pair.bias[0, 0]
    return float(first) if (pair.bias[0] == first).all() else None


def _sum(pair: PairSum, bias: float, of: Cells, to: Cells, out: Array, take: Any, direct: Backend) -> None:
    """Sum in three stages: from sources to nodes, from nodes to nodes directly, from nodes to targets."""
    width, count = pair.values.shape[2], len(of.points)
    weights = np.full(1, 1.0 / pair.keys.shape[1]) if pair.masses is None else pair.masses[0]
    sources = take("nodes_y", (1, count, width), np.float64)
    for c in range(width):
        sources[0, :, c] = of.gathered(weights * pair.values[0, :, c], take)
    sources *= count  # without weights a direct sum is a mean
    sums = take("nodes_z", (1, len(to.points), width), np.float64)
    shift = None if bias == 0.0 else np.full((1, count), bias)
    direct.attend(PairSum(Sigmoid(), False, to.points[None], of.points[None], sources, shift), sums)
    for c in range(width):
        out[:, c] = to.spread_out(sums[0, :, c], take)


def _mean_weight(pair: PairSum, bias: float) -> float:
    """Estimate the mean of sigma over pairs from a sample; sources are sampled by their masses."""
    rng, n = np.random.default_rng(0), pair.keys.shape[1]
    i, j = rng.integers(0, pair.targets.shape[1], _PAIRS), rng.integers(0, n, _PAIRS)
    if pair.masses is not None:
        total = np.cumsum(pair.masses[0])
        j = np.minimum(np.searchsorted(total, total[-1] * (np.arange(_PAIRS) + 0.5) / _PAIRS), n - 1)
    z, y = pair.targets[0, i].astype(np.float64), pair.keys[0, j].astype(np.float64)
    scores = np.minimum(-np.einsum("ik,jk->ij", z, y) - bias, 700.0)  # without BLAS: bits must not depend on threads
    return float((1.0 / (1.0 + np.exp(scores))).mean())


def _reduce(pair: PairSum, thin: float, take: Any) -> tuple[Array, Array, Array, Array] | None:
    """Return y (r, n), z (r, m), y_ends (2, r), z_ends (2, r), with <z, y> the scores; see `reduction`.

    The origin is kept: sigma(s + c) is no multiple of sigma(s). Return None if more than three axes carry scores.
    """
    share = Share(pair.keys.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        of = reduction.frame(pair.keys[0], take, share, centred=False)
        both = None if of is None else reduction.maps(of, pair.targets[0], take, share, centred=False)
    if both is None:
        return None
    to_y, to_z, _ = both
    q, zero = len(to_y), np.zeros(pair.keys.shape[2])
    y = take("coords_y", (q, pair.keys.shape[1]), np.float64)
    z = take("coords_z", (q, pair.targets.shape[1]), np.float64)
    y_ends = reduction.coordinates(pair.keys[0], zero, to_y, y)
    z_ends = reduction.coordinates(pair.targets[0], zero, to_z, z)
    loads = _reach(y_ends) * _reach(z_ends)
    ranked = np.argsort(loads, kind="stable")
    unseen = np.cumsum(loads[ranked]) <= thin
    kept = np.sort(ranked[~unseen]) if not unseen.all() else np.arange(min(q, 1))
    if not 0 < len(kept) <= _MOST_AXES:
        return None
    return y[kept], z[kept], y_ends[:, kept], z_ends[:, kept]


def _reach(ends: Array) -> Array:
    """Return the largest |coordinate| of each axis, (r,), of a box with corners (2, r)."""
    return np.abs(ends).max(axis=0)


# -- planning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """The cells of one side: slabs and orders (r,), nodes in all, seconds for the points, bound of the error."""

    slabs: Array
    orders: Array
    nodes: float
    seconds: float
    error: float


@dataclass(frozen=True)
class Plan:
    """The cells of both sides, seconds on one thread, and a bound of the absolute error, for values up to 1."""

    y: Side
    z: Side
    seconds: float
    error: float


def plan(y: Array, z: Array, y_ends: Array, z_ends: Array, bias: float, tol: float, columns: int) -> Plan | None:
    """Return the cheapest cells for sources y (r, n), targets z (r, m) with error below tol; None if there are none."""
    box = float((_reach(y_ends) * _reach(z_ends)).sum())
    ends, share = (bias - box, bias + box), _SHARE * tol / (2 * len(y))
    of, to = Histogram.of(y, y_ends), Histogram.of(z, z_ends)
    per_y = [of.side(_reach(z_ends), a, share, ends, columns, _SPREAD) for a in _REACHES]
    per_z = [to.side(_reach(y_ends), a, share, ends, columns, _EVALUATE) for a in _REACHES]
    both = [
        Plan(p, q, _OVERHEAD + p.nodes * q.nodes / _RATE + p.seconds + q.seconds, p.error + q.error)
        for p, q in product(per_y, per_z)
        if p is not None and q is not None and p.error + q.error < tol
    ]
    return min(both, key=lambda found: found.seconds, default=None)


@dataclass(frozen=True)
class Histogram:
    """A histogram of the points of a box: centres (r, q) of small boxes, and how many points each has (q,), about."""

    ends: Array
    centres: Array
    counts: Array

    @staticmethod
    def of(x: Array, ends: Array) -> Histogram:
        r, n = x.shape
        some = x[:, :: max(1, n // _SAMPLE)]
        parts = _FINE[r - 1]
        width = np.maximum(np.ptp(ends, axis=0), 1e-300) / parts
        place = np.minimum(((some - ends[0][:, None]) / width[:, None]).astype(np.int64), parts - 1)
        found = np.bincount(np.ravel_multi_index(tuple(place), (parts,) * r))
        cells = np.flatnonzero(found)
        centres = ends[0][:, None] + width[:, None] * (np.array(np.unravel_index(cells, (parts,) * r)) + 0.5)
        return Histogram(ends, centres, found[cells] * (n / some.shape[1]))

    def side(
        self,
        other: Array,
        reach: float,
        share: float,
        scores: tuple[float, float],
        columns: int,
        cost: tuple[float, float],
    ) -> Side | None:
        """Return cells with `a` up to `reach` and an error of at most `share` on each axis; None if they are too many.

        other: (r,) the largest |coordinates| of the other side; scores: their bounds (low, high); columns: the number
        of value columns; cost: seconds per point, and per point and node of its cell.
        """
        extent = np.maximum(np.ptp(self.ends, axis=0), 1e-300)
        loads = np.maximum(0.5 * other * extent, _LEAST)
        slabs = np.maximum(1, np.ceil(loads / reach)).astype(np.int64)
        found = [order_for(float(a), share, *scores) for a in loads / slabs]
        orders = np.array([order for order, _ in found])
        rounding = _sigma(scores[1]) * (_ROUNDING[0] + _ROUNDING[1] * orders**2.0)
        tensor = float(np.prod((slabs * orders).astype(float)))
        if tensor > _MOST_NODES:
            return None
        slab = ((self.centres - self.ends[0][:, None]) / (extent / slabs)[:, None]).astype(np.int64)
        slab = np.clip(slab, 0, slabs[:, None] - 1)  # middles of boxes as narrow as rounding may lie on a face
        counts = np.bincount(np.ravel_multi_index(tuple(slab), tuple(slabs)), self.counts)
        size = float(np.prod(orders))
        seconds = columns * (_TENSOR * tensor + float(self.counts.sum()) * (cost[0] + cost[1] * size))
        nodes, error = float(np.minimum(counts, size).sum()), float(rounding.sum()) + sum(error for _, error in found)
        return Side(slabs, orders, nodes, seconds, error)


def order_for(a: float, tol: float, low: float, high: float) -> tuple[int, float]:
    """Return (p, error): p Chebyshev points interpolate sigma(s + a t) in t on [-1, 1] with an error below tol.

    This holds for every s with scores in [low, high]; `error` is the bound with p points. The Chebyshev coefficients of
    a pair of poles decay like 4 / |a sqrt(t_0^2 - 1)| rho^-k, and the error of interpolation is at most twice the sum
    of those that are left out (Trefethen, theorem 8.2).
    """
    s = np.clip(np.linspace(-1.25, 1.25, 11) * a, low + a, max(low, high - a))
    pole = (1j * math.pi * _POLES[:, None] - s) / a
    root = np.sqrt(pole * pole - 1.0)
    log_rho = np.log(np.maximum(np.abs(pole + root), np.abs(pole - root)))
    front = _MEASURED * 8.0 / (a * np.abs(root)) / -np.expm1(-log_rho)

    def bound(order: int) -> float:
        return float((front * np.exp(-order * log_rho)).sum(axis=0).max())

    order = max(2, int(np.ceil((np.log(front / tol) / log_rho).max())))
    while bound(order) > tol:
        order += 1
    return order, bound(order)


# -- cells and their nodes -------------------------------------------------------------------------------------------


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
    def of(x: Array, ends: Array, side: Side, take: Any, name: str) -> Cells:
        half, centre = np.maximum(np.ptp(ends, axis=0) * (0.5 + 1e-12), 1e-30), ends.mean(axis=0)
        at = Sorted.into(x, centre, half, side.slabs, take, name)
        sizes, total = at.items[:, 2] - at.items[:, 1], int(np.prod(at.counts))
        many = np.bincount(at.items[:, 0], sizes, total) > np.prod(side.orders)
        has_nodes = many[at.items[:, 0]]
        single, full = np.flatnonzero(np.repeat(~has_nodes, sizes)), np.flatnonzero(many)
        slabs = np.unravel_index(full, tuple(at.counts))
        local = np.meshgrid(*[_points(p) for p in side.orders], indexing="ij")
        axes = [
            np.append(centre[k] + at.centres[k][slabs[k]][:, None] + at.half[k] * u.reshape(-1), x[k, at.order[single]])
            for k, u in enumerate(local)
        ]
        kept = np.ascontiguousarray(at.items[has_nodes])
        return Cells(at, chebyshev.sides(side.orders, at.counts), full, kept, single, np.stack(axes, axis=1))

    def gathered(self, weights: Array, take: Any) -> Array:
        """Return weights of the nodes (nodes,) that give every polynomial the same sum as those of the points.

        weights: (n,) those of the points.
        """
        at, side = self.sorted, self.side
        r, most = at.centres.shape
        tensor = take("tensor", (int(np.prod(side.sizes)),), np.float64)
        tensor[:] = 0.0
        partial = take("partial", (max(at.split, 1), side.rows * side.columns), np.float64)
        memory = chebyshev.allocate(numba.get_num_threads(), side, take)
        tilt = grid.Tilt(np.zeros((r, most)), np.zeros(r), 0.0, _NONE, np.ascontiguousarray(weights))
        grid.spread(side, self.items, len(self.items), at.local, at.order, tilt, memory, partial, tensor)
        grid.gather(side, self.items, len(self.items), partial, memory.corner[0], tensor)
        return np.append(self._mapped(self._blocks(tensor)[self.full]), weights[at.order[self.single]])

    def spread_out(self, sums: Array, take: Any) -> Array:
        """Return the values at the points (m,) of the polynomials with the values `sums` (nodes,) at the nodes."""
        at, side = self.sorted, self.side
        tensor = take("tensor", (int(np.prod(side.sizes)),), np.float64)
        tensor[:] = 0.0
        nodes = len(sums) - len(self.single)
        blocks = np.zeros((int(np.prod(side.counts)), *side.orders))
        blocks[self.full] = self._mapped(sums[:nodes].reshape(-1, *side.orders), back=True)
        whole = blocks.reshape(*side.counts, *side.orders).transpose(self._interleaved())
        self._inside(tensor)[...] = whole.reshape(tuple(side.counts * side.orders))
        memory = chebyshev.allocate(numba.get_num_threads(), side, take)
        found = np.zeros((at.local.shape[1], 1))
        grid_sums = _plain(at, found, take)
        evaluate.evaluate(
            side, self.items, len(self.items), at.local, at.order, tensor, 0, False, grid_sums, memory
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


def _plain(at: Sorted, out: Array, take: Any) -> evaluate.Reading:
    """Return the parameters by which `evaluate` adds polynomials as they are to `out` (m, 1)."""
    (r, most), share = at.centres.shape, take("share", (len(out),), np.float64)
    share[:] = 1.0
    nothing, row, at_all = np.zeros((1, 0)), np.zeros(r), np.empty(0, np.int64)
    return evaluate.Reading(
        nothing[0], nothing, np.ones((1, 1)), np.zeros((r, most)), row, 0.0, _NONE, at_all, share, out, _NONE
    )


def _points(order: int) -> Array:
    """Return the Chebyshev points (order,)."""
    return np.cos(np.pi * (np.arange(order) + 0.5) / order)
