"""Gaussian laws in one compiled call: the mean and the columns of a factor move like the tokens of a small system."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..kernels import closure
from ..kernels.motion import RUNNING, SIZE, STATUS, T
from .affine import LINEAR, PLAN, STEPS, TILT, AffineHeads
from .systems import Runs, Threaded

__all__ = ["RUNNING", "STOPPED", "Gaussians"]

STOPPED = -1  # a status of `Runs.counts`: ended from outside
_KINDS = {TILT: closure.TILT, LINEAR: closure.LINEAR, PLAN: closure.PLAN, STEPS: closure.STEPS}


class Gaussians(Threaded):
    """B Gaussian laws in motion.

    Args:
        heads: the field.
        states: (B, 1 + d, d), the mean and the columns of a factor L (d, d), those that are zero in all laws last: they
            stay zero and are left out of the work, which changes no bit of the others.
    """

    def __init__(self, heads: AffineHeads, states: Array) -> None:
        d = states.shape[2]
        rank = max(1, int(np.max(np.flatnonzero(states[:, 1:].any(axis=(0, 2))) + 1, initial=0)))
        super().__init__(states, closure.shape_for(d, rank, len(heads.kinds)))
        self._law, self._forms = None, _forms(heads)

    def _memory(self) -> closure.Work:
        return closure.allocate(self._threads, self._shape, self._take)

    def tokens(self, rows: Array) -> Array:
        """Rows as states (B, 1 + d, d), zero columns included."""
        states = np.zeros((len(rows), *self._tokens.shape[1:]))
        states[:, : self._shape.n] = super().tokens(rows)
        return states

    def recorded(self, runs: Runs) -> Array:
        """The states at the times asked for, (m, B, 1 + d, d); nan where a law ended before."""
        states = runs.x.copy()
        states[:, :, self._shape.n :] = np.where(np.isnan(states[:, :, :1, :1]), np.nan, 0.0)
        return states

    def times(self, runs: Runs) -> Array:
        """How far each law has come (B,)."""
        return runs.numbers[:, T].copy()

    def last_steps(self, runs: Runs) -> Array:
        """The size of the last accepted step of each law (B,); 0 before the first."""
        return runs.numbers[:, SIZE].copy()

    def stop(self, runs: Runs, which: Array) -> None:
        """Ends the laws of a mask (B,) that run, where they are."""
        runs.counts[which & (runs.counts[:, STATUS] == RUNNING), STATUS] = STOPPED


def _forms(heads: AffineHeads) -> closure.Closure:
    """The parameters as the kernel reads them."""
    D = np.zeros((1, 1, 1, 1)) if heads.D is None else heads.D
    shape = np.broadcast_shapes(heads.A.shape, heads.V.shape, D.shape)
    A, V, D = (np.ascontiguousarray(np.broadcast_to(matrix, shape)) for matrix in (heads.A, heads.V, D))
    curved = np.any(D != 0.0, axis=(0, 2, 3))
    counts = [count or int(bent) for count, bent in zip(heads.counts, curved, strict=True)]
    return closure.Closure(np.array([_KINDS[kind] for kind in heads.kinds]), np.array(counts), A, D, V)
