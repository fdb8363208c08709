"""Step sizes: a PI controller, its first step, and the fixed step as a controller without choice."""

from __future__ import annotations

import math
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
        """+1 forwards, -1 backwards."""
        return math.copysign(1.0, self.end - self.start)

    def reached(self, t: float, until: float) -> bool:
        """Whether t is not past `until` in the direction of integration."""
        return self.direction * (until - t) >= 0.0


@dataclass(frozen=True)
class PIController:
    """Proportional-integral step size control.

    With err the scaled error of the step (err <= 1 is accepted), prev that of the accepted step before, and k one more
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
        """Return the time the next step aims at and its size.

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
        """Return what the next step will be told as `previous`."""
        return max(error, self.smallest_error)


@dataclass(frozen=True)
class FixedStep:
    """Steps of one size to the times start + i step, never accumulated; the last one lands on the end.

    If (end - start) / step is not an integer (to 1e-9) the last step is shorter.
    """

    step: float  # positive in either direction
    span: Span
    count: int = field(init=False)

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        ratio = abs(self.span.end - self.span.start) / self.step
        whole = abs(ratio - round(ratio)) < _SAME_STEP and round(ratio) >= 1
        object.__setattr__(self, "count", round(ratio) if whole else math.ceil(ratio))

    def target(self, t: float, index: int, h: float, span: Span) -> tuple[float, float]:
        """Return the time step `index` ends at and its size."""
        signed = span.direction * self.step
        if index + 1 < self.count:
            return span.start + (index + 1) * signed, signed
        last = span.end - (span.start + index * signed)
        # A last step that differs by the rounding of the times alone is a whole step.
        rounding = 4 * _EPS * max(abs(span.start), abs(span.end))
        return span.end, signed if abs(last - signed) <= rounding else last


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
