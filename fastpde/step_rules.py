"""The rules of steps, written once: step sizes, first steps, crossings of events, and what a run is doing.

They are functions of numbers: the stepper of `fastpde.integrate` calls them as they are, and the kernels that move many
small systems compile them (`kernels.motion`, `kernels.flow`). Comparisons take arrays, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

# What a run is doing; EVENT + e: it was ended by event e. By these names `Status` has the outcomes.
CODES = ("RUNNING", "COMPLETED", "MAX_STEPS", "STEP_TOO_SMALL", "NOT_FINITE", "NOT_CONVERGED", "EVENT")
RUNNING, COMPLETED, MAX_STEPS, STEP_TOO_SMALL, NOT_FINITE, NOT_CONVERGED, EVENT = range(len(CODES))

SPACINGS = 10.0  # the smallest step, in spacings of the floating-point numbers at t
# Each rejection shrinks the step by at least 0.9 and usually by 0.2; at t = 0, where floating-point time has no
# smallest step, this bounds the attempts.
MAX_RETRIES = 50
# A velocity that cannot be computed has cost much time: smaller steps are tried at most this often in a row, and only
# down to this fraction of the span.
MAX_FAILURES, SMALLEST_SHARE = 5, 1e-6

RESOLVED = 4.0  # spacings of numbers at the outermost token: what is told apart by less may be equal by rounding
LEAP = 10.0  # growth of the largest entry in a step of a fixed size that is then too large to follow it


class PIRule(NamedTuple):
    """The constants of the proportional-integral control of the step size.

    With err the scaled error of the step (err <= 1 is accepted), prev that of the last accepted step, and k one more
    than the order of the error estimate, the next step is h times

        safety err^(-integral / k) prev^(proportional / k),    clipped to [min_factor, max_factor].

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


def target(rule: PIRule, t: float, h: float, end: float) -> tuple[float, float]:
    """Return the time at which the next step is to end, and its size.

    A step that would leave less than a hundredth of itself is stretched to the end: 1.01^k is far within `safety`, and
    the remainder would be a step of no use.
    """
    remaining = end - t
    if abs(remaining) <= rule.stretch * abs(h):
        return end, remaining
    # t + h - t rather than h: the step taken is the one between the two representable times.
    return t + h, (t + h) - t


def targets(rule: PIRule, t: Any, h: Any, end: Any) -> tuple[Any, Any]:
    """Return what `target` does for arrays (k,), with the same bits; the end may be one for all."""
    remaining, there = end - t, t + h
    near = np.abs(remaining) <= rule.stretch * np.abs(h)
    return np.where(near, end, there), np.where(near, remaining, there - t)


def factor(rule: PIRule, error: float, previous: float, retries: int) -> float:
    """Return the factor on h after an accepted step; after a rejection the step does not grow at once."""
    limit = 1.0 if retries > 0 else rule.max_factor
    if error == 0.0:
        return limit
    proposal = rule.safety * error ** (-rule.integral / rule.order)
    return min(limit, max(rule.min_factor, proposal * previous ** (rule.proportional / rule.order)))


def factors(rule: PIRule, error: Any, previous: Any, retries: Any) -> Any:
    """Return what `factor` does for arrays (k,), with the same bits."""
    fall, rise = -rule.integral / rule.order, rule.proportional / rule.order
    # Powers one by one: those of NumPy's arrays may differ in the last digit.
    proposal = rule.safety * np.array([e**fall if e else math.inf for e in error.tolist()])
    proposal *= np.array([e**rise for e in previous.tolist()])
    limit = np.where(retries > 0, 1.0, rule.max_factor)
    return np.minimum(limit, np.maximum(rule.min_factor, proposal))


def shrink(rule: PIRule, error: float) -> float:
    """Return the factor on h after a rejected step; a non-finite error says only "much less"."""
    if not math.isfinite(error):
        return rule.not_finite_factor
    return min(rule.safety, max(rule.min_factor, rule.safety * error ** (-1.0 / rule.order)))


def remember(rule: PIRule, error: float) -> float:
    """Return the error that the next step gets as `previous`."""
    return max(error, rule.smallest_error)


def smallest_step(t: float) -> float:
    """Return ten spacings of the floating-point numbers at t: below, t + c h cannot tell the stages apart."""
    return SPACINGS * float(np.spacing(abs(t)))


def smallest_steps(t: Any) -> Any:
    """Return what `smallest_step` does for an array (k,)."""
    return SPACINGS * np.spacing(np.abs(t))


def is_hopeless(h: float, least: float, retries: int) -> bool:
    """Return whether h is not tried after so many rejections in a row; least: the smallest step."""
    return retries >= MAX_RETRIES or abs(h) < least


def is_lost(h: float, retries: int, span: float) -> bool:
    """Return whether h is not tried after so many rejections because of velocities that could not be computed."""
    return retries >= MAX_FAILURES or abs(h) < SMALLEST_SHARE * abs(span)


def leaps(before: Any, after: Any) -> Any:
    """Return whether the largest entry has grown so much in a step of a fixed size that it cannot follow."""
    return (after > LEAP * before) & (before > 0.0)


def meeting(spread: Any, size: Any, rounding: float, tol: float) -> Any:
    """Return max(spread, 4 rounding size) / tol - 1, which is at most 0 where tokens within tol have met.

    Tokens that run away come to have equal coordinates, although they draw apart or keep their distance: a spread
    below what positions can resolve says nothing.

    Args:
        spread: the largest distance of a token from the mean.
        size: the largest distance of a token from the origin.
        rounding: the spacing of the floating-point numbers at 1, of the precision of positions.
        tol: within which tokens have met.
    """
    return np.maximum(spread, RESOLVED * rounding * size) / tol - 1.0


def crosses(direction: float, before: Any, after: Any) -> Any:
    """Return whether an event's value has changed its sign between the ends of a step; direction 0: either way."""
    rises, falls = (before < 0.0) & (after >= 0.0), (before > 0.0) & (after <= 0.0)
    if direction > 0.0:
        return rises
    if direction < 0.0:
        return falls
    return rises | falls


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


def first_step(guess: float, remaining: float, t: float) -> float:
    """Return the size of the first step, from a guess: not beyond the end, and not too small to tell stages apart."""
    return max(min(guess, abs(remaining)), smallest_step(t))
