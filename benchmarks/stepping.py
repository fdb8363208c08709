"""One time step through `solve`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import fastpde as fp

from . import common

N, D, STEP = 4096, 2, 0.1


class Step:
    """Seconds for one step of rk4, four velocities of 4096 tokens in dimension 2, all threads, warm."""

    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self) -> None:
        self.case = common.case("softmax", N, D, "float64")
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.time_rk4()

    def time_rk4(self) -> fp.Solution:
        return fp.solve(self.attention, self.case.x, (0.0, STEP), method="rk4", step=STEP, backend=self.backend)

    def track_rk4_error(self) -> float:
        return common.relative_error(self.time_rk4().x[-1], self._naive(self.case.x))

    track_rk4_error.unit = common.ERROR_UNIT

    def _naive(self, x: common.Array) -> common.Array:
        """The classical Runge-Kutta step in float64: all targets are needed, and extended precision is slow."""
        a = self._field(x)
        b = self._field(x + STEP / 2 * a)
        c = self._field(x + STEP / 2 * b)
        return x + STEP / 6 * (a + 2 * b + 2 * c + self._field(x + STEP * c))

    def _field(self, x: common.Array) -> common.Array:
        head = self.case.heads[0]
        return np.concatenate([head.naive(x, rows, wide=np.float64) for rows in _blocks()])


def _blocks() -> Iterator[common.Array]:
    yield from np.split(np.arange(N), N // 256)
