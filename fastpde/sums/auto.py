"""The choice between direct sums and sums in O(n), made for each sum by the measured costs of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._types import Array
from ..parallel.partition import Partition
from ..weights import Exp
from . import calibration, masked_windows, planning
from .box_tree import Sum
from .costs import TYPICAL, Costs
from .fast import Fast
from .pair_sum import FLOATS, PairSum
from .reduction import Reduced

# If predictions for a typical machine with many threads differ by more than this factor, all machines choose alike.
_CLEAR, _MANY = 6.0, Costs(threads=64.0)
_WORTH_A_TREE, _WORTH_A_MASK = 7e-3, 10e-3  # seconds of a direct sum from which planning a tree, or windows, pays
_WORTH_HALVES = 4.0  # the same for masked sums that are halved, without a grid
_JUDGED = 1024  # targets from whose scores the time of a direct sum is predicted
_WARM = 6000  # points, enough for every kind of sum


class Auto(Fast):
    """Direct sums, or sums in O(n) to a relative error below `tol` as in `Fast`, whichever is predicted to be faster.

    The choice is made for each system and head by its size, the coordinates that carry its scores, and their range.
    Small sums are direct without an inspection of their data. The costs that decide are measured once for a machine,
    when a choice first depends on them, and kept beside the compiled kernels; with the `costs` that a run has recorded,
    choices and bits are the same on another machine. Costs assume as many threads as the machine had processors when
    they were measured, however many are used.

    `stats` tells how many sums were direct and how many fast; if any were fast, also what `Fast` tells.
    """

    def __init__(self, tol: float = 1e-8, costs: Costs | dict[str, float] | None = None) -> None:
        """Make a backend of tolerance `tol` that chooses by `costs`, as a run records them.

        costs: a table or `Costs`; None: those of this machine. Raises InputError, InputTypeError: unless tol is a
        number from 1e-14 to 0.1, and costs such a table.
        """
        super().__init__(tol)
        self._costs = None if costs is None else Costs.of(costs)
        self._stats |= {"sums": 0.0, "direct_sums": 0.0}

    @property
    def costs(self) -> Costs:
        """The costs by which the backend chooses. The first call on a machine measures them, in a second or two."""
        if self._costs is None:
            self._costs = calibration.costs()
        return self._costs

    @property
    def fusable(self) -> bool:
        return True

    def stats(self) -> dict[str, float]:
        """Return how many sums were direct and how many fast, and of the latter what `Fast` tells."""
        stats = super().stats()
        direct = stats.pop("direct_sums")
        fast = stats.pop("sums") - direct
        return {"direct_sums": direct, "fast_sums": fast} | (stats if fast else {})

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        self._stats["sums"] += len(pair.keys)
        super().attend(pair, out, log_total)

    def attend_together(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> bool:
        done = super().attend_together(pair, partition, out, log_total)
        self._stats["sums"] += len(pair.keys) if done else 0
        return done

    def _worth_it(self, pair: PairSum, pairs: float) -> bool:
        # The same for all processes, whatever machines they are on.
        return TYPICAL.worth_a_look(pairs, _columns(pair), pair.keys.dtype)

    def _all_directly(self, pair: PairSum, out: Array, log_total: Array | None) -> None:
        self._direct.attend(pair, out, log_total)
        self._stats["direct_sums"] += len(pair.keys)

    def _suits(self, pair: PairSum) -> bool:
        if not (super()._suits(pair) and _worth_a_look(TYPICAL, pair)):
            return False
        return _worth_a_look(_MANY, pair) or _worth_a_look(self.costs, pair)

    def _pays(self, job: Sum, pair: PairSum, reduced: Reduced) -> bool:
        if len(job.y) == 0:
            return True
        if pair.limits is not None and direct_seconds(TYPICAL, pair, reduced) < _WORTH_A_MASK:
            return False
        planned = _planned(job, pair, reduced)
        large = _worth_a_look(_MANY, pair)
        if large and _seconds(_MANY, pair, planned) * _CLEAR < direct_seconds(_MANY, pair, reduced):
            return True
        direct, grid = direct_seconds(self.costs, pair, reduced), _seconds(self.costs, pair, planned)
        if grid < direct:
            return True
        if pair.limits is None and direct > _WORTH_A_TREE:
            job.within = self.costs.trees_within(direct)
            return True
        return pair.limits is not None and direct > _WORTH_HALVES


def fast_seconds(costs: Costs, job: Sum, pair: PairSum, reduced: Reduced, scale: float = 1.0) -> float:
    """Predict the seconds of a sum of one system in O(n), by a grid or the tree.

    The prediction is for `scale` times as many sources and targets in the same boxes.
    """
    if len(job.y) == 0:
        return 0.0
    grid = _seconds(costs, pair, _planned(job, pair, reduced, scale))
    if pair.limits is not None or grid < _WORTH_A_TREE:
        return grid
    least = min(grid, direct_seconds(costs, pair, None))
    tree = scale * job.tree_seconds(job.box(reduced.y_ends, reduced.z_ends), least)
    return min(grid, costs.tree(tree))


def direct_seconds(costs: Costs, pair: PairSum, reduced: Reduced | None) -> float:
    """Predict the seconds of a direct sum of one system; `reduced` tells how large scores are, None: small."""
    scores = None
    if reduced is not None:
        # Reduced coordinates are not those of the direct sum, whose keys may be longer: an estimate.
        some = reduced.z[:, :: -(-reduced.z.shape[1] // _JUDGED)]
        scores = np.sqrt(np.square(some).sum(axis=0)) * float(np.linalg.norm(np.ptp(reduced.y_ends, axis=0) / 2))
    return costs.pairs(_pairs(pair), _columns(pair), pair.keys.dtype, scores)


def _planned(job: Sum, pair: PairSum, reduced: Reduced, scale: float = 1.0) -> tuple[float, float]:
    """Return the planned seconds of one grid on one thread, and the part of them that more threads do not make shorter.

    A masked sum is made in windows. The seconds are inf where one grid cannot be used.
    """
    box = job.box(reduced.y_ends, reduced.z_ends)
    if pair.limits is not None:
        return scale * masked_windows.expected_seconds(job, box), 0.0
    n, m = (int(scale * points.shape[1]) for points in (job.y, job.z))
    plan = planning.plan(box.loads, n, m, job.tol, 1 + len(job.channels))
    return (math.inf, 0.0) if plan is None else (plan.seconds, plan.serial)


def _seconds(costs: Costs, pair: PairSum, planned: tuple[float, float]) -> float:
    return costs.grid(*planned) if pair.limits is None else costs.masked(planned[0])


def _worth_a_look(costs: Costs, pair: PairSum) -> bool:
    return costs.worth_a_look(_pairs(pair), _columns(pair), pair.keys.dtype)


def _pairs(pair: PairSum) -> int:
    """Return the number of pairs of a target and a source that it sees, in one system."""
    m, n = pair.targets.shape[1], pair.keys.shape[1]
    return m * n if pair.limits is None else int(np.atleast_2d(pair.limits)[0].sum())


def _columns(pair: PairSum) -> int:
    return pair.keys.shape[2] + pair.values.shape[2]


def warmup(
    report: Callable[[str], None], dtypes: Sequence[Any] = FLOATS, kinds: Sequence[str] = ("grids", "trees", "masks")
) -> None:
    """Compile the kernels of sums in O(n); `report` is called with a text for each step."""
    sizes = {"grids": 2.0, "trees": 40.0, "masks": 2.0}
    for dtype in dtypes:
        x = np.random.default_rng(0).uniform(-1.0, 1.0, (1, _WARM, 2)).astype(dtype)
        weights, out, logs = np.full((1, _WARM), 1.0 / _WARM), np.empty_like(x), np.empty((1, _WARM))
        for kind in kinds:
            report(f"{np.dtype(dtype).name} {kind}")
            y = np.multiply(sizes[kind], x, dtype=dtype)
            limits = np.arange(1, _WARM + 1) if kind == "masks" else None
            for values, each in ((y, None), (x[:, :, ::-1].copy(), weights)):
                pair = PairSum(Exp(), True, y, y, values, masses=each, limits=limits)
                Fast().attend(pair, out, None if each is None else logs)


def typical_choices(costs: Costs) -> dict[str, str]:
    """Return, as a table for people, the choices predicted for softmax sums over Gaussian clouds of a few sizes."""
    found = {}
    for d in (1, 2, 3):
        for n in (1000, 10_000, 1_000_000):
            some = min(n, _WARM)
            x = np.random.default_rng(d).standard_normal((1, some, d))
            look = _Look(costs, n / some)
            look.attend(PairSum(Exp(), True, x, x, x), np.empty_like(x))
            fast, direct = look.prices
            kind = "fast" if fast < direct and costs.worth_a_look(float(n) * n, 2 * d, x.dtype) else "direct"
            other = f"fast {fast:.2g} s" if fast < math.inf else "no sum in O(n) keeps the tolerance"
            found[f"n = {n}, d = {d}"] = f"{kind}: direct {direct:.2g} s, {other}"
    return found


class _Look(Fast):
    """A backend that predicts the seconds of a sum over `scale` times as many tokens, in O(n) and directly.

    The sum over the tokens that are given is made, directly.
    """

    def __init__(self, costs: Costs, scale: float) -> None:
        super().__init__()
        self._by, self._scale, self.prices = costs, scale, (math.inf, math.inf)

    def _pays(self, job: Sum, pair: PairSum, reduced: Reduced) -> bool:
        direct = self._scale**2 * direct_seconds(self._by, pair, reduced)
        self.prices = fast_seconds(self._by, job, pair, reduced, self._scale), direct
        return False
