"""What a run carries along its tokens: tangents, and the logarithm of a density.

The steps of a run are made again, with the derivative of the field at every stage: for stages k_s = F(Y_s) a tangent d
goes through the same formulas,

    dY_s = d + h sum_{r < s} a_sr dk_r,    dk_s = DF(Y_s) dY_s,    d <- d + h sum_s b_s dk_s,

which is the derivative of the numbers that the run computes, for the steps that it chose. The logarithm of a density
obeys (log rho)' = -div F along tokens, for a fixed measure. Source: Theory 12.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ._types import Array, as_numbers
from .attention.derivatives import Linearised, backend_of
from .attention.memory import Memory
from .ensemble import Ensemble, EnsembleSolution
from .errors import InputError
from .integrate import Integrator, Problem, Solution, Status
from .integrate.again import StepAgain, StepsAgain
from .integrate.events import gradient_of
from .integrate.options import function
from .integrate.reporting import check_progress, counting
from .integrate.solution import Recorder
from .integrate.solve import run
from .laws.law import Law, law_of
from .manifold import Euclidean, Manifold

# As many tangents as have so many tokens together are computed in one call, for as many copies of the cloud: the time
# of small sums is that of calls. In large ones pairs of tokens count, and what tangents share is computed once.
_COPIED = 4096
_DENSITY, _MEMORY = "log_density", "memory."  # names in `Follower.parts`


@dataclass
class _Along:
    """What is carried along a step that is made again.

    Attributes:
        step: itself.
        tangents, density: (k, *shape) and shape[:-1], where it begins.
        changes: (S, k, *shape) of its velocities along the tangents; with noise of its increment as one more.
        divergences: (S, *shape[:-1]) of the field at its stages.
        known: how many stages have been computed.
        layer: if the method is that of layers, the velocity before it was made tangent, and its Jacobian (*shape, d).
    """

    step: StepAgain
    tangents: Array
    density: Array
    changes: Array
    divergences: Array
    known: int = 0
    layer: tuple[Array, Array] | None = None


class Follower:
    """Tangents and a log density that the steps of a run take along: call it after each of them.

    Args:
        problem: what is integrated; its field is a `meanfield.Field` of one system, or of systems (B, n, d) that take
            the same steps.
        tangents: (k, *shape) directions of the initial tokens, `shape` that of these; k may be 0.
        log_density: shape[:-1], at the initial tokens; None: it is not wanted.

    Attributes:
        tangents: (k, *shape) float64, where the run is; others may be put in their place between steps.

    Raises:
        InputError: where derivatives are not known: other manifolds, several processes, a density in a run with noise.
    """

    def __init__(self, problem: Problem, tangents: Array, log_density: Array | None = None) -> None:
        self._problem, self._tableau = problem, problem.tableau
        moving: Any = problem.field
        self._moving = moving
        self._manifold: Manifold = moving.manifold
        self._backend = copy(backend_of(moving.backend))  # the run counts its own sums
        noise = None if problem.noise is None else cast(Any, problem.noise).free()
        self._again = StepsAgain(problem.tableau, problem.breaks, self._manifold, noise)
        self._dense = log_density is not None
        if self._dense and noise is not None:
            remedy = "With noise a density changes by its own gradient, too, which tokens do not know."
            raise InputError("log_density", "a value in a run with noise", "noise = 0", remedy)
        self._memory = Memory()
        self._y = problem.y0.astype(np.float64)
        self.tangents = self._pulled(self._y, tangents)
        self._density = np.zeros(self._y.shape[:-1]) if log_density is None else log_density
        self._start = self.tangents, self._density
        self._along: _Along | None = None
        times = np.empty(0) if problem.t_eval is None else problem.t_eval
        self._kept = [Recorder(times, problem.span, one) for one in self._start]
        self._record(problem.span.start)

    def __call__(self, run: Integrator) -> None:
        """Follow the step that a run has just made."""
        t, h = run.last
        with np.errstate(over="ignore", invalid="ignore"):  # tangents grow faster than tokens
            along = self._along = self._made_again(run.state.step - 1, (t, run.state.t), h)
            weights = self._again.rows[-1]
            self._y, self.tangents = run.state.y.astype(np.float64), self._moved(along, weights)
        self._density = self._log_density(along, weights)
        self._record(run.state.t if run.status is None else run.ending().t_final)

    def error(self) -> Array:
        """Return the estimate (k, *shape) of the error of tangents in the last step, which was of an adaptive method.

        Its first and its last tangents must be those that it had.
        """
        along, weights = self._along, self._tableau.b_error
        assert along is not None and weights is not None, "a step of an adaptive method"
        self._finish(along)
        return along.step.h * np.tensordot(weights, along.changes, axes=1)

    def log_density_at(self, t: float) -> Array:
        """Return the log density where the run is, or at a time within its last step."""
        return self._at(t)[1]

    def parts(self) -> dict[str, Array]:
        """Return, by name, what is to be kept of the log density: with it another follower goes on from here."""
        return {_DENSITY: self._density, **{_MEMORY + name: array for name, array in self._memory.arrays.items()}}

    def restore(self, parts: Mapping[str, Array]) -> None:
        """Go on from the `parts` of another follower, at the state from which the run goes on."""
        self._density = parts[_DENSITY]
        for name, array in parts.items():
            if name.startswith(_MEMORY):
                self._memory.arrays[name.removeprefix(_MEMORY)] = array

    def added_to(self, sol: Solution) -> Solution:
        """Return the solution of the run, with what has been followed."""
        return replace(sol, **self.found(sol))

    def found(self, sol: Solution) -> dict[str, Any]:
        """Return the tangents and the log density of the solution `sol`, by the names of its fields."""
        tangents, density = self._at(sol.t_final)
        tangents = tangents + self._of_the_end(sol, tangents)
        rows = np.isin(self._kept[0].t, sol.t)
        kept: Sequence[Array] = [one.x if rows.all() else one.x[rows] for one in self._kept]
        if self._problem.t_eval is None:
            ends = [self._start, (tangents, density)][-len(sol.t) :]
            kept = [np.stack(both) for both in zip(*ends, strict=True)]
        found: dict[str, Any] = {}
        if len(tangents):
            dtype = sol.x.dtype
            found = {"tangents": kept[0].astype(dtype, copy=False), "tangents_final": tangents.astype(dtype)}
        if self._dense:
            found |= {"log_density": kept[1], "log_density_final": density.copy()}
        return found

    # -- steps --------------------------------------------------------------------------------------------------------

    def _made_again(self, number: int, ends: tuple[float, float], h: float) -> _Along:
        """Make a step of the run again, with the changes of tangents, but for its last stage."""
        y, k = self._y, self.tangents
        step = self._again.begin(number, ends, h, y)
        changes = np.zeros((len(step.stages), *k.shape))
        along = _Along(step, k, self._density, changes, np.zeros((self._again.count, *y.shape[:-1])))
        if step.noise is not None:
            changes[-1] = self._manifold.push_projection(y, step.noise, k, np.zeros_like(k))
        for s, weights in enumerate(self._again.rows[:-1]):
            there = self._again.argument(step, s)
            self._stage(along, there, self._moved(along, weights, step.arguments[s]) if s else k)
        return along

    def _moved(self, along: _Along, weights: Sequence[float], y: Array | None = None) -> Array:
        """Return the tangents at the state y + h sum_s weights_s k_s, which is given before it is on the manifold."""
        step = along.step
        weights = weights[: len(step.stages)]
        y = step.y + step.h * np.tensordot(weights, step.stages, axes=1) if y is None else y
        return self._pulled(y, along.tangents + step.h * np.tensordot(weights, along.changes, axes=1))

    def _stage(self, along: _Along, y: Array, tangents: Array) -> None:
        """Compute the next stage: the velocity at y, its changes along the tangents there, its divergence."""
        s, count, step = along.known, len(tangents), along.step
        copies = 1 if y.ndim == 3 else max(1, min(count, _COPIED // len(y)))
        shape = y.shape if y.ndim == 3 else (copies, *y.shape)
        with self._backend.evaluation():
            cloud = self._moving.cloud.with_(x=np.broadcast_to(y, shape).copy(), memory=self._memory)
            linear = self._moving.attention._linearised(cloud, self._again.at(step, s), self._backend)
            if (failure := self._memory.failure()) is not None:
                raise failure
            changes = np.empty_like(tangents)
            for first in range(0, count, copies):
                some = tangents[np.arange(first, first + copies) % count].reshape(shape)  # of the last, perhaps again
                changes[first : first + copies] = linear.push(some, some).reshape(-1, *y.shape)[: count - first]

            def own(found: Array) -> Array:
                """Return what belongs to y: copies have the same."""
                return found if y.ndim == 3 else found[0]

            whole = step.stages[s] = own(linear.field)  # after the changes, whose sums make it, too
            if self._dense and self._tableau.name == "euler":
                along.layer = whole, own(linear.jacobian())
            elif self._dense:
                along.divergences[s] = own(divergence(self._manifold, cloud.x, linear))
        along.changes[s] = self._manifold.push_projection(y, whole, tangents, changes)
        self._manifold.project(y, step.stages[s])
        along.known = s + 1

    def _finish(self, along: _Along) -> None:
        """Compute the last stage of the last step, unless that has been done."""
        if along.known < self._again.count:
            self._stage(along, self._y, self.tangents)

    def _pulled(self, y: Array, tangents: Array) -> Array:
        """Return tangents at y, after this is moved to the manifold; the derivative of that is symmetric."""
        return self._manifold.pull_retraction(y, tangents)

    def _log_density(self, along: _Along, weights: Sequence[float]) -> Array:
        """Return the log density where the weights of the stages lead.

        A step of Euler's method is a layer, a map of tokens, and the density of what it makes of them is exact: small
        volumes are multiplied by the singular values of its derivative.
        """
        step = along.step
        if along.layer is None:
            weights = weights[: len(along.divergences)]
            return along.density - step.h * np.tensordot(weights, along.divergences, axes=1)
        (v, jacobian), y, h = along.layer, step.y, weights[0] * step.h
        basis = np.zeros((y.shape[-1], *y.shape))
        for unit, vectors in enumerate(basis):
            vectors[..., unit] = 1.0
        self._manifold.project(np.broadcast_to(y, basis.shape), basis)
        change = self._manifold.push_projection(y, v, basis, (jacobian @ basis[..., None])[..., 0])
        image = self._pulled(y + h * step.stages[0], basis + h * change)
        values = np.linalg.svd(np.moveaxis(image, 0, -1), compute_uv=False)
        with np.errstate(divide="ignore"):  # a layer that makes two tokens one
            return along.density - np.log(values[..., : self._manifold.dimension(y.shape[-1])]).sum(axis=-1)

    # -- between the ends of a step -----------------------------------------------------------------------------------

    def _at(self, t: float) -> tuple[Array, Array]:
        """Return tangents and log density at a time within the last step."""
        along = self._along
        if along is None or t == along.step.end:
            return self.tangents, self._density
        weights, _ = self._extension(along, t)
        with np.errstate(over="ignore", invalid="ignore"):  # as of the steps
            return self._moved(along, weights), self._log_density(along, weights)

    def _extension(self, along: _Along, t: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return the weights of the stages in y(t), over h, and their derivatives in the fraction of the step."""
        if self._again.dense_needs_last:
            self._finish(along)
        return self._again.between((t - along.step.t) / along.step.h)

    def _record(self, until: float) -> None:
        for i, recorder in enumerate(self._kept):
            recorder.advance(until, lambda t, out, i=i: np.copyto(out, self._at(t)[i]))  # type: ignore[misc]

    def _of_the_end(self, sol: Solution, tangents: Array) -> Array | float:
        """Return how the final tokens move along tangents because the event that ends the run comes sooner or later."""
        along, happened = self._along, zip(self._problem.events, sol.t_events, strict=True)
        last = [event for event, times in happened if event.terminal and sol.t_final in times[-1:]]
        at_a_step = not last or last[0].uses_velocity  # the time is that of a step, which is taken as it is
        if along is None or at_a_step or not len(tangents):
            return 0.0
        slope, gradient = gradient_of(last[0], sol.t_final, sol.x_final.astype(np.float64))
        weights, slopes = self._extension(along, sol.t_final)
        step = along.step
        y, velocity = (np.tensordot(w, step.stages, axes=1) for w in (weights, slopes))
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
    along, density = _checked(problem, tangents, log_density)
    follower = Follower(problem, along, density)
    return follower.added_to(run(problem, progress, follower))


def systems_along(problem: Problem, progress: Any, tangents: Any, log_density: Any) -> EnsembleSolution:
    """Return the solution of systems (B, n, d), with tangents and log densities if they are not None.

    It is that of the batch. Then steps are made again: with steps of a fixed size those of all systems together, if all
    of them reach the end, else system by system, each with its own. Arguments and errors as of `run_along`.
    """
    moving: Any = problem.field
    fuse = moving.backend.fusable
    if tangents is None and log_density is None:
        return Ensemble.of(problem).solve(progress, fuse=fuse)
    check_progress(progress)
    along, density = _checked(problem, tangents, log_density)
    fresh = moving.systems(np.arange(len(problem.y0)))  # which remembers nothing of the first run
    Follower(problem, along, density)  # raises before any work
    sol = Ensemble.of(problem).solve(False, fuse=fuse)
    with counting(progress, len(problem.y0)) as told:
        if not problem.controller.adaptive and all(status is Status.COMPLETED for status in sol.status):
            found = _followed_together(replace(problem, field=fresh, events=()), along, density, told)
        else:
            found = _followed_apart(replace(problem, field=fresh), along, density, sol, told)
    return replace(sol, **found)


def _checked(problem: Problem, tangents: Any, log_density: Any) -> tuple[Array, Array | None]:
    """Return tangents (k, *shape) and log densities shape[:-1] of what a problem starts from, of this shape."""
    start, shape = problem.y0, problem.y0.shape
    along = np.empty((0, *shape)) if tangents is None else as_numbers("tangents", tangents).astype(np.float64)
    if along.shape[1:] != shape or (tangents is not None and not len(along)):
        need = f"shape (k, {', '.join(map(str, shape))}), directions of the tokens"
        raise InputError("tangents", f"shape {along.shape}", need)
    for event in problem.events:
        if len(along) and event.terminal and not event.uses_velocity:
            for x in start.reshape(-1, *shape[-2:]):
                gradient_of(event, problem.span.start, x)
    return along, None if log_density is None else _densities(problem, log_density)


def _densities(problem: Problem, given: Any) -> Array:
    """Return the log density of the tokens that a problem starts from, given it, a function of them, or their law."""
    start, shape, name = problem.y0, problem.y0.shape[:-1], "log_density"
    if isinstance(given, Law):
        law, place = law_of(name, given), cast(Any, problem.field).manifold
        if law.dimension != start.shape[-1]:
            raise InputError(name, f"a law in dimension {law.dimension}", f"one in dimension {start.shape[-1]}")
        if not isinstance(place, Euclidean):
            need = f"values {shape} or a function of the tokens, for densities on {place!r}"
            raise InputError(name, repr(law), need, "A law has its density in all of R^d.")
        found = law.log_density(start)
        if not np.isfinite(found).all():
            at = ", ".join(map(str, np.argwhere(~np.isfinite(found))[0]))
            raise InputError(name, f"{law!r}, whose density is zero at x0[{at}]", "a law from which the tokens are")
    else:
        given = function(name, given, "(x) -> its logarithm at tokens") if callable(given) else given
        found = given(start.copy()) if callable(given) else given
    density = as_numbers(name, found).astype(np.float64)
    if density.shape != shape:
        need = f"shape {shape}, a function of x {start.shape}, or a law, as fp.laws.Ball(2)"
        raise InputError(name, f"shape {density.shape}", need)
    return density


def _followed_together(
    problem: Problem, tangents: Array, density: Array | None, told: Callable[[int], object]
) -> dict[str, Any]:
    """Return what is added to the solution of systems that all reach the end, by the same steps."""
    follower, (start, end), systems = Follower(problem, tangents, density), problem.span, len(problem.y0)

    def follow(integrator: Integrator) -> None:
        follower(integrator)
        told(int(systems * abs(integrator.state.t - start) / abs(end - start)))

    return follower.found(run(problem, False, follow))


def _followed_apart(
    problem: Problem, tangents: Array, density: Array | None, sol: EnsembleSolution, told: Callable[[int], object]
) -> dict[str, Any]:
    """Return what is added to the solution of systems, followed one by one; nan at times that they do not reach."""
    moving: Any = problem.field
    found: dict[str, Any] = {}
    for b, y0 in enumerate(problem.y0):
        noise = None if problem.noise is None else cast(Any, problem.noise).from_system(b)
        space = moving.manifold.space(y0.shape, y0.dtype)
        alone = replace(problem, field=moving.systems(np.array([b])), y0=y0, space=space, noise=noise)
        follower = Follower(alone, tangents[:, b], None if density is None else density[b])
        own = run(alone, False, follower)
        rows: Any = slice(len(own.t)) if problem.t_eval is None else np.isin(sol.t, own.t)
        for name, one in follower.found(own).items():
            final = name.endswith("_final")
            axis = 0 if name.startswith("log") else 1  # that of the systems, among those of a state
            if name not in found:
                shape = [*one.shape] if final else [len(sol.t), *one.shape[1:]]
                shape.insert(axis if final else axis + 1, len(problem.y0))
                found[name] = np.full(shape, np.nan, one.dtype)
            place = np.moveaxis(found[name], axis if final else axis + 1, 0)[b]
            if problem.t_eval is None and not final:
                place[...] = one[-1]  # of a system that ends where it begins, too
            place[... if final else rows] = one
        told(b + 1)
    return found


def divergence(manifold: Manifold, x: Array, linear: Linearised) -> Array:
    """Return the divergence (B, n) on a manifold of a field that is made tangent to it, at its tokens x (B, n, d)."""

    def image(u: Array) -> Array:
        return linear.push(np.zeros_like(x), u)

    return manifold.divergence(x, linear.field, linear.divergence(), image)
