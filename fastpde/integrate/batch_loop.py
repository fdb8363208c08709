"""The integration of a batch: each system has the steps, events and end that it would have alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from fastpde.integrate.clocks import Lost
from fastpde.integrate.dense import partition_of
from fastpde.integrate.events import measure_each
from fastpde.integrate.loop import Ends, Loop
from fastpde.integrate.problem import Problem
from fastpde.integrate.solution import BatchRecorder
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.tracker import Tracker


class Outcome(NamedTuple):
    """The results of a batch of B systems.

    Attributes:
        t_final, x_final: (B,) and (B, ...), the last good time and state of each system.
        x: (m, B, ...) states at the times of t_eval; nan where a system has not arrived.
        status: how each system ended.
        t_events: (B, E) the first time of each event; nan where there was none.
        counts: (B, 3) accepted steps, rejected steps and evaluations.
        leaps: how many steps of fixed size have made the largest entry of a system more than ten times as large.
    """

    t_final: np.ndarray
    x_final: np.ndarray
    x: np.ndarray
    status: list[Status]
    t_events: np.ndarray
    counts: np.ndarray
    leaps: int

    @staticmethod
    def joined(parts: list[Outcome]) -> Outcome:
        """Return the results of several batches as those of one."""
        if len(parts) == 1:
            return parts[0]
        t_final, x_final, x, status, t_events, counts, leaps = zip(*parts, strict=True)
        return Outcome(
            np.concatenate(t_final), np.concatenate(x_final), np.concatenate(x, axis=1), [*chain(*status)],
            np.concatenate(t_events), np.concatenate(counts), sum(leaps),
        )  # fmt: skip

    def without_overflows(self) -> Outcome:
        """Return the results with nan for states that overflow between the ends of a step.

        The continuous extension may use the velocity at the end of a step, where it overflows. A system that has such
        states has not reached its end.
        """
        finite = np.isfinite(self.x).all(axis=tuple(range(2, self.x.ndim)))
        if finite.all():
            return self
        self.x[~finite] = np.nan
        each = zip(finite.all(axis=0).tolist(), self.status, strict=True)
        status = [Status.NOT_FINITE if word is Status.COMPLETED and not whole else word for whole, word in each]
        return self._replace(status=status)


class BatchIntegrator(Loop):
    """An integration of B systems in progress: call `attempt` until none are `left`, then `outcome`.

    Args:
        problem: what to integrate; its field is a `calls.BatchField`, and there are no observers.
    """

    def __init__(self, problem: Problem) -> None:
        p, count = problem, len(problem.y0)
        super().__init__(p, State.initial(p.span.start, p.y0, p.first_step, count if p.tableau.adaptive else 1))
        self._recorder = BatchRecorder(np.empty(0) if p.t_eval is None else p.t_eval, p.span, p.y0)
        self._numbers = np.arange(count)  # of the systems that the stepper has
        self._status = [Status.INTERRUPTED] * count
        self._t_final, self._x_final = np.empty(count), np.empty_like(p.y0)
        self._events, self._counts = np.full((count, len(p.events)), np.nan), np.zeros((count, 3), np.int64)

    @property
    def left(self) -> int:
        """The number of systems that go on."""
        return len(self._stepper.members)

    def attempt(self) -> None:
        """Try one step of every system that goes on, in the memory of those alone once half of them have ended."""
        super().attempt()
        stepper, members = self._stepper, self._stepper.members
        if members and 2 * len(members) <= len(self._numbers) and self.problem.noise is None:
            self._trackers = [self._trackers[b] for b in members if self._trackers]
            self._numbers, self._values = self._numbers[members], self._values[members if self._trackers else []]
            self._stepper = stepper.of_members(stepper.space.of_systems(len(members)))

    def outcome(self) -> Outcome:
        """Return the results, once no system is left."""
        leaps = sum(clock.leaps for clock in self._stepper.state.clocks)
        found = self._t_final, self._x_final, self._recorder.x, self._status, self._events, self._counts
        return Outcome(*found, leaps)

    def _tracker(self) -> Tracker:
        return Tracker(self.problem.events, self.problem.span)

    def _measure(self, which: Sequence[int]) -> np.ndarray:
        stepper, values = self._stepper, np.empty((len(which), len(self.problem.events)))
        times, y = stepper.clocks.times(which), stepper.state.y[which]
        partition = partition_of(stepper.space, y)
        for i, event in enumerate(self.problem.events):
            velocity = stepper.refresh(which)[which] if event.uses_velocity else None
            values[:, i] = measure_each(f"events[{i}]", event, times, y, velocity, partition)
        return values

    def _within(self, b: int) -> Callable[[float], np.ndarray]:
        piece, buffer = self._stepper.piece([b]), np.empty_like(self.problem.y0[:1])

        def state(t: float) -> np.ndarray:
            piece.evaluate(t, buffer)
            return buffer[0]

        return state

    def _show_start(self) -> None:
        members = self._stepper.members
        self._show(members, [self.problem.span.start] * len(members))

    def _show(self, which: Sequence[int], untils: Sequence[float]) -> None:
        if not len(self._recorder.x):
            return

        def evaluate(t: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
            self._stepper.evaluate(t, out, [which[place] for place in places])

        self._recorder.advance(self._numbers[which], np.array(untils), evaluate)

    def _end(self, ends: Ends) -> None:
        which, (status, times) = list(ends), zip(*ends.values(), strict=True)
        x = np.empty((len(which), *self._x_final.shape[1:]), self._x_final.dtype)
        self._stepper.evaluate(np.array(times), x, which)
        self._keep(which, status, np.array(times), x)

    def _end_lost(self, lost: Lost) -> None:
        which, (status, times, steps) = list(lost), zip(*lost.values(), strict=True)
        self._keep(which, status, np.array(times), self._stepper.state.y[which])
        self._counts[self._numbers[which], 0] = steps  # the clock that they share with others may have gone on

    def _keep(self, which: list[int], status: Sequence[Status], t: np.ndarray, x: np.ndarray) -> None:
        """Keep how some systems have ended, when and in which states."""
        stepper, numbers = self._stepper, self._numbers[which]
        self._t_final[numbers], self._x_final[numbers] = t, x
        for number, word in zip(numbers.tolist(), status, strict=True):
            self._status[number] = word
        if self.problem.events:
            self._events[numbers] = [self._trackers[b].first_times() for b in which]
        self._counts[numbers, :2] = stepper.clocks.counts(which)
        self._counts[numbers, 2] = stepper.evaluations[which]
