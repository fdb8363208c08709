"""Sums in O(n) to a tolerance: seconds per evaluation, beside their error."""

from __future__ import annotations

import fastpde as fp

from . import common

TOL = 1e-8


class Fast:
    """Softmax velocities of n normal tokens with Q = K = V = I (logits up to about 30), one backend object, warm."""

    params = (("1e5x1", "1e6x1", "1e5x2", "1e6x2", "1e5x3", "1e6x3"), ("all", "masked"))
    param_names = ("n x d", "seen")
    repeat = (3, 5, 10.0)
    number = 1
    timeout = 600

    def setup(self, size: str, seen: str) -> None:
        n, d = size.split("x")
        self.x = common.tokens(int(float(n)), int(d), "float64")
        eye = [[float(i == j) for j in range(int(d))] for i in range(int(d))]
        self.head = common.Head("softmax", *map(common.np.array, (eye, eye, eye)), scale=1.0)
        self.masked, self.backend = seen == "masked", fp.Fast(TOL)
        softmax = self.head.attention()
        self.attention = fp.Masked(softmax) if self.masked else softmax
        self.time_velocity()

    def time_velocity(self, *_: str) -> None:
        self.attention.velocity(self.x, backend=self.backend)

    def track_error(self, *_: str) -> float:
        rows = common.sample(len(self.x))
        got = self.attention.velocity(self.x, backend=self.backend)[rows]
        return common.relative_error(got, self.head.naive(self.x, rows, self.masked))

    track_error.unit = common.ERROR_UNIT
