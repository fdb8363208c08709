"""A pair sum of one system with exponential weights in reduced coordinates: what grids, trees and windows work on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .._types import Array
from ..kernels import reduce
from ..kernels.cells import CHUNKS
from ..parallel.partition import Partition
from . import planning
from .box import Box, picked
from .pair_sum import PairSum
from .reduction import Reduced, reduce_pair
from .slices import check
from .workspace import Workspace

_MOST_AXES = 4
_THIN = 0.02  # of tol: axes whose loads add up to less are left out
_GIVEN = 0.92  # of tol: for grids and trees; the rest is for axes and sources that are left out
_NONE = np.empty(0)


@dataclass
class ReducedSum:
    """Sums of e^{<z, y> + b} over sources, and means of the coordinates y and of channels, for every target.

    Attributes:
        y, z: (r, n), (r, m) coordinates of sources and targets.
        y_ends, z_ends: (2, r) their corners.
        bias: (n,) or (0,) log-weights.
        channels: (e, n) values beside the coordinates.
        gradient: whether the means of the coordinates are wanted.
        tol: relative error of sums, and of means relative to the spread of the sources.
        workspace: memory that is reused.
        result: where the results are written.
        partition: which of all sources y are, if other processes have more.
        scores: upper bound of the sum of the absolute terms of a score: rounding is relative to it.
        error_left: the error that the reduction has made.
        amplification: the factor from errors of these means to errors of the means of values.
        normalised: whether means are wanted; otherwise they are multiplied by the totals at last.
    """

    y: Array
    z: Array
    y_ends: Array
    z_ends: Array
    bias: Array
    channels: Array
    gradient: bool
    tol: float
    workspace: Workspace
    result: reduce.Result
    partition: Partition | None
    scores: float
    error_left: float
    amplification: float
    normalised: bool
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
        return 1 + len(self.channels)

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
    def carried(self) -> Array:
        """The rows (q, n) whose means are wanted: coordinates, if `gradient`, and channels."""
        return np.concatenate([self.y if self.gradient else self.y[:0], self.channels])

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
    values = None if pair.values is None else pair.values[0]
    found = reduce_pair(pair.targets[0], keys, values, _MOST_AXES, _THIN * tol, workspace, partition)
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
        found.y, found.z, found.y_ends, found.z_ends, _bias(pair), found.channels, out.shape[1] > 0, given, workspace,
        result, partition, found.scores, found.dropped, found.amplification, pair.normalised,
    )  # fmt: skip


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
