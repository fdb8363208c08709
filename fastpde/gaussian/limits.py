"""Where the covariance of a Gaussian law goes in the long run: to a limit of some rank, to infinity, round and round.

A limit is approached exponentially or like 1/t (MATH 4.2), so times run geometrically and the limit is taken from the
tail S(t) = S_inf + C/t + ..., never from a rule on the size of S' alone. Source: MATH 3, 4, 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.closure import transposed
from ..errors import InputError
from ..integrate import Status
from .flow import GaussianSolution, solve_gaussian
from .measure import Gaussian

_PER_DECADE = 4


class Outcome(Enum):
    """What becomes of a covariance."""

    CONVERGES = "converges"
    BLOWS_UP = "blows up in finite time"
    GROWS = "grows without bound"
    OSCILLATES = "stays bounded and does not settle"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Limit:
    """The long-run behaviour of a covariance.

    Attributes:
        outcome, reason: what happens, and how that was found.
        cov: (d, d) the limit; nan unless it converges.
        spectrum: (d,) eigenvalues of the limit, or of S / tr S at the last time if there is none; ascending.
        rank: eigenvalues of the limit that are not zero: those that neither decay in time nor are below
            `tol` of the largest; for the other outcomes, of S / tr S at the last time.
        error: how much the limits from two parts of the tail differ, relative to the largest eigenvalue at the start.
        time: the blow-up time, or the last time looked at.
    """

    outcome: Outcome
    reason: str
    cov: Array
    spectrum: Array
    rank: int
    error: float
    time: float


def limit(
    attention: Attention, start: Gaussian, *, t_end: float = 1e8, tol: float = 1e-6, max_steps: int = 20_000
) -> Limit:
    """The long-run behaviour of the covariance of one Gaussian law under an attention with constant parameters.

    Args:
        attention: any with a Gaussian closure.
        start: the law at time 0; its mean does not matter for variants whose covariance does not see it.
        t_end: the longest time looked at, in units of the time in which S changes at first.
        tol: relative size, of the largest initial eigenvalue, below which numbers count as equal to zero.
        max_steps: bound on the steps of the integration.

    Raises:
        InputError: for parameters that change in time, or a batch.
        NoGaussianClosure: if Gaussians do not stay Gaussian.
    """
    if not all(p.constant for p in attention.parameters()):
        raise InputError("attention", "parameters that change in time", "constant parameters")
    if start.mean.ndim != 1:
        raise InputError("start", repr(start), "one Gaussian law")
    M, _ = attention.closure(start.mean, start.factor, 0.0)
    rate = np.linalg.norm(M, 2)
    if rate == 0.0 or not start.factor.any():
        return _settled(start.cov, 0.0, tol, "S' = 0 at the start.", 0.0)
    times = 10.0 ** np.arange(0.0, np.log10(t_end) + 1e-9, 1.0 / _PER_DECADE) / rate
    sol = solve_gaussian(
        attention, start, (0.0, times[-1]), t_eval=times, rtol=min(1e-8, 1e-2 * tol), atol=1e-12, max_steps=max_steps
    )
    return _judge(sol, start, tol)


def _judge(sol: GaussianSolution, start: Gaussian, tol: float) -> Limit:
    scale = float(np.linalg.eigvalsh(start.cov)[-1])
    if sol.status is Status.BLOW_UP:
        return _unsettled(Outcome.BLOWS_UP, sol, sol.message, sol.blowup_time, tol)
    if sol.status is Status.NOT_FINITE or (len(sol.t) and np.trace(sol.cov[-1]) > scale / np.finfo(float).eps):
        reason = f"tr S passed {np.trace(sol.cov[-1]):.3g} without the steps shrinking: growth of finite rate."
        return _unsettled(Outcome.GROWS, sol, reason, sol.t_final, tol)
    if len(sol.t) >= 4:
        (first, _), (second, error) = _tail(sol, -2), _tail(sol, -1)
        error = max(error, float(np.abs(second - first).max()) / scale)
        if error <= tol:
            tail = "exponential" if np.abs(sol.cov[-1] - sol.cov[-2]).max() < 1e-12 * scale else "1/t"
            return _settled(second, error, tol, f"{tail} tail up to t = {sol.t[-1]:.3g}.", scale, sol)
    if sol.status is Status.MAX_STEPS:
        reason = f"S still moves at t = {sol.t_final:.3g}, after {sol.stats['steps']:.0f} steps, and stays bounded."
        return _unsettled(Outcome.OSCILLATES, sol, reason, sol.t_final, tol)
    reason = f"at t = {sol.t_final:.3g} two parts of the tail give limits that differ by more than {tol:g}."
    return _unsettled(Outcome.UNDECIDED, sol, reason, sol.t_final, tol)


def _tail(sol: GaussianSolution, last: int) -> tuple[Array, float]:
    """The limit of S_inf + C/t through the two times up to `last`, and what is left of C/t there."""
    t0, t1, S0, S1 = sol.t[last - 1], sol.t[last], sol.cov[last - 1], sol.cov[last]
    return (t1 * S1 - t0 * S0) / (t1 - t0), 0.0


def _settled(
    cov: Array, error: float, tol: float, reason: str, scale: float, sol: GaussianSolution | None = None
) -> Limit:
    values, vectors = np.linalg.eigh(0.5 * (cov + transposed(cov)))
    kept = values > tol * max(scale, values[-1])
    values = np.where(kept, values, 0.0)
    time = 0.0 if sol is None else float(sol.t[-1])
    limit_cov = (vectors * values) @ transposed(vectors)
    return Limit(Outcome.CONVERGES, reason, limit_cov, values, int(kept.sum()), error, time)


def _unsettled(outcome: Outcome, sol: GaussianSolution, reason: str, time: float, tol: float) -> Limit:
    cov = sol.cov[-1] if len(sol.cov) else np.full((2, 2), np.nan)
    values = np.linalg.eigvalsh(cov / np.trace(cov))
    return Limit(outcome, reason, np.full_like(cov, np.nan), values, int(np.sum(values > tol)), np.nan, time)
