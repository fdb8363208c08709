"""The loop over steps: an integration that is driven step by step, by `integrate` or from outside."""

from __future__ import annotations

import time as clock
from typing import Any, NamedTuple

import numpy as np

from fastpde.errors import FieldError
from fastpde.integrate.controller import PIController
from fastpde.integrate.observers import Watch
from fastpde.integrate.problem import Problem
from fastpde.integrate.solution import Recorder, Solution
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.stepper import Stepper
from fastpde.integrate.tracker import Tracker

_OVERFLOWED = (  # of an adaptive method
    "The state or its velocity stopped being finite; the state returned is the last good one. The solution grows "
    "beyond the largest number: add the event BlowUp(radius) to stop before it, or end t_span earlier. Otherwise check "
    "that the field writes all of out."
)


class Ending(NamedTuple):
    """The end of a run: its status, its time, a message, and the error behind it."""

    status: Status
    t_final: float
    message: str
    cause: FieldError | None


class Integrator:
    """An integration in progress. Call `step` until it returns a status, then `solution`.

    `snapshot` returns all that a checkpoint must hold: `Integrator(problem, state=saved)` goes on bit for bit. Output
    is not part of it: after a restart only points of t_eval later than the state's time are recorded, events that have
    happened are not repeated, and observers are not called until their cadence is next due.

    Args:
        problem: what to integrate.
        state: the state from which to go on (copied); None: the beginning.
        undo: whether `snapshot` must also work after an exception from the field.
    """

    def __init__(self, problem: Problem, state: State | None = None, *, undo: bool = False) -> None:
        self._began = clock.monotonic()
        self.problem = problem
        self.status: Status | None = None
        start = State.initial(problem.span.start, problem.y0, problem.first_step) if state is None else state
        p = problem
        shown = p.t_eval is not None or bool(p.observers or p.events)
        self._stepper = Stepper(
            p.field, p.tableau, p.controller, p.space, p.span, start, p.noise,
            breaks=p.breaks, undo=undo, dense=undo or shown,
        )  # fmt: skip
        timed = any(observer.by_time for observer in p.observers)
        self._buffer: Any = np.empty_like(p.y0) if timed or p.events else None
        self._tracker = Tracker(p.events, self._stepper, self._buffer)
        step = None if state is None else start.step
        self._watches = [Watch(observer, p.span, start.t, step) for observer in p.observers]
        times = np.empty(0) if p.t_eval is None else p.t_eval
        self._recorder = Recorder(times, p.span, p.y0, None if state is None else start.t)
        self._final: tuple[float, np.ndarray] | None = None
        self._fresh, self._begun, self._owing = state is None, False, False
        if start.t == p.span.end:
            self._begin()

    @property
    def state(self) -> State:
        """The record of the last accepted step; it belongs to the run, `state.copy()` can be kept."""
        return self._stepper.state

    def snapshot(self) -> State | None:
        """Return a copy of all that a run needs to go on from here, also after an exception has ended a step.

        Returns None where that is not possible: a stage that could not be computed is under way.
        """
        held = self.held()
        return None if held is None else held.copy()

    def held(self) -> State | None:
        """Return what `snapshot` does without a copy: the arrays belong to the run, and change with the next step."""
        if self._owing:
            return self._stepper.before()
        failed = self.state.under_way and getattr(self.problem.field, "failure", lambda: None)() is not None
        return None if failed else self.state

    def step(self) -> Status | None:
        """Advance by one accepted step; return the status once the run has ended, else None."""
        if not self._begun:
            self._begin()
        state = self.state
        before = state.step
        while self.status is None and state.step == before:
            if state.accepted + state.rejected >= self.problem.max_steps:
                return self._finish(Status.MAX_STEPS, state.t)
            failure = self._stepper.attempt()
            if failure is not None:
                return self._finish(failure, state.t)
        if state.step == before:
            return self.status
        # What output needs of the field may be evaluated only now, and that may end in an exception.
        self._owing = self._stepper.dense and not state.fresh
        status = self._after_step()
        self._owing = False
        return status

    def interrupt(self) -> None:
        """End the run from outside; observers get no final call, because the run goes on from its state."""
        if self.status is None:
            self._finish(Status.INTERRUPTED, self.state.t)

    def stats(self) -> dict[str, float]:
        """Return the counters of the run so far."""
        state = self.state
        return {
            "steps": state.step,
            "accepted": state.accepted,
            "rejected": state.rejected,
            "evaluations": state.evaluations,
            "wall_time": clock.monotonic() - self._began,
            "last_step": self._stepper.last_step,
            **getattr(self.problem.field, "stats", dict)(),
        }

    def ending(self) -> Ending:
        """Return how the run has ended, without its states; a run that goes on counts as interrupted here."""
        t_final, status = self._final[0] if self._final else self.state.t, self.status or Status.INTERRUPTED
        cause = self._stepper.cause if status is Status.NOT_CONVERGED else None
        text = status.message if cause is None else f"{cause} The state returned is the last good one."
        if status is Status.NOT_FINITE and self.problem.tableau.adaptive:
            text = _OVERFLOWED
        return Ending(status, t_final, f"{text} ({self._where(status, t_final)}){self._remark()}", cause)

    def _remark(self) -> str:
        """Return sentences on steps that are larger or smaller than makes sense; "" if there were none."""
        count, told = self.state.leaps, ""
        if count:
            steps = "1 step" if count == 1 else f"{count} steps"
            told = f" In {steps} the largest entry grew more than tenfold: take smaller steps, or an adaptive method."
        return told + (f" {idle}" if (idle := self.needless()) else "")

    def needless(self) -> str:
        """Return a sentence if rtol asks for more than the velocities have; "" if it does not."""
        rule, known = self.problem.controller, getattr(self.problem.field, "resolution", float)()
        if not isinstance(rule, PIController) or rule.rtol >= known:
            return ""
        return f"rtol = {rule.rtol:g} is below {known:g}, the error that velocities may have: they limit the accuracy."

    def solution(self) -> Solution:
        """Return the `Solution`; a run that has not ended counts as interrupted here."""
        status, t_final, message, cause = self.ending()
        if self.status is Status.COMPLETED:
            self._stepper.release()
        x_final = self._final[1] if self._final else self.state.y.copy()
        if self.problem.t_eval is not None:
            t, x = self._recorder.t, self._recorder.x
        elif t_final == self.problem.span.start:
            t, x = np.array([t_final]), x_final[None].copy()
        else:
            t, x = np.array([self.problem.span.start, t_final]), np.stack([self.problem.y0, x_final])
        events = self._tracker.times(), self._tracker.states()
        return Solution(t, x, status, message, t_final, x_final, *events, self.stats(), cause, self.problem.settings)

    def _begin(self) -> None:
        state, span = self.state, self.problem.span
        if self._fresh:
            self._recorder.advance(state.t, self._stepper.evaluate)
            for watch in self._watches:
                watch.call(state.t, state.y)
        self._tracker.start()
        hit = self._tracker.at_start() if state.step == 0 else None
        self._begun = True
        if hit is not None:
            self._finish(self.problem.events[hit.event].status, hit.t)
        elif state.t == span.end:
            self._finish(Status.COMPLETED, state.t)
        elif (failure := self._stepper.prepare()) is not None:
            self._finish(failure, state.t)

    def _after_step(self) -> Status | None:
        """Record and show all output that is due within the last step, up to its end or to the terminal event."""
        state, evaluate = self.state, self._stepper.evaluate
        hit = self._tracker.after_step()
        until = state.t if hit is None else hit.t
        self._recorder.advance(until, evaluate)
        for watch in self._watches:
            watch.between(until, evaluate, self._buffer)
            if until == state.t:
                watch.at_step(state.t, state.y, state.step)
        if hit is not None:
            return self._finish(self.problem.events[hit.event].status, until)
        return self._finish(Status.COMPLETED, until) if state.t == self.problem.span.end else None

    def _finish(self, status: Status, t: float) -> Status:
        """Fix the final state, at time t within the last step, and show it to the observers."""
        x = self.state.y  # no more steps are to come
        if t != self.state.t:
            x = np.empty_like(x) if self._buffer is None else self._buffer  # nor points
            self._stepper.evaluate(t, x)
        self._final, self.status = (t, x), status
        if status is not Status.INTERRUPTED:
            for watch in self._watches:
                watch.call(t, x)
        return status

    def _where(self, status: Status, t: float) -> str:
        text = f"t = {t!r}, {self.state.step} steps"
        bad = self._stepper.first_bad() if status is Status.NOT_FINITE else None
        return text if bad is None else f"{text}, first bad entry of the step tried: {bad}"
