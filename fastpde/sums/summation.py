"""The contract of the ways to sum: `Summation` makes a `Task`, the sum of one system, if its `Estimate` is the best."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .._types import Array
from ..parallel.partition import Partition
from ..weights import Exp
from .costs import Costs, Estimate
from .pair_sum import PairSum
from .reduced_sum import ReducedSum, reduced_sum
from .workspace import Workspace

_EXAMPLE = 6000  # points, enough for every kind of sum

# A function that writes the sums of a pair sum into `out` and the logs of its totals into `log_total`.
Attend = Callable[[PairSum, Array, Array], None]


@dataclass
class Task:
    """The sum of one system, and what the ways to make it need.

    Attributes:
        pair: the sum, of one system.
        tol: the error that it may have.
        out: (m, c), where the sums are written.
        log_total: (m,) or (0,), where the logs of the total weights are written.
        workspace: memory that is reused.
        direct: makes a sum, of several systems too, directly.
        fastest: makes a sum of one system in the fastest way.
        costs: the machine for which ways are compared.
        limit: seconds of the best way so far, by `costs`: one that takes longer need not be planned.
        partition: which of all tokens these are, if other processes have more.
        scale: ways are compared for so many times as many sources and targets; only 1 can be made.
        report: what has been done, see `Choosing.report`.
        parts: the targets, as index arrays, of parts that were summed apart and should be checked apart.
    """

    pair: PairSum
    tol: float
    out: Array
    log_total: Array
    workspace: Workspace
    direct: Attend
    fastest: Attend
    costs: Costs
    limit: float = math.inf
    partition: Partition | None = None
    scale: float = 1.0
    report: dict[str, float] = field(default_factory=lambda: {"grids": 0.0, "direct_targets": 0.0, "error_bound": 0.0})
    parts: list[Array] = field(default_factory=list)

    @property
    def sources(self) -> float:
        """The number of all sources for which ways are compared."""
        return self.scale * (self.pair.keys.shape[1] if self.partition is None else self.partition.n)

    @cached_property
    def targets(self) -> float:
        """The number of all targets for which ways are compared."""
        here = self.pair.targets.shape[1]
        return self.scale * (here if self.partition is None else int(self.partition.added(np.array([here]))[0]))

    @cached_property
    def reduced(self) -> ReducedSum | None:
        """The same sum in the fewest coordinates, for exponential weights; None where that is not possible."""
        if not isinstance(self.pair.weight, Exp):
            return None
        return reduced_sum(self.pair, self.tol, self.out, self.log_total, self.workspace, self.partition)

    def exact(
        self, z: Array, y: Array, values: Array, bias: Array | None = None, limits: Array | None = None
    ) -> tuple[Array, Array]:
        """Sum exponential weights over all pairs, and divide by the total weights.

        Targets are (B, q, r), sources (B, p, r) with values (B, p, c) and bias (B, p) or None; a target sees the first
        `limits` (B, q) sources, None: all. Return means (B, q, c) and logs of total weights (B, q), for masses of 1.
        """
        z, y, values = (np.ascontiguousarray(array) for array in (z, y, values))
        out, logs = np.empty((*z.shape[:2], values.shape[2])), np.empty(z.shape[:2])
        self.direct(PairSum(Exp(), True, z, y, values, bias, limits=limits), out, logs)
        logs += math.log(y.shape[1])
        return out, logs


class Summation(ABC):
    """A way to make the sum of one system; a stateless object in the list of `ways`.

    Attributes:
        name: what reports call it.
        weights: the classes of weights that it is for.
        quick: whether an estimate takes little time. Ways that are not are asked last, and may refuse by `Task.limit`.
    """

    name: ClassVar[str]
    weights: ClassVar[tuple[type, ...]] = (Exp,)
    quick: ClassVar[bool] = True

    @abstractmethod
    def estimate(self, task: Task) -> Estimate | None:
        """Predict what the sum would take this way; None where it cannot be made so, or not within the tolerance.

        A way that is not made for tokens of several processes returns None if `task.partition` is not None: the sources
        are then brought together first.
        """

    @abstractmethod
    def attend(self, task: Task, plan: Any) -> None:
        """Make the sum as the `Estimate` with this plan has said; write `task.out`, `log_total` and `report`."""

    def examples(self, dtype: Any) -> Iterator[PairSum]:
        """Yield sums whose making compiles all that this way needs, for tokens of a dtype."""
        yield from examples(dtype)

    def serves(self, pair: PairSum) -> bool:
        """Return whether sums with this weight may be made this way."""
        return isinstance(pair.weight, self.weights)


def examples(dtype: Any, size: float = 1.0, *, masked: bool = False) -> Iterator[PairSum]:
    """Yield sums of exponential weights over points of the square [-size, size]^2: of the keys, and of other values."""
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (1, _EXAMPLE, 2)).astype(dtype)
    y, masses = np.multiply(size, x, dtype=dtype), np.full((1, _EXAMPLE), 1.0 / _EXAMPLE)
    limits = np.arange(1, _EXAMPLE + 1) if masked else None
    yield PairSum(Exp(), True, y, y, limits=limits)
    yield PairSum(Exp(), True, y, y, x[:, :, ::-1].copy(), masses=masses, limits=limits)
