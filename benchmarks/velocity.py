"""One velocity evaluation of every variant, by size and precision, and by the way to sum."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common

_SUMMED = tuple(name for name in common.VARIANTS if name != "linear")


class Velocity:
    """Seconds for the velocities of all n tokens in dimension d, all threads, warm.

    The share is that of matrix products and exponentials. Linear attention has no pair sums, and none: see `Linear`.
    """

    params = (common.VARIANTS, ("1024x2 float64", "4096x8 float32"))
    param_names = ("variant", "n x d")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, variant: str, size: str) -> None:
        numbers, dtype = size.split()
        n, d = map(int, numbers.split("x"))
        self.case = common.case(variant, n, d, dtype)
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.time_velocity()

    def time_velocity(self, *_: str) -> None:
        self.attention.velocity(self.case.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        rows = common.sample(len(self.case.x))
        got = self.attention.velocity(self.case.x, backend=self.backend)[rows]
        return common.relative_error(got, self.case.naive(rows))

    def track_share(self, *_: str) -> float:
        return self.case.share(self.time_velocity)

    def error_bound(self, _: str, size: str) -> float:
        return common.ERROR_BOUND[size.split()[1]]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT
    track_share.params = (_SUMMED, *params[1:])


class Sizes:
    """Seconds for the softmax velocities of n tokens in dimension d by direct sums, all threads, warm."""

    params = (("8192x1", "8192x2", "8192x8", "8192x16", "8192x64", "2048x256"), ("float64", "float32"))
    param_names = ("n x d", "dtype")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, size: str, dtype: str) -> None:
        n, d = map(int, size.split("x"))
        self.case = common.case("softmax", n, d, dtype)
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.time_velocity()

    def time_velocity(self, *_: str) -> common.Array:
        return self.attention.velocity(self.case.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        rows = common.sample(len(self.case.x))
        return common.relative_error(self.time_velocity()[rows], self.case.naive(rows))

    def track_share(self, *_: str) -> float:
        return self.case.share(self.time_velocity)

    def error_bound(self, _: str, dtype: str) -> float:
        return common.ERROR_BOUND[dtype]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT


class Summation:
    """Seconds for the velocities of 20,000 tokens in the plane by each way to sum, all threads, warm.

    `auto` and `fast` have a tolerance of 1e-8. No share is stated: sums in O(n) are compared with direct sums in
    `fast`, direct sums with their limit above.
    """

    params = (_SUMMED, ("direct", "fast", "auto"))
    param_names = ("variant", "summation")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, variant: str, summation: str) -> None:
        self.case = common.case(variant, 20_000, 2, "float64")
        self.attention = self.case.attention()
        self.backend = {"direct": fp.Direct, "fast": fp.Fast, "auto": fp.Auto}[summation]()
        self.time_velocity()

    def time_velocity(self, *_: object) -> common.Array:
        return self.attention.velocity(self.case.x, backend=self.backend)

    def track_error(self, *_: object) -> float:
        rows = common.sample(len(self.case.x))
        return common.relative_error(self.time_velocity()[rows], self.case.naive(rows))

    def error_bound(self, _: str, summation: str) -> float:
        """Return the bound: errors of sums in O(n) are relative to the spread of the values, of order one here."""
        return common.ERROR_BOUND["float64"] if summation == "direct" else 1e-7

    track_error.unit = common.ERROR_UNIT


class Linear:
    """Seconds for the velocities of linear attention, which is in O(n), all threads, warm.

    The share is that of the memory's bandwidth, if tokens are read twice and velocities written once.
    """

    params = (("1e6x2", "1e5x64"), ("float64", "float32"))
    param_names = ("n x d", "dtype")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, size: str, dtype: str) -> None:
        n, d = size.split("x")
        self.case = common.case("linear", int(float(n)), int(d), dtype)
        self.attention = self.case.attention()
        self.time_velocity()

    def time_velocity(self, *_: str) -> common.Array:
        return self.attention.velocity(self.case.x)

    def track_error(self, *_: str) -> float:
        """Return the error against V (sum_j y_j y_j^T / n) K^T Q x in extended precision, at some rows."""
        head, rows = self.case.heads[0], common.sample(len(self.case.x))
        x, Q, K, V = (a.astype(common.WIDE) for a in (self.case.x, head.Q, head.K, head.V))
        second = sum(part.T @ part for part in np.array_split(x, 100)) / len(x)
        want = head.scale * (x[rows] @ Q.T) @ K @ second @ V.T
        return common.relative_error(self.time_velocity()[rows], want)

    def track_share(self, _: str, dtype: str) -> float:
        return common.share(self.time_velocity, dtype, moved=3.0 * self.case.x.nbytes)

    def error_bound(self, _: str, dtype: str) -> float:
        return common.ERROR_BOUND[dtype]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = "share of the bandwidth measured in the same process"
