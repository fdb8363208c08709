"""Limits of Gaussian laws: one plain NumPy Euler loop per system, as the paper's authors ran it, against `fp.solve`.

Experiment 6: Softmax, K = -Q, V = I, 100 covariances for each d = 3, 4, 5, whose limits S_inf = N (N^T S0^{-1} N)^{-1}
N^T, N a basis of ker Q, are known. Source: Theory 4.2, 10.
"""

from __future__ import annotations

import math
import time

import numpy as np

import fastpde as fp

from .common import Array

DRAWS = 100
LOOPED = 3  # of them by the loop, which takes up to a fifth of a second for each
STEP = {3: 0.09, 4: 0.05, 5: 0.02}
TOL, LARGEST, STEPS = 1e-4, 1e3, 50_000
LONG = 1e8


def draws(d: int) -> tuple[Array, Array]:
    """Draw Q (d // 2, d) and S0 (100, d, d) with the authors' seeds."""
    stream = np.random.RandomState(40)
    queries = {k: stream.randn(k // 2, k) for k in (3, 4, 5)}
    G = np.random.RandomState(41).randn(DRAWS, d, d)
    return queries[d], G @ np.swapaxes(G, 1, 2)


def closed_form(Q: Array, starts: Array) -> Array:
    """Return S_inf (B, d, d)."""
    N = np.linalg.svd(Q)[2][len(Q) :].T
    return N @ np.linalg.inv(N.T @ np.linalg.inv(starts) @ N) @ N.T


def euler(A: Array, S: Array, step: float) -> Array:
    """Run the authors' scheme for one system: S += h S', negative eigenvalues to 1e-14, until |S'| < tol."""
    for _ in range(STEPS):
        M = S @ A
        rate = M @ S + S @ M.T
        if np.linalg.norm(rate) < TOL or np.trace(S) > LARGEST:
            break
        values, vectors = np.linalg.eigh(S + step * rate)
        values[values < 0] = 1e-14
        S = (vectors * values) @ vectors.T
    return S


def error(got: Array, want: Array) -> float:
    """Return the mean of |S - S_inf| / |S_inf| over the draws."""
    return float(np.mean(np.linalg.norm(got - want, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))))


class Limits:
    """Seconds for the limits of laws, warm.

    "euler" is of 3 laws, one after the other; "fastpde" of 100 in one batch; `track_speedup` their ratio per law.
    """

    params = ((3, 4, 5), ("euler", "fastpde"))
    param_names = ("d", "by")
    repeat = (1, 3, 10.0)
    number = 1
    warmup_time = 0.0
    timeout = 600

    def setup(self, d: int, by: str = "fastpde") -> None:
        self.Q, self.starts = draws(d)
        self.attention = fp.Softmax(self.Q, -self.Q, np.eye(d), scale=1 / math.sqrt(d))
        if by == "fastpde":
            self.solve(self.starts[:2])

    def solve(self, starts: Array) -> Array:
        """Return the covariances (B, d, d) at t = 1e8, where what vanishes like 1 / t is 1e-8."""
        return fp.solve(self.attention, fp.Gaussian(0.0, starts), (0.0, LONG), rtol=1e-8, atol=1e-12).cov[-1]

    def limits(self, d: int, by: str) -> Array:
        """Return the last covariances of the runs."""
        if by == "fastpde":
            return self.solve(self.starts)
        A = -self.Q.T @ self.Q / math.sqrt(d)
        return np.stack([euler(A, S, STEP[d]) for S in self.starts[:LOOPED]])

    def time_limits(self, d: int, by: str) -> None:
        self.limits(d, by)

    def track_error(self, d: int, by: str) -> float:
        got = self.limits(d, by)
        return error(got, closed_form(self.Q, self.starts[: len(got)]))

    def track_speedup(self, d: int) -> float:
        times = []
        for by in ("euler", "fastpde"):
            began = time.perf_counter()
            laws = len(self.limits(d, by))
            times.append((time.perf_counter() - began) / laws)
        return times[0] / times[1]

    def error_bound(self, _: int, by: str) -> float:
        """Return the bound; the loop stops where the rate is small, which says little of the limit."""
        return 2.0 if by == "euler" else 1e-6

    track_error.unit = "mean |S - limit| / |limit|"
    track_speedup.unit = "times faster per law"
    track_speedup.params = params[:1]
    track_speedup.param_names = param_names[:1]
