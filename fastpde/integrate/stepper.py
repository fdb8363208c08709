"""One step of a Runge-Kutta method, in place, with all that it must remember in one record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastpde.errors import FieldError
from fastpde.integrate.breaks import Breaks
from fastpde.integrate.controller import Span
from fastpde.integrate.dense import Piece
from fastpde.integrate.stages import NONE, holder
from fastpde.integrate.state import State, copied
from fastpde.integrate.status import Status
from fastpde.integrate.tableau import Tableau
from fastpde.step_rules import first_guess, first_step, is_hopeless, is_lost, second_guess, smallest_step

Field = Callable[[float, np.ndarray, np.ndarray], None]

# noise(step, h, y, out) writes N / h into `out`, N the random increment of step number `step`, of size h from y. It
# depends on its arguments alone, so that a restart draws the same numbers.
Noise = Callable[[int, float, np.ndarray, np.ndarray], None]

_LEAP = 10.0  # growth of the largest entry in a step of a fixed size that is then too large to follow it


class Stepper:
    """The steps of one integration, made on its own copy of a `State`; a step allocates nothing of the size of a state.

    It holds two arrays of the size of a state, the state and the one being tried, and those of its stages, see
    `fastpde.integrate.stages`. With break points there is another one if the continuous extension uses the last stage:
    f on either side of a break point.

    An exception from the field may end an evaluation anywhere: `state`, the stages known so far included, is then as it
    was before it (the field's memory too, with `undo`).

    With noise the step's increment N enters the argument of stage s as c_s N and the result as N: the Euler-Maruyama
    method and the stochastic Heun method, for y' = f(t, y) + additive noise. Between its ends such a step is a straight
    line. Source: Kloeden, Platen, Numerical Solution of Stochastic Differential Equations (1992), 10.2; Rümelin (1982),
    SIAM J. Numer. Anal. 19, 604-613.

    Args:
        field: writes f(t, y) into its third argument; it must not change y. See `integrate` for what else it may have.
        tableau: the method.
        controller: `PIController` for adaptive tableaux, or `FixedStep`.
        space: the arithmetic, see `fastpde.integrate.space`.
        span: the interval of integration.
        state: the state from which to start; copied.
        noise: writes the random velocity of a step, see `Noise`; None: there is none.
        breaks: the times at which the field jumps; None: there are none.
        undo: whether to keep a copy of the field's memory during an evaluation, for one that ends in an exception.
        dense: whether the state within a step, or `before`, may be asked for; without, a step needs less memory.
    """

    def __init__(
        self,
        field: Field,
        tableau: Tableau,
        controller: Any,
        space: Any,
        span: Span,
        state: State,
        noise: Noise | None = None,
        *,
        breaks: Breaks | None = None,
        undo: bool = False,
        dense: bool = True,
    ) -> None:
        self.field, self.tableau, self.controller, self.space, self.span = (
            field,
            tableau,
            controller,
            space,
            span,
        )
        self.dense = dense
        self._noise, self._undo, self._breaks = noise, undo, breaks or Breaks((), span)
        # The array of f at a break point, as the next step sees it.
        apart = tableau.dense_needs_last and bool(self._breaks.inner)
        self._held: Any = holder(tableau, space, state.y, noisy=noise is not None, whole=apart, dense=dense)
        self._trial: Any = np.empty_like(state.y, order="C")
        self._turned: Any = np.full_like(self._trial, np.nan) if apart else self._held.last
        self.state = replace(state, y=np.array(state.y, order="C"), memory=self._remembered(state))
        self._held.begin(self.state, state, self._trial)
        self._from = (state.t, 0.0)  # start and size of the last accepted step
        self._chosen = (state.h, state.error, state.retries)  # h, error and retries of the state before that step
        # The largest entries before and after the last step of a fixed size.
        self._sizes: tuple[float, float] | None = None
        self.cause: FieldError | None = None  # the error behind NOT_CONVERGED

    def _remembered(self, state: State) -> dict[str, np.ndarray]:
        """Fill the field's own memory with that of the state and return it: they are one object from now on."""
        kept, memory = copied(state.memory), getattr(self.field, "memory", {})
        memory.clear()
        memory.update(kept)
        return memory

    @property
    def last_step(self) -> float:
        """The signed size of the last accepted step; 0.0 before the first."""
        return self._from[1]

    def refresh(self) -> np.ndarray:
        """Return f(t, y) at the state; it is evaluated now if that has not been done."""
        state = self.state
        if not state.fresh:
            with np.errstate(all="ignore"):
                self._evaluate(self._breaks.begins(state.t), state.y, state.f)
            state.fresh = True
        return state.f

    def _hand_over(self, f: np.ndarray) -> None:
        """Make f the first stage of the next step."""
        if f is not self._held.first:
            np.copyto(self._held.first, f)
            self.state.f = self._held.first

    def prepare(self) -> Status | None:
        """Choose the first step of an adaptive method; return a status if the field is not finite at the start."""
        state = self.state
        if not self.controller.adaptive or state.h != 0.0:
            return None
        with np.errstate(all="ignore"):
            size = self._first_step()
        if size is None:
            return self._not_finite()
        state.h = self.span.direction * first_step(size, self.span.end - state.t, state.t)
        return None

    def attempt(self) -> Status | None:
        """Try one step: `step` grows, or `rejected` grows and h shrinks, or a status is returned that ends the run.

        t, y and h are changed only after all arithmetic is done.
        """
        state = self.state
        # A blow-up is reported by status; NumPy's warnings about it would be noise.
        with np.errstate(all="ignore"):
            if state.fresh or not state.summed:  # a sum may have the first stage in it, and f be gone
                self._hand_over(self.refresh())
            t, h = self.controller.target(state.t, state.step, state.h, self._breaks.piece(state.t))
            if self.controller.adaptive and t != self.span.end and self._too_small():
                return Status.STEP_TOO_SMALL
            error = self._try(t, h)
        if error <= 1.0:  # False for nan
            self._accept(t, h, error)
            return None
        return self._reject(h, error)

    def piece(self) -> Piece:
        """Return the continuous extension over the last accepted step, of a stepper that is `dense`.

        It may evaluate the FSAL stage. This costs no extra evaluation: the next step begins with it.
        """
        if self._noise is None and self.tableau.dense_needs_last and self.state.f is self._held.last:
            self.refresh()
        return self._held.piece(*self._from, self._trial)

    def evaluate(self, t: float, out: np.ndarray) -> None:
        """Write y(t), for t within the last accepted step, into `out`; at its end exactly the state."""
        if t == self.state.t:
            np.copyto(out, self.state.y)
        else:
            self.piece().evaluate(t, out)

    def first_bad(self) -> tuple[int, ...] | None:
        """Return the index of the first non-finite entry of the state tried last, after a failure."""
        bad = np.flatnonzero(~np.isfinite(self._trial))
        return tuple(map(int, np.unravel_index(bad[0], self._trial.shape))) if bad.size else None

    def release(self) -> None:
        """Free what only a further step needs, of a stepper that is not `dense`; `state` stays."""
        if not self.dense:
            self._held = self._trial = self._turned = None
            self.state.f = NONE

    def before(self) -> State:
        """Return a record from which the last step is made again, without an evaluation.

        Its arrays are the stepper's. The memory in it is later than that step: it belongs to the next evaluation,
        whichever asks for it.
        """
        (h, error, retries), state = self._chosen, self.state
        kept = replace(state, t=self._from[0], y=self._trial, step=state.step - 1, fresh=True)
        return replace(kept, h=h, error=error, retries=retries, **self._held.known(self._closes(state.t)))

    def _closes(self, t: float) -> bool:
        """Return whether a step to t evaluates its last stage.

        It does so for an error estimate. It also does where the next step begins with another f and the continuous
        extension uses this one, whether or not output is wanted: so output changes no step.
        """
        return self.controller.adaptive or (self.tableau.dense_needs_last and self._breaks.turns(t))

    def _evaluate(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        memory = self.state.memory
        kept = copied(memory) if self._undo else None
        try:
            self.field(t, y, out)
        except BaseException:
            if kept is not None:
                memory.clear()
                memory.update(kept)
            raise
        self.state.evaluations += 1

    def _try(self, t: float, h: float) -> float:
        """Compute the stages and y1 of the step to t; return its scaled error.

        Without an error estimate that is 0 if y1 is finite, else nan.
        """
        state, tableau, space, end, held = self.state, self.tableau, self.space, self._breaks.ends(t), self._held
        if self._noise is not None:
            self._noise(state.step, h, state.y, held.noise)
        for s in held.missing(state):
            held.argument(state, s, h, self._trial)
            c = tableau.c[s]
            # c = 1 means the end of the step, not state.t + h, which may differ from it by rounding.
            self._evaluate(end if c == 1.0 else state.t + c * h, self._trial, held.slot(s))
            held.note(state, s)
        held.result(state, h, self._trial)
        if not self.controller.adaptive:
            size = space.max_norm(self._trial)
            if not math.isfinite(size):
                return math.nan
            before = space.max_norm(state.y) if self._sizes is None else self._sizes[1]
            self._sizes = before, size
        if self._closes(t) and len(state.stages) < tableau.stages - 1:
            self._evaluate(end, self._trial, held.last)
            held.note(state, tableau.stages - 1)
        if not self.controller.adaptive:
            return 0.0
        rtol, atol = self.controller.rtol, self.controller.atol
        return space.error_norm(held.rows, tableau.b_error, h, state.y, self._trial, rtol, atol)

    def _accept(self, t: float, h: float, error: float) -> None:
        state, adaptive, turns = self.state, self.controller.adaptive, self._breaks.turns(t)
        self._from, self._chosen = (state.t, h), (state.h, state.error, state.retries)
        if adaptive:
            proposed = h * self.controller.factor(error, state.error, state.retries)
            # A step that a break point has shortened is no reason to propose less than before.
            state.h = max(proposed, state.h, key=abs) if turns else proposed
            state.error = self.controller.remember(error)
        state.y, self._trial = self._trial, state.y
        state.f, state.fresh = (self._turned, False) if turns else (self._held.last, adaptive)
        state.t, state.step, state.retries, state.stages = t, state.step + 1, 0, NONE
        if self._sizes is not None:
            state.leaps += self._sizes[1] > _LEAP * self._sizes[0] > 0.0
        state.forget_sum()

    def _reject(self, h: float, error: float) -> Status | None:
        self.state.stages = NONE
        self.state.forget_sum()
        state, end = self.state, Status.STEP_TOO_SMALL if math.isfinite(error) else self._not_finite()
        if not self.controller.adaptive:
            return end
        state.h = h * self.controller.shrink(error)
        state.rejected += 1
        state.retries += 1
        hopeless = is_hopeless(state.h, smallest_step(state.t), state.retries)
        lost = end is Status.NOT_CONVERGED and is_lost(state.h, state.retries, self.span.end - self.span.start)
        return end if hopeless or lost else None

    def _not_finite(self) -> Status:
        """Return NOT_FINITE, or NOT_CONVERGED if the field says that it could not compute the velocity."""
        self.cause = getattr(self.field, "failure", _no_failure)()
        return Status.NOT_FINITE if self.cause is None else Status.NOT_CONVERGED

    def _too_small(self) -> bool:
        return abs(self.state.h) < smallest_step(self.state.t)

    def _first_step(self) -> float | None:
        """Return the size of the first step, or None if f(t0, y0) is not finite.

        It costs one evaluation besides f(t0, y0). Source: Hairer, Norsett, Wanner (1993) II.4.
        """
        state, stages, last, count = self.state, self._held.rows, self._held.last, self.tableau.stages
        norm = (state.y, state.y, self.controller.rtol, self.controller.atol)
        self._hand_over(self.refresh())
        # The last stage is free until the step: it holds y for its own norm, then the second slope.
        np.copyto(last, state.y)
        pick = [(0.0,) * i + (1.0,) + (0.0,) * (count - 1 - i) for i in (0, count - 1)]
        size = self.space.error_norm(stages, pick[1], 1.0, *norm)
        slope = self.space.error_norm(stages, pick[0], 1.0, *norm)
        if not math.isfinite(slope):
            return None
        h0 = min(first_guess(size, slope), abs(self._breaks.piece(state.t).end - state.t))
        signed = self.span.direction * h0
        self.space.combine(state.y, signed, pick[0], stages, self._trial)
        self._evaluate(self._breaks.ends(state.t + signed), self._trial, last)
        difference = (-1.0, *pick[1][1:])
        bend = self.space.error_norm(stages, difference, 1.0 / h0, *norm)
        return second_guess(h0, slope, bend, self.controller.order)


def _no_failure() -> None:
    """Return None: the failure of a field that has no `failure`."""
