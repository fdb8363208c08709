"""Lyapunov exponents of a run: the mean rates at which small disturbances of its tokens grow.

k tangents are carried along. Every few steps they are made orthonormal, D = Q R, in the product sum_i w_i <a_i, b_i>,
which is that of W_2 on tangents; the mean of log R_jj over time is the j-th exponent. Source: Benettin, Galgani,
Giorgilli, Strelcyn, Lyapunov characteristic exponents (1980), Meccanica 15, 9-30; Theory 12.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._numbers import real, whole
from .._types import Array
from ..attention.base import Attention
from ..attention.derivatives import masses_of
from ..errors import ExplainedMethods, InputError, explained
from ..integrate import Integrator, Problem, Solution
from ..integrate.controller import FixedStep
from ..integrate.options import stepping
from ..integrate.solve import run
from ..manifold import Manifold
from ..meanfield import Field, prepare
from ..solutions import brief
from ..tangents import Follower

if TYPE_CHECKING:
    from ..plot.canvas import Figure

_BLOCKS = 10  # of the time that is averaged over, for errors
_NOISY = 4.0  # how many times the measured rounding of rates may be found in the estimate of an error
_LOST = 0.1  # the error of the logarithm of a growth, by rounding of rates, above which exponents are not told
_PURPOSE = 4  # of the seed's numbers; those below belong to tokens, parameters, subsets and noise


@dataclass(frozen=True)
class Lyapunov(ExplainedMethods):
    """The largest Lyapunov exponents of a run, returned by `lyapunov`.

    Attributes:
        exponents: (k,), the largest first, per unit of time in the direction of the run; -inf where a direction is
            lost.
        errors: (k,) standard errors of these means, from the means of ten blocks of time; nan if there is one only.
            They tell fluctuations, not what is left of the beginning: that is seen in the profile.
        start: where the part ends that is dropped.
        times, profile: (m,) and (m, k), the means from `start` to these times.
        solution: the run.
    """

    exponents: Array
    errors: Array
    start: float
    times: Array
    profile: Array
    solution: Solution

    def __repr__(self) -> str:
        return brief(self)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the means against time, and the exponents with their errors, and return the Matplotlib figure.

        It is written as a PNG if there is a path. Raises OSError.
        """
        from ..plot import canvas, exponents

        return canvas.finished(exponents.figure(self.times, self.profile, self.exponents, self.errors), path)


@explained
def lyapunov(
    attention: Attention,
    x0: Any,
    t_span: tuple[float, float],
    *,
    k: int = 1,
    drop: float = 0.5,
    every: int = 1,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    noise: float = 0.0,
    seed: int = 0,
    backend: Any = "auto",
    progress: Any = False,
    **asked: Any,
) -> Lyapunov:
    """Return the k largest Lyapunov exponents of the run of `solve` from x0.

    Args:
        x0: tokens (n, d) of one system.
        k: how many, at most n d, on a sphere n (d - 1). A step takes k `jvp` of every stage and 2 n d k^2 operations.
        drop: the part of the time at the beginning that is left out, at least 0 and below 1.
        every: steps between two factorisations; more save time where tokens are few and k is large.
        seed: of the first directions, and of the noise; with noise exponents are those of its path.
        progress: True for a bar, or a function progress(t, stats).
        weights, positions, manifold, noise, backend: as of `solve`.
        asked: method, step, rtol, atol and max_steps, as of `solve`. Adaptive steps are those of `solve` or smaller,
            such that tangents are right to rtol in each of them, too.

    Returns:
        a `Lyapunov`.

    Raises:
        InputError, InputTypeError: naming the argument; for a run that did not reach the end, with its message; where
            rounding of derivatives hides the growth of tangents, as of tokens that run away.

    Source: Theory 12.3.
    """
    stepping(lyapunov, asked)
    count, every, drop = whole("k", k), whole("every", every), real("drop", drop)
    if not 0.0 <= drop < 1.0:
        raise InputError("drop", str(drop), "a number of at least 0 and below 1")
    problem = prepare(
        attention, x0, t_span, weights=weights, positions=positions, manifold=manifold, noise=noise, seed=seed,
        backend=backend, t_eval=None, events=(), observers=(), **asked,
    )  # fmt: skip
    if problem.y0.ndim != 2:
        raise InputError("x0", f"shape {problem.y0.shape}", "tokens (n, d) of one system")
    moving, (n, d) = cast(Field, problem.field), problem.y0.shape
    most = n * moving.manifold.dimension(d)
    if count > most:
        raise InputError("k", str(count), f"at most {most}, the number of directions of {n} tokens")
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_PURPOSE,)))
    follower = Follower(problem, generator.standard_normal((count, n, d)))

    def change(t: float, x: Array, dx: Array) -> Array:
        return attention.jvp(x, dx, t=t, weights=weights, positions=positions, backend=backend)[1]

    growth = _Growth(follower, problem, masses_of(moving.cloud)[0], every, change)
    solution = run(problem, progress, growth)
    if not solution.success:
        raise InputError("t_span", f"a run that ended: {solution.message}", "one that reaches its end")
    times = np.array([problem.span.start, *growth.times])
    if _first_kept(times, drop) >= len(growth.logs):
        raise _too_few(len(growth.logs), drop, every, solution.stats["steps"])
    return _averaged(times, np.array(growth.logs), drop, solution)


class _Growth:
    """The growth of tangents between factorisations: the times (m,) of these, and the logarithms of R_jj (m, k).

    Where tokens are at rest the control of their steps allows steps of any size. So tangents limit adaptive steps, too:
    a proposed one is lowered to the size at which the error of a tangent is rtol of its length. The part of that error
    which is rounding does not count: smaller steps have as much of it.

    change(t, x, dx): the change of the velocity along a tangent.
    """

    def __init__(self, follower: Follower, problem: Problem, masses: Array, every: int, change: Any) -> None:
        self._follower, self._roots, self._every = follower, np.sqrt(masses)[:, None], every
        self._rule = None if isinstance(problem.controller, FixedStep) else problem.controller.rule
        self._problem, self._change = problem, change
        self.times: list[float] = []
        self.logs: list[Array] = []
        self._orthonormalise()

    def __call__(self, run: Integrator) -> None:
        before = self._follower.tangents
        self._follower(run)
        if self._rule is not None:
            after, error = (self._lengths(one) for one in (self._follower.tangents, self._follower.error()))
            worst = float(np.max(error / np.maximum(self._lengths(before), after)))
            if abs(self._allowed(run, worst)) < abs(run.state.clock.h):
                worst = max(0.0, worst - _NOISY * abs(run.last[1]) * self._rounding(run))
                run.state.clock.h = min(run.state.clock.h, self._allowed(run, worst), key=abs)
        if run.status is not None and run.status.success:
            self._rounding(run)
        if run.state.step % self._every == 0 or run.status is not None:
            self.times.append(run.state.t)
            self.logs.append(self._orthonormalise())

    def _allowed(self, run: Integrator, error: float) -> float:
        """Return the step after one in which tangents had a relative error."""
        assert self._rule is not None, "steps are adaptive"
        with np.errstate(divide="ignore"):
            return float(
                run.last[1] * self._rule.safety * np.float64(error / self._rule.rtol) ** (-1.0 / self._rule.order)
            )

    def _rounding(self, run: Integrator) -> float:
        """Return the relative error that rounding makes in the rate at which the last tangent changes.

        The change along three times a tangent is three times as large, but for rounding. Raises InputError if that may
        change the growth over the whole span by a tenth.
        """
        t, y, d = run.state.t, run.state.y.astype(np.float64), self._follower.tangents[-1]
        with np.errstate(all="ignore"):  # what overflows is refused elsewhere
            unit = d / self._lengths(d[None])[0]
            if not np.isfinite(unit).all():
                return 0.0
            off = self._change(t, y, 3.0 * unit) / 3.0 - self._change(t, y, unit)
            found = float(self._lengths(off[None])[0])
        start, end = self._problem.span
        if found * abs(end - start) > _LOST:
            came = f"the end {end:g}, but at t = {t:.6g} rates have an error of {found:.1g} by rounding"
            remedy = (
                f"Products of coordinates up to {np.abs(y).max():.2g}, as of tokens that run away, leave few digits."
            )
            raise InputError("t_span", came, f"an end before t = {t:.4g}", remedy)
        return found if np.isfinite(found) else 0.0

    def _lengths(self, tangents: Array) -> Array:
        """Return the norms (k,) of tangents (k, n, d), weighted by the masses of tokens."""
        return np.linalg.norm((tangents * self._roots).reshape(len(tangents), -1), axis=1)

    def _orthonormalise(self) -> Array:
        """Make the tangents orthonormal; return the logarithms of R_jj (k,)."""
        scaled = self._follower.tangents * self._roots
        if not np.isfinite(scaled).all():
            if self._every > 1:
                came = f"{self._every}, and tangents overflow in so many steps"
                raise InputError("every", came, "fewer steps between factorisations")
            raise InputError("step", "one in which tangents overflow", "smaller steps")
        q, r = np.linalg.qr(scaled.reshape(len(scaled), -1).T)
        self._follower.tangents = q.T.reshape(scaled.shape) / self._roots
        with np.errstate(divide="ignore"):
            return np.log(np.abs(np.diagonal(r)))


def _first_kept(times: Array, drop: float) -> int:
    """Return the index of the first of the times (m + 1,) after the part that is dropped; it is m at most."""
    elapsed = np.abs(times - times[0])
    return int(np.searchsorted(elapsed, drop * elapsed[-1]))


def _too_few(factorisations: int, drop: float, every: int, steps: float) -> InputError:
    """Return the error of a run without two factorisations after the part of it that is dropped."""
    if not steps:
        return InputError("t_span", "a run without a step", "a span of some length")
    if every > 1 and (1.0 - drop) * steps >= 1.0:
        came = f"{every}: {factorisations} factorisations in {steps:.0f} steps"
        need = f"some before and some after the part drop = {drop:g} of the span"
        return InputError("every", came, need, f"Take every = {max(1, int(steps) // 20)}.")
    need = f"steps that begin after the part drop = {drop:g} of it"
    remedy = "Take a lower drop, a longer span, or smaller steps."
    return InputError("t_span", f"a run of {steps:.0f} steps", need, remedy)


def _averaged(times: Array, logs: Array, drop: float, solution: Solution) -> Lyapunov:
    """Return the exponents, given the logarithms (m, k) of the growth between factorisations at times (m + 1,).

    The exponents are the growth over the time after the part that is dropped. Their errors are those of means of
    `_BLOCKS` blocks of equal time, as if blocks were independent.
    """
    elapsed, first = np.abs(times - times[0]), _first_kept(times, drop)
    lengths, logs = np.diff(elapsed)[first:], logs[first:]
    after = elapsed[first + 1 :] - elapsed[first]
    profile = np.cumsum(logs, axis=0) / after[:, None]
    block = np.minimum((after - 0.5 * lengths) * (_BLOCKS / after[-1]), _BLOCKS - 1).astype(int)
    kept, block = np.unique(block, return_inverse=True)
    share = np.bincount(block, lengths) / after[-1]
    means = np.array([np.bincount(block, column) for column in logs.T]).T / (share * after[-1])[:, None]
    errors = np.full(logs.shape[1], np.nan)
    if len(kept) > 1:
        with np.errstate(invalid="ignore"):
            squares = share**2 @ (means - profile[-1]) ** 2
        errors = np.sqrt(squares * len(kept) / (len(kept) - 1))
    order = np.argsort(-profile[-1], kind="stable")
    start, times = float(times[first]), times[first + 1 :]
    return Lyapunov(profile[-1][order], errors[order], start, times, profile[:, order], solution)
