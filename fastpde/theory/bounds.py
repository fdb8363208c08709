"""Explicit bounds of the distance between two clouds of tokens and of the radius of a cloud (Theory 8.1, 8.2).

The radius R grows at the rate w and log C at the rate L of `attention.rates.Rate`. With r = R^2 and one head this is
d log C / dr = L / (2 r w), with the integral 1/2 [xi r + h Ei(e r) + c e^{e r} / e] whatever w is; w determines when a
radius is reached. For several heads with constant w, R grows at the sum of their w, and d log C / dr is the mean of
those of the heads, weighted by w. So there is a closed form for one head, and for heads with constant w, if parameters
are constant between times (numbers, and `Layers`); everything else is integrated numerically.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np

from .._types import Array, as_numbers
from ..attention import Attention, Layers
from ..attention.base import as_attention
from ..attention.rates import Rate
from ..errors import InputError, InputTypeError, explained

# Above these the numerical integration returns inf, which is a bound too: for log C, for log R, and for the growth of
# log R over the whole interval at its present rate. A radius that explodes gets there in a few steps.
_MOST, _FARTHEST, _FASTEST = 1e15, 300.0, 1e6
_RTOL = 1e-10
_LONGEST = 1e9  # time of existence that is looked for where parameters vary, or heads are several
_SMALLEST = -708.0  # the logarithm of a normal number: the bounds of a larger ball hold for a smaller one


@overload
def stability_bound(
    attention: Attention, t: float, R0: float, p: float = 2.0, *, t0: float = 0.0, log: bool = False
) -> float: ...
@overload
def stability_bound(
    attention: Attention, t: Sequence[float] | Array, R0: float, p: float = 2.0, *, t0: float = 0.0, log: bool = False
) -> Array: ...
@explained
def stability_bound(
    attention: Attention, t: Any, R0: Any, p: float = 2.0, *, t0: float = 0.0, log: bool = False
) -> Any:
    """Return C with W_p(mu_t, nu_t) <= C W_p(mu_0, nu_0) for all laws in the ball of radius R0 about 0 at time t0.

    log C = int_{t0}^t L(R(s)) ds with the rate `attention.stability_rate` and the radius `support_bound`. For masked
    attention the distance is the conditional one, `fp.conditional_wasserstein`. Rates are sharp, the radius is
    pessimistic: `measured_stability_bound` uses observed radii instead.

    Args:
        attention: of one system.
        t: a time >= t0, or an array of them.
        R0: the radius, > 0.
        p: a number >= 1, or inf. Sinkhorn attention: 2 only. Masked attention that averages: > 1.
        log: return log C, which overflows later.

    Returns:
        A float, or an array like t; inf where it exceeds the range of numbers, and from where the support may be
        infinite (unnormalised attention).

    Raises:
        InputError, InputTypeError: naming the argument, also where no bound is known.

    Source: Theory 8.1.
    """
    times, start = _times(t, t0)
    _, logs = _bounds(attention, times, start, _positive("R0", R0), _power(p))
    return _shaped(logs if log else _exp(logs), t)


@overload
def support_bound(attention: Attention, t: float, R0: float, *, t0: float = 0.0) -> float: ...
@overload
def support_bound(attention: Attention, t: Sequence[float] | Array, R0: float, *, t0: float = 0.0) -> Array: ...
@explained
def support_bound(attention: Attention, t: Any, R0: Any, *, t0: float = 0.0) -> Any:
    """Return R(t): tokens in the ball of radius R0 about 0 at time t0 are in that of radius R(t) at time t.

    R(t) is R0 e^{int v} for attention that averages and for sigmoid attention, v = |V|, divided by eps for Sinkhorn. It
    is inf from where tokens of unnormalised attention may be infinite. Arguments, result and errors as
    `stability_bound`. Source: Theory 8.2.
    """
    times, start = _times(t, t0)
    radii, _ = _bounds(attention, times, start, _positive("R0", R0), 2.0)
    return _shaped(radii, t)


@explained
def measured_stability_bound(attention: Attention, t: Any, radii: Any, p: float = 2.0, *, log: bool = False) -> Array:
    """Return C (m,) as `stability_bound` from t[0] on, by the radii (m,) of balls with both clouds at times t (m,).

    Between two times the radius is assumed to grow as fast as it can from the last one, so the bound is proved however
    far apart the times are; close ones make it sharp.

    Raises: as `stability_bound`. Source: Theory 8.1, a posteriori.
    """
    start = np.asarray(as_numbers("t", t), float)
    if start.ndim != 1 or not len(start):
        raise InputError("t", f"shape {start.shape}", "times (m,)")
    times, _ = _times(start, float(start[0]))
    seen = np.asarray(as_numbers("radii", radii), float)
    if seen.shape != times.shape or not (seen > 0.0).all():
        raise InputError("radii", f"shape {seen.shape}", f"numbers > 0 of shape {times.shape}, one per time")
    march = _March(attention, _power(p))
    steps = [
        march.to(high, low, _square(radius))[1]
        for low, high, radius in zip(times[:-1].tolist(), times[1:].tolist(), seen.tolist(), strict=False)
    ]
    total = np.concatenate(([0.0], np.cumsum(steps)))
    return total if log else _exp(total)


def existence_time(attention: Attention, R0: float, t0: float = 0.0) -> float:
    """Return a T such that tokens in the ball of radius R0 about 0 at time t0 exist up to t0 + T at least.

    It is inf for attention that averages and for bounded weights; else the time at which `support_bound` is infinite:
    E1(a R0^2) / (2 v) for one head with w = exp, and 1 / (2 v a R0^2) for a linear one. For several heads, and
    parameters in time, it is searched for to 0.1 %, from below.

    Raises: as `support_bound`. Source: Theory 8.2.
    """
    r = _positive("R0", R0) ** 2
    march = _March(attention, 2.0)
    rates = list(attention._rates(march.p, t0))
    if all(rate.power == 0 and rate.b == 0.0 for rate in rates) or not any(rate.v for rate in rates):
        return np.inf
    low, high = 0.0, min(_existence_alone(rate, r) for rate in rates)
    if march.is_constant and len(rates) == 1:
        return high
    while march.to(t0 + high, t0, r)[0] < np.inf and high < _LONGEST:
        low, high = high, 2.0 * high
    while high - low > 1e-3 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if march.to(t0 + middle, t0, r)[0] < np.inf else (low, middle)
    return low


def _existence_alone(rate: Rate, r: float) -> float:
    """Return when R explodes from R^2 = r by R' = w R, with w as it is now; `_LONGEST` if it never does."""
    from scipy.special import exp1

    if rate.v == 0.0 or (rate.power == 0 and rate.b == 0.0):
        return _LONGEST
    return float((1.0 / r if rate.power == 1 else exp1(rate.b * r)) / (2.0 * rate.v))


class _March:
    """The bounds of an attention in W_p: `to` takes R^2 and log C from one time to a later one."""

    def __init__(self, attention: Attention, p: float) -> None:
        self.attention, self.p = as_attention(attention), np.array([p])
        parameters = list(attention.parameters())
        self._steady = all(q.constant or isinstance(q.source, Layers) for q in parameters)
        constant = all(q.constant for q in parameters)
        self._rates = list(attention._rates(self.p, 0.0)) if constant else None

    @property
    def is_constant(self) -> bool:
        """Whether no parameter depends on time."""
        return self._rates is not None

    def to(self, high: float, low: float, r: float) -> tuple[float, float]:
        """Return R^2 at `high` and the growth of log C from `low`, where R^2 is r; (inf, inf) if R may be infinite."""
        total = 0.0
        cuts = sorted({low, high, *(t for t in self.attention.breaks if low < t < high)})
        for start, end in pairwise(cuts):
            r, more = self._piece(r, start, end)
            total += more
            if r == np.inf:
                return np.inf, np.inf
        return r, total

    def _piece(self, r: float, low: float, high: float) -> tuple[float, float]:
        """Return what `to` does, between two times without a break of parameters between them."""
        rates = self._rates or list(self.attention._rates(self.p, 0.5 * (low + high)))
        if self._steady and (len(rates) == 1 or all(rate.power == 0 and rate.b == 0.0 for rate in rates)):
            return _closed(rates, r, high - low)
        return _integrated(self.attention, self.p, r, low, high)


def _bounds(attention: Attention, times: Array, start: float, R0: float, p: float) -> tuple[Array, Array]:
    """Return the radii R and log C (m,) at `times` (m,), not decreasing, from R0 and 0 at `start`."""
    march = _March(attention, p)
    squares, logs = np.empty(len(times)), np.empty(len(times))
    now, r, total = start, _square(R0), 0.0
    for i, t in enumerate(times):
        if r < np.inf:
            r, more = march.to(float(t), now, r)
            now, total = float(t), total + more
        squares[i], logs[i] = r, total
    return np.sqrt(squares), logs


def _closed(rates: list[Rate], r: float, span: float) -> tuple[float, float]:
    """Return R^2 and the growth of log C after a time `span`, in closed form: one head, or heads of constant w."""
    speed = sum(rate.v for rate in rates)
    if speed == 0.0:
        return r, 0.0
    end = _squared_radius(rates[0], speed, r, span)
    if end == np.inf:
        return np.inf, np.inf
    return end, sum(rate.v / speed * _gain(rate, r, end) for rate in rates)


def _squared_radius(rate: Rate, speed: float, r: float, span: float) -> float:
    """Return R^2 a time `span` after it was r, if R' = w R; it is inf if R explodes before.

    w is that of the rate, with `speed` in place of its v.
    """
    if rate.power == 1:
        left = 1.0 - 2.0 * speed * r * span
        return r / left if left > 0.0 else np.inf
    with np.errstate(over="ignore"):
        if rate.b == 0.0:
            return float(r * np.exp(2.0 * speed * span))
    from scipy.optimize import brentq
    from scipy.special import exp1

    # E1(b R^2) falls at the rate 2 v; for b R^2 above 740 it is below the range of numbers. Where R is small,
    # it is nearly a line in log(b R^2), for which it is solved.
    low, high = max(float(np.log(rate.b) + np.log(r)), _SMALLEST), float(np.log(740.0))
    left = exp1(np.exp(low)) - 2.0 * speed * span
    if left <= 0.0:
        return np.inf
    found = brentq(lambda u: exp1(np.exp(u)) - left, low, high, xtol=1e-300, rtol=1e-15)
    return float(np.exp(found)) / rate.b


def _gain(rate: Rate, r: float, end: float) -> float:
    """Return the growth of log C while R^2 grows from r to `end`, that of 1/2 [xi r + h Ei(e r) + c e^{e r} / e].

    A rate may have several xi, h, c, e, each of which is a bound: the least is returned.
    """
    from scipy.special import expi

    if end == r:
        return 0.0
    e, bent = rate.e, rate.e > 0.0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # The difference of exponentials over e, and of Ei, as e -> 0: end - r, and the logarithm.
        power = np.where(bent, np.exp(e * r) * np.expm1(e * (end - r)) / np.where(bent, e, 1.0), end - r)
        inner = np.where(bent, expi(e * end) - expi(e * r), np.log(end / r))
        found = 0.5 * (rate.xi * (end - r) + rate.h * inner + np.where(rate.c > 0.0, rate.c * power, 0.0))
    return float(np.nan_to_num(found, nan=np.inf, posinf=np.inf).min())


def _integrated(attention: Attention, p: Array, r: float, low: float, high: float) -> tuple[float, float]:
    """Return R^2 at `high` and the growth of log C from `low`, where R^2 is r, by an ODE for log R and log C.

    This is for parameters that vary, and for heads whose w are not constant.
    """
    from scipy.integrate import solve_ivp

    if r == np.inf:
        return np.inf, np.inf
    edge = 1e-8 * (high - low)  # a time on the boundary of two layers belongs to the one on this side

    def slope(t: float, y: Array) -> list[float]:
        R = float(np.exp(min(y[0], _FARTHEST)))
        with np.errstate(over="ignore", invalid="ignore"):
            rates = list(attention._rates(p, float(np.clip(t, low + edge, high - edge))))
            found = [sum(rate.of_size(R) for rate in rates), sum(rate.of_distance(R) for rate in rates)]
        return [float(np.nan_to_num(min(f, 1e300), nan=1e300)) for f in found]

    def over(t: float, y: Array) -> float:
        return max(y[0] / _FARTHEST, y[1] / _MOST, slope(t, y)[0] * (high - low) / _FASTEST) - 1.0

    over.terminal = True  # type: ignore[attr-defined]
    with np.errstate(over="ignore", invalid="ignore"):
        found = solve_ivp(slope, (low, high), [0.5 * np.log(r), 0.0], "DOP853", rtol=_RTOL, atol=1e-12, events=over)
    if found.status != 0:
        return np.inf, np.inf
    return float(np.exp(2.0 * found.y[0, -1])), float(found.y[1, -1])


def _square(radius: float) -> float:
    """Return the square of a radius, a normal number at least: the bounds of a larger ball hold for a smaller one."""
    return max(radius * radius, sys.float_info.min)


def _exp(logs: Array) -> Array:
    """Return e^logs, and inf where it overflows."""
    with np.errstate(over="ignore"):
        return np.exp(logs)


def _shaped(values: Array, t: Any) -> Any:
    """Return the values (m,) as an array, or as a float if t is one time."""
    return values if np.ndim(t) else float(values[0])


def _times(t: Any, t0: Any) -> tuple[Array, float]:
    """Return the times (m,), checked not to fall and to be at least t0, and t0."""
    start = float(as_numbers("t0", t0))
    times = np.asarray(as_numbers("t", t), float).reshape(-1)
    if np.ndim(t) > 1 or not len(times) or times[0] < start or (np.diff(times) < 0.0).any():
        raise InputError("t", f"{t!r}", f"a time >= t0 = {start:g}, or times (m,) in order from there")
    return times, start


def _positive(name: str, value: Any) -> float:
    """Check a number > 0, which may be inf or an array without axes. Raises InputError."""
    number = as_numbers(name, value)
    if number.ndim or not number > 0.0:
        raise InputError(name, repr(value), "a number > 0")
    return float(number)


def _power(p: Any) -> float:
    """Check the p of a distance W_p, which may be inf. Raises InputError, InputTypeError."""
    if isinstance(p, bool) or not isinstance(p, int | float | np.floating | np.integer):
        raise InputTypeError("p", repr(p), "a number >= 1, or inf")
    if not p >= 1.0:
        raise InputError("p", repr(p), "a number >= 1, or inf")
    return float(p)
