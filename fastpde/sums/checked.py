"""The check of sums in O(n): some targets are compared with direct sums, now and then, and always after a failure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .._types import Array
from ..parallel.partition import Partition, Undivided
from .costs import Estimate
from .pair_sum import PairSum
from .sampling import error_of_values, few_directly, probes
from .summation import Summation, Task

_EVERY = 16  # one in so many sums of a head and system of a run is checked
_WARY = 4.0  # checks in a row that must be passed after one that failed
_RANDOM, _EXTREME = 32, 8  # targets checked: at random; in corners of their box, and as many farthest from its centre
_LARGEST = 20  # parts that were summed apart: three more targets are checked in each of the largest
_NONE = np.empty(0)


class Checked:
    """Sums in O(n), and what is known of their errors.

    Attributes:
        checks, failed: how many sums have been checked, and how many of these were wrong.
        bound: the largest error bound of a sum.
        sampled: the largest error of a checked target.
    """

    def __init__(self) -> None:
        self.checks = self.failed = self.bound = self.sampled = 0.0

    def attend(self, task: Task, way: Summation, estimate: Estimate) -> bool:
        """Make a sum, and check it if it is its turn; return whether it may be used."""
        way.attend(task, estimate.plan)
        if estimate.unit is not None:
            task.report["error_bound"] = estimate.error
        self.bound = max(self.bound, task.report["error_bound"])
        due = _due(task.pair)
        if task.partition is not None:  # all processes check, or none
            due = task.partition.largest(np.array([float(due)]))[0] > 0.0
        if not due:
            return True
        passed = self._passes(task, estimate)
        task.report |= {"checked": 1.0, "failed": float(not passed)}
        self.checks += 1.0
        self.failed += float(not passed)
        history = task.pair.history
        if history is not None:
            history[0, 1] = max(0.0, history[0, 1] - 1.0) if passed else _WARY
        return passed

    def _passes(self, task: Task, estimate: Estimate) -> bool:
        """Return whether the errors of some targets are within the tolerance, apart from rounding."""
        rows = _rows(task)
        found, logs = task.out[rows], task.log_total[rows] if len(task.log_total) else _NONE
        if estimate.unit is not None:
            exact = np.empty((1, len(rows), found.shape[1]), found.dtype)
            task.direct(task.pair.at(rows), exact, np.empty((0, 0)))
            error, rounding = float(np.abs(exact[0] - found).max()) / estimate.unit, estimate.rounding
        else:
            error, rounding = _errors(task, *_exact(task, rows), found, logs)
        task.report["error_sampled"] = error
        self.sampled = max(self.sampled, error)
        return error <= task.tol + rounding


def _due(pair: PairSum) -> bool:
    """Return whether the sum of one system, just made in O(n), is to be checked; count the sum."""
    if pair.history is None:
        return True
    made, wary = pair.history[0]
    pair.history[0, 0] += 1.0
    return bool(made % _EVERY == 0.0 or wary > 0.0)


def _rows(task: Task) -> Array:
    """Return the indices of the targets to check: others each time that the sum of a run is made."""
    of, made, partition = vars(task).get("reduced"), task.pair.made, task.partition
    z = task.pair.targets[0].T if of is None else of.z
    if partition is not None:
        few = max(1, partition.n // partition.here)
        return probes(z, max(4, _RANDOM // few), max(1, _EXTREME // few), made)
    largest = sorted(task.parts, key=len, reverse=True)[:_LARGEST]
    return np.concatenate([probes(z, _RANDOM, _EXTREME, made), *(part[probes(z[:, part], 1, 1)] for part in largest)])


def _exact(task: Task, rows: Array) -> tuple[Array, Array]:
    """Return the direct sums (q, c) and the logs (q,) of their totals for the targets `rows`.

    Where other processes have more tokens, every process sums its own sources for the targets of all.
    """
    pair, partition = task.pair, task.partition
    if partition is None:
        return few_directly(pair.at(rows))
    targets, mine = partition.joined(np.ascontiguousarray(pair.targets[:, rows]))
    exact, logs = few_directly(replace(pair, targets=targets, normalised=True))
    if pair.masses is None:
        logs += math.log(partition.here / partition.n)
    top = partition.largest(logs)
    each = np.exp(logs - top)
    total = partition.added(each)
    means, totals = partition.added(exact * each[:, None]) / total[:, None], top + np.log(total)
    if not pair.normalised:
        with np.errstate(over="ignore", invalid="ignore"):
            means = (means * np.exp(totals)[:, None]).astype(task.out.dtype)
    return means[mine], totals[mine]


def _errors(task: Task, exact: Array, logs: Array, found: Array, found_logs: Array) -> tuple[float, float]:
    """Return (largest error, bound of rounding errors) of sums `found` and their logs (may be empty)."""
    pair, of = task.pair, vars(task).get("reduced")
    partition = Undivided(pair.keys.shape[1]) if task.partition is None else task.partition
    error, scores = 0.0, _largest_score(pair, partition) if of is None else of.scores
    if found.shape[1]:
        error, size = error_of_values(pair.carried[0], exact, found, None if pair.normalised else logs, partition)
        scores += size
    if len(found_logs):
        error = float(np.maximum(error, np.abs(found_logs - logs).max()))  # nan if one is nan
        scores += float(np.abs(logs).max())
    rounding = 4.0 * float(np.finfo(found.dtype).eps) * (1.0 + scores)
    if task.partition is not None:
        error, rounding = partition.largest(np.array([error, rounding])).tolist()
    return error, rounding


def _largest_score(pair: PairSum, partition: Partition) -> float:
    """Return an upper bound of the sum of the absolute terms of a score."""
    both = np.stack([np.abs(rows[0]).max(axis=0).astype(np.float64) for rows in (pair.targets, pair.keys)])
    bias = 0.0 if pair.bias is None else float(np.abs(pair.bias).max())
    reach = partition.largest(both)
    return float(reach[0] @ reach[1]) + bias
