"""Where Gaussian laws end: `limit` tells limits and their ranks from blow-up, growth and oscillation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..errors import InputError, InputTypeError
from .explicit import common, drift, explicit, known_rank
from .measure import Gaussian
from .tail import Flow, Point, points
from .verdict import Outcome, Verdict, Way, judge, over, undecided


@dataclass(frozen=True)
class GaussianLimit:
    """What becomes of the covariance S(t) of a Gaussian law, or of a batch of them; `...` are the axes of a batch.

    Attributes:
        outcome: `Outcome`; for a batch an object array (...).
        rank: (...) of the limit if it converges, otherwise -1.
        cov: (..., d, d) the limit; nan unless it converges.
        spectrum: (..., d) eigenvalues of the limit, descending.
        error: (...) estimated error of cov, Frobenius norm.
        shape: (..., d, d) S / tr S where the law was left: also the direction in which it explodes or collapses.
        blowup_time: (...) or nan.
        rate: (...) of (log tr S)' for exponential growth (> 0), of S - limit for an exponential approach (< 0), of
            |S'| / |S| on average for an oscillation; else nan.
        exponent: (...) p of tr S ~ t^p (growth), (t* - t)^p (blow-up) or of the slowest eigenvalue that vanishes
            (an approach like a power of t); else nan.
        reason: how it was decided; for a batch an object array (...).
        t, steps: (...) how far the law was followed; 0 for closed forms.
        invariant_drift: (...) relative change of N^T S^+ N, which should not change (MATH 4.1); 0 if N is empty.
    """

    outcome: Any
    rank: Any
    cov: Array
    spectrum: Array
    error: Any
    shape: Array
    blowup_time: Any
    rate: Any
    exponent: Any
    reason: Any
    t: Any
    steps: Any
    invariant_drift: Any


def limit(
    attention: Attention, law: Gaussian, *, closed_forms: bool = True, rtol: float = 1e-9, max_steps: int = 1500
) -> GaussianLimit:
    """What becomes of the covariance of a Gaussian law, or of each law of a batch, as time goes on.

    By closed forms where there are (MATH 3, 4.2), otherwise by following the flow over many decades of time. The mean
    plays a part only where it moves the covariance, as in linear attention: growth and blow-up are then those of the
    second moment. Multiplying the law or the scores by a constant changes units only.

    Args:
        attention: with constant parameters, shared or one per system.
        law: `fp.Gaussian`, one or a batch.
        closed_forms: False to integrate even where a formula is known.
        rtol: tolerance of the integration.
        max_steps: after which a law is UNDECIDED.

    Raises:
        InputError, InputTypeError: naming the argument.
        NoGaussianClosure: for an attention that does not keep Gaussians Gaussian.

    Source: MATH 3, 4, 10, 11.
    """
    if not isinstance(attention, Attention):
        raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
    if not isinstance(law, Gaussian):
        raise InputTypeError("law", type(law).__name__, "a Gaussian law, as fp.Gaussian(mean, cov)")
    if not all(p.constant for p in attention.parameters()):
        raise InputError("attention", "parameters that depend on time", "constant ones")
    if not 1e-13 <= rtol <= 1e-3:
        raise InputError("rtol", repr(rtol), "a number between 1e-13 and 1e-3")
    *lead, d = law.mean.shape
    length = attention.check_dimension(d, 0.0, "law")
    if length != d:
        raise InputError("attention", f"a field of length {length}", f"{d}, the dimension of the law")
    count = max(p.systems(0.0) for p in attention.parameters())
    if count > 1 and lead not in ([], [count]):
        raise InputError("law", repr(law), f"one Gaussian law, or {count} as the parameters of the attention")
    lead = lead or ([count] if count > 1 else [])
    mean = np.broadcast_to(law.mean, (*lead, d)).reshape(-1, d)
    factor = np.broadcast_to(law.factor, (*lead, d, d)).reshape(-1, d, d)
    attention.closure(mean if count > 1 else mean[0], factor if count > 1 else factor[0], 0.0)  # raises before any work
    found = []
    for b in range(len(mean)):
        one = attention.system(b) if count > 1 else attention
        found.append(_one(one, mean[b], factor[b], closed_forms, rtol, max_steps))
    return _stacked(found, tuple(lead)) if lead else found[0]


def _stacked(found: list[GaussianLimit], lead: tuple[int, ...]) -> GaussianLimit:
    """Many as one."""

    def stack(name: str) -> Array:
        each = [getattr(one, name) for one in found]
        kind = object if name in ("outcome", "reason") else None
        return np.array(each, dtype=kind).reshape(*lead, *np.shape(each[0]))

    return GaussianLimit(**{field.name: stack(field.name) for field in fields(GaussianLimit)})


def _one(
    attention: Attention, mean: Array, factor: Array, closed_forms: bool, rtol: float, max_steps: int
) -> GaussianLimit:
    factor = factor[:, np.linalg.norm(factor, axis=0) > 0.0]
    d, r = factor.shape
    S0 = factor @ factor.T
    if r == 0:
        still = Verdict(Outcome.CONVERGES, "a point mass stays one", approach="at once")
        return _answer(still, S0, 0.0, 0, S0, 0.0)
    known = explicit(attention, factor) if closed_forms else None
    if known is not None:
        verdict, cov, rank = known
        rounding = 1e-15 * d * float(np.linalg.norm(S0))
        return _answer(verdict, cov, rounding, rank, S0, 0.0)
    flow = Flow(attention, mean, factor)
    way, verdict = _follow(flow, attention, factor, rtol, max_steps)
    return _integrated(flow, way, verdict, attention, factor, rtol)


def _follow(
    flow: Flow, attention: Attention, factor: Array, rtol: float, max_steps: int
) -> tuple[list[Point], Verdict]:
    """The points of the law's way and the verdict on it, asked for again whenever the way is a twentieth longer."""
    passed: list[Point] = []
    ask, rank = 1, known_rank(attention, factor)
    for point in points(flow, rtol):
        passed.append(point)
        if len(passed) < ask:
            continue
        ask = len(passed) + max(5, len(passed) // 20)
        way = Way(passed, flow.unit)
        verdict = judge(way, attention.never_blows_up, rank)
        if verdict is not None:
            return passed, verdict
        if over(way) or len(passed) > max_steps:
            break
    return passed, undecided(Way(passed, flow.unit))


def _integrated(
    flow: Flow, way: list[Point], verdict: Verdict, attention: Attention, factor: Array, rtol: float
) -> GaussianLimit:
    """The answer for a law that was followed."""
    last = way[-1]
    columns = last.columns[:, 1:] if flow.with_mean else last.columns
    S, size = flow.cov(last), float(np.sum(columns**2))
    shape = columns @ columns.T / size if size > 0.0 else columns @ columns.T
    cov, error, rank = np.full_like(S, np.nan), np.nan, -1
    if verdict.keep is not None:
        rank = int(verdict.keep.sum())
        cov, error = _extrapolated(flow, way) if verdict.approach == "algebraic" else (S, 0.0)
        values, vectors = np.linalg.eigh(cov)
        values[: len(values) - rank] = 0.0
        cov = (vectors * np.maximum(values, 0.0)) @ vectors.T
        left = min(last.change * last.t, 1e-6) if verdict.approach == "exponential" else 0.0
        error += (left + 10.0 * rtol) * float(np.linalg.norm(S))
    moved = np.nan
    if verdict.outcome is Outcome.CONVERGES:
        basis = common(attention, factor)
        moved = drift(basis, factor, np.exp(last.size / 2) * columns)
    return _answer(verdict, cov, error, rank, shape, last.t, len(way) - 1, moved)


def _extrapolated(flow: Flow, way: list[Point]) -> tuple[Array, float]:
    """The limit of S = S_inf + C / t + D / t^2 through three points, and its distance from that through two."""
    t = np.array([p.t for p in way])
    chosen = [int(np.argmin(np.abs(np.log(np.maximum(t, 1e-300) / t[-1] * ratio)))) for ratio in (16.0, 4.0, 1.0)]
    S = np.array([flow.cov(way[i]) for i in chosen])
    x = t[-1] / t[chosen]
    three = np.linalg.solve(np.vander(x, 3, increasing=True), S.reshape(3, -1))[0].reshape(S.shape[1:])
    two = (S[2] * x[1] - S[1] * x[2]) / (x[1] - x[2])
    return three, float(np.linalg.norm(three - two))


def _answer(
    verdict: Verdict, cov: Array, error: float, rank: int, shape: Array, t: float, steps: int = 0, moved: float = 0.0
) -> GaussianLimit:
    finite = bool(np.isfinite(cov).all())
    trace = float(np.trace(shape))
    return GaussianLimit(
        outcome=verdict.outcome, rank=rank if finite else -1, cov=cov,
        spectrum=np.maximum(np.linalg.eigvalsh(cov)[::-1], 0.0) if finite else np.full(len(cov), np.nan),
        error=error if finite else np.nan, shape=shape / trace if trace > 0.0 else shape,
        blowup_time=verdict.blowup_time, rate=verdict.rate, exponent=verdict.exponent, reason=verdict.reason,
        t=t, steps=steps, invariant_drift=moved,
    )  # fmt: skip
