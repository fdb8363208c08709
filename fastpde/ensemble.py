"""Ensembles: B independent systems, each with its own parameters, step, events, end and result."""

from __future__ import annotations

import time as clock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import solutions
from ._types import Array
from .attention.base import Attention
from .attention.cloud import Cloud
from .batches.reduced_form import LARGEST_DIMENSION, MOST_TOKENS
from .errors import ExplainedMethods, InputError
from .integrate import Problem, Status
from .integrate.batch_loop import BatchIntegrator, Outcome
from .integrate.reporting import counting, leaps_told
from .manifold import Euclidean, Manifold, Sphere

if TYPE_CHECKING:
    from .batches.reduced_form import ReducedForm
    from .integrate.calls import BatchField
    from .plot.canvas import Figure

_MOST_TOKENS, _LARGEST_DIMENSION = MOST_TOKENS, LARGEST_DIMENSION
_PAIRS = 2e7  # pairs of tokens in one step of a block of systems
_SMALLEST_BLOCK = 64  # of small systems: a call has some work for every thread

Report = Callable[[int], object]


@dataclass(frozen=True)
class EnsembleSolution(ExplainedMethods):
    """The result of `solve` for tokens (B, n, d): B runs, each as if it were alone.

    That holds to the bit, with exceptions: a Sinkhorn scaling, which starts from the last ones, is right to its tol; on
    the path "fused" tokens on the sphere, events and states between the steps of rk4 are right to rounding.

    Attributes:
        t, x: times (m,) and states (m, B, n, d): the points of t_eval, nan for systems that ended before; without
            t_eval the start, and for each system its end (at t_final, which need not be the end of the span).
        t_final, x_final: (B,) and (B, n, d): the last good time and state of each system, at the event if one ended it.
        status: how each system ended.
        message: how many systems ended how, with remedies.
        t_events: per event, (B,): the first time it happened to each system, nan where it never did.
        stats: systems, steps, rejected, evaluations, wall_time in seconds; steps_each, rejected_each, evaluations_each
            (B,), of which those are the sums; and path: "fused" (small systems, each moved by a thread in a compiled
            loop) or "batched" (one call of the field for the velocities of all systems).
        settings: method, and rtol and atol or step, as they were asked for; the noise, if there is some; the names of
            the classes of the attention and of the manifold.
        tangents, tangents_final: (m, k, B, n, d) and (k, B, n, d), the derivatives of x and x_final along k directions
            of the initial states, where these were asked for.
        log_density, log_density_final: (m, B, n) and (B, n) at x and x_final, where they were asked for.
        weights: (B, n) of the tokens, where some were given to `fastpde.solve`.
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
    tangents: Array | None = None
    tangents_final: Array | None = None
    log_density: Array | None = None
    log_density_final: Array | None = None
    weights: Array | None = None

    @property
    def success(self) -> bool:
        """True if every system ended as asked."""
        return all(status.success for status in self.status)

    def __repr__(self) -> str:
        return solutions.shown(self, "t", "x", "x_final", "tangents", "log_density")

    def summary(self) -> str:
        """Return a few lines: how the systems ended and when, the steps of all, and the tolerances."""
        ends = f"ends: t = {self.t_final.min():.6g} to {self.t_final.max():.6g}; path: {self.stats['path']}"
        return "\n".join([self.message, ends, *solutions.told(self.stats, self.settings)])

    def save(self, path: str | Path) -> Path:
        """Write the solution into a .npz file, whole or not at all, and return its path. Raises OSError.

        It holds t, x, t_final, x_final, status (B,) and message (words), tangents and log densities if there are any,
        for event i t_events/i, and stats/NAME and settings/NAME. `numpy.load` reads it.
        """
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ("t", "x", "t_final", "x_final", "message")}
        arrays |= solutions.followed(self) | {"status": [status.value for status in self.status]}
        arrays |= {} if self.weights is None else {"weights": self.weights}
        arrays |= solutions.numbered("t_events", self.t_events)
        return solutions.save(path, arrays, self.stats, self.settings)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the tokens of up to six systems, at the first of the times t and at their ends, and return the
        Matplotlib figure; write it as a PNG if there is a path. Areas of points are weights, if there are some.

        Raises OSError.
        """
        from .plot import canvas, system_panels

        words = [status.value for status in self.status]
        drawn = system_panels.of_systems(self.t, self.x, self.t_final, self.x_final, words, self.weights)
        return canvas.finished(drawn, path)


@dataclass(frozen=True)
class Ensemble:
    """The systems of a batch, ready to run, with every argument checked.

    Args:
        attention: of all systems.
        cloud: their tokens and weights, and which tokens a token sees under a mask.
        manifold: where the tokens live.
        problem: the arguments of `integrate`, for the batch; its field is a `meanfield.Field`.
    """

    attention: Attention
    cloud: Cloud
    manifold: Manifold
    problem: Problem

    @staticmethod
    def of(problem: Problem) -> Ensemble:
        """Make the ensemble of a problem whose field is a `meanfield.Field`. Raises InputError before any work."""
        if problem.observers:
            remedy = "Ask for states at given times with t_eval, or observe systems one by one."
            raise InputError("observers", f"{len(problem.observers)}", "none for tokens (B, n, d)", remedy)
        field: Any = problem.field
        return Ensemble(field.attention, field.cloud, field.manifold, replace(problem, batch=True))

    def solve(self, progress: Any, *, fuse: bool) -> EnsembleSolution:
        """Run every system to its end; with `fuse` in one kernel, if that is possible."""
        began, problem = clock.monotonic(), self.problem
        with counting(progress, len(self.cloud.x)) as report:
            form = self._form() if fuse else None
            found = (self._batched(report) if form is None else self._fused(form, report)).without_overflows()
        x, status = found.x, tuple(found.status)
        if problem.t_eval is None:
            x = np.stack([problem.y0, found.x_final]) if problem.span.start != problem.span.end else problem.y0[None]
        each = dict(zip(("steps_each", "rejected_each", "evaluations_each"), found.counts.T, strict=True))
        totals = {name.removesuffix("_each"): int(values.sum()) for name, values in each.items()}
        path = "batched" if form is None else "fused"
        stats = {"path": path, "systems": len(status), **totals, "wall_time": clock.monotonic() - began, **each}
        text, settings = summary(status) + leaps_told(found.leaps), problem.settings
        text += "".join(event.remark(found.x_final) for event in problem.events)
        events = tuple(found.t_events.T)
        masses = self.cloud.weights
        weights = None if masses is None else np.broadcast_to(masses, found.x_final.shape[:2]).copy()
        return EnsembleSolution(
            problem.times, x, found.t_final, found.x_final, status, text, events, stats, settings, weights=weights
        )

    def _form(self) -> ReducedForm | None:
        """Return the field as the compiled loop for small systems reads it; None if that cannot move these systems."""
        from .compiled_runs import runs_in_loop

        _, n, d = self.cloud.x.shape
        constant = all(p.constant for p in self.attention.parameters())
        simple = constant and self.cloud.partition.whole and type(self.manifold) in (Euclidean, Sphere)
        if not (simple and n <= _MOST_TOKENS and d <= _LARGEST_DIMENSION and runs_in_loop(self.problem)):
            return None
        form = self.attention._reduced_form(self.problem.span.start)
        return form if form is not None and form.fits(self.cloud.x.dtype).all() else None

    def _batched(self, report: Report) -> Outcome:
        """Run all systems in the loop of `fastpde.integrate`, block by block."""
        count, problem, blocks = len(self.cloud.x), self.problem, []
        size = self._block(1)
        for first in range(0, count, size):
            last = min(first + size, count)
            run = BatchIntegrator(self._part(first, last) if last - first < count else problem)
            while run.left:
                run.attempt()
                report(last - run.left)
            blocks.append(run.outcome())
        return Outcome.joined(blocks)

    def _part(self, first: int, last: int) -> Problem:
        """Return the problem of systems first .. last - 1."""
        problem, which = self.problem, np.arange(first, last)
        noise = None if problem.noise is None else cast(Any, problem.noise).from_system(first)
        own = cast("BatchField", problem.field).systems(which)
        space = problem.space.of_systems(last - first)
        return replace(problem, field=own, y0=problem.y0[first:last], space=space, noise=noise)

    def _fused(self, form: ReducedForm, report: Report) -> Outcome:
        """Run all systems in the compiled loop, block by block."""
        from .batches.small_systems import Fused
        from .compiled_runs import CompiledRuns

        seen, x0, weights, problem = self.cloud.visibility, self.cloud.x, self.cloud.weights, self.problem
        order = slice(None) if seen is None or seen.order is None else seen.order
        limits = None if seen is None else seen.limits
        weights = None if weights is None else weights[:, order]
        batch = Fused(form, x0[:, order], weights, limits, sphere=isinstance(self.manifold, Sphere))
        times = np.empty(0) if problem.t_eval is None else problem.t_eval
        runs = CompiledRuns(problem, batch, times)
        size = self._block(form.A.shape[1])
        for first in range(0, len(x0), size):
            last = min(first + size, len(x0))
            runs.begin(first, last)
            runs.finish(first, last, report)
        found = runs.outcome()
        x, x_final = np.empty_like(found.x), np.empty_like(found.x_final)
        x[:, :, order], x_final[:, order] = found.x, found.x_final
        return found._replace(x=x, x_final=x_final)

    def _block(self, heads: int) -> int:
        """Return how many systems to run together: a step takes a part of a second, or they are many."""
        n = self.cloud.partition.n
        size = int(_PAIRS / (heads * n * n * self.problem.tableau.stages))
        return max(_SMALLEST_BLOCK if n <= MOST_TOKENS else 1, size)


def summary(status: tuple[Status, ...]) -> str:
    """Return a text that says how many systems ended in which way, with the remedies of failures."""
    counts = Counter(status)
    parts = ", ".join(f"{found} {end.value}" for end, found in counts.most_common())
    remedies = "".join(f" {end.value}: {end.message}" for end in counts if not end.success)
    return f"{len(status)} systems: {parts}.{remedies}"
