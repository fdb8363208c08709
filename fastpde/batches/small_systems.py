"""Many small systems in one call: the arrays of `kernels.flow`, filled from tokens, a field and options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from .._types import Array
from ..kernels import flow, motion, systems
from ..kernels.flow import BLOW_UP, COLLAPSED, STEADY_STATE, Runs, Watched
from ..kernels.motion import (
    ACCEPTED,
    COUNTS,
    ERROR,
    EVALUATIONS,
    FRESH,
    LARGEST,
    LEAPS,
    NUMBERS,
    PHASE,
    REJECTED,
    STATUS,
    Control,
    H,
    Method,
    T,
)
from ..simd import pool
from ..simd.called import kernel_of
from ..step_rules import EVENT, NOT_FINITE, RUNNING
from ..sums.direct import Direct
from .forms import Parameters, forms_of
from .reduced_form import ReducedForm

__all__ = ["BLOW_UP", "COLLAPSED", "EVENT", "STEADY_STATE", "Batch", "Control", "Fused", "Method", "Runs", "Watched"]

_PORTIONS = 8  # of a call, for each thread: a thread that was held up does not hold up the call


class Batch(ABC):
    """B small systems, each with a time of its own, moved by threads in a compiled loop; a `Runs` is their whole state.

    A subclass sets `_weight` and `_forms`, and defines `_memory`, for its kind of field, see `kernels.field`.

    Args:
        x0: tokens (B, n, d).
        shape: sizes that the systems have in common.
    """

    _weight: Any
    _forms: Any

    def __init__(self, x0: Array, shape: Any) -> None:
        self._tokens, self._shape, self._workspace = x0, shape, Direct().workspace
        self._threads = pool.threads()

    @abstractmethod
    def _memory(self) -> Any:
        """Return the workspace of the field, for all threads."""

    @property
    def pairs(self) -> int:
        """The number of pairs of tokens in one velocity of one system, over all heads."""
        return self._shape.heads * self._shape.n**2

    def plan(self, method: Method, control: Control, watched: Watched, times: Array, first_step: float) -> Runs:
        """Return runs at their beginning, with room for the tokens at `times` (m,); first_step 0: to be chosen."""
        (count, n, d), lanes = self._tokens.shape, self._shape.lanes
        size, dtype, events = d * lanes, self._tokens.dtype, len(watched.kinds)
        self._options = method, control, watched, times
        self._steps = motion.allocate(self._threads, self._shape, method, events, dtype, self._workspace)
        self._scratch = self._memory()
        numbers, counts = np.zeros((count, len(NUMBERS))), np.zeros((count, len(COUNTS)), np.int64)
        numbers[:, [T, H, ERROR, LARGEST]] = control.start, first_step, 1.0, np.nan
        counts[:, PHASE] = flow.START
        return Runs(
            y=self.rows(self._tokens),
            f=np.zeros((count, size), dtype),
            numbers=numbers,
            counts=counts,
            values=np.zeros((count, events)),
            hits=np.full((count, events), np.nan),
            finals=np.full(count, control.start),
            x_final=self._tokens.copy(),
            x=np.full((len(times), count, n, d), np.nan, dtype),
        )

    def advance(self, runs: Runs, first: int, last: int, attempts: int) -> int:
        """Advance systems first .. last - 1 by up to `attempts` attempted steps; return how many are still running.

        With attempts = 0 a run is begun: the start is recorded, its events are evaluated, and `f` becomes its velocity.
        """
        pool.start()
        size = max(1, -(-(last - first) // (_PORTIONS * self._threads)))
        flow.advance(
            self._weight, self._shape, self._forms, *self._options, (first, last), size, attempts, runs, self._scratch,
            self._steps,
        )  # fmt: skip
        return int(np.count_nonzero(runs.counts[first:last, STATUS] == RUNNING))

    def probe(self, runs: Runs, x: Array, first: int, last: int) -> Array:
        """Return the velocities (last - first, n, d) of the running systems at other states x; nan for the others."""
        part = slice(first, last)
        other = runs._replace(y=runs.y.copy(), f=np.full_like(runs.f, np.nan), counts=runs.counts.copy())
        other.y[part] = self.rows(x)
        other.counts[part, FRESH] = 0
        self.advance(other, first, last, 0)
        runs.counts[part, EVALUATIONS] = other.counts[part, EVALUATIONS]
        return self.tokens(other.f[part])

    def set_step(self, runs: Runs, b: int, h: float) -> None:
        """Propose h as the first step of system b."""
        runs.numbers[b, H] = h

    def give_up(self, runs: Runs, b: int) -> None:
        """End system b where it is, if it is running, because its velocity is not finite."""
        if runs.counts[b, STATUS] == RUNNING:
            runs.counts[b, STATUS] = NOT_FINITE

    def status(self, runs: Runs) -> Array:
        """Return the status codes (B,)."""
        return runs.counts[:, STATUS]

    def counters(self, runs: Runs) -> Array:
        """Return the accepted steps, rejected steps and evaluations of each system, (B, 3)."""
        return runs.counts[:, [ACCEPTED, REJECTED, EVALUATIONS]]

    def leaps(self, runs: Runs) -> int:
        """Return how many steps of all systems have made the largest entry more than ten times as large."""
        return int(runs.counts[:, LEAPS].sum())

    def rows(self, x: Array) -> Array:
        """Return tokens (B, n, d) as rows of lanes (B, d * lanes); the last token is repeated in unused lanes."""
        places = np.minimum(np.arange(self._shape.lanes), self._shape.n - 1)
        return np.ascontiguousarray(x[:, places].swapaxes(1, 2)).reshape(len(x), -1)

    def tokens(self, rows: Array) -> Array:
        """Return rows of lanes (B, d * lanes) as tokens (B, n, d), a view."""
        return rows.reshape(len(rows), self._shape.d, self._shape.lanes)[:, :, : self._shape.n].swapaxes(1, 2)


class Fused(Batch):
    """Tokens under an attention with a reduced form.

    Args:
        form: the field.
        x0: tokens (B, n, d), in the order of their positions if there are limits.
        weights: (1, n) or (B, n) float64; None: 1/n.
        limits: (n,) how many leading tokens each token sees; None: all.
        sphere: whether tokens live on the unit sphere, as x0 does.
    """

    def __init__(
        self, form: ReducedForm, x0: Array, weights: Array | None, limits: Array | None, *, sphere: bool
    ) -> None:
        _, n, d = x0.shape
        shape = systems.shape_for(
            n, d, form.A.shape[1], x0.dtype,
            normalised=form.normalised, tilted=form.D is not None, weighted=weights is not None, sphere=sphere,
        )  # fmt: skip
        super().__init__(x0, shape)
        self._weight = kernel_of(form.weight)
        self._forms = forms_of(shape, Parameters(form, x0.dtype), weights, limits)

    def _memory(self) -> systems.Workspace:
        return systems.allocate(self._threads, self._shape, self._tokens.dtype, self._workspace)
