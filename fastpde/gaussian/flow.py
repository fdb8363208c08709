"""The flow of a Gaussian law: mean' = M mean + c and L' = M L for a factor L of the covariance S = L L^T.

S stays symmetric positive semidefinite and keeps its rank by construction, where S' = M S + S M^T would not. A state is
one array (d, 1 + r): the mean, then the columns of L. Source: MATH 2, 11.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.closure import transposed
from ..errors import InputError, InputTypeError
from ..integrate import Solution, Status, integrate
from ..integrate.checks import time_span
from .measure import Gaussian


@dataclass(frozen=True)
class GaussianSolution:
    """A Gaussian law in time.

    Attributes:
        t: (m,) the points of t_eval that were reached, or the start and the end.
        mean, cov, factor: (m, d), (m, d, d) and L (m, d, d) with L L^T = cov.
        status, message: how it ended; a blow-up that the theory allows is a result, not an error.
        blowup_time: the time at which the covariance becomes infinite; nan if it does not within the span.
        t_final: the last good time.
        stats: steps, accepted, rejected, evaluations, wall_time, last_step.
    """

    t: Array
    mean: Array
    cov: Array
    factor: Array
    status: Status
    message: str
    blowup_time: float
    t_final: float
    stats: dict[str, float]

    @property
    def success(self) -> bool:
        """Whether the run ended as asked, or in the blow-up of the true solution."""
        return self.status.success


class Field:
    """f(t, y, out) on states (d, 1 + r)."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    def __call__(self, t: float, y: Array, out: Array) -> None:
        mean, factor = y[:, 0], y[:, 1:]
        M, c = self.attention.closure(mean, factor, t)
        np.matmul(M, y, out=out)
        out[:, 0] += c


def solve_gaussian(
    attention: Attention,
    start: Gaussian,
    t_span: tuple[float, float],
    *,
    t_eval: Sequence[float] | None = None,
    **options: Any,
) -> GaussianSolution:
    """The flow of one Gaussian law, see `fp.solve`; options are those of `integrate`."""
    if start.mean.ndim != 1:
        raise InputError("x0", repr(start), "one Gaussian law")
    if not isinstance(attention, Attention):
        came = f"the class {attention.__name__}" if isinstance(attention, type) else type(attention).__name__
        raise InputTypeError("attention", came, "an attention, as fp.Softmax(Q, K, V)")
    t0, _ = time_span("t_span", t_span)
    d = len(start.mean)
    length = attention.check_dimension(d, t0, "x0")
    if length != d:
        raise InputError("attention", f"a field of length {length}", f"{d}, the dimension of the law")
    attention.closure(start.mean, start.factor, t0)  # raises before any work
    y0 = np.concatenate([start.mean[:, None], start.factor], axis=1)
    sol = integrate(Field(attention), y0, t_span, t_eval=t_eval, **options)
    return _solution(attention, sol)


def _solution(attention: Attention, sol: Solution) -> GaussianSolution:
    status, message, blowup_time = sol.status, sol.message, np.nan
    if status is Status.STEP_TOO_SMALL:
        blowup_time = _blowup_time(attention, sol.t_final, sol.x_final)
        if np.isfinite(blowup_time):
            status = Status.BLOW_UP
            message = f"The covariance becomes infinite at t = {blowup_time:.10g} ({sol.stats['steps']} steps)."
    factor = sol.x[..., 1:]
    return GaussianSolution(
        sol.t, sol.x[..., 0], factor @ transposed(factor), factor, status, message, blowup_time, sol.t_final, sol.stats
    )


def _blowup_time(attention: Attention, t: float, y: Array) -> float:
    """t + tr S / (tr S)' where steps end: exact for tr S ~ 1 / (t* - t), and within the last steps for any other power;
    nan if the covariance does not grow."""
    slope = np.empty_like(y)
    Field(attention)(t, y, slope)
    size, growth = np.sum(y[:, 1:] ** 2), 2.0 * np.sum(y[:, 1:] * slope[:, 1:])
    return float(t + size / growth) if growth > 0.0 and np.isfinite(growth) else np.nan
