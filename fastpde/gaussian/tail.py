"""The flow of a Gaussian law followed to its end: on its shape and its size, in a clock of its own, without gauge.

The state is Y = [mean, L] (without the mean where the field's matrix M does not depend on it) as Y = e^size X, |X| = 1,
and the time t. Three choices make blow-up, growth and decay like 1 / t equally easy:
    shape   X stays on the unit sphere while Y explodes or collapses (MATH 3, the projective flow);
    clock   dtau = (|S'| / |S| + 1 / (t + unit)) dt is log 1 / (t* - t) near a blow-up and log t in an algebraic tail;
    gauge   L' = M L + L Omega with Omega skew gives the same S = L L^T. The Omega that makes L^T L' symmetric leaves
            L at rest when S is, though M is not zero. Exponential relaxation is then stiff where another direction
            still decays like 1 / t or grows slower: LSODA follows that, explicit steps would not.

Source: MATH 2, 3, 11; Bhatia, Jain, Lim 2019 (the horizontal lift of a path of covariances).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .._types import Array
from ..attention.base import Attention

_SPAN = 1e12  # of tau: never reached
_EXPLICIT = 80  # steps of an explicit method before one that may be implicit takes over
_IMPLICIT = 1e-8  # its tolerance: it follows a slow manifold, along which errors are forgotten
_RENEW = 5000  # steps of a run with one tolerance
_STEP = 2.0  # the largest of tau: about an e-fold of S or of t


class Rates(NamedTuple):
    """The flow at one state; rates are per time."""

    slope: Array  # X' in the gauge of L at rest
    growth: float  # of log |Y|
    change: float  # |S'| / |S|, with the mean's part where the mean matters
    strength: float  # |M|, with the mean's part
    spectrum: Array  # singular values of L / |Y|, descending


class Point(NamedTuple):
    """A law on its way."""

    t: float
    size: float  # log tr(Y Y^T)
    growth: float  # its derivative
    change: float
    strength: float
    spectrum: Array  # (r,) logs of the eigenvalues of S on its range
    columns: Array  # X (d, q + r) with q = 0 or 1 for the mean


class Flow:
    """The field of (X, log |Y|, t) in the clock tau, for one law."""

    def __init__(self, attention: Attention, mean: Array, factor: Array) -> None:
        """mean (d,), factor (d, r) of full column rank r > 0."""
        self.attention, self.d = attention, len(mean)
        self.with_mean = not attention.mean_free
        columns = np.column_stack([mean, factor]) if self.with_mean else factor
        self.norm = float(np.linalg.norm(columns))
        self.start = columns / self.norm
        first = self.rates(self.start, 0.0)
        self.unit = 1.0 / first.strength if first.strength > 0.0 else np.inf

    def rates(self, X: Array, size: float) -> Rates:
        """The flow at Y = norm e^size X, |X| = 1."""
        scale = self.norm * np.exp(size)
        L = X[:, 1:] if self.with_mean else X
        U, s, Wt = np.linalg.svd(L, full_matrices=False)
        mean = scale * X[:, 0] if self.with_mean else np.zeros(self.d)
        # U s is a factor of S too; its orthogonal columns keep the digits of the small ones in the closure.
        M, c = self.attention.closure(mean, scale * U * s, 0.0)
        slope = M @ X
        if self.with_mean:
            slope[:, 0] += c / scale
        strength = float(np.linalg.norm(M)) + (float(np.linalg.norm(c)) / scale if self.with_mean else 0.0)
        half = (M @ (U * (s * s))) @ U.T
        change = float(np.linalg.norm(half + half.T)) / max(float(np.linalg.norm(s * s)), 1e-300)
        if self.with_mean:
            turned = np.outer(slope[:, 0], X[:, 0])
            change = max(change, float(np.linalg.norm(turned + turned.T)))
        inner = U.T @ M @ U
        pairs = s[:, None] ** 2 + s**2
        skew = np.where(pairs > 0.0, np.outer(s, s) * (inner.T - inner) / np.where(pairs > 0.0, pairs, 1.0), 0.0)
        slope[:, X.shape[1] - L.shape[1] :] += U @ (s[:, None] * skew) @ Wt
        growth = float(np.sum(X * slope))
        slope -= growth * X
        return Rates(slope, growth, change, strength, s)

    def __call__(self, tau: float, y: Array) -> Array:
        X = y[:-2].reshape(self.start.shape)
        X = X / np.linalg.norm(X)
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is the end of the numbers: see `points`
            found = self.rates(X, y[-2])
        rate = self.unit * found.change + 1.0 / (1.0 + max(y[-1], 0.0))
        out = np.empty_like(y)
        out[:-2] = (self.unit / rate * found.slope).ravel()
        out[-2] = self.unit * found.growth / rate
        out[-1] = 1.0 / rate
        return out

    def point(self, y: Array) -> Point:
        """What is recorded of a state."""
        X = y[:-2].reshape(self.start.shape)
        X = X / np.linalg.norm(X)
        found = self.rates(X, y[-2])
        size = 2.0 * (np.log(self.norm) + y[-2])
        spectrum = size + 2.0 * np.log(np.maximum(found.spectrum, 1e-150))
        return Point(
            float(y[-1]) * self.unit, size, 2.0 * found.growth, found.change, found.strength, spectrum, X
        )  # fmt: skip

    def cov(self, point: Point) -> Array:
        """S (d, d)."""
        L = point.columns[:, 1:] if self.with_mean else point.columns
        return np.exp(point.size) * (L @ L.T)


def points(flow: Flow, rtol: float) -> Iterator[Point]:
    """The law after every step; ends where the numbers do."""
    from scipy.integrate import DOP853, LSODA  # half a second

    y = np.concatenate([flow.start.ravel(), [0.0, 0.0]])
    yield flow.point(y)
    run = _solver(DOP853, flow, (0.0, y, 1e-3), rtol, 0.01)
    yield from _steps(flow, run, _EXPLICIT)
    loose = max(rtol, _IMPLICIT)
    while run.status == "running" and np.isfinite(run.y).all():
        run = _solver(LSODA, flow, (run.t, run.y.copy(), float(run.t - run.t_old)), loose, 1.0)
        yield from _steps(flow, run, _RENEW)


def _solver(method: Any, flow: Flow, start: tuple[float, Array, float], rtol: float, floor: float) -> Any:
    """Steps of a method from (tau, y, first step); columns are of size one, and floor rtol is their absolute tolerance.

    Where M falls like 1 / t by cancellation, its rounding grows like t in this clock, and so must the tolerance.
    """
    tau, y, first = start
    atol = np.full(len(y), floor * rtol + 1e-15 * y[-1])
    atol[-1] = 1e-3 * rtol
    return method(flow, tau, y, _SPAN, first_step=min(first, _STEP), max_step=_STEP, rtol=rtol, atol=atol)


def _steps(flow: Flow, run: Any, count: int) -> Iterator[Point]:
    """At most so many steps, and no further than a thousandfold in time."""
    end = 1e3 * max(run.y[-1], 1e3)
    for _ in range(count):
        try:
            run.step()
        except (np.linalg.LinAlgError, ValueError):
            run.status = "failed"
        if run.status != "running" or not np.isfinite(run.y).all():
            return
        yield flow.point(run.y)
        if run.y[-1] > end:
            return
