"""Sums of exponential and sigmoid weights in O(n), to a stated tolerance, where few coordinates carry the scores."""

from __future__ import annotations

import numpy as np

from .._types import Array
from . import ways
from .choosing import ONE_THREAD, Choosing
from .pair_sum import PairSum
from .summation import Task

_TIMES, _MORE = 2.0, 1.5e-3  # a sum in O(n) may take so many times as long as a direct one, and seconds more


class Fast(Choosing):
    """Sums in O(n) to a relative error below `tol`, of totals, and of means relative to the spread of the values.

    They are for exponential weights (softmax, L2, exponential, Sinkhorn attention) whose scores depend on at most four
    coordinates, after a balanced reduction, however many the tokens have; other sums are direct, and exact. Where a
    grid would be slower than a direct sum, or could not keep the tolerance, sources and targets are split, far sources
    are dropped, and what is left is summed directly.

    Sigmoid weights are bounded. The errors of their sums are absolute, in units of the largest |value| times the mean
    weight of a pair, which is estimated from a sample; bound, check and `tol` refer to this unit, too. Their scores may
    depend on three coordinates at most, and O(n) pays for small scores only. Their masked sums are direct.

    Every sum has an a-priori bound of its error. It is also checked against direct sums for 48 targets, and some in
    each of the largest parts that were summed apart. A single sum is always checked; a sum that a run repeats is
    checked the first time and every 16th time, for each head and system, and after a failure every time until four
    checks in a row have passed. If a check fails, all targets are summed again directly. `report` describes the last
    sum in O(n), `stats` all sums: how many there were, and how many of them were direct. Sums are in float64; nothing
    depends on the number of threads.
    """

    def __init__(self, tol: float = 1e-8) -> None:
        """Make a backend of tolerance `tol`.

        Raises InputError, InputTypeError: unless tol is a number from 1e-14 to 0.1.
        """
        super().__init__(tol)

    def restore(self, state: Array | None) -> None:
        if state is not None and len(state) == 6:  # an older one, which did not count sums
            state = np.concatenate([state[:4], [0.0, 0.0], state[4:]])
        super().restore(state)

    def _tries(self, pair: PairSum) -> bool:
        return True

    def _choose(self, task: Task) -> ways.Choice | None:
        _ = task.reduced  # by which a direct sum is predicted
        direct = ONE_THREAD.seconds(self._direct.estimate(task))
        return ways.fastest(task, ONE_THREAD, _TIMES * direct + _MORE)

    def _choose_together(self, task: Task) -> ways.Choice | None:
        return self._choose(task)
