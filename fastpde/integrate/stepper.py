"""One step of a Runge-Kutta method, in place, of one system or of each system of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastpde.errors import FieldError
from fastpde.integrate.breaks import Breaks
from fastpde.integrate.calls import Calls, call_or_undo, remembered
from fastpde.integrate.clocks import Lost, clocks_of
from fastpde.integrate.controller import Span
from fastpde.integrate.dense import Piece
from fastpde.integrate.judge import Judge, holds_somewhere
from fastpde.integrate.stages import NONE, holder
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.tableau import Tableau
from fastpde.step_rules import first_guess, first_step, second_guess

Field = Callable[[float, np.ndarray, np.ndarray], None]

# noise(step, h, y, out) writes N / h into `out`, N the random increment of step number `step`, of size h from y. It
# depends on its arguments alone, so that a restart draws the same numbers.
Noise = Callable[[int, float, np.ndarray, np.ndarray], None]


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

    In a batch each of B systems takes the steps that it would take alone, but a stage is one call of the field for all
    of them. With adaptive steps each system has a clock of its own, with steps of a fixed size they share one. A batch
    has no `undo`, and f in an array of its own.

    Args:
        field: writes f(t, y) into its third argument; it must not change y. See `integrate` for what else it may have.
            That of a batch is a `calls.BatchField`.
        tableau: the method.
        controller: `PIController` for adaptive tableaux, or `FixedStep`.
        space: the arithmetic, see `fastpde.integrate.space`.
        span: the interval of integration.
        state: the state from which to start; copied.
        noise: writes the random velocity of a step, see `Noise`; None: there is none.
        breaks: the times at which the field jumps; None: there are none.
        undo: whether to keep a copy of the field's memory during an evaluation, for one that ends in an exception.
        dense: whether the state within a step, or `before`, may be asked for; without, a step needs less memory.
        systems: the number B of systems of a batch; None: it is one system.

    Attributes:
        members: the systems that go on, in increasing order.
        moved: those that the last attempt has advanced.
        evaluations: (B,) how many velocities each system of a batch has needed.
    """

    def __init__(
        self,
        field: Any,
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
        systems: int | None = None,
    ) -> None:
        self.field, self.tableau, self.controller = field, tableau, controller
        self.space, self.span, self.dense = space, span, dense
        self._noise, self._undo, self._breaks = noise, undo, Breaks((), span) if breaks is None else breaks
        # The array of f at a break point, as the next step sees it.
        apart = tableau.dense_needs_last and bool(self._breaks.inner)
        self._held: Any = holder(tableau, space, state.y, noisy=noise is not None, whole=apart, dense=dense)
        self._trial: Any = np.empty_like(state.y, order="C")
        self._turned: Any = np.full_like(self._trial, np.nan) if apart or systems else self._held.last
        self.clocks = clocks_of(state.clocks, controller, self._breaks, span)
        y, memory = np.array(state.y, order="C"), remembered(field, state.memory)
        self.state = replace(state, y=y, memory=memory, clocks=self.clocks)
        self._held.begin(self.state, state, self._trial)
        self._judge = Judge(space, controller, batch=systems is not None)
        self.cause: FieldError | None = None  # the error behind NOT_CONVERGED
        self.members, self._which = list(range(systems or 1)), np.arange(systems or 1)
        self.moved: list[int] = []
        self._calls = None if systems is None else Calls(field, systems)
        if systems is not None:
            np.copyto(self._turned, state.f)
            self.state.f = self._turned
        self._fresh = np.zeros(systems or 1, np.bool_)  # of a batch, as `Clock.fresh` of one system
        self.evaluations = np.zeros(systems or 1, np.int64)

    # -- systems ------------------------------------------------------------------------------------------------------

    def drop(self, systems: Iterable[int]) -> None:
        """End the steps of some systems."""
        if gone := set(systems):
            self.members = [b for b in self.members if b not in gone]
            self._which = np.array(self.members, np.int64)

    def of_members(self, space: Any) -> Stepper:
        """Return the stepper of the members alone, in less memory; it goes on with their bits, and this one is gone."""
        assert self._calls is not None and self._noise is None
        self._calls.keep(self._which)
        state, which = self.state, self.members
        some = replace(state, clocks=self.clocks.some(which), y=state.y[which], f=state.f[which])
        found = Stepper(
            self.field, self.tableau, self.controller, space, self.span, some,
            breaks=self._breaks, dense=self.dense, systems=len(which),
        )  # fmt: skip
        found._fresh, found.evaluations = self._fresh[which], self.evaluations[which]
        return found

    # -- velocities ---------------------------------------------------------------------------------------------------

    def refresh(self, which: Sequence[int] | None = None) -> np.ndarray:
        """Return f(t, y) at the state, of a batch for the systems `which`, None: all members.

        It is evaluated now where that has not been done.
        """
        state = self.state
        if self._calls is None:
            if not state.clock.fresh:
                with np.errstate(all="ignore"):
                    self._evaluate(self.clocks.begins(self._which), state.y, state.f)
                state.clock.fresh = True
            return state.f
        asked = self._which if which is None else np.asarray(which)
        stale = asked[~self._fresh[asked]]
        if len(stale):
            with np.errstate(all="ignore"):
                self._evaluate(self.clocks.begins(stale), state.y, state.f, stale)
            self._fresh[stale] = True
        return state.f

    def _hand_over(self, f: np.ndarray) -> None:
        """Make f the first stage of the next step."""
        if f is not self._held.first:
            np.copyto(self._held.first, f)
            if self._calls is None:
                self.state.f = self._held.first

    def _evaluate(self, times: Sequence[float], y: np.ndarray, out: np.ndarray, which: Any = None) -> None:
        """Evaluate f at the times of the clocks, of a batch for the systems `which`, None: all members."""
        if self._calls is not None:
            some = self._which if which is None else np.asarray(which)
            self._calls(some, times, y, out)
            self.evaluations[some] += 1
            return
        if self._undo:
            call_or_undo(self.field, self.state.memory, times[0], y, out)
        else:
            self.field(times[0], y, out)
        self.state.clock.evaluations += 1

    def _times(self, c: float) -> Sequence[float]:
        """Return when stages at the fraction c of the steps that are tried are evaluated; one time may be for all."""
        still = self._calls is not None and self.field.constant
        return (self.span.start,) if still else self.clocks.stages(self._which, c)

    # -- steps --------------------------------------------------------------------------------------------------------

    def prepare(self) -> Lost:
        """Choose the first steps of an adaptive method; return the members whose field is not finite at the start."""
        if not self.controller.adaptive or self.state.clocks[0].h != 0.0:
            return {}
        with np.errstate(all="ignore"):
            guesses = self._first_steps()
        lost: Lost = {}
        chosen: dict[int, float] = {}
        for b, t, guess in zip(self.members, self.clocks.times(self.members), guesses, strict=True):
            if guess is None:
                lost[b] = self._not_finite(b), t, self.clocks[b].step
            else:
                chosen[b] = self.span.direction * first_step(guess, self.span.end - t, t)
        if chosen:
            self.clocks.propose(list(chosen), list(chosen.values()))
        return lost

    def attempt(self) -> Lost:
        """Try one step of every member; return those that cannot go on.

        `step` grows, or `rejected` grows and h shrinks. t, y and h are changed only after all arithmetic is done.
        """
        state, self.moved = self.state, []
        # A blow-up is reported by status; NumPy's warnings about it would be noise.
        with np.errstate(all="ignore"):
            if self._calls is not None:
                self._calls.keep(self._which)
            if not state.summed or state.clock.fresh:  # a sum may have the first stage in it, and f be gone
                self._hand_over(self.refresh())
            lost = self.clocks.aim(self._which)
            self.drop(lost)
            return lost | self._settle(self._try()) if self.members else lost

    def jump(self, times: list[list[float]], ends: Sequence[float], sizes: np.ndarray) -> None:
        """Make steps of fixed sizes (k,) in one call of the field, as many as that makes, without what is in between.

        They are those of `attempt`, to the bit. times: (k, S - 1), of their stages; ends: (k,), where they end.
        """
        state, clock = self.state, self.state.clock
        np.copyto(self._trial, state.y)
        found = self.field.march(times, sizes, np.array(self.tableau.a), self.space, self._trial)
        if found is None or not found[0]:
            return
        made, largest = found
        state.y, self._trial = self._trial, state.y
        clock.leaps += self._judge.count_leaps(largest)
        clock.evaluations += made * (self.tableau.stages - 1) - clock.fresh
        clock.t, clock.step, clock.fresh = ends[made - 1], clock.step + made, False

    def _try(self) -> Any:
        """Compute the stages and y1 of the step of every member; return its scaled error, of a batch those (B,) of all.

        Without an error estimate that is 0 if y1 is finite, else nan.
        """
        state, tableau, held = self.state, self.tableau, self._held
        h, adaptive = self.clocks.sizes(self._which), self.controller.adaptive
        if self._noise is not None:
            self._noise(state.step, h, state.y, held.noise)
        for s in held.missing(state):
            held.argument(state, s, h, self._trial)
            self._evaluate(self._times(tableau.c[s]), self._trial, held.slot(s))
            held.note(state, s)
        held.result(state, h, self._trial)
        errors = None if adaptive else self._judge.finite(state.y, self._trial)
        if errors is not None and not holds_somewhere(errors == 0.0):
            return errors
        if self._closes() and len(state.stages) < tableau.stages - 1:
            self._evaluate(self._times(1.0), self._trial, held.last)
            held.note(state, tableau.stages - 1)
        return self._norms(tableau.b_error, h, self._trial) if errors is None else errors

    def _norms(self, coefs: Any, h: Any, y1: np.ndarray) -> Any:
        """Return the scaled size of h sum_s coefs[s] k_s, of a batch for every system (B,)."""
        return self._judge.norms(self._held.rows, coefs, h, self.state.y, y1)

    def _closes(self) -> bool:
        """Return whether the step that is tried, or was the last one, evaluates its last stage.

        It does so for an error estimate. It also does where the next step begins with another f and the continuous
        extension uses this one, whether or not output is wanted: so output changes no step.
        """
        return self.controller.adaptive or (
            self.tableau.dense_needs_last and self._breaks.turns(self.clocks.move(0).end)
        )

    def _settle(self, errors: Any) -> Lost:
        """Accept the steps with small errors and reject the others; return the members that cannot go on."""
        state, lost = self.state, {}
        state.stages = NONE
        state.forget_sum()
        good = errors <= 1.0  # False for nan
        accepted, fine = self._which, good if self._calls is None else good[self._which].all()
        if not fine:
            each, accepted = self._judge.each(errors), self._which[np.atleast_1d(good)[self._which]]
            for b in sorted(set(self.members).difference(accepted.tolist())):
                failure = Status.NOT_FINITE if math.isfinite(each[b]) else self._not_finite(b)
                if (end := self.clocks.reject(b, each[b], failure)) is not None:
                    lost[b] = end, self.clocks[b].t, self.clocks[b].step
        self.moved = self.members if fine else accepted.tolist()
        if not self.moved:
            return lost
        turns = self.clocks.accept(accepted, errors)
        if not self.controller.adaptive:
            state.clocks[0].leaps += self._judge.leaps()
        if self._calls is None:
            state.y, self._trial = self._trial, state.y
            state.f = self._turned if turns[0] else self._held.last
        else:
            self._exchange(accepted, turns)
        return lost

    def _exchange(self, accepted: np.ndarray, turns: np.ndarray) -> None:
        """Make the trials of the accepted systems of a batch their states, and the other way round."""
        state, every = self.state, len(accepted) == len(self.members)
        if every:
            state.y, self._trial = self._trial, state.y
        else:
            state.y[accepted], self._trial[accepted] = self._trial[accepted], state.y[accepted]
        if self.controller.adaptive:
            some = slice(None) if every else accepted
            state.f[some] = self._held.last[some]
        self._fresh[accepted] = np.logical_not(turns) if self.controller.adaptive else False

    def _not_finite(self, b: int) -> Status:
        """Return NOT_FINITE, or NOT_CONVERGED if the field says that it could not compute the velocity."""
        if self._calls is not None:
            return Status.NOT_CONVERGED if self._calls.failed[b] else Status.NOT_FINITE
        self.cause = getattr(self.field, "failure", _no_failure)()
        return Status.NOT_FINITE if self.cause is None else Status.NOT_CONVERGED

    def _first_steps(self) -> list[float | None]:
        """Return the size of the first step of every member, or None if its f(t0, y0) is not finite.

        It costs one evaluation besides f(t0, y0). Source: Hairer, Norsett, Wanner (1993) II.4.
        """
        state, last, count, members = self.state, self._held.last, self.tableau.stages, self.members
        self._hand_over(self.refresh())
        # The last stage is free until the step: it holds y for its own norm, then the second slope.
        np.copyto(last, state.y)
        pick = [(0.0,) * i + (1.0,) + (0.0,) * (count - 1 - i) for i in (0, count - 1)]
        sizes, slopes = (self._judge.each(self._norms(coefs, 1.0, state.y)) for coefs in (pick[1], pick[0]))
        fine = [b for b in members if math.isfinite(slopes[b])]
        if not fine:
            return [None] * len(members)
        h0 = {
            b: min(first_guess(sizes[b], slopes[b]), abs(self._breaks.piece(t).end - t))
            for b, t in zip(fine, self.clocks.times(fine), strict=True)
        }
        signed = [self.span.direction * h for h in h0.values()]
        self.space.combine(state.y, self.clocks.spread(signed, fine), pick[0], self._held.rows, self._trial)
        times = [self._breaks.ends(t + h) for t, h in zip(self.clocks.times(fine), signed, strict=True)]
        self._evaluate(times, self._trial, last, fine)
        inverse = self.clocks.spread([1.0 / h for h in h0.values()], fine)
        bends, order = self._judge.each(self._norms((-1.0, *pick[1][1:]), inverse, state.y)), self.controller.order
        return [second_guess(h0[b], slopes[b], bends[b], order) if b in h0 else None for b in members]

    # -- within and before the last step ------------------------------------------------------------------------------

    def piece(self, which: Sequence[int] | None = None) -> Piece:
        """Return the continuous extension over the last accepted step, of a stepper that is `dense`.

        It may evaluate the FSAL stage. This costs no extra evaluation: the next step begins with it. which: the systems
        (k,) of a batch whose steps are wanted, with times (k,) and states (k, ...).
        """
        held, needs = self._held, self._noise is None and self.tableau.dense_needs_last
        if which is None:
            if needs and self.state.f is held.last:
                self.refresh()
            return held.piece(*self.clocks.moves([0]), self._trial)
        if needs and not self._closes():
            held.last[which] = self.refresh(which)[which]
        begun, sizes = (np.broadcast_to(numbers, len(which)) for numbers in self.clocks.moves(which))
        return held.piece(begun, sizes, self._trial[which], which)

    def evaluate(self, t: Any, out: np.ndarray, which: Sequence[int] | None = None) -> None:
        """Write y(t), for t within the last accepted step, into `out`; at its end exactly the state.

        Of a batch t (k,) are the times of the systems `which`, or one for all, and `out` gets their states (k, ...).
        """
        if which is None:
            if t == self.state.t:
                np.copyto(out, self.state.y)
            else:
                self.piece().evaluate(t, out)
            return
        times, systems = np.broadcast_to(t, len(which)), np.asarray(which)
        ends = times == self.clocks.times(which)
        out[ends] = self.state.y[systems[ends]]
        if not ends.all():
            found = np.empty((np.count_nonzero(~ends), *out.shape[1:]), out.dtype)
            self.piece(systems[~ends].tolist()).evaluate(times[~ends], found)
            out[~ends] = found

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
        """Return a record from which the last step of the only clock is made again, without an evaluation.

        Its arrays are the stepper's. The memory in it is later than that step: it belongs to the next evaluation,
        whichever asks for it.
        """
        move, state = self.clocks.move(0), self.state
        (h, error, retries), clock = move.chosen, state.clock
        then = replace(clock, t=move.begun, step=clock.step - 1, fresh=True, h=h, error=error, retries=retries)
        return replace(state, clocks=[then], y=self._trial, **self._held.known(self._closes()))


def _no_failure() -> None:
    """Return None: the failure of a field that has no `failure`."""
