"""Break points: times at which a field jumps. Steps end there, and every step sees the field on its own side."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from fastpde._times import Beside
from fastpde.integrate.controller import Span

# Break points closer to each other, in spacings of the floating-point numbers there, are one: they differ by rounding.
_ONE = 8.0
# How far inside of a step the field at a break point is evaluated: a fraction of the distance to the next break point,
# which is below the rounding of a step of that length, but at least so many spacings of the floating-point numbers,
# which is above the rounding of the time of the jump.
_SHARE, _SPACINGS = 2.0**-40, 16.0


class Breaks:
    """The break points of a field within a span, its ends included; those next to an end are moved to it.

    Args:
        times: the break points, in any order; those outside of the span do not matter.
        span: the interval of integration.
    """

    def __init__(self, times: Sequence[float], span: Span) -> None:
        self._span = span
        found: list[float] = []
        (least, most), ends = (min(span), max(span)), tuple(span)
        for t in sorted(times):
            for end in ends:
                if _same(t, end):
                    t = end
                    break
            if least <= t <= most and not (found and _same(t, found[-1])):
                found.append(t)
        # In the order in which they are met, and increasing: each is multiplied by the direction.
        self._keys = sorted(span.direction * t for t in found)

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._keys)

    @property
    def inner(self) -> tuple[float, ...]:
        """The break points between the ends of the span, in the order in which they are met."""
        return tuple(self._span.direction * key for key in self._keys if key != self._start and key != self._end)

    def turns(self, t: float) -> bool:
        """Return whether the field changes at t: the next step begins with another f than the last one ended with.

        At the end of the span there is no next step.
        """
        return bool(self._keys) and self._is_break(t) and t != self._span.end

    def piece(self, t: float) -> Span:
        """Return the span, cut off at the next break point after t."""
        if not self._keys:
            return self._span
        place = bisect_right(self._keys, self._span.direction * t)
        return self._span if place == len(self._keys) else Span(self._span.start, self._at(place))

    def begins(self, t: float) -> float:
        """Return the time at which a step that begins at t evaluates the field at its beginning.

        It is t itself, unless t is a break point. At the end of the span it is the time at which the last step ends.
        """
        if not self._keys or not self._is_break(t):
            return t
        return self.ends(t) if t == self._span.end else _inside(t, self.piece(t).end)

    def ends(self, t: float) -> float:
        """Return the time at which a step that ends at t evaluates the field at its end.

        It is t itself, unless t is a break point.
        """
        if not self._keys or not self._is_break(t):
            return t
        place = bisect_left(self._keys, self._span.direction * t)
        return _inside(t, self._at(place - 1) if place else self._span.start)

    @property
    def _start(self) -> float:
        return self._span.direction * self._span.start

    @property
    def _end(self) -> float:
        return self._span.direction * self._span.end

    def _at(self, place: int) -> float:
        return self._span.direction * self._keys[place]

    def _is_break(self, t: float) -> bool:
        key = self._span.direction * t
        place = bisect_left(self._keys, key)
        return place < len(self._keys) and self._keys[place] == key


def _same(s: float, t: float) -> bool:
    return abs(s - t) <= _ONE * math.ulp(max(abs(s), abs(t)))


def _inside(t: float, other: float) -> Beside:
    """Return the time next to t in the direction of `other`."""
    gap = abs(other - t)
    return Beside(t + math.copysign(min(max(_SHARE * gap, _SPACINGS * math.ulp(t)), 0.5 * gap), other - t))
