"""The law where it stays Gaussian: its mean, its covariance and the affine flow map, without any nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array
from ..attention import Attention
from ..errors import FieldError, NoGaussianClosure
from ..gaussian.blowup import blowup_times
from ..gaussian.closure_field import Field
from ..integrate import Solution, integrate
from ..laws import Gaussian
from . import refusals
from .carrier import Carrier, FlowPath, stops_between
from .setting import Setting

_FINEST = 1e-13  # rtol: below, steps are rounding
_STEPS = (1e-2, 1e-3)  # rtol of two runs as fractions of tol
_NODES = {1: 24, 2: 24, 3: 12}  # points per axis of `points`, by dimension
_SOBOL = 1024  # points elsewhere


class _AffineField:
    """The field f(t, y, out) of states (d, 1 + d), the mean m and P: m' = M m + c and P' = M P, cov = P cov_0 P^T."""

    def __init__(self, attention: Attention, factor: Array, stops: Any = ()) -> None:
        """Keep the root (d, d) of the covariance at the start; steps end at the times `stops`, too."""
        self.attention, self._factor = attention, factor
        self.breaks = tuple(sorted({*attention.breaks, *stops}))

    def __call__(self, t: float, y: Array, out: Array) -> None:
        M, c = self.attention._closure(y[:, 0], y[:, 1:] @ self._factor, t)
        np.matmul(M, y, out=out)
        out[:, 0] += c


class AffineFlow(Carrier):
    """The flow of a Gaussian law whose field is affine: x moves to mean + P (x - mean_0)."""

    how = "closure"

    def __init__(self, setting: Setting, law: Gaussian, tol: float) -> None:
        """Integrate mean and P twice, with steps of two sizes.

        Raises InputError that says until when the law exists, or until when both agree.
        """
        self.setting, self.law = setting, law
        start = np.concatenate([law.mean[:, None], np.eye(setting.dimension)], axis=1)
        self._rtol = max(_FINEST, _STEPS[1] * tol)
        coarse = self._integrate(start, setting.t, max(_FINEST, _STEPS[0] * tol))
        sol = self._integrate(start, setting.t, self._rtol, setting.progress)
        k = min(len(sol.x), len(coarse.x))
        size = setting.scale * np.maximum(1.0, np.abs(sol.x[:k, :, 1:]).max(axis=(1, 2)))
        size = np.maximum(size, np.abs(sol.x[:k, :, 0]).max(axis=1))
        lengths = np.array([1.0, *[setting.scale] * setting.dimension])
        self.error = np.maximum.accumulate(np.abs((sol.x[:k] - coarse.x[:k]) * lengths).max(axis=(1, 2)) / size)
        reached = int(np.argmax(np.append(self.error > tol, True)))
        if reached < len(setting.t):
            holds = f"two runs agree to tol = {tol:g}"
            raise refusals.early(setting, setting.t, reached, holds, self._why(sol), refusals.lost(sol))
        self._path = FlowPath(setting.t, sol.x, self._follow)
        d = setting.dimension
        self._nodes, self.weights = (
            law.nodes(_NODES[d]) if d in _NODES else (law.sobol(_SOBOL, 0), np.full(_SOBOL, 1 / _SOBOL))
        )

    def points(self, t: float, s: float | None) -> tuple[Array, Array]:
        return self.push(t, self._nodes, None), self.weights.copy()

    def velocity(self, t: float, x: Array, s: Array | None) -> Array:
        y = self._path(t)
        return self.setting.attention._gaussian_field(x, y[:, 0], y[:, 1:] @ self.law.factor, t)

    def push(self, t: float, x0: Array, s: Array | None) -> Array:
        y = self._path(t)
        return np.asarray(y[:, 0] + (x0 - self.law.mean) @ y[:, 1:].T)

    def log_density(self, t: float, x: Array, s: Array | None) -> Array:
        y = self._path(t)  # carried back, not by the covariance: its condition is the square of that of P
        sign, volume = np.linalg.slogdet(y[:, 1:])
        if not sign:
            raise FieldError("The flow has made the law so thin that numbers do not tell its density.")
        return self.law.log_density(self.law.mean + np.linalg.solve(y[:, 1:], (x - y[:, 0]).T).T) - volume

    def moments(self, t: float, s: float | None) -> tuple[Array, Array]:
        y = self._path(t)
        root = y[:, 1:] @ self.law.factor
        return y[:, 0].copy(), root @ root.T

    def _why(self, sol: Solution) -> str:
        """Return why a run has stopped early: the time at which the law becomes infinite, or a remedy."""
        if sol.status in refusals.FAILED:
            field, y = Field(self.setting.attention), sol.x_final
            state = np.concatenate([y[:, :1], y[:, 1:] @ self.law.factor], axis=1)
            times = blowup_times(
                lambda y: field.slope(sol.t_final, y), float(self.setting.t[0]), np.array([sol.t_final]), state[None]
            )
            if np.isfinite(times[0]):
                return f"The law becomes infinite at t = {times[0]:.10g}."
        return refusals.why(sol) or "Later it grows too fast for these steps: raise tol."

    def _follow(self, y: Array, start: float, end: float) -> Array:
        sol = self._integrate(y, np.array([start, *stops_between(self.setting.t, start, end), end]), self._rtol)
        if not sol.success:
            raise FieldError(sol.message)
        return np.asarray(sol.x[-1])

    def _integrate(self, y: Array, t: Array, rtol: float, progress: Any = False) -> Solution:
        field = _AffineField(self.setting.attention, self.law.factor, t[1:-1].tolist())
        atol, span = rtol * min(1.0, self.setting.scale), (float(t[0]), float(t[-1]))
        return integrate(field, y, span, t_eval=t, rtol=rtol, atol=atol, progress=progress)


def by_closure(setting: Setting, tol: float) -> AffineFlow | None:
    """Return the flow of a Gaussian law that stays Gaussian, None for others. Raises InputError as `AffineFlow`."""
    law = setting.law_at(0.5)
    if not (isinstance(law, Gaussian) and setting.one_law):
        return None
    try:
        setting.attention._closure(law.mean, law.factor, float(setting.t[0]))
    except NoGaussianClosure:
        return None
    return AffineFlow(setting, law, tol)
