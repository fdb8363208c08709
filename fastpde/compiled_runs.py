"""Runs of many systems in the compiled loop: from a problem to the loop's arrays, and from these to results."""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from ._types import Array
from .batches.small_systems import BLOW_UP, COLLAPSED, STEADY_STATE, Batch, Control, Method, Runs, Watched
from .integrate import BlowUp, Collapsed, Problem, Status, SteadyState
from .integrate.batch_loop import Outcome
from .integrate.controller import FixedStep, PIController
from .step_rules import CODES, EVENT, first_guess, first_step, second_guess

SECONDS = 0.2  # a compiled call should take this long, so that Ctrl-C and progress bars are prompt
_KINDS = {SteadyState: STEADY_STATE, BlowUp: BLOW_UP, Collapsed: COLLAPSED}
# By the codes of `step_rules`; a run that has ended is never still running.
STATUS = (Status.INTERRUPTED, *(Status[name] for name in CODES[1:EVENT]))


def runs_in_loop(problem: Problem) -> bool:
    """Return whether the compiled loop has the steps and events of a problem; the field is another question."""
    return problem.noise is None and all(type(event) in _KINDS for event in problem.events)


class CompiledRuns:
    """The runs of the systems of a batch.

    Attributes:
        runs: their whole state, see `Batch`.

    Args:
        problem: what to integrate; its field plays no part.
        batch: the systems.
        times: when their states are kept.
    """

    def __init__(self, problem: Problem, batch: Batch, times: Array) -> None:
        self.problem, self._batch = problem, batch
        method, control, watched = _method(problem), _control(problem), _watched(problem)
        self.runs: Runs = batch.plan(method, control, watched, times, problem.first_step)

    def begin(self, first: int, last: int) -> None:
        """Begin the runs of systems first .. last - 1; choose a first step for each of them if none is given."""
        self._batch.advance(self.runs, first, last, 0)
        if self.problem.tableau.adaptive and self.problem.first_step == 0.0:
            self._choose_steps(first, last)

    def finish(self, first: int, last: int, report: Callable[[int], object]) -> None:
        """Run systems first .. last - 1, which have begun, to their ends, in calls short enough to be interrupted."""
        attempts, left = 1, last - first
        while left:
            began = clock.monotonic()
            left = self._batch.advance(self.runs, first, last, attempts)
            report(last - left)
            seconds = clock.monotonic() - began
            attempts = max(
                1, 2 * attempts if seconds < SECONDS / 2 else attempts // 2 if seconds > SECONDS else attempts
            )

    def outcome(self) -> Outcome:
        """Return the results of all systems."""
        runs, events = self.runs, self.problem.events
        codes = self._batch.status(runs).tolist()
        status = [STATUS[code] if code < EVENT else events[code - EVENT].status for code in codes]
        counts, leaps = self._batch.counters(runs), self._batch.leaps(runs)
        return Outcome(runs.finals, runs.x_final, runs.x, status, runs.hits, counts, leaps)

    def _choose_steps(self, first: int, last: int) -> None:
        """Choose the first step of every system that runs, as the ordinary stepper does, to the bit."""
        batch, runs, rule = self._batch, self.runs, cast(PIController, self.problem.controller)
        span, space = self.problem.span, self.problem.space.of_systems(last - first)
        y, f = (np.ascontiguousarray(batch.tokens(rows[first:last])) for rows in (runs.y, runs.f))
        rows, trial = np.stack([f, y]), np.empty_like(y)

        def norms(coefs: tuple[float, float], h: Any = 1.0) -> list[float]:
            return space.error_norms(rows, coefs, h, y, y, rule.rtol, rule.atol).tolist()

        with np.errstate(all="ignore"):
            sizes, slopes = norms((0.0, 1.0)), norms((1.0, 0.0))
            fine = np.flatnonzero(np.isfinite(slopes)).tolist()
            for i in np.flatnonzero(~np.isfinite(slopes)).tolist():
                batch.give_up(runs, first + i)
            h0 = np.zeros(len(y))
            h0[fine] = [min(first_guess(sizes[i], slopes[i]), abs(span.end - span.start)) for i in fine]
            space.combine(y, span.direction * h0, (1.0, 0.0), rows, trial)
            rows[1] = batch.probe(runs, trial, first, last)
            bends = norms((-1.0, 1.0), 1.0 / h0)
        for i in fine:
            guess = second_guess(float(h0[i]), slopes[i], bends[i], rule.order)
            batch.set_step(runs, first + i, span.direction * first_step(guess, span.end - span.start, span.start))


def _method(problem: Problem) -> Method:
    tableau = problem.tableau
    error = () if tableau.b_error is None else tableau.b_error
    a, b_error, dense = (np.array(rows, dtype=np.float64) for rows in (tableau.a, error, tableau.dense))
    return Method(a, b_error, dense, tableau.adaptive, tableau.dense_needs_last)


def _control(problem: Problem) -> Control:
    """Return the span and the constants of the controller, as the kernel reads them."""
    span, rule = problem.span, problem.controller
    fixed = rule if isinstance(rule, FixedStep) else None
    # For a fixed step the constants of the adaptive rule are there, but not read.
    pi = rule if isinstance(rule, PIController) else PIController(1.0, 1.0, 1)
    return Control(
        start=span.start,
        end=span.end,
        direction=span.direction,
        step=0.0 if fixed is None else span.direction * fixed.step,
        count=0 if fixed is None else fixed.count,
        last=0.0 if fixed is None else fixed.target(fixed.count - 1)[1],
        rule=pi.rule,
        max_steps=problem.max_steps,
    )


def _watched(problem: Problem) -> Watched:
    """Return the built-in events, as the kernel reads them."""
    levels = [getattr(event, "radius" if isinstance(event, BlowUp) else "tol") for event in problem.events]
    return Watched(
        np.array([_KINDS[type(event)] for event in problem.events], dtype=np.int64),
        np.array(levels, dtype=np.float64),
        np.array([event.direction for event in problem.events], dtype=np.float64),
        np.array([event.terminal for event in problem.events], dtype=np.bool_),
    )
