"""Sums of sigma(<z, y> + b) and of its derivative, not separable, in O(n): polynomials on cells, sums of their nodes.

sigma has poles at +-i pi, +-3 i pi, ...: as a function of one coordinate of y, in a cell of half width h, it is

    sigma(s + a t),    |t| <= 1,    a = h max |z|,

and interpolation at p Chebyshev points has an error like rho^-p, rho = |t_0 + sqrt(t_0^2 - 1)|, t_0 = (i pi - s) / a;
that of the derivative, whose poles are double, one like p rho^-p.
So sources are replaced by the nodes of their cells, with the weights that keep the sums of polynomials; these are
summed directly for the nodes of the targets' cells, and polynomials through the results are evaluated at the targets.
In cells with fewer points than nodes the points stay as they are. The sum over nodes is the only one whose cost does
not grow with n: it grows with the logits, like L^(2 r) on r axes.

Errors are absolute: their unit is the largest |value| times the mean weight of a pair. Source: Theory 1.1 for the sum;
Trefethen, Approximation Theory and Approximation Practice (2013), ch. 8, for the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from .._types import Array
from ..parallel.partition import Undivided
from ..weights import Sigmoid, Weight, slope_of
from . import reduction
from .cell_nodes import Cells
from .costs import Estimate, pair_seconds
from .pair_sum import PairSum
from .score_rank import too_many
from .summation import Summation, Task, examples
from .workspace import Workspace

_MOST_AXES = 3
_DIVIDED, _CALLED = 1.2, 1.5  # time of a pair with sigma, and with its derivative, over that with an exponential
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
_EPS = 2.0**-52
_LEAST_WEIGHT = 1e-250  # least mean weight: errors are in units of it
_PAIRS = 128  # sources, and targets, from which the mean weight is estimated
_POLES = np.array([1, 3, 5, 7, 9])  # pairs; those beyond never matter
_MEASURED = 0.7  # of the bound of one axis: what measured errors reach; over several axes, none reached half of the sum


class SigmoidNodes(Summation):
    """Sigmoid weights, and derivatives, of small scores on up to three axes: sums between nodes of cells."""

    name = "nodes"
    weights = (Sigmoid,)

    def serves(self, pair: PairSum) -> bool:
        return isinstance(pair.weight, Sigmoid) or _is_slope(pair.weight)

    def estimate(self, task: Task) -> Estimate | None:
        pair, bias = task.pair, _one_bias(task.pair)
        if bias is None or pair.normalised or pair.limits is not None or not pair.carried.size:
            return None
        if task.partition is not None or len(task.log_total):
            return None
        tol, mean = task.tol, _mean_weight(pair, bias)
        unit = float(np.abs(pair.carried).max()) * mean
        inside = math.isfinite(unit) and unit > 0.0 and mean > _LEAST_WEIGHT
        sides = _reduce(pair, _THIN * tol * mean, task.workspace) if inside else None
        if sides is None or task.costs.within(task.limit, 0.0) < _OVERHEAD * len(sides[0]) ** 3:
            return None
        y, z, y_ends, z_ends = sides
        loads = float((_reach(y_ends) * _reach(z_ends)).sum())
        law = Law(bias, loads, _is_slope(pair.weight))
        # Scores of nodes are rounded like the largest ones there are, and weights like the largest.
        blur = 4.0 * (1.0 + loads + abs(bias)) * law.largest
        given = (1.0 - _THIN) * tol * mean - blur * _EPS
        nodes = plan(y, z, y_ends, z_ends, law, given, pair.carried.shape[2], task.scale) if given > 0.0 else None
        if nodes is None:
            return None
        rounding = float(np.finfo(task.out.dtype).eps) * blur / mean
        error = (nodes.error + blur * _EPS) / mean + _THIN * tol
        found = Both(nodes, law, y, z, y_ends, z_ends)
        shared = nodes.seconds - nodes.pairs
        return Estimate(shared, pairs=nodes.pairs, error=error, unit=unit, rounding=rounding, plan=found)

    def attend(self, task: Task, plan: Both) -> None:
        """Sum in three stages: from sources to nodes, from nodes to nodes directly, from nodes to targets."""
        pair, workspace, cells = task.pair, task.workspace, plan.cells
        of = Cells.of(plan.y, plan.y_ends, cells.y.slabs, cells.y.orders, workspace, "y")
        to = Cells.of(plan.z, plan.z_ends, cells.z.slabs, cells.z.orders, workspace, "z")
        width, count = pair.carried.shape[2], len(of.points)
        masses = np.full(1, 1.0 / pair.keys.shape[1]) if pair.masses is None else pair.masses[0]
        sources = workspace("nodes_y", (1, count, width), np.float64)
        for c in range(width):
            sources[0, :, c] = of.gathered(masses * pair.carried[0, :, c], workspace)
        sources *= count  # without masses a direct sum is a mean
        sums = workspace("nodes_z", (1, len(to.points), width), np.float64)
        shift = None if plan.law.bias == 0.0 else np.full((1, count), plan.law.bias)
        nodes = PairSum(pair.weight, False, to.points[None], of.points[None], sources, shift)
        task.direct(nodes, sums, np.empty((0, 0)))
        for c in range(width):
            task.out[:, c] = to.spread_out(sums[0, :, c], workspace)
        task.report |= {"grids": 1.0, "pairs": float(count * len(to.points))}

    def examples(self, dtype: Any) -> Iterator[PairSum]:
        for pair in examples(dtype):
            yield replace(pair, weight=Sigmoid(), normalised=False)


@dataclass(frozen=True)
class Law:
    """The weight sigma(s + bias) of scores |s| <= box, or its derivative if it is `sloped`."""

    bias: float
    box: float
    sloped: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest s + bias."""
        return self.bias - self.box, self.bias + self.box

    @property
    def largest(self) -> float:
        """The largest weight."""
        if not self.sloped:
            return _sigma(self.bias + self.box)
        near = max(abs(self.bias) - self.box, 0.0)
        return _sigma(near) * _sigma(-near)


@dataclass(frozen=True)
class Both:
    """The cells of sources and targets, and the coordinates of these with the ends of their boxes."""

    cells: Plan
    law: Law
    y: Array
    z: Array
    y_ends: Array
    z_ends: Array


def _sigma(u: float) -> float:
    return float(1.0 / (1.0 + np.exp(-max(u, -700.0))))


def _is_slope(weight: Any) -> bool:
    """Return whether a weight is the derivative of sigma."""
    return isinstance(weight, Weight) and weight is slope_of(Sigmoid())


def _one_bias(pair: PairSum) -> float | None:
    """Return the bias of all sources; None if they differ."""
    if pair.bias is None:
        return 0.0
    first = pair.bias[0, 0]
    return float(first) if (pair.bias[0] == first).all() else None


def _mean_weight(pair: PairSum, bias: float) -> float:
    """Estimate the mean weight of pairs from a sample; sources are sampled by their masses."""
    rng, n = np.random.default_rng(0), pair.keys.shape[1]
    i, j = rng.integers(0, pair.targets.shape[1], _PAIRS), rng.integers(0, n, _PAIRS)
    if pair.masses is not None:
        total = np.cumsum(pair.masses[0])
        j = np.minimum(np.searchsorted(total, total[-1] * (np.arange(_PAIRS) + 0.5) / _PAIRS), n - 1)
    z, y = pair.targets[0, i].astype(np.float64), pair.keys[0, j].astype(np.float64)
    scores = np.minimum(-np.einsum("ik,jk->ij", z, y) - bias, 700.0)  # without BLAS: bits must not depend on threads
    if _is_slope(pair.weight):
        return float(Sigmoid().derivative(scores).mean())
    return float((1.0 / (1.0 + np.exp(scores))).mean())


def _reduce(pair: PairSum, thin: float, workspace: Workspace) -> tuple[Array, Array, Array, Array] | None:
    """Return y (r, n), z (r, m), y_ends (2, r), z_ends (2, r), with <z, y> the scores; see `reduction`.

    The origin is kept: sigma(s + c) is no multiple of sigma(s). Return None if more than three axes carry scores.
    """
    partition = Undivided(pair.keys.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        if too_many(pair.targets[0], pair.keys[0], _MOST_AXES, thin, partition, centred=False):
            return None
        of = reduction.frame(pair.keys[0], workspace, partition, centred=False)
        both = None if of is None else reduction.maps(of, pair.targets[0], workspace, partition, centred=False)
    if both is None:
        return None
    to_y, to_z, _ = both
    q, zero = len(to_y), np.zeros(pair.keys.shape[2])
    y = workspace("coords_y", (q, pair.keys.shape[1]), np.float64)
    z = workspace("coords_z", (q, pair.targets.shape[1]), np.float64)
    y_ends = reduction.coordinates(pair.keys[0], zero, to_y, y)
    z_ends = reduction.coordinates(pair.targets[0], zero, to_z, z)
    with np.errstate(over="ignore", invalid="ignore"):
        loads = _reach(y_ends) * _reach(z_ends)
    if not np.isfinite(loads).all():  # of coordinates that are no numbers
        return None
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
    """The cells of both sides, seconds on one thread, those of pairs of nodes among them, and a bound of the absolute
    error, for values up to 1.
    """

    y: Side
    z: Side
    seconds: float
    pairs: float
    error: float


def plan(
    y: Array, z: Array, y_ends: Array, z_ends: Array, law: Law, tol: float, columns: int, scale: float = 1.0
) -> Plan | None:
    """Return the cheapest cells for sources y (r, n), targets z (r, m) with error below tol; None if there are none.

    Costs are those of `scale` times as many points in the same boxes.
    """
    share = _SHARE * tol / (2 * len(y))
    of, to = Histogram.of(y, y_ends, scale), Histogram.of(z, z_ends, scale)
    rate = (_CALLED if law.sloped else _DIVIDED) * pair_seconds(len(y) + columns)
    per_y = [of.side(_reach(z_ends), a, share, law, columns, _SPREAD) for a in _REACHES]
    per_z = [to.side(_reach(y_ends), a, share, law, columns, _EVALUATE) for a in _REACHES]

    def of_both(p: Side, q: Side) -> Plan:
        pairs = p.nodes * q.nodes * rate
        return Plan(p, q, _OVERHEAD + pairs + p.seconds + q.seconds, pairs, p.error + q.error)

    both = [
        of_both(p, q) for p, q in product(per_y, per_z) if p is not None and q is not None and p.error + q.error < tol
    ]
    return min(both, key=lambda found: found.seconds, default=None)


@dataclass(frozen=True)
class Histogram:
    """A histogram of the points of a box: centres (r, q) of small boxes, and how many points each has (q,), about."""

    ends: Array
    centres: Array
    counts: Array

    @staticmethod
    def of(x: Array, ends: Array, scale: float) -> Histogram:
        r, n = x.shape
        some = x[:, :: max(1, n // _SAMPLE)]
        parts = _FINE[r - 1]
        width = np.maximum(np.ptp(ends, axis=0), 1e-300) / parts
        place = np.minimum(((some - ends[0][:, None]) / width[:, None]).astype(np.int64), parts - 1)
        found = np.bincount(np.ravel_multi_index(tuple(place), (parts,) * r))
        cells = np.flatnonzero(found)
        centres = ends[0][:, None] + width[:, None] * (np.array(np.unravel_index(cells, (parts,) * r)) + 0.5)
        return Histogram(ends, centres, found[cells] * (scale * n / some.shape[1]))

    def side(
        self,
        other: Array,
        reach: float,
        share: float,
        law: Law,
        columns: int,
        cost: tuple[float, float],
    ) -> Side | None:
        """Return cells with `a` up to `reach` and an error of at most `share` on each axis; None if they are too many.

        other: (r,) the largest |coordinates| of the other side; columns: the number of value columns; cost: seconds per
        point, and per point and node of its cell.
        """
        extent = np.maximum(np.ptp(self.ends, axis=0), 1e-300)
        loads = np.maximum(0.5 * other * extent, _LEAST)
        slabs = np.maximum(1, np.ceil(loads / reach)).astype(np.int64)
        found = [order_for(float(a), share, *law.ends, law.sloped) for a in loads / slabs]
        orders = np.array([order for order, _ in found])
        rounding = law.largest * (_ROUNDING[0] + _ROUNDING[1] * orders**2.0)
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


def order_for(a: float, tol: float, low: float, high: float, sloped: bool = False) -> tuple[int, float]:
    """Return (p, error): p Chebyshev points interpolate sigma(s + a t) in t on [-1, 1] with an error below tol.

    sloped: sigma' in its place.

    This holds for every s with scores in [low, high]; `error` is the bound with p points. The Chebyshev coefficients of
    a pair of poles decay like 4 / |a sqrt(t_0^2 - 1)| rho^-k, and the error of interpolation is at most twice the sum
    of those that are left out (Trefethen, theorem 8.2). Those of sigma' are like 4 (k + |t_0 / root|) / |a root|^2
    rho^-k with the same root, the derivatives in t_0 over a.
    """
    s = np.clip(np.linspace(-1.25, 1.25, 11) * a, low + a, max(low, high - a))
    pole = (1j * math.pi * _POLES[:, None] - s) / a
    root = np.sqrt(pole * pole - 1.0)
    log_rho = np.log(np.maximum(np.abs(pole + root), np.abs(pole - root)))
    front = (1.0 if sloped else _MEASURED) * 8.0 / (a * np.abs(root)) / -np.expm1(-log_rho)
    more = np.abs(pole / root) + 1.0 / np.expm1(log_rho)

    def bound(order: int) -> float:
        grown = (order + more) / (a * np.abs(root)) if sloped else 1.0
        return float((front * grown * np.exp(-order * log_rho)).sum(axis=0).max())

    order = max(2, int(np.ceil((np.log(front / tol) / log_rho).max())))
    while bound(order) > tol:
        order += 1
    return order, bound(order)
