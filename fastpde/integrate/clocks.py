"""The clocks of an integration: how far each system is, and the size of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastpde.integrate.breaks import Breaks
from fastpde.integrate.controller import Span
from fastpde.integrate.status import Status
from fastpde.step_rules import factor, is_hopeless, is_lost, remember, shrink, smallest_step, target

# Systems that cannot go on: why, the time of their state, and after how many steps.
Lost = dict[int, tuple[Status, float, int]]


@dataclass(slots=True)
class Clock:
    """The numbers of a system that makes steps of its own, or of many that make the same steps.

    Attributes:
        t: the last accepted time.
        step: the number of accepted steps.
        fresh: whether f has been evaluated (fixed-step methods leave it to the step that needs it, at breaks all do).
        h: the signed size proposed for the next step; 0.0 until one has been chosen.
        error: the scaled error of the last accepted step, for the controller.
        retries: rejections since the last accepted step.
        rejected, evaluations: counters of rejected steps and of calls of the field.
        leaps: how many steps of a fixed size have made the largest entry more than ten times as large.
    """

    t: float
    step: int = 0
    fresh: bool = False
    h: float = 0.0
    error: float = 1.0
    retries: int = 0
    rejected: int = 0
    evaluations: int = 0
    leaps: int = 0

    @property
    def attempts(self) -> int:
        """The number of attempted steps, accepted or not."""
        return self.step + self.rejected


@dataclass(slots=True)
class Move:
    """The last step of a clock, and the one that it tries.

    Attributes:
        begun, size: where the last step began, and its size; before the first, the start and 0.
        chosen: h, error and retries of the clock before it.
        end, h: where the step that is tried ends, and its size.
    """

    begun: float
    size: float
    chosen: tuple[float, float, int]
    end: float = 0.0
    h: float = 0.0


class Clocks:
    """The clocks of B systems: one for each, or one for all, which then make the same steps.

    Attributes:
        every: the clocks.
        own: whether each system has a clock of its own.

    Args:
        clocks: copied.
        controller: `PIController` or `FixedStep`.
        breaks: the times at which the field jumps.
        span: the interval of integration.
    """

    def __init__(self, clocks: Iterable[Clock], controller: Any, breaks: Breaks, span: Span) -> None:
        self.every = [replace(clock) for clock in clocks]
        self._moves = [Move(clock.t, 0.0, (clock.h, clock.error, clock.retries)) for clock in self.every]
        self._controller, self._breaks, self._span = controller, breaks, span
        self.own = len(self.every) > 1

    def of(self, b: int) -> Clock:
        """Return the clock of system b."""
        return self.every[b if self.own else 0]

    def move(self, b: int) -> Move:
        """Return the last step and the next one of system b."""
        return self._moves[b if self.own else 0]

    def pairs(self, which: Sequence[int]) -> list[tuple[Clock, Move]]:
        """Return the clocks of some systems and their steps: one pair for each system, or one for all."""
        if self.own:
            return [(self.every[b], self._moves[b]) for b in which]
        return [(self.every[0], self._moves[0])]

    def spread(self, numbers: Sequence[float], which: Sequence[int]) -> Any:
        """Return numbers of the clocks of `which` as an array (B,), 0 elsewhere; the number if there is one clock."""
        if not self.own:
            return numbers[0]
        found = np.zeros(len(self.every))
        found[which] = numbers
        return found

    def times(self, which: Sequence[int]) -> list[float]:
        """Return how far some systems are."""
        return [self.every[b].t for b in which] if self.own else [self.every[0].t] * len(which)

    def counts(self, which: Sequence[int]) -> np.ndarray:
        """Return the numbers of accepted and rejected steps of some systems, (k, 2)."""
        pairs = [(clock.step, clock.rejected) for clock, _ in self.pairs(which)]
        return np.broadcast_to(np.array(pairs), (len(which), 2))

    def spent(self, which: Sequence[int], most: int) -> list[int]:
        """Return those of some systems that have attempted `most` steps, accepted or not."""
        if self.own:
            return [b for b in which if self.every[b].attempts >= most]
        return list(which) if self.every[0].attempts >= most else []

    def aim(self, which: Sequence[int]) -> Lost:
        """Choose the next step of some systems; return those whose step would be too small."""
        lost: Lost = {}
        if not self._controller.adaptive:
            clock, move = self.every[0], self._moves[0]
            move.end, move.h = self._controller.target(clock.step)
            return lost
        rule, breaks, end = self._controller.rule, self._breaks, self._span.end
        for b, (clock, move) in zip(which, self.pairs(which), strict=True):
            t, h = clock.t, clock.h
            move.end, move.h = target(rule, t, h, breaks.piece(t).end if breaks else end)
            if move.end != end and abs(h) < smallest_step(t):
                lost[b] = Status.STEP_TOO_SMALL, t, clock.step
        return lost

    def accept(self, which: Sequence[int], errors: Sequence[float]) -> list[bool]:
        """Make the steps of some systems; return for each clock whether the field changes at its end."""
        adaptive, breaks, turns = self._controller.adaptive, self._breaks, []
        for b, (clock, move) in zip(which, self.pairs(which), strict=False):
            h, error, retries = move.chosen = clock.h, clock.error, clock.retries
            turned = bool(breaks) and breaks.turns(move.end)
            move.begun, move.size = clock.t, move.h
            if adaptive:
                proposed = move.h * factor(self._controller.rule, errors[b], error, retries)
                # A step that a break point has shortened is no reason to propose less than before.
                clock.h = max(proposed, h, key=abs) if turned else proposed
                clock.error = remember(self._controller.rule, errors[b])
            clock.t, clock.step, clock.retries, clock.fresh = move.end, clock.step + 1, 0, adaptive and not turned
            turns.append(turned)
        return turns

    def reject(self, b: int, error: float, failure: Status) -> Status | None:
        """Shrink the step of system b, whose state or velocity is the `failure` if its error is not finite.

        Returns a status if it cannot go on.
        """
        end = Status.STEP_TOO_SMALL if math.isfinite(error) else failure
        if not self._controller.adaptive:
            return end
        clock, span = self.of(b), self._span
        clock.h = self.move(b).h * shrink(self._controller.rule, error)
        clock.rejected += 1
        clock.retries += 1
        hopeless = is_hopeless(clock.h, smallest_step(clock.t), clock.retries)
        lost = end is Status.NOT_CONVERGED and is_lost(clock.h, clock.retries, span.end - span.start)
        return end if hopeless or lost else None
