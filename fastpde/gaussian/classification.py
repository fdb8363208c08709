"""What becomes of a Gaussian law in the end, read off its recorded path.

Every rule is about ratios, slopes and exponents, so that units of time and length do not matter. t is the time,
H = log tr S (with the mean's part where the mean matters), g = H', w = |S'| / |S|. A rule returns a verdict; a string,
which says what is in doubt; or None where it does not apply.

Source: Theory 3, 4, 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from .ends import drives_itself, exponents, family, linearised, orders, reach, shape_at_rest
from .paths import Way
from .units import size

if TYPE_CHECKING:
    from .explicit import Theory


class Outcome(Enum):
    """The long-time behaviour of the covariance."""

    CONVERGES = "converges"
    BLOWS_UP = "blows up"
    GROWS = "grows"
    OSCILLATES = "oscillates"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """An outcome and how it was found; `keep`: mask of eigenvalues that stay; `approach`: how S reaches its limit."""

    outcome: Outcome
    reason: str
    rate: float = np.nan
    exponent: float = np.nan
    blowup_time: float = np.nan
    keep: Array | None = None
    approach: str = ""  # "at once", "exponential", "algebraic"


_SETTLED = 1e-8  # w t at an exponential approach with rate r; the change that remains is smaller by r t > 4
_LEFT, _SEEN = 1e-5, 3e-3  # of the largest w: where the rate of an approach is read off; parts of it that count there
_RANGE = 12.0  # e-folds of tr S after which growth is judged
_LONG = 80.0  # the same where directions with small eigenvalues drive it: long enough to show what they do
_RICCATI = 0.02  # of S' ~ S^2 in a shape at rest p = 1; more than so much above it, growth falls behind
_FLOOR = -46.0  # log of 1e-20: smaller eigenvalues, relative to the largest, are not resolved by a factor of S
_UNRESOLVED = -34.0  # log of 1e-15: the same for implicit steps, whose tolerance is 1e-8
_NEVER = 1e-9  # (t* - t) / t at which a blow-up is certain, and its time right to better than that
_DECADES = 1e7  # horizon, in natural units 1 / |M(S0)|
_LAST = 1e13  # the same for growth like a power of t, for which there is no other evidence, and for giving up
_QUADRATIC = -0.9  # larger exponents of t belong to terms of a degree above two
_NEUTRAL, _DECAYS = 0.05, -0.5  # p of disturbances t^p that stay, and of those that vanish
_FALLS = 1e-6  # how far disturbances of a shape must fall behind |S| per e-fold of |S|
_STAYS = 1e-8  # largest such number of those that lead to another shape at rest, and are no disturbances
_MOVES = 0.05  # the same for a shape that moves, whose orders are averages
_SATURATED = 1e3  # factor by which |S| must be above `high` or below `low` of `Theory`
_NOT_CLOSED = "the covariance depends on a moving mean"
_POINTS = 400  # number of points over which growth orders are averaged
_PATH = 30.0  # int w dt without a trend after which a law oscillates


def judge(way: Way, theory: Theory, closed_forms: bool) -> tuple[Verdict | None, str]:
    """Apply the rules to a path; return the verdict, or None while it is open, and what was in doubt."""
    if closed_forms and theory.rank is not None:
        return _theorem(way, theory.rank), ""
    doubts = []
    for rule in (_settled, _still, _collapse, _blow_up, _growth, _tail, _circles):
        found = rule(way, theory)
        if isinstance(found, Verdict):
            return found, ""
        if found:
            doubts.append(found)
    return None, "; ".join(dict.fromkeys(doubts))


def _settled(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise an exponential approach to a limit: w t falls below any power of t."""
    if way.w[-1] * way.t[-1] > _SETTLED:
        return None
    j = way.before(1.5)
    if way.t[j] == way.t[-1]:
        return None  # near a blow-up t does not change any more
    stretch = np.log(way.t[-1] / max(way.t[j], 1e-300))
    fall = np.log(max(way.w[-1] * way.t[-1], 1e-300) / max(way.w[j] * way.t[j], 1e-300)) / stretch
    if fall > -4.0:
        return None
    slopes = (way.spectrum[-1] - way.spectrum[j]) / stretch
    keep, doubt = _kept(way, slopes, slopes, 1e-3)
    if doubt:
        return None
    doubt = _may_leave(way, theory, keep)
    if doubt:
        return doubt
    rate = _approach(way) / way.time
    reason = f"exponential approach, rate {rate:.4g}: |S'| t / |S| = {way.w[-1] * way.t[-1]:.1e}"
    return Verdict(Outcome.CONVERGES, reason, rate=-rate, keep=keep, approach="exponential")


def _approach(way: Way) -> float:
    """Return the rate of an exponential approach: the slowest of the disturbances of which it consists (Theory 12.4).

    It is an eigenvalue of the flow linearised at the end. Which of them count is seen where w is _LEFT of its largest
    value: the flow is linear there, and rounding is far below.
    """
    span, i = reach(way.whole[-1]), int(np.flatnonzero(way.w >= _LEFT * way.w.max())[-1])
    flow = linearised(way.heads, way.second(-1), span)
    values, vectors = np.linalg.eig(flow.slope)
    parts = np.abs(np.linalg.lstsq(vectors, linearised(way.heads, way.second(i), span).S - flow.S, rcond=None)[0])
    falls = values.real * way.t[-1] < _DECAYS
    parts = np.where(falls, parts, 0.0)
    return float(-values.real[parts > _SEEN * parts.max()].max()) if parts.any() else np.nan


def _still(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise a law that is at rest to the tolerance of implicit steps.

    This is for limits where M does not vanish and its noise hides how S approaches.
    """
    j = way.before(4.0)
    if way.t[j] < 10.0 * way.unit or way.w[-1] * way.t[-1] > 1e-2:
        return None
    keep = way.spectrum[-1] > way.H[-1] + _UNRESOLVED
    moved = np.ptp(way.spectrum[j:, keep], axis=0).max()
    if moved > 1e-6 or (~keep).sum() == 0 or way.spectrum[j:, ~keep].max() > way.H[-1] + _UNRESOLVED:
        return None
    doubt = _may_leave(way, theory, keep)
    if doubt:
        return doubt
    reason = f"at rest: eigenvalues moved by {moved:.0e} over a factor 4 of time, the others are unresolved"
    return Verdict(Outcome.CONVERGES, reason, keep=keep, approach="exponential")


def _kept(way: Way, late: Array, early: Array, still: float) -> tuple[Array, str]:
    """Return a mask of the eigenvalues that stay, by their slopes d log lambda / d log t, and what is in doubt."""
    gone = way.spectrum[-1] < way.H.max() + _FLOOR
    vanishes = gone | ((late < -0.2) & ((np.abs(late - early) < -0.05 * late) | (late < -1.5)))
    stays = ~gone & (np.abs(late) < still)
    open_ones = ~(vanishes | stays)
    doubt = f"slopes d log lambda / d log t: {np.round(late, 3).tolist()}" if open_ones.any() else ""
    return stays, doubt


def _may_leave(way: Way, theory: Theory, keep: Array) -> str:
    """Say why S, which seems to rest with the eigenvalues `keep`, might move on; empty if it stays for certain.

    Disturbances behave like t^p, also those in directions with small eigenvalues of S. S stays if as many of them
    persist as the family of limits has dimensions, and all others vanish.
    """
    if not theory.closed:
        return _NOT_CLOSED
    S, span, rank = way.second(-1), reach(way.whole[-1]), int(keep.sum())
    if way.whole[:, :, 0].any():
        values = np.linalg.eigvalsh(S)
        rank = int(np.sum(values > 1e-6 * values[-1])) if way.H[-1] > way.H.max() - 10.0 else 0
    if rank == 0 and size(S) * _SATURATED > theory.low:
        return "S vanishes, to where heads are not of the degree that they have at large S"
    room = family(way.heads, S, span, rank, theory.nullity)
    if room is None:
        return f"S seems to rest, at rank {rank}, where theory knows no limit"
    powers = exponents(way.heads, S, span, float(way.t[-1]))
    if powers[0] < _NEUTRAL and np.sum(powers > -_NEUTRAL) <= room and np.all(powers[room:] < _DECAYS):
        return ""
    return (
        f"S seems to rest, at rank {rank}, but not all disturbances vanish: t^p with p = {np.round(powers, 2).tolist()}"
    )


def _may_turn(way: Way, theory: Theory, degree: int, *, falls: bool = False) -> str:
    """Say why S, which grows, might yet take another shape S / |S|; empty if it keeps its shape for certain.

    degree: 1 or 2, of S' in S where S is large. falls: whether it grows less and less, for its size.
    """
    if not theory.closed:
        return _NOT_CLOSED
    S = way.second(-1)
    if size(S) < _SATURATED * theory.high:
        return "S grows, to where heads are not of the degree that they have at large S"
    if degree == 1 and theory.mixed:
        return "S grows by heads that saturate, while others, however weak, do not"
    long = way.H[-1] - way.H.min() > _LONG and (theory.nilpotent or theory.high > 0.0)
    if not (long or drives_itself(way.heads, S)):
        return "S grows by what its thin directions do, which may change"
    distance, gap = shape_at_rest(way.heads, S, reach(way.whole[-1]))
    if distance < 1e-3:
        # V = v I makes a family of shapes at rest: disturbances neither gain nor fall behind.
        if gap > max(_FALLS, 10.0 * distance) or (abs(gap) < _STAYS and distance < _FALLS):
            return ""
        return f"S grows in a shape that is not stable: disturbances gain {-gap:.1e} per e-fold of |S|"
    if falls:  # perhaps to nothing, at a line on which S rests
        return "S grows in a shape that moves, and falls behind a blow-up in a shape at rest"
    first = max(way.below(0.9 * (way.H[-1] - way.H.min())), len(way.t) - _POINTS)
    steps = np.diff(way.path[first:]) * 0.5 * (1.0 / way.w[first + 1 :] + 1.0 / way.w[first:-1])
    found = orders(way.heads, [way.second(i) for i in range(first, len(way.t))], steps)
    if abs(found[0] - degree) < 0.1 * degree and abs(found[1] - 1.0) < _MOVES and np.all(found[2:] < 1.0 - _MOVES):
        return ""
    return f"S grows in a shape that moves; disturbances of it grow like |S|^p, p = {np.round(found, 2).tolist()}"


def _mean_slopes(way: Way, fall: float) -> tuple[float, float, int]:
    """Return mean slopes of H over its last and last but one rise by `fall`, and the index where the last begins."""
    b = way.below(fall)
    a = way.below(2 * fall)
    late = (way.H[-1] - way.H[b]) / max(way.t[-1] - way.t[b], 1e-300)
    early = (way.H[b] - way.H[a]) / max(way.t[b] - way.t[a], 1e-300)
    return float(late), float(early), b


def _collapse(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise an S of which all eigenvalues fall exponentially, as beside a mean that does not."""
    top = way.spectrum.max(axis=1)
    if top[-1] > top[0] + _FLOOR or way.w[-1] * way.t[-1] < 20.0:
        return None
    j, i = way.before(1.5), way.before(2.25)
    late, early = ((top[q] - top[p]) / (way.t[q] - way.t[p]) for q, p in ((len(top) - 1, j), (j, i)))
    if not (late < 0 and abs(late - early) < -0.05 * late):
        return None
    keep = np.zeros(way.spectrum.shape[1], dtype=bool)
    doubt = _may_leave(way, theory, keep)
    if doubt:
        return doubt
    rate = float(late) / way.time
    reason = f"S falls to zero exponentially, rate {rate:.4g}"
    return Verdict(Outcome.CONVERGES, reason, rate=rate, keep=keep, approach="exponential")


def _blow_up(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise a blow-up: 1 / g = (t* - t) / p falls to zero.

    There theta = d(1 / g)/dt tends to -1 / p, with p = 1 on a Riccati branch (Theory 3).
    """
    if theory.bounded or not way.g[-1] * way.t[-1] > 1.0 / _NEVER:
        return None
    b = way.below(6.0)
    a = way.below(12.0)
    if a == 0 or not (way.g[b] > 0 and way.g[a] > 0):
        return None
    late, early = (
        (way.H[q] - way.H[p]) / np.log(way.g[q] / way.g[p]) if way.g[q] > way.g[p] else np.inf
        for q, p in ((len(way.t) - 1, b), (b, a))
    )
    steady = abs(late / early - 1) < 0.3 or way.g[-1] * way.t[-1] > _NEVER**-2
    if not (0.1 < late < 50.0 and steady):
        return None
    doubt = _may_turn(way, theory, 2, falls=late > 1.0 + _RICCATI)
    if doubt:
        return doubt
    when = float(way.t[-1] + late / way.g[-1]) * way.time
    reason = f"(t* - t) / t* < {late / (way.g[-1] * way.t[-1]):.0e}, theta = {-1 / late:.4f}"
    return Verdict(Outcome.BLOWS_UP, reason, exponent=float(-late), blowup_time=when)


def _growth(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise exponential growth: the mean slope of H over e-folds of tr S does not change, theta -> 0."""
    # Where |M| is far above the rate, rounding ends what can be followed: fewer e-folds must suffice.
    stretch = _RANGE if way.M[-1] < 1e4 * way.w[-1] else 0.6 * _RANGE
    if way.H[-1] - way.H.min() < stretch:
        return None
    late, early, b = _mean_slopes(way, stretch / 3.0)
    if way.H[b] - way.H.min() < stretch / 3.0 or not (late > 0 and abs(late - early) < 0.02 * late):
        return None
    doubt = _may_turn(way, theory, 1)
    if doubt:
        return doubt
    window = way.g[b:]
    steady = window.max() - window.min() < 1e-2 * late
    rate = (float(way.g[-1]) if steady else late) / way.time
    theta = (1 / late - 1 / early) / max(way.t[-1] - way.t[b], 1e-300)
    return Verdict(Outcome.GROWS, f"exponential growth, rate {rate:.6g}, theta = {theta:.1e}", rate=rate)


def _tail(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise powers of t: slopes in log t are the same in the last decades."""
    units = way.t[-1] / way.unit
    if units < _DECADES:
        return None
    j, i = way.before(30.0), way.before(900.0)
    log_t = np.log(np.maximum(way.t, 1e-300))
    late = (way.spectrum[-1] - way.spectrum[j]) / (log_t[-1] - log_t[j])
    early = (way.spectrum[j] - way.spectrum[i]) / (log_t[j] - log_t[i])
    rise, before = ((way.H[q] - way.H[p]) / (log_t[q] - log_t[p]) for q, p in ((len(way.t) - 1, j), (j, i)))
    if rise > 0.05:
        if abs(rise - before) > 0.02 * rise:
            return None
        if units < _LAST or not theory.nilpotent:
            return f"S seems to grow like t^{rise:.3f}, which a small number may change later"
        return Verdict(Outcome.GROWS, f"algebraic growth, exponent {rise:.4g}", exponent=float(rise))
    keep, doubt = _kept(way, late, early, 1e-2)
    falling = late[~keep & (way.spectrum[-1] >= way.H.max() + _FLOOR)]
    if doubt or way.w[-1] * way.t[-1] > 100.0:
        return None
    doubt = _may_leave(way, theory, keep)
    if doubt:
        return doubt
    exponent = float(falling.max()) if len(falling) else -1.0
    if not keep.any() and exponent > _QUADRATIC and np.isfinite(theory.low):
        return f"S falls like t^{exponent:.3f}: what makes it fall like 1 / t has been cancelled, perhaps not to zero"
    reason = f"algebraic tail, exponent {exponent:.3f}, t = {units:.0e} units"
    return Verdict(Outcome.CONVERGES, reason, exponent=exponent, keep=keep, approach="algebraic")


def _theorem(way: Way, rank: int) -> Verdict | None:
    """Return the verdict for an S that converges algebraically to a matrix of known rank.

    How far S is followed decides only the error.
    """
    units = way.t[-1] / way.unit
    if units < _DECADES:
        return None
    keep = np.arange(way.spectrum.shape[1]) < rank
    reason = f"rank d - rank Q, theorem Theory 4.2; t = {units:.0e} units"
    return Verdict(Outcome.CONVERGES, reason, exponent=-1.0, keep=keep, approach="algebraic")


def _circles(way: Way, theory: Theory) -> Verdict | str | None:
    """Recognise a bounded S that never rests: the path length int w dt grows like t, and tr S has no trend."""
    path = way.path
    j, i = way.before(2.0), way.before(4.0)
    if path[-1] - path[j] < _PATH:
        return None
    parts = slice(j, len(path)), slice(i, j)
    lengths = [(path[p.stop - 1] - path[p.start]) / (way.t[p.stop - 1] - way.t[p.start]) for p in parts]
    means = [np.trapezoid(way.spectrum[p], way.t[p], axis=0) / (way.t[p.stop - 1] - way.t[p.start]) for p in parts]
    if abs(lengths[0] / lengths[1] - 1) > 0.1 or np.abs(means[0] - means[1]).max() > 0.02:
        return None
    if not theory.conserves:
        return f"S goes round, {path[-1]:.0f} lengths |S| so far, without a trend; a slow drift is not excluded"
    rate = float(lengths[0]) / way.time
    reason = f"|S'| / |S| = {rate:.4g} on average and no trend of the spectrum over {path[-1]:.0f} lengths |S|"
    return Verdict(Outcome.OSCILLATES, reason, rate=rate)


def undecided(way: Way, doubt: str) -> Verdict:
    """Describe in numbers where the path ended without a verdict."""
    j = way.before(30.0)
    stretch = np.log(way.t[-1] / way.t[j]) if way.t[j] > 0 else np.nan
    slopes = np.round((way.spectrum[-1] - way.spectrum[j]) / stretch, 3).tolist()
    reason = (
        f"t = {way.t[-1] / way.unit:.1e} units after {len(way.t)} steps: |S'| t / |S| = {way.w[-1] * way.t[-1]:.1e}, "
        f"(log tr S)' t = {way.g[-1] * way.t[-1]:.1e}, slopes d log lambda / d log t = {slopes}"
    )
    return Verdict(Outcome.UNDECIDED, f"{doubt}; {reason}" if doubt else reason)


def over(way: Way) -> bool:
    """Return whether the path has been followed far enough to give up, or has left the range of floats."""
    return way.lost or bool(way.t[-1] > _LAST * way.unit)
