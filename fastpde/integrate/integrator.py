"""The integration of one system, driven step by step, by `integrate` or from outside."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastpde.errors import FieldError
from fastpde.integrate.clocks import Lost
from fastpde.integrate.controller import PIController
from fastpde.integrate.dense import partition_of
from fastpde.integrate.events import is_finite, measure
from fastpde.integrate.jumps import can_jump, jump
from fastpde.integrate.loop import Ends, Loop
from fastpde.integrate.observers import Watch
from fastpde.integrate.problem import Problem
from fastpde.integrate.reporting import leaps_told
from fastpde.integrate.solution import Recorder, Solution
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.tracker import Tracker

_OVERFLOWED = (  # of an adaptive method
    "The state or its velocity stopped being finite; the state returned is the last good one. The solution grows "
    "beyond the largest number: add the event BlowUp(radius) to stop before it, or end t_span earlier. A field of your "
    "own must write all of out."
)
_FROM_THE_START = (
    "The velocity of the initial state is not finite. Products of states and parameters may leave the range of the "
    "precision (1e308, in float32 3e38): take smaller units. A field of your own must write all of out."
)


class Ending(NamedTuple):
    """The end of a run: its status, its time, a message, and the error behind it."""

    status: Status
    t_final: float
    message: str
    cause: FieldError | None


class Integrator(Loop):
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
        self.status: Status | None = None
        p = problem
        start = State.initial(p.span.start, p.y0, p.first_step) if state is None else state
        super().__init__(p, start, undo=undo)
        timed = any(observer.by_time for observer in p.observers)
        self._buffer: Any = np.empty_like(p.y0) if timed or p.events else None
        step = None if state is None else start.step
        self._watches = [Watch(observer, p.span, start.t, step) for observer in p.observers]
        times = np.empty(0) if p.t_eval is None else p.t_eval
        self._recorder = Recorder(times, p.span, p.y0, None if state is None else start.t)
        self._final: tuple[float, np.ndarray] | None = None
        self._fresh, self._owing, self._jumps = state is None, False, can_jump(p)
        self._overflowed = False  # whether there was no state to be shown within a step
        if start.t == p.span.end:
            self._begin()

    @property
    def state(self) -> State:
        """The record of the last accepted step; it belongs to the run, `state.copy()` can be kept."""
        return self._stepper.state

    @property
    def last(self) -> tuple[float, float]:
        """Where the last accepted step began, and its signed size."""
        move = self._stepper.clocks.move(0)
        return move.begun, move.size

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
        before = self.state.step
        while self.status is None and self.state.step == before:
            self.attempt()
        return self.status

    def jump(self) -> None:
        """Make the steps before the next state that is looked at in one call of the field, if that can make them."""
        if self._jumps and self._begun and self.status is None:
            jump(self.problem, self._stepper, self._recorder, self._watches)

    def stats(self) -> dict[str, float]:
        """Return the counters of the run so far."""
        now = self.state.clock
        return {
            "steps": now.step,
            "accepted": now.step,
            "rejected": now.rejected,
            "evaluations": now.evaluations,
            "wall_time": clock.monotonic() - self._began,
            "last_step": self._stepper.clocks.move(0).size,
            **getattr(self.problem.field, "stats", dict)(),
        }

    def ending(self) -> Ending:
        """Return how the run has ended, without its states; a run that goes on counts as interrupted here."""
        t_final, status = self._final[0] if self._final else self.state.t, self.status or Status.INTERRUPTED
        cause = self._stepper.cause if status is Status.NOT_CONVERGED else None
        text = status.message if cause is None else f"{cause} The state returned is the last good one."
        if status is Status.NOT_FINITE and self.problem.tableau.adaptive:
            text = _OVERFLOWED if self.state.clock.h else _FROM_THE_START
        return Ending(status, t_final, f"{text} ({self._where(status, t_final)}){self._remark()}", cause)

    def _remark(self) -> str:
        """Return sentences on steps that are larger or smaller than makes sense, and on blind events; or ""."""
        end = self._final[1] if self._final else self.state.y
        unseen = "".join(event.remark(end) for event in self.problem.events)
        return leaps_told(self.state.clock.leaps) + (f" {idle}" if (idle := self.needless()) else "") + unseen

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
        (tracker,) = self._trackers
        events = tracker.times(), tracker.states(x_final)
        return Solution(t, x, status, message, t_final, x_final, *events, self.stats(), cause, self.problem.settings)

    def _tracker(self) -> Tracker:
        return Tracker(self.problem.events, self.problem.span, self._state_at)

    def _state_at(self, t: float) -> np.ndarray:
        """Return the state at a time within the last step, as a new array."""
        y = np.empty_like(self.state.y)
        self._stepper.evaluate(t, y)
        return y

    def _measure(self, which: Sequence[int]) -> np.ndarray:
        stepper, state, values = self._stepper, self.state, []
        partition = partition_of(stepper.space, state.y)
        for i, event in enumerate(self.problem.events):
            velocity = stepper.refresh() if event.uses_velocity else None
            values.append(measure(f"events[{i}]", event, state.t, state.y, velocity, partition))
        return np.array([values])

    def _within(self, b: int) -> Callable[[float], np.ndarray]:
        piece, buffer = self._stepper.piece(), self._buffer

        def state(t: float) -> np.ndarray:
            piece.evaluate(t, buffer)
            return buffer

        return state

    def _show_start(self) -> None:
        if self._fresh:
            self._recorder.advance(self.state.t, self._shown)
            for watch in self._watches:
                watch.call(self.state.t, self.state.y)

    def _after_step(self, moved: Sequence[int]) -> None:
        # What output needs of the field may be evaluated only now, and that may end in an exception.
        self._owing = self._stepper.dense and not self.state.clock.fresh
        super()._after_step(moved)
        self._owing = False

    def _show(self, which: Sequence[int], untils: Sequence[float]) -> None:
        (until,), state, evaluate = untils, self.state, self._shown
        self._recorder.advance(until, evaluate)
        for watch in self._watches:
            watch.between(until, evaluate, self._buffer)
            if until == state.t:
                watch.at_step(state.t, state.y, state.step)

    def _shown(self, t: float, out: np.ndarray) -> bool:
        """Write the state at a time within the last step; return whether it is finite.

        It is not where the continuous extension uses the velocity at the end of the step, and this overflows.
        """
        self._stepper.evaluate(t, out)
        found = is_finite(out, partition_of(self._stepper.space, out))
        self._overflowed |= not found
        return found

    def _end(self, ends: Ends) -> None:
        """Fix the final state and show it to the observers."""
        ((status, t),) = ends.values()
        if status is Status.COMPLETED and self._overflowed:
            status = Status.NOT_FINITE
        x = self.state.y  # no more steps are to come
        if t != self.state.t:
            x = np.empty_like(x) if self._buffer is None else self._buffer  # nor points
            self._stepper.evaluate(t, x)
        self._final, self.status = (t, x), status
        for watch in self._watches:
            watch.call(t, x)

    def _end_lost(self, lost: Lost) -> None:
        self._end({b: (status, t) for b, (status, t, _) in lost.items()})

    def _where(self, status: Status, t: float) -> str:
        text = f"t = {t!r}, {self.state.step} steps"
        bad = self._stepper.first_bad() if status is Status.NOT_FINITE else None
        return text if bad is None else f"{text}, first bad entry of the step tried: {bad}"
