"""The long-time behaviour of Gaussian laws: `limit` tells limits (with rank) from blow-up, growth and oscillation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from .._numbers import flag, whole, within
from .._types import Array
from ..attention.base import Attention, as_attention
from ..errors import InputError, InputTypeError, explained
from ..laws.gaussian import Gaussian
from ..solutions import brief
from .classification import Outcome, Verdict, judge, over, undecided
from .disturbances import rates_at
from .explicit import Known, Theory, common, drift, explicit, is_stationary, of_degree_two
from .paths import Way, Ways
from .units import in_units, power_of_two, size

_BLOCK = 256  # laws that are followed at once: bounds the memory
_AT_REST = 1e-13  # |S'| / (|S| |M|) below which S' may be zero: exact arithmetic decides
_ROUNDING = 1e-15  # relative rounding of the eigenvalues of correlation matrices
_TWIN, _ALIKE = 1e-15, 1e-3  # relative difference of a law and its twin, and that allowed of their answers


@dataclass(frozen=True)
class GaussianLimit:
    """The long-time behaviour of the covariance S(t) of a Gaussian law, or of a batch; `...` are the axes of a batch.

    Attributes:
        outcome: `Outcome`; for a batch an object array (...).
        rank: (...) rank of the limit if S converges, otherwise -1.
        cov: (..., d, d) the limit; nan unless S converges.
        spectrum: (..., d) eigenvalues of the limit, descending; nan unless S converges.
        error: (...) estimated error of cov, in the Frobenius norm.
        shape: (..., d, d) S / tr S at the last time that was followed, for closed forms the start. A law that is
            followed until it explodes or collapses does so in this direction.
        blowup_time: (...) the time of the blow-up; nan without one.
        rate: (...) rate of (log tr S)' for exponential growth (> 0), of S - limit for an exponential approach (< 0): of
            the `growth_rates` that of its slowest part; mean of |S'| / |S| for an oscillation; else nan.
        exponent: (...) p of tr S ~ t^p (growth), of tr S ~ (t* - t)^p (blow-up), or of the slowest eigenvalue that
            vanishes (an approach like a power of t); else nan.
        reason: how the outcome was decided; for a batch an object array (...).
        growth_rates: (..., d (d + 1) / 2) complex, the rates at which disturbances of the limit grow, descending in
            their real parts: the eigenvalues of the flow of S, linearised at it on all symmetric matrices; nan unless S
            converges to a limit other than 0, and where the mean matters there.
        attracting: (...) bool, for a batch an object array: True if all disturbances of first order vanish, but those
            along the family of limits and those in directions that the scores do not see from the range of the limit,
            which count to second order only: such a law of higher rank may yet drift along the family (Theory 12.4).
            False if some disturbance grows exponentially; None if the linearised flow does not decide.
        t, steps: (...) how far the law was followed, in time and in steps; 0 for closed forms.
        invariant_drift: (...) relative change of N^T S^+ N, which the flow conserves (Theory 4.1); 0 if N is empty.
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
    growth_rates: Any = None
    attracting: Any = None

    def __repr__(self) -> str:
        return brief(self)

    def summary(self) -> str:
        """Return in one line how and when the law ends, and whether that attracts others; one line for each law."""
        d = self.shape.shape[-1]
        rows = zip(
            *(np.reshape(one, -1) for one in (self.outcome, self.rank, self.blowup_time, self.reason, self.attracting)),
            np.reshape(self.growth_rates, (-1, d * (d + 1) // 2)), strict=True,
        )  # fmt: skip
        return "\n".join(_told(*row) for row in rows)


@explained
def limit(
    attention: Attention, law: Gaussian, *, closed_forms: bool = True, rtol: float = 1e-9, max_steps: int = 3000
) -> GaussianLimit:
    """Determine what becomes of the covariance of a Gaussian law, or of each law of a batch, as time goes on.

    Closed forms are used where they exist (Theory 3, 4.2); otherwise the flow is followed over many decades of time.
    The mean matters only where it moves the covariance, as in linear attention: growth and blow-up are then those of
    the second moment. Multiplying the law or the scores by a constant changes units only.

    The outcome is UNDECIDED, and `reason` says what was seen, unless its end is certain: by a theorem, or because the
    flow linearised there attracts everything near it (Theory 12.4), so that no small eigenvalue of S can lead the law
    away later, and because a law that differs by rounding ends in the same way. In particular a law OSCILLATES only
    where theory excludes a slow drift.

    Args:
        attention: with constant parameters, shared or one per system.
        law: `fp.Gaussian`, one or a batch.
        closed_forms: False to integrate even where a formula is known, and to measure ranks even where a theorem gives
            them.
        rtol: tolerance of the integration.
        max_steps: implicit steps of a stiff law, after which it is UNDECIDED.

    Raises:
        InputError, InputTypeError: naming the argument.
        NoGaussianClosure: for an attention that does not keep Gaussians Gaussian.

    Source: Theory 3, 4, 10, 11.
    """
    as_attention(attention)
    if not isinstance(law, Gaussian):
        raise InputTypeError("law", type(law).__name__, "a Gaussian law, as fp.Gaussian(mean, cov)")
    if not all(p.constant for p in attention.parameters()):
        raise InputError("attention", "parameters that depend on time", "constant ones")
    closed_forms, max_steps = flag("closed_forms", closed_forms), whole("max_steps", max_steps)
    rtol = within("rtol", rtol, 1e-13, 1e-3)
    *lead, d = law.mean.shape
    attention._check_dimension(d, 0.0, "law", square="attention")
    count = max(p.systems(0.0) for p in attention.parameters())
    if count > 1 and lead not in ([], [count]):
        raise InputError("law", repr(law), f"one Gaussian law, or {count} as the parameters of the attention")
    lead = lead or ([count] if count > 1 else [])
    mean = np.zeros((*lead, d)) + (0.0 if attention.mean_free else law.mean)
    mean, cov = mean.reshape(-1, d), np.broadcast_to(law.cov, (*lead, d, d)).reshape(-1, d, d)
    answers: list[GaussianLimit] = []
    for first in range(0, len(mean), _BLOCK):
        part = slice(first, first + _BLOCK)
        own = attention.system(np.arange(len(mean))[part]) if count > 1 else attention
        block = _block(own, mean[part], cov[part], closed_forms, rtol, max_steps)
        answers += [_with_rates(own.system(b), mean[part][b], one) for b, one in enumerate(block)]
    return _stacked(answers, tuple(lead)) if lead else answers[0]


def _stacked(found: list[GaussianLimit], lead: tuple[int, ...]) -> GaussianLimit:
    """Combine the answers for many laws into one for a batch with the leading axes `lead`."""

    def stack(name: str) -> Array:
        each = [getattr(one, name) for one in found]
        kind = object if name in ("outcome", "reason", "attracting") else None
        return np.array(each, dtype=kind).reshape(*lead, *np.shape(each[0]))

    return GaussianLimit(**{field.name: stack(field.name) for field in fields(GaussianLimit)})


def _with_rates(attention: Attention, mean: Array, found: GaussianLimit) -> GaussianLimit:
    """Return an answer for one law with what the flow linearised at its limit says."""
    heads, d = attention._affine_heads(), found.cov.shape[0]
    rates, attracts = np.full(d * (d + 1) // 2, complex(np.nan, np.nan)), None
    if found.rank > 0 and heads is not None and not mean.any():
        with np.errstate(all="ignore"):  # of units in which squares leave the range of floats
            rates, attracts = rates_at(heads, found.cov, found.rank, found.error)
    return replace(found, growth_rates=rates, attracting=attracts)


def _told(outcome: Outcome, rank: int, time: float, reason: str, attracts: bool | None, rates: Array) -> str:
    """Return the line of a law."""
    if outcome is not Outcome.CONVERGES or rank <= 0:
        more = " to 0" if outcome is Outcome.CONVERGES else "" if np.isnan(time) else f" at t = {time:.6g}"
        return f"{outcome.value}{more}: {reason}"
    told = {True: "attracting", False: "not attracting", None: "whether it attracts is not decided to first order"}
    text = f"{outcome.value} to rank {rank}, {told[attracts]}"
    moving = rates.real[np.abs(rates) > 1e-9 * np.abs(rates).max(initial=0.0)]
    text += f" (rates {moving[0]:.4g} to {moving[-1]:.4g})" if len(moving) and np.isfinite(moving).all() else ""
    return f"{text}: {reason}"


def _block(
    attention: Attention, mean: Array, cov: Array, closed_forms: bool, rtol: float, max_steps: int
) -> list[GaussianLimit]:
    """Return the answers for laws with means (B, d) and covariances (B, d, d), under one attention or B of them."""
    factor, units = _factor(cov), np.ones(len(mean))
    length = power_of_two(np.hypot(size(mean[:, :, None]), size(factor)))
    attention = in_units(attention, length, units)
    if of_degree_two(attention):
        largest = np.max([size(A) for A in attention._score_matrices(0.0)], axis=0)
        attention = in_units(attention, units, units, power_of_two(np.sqrt(largest)))
    mean, factor, cov = mean / length[:, None], factor / length[:, None, None], cov / length[:, None, None] ** 2
    time = 1.0 / power_of_two(_strength(attention, mean, factor))
    attention = in_units(attention, units, time)
    strength = _strength(attention, mean, factor)
    found: dict[int, GaussianLimit] = {}
    theories: list[Theory] = []
    for b in range(len(mean)):
        one = attention.system(b)
        known = _at_once(one, mean[b], factor[b], cov[b], strength[b])
        known = known or (_explicit(one, factor[b], cov[b], time[b]) if closed_forms else None)
        if known is not None:
            found[b] = _in_length(known, length[b])
        else:
            theories.append(Theory.of(one, _used(factor[b]), cov[b], mean_matters=bool(mean[b].any())))
    left = np.setdiff1d(np.arange(len(mean)), list(found))
    if len(left):
        twins = np.concatenate([left, left])
        change = np.ones((len(twins), 1, 1)) * np.eye(mean.shape[1])
        change[len(left) :] += _TWIN * np.random.default_rng(0).standard_normal(change.shape[1:])
        own, scales = attention.system(twins), (length[twins], time[twins])
        mean, factor = (change @ mean[twins, :, None])[:, :, 0], change @ factor[twins]
        ways = Ways(own, mean, factor, 1.0 / strength[twins], rtol, max_steps, scales)
        factor *= length[twins, None, None]
        followed = _followed(ways, own, factor, theories + theories, closed_forms, rtol)
        for i, b in enumerate(left):
            proven = closed_forms and theories[i].rank is not None
            found[int(b)] = _agreed(followed[i], followed[i + len(left)], proven)
    return [found[b] for b in range(len(cov))]


def _agreed(found: GaussianLimit, twin: GaussianLimit, proven: bool) -> GaussianLimit:
    """Return the answer for a law if its twin, which differs from it by rounding, ends in the same way; else UNDECIDED.

    Where two nearby laws part, the flow has magnified a difference that floats do not resolve. `proven`: the limit is
    known by a theorem, whatever the twin does.
    """
    if proven and found.outcome is Outcome.CONVERGES:
        return replace(found, error=max(found.error, float(size(found.cov - twin.cov))))
    alike = found.outcome is twin.outcome and found.rank == twin.rank
    alike = alike and (np.isnan(found.blowup_time) or abs(twin.blowup_time / found.blowup_time - 1.0) < _ALIKE)
    if found.outcome is Outcome.GROWS and np.isfinite(found.rate):
        alike = alike and abs(twin.rate / found.rate - 1.0) < 0.01
    if alike and found.rank >= 0:
        alike = bool(size(found.cov - twin.cov) <= _ALIKE * size(found.cov) + found.error + twin.error)
    if alike or found.outcome is Outcome.UNDECIDED:
        return found
    reason = (
        f"the law seems to end so: {found.outcome.value}, {found.reason}; one that differs by rounding ends otherwise"
    )
    doubt, shape = Verdict(Outcome.UNDECIDED, reason), np.asarray(found.shape)
    return _answer(doubt, np.full_like(shape, np.nan), np.nan, -1, shape, found.t, found.steps, np.nan)


def _factor(cov: Array) -> Array:
    """Return L (B, d, d) with L L^T = cov and the zero columns last.

    Which eigenvalues are zero is decided on the correlation matrix, which does not depend on units.
    """
    size = np.sqrt(np.diagonal(cov, axis1=1, axis2=2).clip(min=0.0))
    unit = np.where(size > 0.0, size, 1.0)
    values, vectors = np.linalg.eigh(cov / unit[:, :, None] / unit[:, None, :])
    values = np.where(values > _ROUNDING * cov.shape[1], values, 0.0)
    return (size[:, :, None] * vectors * np.sqrt(values)[:, None, :])[:, :, ::-1]


def _strength(attention: Attention, mean: Array, factor: Array) -> Array:
    """Return |M| (B,), and |M| + |c| / |[mean, L]| where the mean matters."""
    M, c = attention._closure(mean, factor, 0.0)
    strength = size(M)
    if attention.mean_free:
        return strength
    whole = np.concatenate([mean[:, :, None], factor], axis=2)
    return strength + size(c[:, :, None]) / np.maximum(size(whole), np.finfo(float).tiny)


def _at_once(attention: Attention, mean: Array, factor: Array, cov: Array, strength: float) -> GaussianLimit | None:
    """Return the answer for a law whose covariance does not move, or that floats cannot represent; else None."""
    S = factor @ factor.T
    if not S.any():
        moves = not attention.mean_free and mean.any()
        verdict = (
            Verdict(Outcome.UNDECIDED, "a point mass stays one as long as there is one: its mean moves on its own")
            if moves
            else Verdict(Outcome.CONVERGES, "a point mass stays one")
        )
        return _answer(verdict, S, 0.0, 0, S, 0.0)
    rate = attention._closure(mean, factor, 0.0)[0] @ S
    if size(rate + rate.T) <= _AT_REST * size(S) * strength and is_stationary(attention, mean, cov):
        still = Verdict(Outcome.CONVERGES, "stationary: S' = 0 at the start")
        return _answer(still, S, 1e-15 * len(S) * float(size(S)), int(np.count_nonzero(factor.any(axis=0))), S, 0.0)
    if np.isfinite(strength) and strength > 0.0:
        return None
    lost = Verdict(Outcome.UNDECIDED, "parameters and law are so large or small that |M| leaves the range of floats")
    return _answer(lost, np.full_like(S, np.nan), np.nan, -1, S, 0.0)


def _used(factor: Array) -> Array:
    """Return the columns (d, r) of a factor that are not zero."""
    return factor[:, factor.any(axis=0)]


def _explicit(attention: Attention, factor: Array, cov: Array, time: float) -> GaussianLimit | None:
    """Return the answer in closed form, with times in the caller's unit; None where there is none."""
    factor = _used(factor)
    known: Known | None = explicit(attention, factor, cov)
    if known is None:
        return None
    S = factor @ factor.T
    verdict = replace(known.verdict, blowup_time=known.verdict.blowup_time * float(time))
    return _answer(verdict, known.cov, known.error, known.rank, S, 0.0)


def _in_length(found: GaussianLimit, length: float) -> GaussianLimit:
    """Convert an answer to the caller's unit of length."""
    area = float(length) ** 2
    return replace(found, cov=found.cov * area, spectrum=found.spectrum * area, error=found.error * area)


def _followed(
    ways: Ways, attention: Attention, factor: Array, theories: list[Theory], closed_forms: bool, rtol: float
) -> dict[int, GaussianLimit]:
    """Follow laws until there is a verdict on each; return the answers by the index of the law."""
    found: dict[int, GaussianLimit] = {}
    while len(ways.on):
        ended = ways.extend()
        for place, law in enumerate(ways.on.tolist()):
            way = ways.way(place)
            try:
                with np.errstate(all="ignore"):  # of laws that leave the range of floats: what is nan decides nothing
                    verdict, doubt = judge(way, theories[law], closed_forms)
            except np.linalg.LinAlgError:
                verdict, doubt = None, "the flow, linearised, has left the range of floats"
            if verdict is None and (ended[place] or over(way)):
                verdict = undecided(way, doubt)
            if verdict is not None:
                found[law] = _integrated(way, verdict, attention.system(law), factor[law], rtol, ways.steps(law))
        ways.keep(np.array([law not in found for law in ways.on.tolist()], dtype=bool))
    return found


def _integrated(
    way: Way, verdict: Verdict, attention: Attention, factor: Array, rtol: float, steps: int
) -> GaussianLimit:
    """Make the answer for a law that was followed to the end of `way`."""
    columns = way.columns[-1]
    cov, error, rank = np.full_like(factor, np.nan), np.nan, -1
    if verdict.keep is not None:
        S = way.cov(-1)
        rank = int(verdict.keep.sum())
        cov, error = _extrapolated(way) if verdict.approach == "algebraic" else (S, 0.0)
        values, vectors = np.linalg.eigh(cov)
        values[: len(values) - rank] = 0.0
        cov = (vectors * np.maximum(values, 0.0)) @ vectors.T
        left = min(way.w[-1] * way.t[-1], 1e-6) if verdict.approach == "exponential" else 0.0
        error += (left + 100.0 * rtol) * float(size(S))
    moved = np.nan
    if verdict.outcome is Outcome.CONVERGES:
        used = _used(factor)
        moved = drift(common(attention, used), used, np.exp(way.H[-1] / 2) * columns[:, : used.shape[1]])
    shape = columns @ columns.T
    return _answer(verdict, cov, error, rank, shape, float(way.t[-1]) * way.time, steps, moved)


def _extrapolated(way: Way) -> tuple[Array, float]:
    """Extrapolate S = S_inf + C / t + D / t^2 through three points of the path.

    Returns S_inf and its distance from the limit of S_inf + C / t through two points.
    """
    chosen = [way.before(ratio) for ratio in (16.0, 4.0)] + [len(way.t) - 1]
    S = np.array([way.cov(i) for i in chosen])
    x = way.t[-1] / way.t[chosen]
    three = np.linalg.solve(np.vander(x, 3, increasing=True), S.reshape(3, -1))[0].reshape(S.shape[1:])
    two = (S[2] * x[1] - S[1] * x[2]) / (x[1] - x[2])
    return three, float(size(three - two))


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
