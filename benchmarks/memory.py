"""Peak memory of one process: of a direct velocity, of one in O(n), and of a run."""

from __future__ import annotations

import multiprocessing
import resource
import sys

import numpy as np

import fastpde as fp

from . import common

STEP = 0.05
SIZES = {"direct": (20_000, 8), "fast": (1_000_000, 2), "rk4": (1_000_000, 2), "linear rk4": (4_000_000, 2)}


class Peak:
    """Peak bytes of a process with Python, NumPy and Numba in it, whose kernels are compiled and on the disk.

    `direct` is a velocity of 20,000 tokens for d = 8, `fast` one in O(n) of a million in the plane, `rk4` a run of a
    million with sums in O(n), `linear rk4` a run of four million under linear attention.
    """

    params = (tuple(SIZES),)
    param_names = ("work",)
    timeout = 600

    def setup(self, work: str) -> None:
        n, d = SIZES[work]
        self.case = common.case("linear" if "linear" in work else "softmax", n, d, "float64")
        self.attention = self.case.attention()
        # What is not compiled yet is compiled in another process: compilers need memory, too.
        compiling = multiprocessing.get_context("fork").Process(target=self._small, args=(work,))
        compiling.start()
        compiling.join()
        if compiling.exitcode:
            raise RuntimeError(f"the work on few tokens ended with exit code {compiling.exitcode}")

    def _small(self, work: str) -> None:
        self.work(work, self.case.x[:30_000])

    def work(self, work: str, x: common.Array, tol: float = 1e-8) -> common.Array:
        """Return the velocities of tokens, or their places after two steps."""
        backend = common.Direct() if work == "direct" else fp.Fast(tol)
        if "rk4" not in work:
            return self.attention.velocity(x, backend=backend)
        return fp.solve(self.attention, x, (0.0, 2 * STEP), method="rk4", step=STEP, backend=backend).x_final

    def peakmem_work(self, work: str) -> None:
        self.work(work, self.case.x)

    def track_bytes_per_token(self, work: str) -> float:
        """Return by how much the peak grows, per token, once kernels are loaded; the tokens given are not in it."""
        self._small(work)
        before = _peak()
        self.work(work, self.case.x)
        return (_peak() - before) / len(self.case.x)

    def track_error(self, work: str) -> float:
        """Return the error at some rows; of softmax runs, against one with a thousandth of the tolerance."""
        got = self.work(work, self.case.x)
        if work == "rk4":
            return common.relative_error(got, self.work(work, self.case.x, 1e-11))
        if work == "linear rk4":
            want = self.case.x
            for _ in range(2):
                want = common.rk4_step(self._linear, want, STEP)
            return common.relative_error(got, want)
        rows = common.sample(len(got), 16)
        return common.relative_error(got[rows], self.case.heads[0].naive(self.case.x, rows, wide=np.float64))

    def _linear(self, x: common.Array) -> common.Array:
        head = self.case.heads[0]
        second = x.T @ x / len(x)
        return head.scale * x @ (head.V @ second @ head.K.T @ head.Q).T

    def error_bound(self, work: str) -> float:
        return {"direct": 1e-12, "linear rk4": 1e-12}.get(work, 1e-7)

    track_bytes_per_token.unit = "bytes"
    track_error.unit = common.ERROR_UNIT


def _peak() -> int:
    """Return the largest number of bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
