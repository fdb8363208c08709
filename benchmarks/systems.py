"""Many small systems at once, each with matrices of its own."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common, scalings

B, N = 512, 32


class Batch:
    """Seconds for the softmax velocities of 512 systems of 32 tokens, all threads, warm."""

    params = ((2, 8), ("float64", "float32"))
    param_names = ("d", "dtype")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, d: int, dtype: str) -> None:
        rng = np.random.default_rng(d)
        self.heads = [common.head("softmax", d, d, rng) for _ in range(B)]
        self.x = common.tokens(B * N, d, dtype).reshape(B, N, d)
        Q, K, V = (np.stack([getattr(head, letter) for head in self.heads]) for letter in "QKV")
        self.attention, self.backend = fp.Softmax(Q, K, V, scale=self.heads[0].scale), common.Direct()
        self.time_velocity()

    def time_velocity(self, *_: object) -> None:
        self.attention.velocity(self.x, backend=self.backend)

    def track_error(self, *_: object) -> float:
        got = self.attention.velocity(self.x, backend=self.backend)
        chosen, rows = (0, B - 1), np.arange(N)
        want = [self.heads[b].naive(self.x[b], rows) for b in chosen]
        return common.relative_error(got[list(chosen)], np.stack(want))

    def track_share(self, d: int, dtype: str) -> float:
        pairs = float(B * N * N)
        return common.share(self.time_velocity, dtype, multiply_adds=2 * d * pairs, exponentials=pairs)

    def error_bound(self, _: int, dtype: str) -> float:
        return common.ERROR_BOUND[dtype]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT


class Run:
    """Seconds for 10 rk4 steps of 512 systems of 32 tokens by `fp.solve`, all threads, warm; its error beside it."""

    params = ((2, 8), ("float64", "float32"))
    param_names = ("d", "dtype")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, d: int, dtype: str) -> None:
        heads = [common.head("softmax", d, d, np.random.default_rng([d, b])) for b in range(B)]
        self.x = common.tokens(B * N, d, dtype).reshape(B, N, d)
        Q, K, V = (np.stack([getattr(head, letter) for head in heads]) for letter in "QKV")
        self.attention = fp.Softmax(Q, K, V, scale=heads[0].scale)
        self.run(self.x)

    def run(self, x: common.Array) -> common.Array:
        """Return the last tokens of the run from x."""
        return fp.solve(self.attention, x, (0.0, 0.1), method="rk4", step=0.01).x_final

    def time_run(self, *_: object) -> None:
        self.run(self.x)

    def track_error(self, *_: object) -> float:
        one = self.attention.system(B - 1)
        want = fp.solve(one, self.x[-1].astype(float), (0.0, 0.1), method="rk4", step=0.01).x_final
        return common.relative_error(self.run(self.x)[-1], want)

    def track_share(self, d: int, dtype: str) -> float:
        pairs = 40.0 * B * N * N  # ten steps of four velocities
        work = {"multiply_adds": 2 * d * pairs, "exponentials": pairs}
        return common.share(self.time_run, dtype, **work)

    def error_bound(self, _: int, dtype: str) -> float:
        return common.ERROR_BOUND[dtype]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT


class Adaptive:
    """Seconds for a dopri5 run of 512 systems of 32 tokens in the plane, each with steps of its own, warm."""

    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self) -> None:
        heads = [common.head("softmax", 2, 2, np.random.default_rng([2, b])) for b in range(B)]
        self.x, self.last = common.tokens(B * N, 2, "float64").reshape(B, N, 2), heads[-1]
        Q, K, V = (np.stack([getattr(head, letter) for head in heads]) for letter in "QKV")
        self.attention = fp.Softmax(Q, K, V, scale=heads[0].scale)
        self.time_run()

    def time_run(self) -> fp.EnsembleSolution:
        return fp.solve(self.attention, self.x, (0.0, 0.5), rtol=1e-6, atol=1e-9)

    def track_error(self) -> float:
        """Return the error of the last system against rk4 in plain NumPy with steps of 0.01."""
        x = self.x[-1]
        for _ in range(50):
            x = common.rk4_step(self.last.field, x, 0.01)
        return common.relative_error(self.time_run().x_final[-1], x)

    def error_bound(self) -> float:
        return 1e-5

    track_error.unit = common.ERROR_UNIT


class InStep:
    """Seconds per velocity of one system in a dopri5 run of 512 Sinkhorn systems, n = 32, d = 2, all threads, warm."""

    repeat = (3, 5, 1.0)
    number = 1
    warmup_time = 0.05
    span = (0.0, 0.2)

    def setup(self) -> None:
        heads = [common.head("softmax", 2, 2, np.random.default_rng(b)) for b in range(B)]
        self.x = common.tokens(B * N, 2, "float64").reshape(B, N, 2)
        Q, K, V = (np.stack([getattr(head, letter) for head in heads]) for letter in "QKV")
        self.attention = fp.Sinkhorn(Q, K, V)
        self.time_run()

    def time_run(self) -> fp.EnsembleSolution:
        return fp.solve(self.attention, self.x, self.span)

    def track_velocity(self) -> float:
        stats = self.time_run().stats
        return stats["wall_time"] / stats["evaluations"]

    def track_error(self) -> float:
        """Return the error of the last system's end against rk4 steps with velocities scaled by a naive iteration."""
        one, x, steps = self.attention.system(B - 1), self.x[-1], 40
        for _ in range(steps):
            x = common.rk4_step(lambda y: scalings.naive(one, y), x, (self.span[1] - self.span[0]) / steps)
        return common.relative_error(self.time_run().x_final[-1], x)

    def error_bound(self) -> float:
        return 1e-5

    track_velocity.unit = "s"
    track_error.unit = common.ERROR_UNIT
