"""A pair sum of one system with exponential weights in reduced coordinates: what grids, trees and windows work on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from .._types import Array
from ..kernels import reduce
from ..kernels.cells import CHUNKS
from ..parallel.partition import Partition, Undivided
from . import planning
from .box import Box, picked
from .pair_sum import PairSum
from .reduction import ROUNDED, Reduced, amplified, extremes, reduce_pair
from .slices import check
from .workspace import Workspace

_MOST_AXES = 4
_THIN = 0.02  # of tol: axes whose loads add up to less are left out
_GIVEN = 0.92  # of tol: for grids and trees; the rest is for axes and sources that are left out
_FAR = 4.0  # half widths from the origin: values nearer to it are not centred, and may need no total
_SAMPLE = 4096  # sources by which the spread of products is estimated
_NONE = np.empty(0)


@dataclass
class ReducedSum:
    """Sums of e^{<z, y> + b} over sources, and means of the coordinates y and of channels, for every target.

    Attributes:
        y, z: (r, n), (r, m) coordinates of sources and targets.
        y_ends, z_ends: (2, r) their corners.
        bias: (n,) or (0,) log-weights.
        channels: (e, n) values beside the coordinates.
        products: whether the means of the products of all channels with all coordinates are wanted, too.
        gradient: whether the means of the coordinates are wanted.
        tol: relative error of sums, and of means relative to the spread of the sources.
        workspace: memory that is reused.
        result: where the results are written.
        partition: which of all sources y are, if other processes have more.
        scores: upper bound of the sum of the absolute terms of a score: rounding is relative to it.
        error_left: the error that the reduction has made.
        amplification: the factor from errors of these means to errors of the means of values.
        normalised: whether means are wanted; otherwise they are multiplied by the totals at last.
        divided: whether a grid divides sums by the totals: not if these are not needed.
    """

    y: Array
    z: Array
    y_ends: Array
    z_ends: Array
    bias: Array
    channels: Array
    products: bool
    gradient: bool
    tol: float
    workspace: Workspace
    result: reduce.Result
    partition: Partition | None
    scores: float
    error_left: float
    amplification: float
    normalised: bool
    divided: bool
    span: Array = field(init=False)  # (r,) half widths of the box of all sources

    def __post_init__(self) -> None:
        half = 0.5 * np.ptp(self.y_ends, axis=0)
        # If rounding has moved all points alike from the centre on an axis, the box has no width there: that distance.
        self.span = np.where(half > 0.0, half, np.abs(self.y_ends).max(axis=0))

    @property
    def axes(self) -> int:
        """The number r of coordinates that carry the scores."""
        return len(self.y)

    @property
    def columns(self) -> int:
        """The number of sums of a target: its total, and one for each channel."""
        return self.divided + len(self.channels)

    @property
    def box(self) -> Box:
        """The boxes of all sources and targets."""
        return self.box_of(self.y_ends, self.z_ends)

    def box_of(self, y_ends: Array, z_ends: Array) -> Box:
        """Return the boxes with these corners (..., 2, r)."""
        return Box.around(y_ends, z_ends, self.span, planning.thinnest(self.tol))

    def sources(self, sources: Array | None) -> tuple[Array, Array, Array]:
        """Return the coordinates, bias and channels of the sources with the indices `sources`; None: of all."""
        bias = self.bias if sources is None or not len(self.bias) else self.bias[sources]
        return picked(self.y, sources), bias, picked(self.channels, sources)

    @property
    def further(self) -> Array:
        """The rows (q, n) beside coordinates whose means are wanted: channels, and their products if there are any."""
        if not self.products:
            return self.channels
        return np.concatenate([self.channels, (self.channels[:, None] * self.y).reshape(-1, self.y.shape[1])])

    @property
    def carried(self) -> Array:
        """The rows (q, n) whose means are wanted: coordinates, if `gradient`, and `further`."""
        return np.concatenate([self.y if self.gradient else self.y[:0], self.further])

    def finish(self, error: float) -> float:
        """Turn means into sums where sums are wanted; return the bound of all errors, `error` that of the means."""
        if not self.normalised:
            reduce.lift(self.result.out, self.result.log_total)
        return max(1.0, self.amplification) * (error + self.error_left)


def reduced_sum(
    pair: PairSum, tol: float, out: Array, log_total: Array, workspace: Workspace, partition: Partition | None
) -> ReducedSum | None:
    """Return the sum of one system in reduced coordinates.

    Results are written into out (m, c) and log_total (m,) or (0,). Return None if too many coordinates carry the
    scores, or if what was left out of them has used up the tolerance.
    """
    keys = pair.keys[0]

    def reduced(values: Array | None) -> Reduced | None:
        return reduce_pair(pair.targets[0], keys, values, _MOST_AXES, _THIN * tol, workspace, partition)

    found = None
    if pair.products and partition is None:
        plain = reduced(np.empty((len(keys), 0)))
        if plain is None:
            return None
        found = _with_products(plain, pair, workspace)
    products, gradient, divided = found is not None, pair.width > 0, True
    if found is not None:
        gradient = found.B.shape[1] > len(found.channels) * (1 + len(found.y))
        divided = pair.normalised or gradient or pair.limits is not None or len(log_total) > 0
        divided = divided or bool(found.constant.any()) or not len(found.channels)
    else:
        found = reduced(None if pair.values is None and not pair.products else pair.carried[0])
    check()
    if found is None:
        return None
    given = _GIVEN * tol / max(1.0, found.amplification) - found.dropped
    if not given > 0.0:
        return None
    if not pair.normalised and not len(log_total):
        log_total = workspace("logs", (len(out),), np.float64)
    offset = _offset(pair, found, workspace) if len(log_total) else _NONE
    sources = len(keys) if partition is None else partition.n
    log_factor = 0.0 if pair.masses is not None else -math.log(sources)
    result = reduce.Result(np.ascontiguousarray(found.B), found.constant, log_factor, offset, out, log_total)
    return ReducedSum(
        found.y, found.z, found.y_ends, found.z_ends, _bias(pair), found.channels, products, gradient, given,
        workspace, result, partition, found.scores, found.dropped, found.amplification, pair.normalised, divided,
    )  # fmt: skip


def _with_products(found: Reduced, pair: PairSum, workspace: Workspace) -> Reduced | None:
    """Return the reduced sum, of which `found` is the part without values, with the values and their products.

    Channels are the values h = N channels + origin; of keys = T y + centre they are the coordinates y. So a product is

        h_a key_b = sum_ek N_ae T_bk channel_e y_k + centre_b N_a channels + origin_a T_b y + origin_a centre_b.

    B has no columns of coordinates where these are not needed. Return None where coordinates have been left out, or
    numbers are out of range.
    """
    if found.keys is None or not len(found.y):
        return None
    T, centre, r, reach_y = found.keys, found.centre, len(found.y), np.abs(found.y_ends).max(axis=0)
    if pair.values is None:
        N, origin, channels, reach = T, centre, found.y, reach_y
    else:
        low, high = extremes(pair.values[0], Undivided(len(pair.values[0])))
        size, half = np.maximum(np.abs(low), np.abs(high)), 0.5 * high - 0.5 * low
        if not np.isfinite(2.0 * half).all():
            return None
        origin = np.where(size > _FAR * half, low + half, 0.0)
        wide = half > ROUNDED * size
        N, channels = np.eye(len(wide))[:, wide], workspace("channels", (int(wide.sum()), found.y.shape[1]), np.float64)
        for row, a in zip(channels, np.flatnonzero(wide), strict=True):
            np.subtract(pair.values[0, :, a], origin[a], out=row)
        reach = np.maximum(np.abs(low - origin), np.abs(high - origin))[wide]
    c, k, e = len(N), len(T), len(channels)
    columns, slopes = np.einsum("ae,b->abe", N, centre).reshape(c * k, e), np.einsum("a,bk->abk", origin, T)
    lead = np.concatenate([np.zeros((c, r)), slopes.reshape(c * k, r)])
    if pair.values is None:  # coordinates are channels
        columns, lead = columns + lead[c:], 0.0 * lead
    products = np.einsum("ae,bk->abek", N, T).reshape(c * k, e * r)
    B = np.block([[lead, np.concatenate([N, columns]), np.concatenate([np.zeros((c, e * r)), products])]])
    reaches = np.concatenate([reach_y, reach, np.outer(reach, reach_y).reshape(-1)])
    amplification = amplified(B, reaches, r, _spread(pair))
    constant = np.concatenate([origin, np.outer(origin, centre).reshape(-1)])
    B = B if lead.any() else B[:, r:]
    return replace(found, channels=channels, B=B, constant=constant, amplification=amplification)


def _spread(pair: PairSum) -> float:
    """Return the largest distance of what is summed from its mean, in a sample of the sources."""
    step = -(-pair.keys.shape[1] // _SAMPLE)
    values = None if pair.values is None else pair.values[:, ::step]
    rows = replace(pair, keys=pair.keys[:, ::step], values=values).carried[0]
    return float(np.abs(rows - rows.mean(axis=0)).max(initial=0.0))


def _offset(pair: PairSum, found: Reduced, workspace: Workspace) -> Array:
    """Return the part (m,) of the targets' scores that the reduction has removed.

    It is the same for all sources of a target, and matters to totals only.
    """
    matrix = found.centre[None]
    offset = workspace("offset", (1, found.z.shape[1]), np.float64)
    reduce.coordinates(pair.targets[0], np.zeros(matrix.shape[1]), matrix, offset, np.empty((CHUNKS, 2, 1)))
    return offset[0]


def _bias(pair: PairSum) -> Array:
    """Return the log-weights of the sources of one system, (n,), or (0,) if all are the same and there is no bias."""
    bias = _NONE if pair.bias is None else pair.bias[0].astype(np.float64)
    if pair.masses is None:
        return bias
    logs = np.log(pair.masses[0])
    return logs + bias if len(bias) else logs
