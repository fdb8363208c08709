"""Cost estimates of sums over more tokens: a backend that sums a sample and adds up what the sums of all would cost."""

from __future__ import annotations

from .._types import Array
from ..weights import Linear, is_exponential
from .auto import direct_seconds, fast_seconds
from .box_tree import Sum
from .costs import Costs
from .fast import Fast
from .pair_sum import PairSum
from .reduction import Reduced

_LINEAR = 2e-9  # seconds per token, key column and value column of a linear sum
_SLOW_LAW = 1.4  # time of a direct sum with another weight, relative to exponential weights: a division per pair


class Probe(Fast):
    """Direct sums of a sample, with cost estimates of the same sums over `scale` times as many tokens.

    `direct` and `fast` add up the predicted seconds of direct sums, and of those by `Fast` (directly, where that cannot
    help), with as many threads as `costs` have.
    """

    def __init__(self, tol: float, costs: Costs, scale: float) -> None:
        super().__init__(tol)
        self._costs, self._scale = costs, scale
        self.direct = self.fast = 0.0
        self.make = True  # False: cost estimates only, results are zero

    def _all_directly(self, pair: PairSum, out: Array, log_total: Array | None) -> None:
        if self.make:
            super()._all_directly(pair, out, log_total)
            return
        out[:] = 0.0
        if log_total is not None:
            log_total[:] = 0.0

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        self._found: float | None = None
        super().attend(pair, out, log_total)
        systems, n, k = pair.keys.shape
        if isinstance(pair.weight, Linear):
            tokens = systems * self._scale * (n + pair.targets.shape[1])
            direct = tokens * k * pair.values.shape[2] * _LINEAR / self._costs.speed
        else:
            direct = systems * self._scale**2 * direct_seconds(self._costs, pair, None)
            direct *= 1.0 if is_exponential(pair.weight) else _SLOW_LAW
        self.direct += direct
        self.fast += direct if self._found is None else self._found

    def _pays(self, job: Sum, pair: PairSum, reduced: Reduced) -> bool:
        found = fast_seconds(self._costs, job, pair, reduced, self._scale)
        self._found = found + (self._found or 0.0)
        return False
