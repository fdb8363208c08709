"""The list of the ways to sum in O(n), and the choice of the fastest.

A new way is a file with a `Summation` and its line here. `Direct`, which serves every sum, is what they are compared
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .._types import Array
from .box_tree import BoxTree
from .chebyshev_grid import ChebyshevGrid
from .costs import TYPICAL, Costs, Estimate
from .direct import Direct
from .masked_windows import MaskedWindows
from .pair_sum import FLOATS, PairSum
from .sigmoid_nodes import SigmoidNodes
from .summation import Summation, Task

WAYS: list[Summation] = [ChebyshevGrid(), MaskedWindows(), SigmoidNodes(), BoxTree()]

Choice = tuple[Summation, Estimate]


def serving(pair: PairSum) -> list[Summation]:
    """Return the ways that may make sums with this weight."""
    return [way for way in WAYS if way.serves(pair)]


def estimates(task: Task, ways: Iterable[Summation]) -> list[Choice]:
    """Return those of the ways that can make the sum, with their estimates."""
    found = [(way, way.estimate(task)) for way in ways]
    return [(way, estimate) for way, estimate in found if estimate is not None]


def best(choices: Iterable[Choice], costs: Costs, limit: float) -> Choice | None:
    """Return the fastest of the choices by `costs`; None if there is none that takes less than `limit` seconds."""
    fastest = min(choices, key=lambda choice: costs.seconds(choice[1]), default=None)
    return fastest if fastest is not None and costs.seconds(fastest[1]) < limit else None


def late(task: Task, quick: list[Choice], costs: Costs, limit: float) -> Choice | None:
    """Return the fastest of the choices `quick` and of the ways whose planning takes time.

    Return None if there is none that takes less than `limit` seconds. Slow ways are asked with the time of the best of
    the quick ones as their limit.
    """
    found = best(quick, costs, limit)
    task.costs, task.limit = costs, limit if found is None else costs.seconds(found[1])
    slow = estimates(task, [way for way in serving(task.pair) if not way.quick])
    return best(slow, costs, task.limit) or found


def fastest(task: Task, costs: Costs, limit: float) -> Choice | None:
    """Return the fastest way by `costs`; None if none is predicted to take less than `limit` seconds."""
    task.costs, task.limit = costs, limit
    quick = estimates(task, [way for way in serving(task.pair) if way.quick])
    return late(task, quick, costs, limit)


def only(way: Summation, pair: PairSum, out: Array, log_total: Array, direct: Direct, tol: float = 1e-8) -> Estimate:
    """Make a sum of one system in one way, unchecked, whatever it takes; return its estimate."""
    workspace = direct.workspace.part(way.name)
    task = Task(pair, tol, out, log_total, workspace, direct.attend, direct.attend, TYPICAL)
    found = way.estimate(task)
    if found is None:
        raise AssertionError(f"a sum that cannot be made by {way.name}")
    way.attend(task, found.plan)
    return found


def warmup(
    report: Callable[[str], None], dtypes: Sequence[Any] = FLOATS, ways: Sequence[Summation] | None = None
) -> None:
    """Compile the kernels of the ways (None: of all); `report` is called with a text for each step."""
    direct = Direct()
    for dtype in dtypes:
        for way in WAYS if ways is None else ways:
            report(f"{np.dtype(dtype).name} {way.name}")
            for pair in way.examples(dtype):
                m, c = pair.targets.shape[1], pair.width
                totals = np.empty(m if pair.masses is not None and pair.normalised else 0)
                only(way, pair, np.empty((m, c), dtype), totals, direct)
