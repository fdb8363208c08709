"""Gaussian laws in one compiled call: the mean and the columns of a factor move like the tokens of a small system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._types import Array
from ..kernels import closure, tail
from ..kernels.motion import RECORDED, SIZE, STATUS, T
from ..step_rules import COMPLETED, MAX_STEPS, RUNNING
from .affine import LINEAR, PLAN, STEPS, TILT, AffineHeads
from .small_systems import Batch, Runs

__all__ = ["COMPLETED", "MAX_STEPS", "RUNNING", "STOPPED", "Gaussians", "Tails"]

STOPPED = -1  # a status of `Runs.counts`: ended by the caller
_KINDS = {TILT: closure.TILT, LINEAR: closure.LINEAR, PLAN: closure.PLAN, STEPS: closure.STEPS}


class Gaussians(Batch):
    """B Gaussian laws that are integrated together.

    Args:
        heads: the field.
        states: (B, 1 + d, d), the mean and the columns of a factor L (d, d) of the covariance L L^T. Columns that are
            zero in all laws come last: they stay zero and are left out of the work, which changes no bit of the others.
    """

    def __init__(self, heads: AffineHeads, states: Array) -> None:
        d = states.shape[2]
        rank = max(1, int(np.max(np.flatnonzero(states[:, 1:].any(axis=(0, 2))) + 1, initial=0)))
        super().__init__(states, closure.shape_for(d, rank, len(heads.kinds)))
        self._weight, self._forms = None, _forms(heads)

    def _memory(self) -> closure.Workspace:
        return closure.allocate(self._threads, self._shape, self._workspace)

    def tokens(self, rows: Array) -> Array:
        """Return rows as states (B, 1 + d, d), zero columns included."""
        states = np.zeros((len(rows), *self._tokens.shape[1:]))
        states[:, : self._shape.n] = super().tokens(rows)
        return states

    def recorded(self, runs: Runs) -> Array:
        """Return the states at the requested times, (m, B, 1 + d, d); nan where a law ended before."""
        states = runs.x.copy()
        states[:, :, self._shape.n :] = np.where(np.isnan(states[:, :, :1, :1]), np.nan, 0.0)
        return states

    def times(self, runs: Runs) -> Array:
        """Return the time (B,) that each law has reached."""
        return runs.numbers[:, T].copy()

    def last_steps(self, runs: Runs) -> Array:
        """Return the size (B,) of the last accepted step of each law; 0 before the first."""
        return runs.numbers[:, SIZE].copy()

    def stop(self, runs: Runs, which: Array) -> None:
        """End those laws of the mask `which` (B,) that are running, where they are."""
        runs.counts[which & (runs.counts[:, STATUS] == RUNNING), STATUS] = STOPPED


class Tails(Batch):
    """B Gaussian laws on the way to their limits, in the coordinates of `kernels.tail`.

    Args:
        heads: the field.
        states: (B, 1 + r, d + 1), the columns of a matrix: [mean, L] (d, 1 + r) above the row [size, log(1 + t / unit),
            0, ...].
        units: (B,) the units of time.
    """

    def __init__(self, heads: AffineHeads, states: Array, units: Array) -> None:
        _, n, length = states.shape
        super().__init__(states, tail.shape_for(length - 1, n - 1, len(heads.kinds)))
        self._weight, self._forms = None, tail.Tail(_forms(heads), units)

    def _memory(self) -> tail.Workspace:
        return tail.allocate(self._threads, self._shape, self._workspace)

    def extend(self, runs: Runs, which: Array, times: Array, max_steps: int) -> Runs:
        """Return runs in which the laws `which` (k,) continue to the last of `times`, if they had completed their span.

        They are recorded at `times`, and end after `max_steps` attempted steps in all.
        """
        method, control, watched, _ = self._options
        self._options = method, control._replace(end=times[-1], max_steps=max_steps), watched, times
        runs.counts[which[runs.counts[which, STATUS] == COMPLETED], STATUS] = RUNNING
        runs.counts[:, RECORDED] = 0
        return runs._replace(x=np.full((len(times), *self._tokens.shape), np.nan))

    def clock(self, runs: Runs, b: int) -> float:
        """Return the time that law b has reached, in its own clock."""
        return float(runs.numbers[b, T])

    def velocity(self, b: int) -> Callable[[float, Array], Array]:
        """Return the function f(tau, row) that gives the velocity of law b as a new array."""
        work = self._work()

        def slope(tau: float, row: Array) -> Array:
            out = np.empty_like(row)
            tail.flat_velocity(self._forms, b, row, work, out)
            return out

        return slope

    def look(self, which: Array, states: Array) -> Array:
        """Return rates and sizes (m, k, 3 + r) of the laws `which` (k,) at states (m, k, 1 + r, d + 1).

        With the covariance S and Y = [mean, L] they are: the growth of log |Y|, |S'| / |S|, |M| on the range of S, and
        the r singular values of L / |Y|; see `kernels.tail`.
        """
        seen = np.empty((*states.shape[:2], tail.SPECTRUM + states.shape[2] - 1))
        rows = np.ascontiguousarray(states.swapaxes(2, 3)).reshape(*states.shape[:2], -1)
        tail.look(self._forms, which, rows, self._work(), seen)
        return seen

    def _work(self) -> tail.Workspace:
        """Return the workspace of the first thread."""
        law, *others = self._scratch
        return tail.Workspace(closure.Workspace(*(array[0] for array in law)), *(array[0] for array in others))


def _forms(heads: AffineHeads) -> closure.Closure:
    """Return the parameters in the layout that the kernel reads."""
    D = np.zeros((1, 1, 1, 1)) if heads.D is None else heads.D
    shape = np.broadcast_shapes(heads.A.shape, heads.V.shape, D.shape)
    A, V, D = (np.ascontiguousarray(np.broadcast_to(matrix, shape)) for matrix in (heads.A, heads.V, D))
    curved = np.any(D != 0.0, axis=(0, 2, 3))
    counts = [count or int(bent) for count, bent in zip(heads.counts, curved, strict=True)]
    return closure.Closure(np.array([_KINDS[kind] for kind in heads.kinds]), np.array(counts), A, D, V)
