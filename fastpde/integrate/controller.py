"""Step sizes: a PI controller, and the fixed step as a controller without choice."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

from fastpde.step_rules import PIRule

# Two times that differ by less than this fraction of a step are meant to be the same.
_SAME_STEP = 1e-9
_EPS = 2.0**-52


class Span(NamedTuple):
    """The interval of integration, from `start` to `end`; `end` may be the smaller one."""

    start: float
    end: float

    @property
    def direction(self) -> float:
        """The direction of the integration: +1 forwards, -1 backwards."""
        return math.copysign(1.0, self.end - self.start)

    def reached(self, t: float, until: float) -> bool:
        """Return whether t is not past `until` in the direction of integration."""
        return self.direction * (until - t) >= 0.0


@dataclass(frozen=True)
class PIController:
    """The proportional-integral control of the step size, see `step_rules.PIRule`.

    The controller itself is frozen: the error of the last accepted step lives in the state record, so that a restart is
    exact.
    """

    rtol: float
    atol: float
    order: int  # one more than that of the error estimate

    adaptive: ClassVar[bool] = True

    @cached_property
    def rule(self) -> PIRule:
        """The constants of the control."""
        return PIRule(self.rtol, self.atol, self.order)


class _Piece(NamedTuple):
    """Steps up to a break point or the end: the number of the first, the grid point it aims at, and where all end."""

    first: int
    grid: int
    end: float


@dataclass(frozen=True)
class FixedStep:
    """The control of steps of one size, to the times start + i step, never accumulated; the last one ends at the end.

    If (end - start) / step is not an integer (to 1e-9 and to rounding) the last step is shorter. A break point within a
    step divides it, and the grid of times stays the same; a break point next to a point of the grid (as near) replaces
    it.
    """

    step: float  # positive in either direction
    span: Span
    breaks: tuple[float, ...] = ()  # between the ends of the span, in the order in which they are met
    count: int = field(init=False)
    _pieces: tuple[_Piece, ...] = field(init=False, repr=False)
    _firsts: tuple[int, ...] = field(init=False, repr=False)

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ratio = abs(self.span.end - self.span.start) / self.step
        # What is left between a point of the grid and the end, or a break point, must be more than rounding.
        slack = max(_SAME_STEP, 2.0 * self._rounding / self.step)
        whole = abs(ratio - round(ratio)) < slack and round(ratio) >= 1
        points = round(ratio) if whole else math.ceil(ratio)  # of the grid, the end is the last
        pieces, number, grid = [], 0, 1
        for end in self.breaks:
            place = abs(end - self.span.start) / self.step
            pieces.append(_Piece(number, grid, end))
            number += max(math.ceil(place - slack) - grid, 0) + 1
            grid = max(grid, math.floor(place + slack) + 1)
        pieces.append(_Piece(number, grid, self.span.end))
        number += max(points - grid, 0) + 1 if points else 0
        for name, value in (("count", number), ("_pieces", tuple(pieces)), ("_firsts", tuple(p.first for p in pieces))):
            object.__setattr__(self, name, value)

    def target(self, index: int) -> tuple[float, float]:
        """Return the time at which step `index` ends, and the size of this step."""
        (found,) = self.targets(index, 1)
        return found

    def targets(self, first: int, count: int) -> list[tuple[float, float]]:
        """Return the targets of `count` steps from step `first` on."""
        begin, cut_before = self._end(first - 1) if first else (self.span.start, False)
        signed, rounding, found = self.span.direction * self.step, self._rounding, []
        for index in range(first, first + count):
            end, cut = self._end(index)
            size = end - begin
            # A step that differs by the rounding of the times alone is a whole step.
            found.append((end, size if (cut or cut_before) and abs(size - signed) > rounding else signed))
            begin, cut_before = end, cut
        return found

    @property
    def _rounding(self) -> float:
        return 4 * _EPS * max(abs(self.span.start), abs(self.span.end))

    def _end(self, index: int) -> tuple[float, bool]:
        """Return where step `index` ends, and whether that is a break point or the end, not a point of the grid."""
        place = bisect_right(self._firsts, index) - 1
        piece = self._pieces[place]
        after = self._firsts[place + 1] if place + 1 < len(self._firsts) else self.count
        if index + 1 >= after:
            return piece.end, True
        return self.span.start + (piece.grid + index - piece.first) * self.span.direction * self.step, False
