"""Time steps through `solve`: one step, methods, and what a manifold and noise cost."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common

N, D, STEP = 4096, 2, 0.1
FIXED = ("euler", "heun", "rk4")


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

    def track_error(self) -> float:
        want = common.rk4_step(self.case.heads[0].field, self.case.x, STEP)
        return common.relative_error(self.time_rk4().x[-1], want)

    def track_share(self) -> float:
        return self.case.share(self.time_rk4, times=4)

    def error_bound(self) -> float:
        return common.ERROR_BOUND["float64"]

    track_error.unit = common.ERROR_UNIT
    track_share.unit = common.SHARE_UNIT


class Methods:
    """Seconds for a run of 500 tokens in the plane to t = 0.5, fixed steps of 0.05 or rtol = 1e-6, warm.

    The error is that of the method, against rk4 in plain NumPy with steps of 0.025.
    """

    params = ((*FIXED, "bosh3", "dopri5", "tsit5"),)
    param_names = ("method",)
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, method: str) -> None:
        self.case = common.case("softmax", 500, D, "float64")
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.time_run(method)

    def time_run(self, method: str) -> fp.Solution:
        steps = {"step": 0.05} if method in FIXED else {"rtol": 1e-6, "atol": 1e-9}
        return fp.solve(self.attention, self.case.x, (0.0, 0.5), method=method, backend=self.backend, **steps)

    def track_error(self, method: str) -> float:
        want = self.case.x
        for _ in range(20):
            want = common.rk4_step(self.case.heads[0].field, want, 0.025)
        return common.relative_error(self.time_run(method).x_final, want)

    def track_evaluations(self, method: str) -> float:
        return float(self.time_run(method).stats["evaluations"])

    def error_bound(self, method: str) -> float:
        return {"euler": 0.05, "heun": 2e-3, "rk4": 1e-5}.get(method, 1e-5)

    track_error.unit = common.ERROR_UNIT
    track_evaluations.unit = "velocities"


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

    def error_bound(self, run: str) -> float:
        """Return the bound; with noise, a thirtieth is due to the field, which pulls together what noise drives apart,
        and six standard deviations of the mean square of 196608 numbers are two hundredths.
        """
        return 1e-14 if "sphere" in run else 0.06 if run == "noise" else 1e-13

    track_error.unit = "distance of a norm from 1, or relative error"
