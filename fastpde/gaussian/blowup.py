"""The detection of a blow-up in finite time, as opposed to growth that merely leaves the range of floats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._types import Array
from ..step_rules import smallest_step

Slope = Callable[[Array], Array]  # y' of states (..., d, 1 + r) at the time where a run ended

_LARGEST = 1e100  # larger states overflow in products; a blow-up is resolved by time only up to about 1e16
_PROBE = 1e-4  # the fraction of the growth time over which its change is measured
_STRAIGHT = 0.02  # |d/dt [tr S / (tr S)']| of exponential growth; for tr S ~ (t* - t)^-p it is 1/p
_SHORT = 1e-6  # largest growth time of a blow-up, relative to the time elapsed; e^{ct} overflows after 700 of its own
_CLOCK, _FOLLOWED, _GROWN = 0.1, 2000, 8.0  # step, number of steps and growth (in e-folds) of a state that is followed
_SPACINGS = 1e3  # the same bound in smallest steps, for spans that are short compared with t


def blowup_times(slope: Slope, start: float, t: Array, states: Array) -> Array:
    """Return the times (B,) at which runs that ended at times t (B,) blow up; nan for runs that do not.

    The runs ended because steps became too small, or numbers were no longer finite.

    With tau = tr S / (tr S)', tr S ~ (t* - t)^-p has tau' = -1/p and t* = t - tau / tau', within the last steps of a
    run. Exponential growth has tau' = 0, also where it overflows, and a tau that is not short compared with the time
    elapsed. Where rounding has spoilt tau', t* = t + tau is used. A mean that grows faster than S counts like S.

    So the error of t* is that of the run: a small multiple of rtol, relative to the time since the start, as long as
    spacings of the floating-point numbers at t are smaller.

    Args:
        slope: the field, of all runs at once.
        start: the time at which the runs began.
        t: (B,) the times at which they ended.
        states: (B, ..., d, 1 + r), the means and factors where they ended.

    Source: Theory 3.
    """
    found = np.full(len(t), np.nan)
    axes = tuple(range(1, states.ndim))
    fit = np.abs(states).max(axis=axes) < _LARGEST
    # The others must not make warnings, or errors of a decomposition.
    y = np.where(fit.reshape(-1, *[1] * len(axes)), states, 0.0)
    with np.errstate(all="ignore"):
        f = slope(y)
        growth = _growth_time(y, f)
        fit &= np.isfinite(growth)
        step = np.where(fit, _PROBE * growth, 0.0)
        later = y + step.reshape(-1, *[1] * len(axes)) * f
        bend = (_growth_time(later, slope(np.where(np.isfinite(later), later, 0.0))) - growth) / step
        resolved = np.array([smallest_step(time) for time in t])
        short = growth <= np.maximum(_SHORT * np.abs(t - start), _SPACINGS * resolved)
        ends = fit & short & ~(np.abs(bend) < _STRAIGHT)
        found[ends] = (t + growth / np.where(bend <= -_STRAIGHT, -bend, 1.0))[ends]
        # A law that turns as fast as it grows may shrink where it was left: it is followed for a while.
        turning = np.flatnonzero(~ends & (np.abs(states).max(axis=axes) < _LARGEST))
        if len(turning):
            more = _followed(slope, y)[turning]
            near = np.maximum(_SHORT * np.abs(t - start), _SPACINGS * resolved)[turning]
            found[turning] = np.where(more <= near, t[turning] + more, np.nan)
    return found


def _followed(slope: Slope, y: Array) -> Array:
    """Return how much later than now states y (B, ...) become infinite, (B,); inf: not in finite time, or not seen.

    They move by Runge-Kutta steps in a rescaled time s, dt = ds |y| / |y'|. A state that has grown by e^8 blows up if
    the second half of that took less than half the time of the first; exponential growth takes as long.
    """
    axes = tuple(range(1, y.ndim))

    def wide(values: Array) -> Array:
        return values.reshape(-1, *[1] * len(axes))

    def moved(state: Array) -> tuple[Array, Array]:
        f = slope(state)
        unit = np.sqrt(np.sum(state * state, axis=axes) / np.sum(f * f, axis=axes))
        return wide(unit) * f, unit

    first = size = 0.5 * np.log(np.sum(y * y, axis=axes))
    passed, half, later = np.zeros(len(y)), np.full(len(y), np.nan), np.full(len(y), np.inf)
    for _ in range(_FOLLOWED):
        k1, u1 = moved(y)
        k2, u2 = moved(y + 0.5 * _CLOCK * k1)
        k3, u3 = moved(y + 0.5 * _CLOCK * k2)
        k4, u4 = moved(y + _CLOCK * k3)
        y = y + _CLOCK / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        passed = passed + _CLOCK / 6.0 * (u1 + 2.0 * u2 + 2.0 * u3 + u4)
        size = 0.5 * np.log(np.sum(y * y, axis=axes))
        half = np.where(np.isnan(half) & (size - first > 0.5 * _GROWN), passed, half)
        grown = np.isinf(later) & (size - first > _GROWN)
        later = np.where(grown & (passed - half < 0.5 * half), passed, later)
        if (grown | np.isfinite(later) | ~np.isfinite(size)).all():
            break
    return later


def _growth_time(y: Array, f: Array) -> Array:
    """Return the shorter positive one of |L|^2 / (|L|^2)' and |mean|^2 / (|mean|^2)', (B,); inf if neither grows."""
    times = []
    for part in (slice(1, None), slice(0, 1)):
        left, right = (a[..., part].reshape(len(a), -1) for a in (y, f))
        size, growth = np.sum(left * left, axis=1), 2.0 * np.sum(left * right, axis=1)
        times.append(np.where(growth > 0.0, size / growth, np.inf))
    return np.minimum(*times)
