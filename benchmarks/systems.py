"""Many small systems at once, each with matrices of its own."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common

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

    track_error.unit = common.ERROR_UNIT
