"""The flow of a Gaussian law: mean' = M mean + c and L' = M L for a factor L of the covariance S = L L^T.

S stays symmetric positive semidefinite and keeps its rank by construction, where S' = M S + S M^T would not. A state is
one array (d, 1 + r): the mean, then the columns of L. Source: MATH 2, 11.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    """A Gaussian law in time, or a batch of them; `...` are the leading axes of a batch.

    Attributes:
        t: (m,) the points of t_eval that were reached, or the start and the end; for a batch all of them, and without
            t_eval the last state of a system is its own at its t_final.
        mean, cov, factor: (m, ..., d), (m, ..., d, d) and L (m, ..., d, d) with L L^T = cov; nan after a system's end.
        status, message: how it ended; a blow-up that the theory allows is a result, not an error. For a batch a tuple,
            one per system.
        blowup_time: (...) the time at which the covariance becomes infinite; nan if it does not within the span.
        t_final: (...) the last good time.
        stats: steps, accepted, rejected, evaluations, wall_time, last_step; for a batch (...) arrays of those.
    """

    t: Array
    mean: Array
    cov: Array
    factor: Array
    status: Status | tuple[Status, ...]
    message: str
    blowup_time: Any
    t_final: Any
    stats: dict[str, Any]

    @property
    def success(self) -> bool:
        """Whether all runs ended as asked, or in the blow-up of the true solution."""
        ends = self.status if isinstance(self.status, tuple) else (self.status,)
        return all(end.success for end in ends)


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
    """The flow of a Gaussian law or of a batch of them, see `fp.solve`; options are those of `integrate`."""
    if not isinstance(attention, Attention):
        came = f"the class {attention.__name__}" if isinstance(attention, type) else type(attention).__name__
        raise InputTypeError("attention", came, "an attention, as fp.Softmax(Q, K, V)")
    t0, _ = time_span("t_span", t_span)
    *lead, d = start.mean.shape
    length = attention.check_dimension(d, t0, "x0")
    if length != d:
        raise InputError("attention", f"a field of length {length}", f"{d}, the dimension of the law")
    count = max(p.systems(t0) for p in attention.parameters())
    if count > 1 and lead not in ([], [count]):
        raise InputError("x0", repr(start), f"one Gaussian law, or {count} as the parameters of the attention")
    lead = lead or ([count] if count > 1 else [])
    mean = np.broadcast_to(start.mean, (*lead, d)).reshape(-1, d)
    factor = np.broadcast_to(start.factor, (*lead, d, d)).reshape(-1, d, d)
    attention.closure(mean if count > 1 else mean[0], factor if count > 1 else factor[0], t0)  # raises before any work
    y0 = np.concatenate([mean[:, :, None], factor], axis=2)
    if not lead:
        return _solution(attention, integrate(Field(attention), y0[0], t_span, t_eval=t_eval, **options))
    solutions = []
    for b in range(len(y0)):
        one = attention.system(b) if count > 1 else attention
        solutions.append(_solution(one, integrate(Field(one), y0[b], t_span, t_eval=t_eval, **options)))
    return _stacked(solutions, tuple(lead), t_span, t_eval)


def _stacked(found: list[GaussianSolution], lead: tuple[int, ...], t_span: Any, t_eval: Any) -> GaussianSolution:
    """The solutions of systems as one of a batch."""
    times = np.asarray(t_span if t_eval is None else t_eval, dtype=np.float64)

    def stack(name: str) -> Array:
        each = [getattr(one, name) for one in found]
        out = np.full((len(times), len(found), *each[0].shape[1:]), np.nan)
        for b, rows in enumerate(each):
            out[: len(rows), b] = rows
        return out.reshape(len(times), *lead, *each[0].shape[1:])

    def numbers(values: list[Any]) -> Array:
        return np.array(values).reshape(lead)

    stats = {key: numbers([one.stats[key] for one in found]) for key in found[0].stats}
    ends = tuple(cast(Status, one.status) for one in found)
    message = (
        f"{len(found)} laws: " + ", ".join(f"{count} {end.value}" for end, count in Counter(ends).most_common()) + "."
    )
    return GaussianSolution(
        times, stack("mean"), stack("cov"), stack("factor"), ends, message,
        numbers([one.blowup_time for one in found]), numbers([one.t_final for one in found]), stats,
    )  # fmt: skip


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
