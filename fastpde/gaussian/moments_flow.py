"""The flow of a Gaussian law: mean' = M mean + c and L' = M L for a factor L of the covariance S = L L^T.

So S stays symmetric positive semidefinite and keeps its rank, which an integration of S' = M S + S M^T would not
ensure. A state is one array (d, 1 + r): the mean, then the columns of L. Source: Theory 2, 11.3.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import solutions
from .._types import Array
from ..attention.base import Attention, as_attention
from ..attention.small_matrices import transposed
from ..ensemble import summary
from ..errors import ExplainedMethods, InputError
from ..integrate import Solution, Status, integrate
from ..integrate.options import time_span
from ..integrate.reporting import check_progress, counting
from ..laws.gaussian import Gaussian
from .batch import Flow
from .blowup import blowup_times
from .closure_field import Field
from .per_position import MaskedField, identical, positions_of

if TYPE_CHECKING:
    from ..plot.canvas import Figure

_FAILED = (Status.STEP_TOO_SMALL, Status.NOT_FINITE)


@dataclass(frozen=True)
class GaussianSolution(ExplainedMethods):
    """A Gaussian law as a function of time, or a batch of them; `...` are the leading axes of a batch.

    Attributes:
        t: (m,) the points of t_eval that were reached, or the start and the end. For a batch all points, and without
            t_eval the last state of a system is that at its own t_final.
        mean, cov, factor: (m, ..., d), (m, ..., d, d) and L (m, ..., d, d) with L L^T = cov; nan after a system's end.
        status, message: how the integration ended; a blow-up that the theory allows is a result, not an error. For a
            batch a tuple, one per system.
        blowup_time: (...) the time at which the law becomes infinite, right to a small multiple of rtol; nan if it does
            not do so within the span. Exponential growth that leaves the range of numbers is not a blow-up: NOT_FINITE.
        t_final: (...) the last good time.
        stats: steps, accepted, rejected, evaluations, last_step, for a batch (...) arrays of those; and wall_time.
        settings: method, and rtol and atol or step, as they were asked for; the names of the classes of the attention.
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
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """Whether all runs ended as asked, or in the blow-up of the true solution."""
        return all(end.success for end in self._ends)

    @property
    def _ends(self) -> tuple[Status, ...]:
        return self.status if isinstance(self.status, tuple) else (self.status,)

    def __repr__(self) -> str:
        return solutions.shown(self, "t", "mean", "cov")

    def summary(self) -> str:
        """Return a few lines: how the laws ended and when, their steps, and the tolerances."""
        ends, times = np.ravel(self.t_final), np.ravel(self.blowup_time)
        first = self.message if isinstance(self.status, tuple) else f"{self.status.value}: {self.message}"
        last = f"ends: t = {ends.min():.10g}" + (f" to {ends.max():.10g}" if ends.max() > ends.min() else "")
        if (infinite := times[np.isfinite(times)]).size:
            last += f"; blow-ups: {infinite.size} of {times.size} laws, the first at t = {infinite.min():.10g}"
        return "\n".join([first, last, *solutions.told(self.stats, self.settings)])

    def save(self, path: str | Path) -> Path:
        """Write the solution into a .npz file, whole or not at all, and return its path. Raises OSError.

        It holds t, mean, cov, factor, blowup_time, t_final, status (...) and message (words), and stats/NAME and
        settings/NAME. `numpy.load` reads it.
        """
        names = ("t", "mean", "cov", "factor", "blowup_time", "t_final", "message")
        arrays: dict[str, Any] = {name: getattr(self, name) for name in names}
        words = np.array([end.value for end in self._ends])
        arrays["status"] = words.reshape(np.shape(self.t_final)) if isinstance(self.status, tuple) else words[0]
        return solutions.save(path, arrays, self.stats, self.settings)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw up to six laws over time, their principal standard deviations and in the plane their ellipses; return
        the Matplotlib figure, and write it as a PNG if there is a path. Raises OSError.
        """
        from ..plot import canvas, law_panels

        laws, d = int(np.prod(self.mean.shape[1:-1], dtype=int)), self.mean.shape[-1]
        ends = np.broadcast_to(np.ravel(self.t_final), (laws,))
        words = [end.value for end in self._ends] * (laws // len(self._ends))
        mean, cov = self.mean.reshape(-1, laws, d), self.cov.reshape(-1, laws, d, d)
        return canvas.finished(law_panels.of_laws(self.t, mean, cov, ends, words), path)


def solve_gaussian(
    attention: Attention,
    start: Gaussian,
    t_span: tuple[float, float],
    *,
    weights: Any = None,
    positions: Any = None,
    progress: Any = False,
    **options: Any,
) -> GaussianSolution:
    """Integrate the flow of a Gaussian law, of a batch of them, or of one law per position, see `fp.solve`.

    Options are those of `integrate`.
    """
    as_attention(attention)
    t0, _ = time_span("t_span", t_span)
    check_progress(progress)
    attention._check_dimension(start.mean.shape[-1], t0, "x0", square="attention")
    options["progress"] = progress
    if attention.masked and start.mean.ndim > 1:
        return _per_position(attention, start, t_span, weights, positions, options)
    for name, value in {"weights": weights, "positions": positions}.items():
        if value is not None:
            raise InputError(name, "a value", "none for a Gaussian law", "Masked attention has them: one per position.")
    return _systems(attention, start, t_span, options)


def _systems(attention: Attention, start: Gaussian, t_span: Any, options: dict[str, Any]) -> GaussianSolution:
    """Integrate one law, or a batch: the leading axes are those of the law or of the parameters."""
    (*lead, d), t0 = start.mean.shape, time_span("t_span", t_span)[0]
    count = max(p.systems(t0) for p in attention.parameters())
    if count > 1 and lead not in ([], [count]):
        raise InputError("x0", repr(start), f"one Gaussian law, or {count} as the parameters of the attention")
    lead = lead or ([count] if count > 1 else [])
    mean = np.broadcast_to(start.mean, (*lead, d)).reshape(-1, d)
    factor = np.broadcast_to(start.factor, (*lead, d, d)).reshape(-1, d, d)
    if 0 in lead:
        raise InputError("x0", repr(start), "at least one law")
    attention._closure(mean if count > 1 else mean[0], factor if count > 1 else factor[0], t0)  # raises before any work
    if not lead:
        return _one(attention, mean[0], factor[0], t_span, options)
    if attention._affine_heads() is not None:
        return _together(attention, mean, factor, tuple(lead), t_span, options)
    with counting(options.pop("progress"), len(mean)) as report:
        found = []
        for b in range(len(mean)):
            own = attention.system(b) if count > 1 else attention
            found.append(_one(own, mean[b], factor[b], t_span, options))
            report(b + 1)
    return _stacked(found, tuple(lead), t_span, options["t_eval"])


def _one(attention: Attention, mean: Array, factor: Array, t_span: Any, options: dict[str, Any]) -> GaussianSolution:
    y0, field = np.concatenate([mean[:, None], factor], axis=1), Field(attention)
    return _solution(field.slope, integrate(field, y0, t_span, **options), t_span)


def _per_position(
    attention: Attention, start: Gaussian, t_span: Any, weights: Any, positions: Any, options: dict[str, Any]
) -> GaussianSolution:
    """Integrate a Gaussian per position under masked attention, as one system. Raises NoGaussianClosure."""
    masses, seen = positions_of(start, weights, positions)
    t0 = time_span("t_span", t_span)[0]
    if max(p.systems(t0) for p in attention.parameters()) > 1:
        raise InputError("attention", "parameters for several systems", "one system, as x0 is a law per position")
    if attention.averages and identical(start):
        one = _one(attention, start.mean[0], start.factor[0], t_span, options)
        mean, cov, factor = (
            np.repeat(array[:, None], len(start.mean), axis=1) for array in (one.mean, one.cov, one.factor)
        )
        return replace(one, mean=mean, cov=cov, factor=factor)
    field = MaskedField(attention, masses, seen)
    y0 = np.concatenate([start.mean[:, :, None], start.factor], axis=2)
    field.slope(t0, y0)  # raises before any work
    return _solution(lambda t, y: field.slope(t, y[0])[None], integrate(field, y0, t_span, **options), t_span)


def _together(
    attention: Attention, mean: Array, factor: Array, lead: tuple[int, ...], t_span: Any, options: dict[str, Any]
) -> GaussianSolution:
    """Integrate many laws, means (B, d) and factors (B, d, d), in the compiled loop."""
    began, progress = clock.monotonic(), options.pop("progress")
    flow = Flow(attention, mean, factor, t_span, **options)
    flow.finish(progress)
    t, status = flow.t, list(flow.status)
    means, factors = flow.recorded
    if options["t_eval"] is None:
        means[-1], factors[-1] = flow.mean, flow.factor
    blowup = np.full(len(t), np.nan)
    if any(end in _FAILED for end in status):
        failed = np.array([end in _FAILED for end in status])
        y = np.concatenate([flow.mean[:, :, None], flow.factor], axis=2)
        y[~failed] = 0.0
        times = blowup_times(lambda y: Field(attention).slope(t_span[0], y), t_span[0], t, y)
        blowup = np.where(failed, times, np.nan)
    status = [Status.BLOW_UP if time == time else end for end, time in zip(status, blowup, strict=True)]
    stats = {name: each.reshape(lead) for name, each in flow.stats.items()}
    means, factors = (array.reshape(len(flow.times), *lead, *array.shape[2:]) for array in (means, factors))
    return GaussianSolution(
        flow.times, means, factors @ transposed(factors), factors, tuple(status), summary(tuple(status)),
        blowup.reshape(lead), t.reshape(lead), stats | {"wall_time": clock.monotonic() - began}, flow.settings,
    )  # fmt: skip


def _stacked(found: list[GaussianSolution], lead: tuple[int, ...], t_span: Any, t_eval: Any) -> GaussianSolution:
    """Combine the solutions of single systems into that of a batch with the leading axes `lead`."""
    times = np.asarray(t_span if t_eval is None else t_eval, dtype=np.float64)

    def stack(name: str) -> Array:
        each = [getattr(one, name) for one in found]
        out = np.full((len(times), len(found), *each[0].shape[1:]), np.nan)
        for b, rows in enumerate(each):
            out[: len(rows), b] = rows
        return out.reshape(len(times), *lead, *each[0].shape[1:])

    def numbers(values: list[Any]) -> Array:
        return np.array(values).reshape(lead)

    stats: dict[str, Any] = {key: numbers([one.stats[key] for one in found]) for key in found[0].stats}
    stats["wall_time"] = float(stats["wall_time"].sum())
    ends = tuple(cast(Status, one.status) for one in found)
    return GaussianSolution(
        times, stack("mean"), stack("cov"), stack("factor"), ends, summary(ends),
        numbers([one.blowup_time for one in found]), numbers([one.t_final for one in found]), stats, found[0].settings,
    )  # fmt: skip


def _solution(slope: Callable[[float, Array], Array], sol: Solution, t_span: Any) -> GaussianSolution:
    """Make the solution of one run, and find whether it ended in a blow-up.

    slope(t, y) is the field, of states with a leading axis of length 1.
    """
    status, message, blowup_time = sol.status, sol.message, np.nan
    if status in _FAILED:
        t = np.array([sol.t_final])
        blowup_time = float(blowup_times(lambda y: slope(sol.t_final, y), t_span[0], t, sol.x_final[None])[0])
        if np.isfinite(blowup_time):
            status = Status.BLOW_UP
            message = f"The law becomes infinite at t = {blowup_time:.10g} ({sol.stats['steps']} steps)."
    factor = sol.x[..., 1:]
    return GaussianSolution(
        sol.t, sol.x[..., 0], factor @ transposed(factor), factor, status, message, blowup_time, sol.t_final, sol.stats,
        sol.settings,
    )  # fmt: skip
