"""The clocks of an integration: how far each system is, and the size of its steps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fastpde.integrate.breaks import Breaks
from fastpde.integrate.controller import Span
from fastpde.integrate.status import Status
from fastpde.step_rules import (
    factor,
    factors,
    is_hopeless,
    is_lost,
    remember,
    shrink,
    smallest_step,
    smallest_steps,
    target,
    targets,
)

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


class Clocks(ABC):
    """The clocks of B systems: one for each, or one for all, which then make the same steps.

    `which` are systems (k,), in increasing order; what is said of each clock is one for all, or k of them.

    Attributes:
        own: whether each system has a clock of its own.

    Args:
        controller: `PIController` or `FixedStep`.
        breaks: the times at which the field jumps.
        span: the interval of integration.
    """

    own: ClassVar[bool]

    def __init__(self, controller: Any, breaks: Breaks, span: Span) -> None:
        self._controller, self._breaks, self._span = controller, breaks, span

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of clocks."""

    @abstractmethod
    def __getitem__(self, b: int) -> Clock:
        """Return the clock of system b; if each has its own, a copy."""

    def __iter__(self) -> Iterator[Clock]:
        return (self[b] for b in range(len(self)))

    @abstractmethod
    def some(self, which: Sequence[int]) -> Clocks:
        """Return the clocks of some systems, which go on; these are gone."""

    @abstractmethod
    def move(self, b: int) -> Move:
        """Return the last step and the next one of system b."""

    @abstractmethod
    def moves(self, which: Sequence[int]) -> tuple[Any, Any]:
        """Return where the last steps of some systems began, and their sizes, (k,) each."""

    @abstractmethod
    def propose(self, which: Sequence[int], sizes: Sequence[float]) -> None:
        """Propose the next steps of some systems."""

    @abstractmethod
    def spread(self, numbers: Any, which: Any) -> Any:
        """Return numbers of the clocks of `which` as an array (B,), 0 elsewhere; the number if there is one clock."""

    @abstractmethod
    def sizes(self, which: np.ndarray) -> Any:
        """Return the sizes of the steps that are tried, as `spread` does."""

    @abstractmethod
    def times(self, which: Sequence[int]) -> list[float]:
        """Return how far some systems are, (k,)."""

    @abstractmethod
    def arrived(self, which: Sequence[int]) -> list[int]:
        """Return those of some systems that are at the end of the span."""

    @abstractmethod
    def begins(self, which: np.ndarray) -> Sequence[float]:
        """Return for each clock when the field is evaluated at the beginning of its step."""

    @abstractmethod
    def stages(self, which: np.ndarray, c: float) -> Sequence[float]:
        """Return for each clock when the field is evaluated at the fraction c of the step that is tried."""

    @abstractmethod
    def counts(self, which: Sequence[int]) -> np.ndarray:
        """Return the numbers of accepted and rejected steps of some systems, (k, 2)."""

    @abstractmethod
    def spent(self, which: Sequence[int], most: int) -> list[int]:
        """Return those of some systems that have attempted `most` steps, accepted or not."""

    @abstractmethod
    def aim(self, which: np.ndarray) -> Lost:
        """Choose the next step of some systems; return those whose step would be too small."""

    @abstractmethod
    def accept(self, which: np.ndarray, errors: Any) -> np.ndarray:
        """Make the steps of some systems, with errors (B,); return for each clock whether the field changes at its end.

        One clock has one error.
        """

    @abstractmethod
    def reject(self, b: int, error: float, failure: Status) -> Status | None:
        """Shrink the step of system b, whose state or velocity is the `failure` if its error is not finite.

        Returns a status if it cannot go on.
        """

    def _ends_it(self, clock: Clock, error: float, failure: Status) -> Status | None:
        """Return a status if a clock whose step has been shrunk cannot go on."""
        end = Status.STEP_TOO_SMALL if math.isfinite(error) else failure
        hopeless = is_hopeless(clock.h, smallest_step(clock.t), clock.retries)
        lost = end is Status.NOT_CONVERGED and is_lost(clock.h, clock.retries, self._span.end - self._span.start)
        return end if hopeless or lost else None


def clocks_of(given: list[Clock] | Clocks, controller: Any, breaks: Breaks, span: Span) -> Clocks:
    """Return clocks that go on from those given, of which single ones are copied."""
    if isinstance(given, Clocks):
        return given
    kind = OneClock if len(given) == 1 else OwnClocks
    return kind(given, controller, breaks, span)


class OneClock(Clocks):
    """One clock, of all systems."""

    own = False

    def __init__(self, given: list[Clock], controller: Any, breaks: Breaks, span: Span) -> None:
        super().__init__(controller, breaks, span)
        self._clock = clock = replace(given[0])
        self._move = Move(clock.t, 0.0, (clock.h, clock.error, clock.retries))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, b: int) -> Clock:
        return self._clock

    def __iter__(self) -> Iterator[Clock]:
        return iter((self._clock,))

    def some(self, which: Sequence[int]) -> Clocks:
        return self

    def move(self, b: int) -> Move:
        return self._move

    def moves(self, which: Sequence[int]) -> tuple[Any, Any]:
        return self._move.begun, self._move.size

    def propose(self, which: Sequence[int], sizes: Sequence[float]) -> None:
        (self._clock.h,) = sizes

    def spread(self, numbers: Any, which: Any) -> Any:
        return numbers[0]

    def sizes(self, which: np.ndarray) -> Any:
        return self._move.h

    def times(self, which: Sequence[int]) -> list[float]:
        return [self._clock.t] * len(which)

    def arrived(self, which: Sequence[int]) -> list[int]:
        return list(which) if self._clock.t == self._span.end else []

    def begins(self, which: np.ndarray) -> Sequence[float]:
        return [self._breaks.begins(self._clock.t)]

    def stages(self, which: np.ndarray, c: float) -> Sequence[float]:
        # c = 1 means the end of the step, not t + h, which may differ from it by rounding.
        return [self._breaks.ends(self._move.end) if c == 1.0 else self._clock.t + c * self._move.h]

    def counts(self, which: Sequence[int]) -> np.ndarray:
        return np.broadcast_to(np.array([self._clock.step, self._clock.rejected]), (len(which), 2))

    def spent(self, which: Sequence[int], most: int) -> list[int]:
        return list(which) if self._clock.attempts >= most else []

    def aim(self, which: np.ndarray) -> Lost:
        clock, move = self._clock, self._move
        if not self._controller.adaptive:
            move.end, move.h = self._controller.target(clock.step)
            return {}
        end = self._span.end
        until = self._breaks.piece(clock.t).end if self._breaks else end
        move.end, move.h = target(self._controller.rule, clock.t, clock.h, until)
        small = move.end != end and abs(clock.h) < smallest_step(clock.t)
        return {int(which[0]): (Status.STEP_TOO_SMALL, clock.t, clock.step)} if small else {}

    def accept(self, which: np.ndarray, errors: Any) -> np.ndarray:
        clock, move, adaptive = self._clock, self._move, self._controller.adaptive
        h, error, retries = move.chosen = clock.h, clock.error, clock.retries
        turned = bool(self._breaks) and self._breaks.turns(move.end)
        move.begun, move.size = clock.t, move.h
        if adaptive:
            made = float(errors[which[0]]) if isinstance(errors, np.ndarray) else errors
            proposed = move.h * factor(self._controller.rule, made, error, retries)
            # A step that a break point has shortened is no reason to propose less than before.
            clock.h = max(proposed, h, key=abs) if turned else proposed
            clock.error = remember(self._controller.rule, made)
        clock.t, clock.step, clock.retries, clock.fresh = move.end, clock.step + 1, 0, adaptive and not turned
        return np.array([turned])

    def reject(self, b: int, error: float, failure: Status) -> Status | None:
        if not self._controller.adaptive:
            return Status.STEP_TOO_SMALL if math.isfinite(error) else failure
        clock = self._clock
        clock.h = self._move.h * shrink(self._controller.rule, error)
        clock.rejected += 1
        clock.retries += 1
        return self._ends_it(clock, error, failure)


class OwnClocks(Clocks):
    """A clock for each of B systems that make adaptive steps: what `Clock` and `Move` have, in arrays (B,)."""

    own = True

    def __init__(self, given: list[Clock], controller: Any, breaks: Breaks, span: Span) -> None:
        super().__init__(controller, breaks, span)
        self._t, self._h, self._error = (
            np.array([getattr(clock, name) for clock in given], np.float64) for name in ("t", "h", "error")
        )
        self._step, self._retries, self._rejected = (
            np.array([getattr(clock, name) for clock in given], np.int64) for name in ("step", "retries", "rejected")
        )
        self._begun, self._size, self._end, self._tried = self._t.copy(), *np.zeros((3, len(given)))

    def some(self, which: Sequence[int]) -> Clocks:
        if len(which) == 1:
            return OneClock([self[which[0]]], self._controller, self._breaks, self._span)
        for name, numbers in [*vars(self).items()]:
            if isinstance(numbers, np.ndarray):
                vars(self)[name] = numbers[which]
        return self

    def __len__(self) -> int:
        return len(self._t)

    def __getitem__(self, b: int) -> Clock:
        t, h, error = (float(numbers[b]) for numbers in (self._t, self._h, self._error))
        step, retries, rejected = (int(numbers[b]) for numbers in (self._step, self._retries, self._rejected))
        return Clock(t, step, h=h, error=error, retries=retries, rejected=rejected)

    def move(self, b: int) -> Move:
        clock = self[b]
        begun, size, end, h = (float(numbers[b]) for numbers in (self._begun, self._size, self._end, self._tried))
        return Move(begun, size, (clock.h, clock.error, clock.retries), end, h)

    def moves(self, which: Sequence[int]) -> tuple[Any, Any]:
        return self._begun[which], self._size[which]

    def propose(self, which: Sequence[int], sizes: Sequence[float]) -> None:
        self._h[which] = sizes

    def spread(self, numbers: Any, which: Any) -> Any:
        found = np.zeros(len(self))
        found[which] = numbers
        return found

    def sizes(self, which: np.ndarray) -> Any:
        return self.spread(self._tried[which], which)

    def times(self, which: Sequence[int]) -> list[float]:
        return list(self._t[which].tolist())

    def arrived(self, which: Sequence[int]) -> list[int]:
        there = self._t == self._span.end
        return [b for b in which if there[b]] if there.any() else []

    def begins(self, which: np.ndarray) -> Sequence[float]:
        times = list(self._t[which].tolist())
        return [self._breaks.begins(t) for t in times] if self._breaks else times

    def stages(self, which: np.ndarray, c: float) -> Sequence[float]:
        if c == 1.0:
            ends = list(self._end[which].tolist())
            return [self._breaks.ends(t) for t in ends] if self._breaks else ends
        return list((self._t[which] + c * self._tried[which]).tolist())

    def counts(self, which: Sequence[int]) -> np.ndarray:
        return np.stack([self._step[which], self._rejected[which]], axis=1)

    def spent(self, which: Sequence[int], most: int) -> list[int]:
        attempts = self._step + self._rejected
        return [] if attempts.max() < most else [b for b in which if attempts[b] >= most]

    def aim(self, which: np.ndarray) -> Lost:
        t, h, end = self._t[which], self._h[which], self._span.end
        until: Any = np.array([self._breaks.piece(s).end for s in t.tolist()]) if self._breaks else end
        ends, sizes = targets(self._controller.rule, t, h, until)
        self._end[which], self._tried[which] = ends, sizes
        small = (np.abs(h) < smallest_steps(t)) & (ends != end)
        if not small.any():
            return {}
        return {b: (Status.STEP_TOO_SMALL, float(self._t[b]), int(self._step[b])) for b in which[small].tolist()}

    def accept(self, which: np.ndarray, errors: Any) -> np.ndarray:
        rule, made, tried, h = self._controller.rule, errors[which], self._tried[which], self._h[which]
        ends, turned = self._end[which], np.zeros(len(which), np.bool_)
        if self._breaks:
            turned[:] = [self._breaks.turns(t) for t in ends.tolist()]
        proposed = tried * factors(rule, made, self._error[which], self._retries[which])
        # A step that a break point has shortened is no reason to propose less than before.
        self._h[which] = np.where(turned & (np.abs(h) > np.abs(proposed)), h, proposed)
        self._error[which] = np.maximum(made, rule.smallest_error)  # as `remember`
        self._begun[which], self._size[which] = self._t[which], tried
        self._t[which], self._retries[which] = ends, 0
        self._step[which] += 1
        return turned

    def reject(self, b: int, error: float, failure: Status) -> Status | None:
        self._h[b] = float(self._tried[b]) * shrink(self._controller.rule, error)
        self._rejected[b] += 1
        self._retries[b] += 1
        return self._ends_it(self[b], error, failure)
