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
        """Take a classical Runge-Kutta step in float64: all targets are needed, and extended precision is slow."""
        a = self._field(x)
        b = self._field(x + STEP / 2 * a)
        c = self._field(x + STEP / 2 * b)
        return x + STEP / 6 * (a + 2 * b + 2 * c + self._field(x + STEP * c))

    def _field(self, x: common.Array) -> common.Array:
        head = self.case.heads[0]
        return np.concatenate([head.naive(x, rows, wide=np.float64) for rows in _blocks()])


def _blocks() -> Iterator[common.Array]:
    yield from np.split(np.arange(N), N // 256)


class Places:
    """Seconds for a step of heun, two velocities of linear attention, of 65536 tokens for d = 3, all threads, warm.

    The velocities cost little: the time shows what a manifold and noise add to a step.
    """

    params = ("plain", "sphere", "noise", "sphere and noise")
    param_names = ("run",)
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, run: str) -> None:
        x = common.tokens(65536, 3, "float64")
        self.x = x / np.linalg.norm(x, axis=1, keepdims=True)
        self.time_heun(run)

    def time_heun(self, run: str) -> common.Array:
        V = -np.eye(3)
        options = {"noise": 0.3 if "noise" in run else 0.0, "manifold": fp.Sphere() if "sphere" in run else None}
        attention = fp.Linear(np.eye(3), np.eye(3), V)
        return fp.solve(attention, self.x, (0.0, STEP), method="heun", step=STEP, **options).x_final

    def track_error(self, run: str) -> float:
        """Return the largest distance of a norm from 1, the relative excess of the mean square move with noise over its
        expectation, or the largest error of a plain step.
        """
        end = self.time_heun(run)
        if "sphere" in run:
            return float(np.abs(np.linalg.norm(end, axis=1) - 1.0).max())
        moved = end - self._naive()
        return abs(float(np.mean(moved**2)) / (0.09 * STEP) - 1.0) if "noise" in run else float(np.abs(moved).max())

    def _naive(self) -> common.Array:
        """Take Heun's step without noise and manifold: with noise its field differs by O(noise^2 STEP^2)."""
        a = self._field(self.x)
        return self.x + STEP / 2 * (a + self._field(self.x + STEP * a))

    def _field(self, x: common.Array) -> common.Array:
        return -x @ (x.T @ x / len(x))

    track_error.unit = "distance of a norm from 1, or relative error"
