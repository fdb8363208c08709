"""Sums of exponential and sigmoid weights in O(n), to a stated tolerance, where few coordinates carry the scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .._types import Array
from ..errors import InputError, InputTypeError
from ..kernels import reduce
from ..kernels.cells import CHUNKS
from ..parallel.partition import Partition, Undivided
from ..weights import Exp, Linear, Sigmoid
from . import masked_windows, sigmoid_nodes
from .backend import Backend
from .box_tree import Sum
from .direct import Direct
from .pair_sum import PairSum
from .reduction import Reduced, reduce_pair
from .sampling import error_of_values, few_directly, probes
from .slices import check

_MOST_AXES = 4
_THIN = 0.02  # of tol: axes whose loads add up to less are left out
_GIVEN = 0.92  # of tol: for grids and trees; the rest is for axes and sources that are left out
_CHECK_EVERY = 16  # one in so many sums of a head and system of a run is checked
_WARY = 4.0  # checks in a row that must be passed after one that failed
_RANDOM, _EXTREME = 32, 8  # targets checked: at random; in corners of their box, and as many farthest from its centre
_LARGEST = 20  # parts with grids of their own: three more targets are checked in each
_NONE = np.empty(0)


class Fast(Backend):
    """Sums in O(n) to a relative error below `tol`, of totals, and of means relative to the spread of the values.

    They are for exponential weights (softmax, L2, exponential, Sinkhorn attention) whose scores depend on at most four
    coordinates, after a balanced reduction, however many the tokens have; other sums are direct, and exact. Where a
    grid would be slower than a direct sum, or could not keep the tolerance, sources and targets are split, far sources
    are dropped, and what is left is summed directly.

    Sigmoid weights are bounded. The errors of their sums are absolute, in units of the largest |value| times the mean
    weight of a pair, which is estimated from a sample; bound, check and `tol` refer to this unit, too. Their scores may
    depend on three coordinates at most, and O(n) pays for small scores only. Their masked sums are direct.

    Every sum has an a-priori bound of its error. It is also checked against direct sums for 48 targets. A single sum is
    always checked; a sum that a run repeats is checked the first time and every 16th time, for each head and system,
    and after a failure every time until four checks in a row have passed. If a check fails, all targets are summed
    again directly. `report` describes the last sum in O(n), `stats` all of them. Sums are in float64; nothing depends
    on the number of threads.
    """

    def __init__(self, tol: float = 1e-8) -> None:
        """Make a backend of tolerance `tol`.

        Raises InputError, InputTypeError: unless tol is a number from 1e-14 to 0.1.
        """
        super().__init__()
        self.tol = _tolerance(tol)
        self._direct = Direct()
        self._parts: list[Array] = []
        self.report: dict[str, float] = {}
        self._stats = {"fast_error_bound": 0.0, "fast_error_sampled": 0.0, "fast_direct_targets": 0.0}
        self._checks = {"fast_checked": 0.0, "fast_failed": 0.0}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tol={self.tol:g})"

    def stats(self) -> dict[str, float]:
        """Return numbers that describe all sums in O(n) so far.

        They are the largest error bound, the largest error of a checked target, how many targets were summed directly,
        how many sums were checked, and how many of these failed and were made again directly.
        """
        return self._stats | self._checks

    def state(self) -> Array:
        # The first number is no longer used; older states end before the checks.
        return np.array([0.0, *self._stats.values(), *self._checks.values()])

    def restore(self, state: Array | None) -> None:
        numbers = np.zeros(1 + len(self._stats) + len(self._checks))
        if state is not None:
            numbers[: len(state)] = state
        values = iter(numbers[1:].tolist())
        self._stats, self._checks = ({name: next(values) for name in each} for each in (self._stats, self._checks))

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        if not self._suits(pair):
            self._all_directly(pair, out, log_total)
            return
        for b in range(len(pair.keys)):
            check()
            one = _system(pair, b)
            logs = None if log_total is None else log_total[b : b + 1]
            if isinstance(one.weight, Sigmoid):
                if logs is not None or not self._sum_bounded(one, out[b]):
                    self._all_directly(one, out[b : b + 1], logs)
                continue
            keys = one.keys[0]
            reduced = reduce_pair(
                one.targets[0], keys, keys if one.values is one.keys else one.values[0], _MOST_AXES,
                _THIN * min(self.tol, one.tol), self.workspace.part("fast"),
            )  # fmt: skip
            check()
            found = _NONE if logs is None else logs[0]
            good = reduced is not None and self._sum(one, reduced, out[b], found)
            if good and reduced is not None and self._due(one):
                good = self._judged(one, self._check(one, reduced, out[b], found))
            if not good:
                self._all_directly(one, out[b : b + 1], logs)

    def _due(self, pair: PairSum) -> bool:
        """Return whether the sum of one system, just made in O(n), is to be checked; count the sum."""
        if pair.history is None:
            return True
        made, wary = pair.history[0]
        pair.history[0, 0] += 1.0
        return bool(made % _CHECK_EVERY == 0.0 or wary > 0.0)

    def _judged(self, pair: PairSum, passed: bool) -> bool:
        """Record the result of a check in `report`, `stats` and the history of the sum; return it."""
        self.report |= {"checked": 1.0, "failed": float(not passed)}
        self._checks["fast_checked"] += 1.0
        self._checks["fast_failed"] += float(not passed)
        if pair.history is not None:
            pair.history[0, 1] = max(0.0, pair.history[0, 1] - 1.0) if passed else _WARY
        return passed

    def _suits(self, pair: PairSum) -> bool:
        """Return whether it may pay to reduce the sum and plan it in O(n)."""
        return isinstance(pair.weight, Exp | Sigmoid)

    def _pays(self, job: Sum, pair: PairSum, reduced: Reduced) -> bool:
        """Return whether a reduced system is to be summed in O(n); may set `job.within`."""
        return True

    def _all_directly(self, pair: PairSum, out: Array, log_total: Array | None) -> None:
        self._direct.attend(pair, out, log_total)
        self._stats["fast_direct_targets"] += out.shape[0] * out.shape[1]

    def job(
        self, pair: PairSum, reduced: Reduced, out: Array, log_total: Array, partition: Partition | None = None
    ) -> Sum | None:
        """Return the sum of one system to be made: weighted means of values, and logs of total weights.

        Return None where what was left out of the scores has used up the tolerance.
        """
        sources = pair.keys.shape[1] if partition is None else partition.n
        if not pair.normalised and not len(log_total):
            log_total = self.workspace.part("fast")("logs", (len(out),), np.float64)
        offset = self._offset(pair, reduced) if len(log_total) else _NONE
        log_factor = 0.0 if pair.masses is not None else -math.log(sources)
        result = reduce.Result(np.ascontiguousarray(reduced.B), reduced.constant, log_factor, offset, out, log_total)
        tol = _GIVEN * min(self.tol, pair.tol) / max(1.0, reduced.amplification) - reduced.dropped
        if not tol > 0.0:
            return None
        return Sum(
            reduced.y, reduced.z, _bias(pair), reduced.channels, pair.values.shape[2] > 0, tol,
            self.workspace.part("fast"), self._exact, result, _span(reduced.y_ends), partition=partition,
        )  # fmt: skip

    def _sum(self, pair: PairSum, reduced: Reduced, out: Array, log_total: Array) -> bool:
        """Sum one system in O(n); return whether that was possible and expected to pay."""
        job = self.job(pair, reduced, out, log_total)
        if job is None or not self._pays(job, pair, reduced):
            return False
        ends = reduced.y_ends, reduced.z_ends
        if not (job.run(*ends) if pair.limits is None else masked_windows.attend(job, pair.limits, *ends)):
            return False
        self._finish(job, pair, reduced)
        return True

    def _finish(self, job: Sum, pair: PairSum, reduced: Reduced) -> None:
        """Turn means into sums where sums are wanted, and record the report of a sum."""
        if not pair.normalised:
            reduce.lift(job.result.out, job.result.log_total)
        job.report["error_bound"] = max(1.0, reduced.amplification) * (job.report["error_bound"] + reduced.dropped)
        self.report, self._parts = job.report, job.parts
        self._stats["fast_error_bound"] = max(self._stats["fast_error_bound"], job.report["error_bound"])
        self._stats["fast_direct_targets"] += job.report.get("direct_targets", 0.0)

    def attend_together(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> bool:
        """Sum systems whose other sources and targets are in other processes, each on one grid of the moments of all.

        Return False if they cannot be summed like that. The number of bytes sent depends on the grids, not on the
        number of tokens.
        """
        if isinstance(pair.weight, Linear):
            return self._direct.attend_together(pair, partition, out, log_total)
        targets = int(partition.added(np.array([pair.targets.shape[1]]))[0])
        if pair.limits is not None or not isinstance(pair.weight, Exp):
            return False
        if not self._worth_it(pair, float(partition.n) * targets):
            return False
        logs = [_NONE] * len(out) if log_total is None else log_total
        return all(self._together(_system(pair, b), partition, targets, out[b], logs[b]) for b in range(len(out)))

    def _together(self, pair: PairSum, partition: Partition, targets: int, out: Array, logs: Array) -> bool:
        """Sum one such system, of `targets` targets in all; return whether that worked and no check failed."""
        check()
        keys = pair.keys[0]
        reduced = reduce_pair(
            pair.targets[0], keys, keys if pair.values is pair.keys else pair.values[0], _MOST_AXES,
            _THIN * min(self.tol, pair.tol), self.workspace.part("fast"), partition,
        )  # fmt: skip
        if reduced is None:
            return False
        job = self.job(pair, reduced, out, logs, partition)
        if job is None or not job.one_grid(reduced.y_ends, reduced.z_ends, partition.n, targets):
            return False
        self._finish(job, pair, reduced)
        due = partition.largest(np.array([float(self._due(pair))]))[0] > 0.0  # all processes check, or none
        return not due or self._judged(pair, self._check_together(pair, reduced, partition, out, logs))

    def _worth_it(self, pair: PairSum, pairs: float) -> bool:
        """Return whether a distributed sum over so many pairs is tried in O(n)."""
        return True

    def _check_together(
        self, pair: PairSum, reduced: Reduced, partition: Partition, out: Array, log_total: Array
    ) -> bool:
        """Check a distributed sum as `_check` does; return whether it is within the tolerance.

        Targets of all processes are checked; every process sums its own sources for each of them.
        """
        few = max(1, partition.n // partition.here)
        rows = probes(reduced.z, max(4, _RANDOM // few), max(1, _EXTREME // few), _made(pair))
        targets, mine = partition.joined(np.ascontiguousarray(pair.targets[:, rows]))
        count, c = targets.shape[1], pair.values.shape[2]
        exact, logs = np.empty((1, count, c), out.dtype), np.empty((1, count))
        Direct().attend(  # memory of its own, as large as the sources: not to be kept
            replace(pair, targets=targets, normalised=True), exact, logs
        )
        if pair.masses is None:
            logs += math.log(partition.here / partition.n)
        top = partition.largest(logs)
        each = np.exp(logs - top)
        total = partition.added(each)
        means, logs = partition.added(exact * each[:, :, None])[0] / total[0][:, None], (top + np.log(total))[0]
        if not pair.normalised:
            with np.errstate(over="ignore", invalid="ignore"):
                means = (means * np.exp(logs)[:, None]).astype(out.dtype)
        found = log_total[rows] if len(log_total) else _NONE
        error, rounding = self._errors(pair, reduced, means[mine], logs[mine], out[rows], found, partition)
        error, rounding = partition.largest(np.array([error, rounding])).tolist()
        return self._within(error, pair, rounding)

    def _sum_bounded(self, pair: PairSum, out: Array) -> bool:
        """Sum one system with bounded weights in O(n); return whether that was possible and no check failed."""
        tol = min(self.tol, pair.tol)
        done = sigmoid_nodes.attend(pair, out, tol, self.workspace.part("fast"), self._direct)
        if done is None:
            return False
        self.report = {"grids": 1.0, "direct_targets": 0.0, "error_bound": done.error, "pairs": done.pairs}
        self._stats["fast_error_bound"] = max(self._stats["fast_error_bound"], done.error)
        return not self._due(pair) or self._judged(pair, self._check_bounded(pair, done, out))

    def _offset(self, pair: PairSum, reduced: Reduced) -> Array:
        """Return the part (m,) of the targets' scores that the reduction has removed.

        It is the same for all sources of a target, and matters to totals only.
        """
        offset, matrix = (
            self.workspace.part("fast")("offset", (1, reduced.z.shape[1]), np.float64),
            reduced.centre[None],
        )
        reduce.coordinates(pair.targets[0], np.zeros(matrix.shape[1]), matrix, offset, np.empty((CHUNKS, 2, 1)))
        return offset[0]

    def _check(self, pair: PairSum, reduced: Reduced, out: Array, log_total: Array) -> bool:
        """Compare some targets with direct sums; return whether their errors are within the tolerance."""
        rows = np.concatenate([probes(reduced.z, _RANDOM, _EXTREME, _made(pair)), *self._in_parts(reduced.z)])
        values = pair.values[0]
        limits = None if pair.limits is None else pair.limits[rows]
        part = replace(pair, targets=np.ascontiguousarray(pair.targets[:, rows]), limits=limits)
        exact, logs = few_directly(part)
        found = log_total[rows] if len(log_total) else _NONE
        error, rounding = self._errors(pair, reduced, exact, logs, out[rows], found, Undivided(len(values)))
        return self._within(error, pair, rounding)

    def _errors(
        self, pair: PairSum, reduced: Reduced, exact: Array, logs: Array, out: Array, found: Array, partition: Partition
    ) -> tuple[float, float]:
        """Return (largest error, bound of rounding errors) of sums `out` and logs `found` (may be empty).

        The errors are the differences from the direct sums `exact` and their logs `logs`.
        """
        error, scores = 0.0, reduced.scores
        if out.shape[1]:
            error, offset = error_of_values(pair.values[0], exact, out, None if pair.normalised else logs, partition)
            scores += offset
        if len(found):
            error = float(np.maximum(error, np.abs(found - logs).max()))  # nan if one is nan
            scores += float(np.abs(logs).max())
        return error, 4.0 * float(np.finfo(out.dtype).eps) * (1.0 + scores)

    def _check_bounded(self, pair: PairSum, done: sigmoid_nodes.Done, out: Array) -> bool:
        """Check a sum with bounded weights as `_check` does; return whether it is within the tolerance."""
        rows = probes(done.z, _RANDOM, _EXTREME, _made(pair))
        exact = np.empty((1, len(rows), out.shape[1]), out.dtype)
        self._direct.attend(replace(pair, targets=np.ascontiguousarray(pair.targets[:, rows])), exact)
        return self._within(float(np.abs(exact[0] - out[rows]).max()) / done.unit, pair, done.rounding)

    def _within(self, error: float, pair: PairSum, rounding: float) -> bool:
        """Record a sampled error; return whether it is within the tolerance, apart from `rounding`."""
        self.report["error_sampled"] = error
        self._stats["fast_error_sampled"] = max(self._stats["fast_error_sampled"], error)
        return error <= min(self.tol, pair.tol) + rounding

    def _in_parts(self, z: Array) -> list[Array]:
        """Return the targets to check, as index arrays, in each of the largest parts that had grids of their own."""
        largest = sorted(self._parts, key=len, reverse=True)[:_LARGEST]
        return [part[probes(z[:, part], 1, 1)] for part in largest]

    def _exact(
        self, z: Array, y: Array, values: Array, bias: Array | None = None, limits: Array | None = None
    ) -> tuple[Array, Array]:
        """Sum over all pairs, see `tree.Exact`."""
        z, y, values = (np.ascontiguousarray(array) for array in (z, y, values))
        out, logs = np.empty((*z.shape[:2], values.shape[2])), np.empty(z.shape[:2])
        self._direct.attend(PairSum(Exp(), True, z, y, values, bias, limits=limits), out, logs)
        logs += math.log(y.shape[1])
        return out, logs

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        self._direct.project(x, matrix, out, origin, shift)

    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        return self._direct.centre(x, partition)


def _tolerance(tol: object) -> float:
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.floating):
        raise InputTypeError("tol", repr(tol), "a number from 1e-14 to 0.1")
    if not 1e-14 <= tol <= 0.1:
        raise InputError("tol", repr(tol), "a number from 1e-14 to 0.1")
    return float(tol)


def _span(ends: Array) -> Array:
    """Return the half widths (r,) of the box with corners (2, r).

    If rounding has moved all points alike from the centre on an axis, the box has no width there: return that distance
    instead.
    """
    half: Array = 0.5 * np.ptp(ends, axis=0)
    return np.where(half > 0.0, half, np.abs(ends).max(axis=0))


def _bias(pair: PairSum) -> Array:
    """Return the log-weights of the sources of one system, (n,), or (0,) if all are the same and there is no bias."""
    bias = _NONE if pair.bias is None else pair.bias[0].astype(np.float64)
    if pair.masses is None:
        return bias
    logs = np.log(pair.masses[0])
    return logs + bias if len(bias) else logs


def _made(pair: PairSum) -> int:
    """Return how often a sum has been made: other targets are checked each time."""
    return 0 if pair.history is None else int(pair.history[0, 0])


def _system(pair: PairSum, b: int) -> PairSum:
    """Return the pair sum of system b alone."""
    keys, weights, limits = pair.keys[b : b + 1], pair.masses, pair.limits
    return replace(
        pair,
        targets=pair.targets[b : b + 1],
        keys=keys,
        values=keys if pair.values is pair.keys else pair.values[b : b + 1],
        bias=None if pair.bias is None else pair.bias[b : b + 1],
        masses=None if weights is None else weights[b % len(weights)][None],
        limits=limits[b % len(limits)] if limits is not None and limits.ndim == 2 else limits,
        history=None if pair.history is None else pair.history[b : b + 1],
    )
