"""What `Fast` and `Auto` have in common: each system is summed in a way of its choice, checked, directly at last."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from .._numbers import within
from .._types import Array
from ..parallel.partition import Partition
from ..weights import Exp, Linear
from . import ways
from .backend import Backend
from .checked import Checked
from .costs import TYPICAL, Costs
from .direct import Direct
from .pair_sum import PairSum, SecondScore
from .slices import check
from .summation import Task

_NONE = np.empty(0)
_FEW = 64  # columns instead of a second score
ONE_THREAD = Costs(threads=1.0)


class Choosing(Backend):
    """A backend that makes the sum of each system in one of the `ways`, or directly.

    Attributes:
        tol: the relative error that sums may have.
        report: what the last sum in O(n) did.
    """

    def __init__(self, tol: float) -> None:
        super().__init__()
        self.tol = within("tol", tol, 1e-14, 0.1)
        self._direct, self._checked = Direct(), Checked()
        self.report: dict[str, float] = {}
        self._sums = self._direct_sums = self._direct_targets = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tol={self.tol:g})"

    @abstractmethod
    def _tries(self, pair: PairSum) -> bool:
        """Return whether it may pay to plan sums of this size in O(n)."""

    @abstractmethod
    def _choose(self, task: Task) -> ways.Choice | None:
        """Return a way to make the sum; None: directly."""

    @abstractmethod
    def _choose_together(self, task: Task) -> ways.Choice | None:
        """Return a way to make a sum with the tokens of other processes, the same on all; None: bring them together."""

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        self._sums += len(pair.keys)
        if not (ways.serving(pair) and self._tries(pair)):
            self._directly(pair, out, log_total)
            return
        for b in range(len(pair.keys)):
            check()
            logs = None if log_total is None else log_total[b : b + 1]
            one = pair.system(b)
            if not self._made(one, out[b], _NONE if logs is None else logs[0]):
                self._directly(one, out[b : b + 1], logs)

    def attend_second(
        self, pair: PairSum, second: SecondScore, out: Array, out_second: Array, log_total: Array | None = None
    ) -> None:
        """Sum by columns what can be made in O(n) if the columns are few, the rest directly."""
        columns = second.keys.shape[2] * (second.values.shape[2] + 1)
        if columns <= _FEW and ways.serving(pair) and self._tries(pair):
            super().attend_second(pair, second, out, out_second, log_total)
        else:
            self._direct.attend_second(pair, second, out, out_second, log_total)
            self.count(len(out))

    def products_pay(self, pair: PairSum) -> bool:
        k = pair.keys.shape[2]
        few = k * (1 + k) <= _FEW and isinstance(pair.weight, Exp)
        return few and bool(ways.serving(pair)) and self._tries(pair)

    def _made(self, pair: PairSum, out: Array, log_total: Array) -> bool:
        """Make the sum of one system in O(n); return whether there was a way, and no check has failed."""
        task = self._task(pair, out, log_total)
        choice = self._choose(task)
        good = choice is not None and self._checked.attend(task, *choice)
        self.report = task.report
        if not good:
            self.report["direct_targets"] = float(len(out))
        self._direct_targets += 0.0 if choice is None else self.report["direct_targets"]
        return good

    def _task(self, pair: PairSum, out: Array, log_total: Array, partition: Partition | None = None) -> Task:
        return Task(
            pair, min(self.tol, pair.tol), out, log_total, self.workspace.part("fast"), self._direct.attend,
            self._fastest_part, TYPICAL, partition=partition,
        )  # fmt: skip

    def _fastest_part(self, pair: PairSum, out: Array, log_total: Array) -> None:
        """Sum one part of a larger sum, of exponential weights, in the fastest way; the whole is checked."""
        task = self._task(pair.system(0), out[0], log_total[0])
        task.workspace = self.workspace.part("part")
        direct = ONE_THREAD.seconds(self._direct.estimate(task))
        choice = ways.fastest(task, ONE_THREAD, direct)
        if choice is None:
            self._direct.attend(pair, out, log_total)
            self._direct_targets += out.shape[1]
            return
        way, estimate = choice
        way.attend(task, estimate.plan)

    def _directly(self, pair: PairSum, out: Array, log_total: Array | None) -> None:
        self._direct.attend(pair, out, log_total)
        self._direct_sums += len(pair.keys)

    def count(self, sums: int) -> None:
        self._sums += sums
        self._direct_sums += sums

    def attend_together(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> bool:
        """Sum systems whose other sources and targets are in other processes, without bringing them together.

        Return False if they cannot be summed like that. The number of bytes sent depends on the grids, not on the
        number of tokens.
        """
        if isinstance(pair.weight, Linear):
            done = self._direct.attend_together(pair, partition, out, log_total)
            if done:
                self.count(len(pair.keys))
            return done
        if pair.limits is not None or not ways.serving(pair):
            return False
        for b in range(len(out)):
            check()
            logs = _NONE if log_total is None else log_total[b]
            task = self._task(pair.system(b), out[b], logs, partition)
            choice = self._choose_together(task)
            if choice is None or not self._checked.attend(task, *choice):
                return False
            self.report = task.report
        self._sums += len(pair.keys)
        return True

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        self._direct.project(x, matrix, out, origin, shift)

    def outer(self, u: Array, v: Array, partition: Partition | None = None) -> Array:
        return self._direct.outer(u, v, partition)

    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        return self._direct.centre(x, partition)

    def stats(self) -> dict[str, float]:
        """Return numbers that describe all sums so far.

        They are how many sums were direct, and how many were made in O(n); of the latter the largest error bound, the
        largest error of a checked target, how many of their targets were summed directly, how many sums were checked,
        and how many of these failed and were made again directly.
        """
        return {
            "direct_sums": self._direct_sums,
            "fast_sums": self._sums - self._direct_sums,
            "fast_error_bound": self._checked.bound,
            "fast_error_sampled": self._checked.sampled,
            "fast_direct_targets": self._direct_targets,
            "fast_checked": self._checked.checks,
            "fast_failed": self._checked.failed,
        }

    def state(self) -> Array:
        made = self._checked
        sums = [self._direct_targets, self._sums, self._direct_sums]
        return np.array([0.0, made.bound, made.sampled, *sums, made.checks, made.failed])  # the first is not used

    def restore(self, state: Array | None) -> None:
        numbers = np.zeros(8)
        if state is not None:
            numbers[: len(state)] = state  # older states end before the checks
        made = self._checked = Checked()
        _, made.bound, made.sampled, *sums, made.checks, made.failed = numbers.tolist()
        self._direct_targets, self._sums, self._direct_sums = sums
