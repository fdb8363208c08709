"""The way back over the steps of a run: from cotangents of its states to those of its start and of all parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .._types import Array
from ..attention.derivatives import WEIGHTS, Linearised
from ..errors import InputError
from ..integrate.again import StepAgain, StepsAgain
from ..integrate.breaks import Breaks
from ..integrate.controller import Span
from ..integrate.tableau import Tableau
from ..meanfield import Field
from ..noise import Brownian
from .retracing import ParameterTotals, by_step, last_first
from .snapshots import Snapshots


@dataclass(frozen=True)
class Ending:
    """A terminal event, which ends the run at a time that follows from the state.

    Attributes:
        slope, gradient: the derivatives of its value e(t, x) in t, and in x (n, d), where it happened.
        of_time: the derivative of the loss in the time.
    """

    slope: float
    gradient: Array
    of_time: float


@dataclass
class _Step:
    """A step made again, its fields ready for derivatives: of its stages, and of the state after it if that is asked.

    Attributes:
        cotangents: of states within the step, with their theta.
    """

    again: StepAgain
    fields: dict[int, Linearised] = field(default_factory=dict)
    cotangents: list[tuple[float, Array]] = field(default_factory=list)


class WayBack:
    """The way back over the steps of a run, of one system or of several that take the same steps.

    Args:
        moving: the field of the run.
        tableau: of its method.
        kept: its steps, and some of its states.
        noise: of the run, or None.
        ending: the event at the last of the times that `run` is given, if one has ended the run within a step.
    """

    def __init__(
        self, moving: Field, tableau: Tableau, kept: Snapshots, noise: Brownian | None, ending: Ending | None = None
    ) -> None:
        self._field, self._kept = moving, kept
        self._manifold, self._ending = moving.manifold, ending
        breaks = Breaks(moving.breaks, Span(kept.times[0], kept.times[-1]))
        self._steps = StepsAgain(tableau, breaks, moving.manifold, noise)
        self._gradients = ParameterTotals()
        self.stats = {
            "steps": len(kept.times) - 1, "velocities": 0, "pullbacks": 0, "kept": len(kept.states),
            "stride": kept.stride,
        }  # fmt: skip

    def run(
        self, at: Array, cotangents: Array, report: Callable[[float, dict[str, float]], object] | None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the gradients in the first state and in the parameters, given those in the states at some times.

        report(t, stats) is called after each step.
        """
        times = self._kept.times
        inside, at_ends = by_step(times, at, cotangents, cut=self._ending is not None)
        final = len(times) - 1
        state = sum(at_ends.get(final, []), np.zeros_like(self._kept.states[0]))
        for step in last_first(self._kept, self._again, lambda n, y: self._again(n, y, linear=True)):
            n, t, h = step.again.number, step.again.t, step.again.h
            step.cotangents = [((at - t) / h, c) for at, c in inside.get(n, [])]
            state = self._pull_step(step, state)
            state = sum(at_ends.get(n, []), state)
            if report is not None:
                report(t, {"steps": final - n})
        state = self._manifold.pull_retraction(self._kept.states[0], state)
        if not self._gradients:  # no step has met a cotangent: the loss does not depend on the run
            masses, n = self._field.cloud.weights, self._field.cloud.x.shape[-2]
            self._gradients[WEIGHTS] = np.zeros(n if masses is None or len(masses) == 1 else masses.shape)
            self._gradients.fill(self._field.attention._named_parameters(), times[0])
        return state, self._gradients

    def _again(self, n: int, y: Array, *, linear: bool = False) -> tuple[_Step, Array]:
        """Make step n again, its fields ready for derivatives if `linear`; return it and the state after it."""
        begins, ends = self._kept.times[n : n + 2]
        step = _Step(self._steps.begin(n, (begins, ends), ends - begins, y))
        for s in range(self._steps.count - 1):
            self._velocity(step, s, self._steps.argument(step.again, s), linear=linear)
        return step, self._steps.argument(step.again, self._steps.count - 1)

    def _pull_step(self, step: _Step, state: Array) -> Array:
        """Return the gradient in the state before a step, given that in the state after it."""
        again, last = step.again, self._steps.count - 1
        h, of_stages, before = again.h, np.zeros_like(again.stages), np.zeros_like(state)
        if step.cotangents and self._steps.dense_needs_last:
            self._velocity(step, last, self._steps.moved(again, last), linear=True)
        for theta, c in step.cotangents:
            weights, slopes = self._steps.between(theta)
            there = again.y + h * np.tensordot(weights, again.stages, axes=1)
            moved = self._manifold.pull_retraction(there, c)
            if self._ending is not None and again.number == len(self._kept.times) - 2 and c is step.cotangents[-1][1]:
                moved = self._at_event(there, moved, np.tensordot(slopes, again.stages, axes=1))
            before += moved
            for s, weight in enumerate(weights):
                of_stages[s] += h * weight * moved
        for s in range(last, -1, -1):
            pulled = state if s == last else np.zeros_like(state)
            if of_stages[s].any():
                pulled = pulled + self._pull_velocity(step, s, of_stages[s])
            if s:
                pulled = self._manifold.pull_retraction(again.arguments[s], pulled)
            before += pulled
            for r, weight in enumerate(self._steps.rows[s]):
                if weight:
                    of_stages[r] += h * weight * pulled
        if again.noise is not None:
            before += self._manifold.pull_projection(again.y, again.noise, of_stages[-1])[0]
        return before

    def _at_event(self, there: Array, moved: Array, rate: Array) -> Array:
        """Return the cotangent of the state at the event for a fixed time, from that for the time of the event.

        `moved` is before the retraction, as is `rate`, the derivative of the state in time.
        """
        ending = self._ending
        assert ending is not None, "there is an event"
        gradient = self._manifold.pull_retraction(there, ending.gradient)
        of_time = ending.of_time + float((moved * rate).sum())
        speed = ending.slope + float((gradient * rate).sum())
        if speed == 0.0:
            need = "derivatives along which it changes when the run meets it: the time of the end depends on that"
            raise InputError("events", "an event whose derivatives do not change it along the run", need)
        found: Array = moved - of_time / speed * gradient
        return found

    # -- velocities ---------------------------------------------------------------------------------------------------

    def _velocity(self, step: _Step, s: int, y: Array, *, linear: bool) -> None:
        """Compute stage s of a step, at y on the manifold. Raises FieldError: of a scaling."""
        t, out, moving = self._steps.at(step.again, s), step.again.stages[s], self._field
        self.stats["velocities"] += 1
        if not linear:
            moving(t, y, out)
        else:
            with moving.backend.evaluation():
                shape = moving.cloud.x.shape
                step.fields[s] = moving.attention._linearised(moving.cloud.with_(x=y.reshape(shape)), t, moving.backend)
                out[...] = step.fields[s].field.reshape(out.shape)
            moving.manifold.project(y, out)
        if (failure := moving.failure()) is not None:
            raise failure

    def _pull_velocity(self, step: _Step, s: int, c: Array) -> Array:
        """Return J(y)^T c of the field on the manifold, and add what it does to the parameters."""
        moving, t, linear = self._field, self._steps.at(step.again, s), step.fields[s]
        with moving.backend.evaluation():
            y, shape = self._steps.moved(step.again, s), moving.cloud.x.shape
            of_state, along = self._manifold.pull_projection(y, linear.field.reshape(y.shape), c)
            found = linear.pull(along.reshape(shape))
        self.stats["pullbacks"] += 1
        for name, p in (*moving.attention._named_parameters(), (WEIGHTS, None)):
            if name in found.parameters:
                own = p is None and moving.cloud.weights is not None and len(moving.cloud.weights) > 1
                self._gradients.add(name, p, t, found.parameters[name], apart=own)
        return of_state + found.x.reshape(y.shape)
