"""Derivatives of one velocity: a tangent, a cotangent, the divergence, by the dimension of the head."""

from __future__ import annotations

import time

import numpy as np

from . import common

_KINDS = ("jvp", "vjp", "divergence")


class Derivative:
    """Seconds for a derivative of the softmax velocities of 2048 tokens by direct sums, all threads, warm.

    `track_velocities` is the same in velocities, timed in turns. The velocity itself is part of a tangent and of a
    cotangent.
    """

    params = (_KINDS, (2, 8, 64))
    param_names = ("derivative", "d")
    repeat = (3, 10, 1.0)
    number = 1
    warmup_time = 0.05

    def setup(self, kind: str, d: int) -> None:
        self.case = common.case("softmax", 2048, d, "float64")
        self.attention, self.backend = self.case.attention(), common.Direct()
        self.other = common.tokens(2048, d, "float64", seed=1)
        self.velocity()
        self.time_derivative(kind)

    def velocity(self) -> object:
        return self.attention.velocity(self.case.x, backend=self.backend)

    def time_derivative(self, kind: str, *_: object) -> common.Array:
        if kind == "jvp":
            return self.attention.jvp(self.case.x, self.other, backend=self.backend)[1]
        if kind == "vjp":
            return self.attention.vjp(self.case.x, self.other, backend=self.backend).x
        return self.attention.divergence(self.case.x, backend=self.backend)

    def track_velocities(self, kind: str, *_: object) -> float:
        ratios = []
        for _ in range(7):
            times = []
            for call in (self.velocity, lambda: self.time_derivative(kind)):
                time.sleep(0.02)
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            ratios.append(times[1] / times[0])
        return float(np.median(ratios))

    def track_error(self, kind: str, *_: object) -> float:
        """Compare with sums pair by pair; a cotangent by its product with a direction."""
        (head,), x = self.case.heads, self.case.x
        found, rows = self.time_derivative(kind), common.sample(len(x))
        if kind == "divergence":
            A, v = head.scale * head.K.T @ head.Q, x @ head.V.T
            weights = _weights(head, x, rows)
            second = np.einsum("jd,de,je->j", x, A, v)
            want = weights @ second - np.einsum("id,de,ie->i", weights @ x, A, weights @ v)
            return common.relative_error(found[rows], want)
        if kind == "jvp":
            return common.relative_error(found[rows], _tangents(head, x, self.other, rows))
        direction = common.tokens(*x.shape, "float64", seed=2)
        want = float((self.other * _tangents(head, x, direction, np.arange(len(x)))).sum())
        size = np.linalg.norm(found) * np.linalg.norm(direction)
        return abs(float((found * direction).sum()) - want) / size

    def error_bound(self, *_: object) -> float:
        return 1e-12

    track_velocities.unit = "time / time of a velocity"
    track_error.unit = common.ERROR_UNIT


def _weights(head: common.Head, x: common.Array, rows: common.Array) -> common.Array:
    scores = head.scale * (x[rows] @ head.Q.T) @ (x @ head.K.T).T
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _tangents(head: common.Head, x: common.Array, dx: common.Array, rows: common.Array) -> common.Array:
    """Differentiate softmax attention pair by pair in direction dx, at x[rows]: (m, d)."""
    q, k, v = (x @ matrix.T for matrix in (head.Q, head.K, head.V))
    dq, dk, dv = (dx @ matrix.T for matrix in (head.Q, head.K, head.V))
    weights = _weights(head, x, rows)
    change = head.scale * (dq[rows] @ k.T + q[rows] @ dk.T)
    change -= (weights * change).sum(axis=1, keepdims=True)
    found: common.Array = weights @ dv + (weights * change) @ v
    return found
