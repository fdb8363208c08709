"""Ensembles: B independent systems, each with its own parameters, step, events, end and result."""

from __future__ import annotations

import sys
import time as clock
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import compiling, solutions
from ._types import Array
from .attention.base import Attention
from .attention.cloud import Cloud
from .batches.reduced_form import LARGEST_DIMENSION, MOST_TOKENS
from .errors import InputError
from .integrate import BlowUp, Collapsed, Integrator, Problem, Solution, Status, SteadyState
from .integrate.controller import FixedStep, PIController
from .integrate.options import Options
from .integrate.reporting import check_progress
from .manifold import Euclidean, Manifold, Sphere
from .step_rules import CODES, EVENT, first_guess, first_step, second_guess

if TYPE_CHECKING:
    from .batches.in_step import Outside
    from .batches.reduced_form import ReducedForm
    from .batches.small_systems import Batch, Control, Method, Runs, Watched
    from .plot.canvas import Figure

_MOST_TOKENS, _LARGEST_DIMENSION = MOST_TOKENS, LARGEST_DIMENSION
_SECONDS = 0.2  # a compiled call should take this long, so that Ctrl-C and progress bars are prompt
_PAIRS = 2e7  # pairs of tokens in one step of a block of systems

Alone = Callable[[int, Array], Solution]
Report = Callable[[int], None]


@dataclass(frozen=True)
class EnsembleSolution:
    """The result of `solve` for tokens (B, n, d): B runs, each as if it were alone.

    With steps of fixed size that holds to rounding, with adaptive ones to their tolerances: sums of many systems are
    made in another order than those of one, and by rounding the controller may then choose other steps.

    Attributes:
        t, x: times (m,) and states (m, B, n, d): the points of t_eval, nan for systems that ended before; without
            t_eval the start, and for each system its end (at t_final, which need not be the end of the span).
        t_final, x_final: (B,) and (B, n, d): the last good time and state of each system, at the event if one ended it.
        status: how each system ended.
        message: how many systems ended how, with remedies.
        t_events: per event, (B,): the first time it happened to each system, nan where it never did.
        stats: systems, steps, rejected, evaluations, wall_time in seconds; steps_each, rejected_each, evaluations_each
            (B,), of which those are the sums; and path: "fused" (a kernel for small systems), "in step" (that kernel
            moves each system to where it needs a velocity, and one call makes those of all), "together" (as one state,
            where all take the same steps), or "one by one".
        settings: method, and rtol and atol or step, as they were asked for.
    """

    t: Array
    x: Array
    t_final: Array
    x_final: Array
    status: tuple[Status, ...]
    message: str
    t_events: tuple[Array, ...]
    stats: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """True if every system ended as asked."""
        return all(status.success for status in self.status)

    def summary(self) -> str:
        """Return a few lines: how the systems ended and when, the steps of all, and the tolerances."""
        ends = f"ends: t = {self.t_final.min():.6g} to {self.t_final.max():.6g}; path: {self.stats['path']}"
        return "\n".join([self.message, ends, *solutions.told(self.stats, self.settings)])

    def save(self, path: str | Path) -> Path:
        """Write the solution into a .npz file, whole or not at all, and return its path. Raises OSError.

        It holds t, x, t_final, x_final, status (B,) and message (words), for event i t_events/i, and stats/NAME and
        settings/NAME. `numpy.load` reads it.
        """
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("t", "x", "t_final", "x_final", "message")}
        arrays |= {"status": [status.value for status in self.status]} | solutions.numbered("t_events", self.t_events)
        return solutions.save(path, arrays, self.stats, self.settings)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the tokens of up to six systems, at the first of the times t and at their ends, and return the
        Matplotlib figure; write it as a PNG if there is a path. Raises OSError.
        """
        from .plot import canvas, system_panels

        words = [status.value for status in self.status]
        return canvas.finished(system_panels.of_systems(self.t, self.x, self.t_final, self.x_final, words), path)


@dataclass(frozen=True)
class Ensemble:
    """The systems of a batch, ready to run, with every argument checked.

    Args:
        attention: of all systems.
        cloud: their tokens and weights, and which tokens a token sees under a mask.
        manifold: where the tokens live.
        problem: the arguments of `integrate`, for the batch.
    """

    attention: Attention
    cloud: Cloud
    manifold: Manifold
    problem: Problem

    @staticmethod
    def of(field: Any, x0: Array, t_span: Any, options: Options) -> Ensemble:
        """Make the ensemble of a `meanfield.Field` from x0. Raises InputError, InputTypeError before any work."""
        if options.observers:
            remedy = "Ask for states at given times with t_eval, or observe systems one by one."
            raise InputError("observers", f"{len(options.observers)}", "none for tokens (B, n, d)", remedy)
        problem = Problem.checked(field, x0, t_span, options)
        return Ensemble(field.attention, field.cloud.with_(x=problem.y0), field.manifold, problem)

    @property
    def times(self) -> Array:
        """The times (m,) at which states are kept: t_eval, or the start and the end."""
        span = self.problem.span
        if self.problem.t_eval is not None:
            return self.problem.t_eval
        return np.array([span.start, span.end] if span.start != span.end else [span.start])

    def compiled(self) -> bool:
        """Return whether the compiled loop for small systems can move these."""
        _, n, d = self.cloud.x.shape
        simple = self.cloud.partition.whole and all(
            type(event) in (SteadyState, BlowUp, Collapsed) for event in self.problem.events
        )
        simple = simple and type(self.manifold) in (Euclidean, Sphere) and self.problem.noise is None
        constant = all(p.constant for p in self.attention.parameters())
        return simple and constant and n <= _MOST_TOKENS and d <= _LARGEST_DIMENSION

    def solve(self, alone: Alone, progress: Any, *, fuse: bool) -> EnsembleSolution:
        """Run every system to its end; with `fuse` in one kernel, if that is possible.

        alone(b, times) solves system b by itself; it is called only if no other path is open.
        """
        check_progress(progress)
        began = clock.monotonic()
        with reporting(progress, len(self.cloud.x)) as report:
            path, found = self._solve(alone, report, fuse)
        t_final, x_final, x, status, events, counts = found
        if self.problem.t_eval is None:
            x[-1] = x_final
        each = dict(zip(("steps_each", "rejected_each", "evaluations_each"), counts.T, strict=True))
        totals = {name.removesuffix("_each"): int(values.sum()) for name, values in each.items()}
        stats = {"path": path, "systems": len(status), **totals, "wall_time": clock.monotonic() - began, **each}
        text, settings = summary(status), self.problem.settings
        return EnsembleSolution(self.times, x, t_final, x_final, status, text, tuple(events.T), stats, settings)

    def _solve(self, alone: Alone, report: Report, fuse: bool) -> tuple[str, tuple]:
        """Run every system by the fastest path that is open; return the name of the path and the results."""
        compiled = self.compiled()
        form = self.attention.reduced_form(self.problem.span.start) if compiled and fuse else None
        if form is not None and form.fits(self.cloud.x.dtype).all():
            return "fused", self._fused(form, report)
        if not (self.problem.tableau.adaptive or self.problem.events):
            found = self._together(report)
            if found is not None:
                return "together", found
        return ("in step", self._in_step(report)) if compiled else ("one by one", self._one_by_one(alone, report))

    def _together(self, report: Report) -> tuple | None:
        """Run all systems as one state, which takes the steps that each would take alone; return None if one fails.

        The number of systems that is reported as done is their number times the fraction of the span that is done.
        """
        run, count, span = Integrator(self.problem), len(self.cloud.x), self.problem.span
        while run.status is None:
            run.step()
            report(int(count * abs(run.state.t - span.start) / abs(span.end - span.start)))
        sol = run.solution()
        if not sol.success:
            return None
        counts = np.tile([int(sol.stats[name]) for name in ("steps", "rejected", "evaluations")], (count, 1))
        return np.full(count, sol.t_final), sol.x_final, sol.x, (sol.status,) * count, np.empty((count, 0)), counts

    def _one_by_one(self, alone: Alone, report: Report) -> tuple:
        """Run one system after the other, each by the ordinary path."""
        problem, x0, times = self.problem, self.cloud.x, self.times
        count = len(x0)
        t_final, x_final, status = np.empty(count), np.empty_like(x0), []
        x = np.full((len(times), *x0.shape), np.nan, x0.dtype)
        events, counts = np.full((count, len(problem.events)), np.nan), np.zeros((count, 3), np.int64)
        for b in range(count):
            one = alone(b, times)
            t_final[b], x_final[b], x[: len(one.t), b] = one.t_final, one.x_final, one.x
            status.append(one.status)
            events[b] = [hits[0] if len(hits) else np.nan for hits in one.t_events]
            counts[b] = [one.stats[name] for name in ("steps", "rejected", "evaluations")]
            report(b + 1)
        return t_final, x_final, x, tuple(status), events, counts

    def _fused(self, form: ReducedForm, report: Report) -> tuple:
        """Run all systems in the fused kernel."""
        from .batches.small_systems import Fused

        seen, x0, weights = self.cloud.visibility, self.cloud.x, self.cloud.weights
        order = slice(None) if seen is None or seen.order is None else seen.order
        limits = None if seen is None else seen.limits
        weights = None if weights is None else weights[:, order]
        batch = Fused(form, x0[:, order], weights, limits, sphere=isinstance(self.manifold, Sphere))
        finals, ordered_final, ordered, *rest = self._run(batch, report)
        x, x_final = np.empty_like(ordered), np.empty_like(ordered_final)
        x[:, :, order], x_final[:, order] = ordered, ordered_final
        return finals, x_final, x, *rest

    def _in_step(self, report: Report) -> tuple:
        """Run all systems in the compiled loop, with the velocities of the ordinary field."""
        from .batches.in_step import InStep

        field = cast("Outside", self.problem.field)
        return self._run(InStep(field, self.cloud.x, sphere=isinstance(self.manifold, Sphere)), report)

    def _run(self, batch: Batch, report: Report) -> tuple:
        """Run every system of a batch to its end, block by block, in calls short enough to be interrupted."""
        count, runs = len(self.cloud.x), self.plan(batch)
        block = max(64, int(_PAIRS / (batch.pairs * self.problem.tableau.stages)))
        for first in range(0, count, block):
            last = min(first + block, count)
            self.begin(batch, runs, first, last)
            self.finish(batch, runs, first, last, report)
        return runs.finals, runs.x_final, runs.x, self._ends(batch.status(runs)), runs.hits, batch.counters(runs)

    def plan(self, batch: Batch) -> Runs:
        """Return the runs of a batch before their start."""
        problem = self.problem
        return batch.plan(_method(problem), _control(problem), _watched(problem), self.times, problem.first_step)

    def begin(self, batch: Batch, runs: Runs, first: int, last: int) -> None:
        """Begin the runs of systems first .. last - 1; choose a first step for each of them if none is given."""
        batch.advance(runs, first, last, 0)
        if self.problem.tableau.adaptive and self.problem.first_step == 0.0:
            self._choose_steps(batch, runs, first, last)

    def finish(self, batch: Batch, runs: Runs, first: int, last: int, report: Report) -> None:
        """Run systems first .. last - 1, which have begun, to their ends."""
        attempts, left = 1, last - first
        while left:
            began = clock.monotonic()
            left = batch.advance(runs, first, last, attempts)
            report(last - left)
            seconds = clock.monotonic() - began
            attempts = max(
                1, 2 * attempts if seconds < _SECONDS / 2 else attempts // 2 if seconds > _SECONDS else attempts
            )

    def _choose_steps(self, batch: Batch, runs: Runs, first: int, last: int) -> None:
        """Choose the first step of every system that runs, as the ordinary stepper does."""
        problem, controller = self.problem, cast(PIController, self.problem.controller)
        span, order = problem.span, controller.order
        y, f = (batch.tokens(rows[first:last]).astype(np.float64, order="C") for rows in (runs.y, runs.f))
        unit = controller.atol + controller.rtol * np.abs(y)
        with np.errstate(all="ignore"):
            sizes, slopes = _root_mean_square(y / unit), _root_mean_square(f / unit)
            fine = np.isfinite(slopes)
            h0 = np.array([first_guess(*pair) for pair in zip(sizes, slopes, strict=True)])
            h0 = np.minimum(h0, abs(span.end - span.start))
            for i in np.flatnonzero(~fine).tolist():
                batch.give_up(runs, first + i)
            trial = (y + span.direction * h0[:, None, None] * f).astype(runs.y.dtype)
            self.manifold.retract(trial)
            bends = _root_mean_square((batch.probe(runs, trial, first, last) - f) / unit) / h0
        for i in np.flatnonzero(fine).tolist():
            guess = second_guess(float(h0[i]), float(slopes[i]), float(bends[i]), order)
            batch.set_step(runs, first + i, span.direction * first_step(guess, span.end - span.start, span.start))

    def _ends(self, codes: Array) -> tuple[Status, ...]:
        return tuple(STATUS[code] if code < EVENT else self.problem.events[code - EVENT].status for code in codes)


# By the codes of `step_rules`; a run that has ended is never still running.
STATUS = (Status.INTERRUPTED, *(Status[name] for name in CODES[1:EVENT]))


def _root_mean_square(x: Array) -> Array:
    """Return the root mean squares (B,) of the systems of x (B, n, d)."""
    return np.sqrt(np.square(x).mean(axis=(1, 2)))


def _method(problem: Problem) -> Method:
    from .batches.small_systems import Method

    tableau = problem.tableau
    error = () if tableau.b_error is None else tableau.b_error
    a, b_error, dense = (np.array(rows, dtype=np.float64) for rows in (tableau.a, error, tableau.dense))
    return Method(a, b_error, dense, tableau.adaptive, tableau.dense_needs_last)


def _control(problem: Problem) -> Control:
    """Return the span and the constants of the controller, as the kernel reads them."""
    from .batches.small_systems import Control

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
        last=0.0 if fixed is None else fixed.target(span.start, fixed.count - 1, 0.0, span)[1],
        rule=pi.rule,
        max_steps=problem.max_steps,
    )


def _watched(problem: Problem) -> Watched:
    """Return the built-in events, as the kernel reads them."""
    from .batches.small_systems import BLOW_UP, COLLAPSED, STEADY_STATE, Watched

    kinds = {SteadyState: STEADY_STATE, BlowUp: BLOW_UP, Collapsed: COLLAPSED}
    levels = [getattr(event, "radius" if isinstance(event, BlowUp) else "tol") for event in problem.events]
    return Watched(
        np.array([kinds[type(event)] for event in problem.events], dtype=np.int64),
        np.array(levels, dtype=np.float64),
        np.array([event.direction for event in problem.events], dtype=np.float64),
        np.array([event.terminal for event in problem.events], dtype=np.bool_),
    )


def summary(status: tuple[Status, ...]) -> str:
    """Return a text that says how many systems ended in which way, with the remedies of failures."""
    counts = Counter(status)
    parts = ", ".join(f"{found} {end.value}" for end, found in counts.most_common())
    remedies = "".join(f" {end.value}: {end.message}" for end in counts if not end.success)
    return f"{len(status)} systems: {parts}.{remedies}"


@contextmanager
def reporting(progress: Any, systems: int) -> Iterator[Report]:
    """Yield a function of the number of systems done that moves a bar, calls progress(done, stats), or does nothing."""
    if callable(progress):
        yield lambda done: progress(done, {"systems": systems})
        return
    if not progress:
        yield lambda done: None
        return
    from tqdm import tqdm

    with compiling.shown(sys.stderr), tqdm(total=systems, unit=" systems", file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.n)
