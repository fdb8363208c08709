"""What a run carries along its tokens: tangents, and the logarithm of a density.

The steps of a run are made again, with the derivative of the field at every stage: for stages k_s = F(Y_s) a tangent d
goes through the same formulas,

    dY_s = d + h sum_{r < s} a_sr dk_r,    dk_s = DF(Y_s) dY_s,    d <- d + h sum_s b_s dk_s,

which is the derivative of the numbers that the run computes, for the steps that it chose. The logarithm of a density
obeys (log rho)' = -div F along tokens, for a fixed measure. Source: Theory 12.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ._types import Array, as_numbers
from .attention.derivatives import Linearised, backend_of
from .attention.memory import Memory
from .errors import InputError
from .integrate import Integrator, Problem, Solution
from .integrate.dense import Chord
from .integrate.events import gradient_of
from .integrate.solution import Recorder
from .integrate.solve import run
from .manifold import Manifold

# As many tangents as have so many tokens together are computed in one call, for as many copies of the cloud: the time
# of small sums is that of calls. In large ones pairs of tokens count, and what tangents share is computed once.
_COPIED = 4096


@dataclass
class _Step:
    """A step made again, from t to `end`.

    Attributes:
        y, tangents, density: (n, d), (k, n, d) and (n,), where it begins.
        velocities: (S, n, d) of its stages, tangent to the manifold; with noise its increment over h as one more.
        changes: (S, k, n, d) of these, along the tangents.
        divergences: (S, n).
        known: how many stages have been computed.
        layer: if the method is that of layers, the velocity before it was made tangent, and its Jacobian (n, d, d).
    """

    t: float
    end: float
    h: float
    y: Array
    tangents: Array
    density: Array
    velocities: Array
    changes: Array
    divergences: Array
    known: int = 0
    layer: tuple[Array, Array] | None = None


class Follower:
    """Tangents and a log density that the steps of a run take along: call it after each of them.

    Args:
        problem: what is integrated; its field is a `meanfield.Field` of one system.
        tangents: (k, n, d) directions of the initial tokens; k may be 0.
        log_density: (n,) at the initial tokens; None: it is not wanted.

    Attributes:
        tangents: (k, n, d) float64, where the run is; others may be put in their place between steps.

    Raises:
        InputError: where derivatives are not known: other manifolds, several processes, a density in a run with noise.
    """

    def __init__(self, problem: Problem, tangents: Array, log_density: Array | None = None) -> None:
        self._problem, self._tableau = problem, problem.tableau
        moving: Any = problem.field
        self._moving = moving
        self._manifold: Manifold = moving.manifold
        self._backend = backend_of(moving.backend)
        self._noise = None if problem.noise is None else cast(Any, problem.noise).free()
        self._dense = log_density is not None
        if self._dense and self._noise is not None:
            remedy = "With noise a density changes by its own gradient, too, which tokens do not know."
            raise InputError("log_density", "a value in a run with noise", "noise = 0", remedy)
        self._memory = Memory()
        self._y = problem.y0.astype(np.float64)
        self.tangents = self._pulled(self._y, tangents)
        self._density = np.zeros(len(self._y)) if log_density is None else log_density
        self._start = self.tangents, self._density
        self._step: _Step | None = None
        times = np.empty(0) if problem.t_eval is None else problem.t_eval
        self._kept = [Recorder(times, problem.span, one) for one in self._start]
        self._record(problem.span.start)

    def __call__(self, run: Integrator) -> None:
        """Follow the step that a run has just made."""
        (t, h), b = run.last, (*self._tableau.b, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):  # tangents grow faster than tokens
            step = self._step = self._again(run.state.step - 1, t, run.state.t, h)
            self._y, self.tangents = run.state.y.astype(np.float64), self._argument(step, b)[1]
        self._density = self._log_density(step, b)
        self._record(run.state.t if run.status is None else run.ending().t_final)

    def error(self) -> Array:
        """Return the estimate (k, n, d) of the error of tangents in the last step, which was of an adaptive method.

        Its first and its last tangents must be those that it had.
        """
        step, weights = self._step, self._tableau.b_error
        assert step is not None and weights is not None, "a step of an adaptive method"
        self._finish(step)
        return step.h * np.tensordot(weights, step.changes, axes=1)

    def added_to(self, sol: Solution) -> Solution:
        """Return the solution of the run, with what has been followed."""
        tangents, density = self._at(sol.t_final)
        tangents = tangents + self._of_the_end(sol, tangents)
        kept: Sequence[Array] = [one.x for one in self._kept]
        if self._problem.t_eval is None:
            ends = [self._start, (tangents, density)][-len(sol.t) :]
            kept = [np.stack(both) for both in zip(*ends, strict=True)]
        found: dict[str, Any] = {}
        if len(tangents):
            dtype = sol.x.dtype
            found = {"tangents": kept[0].astype(dtype, copy=False), "tangents_final": tangents.astype(dtype)}
        if self._dense:
            found |= {"log_density": kept[1], "log_density_final": density.copy()}
        return replace(sol, **found)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _again(self, number: int, t: float, end: float, h: float) -> _Step:
        """Make a step again, but for its last stage."""
        y, k, count = self._y, self.tangents, self._tableau.stages
        rows = count + (self._noise is not None)
        step = _Step(
            t, end, h, y, k, self._density, np.zeros((rows, *y.shape)), np.zeros((rows, *k.shape)),
            np.zeros((count, len(y))),
        )  # fmt: skip
        if self._noise is not None:
            noise = step.velocities[-1]
            self._noise(number, h, y, noise)
            step.changes[-1] = self._manifold.push_projection(y, noise.copy(), k, np.zeros_like(k))
            self._manifold.project(y, noise)
        for s, row in enumerate(self._tableau.a[:-1]):
            there, moved = self._argument(step, (*row, self._tableau.c[s])) if s else (y, k)
            self._stage(step, there, moved)
        return step

    def _argument(self, step: _Step, weights: Sequence[float]) -> tuple[Array, Array]:
        """Return y + h sum_s weights_s k_s on the manifold, and its change along the tangents."""
        weights = weights[: len(step.velocities)]
        y = step.y + step.h * np.tensordot(weights, step.velocities, axes=1)
        moved = self._pulled(y, step.tangents + step.h * np.tensordot(weights, step.changes, axes=1))
        self._manifold.retract(y)
        return y, moved

    def _stage(self, step: _Step, y: Array, tangents: Array) -> None:
        """Compute the next stage: the velocity at y, its changes along the tangents there, its divergence."""
        s, breaks, count = step.known, self._problem.breaks, len(tangents)
        node = self._tableau.c[s]
        t = breaks.begins(step.t) if node == 0.0 else breaks.ends(step.end) if node == 1.0 else step.t + node * step.h
        copies = max(1, min(count, _COPIED // len(y)))
        with self._backend.evaluation():
            cloud = self._moving.cloud.with_(x=np.repeat(y[None], copies, axis=0), memory=self._memory)
            linear = self._moving.attention.linearised(cloud, t, self._backend)
            if (failure := self._memory.failure()) is not None:
                raise failure
            changes = np.empty_like(tangents)
            for first in range(0, count, copies):
                some = tangents[np.arange(first, first + copies) % count]  # of the last ones some may be the first
                changes[first : first + copies] = linear.push(some, some)[: count - first]
            whole = step.velocities[s] = linear.field[0]  # after the changes, whose sums make it, too
            if self._dense and self._tableau.name == "euler":
                step.layer = whole, linear.jacobian()[0]
            elif self._dense:
                step.divergences[s] = divergence(self._manifold, cloud.x, linear)[0]
        step.changes[s] = self._manifold.push_projection(y, whole, tangents, changes)
        self._manifold.project(y, step.velocities[s])
        step.known = s + 1

    def _finish(self, step: _Step) -> None:
        """Compute the last stage of the last step, unless that has been done."""
        if step.known < self._tableau.stages:
            self._stage(step, self._y, self.tangents)

    def _pulled(self, y: Array, tangents: Array) -> Array:
        """Return tangents at y, after this is moved to the manifold; the derivative of that is symmetric."""
        return self._manifold.pull_retraction(y, tangents)

    def _log_density(self, step: _Step, weights: Sequence[float]) -> Array:
        """Return the log density where the weights of the stages lead.

        A step of Euler's method is a layer, a map of tokens, and the density of what it makes of them is exact: small
        volumes are multiplied by the singular values of its derivative.
        """
        if step.layer is None:
            return step.density - step.h * np.tensordot(weights[: len(step.divergences)], step.divergences, axes=1)
        (v, jacobian), y, h = step.layer, step.y, weights[0] * step.h
        basis = np.repeat(np.eye(y.shape[1])[:, None], len(y), axis=1)
        self._manifold.project(np.broadcast_to(y, basis.shape), basis)
        change = self._manifold.push_projection(y, v, basis, np.einsum("nij,bnj->bni", jacobian, basis))
        image = self._pulled(y + h * step.velocities[0], basis + h * change)
        values = np.linalg.svd(np.moveaxis(image, 0, 2), compute_uv=False)
        with np.errstate(divide="ignore"):  # a layer that makes two tokens one
            return step.density - np.log(values[:, : self._manifold.dimension(y.shape[1])]).sum(axis=1)

    # -- between the ends of a step -----------------------------------------------------------------------------------

    def _at(self, t: float) -> tuple[Array, Array]:
        """Return tangents and log density at a time within the last step."""
        step = self._step
        if step is None or t == step.end:
            return self.tangents, self._density
        weights, _ = self._extension(step, t)
        return self._argument(step, weights)[1], self._log_density(step, weights)

    def _extension(self, step: _Step, t: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return the weights of the stages in y(t), over h, and their derivatives in the fraction of the step."""
        theta, noisy = (t - step.t) / step.h, self._noise is not None
        if not noisy and self._tableau.dense_needs_last:
            self._finish(step)
        extension = Chord((*self._tableau.b, 1.0)) if noisy else self._tableau
        return extension.weights_at(theta), extension.slopes_at(theta)

    def _record(self, until: float) -> None:
        for i, recorder in enumerate(self._kept):
            recorder.advance(until, lambda t, out, i=i: np.copyto(out, self._at(t)[i]))  # type: ignore[misc]

    def _of_the_end(self, sol: Solution, tangents: Array) -> Array | float:
        """Return how the final tokens move along tangents because the event that ends the run comes sooner or later."""
        step, happened = self._step, zip(self._problem.events, sol.t_events, strict=True)
        last = [event for event, times in happened if event.terminal and sol.t_final in times[-1:]]
        at_a_step = not last or last[0].uses_velocity  # the time is that of a step, which is taken as it is
        if step is None or at_a_step or not len(tangents):
            return 0.0
        slope, gradient = gradient_of(last[0], sol.t_final, sol.x_final.astype(np.float64))
        weights, slopes = self._extension(step, sol.t_final)
        y, velocity = (np.tensordot(w, step.velocities, axes=1) for w in (weights, slopes))
        velocity = self._pulled(step.y + step.h * y, velocity)
        with np.errstate(divide="ignore", invalid="ignore"):  # an event that its value only touches
            later = -np.tensordot(tangents, gradient, axes=2) / (slope + np.vdot(gradient, velocity))
            return later[:, None, None] * velocity


def run_along(problem: Problem, progress: Any, tangents: Any, log_density: Any) -> Solution:
    """Return the solution of a problem, with tangents and a log density if they are not None.

    Arguments as of `fastpde.solve`. Raises InputError, InputTypeError before any work.
    """
    if tangents is None and log_density is None:
        return run(problem, progress)
    start, (n, d) = problem.y0, problem.y0.shape
    along = np.empty((0, n, d)) if tangents is None else as_numbers("tangents", tangents).astype(np.float64)
    if along.shape[1:] != (n, d) or (tangents is not None and not len(along)):
        raise InputError("tangents", f"shape {along.shape}", f"shape (k, {n}, {d}), directions of the tokens")
    density = None
    if log_density is not None:
        found = log_density(start.copy()) if callable(log_density) else log_density
        density = as_numbers("log_density", found).astype(np.float64)
        if density.shape != (n,):
            raise InputError("log_density", f"shape {density.shape}", f"shape ({n},), or a function of x ({n}, {d})")
    for event in problem.events:
        if len(along) and event.terminal and not event.uses_velocity:
            gradient_of(event, problem.span.start, start)
    follower = Follower(problem, along, density)
    return follower.added_to(run(problem, progress, follower))


def divergence(manifold: Manifold, x: Array, linear: Linearised) -> Array:
    """Return the divergence (B, n) on a manifold of a field that is made tangent to it, at its tokens x (B, n, d)."""

    def image(u: Array) -> Array:
        return linear.push(np.zeros_like(x), u)

    return manifold.divergence(x, linear.field, linear.divergence(), image)
