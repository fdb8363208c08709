"""Predicted seconds of sums over more tokens than there are, and the choices of "auto" for clouds of typical sizes."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..parallel.partition import Partition
from ..weights import Exp
from . import ways
from .backend import Backend
from .choosing import ONE_THREAD
from .costs import Costs
from .direct import Direct
from .pair_sum import PairSum
from .summation import Task

_SOME = 6000  # points of a cloud by which larger ones are predicted
_NONE = np.empty(0)


class Probe(Backend):
    """Direct sums of a sample, with predictions of the same sums over `scale` times as many tokens.

    `direct` and `fast` add up the seconds of direct sums, and of those by the ways in O(n) (directly, where they
    cannot help), with as many threads as `costs` have. `sums` and `direct_sums` count the sums, and those that no way
    helps.
    """

    def __init__(self, tol: float, costs: Costs, scale: float) -> None:
        super().__init__()
        self._tol, self._costs, self._scale, self._exact = tol, costs, scale, Direct()
        self.direct = self.fast = 0.0
        self.sums = self.direct_sums = 0
        self.make = True  # False: predictions only, results are zero

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        for b in range(len(pair.keys)):
            direct, choice = self.predicted(pair.system(b), out[b], _NONE if log_total is None else log_total[b])
            self.direct += direct
            self.fast += direct if choice is None else self._costs.seconds(choice[1])
            self.sums += 1
            self.direct_sums += choice is None
        if self.make:
            self._exact.attend(pair, out, log_total)
            return
        out[:] = 0.0
        if log_total is not None:
            log_total[:] = 0.0

    def predicted(self, pair: PairSum, out: Array, log_total: Array) -> tuple[float, ways.Choice | None]:
        """Return the seconds of a direct sum of one system, and the fastest way in O(n), if there is one."""

        def unused(part: PairSum, out: Array, log_total: Array) -> None:
            raise AssertionError("nothing is made")

        workspace, tol = self.workspace.part("probe"), min(self._tol, pair.tol)
        task = Task(pair, tol, out, log_total, workspace, unused, unused, self._costs, scale=self._scale)
        _ = task.reduced
        estimate = self._exact.estimate(task)
        return self._costs.seconds(estimate), ways.fastest(task, self._costs, 2.0 * ONE_THREAD.seconds(estimate))

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        self._exact.project(x, matrix, out, origin, shift)

    def outer(self, u: Array, v: Array, partition: Partition | None = None) -> Array:
        return self._exact.outer(u, v, partition)

    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        return self._exact.centre(x, partition)


def typical_choices(costs: Costs, tol: float) -> dict[str, str]:
    """Return, as a table for people, the choices predicted for softmax sums over Gaussian clouds of a few sizes."""
    found = {}
    for d in (1, 2, 3):
        for n in (1000, 10_000, 1_000_000):
            some = min(n, _SOME)
            x = np.random.default_rng(d).standard_normal((1, some, d))
            probe = Probe(tol, costs, n / some)
            direct, choice = probe.predicted(PairSum(Exp(), True, x, x), np.empty_like(x[0]), _NONE)
            fast = np.inf if choice is None else costs.seconds(choice[1])
            small = not costs.worth_planning(float(n) * n, 2 * d, x.dtype)
            kind = "direct" if choice is None or small or fast > direct else choice[0].name
            other = "no sum in O(n) keeps the tolerance" if choice is None else f"{choice[0].name} {fast:.2g} s"
            found[f"n = {n}, d = {d}"] = f"{kind} is chosen; direct {direct:.2g} s, {other}"
    return found
