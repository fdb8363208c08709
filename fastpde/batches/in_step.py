"""Many small systems in step: a compiled loop moves each until it needs a velocity, and one call computes all of them.

This is for fields that are no part of the compiled loop. All systems need the same number of velocities per attempted
step, so that none waits for another; those that have ended are left out of the next attempt.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .._types import Array
from ..kernels import flow, motion, systems
from ..kernels.motion import (
    ACCEPTED,
    REJECTED,
    RETRIES,
    STATUS,
    Control,
    H,
    Method,
    T,
)
from ..step_rules import NOT_CONVERGED, NOT_FINITE, RUNNING, is_lost
from .small_systems import Batch, Runs, Watched


class Outside(Protocol):
    """A field f(t, x, out) of k systems, x and out (k, n, d), constant in time.

    It may remember earlier calls, for example as warm starts.
    """

    def __call__(self, t: float, x: Array, out: Array) -> None:
        """Write the velocities at x into `out`: nan or inf where a system has none, whatever the others have."""

    def systems(self, which: Array) -> Outside:
        """Return the field of the systems at the places `which` (k,), without memory of earlier calls."""

    def select(self, which: Array) -> None:
        """Keep only the systems at the places `which`, with what is remembered of them."""

    def failed(self) -> Array:
        """Return a mask (k,) of the systems without a velocity because it could not be computed.

        Systems whose tokens are too large for a finite velocity do not count.
        """


class InStep(Batch):
    """Systems whose velocities come from outside of the compiled loop, in one call for all running systems of a block.

    Args:
        field: the field of all systems.
        x0: tokens (B, n, d).
        sphere: whether tokens live on the unit sphere, as x0 does.
    """

    def __init__(self, field: Outside, x0: Array, *, sphere: bool) -> None:
        _, n, d = x0.shape
        plain = {"normalised": False, "tilted": False, "weighted": False}
        super().__init__(x0, systems.shape_for(n, d, 1, x0.dtype, **plain, sphere=sphere))
        self._field = field

    def plan(self, method: Method, control: Control, watched: Watched, times: Array, first_step: float) -> Runs:
        self._block, self._failed = (0, 0), np.zeros(len(self._tokens), np.bool_)
        return super().plan(method, control, watched, times, first_step)

    def advance(self, runs: Runs, first: int, last: int, attempts: int) -> int:
        if self._block != (first, last):
            self._enter(first, last)
        for _ in range(max(1, attempts)):
            running = np.flatnonzero(runs.counts[first:last, STATUS] == RUNNING)
            if not len(running):
                break
            self._attempt(runs, running, min(1, attempts))
        return int(np.count_nonzero(runs.counts[first:last, STATUS] == RUNNING))

    def _enter(self, first: int, last: int) -> None:
        """Begin the block of systems first .. last - 1, and allocate the stages of these alone."""
        method, _, watched, _ = self._options
        (_, n, d), dtype, count = self._tokens.shape, self._tokens.dtype, last - first
        self._block, self._members = (first, last), np.arange(count)
        self._some = self._field.systems(np.arange(first, last))
        self._steps = motion.allocate(1, self._shape, method, len(watched.kinds), dtype, self._workspace, count)
        stage, until = np.empty((2, count), np.int64)
        # A system that ends at its start never needs a velocity, but stays a member until the others have theirs.
        self._asked = flow.Requests(stage, until, self._tokens[first:last].copy(), np.empty((count, n, d), dtype))

    def _attempt(self, runs: Runs, running: Array, attempts: int) -> None:
        """Make one attempted step of the running systems (places in the block); with attempts = 0, begin their runs."""
        asked, first = self._asked, self._block[0]
        if len(running) < len(self._members):
            # The members depend only on which systems have ended, and so do the bits of a field with warm starts.
            self._some.select(np.searchsorted(self._members, running))
            self._members = running
        counts = runs.counts[first + running]
        asked.stage.fill(flow.NOTHING)
        asked.stage[running] = flow.ENTRY
        asked.until[running] = counts[:, ACCEPTED] + counts[:, REJECTED] + attempts
        while True:
            flow.ask(self._shape, *self._options, first, asked, runs, self._steps)
            if (asked.stage == flow.NOTHING).all():
                break
            self._answer()
        for b in (first + running)[self._failed[first + running]]:
            self._reconsider(runs, b)

    def _reconsider(self, runs: Runs, b: int) -> None:
        """End system b, whose velocity could not be computed, if trying smaller steps has not helped."""
        control, retries = self._options[1], runs.counts[b, RETRIES]
        lost = retries > 0 and is_lost(runs.numbers[b, H], retries, control.end - control.start)
        if runs.counts[b, STATUS] == RUNNING and lost:
            runs.counts[b, STATUS] = NOT_FINITE
            runs.finals[b], runs.x_final[b] = runs.numbers[b, T], self.tokens(runs.y[b : b + 1])[0]

    def status(self, runs: Runs) -> Array:
        codes = super().status(runs)
        return np.where(self._failed & (codes == NOT_FINITE), NOT_CONVERGED, codes)

    def _answer(self) -> None:
        """Compute the velocities of all members at the states where they need them.

        A member that has ended gets the velocity at any state.
        """
        asked, members, (_, control, _, _) = self._asked, self._members, self._options
        x = asked.x[members]
        v = np.full_like(x, np.nan)
        with np.errstate(all="ignore"):
            self._some(control.start, x, v)
        asked.v[members] = v
        waiting = asked.stage[members] != flow.NOTHING
        self._failed[self._block[0] + members[waiting]] = self._some.failed()[waiting]
