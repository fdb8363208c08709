"""The choice between direct sums and sums in O(n), made for each sum by the measured costs of this machine."""

from __future__ import annotations

from . import calibration, ways
from .choosing import ONE_THREAD, Choosing
from .costs import TYPICAL, Costs
from .pair_sum import PairSum
from .summation import Task

# If predictions for a typical machine with many threads differ by more than this factor, all machines choose alike.
_CLEAR, _MANY = 6.0, Costs(threads=64.0)


class Auto(Choosing):
    """Direct sums, or sums in O(n) to a relative error below `tol` as in `Fast`, whichever is predicted to be faster.

    The choice is made for each system and head by its size, the coordinates that carry its scores, and their range.
    Small sums are direct without an inspection of their data. The costs that decide are measured once for a machine,
    when a choice first depends on them, and kept beside the compiled kernels; with the `costs` that a run has recorded,
    choices and bits are the same on another machine. Costs assume as many threads as the machine had processors when
    they were measured, however many are used.

    `stats` tells how many sums were direct and how many fast; if any were fast, also how good they were.
    """

    def __init__(self, tol: float = 1e-8, costs: Costs | dict[str, float] | None = None) -> None:
        """Make a backend of tolerance `tol` that chooses by `costs`, as a run records them.

        costs: a table or `Costs`; None: those of this machine. Raises InputError, InputTypeError: unless tol is a
        number from 1e-14 to 0.1, and costs such a table.
        """
        super().__init__(tol)
        self._costs = None if costs is None else Costs.of(costs)

    @property
    def costs(self) -> Costs:
        """The costs by which the backend chooses. The first call on a machine measures them, in a second or two."""
        if self._costs is None:
            self._costs = calibration.costs()
        return self._costs

    @property
    def fusable(self) -> bool:
        return type(self) is Auto  # others may have an `attend` of their own

    def stats(self) -> dict[str, float]:
        """Return how many sums were direct and how many fast, and of the latter what `Fast` tells."""
        stats = super().stats()
        made = stats["fast_sums"] or stats["fast_failed"]
        return stats if made else {name: stats[name] for name in ("direct_sums", "fast_sums")}

    def _tries(self, pair: PairSum) -> bool:
        if not _worth_planning(TYPICAL, pair):
            return False
        return _worth_planning(_MANY, pair) or _worth_planning(self.costs, pair)

    def _choose(self, task: Task) -> ways.Choice | None:
        _ = task.reduced  # by which a direct sum is predicted
        direct = self._direct.estimate(task)
        quick = ways.estimates(task, [way for way in ways.serving(task.pair) if way.quick])
        if _worth_planning(_MANY, task.pair) and ways.best(quick, _MANY, _MANY.seconds(direct) / _CLEAR):
            return ways.late(task, quick, TYPICAL, TYPICAL.seconds(direct))
        return ways.late(task, quick, self.costs, self.costs.seconds(direct))

    def _choose_together(self, task: Task) -> ways.Choice | None:
        # The same for all processes, whatever machines they are on.
        pair = task.pair
        if not TYPICAL.worth_planning(task.sources * task.targets, pair.columns, pair.keys.dtype):
            return None
        return ways.fastest(task, ONE_THREAD, ONE_THREAD.seconds(self._direct.estimate(task)))


def _worth_planning(costs: Costs, pair: PairSum) -> bool:
    return costs.worth_planning(pair.pairs, pair.columns, pair.keys.dtype)
