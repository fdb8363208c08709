"""Sinkhorn attention: one velocity from a cold start, and half-iterations of cold starts and inside a run."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common

KERNELS = ("K = Q", "K = -Q", "other")


def attention(kernel: str, d: int, eps: float = 1.0) -> fp.Sinkhorn:
    """Return Sinkhorn attention with identity or normal matrices, the same in every process."""
    Q = np.eye(d)
    K = {"K = Q": Q, "K = -Q": -Q, "other": np.random.default_rng(d).standard_normal((d, d)) / np.sqrt(d)}[kernel]
    return fp.Sinkhorn(Q, K, Q, eps=eps)


def naive(field: fp.Sinkhorn, x: common.Array) -> common.Array:
    """Compute the field at x by plain scalings of the whole matrix e^{s / eps}, of moderate size here, to rounding."""
    Q, K, V, eps = (p(0.0) for p in (field.Q, field.K, field.V, field.eps))
    centred = x - x.mean(axis=0)
    kernel = np.exp((centred @ Q.T) @ (centred @ K.T).T / eps) / len(x)
    v = np.ones(len(x))
    for _ in range(2000):
        u = 1 / (kernel @ v)
        before, v = v, 1 / (u @ kernel)
        if np.abs(before / v - 1).max() < 1e-13:
            break
    u = 1 / (kernel @ v)
    return (u[:, None] * (kernel @ (v[:, None] * x))) @ V.T / eps


def half_iterations(field: fp.Sinkhorn, x: common.Array) -> float:
    """Return the number of half-iterations of one velocity from a cold start."""
    stats = fp.solve(field, x, (0.0, 1e-9), method="euler", step=1e-9, backend=common.Direct()).stats
    return float(stats["half_iterations"] / stats["evaluations"])


class Velocity:
    """Seconds for the velocities of n tokens in dimension d, eps = 1, tol 1e-9, all threads, warm caches."""

    params = (KERNELS, ("1024x2", "4096x8"))
    param_names = ("kernel", "n x d")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, kernel: str, size: str) -> None:
        n, d = map(int, size.split("x"))
        self.x, self.attention, self.backend = common.tokens(n, d, "float64"), attention(kernel, d), common.Direct()
        self.time_velocity()

    def time_velocity(self, *_: str) -> common.Array:
        return self.attention.velocity(self.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        return common.relative_error(self.time_velocity(), naive(self.attention, self.x))

    def track_share(self, *_: str) -> float:
        """Return the share of the limit; half-iterations are sums of weights alone, with d multiply-adds for a pair."""
        n, d = self.x.shape
        sums = half_iterations(self.attention, self.x) * n * n
        work = {"multiply_adds": d * sums + 2 * d * n * n, "exponentials": sums + n * n}
        return common.share(self.time_velocity, "float64", **work)

    def error_bound(self, *_: str) -> float:
        return 1e-8

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT


class Summation:
    """Seconds for the velocities of 10000 tokens in the plane by each way to sum, tol 1e-9, all threads, warm."""

    params = (("direct", "fast", "auto"),)
    param_names = ("summation",)
    repeat = (2, 5, 5.0)
    number = 1
    warmup_time = 0.0

    def setup(self, summation: str) -> None:
        self.x, self.attention = common.tokens(10_000, 2, "float64"), attention("K = -Q", 2)
        self.backend = {"direct": fp.Direct, "fast": fp.Fast, "auto": fp.Auto}[summation]()
        self.attention.velocity(self.x[:1000], backend=self.backend)

    def time_velocity(self, _: str) -> common.Array:
        return self.attention.velocity(self.x, backend=self.backend)

    def track_error(self, summation: str) -> float:
        """Return the error against direct sums to a tighter tolerance."""
        tight = fp.Sinkhorn(*[p(0.0) for p in (self.attention.Q, self.attention.K, self.attention.V)], tol=1e-11)
        want = tight.velocity(self.x, backend=common.Direct())
        return common.relative_error(self.time_velocity(summation), want)

    def error_bound(self, _: str) -> float:
        return 1e-6

    track_error.unit = common.ERROR_UNIT


class HalfIterations:
    """Half-iterations, which are sums over all pairs, per velocity of 1000 tokens in the plane."""

    no_error = "It counts, and states no time; the errors of the same velocities are those of `Velocity`."

    params = (KERNELS, (0.3, 3.0))
    param_names = ("kernel", "eps")

    def setup(self, kernel: str, eps: float) -> None:
        self.x, self.attention = common.tokens(1000, 2, "float64"), attention(kernel, 2, eps)

    def track_cold(self, *_: object) -> float:
        """Return those of one velocity from a cold start."""
        return half_iterations(self.attention, self.x)

    def track_warm(self, *_: object) -> float:
        """Return those per right-hand side of a dopri5 run, in which a token moves by about a fifth of its size."""
        eps = float(self.attention.eps(0.0))
        stats = fp.solve(self.attention, self.x, (0.0, 0.2 * eps)).stats
        return float(stats["half_iterations"] / stats["evaluations"])

    track_cold.unit = track_warm.unit = "half-iterations"
