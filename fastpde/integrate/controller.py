"""Step sizes: a PI controller, its first step, and the fixed step as a controller without choice."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

# Two times that differ by less than this fraction of a step are meant to be the same.
_SAME_STEP = 1e-9
_EPS = 2.0**-52
# The smallest step, in spacings of the floating-point numbers at t.
SPACINGS = 10.0


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
    """The proportional-integral control of the step size.

    With err the scaled error of the step (err <= 1 is accepted), prev that of the last accepted step, and k one more
    than the order of the error estimate, the next step is h times

        safety err^(-integral / k) prev^(proportional / k),    clipped to [min_factor, max_factor].

    The controller itself is frozen: `prev` lives in the state record, so that a restart is exact.
    Source: Hairer, Norsett, Wanner (1993) II.4; Gustafsson (1991), ACM Trans. Math. Softw. 17, 533-554.
    """

    rtol: float
    atol: float
    order: int  # k: the local error is O(h^k)
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 5.0
    not_finite_factor: float = 0.1
    smallest_error: float = 1e-4  # one lucky step must not make the next one timid
    integral: float = 0.7
    proportional: float = 0.4
    stretch: float = 1.01

    adaptive: ClassVar[bool] = True

    def target(self, t: float, index: int, h: float, span: Span) -> tuple[float, float]:
        """Return the time at which the next step is to end, and its size; `span` ends at the next break point.

        A step that would leave less than a hundredth of itself is stretched to the end: 1.01^k is far within `safety`,
        and the remainder would be a step of no use.
        """
        remaining = span.end - t
        if abs(remaining) <= self.stretch * abs(h):
            return span.end, remaining
        # t + h - t rather than h: the step taken is the one between the two representable times.
        return t + h, (t + h) - t

    def factor(self, error: float, previous: float, retries: int) -> float:
        """Return the factor on h after an accepted step; after a rejection the step does not grow at once."""
        limit = 1.0 if retries else self.max_factor
        if error == 0.0:
            return limit
        proposal = self.safety * error ** (-self.integral / self.order) * previous ** (self.proportional / self.order)
        return min(limit, max(self.min_factor, proposal))

    def shrink(self, error: float) -> float:
        """Return the factor on h after a rejected step; a non-finite error says only "much less"."""
        if not math.isfinite(error):
            return self.not_finite_factor
        return min(self.safety, max(self.min_factor, self.safety * error ** (-1.0 / self.order)))

    def remember(self, error: float) -> float:
        """Return the error that the next step gets as `previous`."""
        return max(error, self.smallest_error)


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

    def target(self, t: float, index: int, h: float, span: Span) -> tuple[float, float]:
        """Return the time at which step `index` ends, and the size of this step."""
        end, cut = self._end(index)
        begin, cut_before = self._end(index - 1) if index else (self.span.start, False)
        signed, size = self.span.direction * self.step, end - begin
        # A step that differs by the rounding of the times alone is a whole step.
        return end, size if (cut or cut_before) and abs(size - signed) > self._rounding else signed

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


def first_guess(size: float, slope: float) -> float:
    """Return h0 = 0.01 |y| / |f|: an explicit Euler step that changes the state by one per cent.

    `size` and `slope` are the scaled norms of y0 and f(t0, y0). Source: Hairer, Norsett, Wanner (1993) II.4, steps (a),
    (b).
    """
    return 1e-6 if size < 1e-5 or slope < 1e-5 else 0.01 * size / slope


def second_guess(h0: float, slope: float, bend: float, order: int) -> float:
    """Return the first step, with the local error h^order max(|f|, |f'|) near 0.01.

    `bend` is the scaled norm of (f(t0 + h0, y0 + h0 f0) - f0) / h0. Source: Hairer, Norsett, Wanner (1993) II.4, steps
    (d) - (f).
    """
    if not math.isfinite(bend):
        return 1e-3 * h0
    worst = max(slope, bend)
    h1 = max(1e-6, 1e-3 * h0) if worst <= 1e-15 else (0.01 / worst) ** (1.0 / order)
    return min(100.0 * h0, h1)


def smallest_step(t: float) -> float:
    """Return ten spacings of the floating-point numbers at t: below, t + c h cannot tell the stages apart."""
    return SPACINGS * math.ulp(t)
