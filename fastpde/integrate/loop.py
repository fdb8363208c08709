"""The loop over attempted steps: what happens before, in and after each of them, for one system or for a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from fastpde.integrate.clocks import Lost
from fastpde.integrate.dense import partition_of
from fastpde.integrate.events import locate
from fastpde.integrate.problem import Problem
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.stepper import Stepper
from fastpde.integrate.tracker import Hit, Tracker
from fastpde.step_rules import crosses

Ends = dict[int, tuple[Status, float]]  # how systems end, and when


class Loop(ABC):
    """An integration in progress; a subclass does with the states what is asked for.

    Args:
        problem: what to integrate.
        state: from where; copied.
        undo: see `Stepper`.
    """

    def __init__(self, problem: Problem, state: State, *, undo: bool = False) -> None:
        self.problem = p = problem
        systems, shown = len(p.y0) if p.batch else None, p.t_eval is not None or bool(p.observers or p.events)
        self._stepper = Stepper(
            p.field, p.tableau, p.controller, p.space, p.span, state, p.noise,
            breaks=p.breaks, undo=undo, dense=undo or shown, systems=systems,
        )  # fmt: skip
        self._begun = False
        self._trackers = [self._tracker() for _ in self._stepper.members] if p.events or not p.batch else []
        self._values = np.empty((len(self._trackers), len(p.events)))  # of the events, where the systems are

    def attempt(self) -> None:
        """Try one step of every system that goes on."""
        stepper, most = self._stepper, self.problem.max_steps
        if not self._begun:
            self._begin()
        if spent := stepper.clocks.spent(stepper.members, most):
            self._finish({b: (Status.MAX_STEPS, t) for b, t in zip(spent, stepper.clocks.times(spent), strict=True)})
        if not stepper.members:
            return
        if lost := stepper.attempt():
            self._lose(lost)
        if stepper.moved:
            self._after_step(stepper.moved)

    @abstractmethod
    def _tracker(self) -> Tracker:
        """Return the tracker of a system."""

    @abstractmethod
    def _measure(self, which: Sequence[int]) -> np.ndarray:
        """Return the values of the events (k, E) of some systems; this may evaluate the field."""

    @abstractmethod
    def _within(self, b: int) -> Callable[[float], np.ndarray]:
        """Return the state of system b as a function of the time within its last step, valid until the next call."""

    @abstractmethod
    def _show_start(self) -> None:
        """Record and show the states at the beginning."""

    @abstractmethod
    def _show(self, which: Sequence[int], untils: Sequence[float]) -> None:
        """Record and show all output that is due within the last steps of some systems, up to the given times."""

    @abstractmethod
    def _end(self, ends: Ends) -> None:
        """Keep the final states of some systems, at times within their last steps, or at the ends of these."""

    @abstractmethod
    def _end_lost(self, lost: Lost) -> None:
        """Keep the final states of systems that cannot go on, which are their present ones."""

    def _finish(self, ends: Ends) -> None:
        self._end(ends)
        self._stepper.drop(ends)

    def _lose(self, lost: Lost) -> None:
        self._end_lost(lost)
        self._stepper.drop(lost)

    def _begin(self) -> None:
        """Show the beginning; end the systems that are at their ends, and choose the first steps of the others."""
        stepper, members = self._stepper, self._stepper.members
        self._show_start()
        hits: dict[int, Hit] = {}
        if self.problem.events:
            self._values[members] = self._measure(members)
            times, steps = stepper.clocks.times(members), stepper.clocks.counts(members)[:, 0]
            for b, t, step, values in zip(members, times, steps, self._values.tolist(), strict=True):
                if step == 0 and (hit := self._trackers[b].at_start(t, values)) is not None:
                    hits[b] = hit
        self._begun = True
        self._close(members, hits)
        if stepper.members and (lost := stepper.prepare()):
            self._lose(lost)

    def _after_step(self, moved: Sequence[int]) -> None:
        hits = self._hits(moved) if self.problem.events else {}
        untils = self._stepper.clocks.times(moved)
        if hits:
            untils = [hits[b].t if b in hits else t for b, t in zip(moved, untils, strict=True)]
        self._show(moved, untils)
        self._close(moved, hits)

    def _hits(self, moved: Sequence[int]) -> dict[int, Hit]:
        """Record the events of the last steps of some systems; return the terminal ones."""
        clocks, hits, before, after = self._stepper.clocks, {}, self._values[moved], self._measure(moved)
        for i in np.flatnonzero(self._crossed(before, after)).tolist():
            b = moved[i]
            old, new = (clocks.move(b).begun, before[i].tolist()), (clocks[b].t, after[i].tolist())
            if (hit := self._trackers[b].after_step(old, new, self._root(b))) is not None:
                hits[b] = hit
        self._values[moved] = after
        return hits

    def _crossed(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the mask (k,) of systems with an event, from the values (k, E) at the ends of their steps."""
        found = np.zeros(len(before), np.bool_)
        for i, event in enumerate(self.problem.events):
            found |= crosses(event.direction, before[:, i], after[:, i])
        return found

    def _close(self, which: Sequence[int], hits: dict[int, Hit]) -> None:
        """End the systems that an event has ended, or that have arrived."""
        end, events = self.problem.span.end, self.problem.events
        ends: Ends = {b: (events[hit.event].status, hit.t) for b, hit in hits.items()}
        ends |= {b: (Status.COMPLETED, end) for b in self._stepper.clocks.arrived(which) if b not in hits}
        if ends:
            self._finish(ends)

    def _root(self, b: int) -> Callable:
        """Return the function that finds the time of an event within the last step of system b."""

        def root(index: int, before: tuple[float, float], after: tuple[float, float]) -> float:
            stepper, event = self._stepper, self.problem.events[index]
            partition = partition_of(stepper.space, stepper.state.y)
            return locate(f"events[{index}]", event, self._within(b), partition, (before, after))

        return root
