"""One velocity evaluation of every variant, by size and precision."""

from __future__ import annotations

from . import common


class Velocity:
    """Seconds for the velocities of all n tokens in dimension d, all threads, warm."""

    params = (common.VARIANTS, ("1024x2", "8192x1", "8192x8", "8192x64"), ("float64", "float32"))
    param_names = ("variant", "n x d", "dtype")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, variant: str, size: str, dtype: str) -> None:
        n, d = map(int, size.split("x"))
        self.case = common.case(variant, n, d, dtype)
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.time_velocity()

    def time_velocity(self, *_: str) -> None:
        self.attention.velocity(self.case.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        rows = common.sample(len(self.case.x))
        got = self.attention.velocity(self.case.x, backend=self.backend)[rows]
        return common.relative_error(got, self.case.naive(rows))

    track_error.unit = common.ERROR_UNIT
