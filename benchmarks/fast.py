"""Sums in O(n) to a tolerance: seconds per evaluation, beside their error, and how much faster than direct sums."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import fastpde as fp

from . import common

TOL = 1e-8
SIZES = ("1e5x1", "1e6x1", "1e5x2", "1e6x2", "1e5x3", "1e6x3")
BOUND = 1e-7  # errors are relative to the spread of values; unsampled targets have up to a few times the tolerance
_ROWS = 16  # targets whose error is taken: of a million tokens more would take long


class Fast:
    """Softmax velocities of n normal tokens with Q = K = V = I (logits up to about 30), one backend object, warm.

    There is no share: what limits sums in O(n) is neither matrix products nor memory. `track_speedup` is the ratio to
    direct sums in the same process.
    """

    params = ((*SIZES, "1e5x1 masked", "1e6x1 masked", "1e5x2 masked", "1e6x2 masked", "1e5x3 masked"),)
    param_names = ("n x d",)
    repeat = (3, 5, 10.0)
    number = 1
    timeout = 600

    def setup(self, size: str) -> None:
        numbers, _, masked = size.partition(" ")
        n, d = numbers.split("x")
        self.x, eye = common.tokens(int(float(n)), int(d), "float64"), np.eye(int(d))
        self.head = common.Head("softmax", eye, eye, eye, scale=1.0)
        self.masked, self.backend = bool(masked), fp.Fast(TOL)
        softmax = self.head.attention()
        self.attention = fp.Masked(softmax) if self.masked else softmax
        self.time_velocity()

    def time_velocity(self, *_: str) -> common.Array:
        return self.attention.velocity(self.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        rows = common.sample(len(self.x), _ROWS)
        return common.relative_error(self.time_velocity()[rows], self.head.naive(self.x, rows, self.masked, np.float64))

    def track_speedup(self, *_: str) -> float:
        """Return the time of the direct sum of some targets, times n over their number, over that of all in O(n)."""
        rows, direct = np.arange(0, len(self.x), len(self.x) // 200), common.Direct()

        def some() -> common.Array:
            return self.attention.velocity(self.x, at=self.x[rows], backend=direct)

        some()
        seconds = np.array([[_seconds(some), _seconds(self.time_velocity)] for _ in range(3)])
        some_seconds, all_seconds = np.median(seconds, axis=0)
        return float(some_seconds * len(self.x) / len(rows) / all_seconds)

    def error_bound(self, _: str) -> float:
        return BOUND

    track_error.unit = common.ERROR_UNIT
    track_speedup.unit = "times faster than the direct sum"
    track_speedup.params = (SIZES,)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
