"""Many Gaussian laws at once, each with matrices of its own."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from . import common

B, T_END = 300, 1e8


class Run:
    """Seconds for 300 laws with K = -Q, V = I to t = 1e8, all threads, warm; the error of their limits beside it.

    The limit is N (N^T S0^{-1} N)^{-1} N^T, N a basis of ker Q (Theory 4.2).
    """

    params = (("Softmax", "L2", "Sinkhorn"), (3, 4, 5))
    param_names = ("variant", "d")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, variant: str, d: int) -> None:
        rng = np.random.default_rng(d)
        self.Q, root = rng.normal(size=(B, d // 2, d)), rng.normal(size=(B, d, d))
        self.start = fp.Gaussian(0.0, root @ np.swapaxes(root, 1, 2))
        self.attention = getattr(fp, variant)(self.Q, -self.Q, np.eye(d))
        self.run()

    def run(self) -> fp.GaussianSolution:
        """Return the solution of the flow."""
        return fp.solve(self.attention, self.start, (0.0, T_END))

    def time_run(self, *_: object) -> None:
        self.run()

    def track_error(self, _: str, d: int) -> float:
        kernel = np.swapaxes(np.linalg.svd(self.Q)[2][:, d // 2 :], 1, 2)
        kept = np.swapaxes(kernel, 1, 2) @ np.linalg.solve(self.start.cov, kernel)
        want = kernel @ np.linalg.solve(kept, np.swapaxes(kernel, 1, 2))
        return common.relative_error(self.run().cov[-1], want)

    def error_bound(self, _variant: str, _d: int) -> float:
        return 1e-3

    track_error.unit = common.ERROR_UNIT
