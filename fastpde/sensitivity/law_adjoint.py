"""Gradients of a run of a Gaussian law: the discrete adjoint of its steps, in the mean and the covariance.

A step makes L+ = Phi L of the factor of S = L L^T, with Phi a polynomial of the matrices M of its stages, and these
depend on L by S alone. So S+ = Phi S Phi^T is a function of the mean and S, and its derivative asks for no inverse: the
stages are written as Y_s = Psi_s L with frames Psi_s (d, d), I at the start, which move by Psi' = M Psi, and S is a
parameter of the step. With S*_+ (symmetric) the cotangent of S+,

    Phi* = 2 S*_+ Phi S,    S* = Phi^T S*_+ Phi + sum_s Psi_s^T P*_s Psi_s,

P*_s the cotangent of the covariance of stage s in the field there. Source: Theory 12.2, 12.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._types import Array
from ..attention.base import Attention, as_attention
from ..attention.small_matrices import transposed
from ..errors import InputError
from ..gaussian import Gaussian, GaussianSolution, solve_gaussian
from ..integrate import Observer
from ..integrate.again import StepAgain, StepsAgain
from ..integrate.breaks import Breaks
from ..integrate.controller import Span
from ..integrate.methods import TABLEAUX
from ..integrate.options import function, time_span
from ..integrate.reporting import counting, reporting
from ..manifold import Euclidean
from ..solutions import brief
from .retracing import ParameterTotals, as_cotangent, as_value, by_step, last_first
from .snapshots import Snapshots


@dataclass(frozen=True)
class GaussianGradient:
    """The gradient of a loss of the run of a Gaussian law, or of a batch of them, returned by `gradient`.

    Attributes:
        value: the loss.
        mean: (d,) or (..., d), its gradient in the initial means.
        cov: (d, d) or (..., d, d), that in the initial covariances: symmetric, also for changes that raise their rank.
        parameters: name -> gradient, as of `Gradient`.
        solution: the run, or runs.
        stats: as of `Gradient`.
    """

    value: float
    mean: Array
    cov: Array
    parameters: dict[str, Array]
    solution: GaussianSolution
    stats: dict[str, int]

    def __repr__(self) -> str:
        return brief(self)


def gradient_of_law(
    loss: Callable[[Array, Array], tuple[float, Any]],
    attention: Attention,
    law: Gaussian,
    t_span: tuple[float, float],
    t_eval: Any,
    memory: int,
    progress: Any,
    asked: dict[str, Any],
) -> GaussianGradient:
    """Return what `gradient` does for a Gaussian law, or several; `asked` are options of `integrate`."""
    as_attention(attention)
    (*lead, d), t0 = law.mean.shape, time_span("t_span", t_span)[0]
    if lead and attention.masked:
        raise InputError("x0", repr(law), "one Gaussian law: under a mask leading axes are positions, not systems")
    function("loss", loss, "(mean, cov) -> its value and the pair of its derivatives")
    kept, tableau = Snapshots((d, 1 + d), memory), TABLEAUX[asked.get("method", "dopri5")]
    count = max(p.systems(t0) for p in attention.parameters())
    one = not lead and count == 1
    watch = [Observer(kept.take, steps=1)] if one else []
    sol = solve_gaussian(attention, law, t_span, t_eval=t_eval, observers=watch, **asked)
    if np.isfinite(sol.blowup_time).any() or not sol.success or (t_eval is not None and len(sol.t) != np.size(t_eval)):
        raise InputError("t_span", f"a run that ended: {sol.message}", "one that reaches its end")
    value, of_mean, of_cov = _differentiated(loss, sol, t_eval)
    at = sol.t if t_eval is not None else sol.t[-1:]
    if one:
        with reporting(progress, Span(kept.times[-1], kept.times[0])) as report:
            back = _Back(attention, tableau, kept)
            (mean, cov), parameters = back.run(at, list(zip(of_mean[:, 0], of_cov[:, 0], strict=True)), report)
        return GaussianGradient(value, mean, cov, parameters, sol, back.stats)
    means, covs = np.empty(of_mean.shape[1:]), np.empty(of_cov.shape[1:])
    start = np.broadcast_to(law.mean, (*sol.mean.shape[1:-1], d)).reshape(-1, d), law.cov.reshape(-1, d, d)
    each, stats = [], []
    with counting(progress, len(means)) as told:
        for b in range(len(means)):
            own = attention.system(b) if count > 1 else attention
            kept, alone = Snapshots((d, 1 + d), memory), Gaussian(start[0][b], start[1][b if lead else 0])
            solve_gaussian(own, alone, t_span, t_eval=None, observers=[Observer(kept.take, steps=1)], **asked)
            back = _Back(own, tableau, kept)
            (means[b], covs[b]), found = back.run(at, list(zip(of_mean[:, b], of_cov[:, b], strict=True)), None)
            each.append(found)
            stats.append(back.stats)
            told(b + 1)
    totals = {name: (max if name == "stride" else sum)(one[name] for one in stats) for name in stats[0]}
    mean, cov = means.reshape(sol.mean.shape[1:]), covs.reshape(sol.cov.shape[1:])
    return GaussianGradient(value, mean, cov, _joined(each, attention, t0), sol, totals)


def _differentiated(loss: Callable[..., Any], sol: GaussianSolution, t_eval: Any) -> tuple[float, Array, Array]:
    """Return the value of a loss of laws, and its derivatives in the means (m, B, d) and covariances (m, B, d, d)."""
    mean, cov = (sol.mean, sol.cov) if t_eval is not None else (sol.mean[-1], sol.cov[-1])
    found, d = loss(mean.copy(), cov.copy()), mean.shape[-1]
    try:
        value, (of_mean, of_cov) = found
    except (TypeError, ValueError):
        need = "one that returns its value and the pair of its derivatives in mean and covariance"
        raise InputError("loss", f"a function that returns {found!r:.60}", need) from None
    value, rows = as_value(value), 1 if t_eval is None else len(mean)
    of_cov = as_cotangent(of_cov, cov, "that of the covariance").reshape(rows, -1, d, d)
    of_mean = as_cotangent(of_mean, mean, "that of the mean").reshape(rows, -1, d)
    return value, of_mean, 0.5 * (of_cov + transposed(of_cov))


def _joined(each: list[dict[str, Array]], attention: Attention, t: float) -> dict[str, Array]:
    """Return the gradients in the parameters of several laws, from those of each: summed where they share a value."""
    found: dict[str, Array] = {}
    for name, p in attention._named_parameters():
        if name in each[0]:
            values, first = [own[name] for own in each], int(not p.constant)  # layers come before systems
            found[name] = np.sum(values, axis=0) if p.systems(t) == 1 else np.stack(values, axis=first)
    return found


@dataclass
class _Step:
    """A step made again, of states [mean, L, Psi] (d, 1 + 2 d); S is the covariance where it begins.

    Attributes:
        cotangents: of laws within the step, with their theta.
    """

    again: StepAgain
    S: Array
    cotangents: list[tuple[float, Any]] = field(default_factory=list)


class _Back:
    """The way back over the steps of the run of a law; a cotangent is one of the mean (d,) and of S (d, d)."""

    def __init__(self, attention: Attention, tableau: Any, kept: Snapshots) -> None:
        self._attention, self._kept, self._d = attention, kept, len(kept.states[0])
        breaks = Breaks(attention.breaks, Span(kept.times[0], kept.times[-1]))
        self._steps = StepsAgain(tableau, breaks, Euclidean())
        self._gradients = ParameterTotals()
        self.stats = {
            "steps": len(kept.times) - 1, "velocities": 0, "pullbacks": 0, "kept": len(kept.states),
            "stride": kept.stride,
        }  # fmt: skip

    def run(self, at: Array, cotangents: list[Any], report: Any) -> tuple[tuple[Array, Array], dict[str, Array]]:
        """Return the gradients in the first law and in the parameters, given those in the laws at some times."""
        times, d = self._kept.times, self._d
        inside, at_ends = by_step(times, at, cotangents)
        final = len(times) - 1
        of_mean, of_S = np.zeros(d), np.zeros((d, d))
        for c in at_ends.get(final, []):
            of_mean, of_S = of_mean + c[0], of_S + c[1]
        for step in last_first(self._kept, self._again):
            n, begins, h = step.again.number, step.again.t, step.again.h
            step.cotangents = [((t - begins) / h, c) for t, c in inside.get(n, [])]
            of_mean, of_S = self._pull_step(step, of_mean, of_S)
            for c in at_ends.get(n, []):
                of_mean, of_S = of_mean + c[0], of_S + c[1]
            if report is not None:
                report(begins, {"steps": final - n})
        if not self._gradients:  # the loss does not depend on the run
            self._gradients.fill(self._attention._named_parameters(), times[0])
        return (of_mean, of_S), self._gradients

    def _again(self, n: int, y: Array) -> tuple[_Step, Array]:
        """Make step n again; return it and the state [mean, L] after it."""
        begins, ends = self._kept.times[n : n + 2]
        start = np.concatenate([y, np.eye(self._d)], axis=1)
        step = _Step(self._steps.begin(n, (begins, ends), ends - begins, start), y[:, 1:] @ y[:, 1:].T)
        for s in range(self._steps.count - 1):
            self._velocity(step, s, self._steps.argument(step.again, s))
        return step, self._steps.argument(step.again, self._steps.count - 1)[:, : 1 + self._d].copy()

    def _velocity(self, step: _Step, s: int, y: Array) -> None:
        M, c = self._attention._closure(y[:, 0], y[:, 1 : 1 + self._d], self._steps.at(step.again, s))
        out = step.again.stages[s]
        np.matmul(M, y, out=out)
        out[:, 0] += c
        self.stats["velocities"] += 1

    def _pull_step(self, step: _Step, of_mean: Array, of_S: Array) -> tuple[Array, Array]:
        """Return the cotangents of mean and S before a step, given those after it."""
        d, again, last = self._d, step.again, self._steps.count - 1
        h, of_stages = again.h, np.zeros((last + 1, d, 1 + d))  # of the velocities of [mean, Psi]
        before = np.zeros(d)
        if step.cotangents and self._steps.dense_needs_last:
            self._velocity(step, last, again.arguments[last])
        after, found = _through(again.arguments[last][:, 1 + d :], step.S, of_mean, of_S)
        for theta, (c_mean, c_S) in step.cotangents:
            weights, _ = self._steps.between(theta)
            frame = np.eye(d) + h * np.tensordot(weights, again.stages[:, :, 1 + d :], axes=1)
            moved, more = _through(frame, step.S, c_mean, c_S)
            found, before = found + more, before + c_mean
            for s, weight in enumerate(weights):
                of_stages[s] += h * weight * moved
        for s in range(last, -1, -1):
            pulled = after if s == last else np.zeros_like(after)
            if of_stages[s].any():
                moved, more = self._pull_velocity(step, s, of_stages[s])
                pulled, found = pulled + moved, found + more
            before = before + pulled[:, 0]
            for r, weight in enumerate(self._steps.rows[s][:s]):
                of_stages[r] += h * weight * pulled
        return before, 0.5 * (found + found.T)

    def _pull_velocity(self, step: _Step, s: int, c: Array) -> tuple[Array, Array]:
        """Return the cotangents of [mean, Psi] of a stage and of S, and add those of the parameters."""
        d, y, t = self._d, step.again.arguments[s], self._steps.at(step.again, s)
        mean, frame = y[:, 0], y[:, 1 + d :]
        law = self._attention._linearised_law(mean[None], y[None, :, 1 : 1 + d], t)
        found = law.pull((c @ np.concatenate([mean[:, None], frame], axis=1).T)[None], c[None, :, 0])
        self.stats["pullbacks"] += 1
        for name, p in self._attention._named_parameters():
            if name in found.parameters:
                self._gradients.add(name, p, t, found.parameters[name])
        moved, more = _through(frame, step.S, found.mean[0], found.cov[0])
        return law.M[0].T @ c + moved, more


def _through(frame: Array, S: Array, of_mean: Array, of_cov: Array) -> tuple[Array, Array]:
    """Return the cotangents of [mean, Psi] (d, 1 + d) and of S, given those of the mean and of Psi S Psi^T."""
    return np.concatenate([of_mean[:, None], 2.0 * of_cov @ frame @ S], axis=1), frame.T @ of_cov @ frame
