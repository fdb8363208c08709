"""The memory of the stages of a step: all of them, or, where each is made of the one before it alone, their sum.

A stepper asks a holder of stages, in this order, for

    missing(state)            the numbers s of the stages that are still to be evaluated,
    argument(state, s, ...)   the argument of stage s, written into an array,
    slot(s)                   where the field writes stage s,
    note(state, s)            to note that stage s is known from here on,
    result(state, ...)        y1, written into an array.

`first` is the array of f at the beginning of a step, `last` that of f at its end, with which the next step begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.integrate.dense import Chord, Piece, Summed
from fastpde.integrate.tableau import Tableau

if TYPE_CHECKING:
    from fastpde.integrate.state import State

NONE = np.empty(0)


def holder(tableau: Tableau, space: Any, like: np.ndarray, *, noisy: bool, whole: bool, dense: bool) -> Any:
    """Return the holder of stages for states `like` this one.

    noisy: whether a step has a random increment. whole: whether the last stage may be wanted beside the first of the
    next step. dense: whether the continuous extension over a step may be wanted.
    """
    if tableau.by_sum is None or noisy or whole or not hasattr(space, "gather"):
        return AllStages(tableau, space, like, noisy, whole or dense)
    return SummedStages(tableau, space, like, dense)


class AllStages:
    """Every stage in an array of its own: S arrays of the size of a state, with noise one more.

    Without an extension a method of fixed step needs no array for the last stage: it is the first of the next step.

    Attributes:
        rows: the stages, and as the last row N / h of a step with noise.
        first, last, noise: the arrays of f at the beginning and at the end, and of N / h.
    """

    def __init__(self, tableau: Tableau, space: Any, like: np.ndarray, noisy: bool, dense: bool) -> None:
        self.tableau, self.space, self._noisy = tableau, space, noisy
        count = tableau.stages if dense or tableau.adaptive else tableau.stages - 1
        # N / h is kept as one more stage, whose coefficient in each row is the row's node.
        self._a, self._b = [tuple(row[:count]) for row in tableau.a], tuple(tableau.b[:count])
        if noisy:
            self._a = [(*row, node) for row, node in zip(self._a, tableau.c, strict=True)]
            self._b = (*self._b, 1.0)
        # nan: entries the field forgets to write must not pass for velocities.
        self.rows = np.full((len(self._b), *like.shape), np.nan, like.dtype)
        self.first, self.noise = self.rows[0, ...], self.rows[-1, ...]
        self.last = self.rows[count - 1, ...] if count == tableau.stages else self.first

    def begin(self, state: State, given: State, trial: np.ndarray) -> None:
        """Take f and the stages over that are known in the state `given`; `state` refers to them from now on."""
        np.copyto(self.first, given.f)
        state.f, state.stages = self.first, self.rows[1 : 1 + len(given.stages)]
        if len(given.stages):
            state.stages[...] = given.stages
        state.forget_sum()

    def missing(self, state: State) -> range:
        return range(1 + len(state.stages), self.tableau.stages - 1)

    def argument(self, state: State, s: int, h: float, out: np.ndarray) -> None:
        self.space.combine(state.y, h, self._a[s], self.rows, out)

    def slot(self, s: int) -> np.ndarray:
        return self.rows[s, ...]

    def note(self, state: State, s: int) -> None:
        state.stages = self.rows[1 : s + 1]

    def result(self, state: State, h: float, out: np.ndarray) -> None:
        self.space.combine(state.y, h, self._b, self.rows, out)

    def piece(self, t0: Any, h: Any, y0: np.ndarray, which: Sequence[int] | None = None) -> Piece:
        """Return the continuous extension over the step of size h from y0 at t0, of a batch for the systems `which`."""
        extension = Chord(self._b) if self._noisy else self.tableau
        rows = self.rows if which is None else self.rows[:, which]
        return Piece(extension, self.space, t0, h, y0, rows)

    def known(self, closed: bool) -> dict[str, Any]:
        """Return the part of a `State` by which the last step is made again; closed: its last stage is known, too."""
        return {"f": self.first, "stages": self.rows[1 : self.tableau.stages - (not closed)]}


class SummedStages:
    """The sum h sum_s b_s k_s and the last known stage, for a method each of whose stages needs the one before alone.

    It is summed in the order of s: a step has the bits of one with all stages. With an extension f at the beginning is
    kept, too: two or three arrays of the size of a state, however many stages there are.

    Attributes:
        rows: f at the beginning, the sum and the last known stage; without extension only the last two.
        first, last: the arrays of f at the beginning and at the end.
    """

    def __init__(self, tableau: Tableau, space: Any, like: np.ndarray, dense: bool) -> None:
        self.tableau, self.space, self._dense = tableau, space, dense
        self.rows = np.full((3 if dense else 2, *like.shape), np.nan, like.dtype)
        self.last = self.rows[-1, ...]
        self.first = self.rows[0, ...] if dense else self.last
        self._total = self.rows[-2, ...]

    def begin(self, state: State, given: State, trial: np.ndarray) -> None:
        """Take f, the sum and the stages over that are known in the state `given`.

        A sum without f, which an extension needs, is not taken over: then the step begins again.
        """
        np.copyto(self.first, given.f)
        state.f, state.stages = self.first, given.stages.copy()
        state.forget_sum()
        if given.summed and (given.clock.fresh or not self._dense):
            np.copyto(self._total, given.total)
            if given.summed < self.tableau.stages - 1:
                np.copyto(trial, given.argument)
            state.summed, state.argument, state.total = given.summed, trial, self._total

    def missing(self, state: State) -> range:
        return range(state.summed or 1 + len(state.stages), self.tableau.stages - 1)

    def argument(self, state: State, s: int, h: float, out: np.ndarray) -> None:
        if state.summed == s:  # it was made before an exception
            return
        self.space.combine(state.y, h, self.tableau.a[s][s - 1 : s], self._stage(state, s - 1)[None], out)
        self._add(state, s, h)
        state.argument, state.total = out, self._total
        for clock in state.clocks:
            clock.fresh = clock.fresh and self._dense

    def slot(self, s: int) -> np.ndarray:
        return self.last

    def note(self, state: State, s: int) -> None:
        """Do nothing: the sum knows."""

    def result(self, state: State, h: float, out: np.ndarray) -> None:
        self._add(state, self.tableau.stages - 1, h)
        self.space.combine(state.y, 1.0, (1.0,), self._total[None], out)

    def piece(self, t0: Any, h: Any, y0: np.ndarray, which: Sequence[int] | None = None) -> Piece:
        """Return the continuous extension over the step of size h from y0 at t0, of a batch for the systems `which`."""
        rows = self.rows if which is None else self.rows[:, which]
        return Piece(Summed(self.tableau, h), self.space, t0, h, y0, rows, 1.0)

    def known(self, closed: bool) -> dict[str, Any]:
        """Return the part of a `State` by which the last step is made again."""
        count = self.tableau.stages - 1
        return {"f": self.first, "stages": NONE, "summed": count, "argument": NONE, "total": self._total}

    def _stage(self, state: State, s: int) -> np.ndarray:
        """Return stage s: the first, one that came with the state, or the last that has been evaluated."""
        if s == 0:
            return self.first
        return state.stages[s - 1, ...] if s <= len(state.stages) else self.last

    def _add(self, state: State, count: int, h: float) -> None:
        """Add stages to the sum until it has `count` of them."""
        begun, state.summed = state.summed, 0  # an exception in between begins the step again
        for s in range(begun, count):
            self.space.gather(self._total, h * self.tableau.b[s], self._stage(state, s), s == 0)
        state.summed = count
