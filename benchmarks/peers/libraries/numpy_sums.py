"""NumPy: the scores of a chunk of targets as a matrix product, and another one for their sums; rk4 as a loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..larger import ManySystems, Run
from ..tuning import in_chunks
from ..work import Array, Call, LinearSum, Work, softmax


def velocity(x: Array, scale: float) -> Array:
    """Compute the softmax velocity of tokens (n, d)."""
    ones = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)

    def sums(targets: Array) -> Array:
        score = (targets * x.dtype.type(scale)) @ x.T
        score -= score.max(axis=1, keepdims=True)
        total = np.exp(score, out=score) @ ones
        means: Array = total[:, :-1] / total[:, -1:]
        return means

    return in_chunks(x, sums)


def rk4(field: Callable[[Array], Array], x: Array, step: float, steps: int) -> Array:
    """Return x after some steps of the classical Runge-Kutta method."""
    for _ in range(steps):
        k1 = field(x)
        k2 = field(x + step / 2 * k1)
        k3 = field(x + step / 2 * k2)
        x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + step * k3))
    return x


def call(work: Work) -> Call:
    """Prepare a piece of work."""
    x = work.tokens
    if isinstance(work, LinearSum):
        factor = x.dtype.type(work.scale / work.n)
        return lambda: x @ (factor * (x.T @ x))
    if isinstance(work, ManySystems):
        q, k, v = (np.ascontiguousarray(m.swapaxes(1, 2)) for m in work.matrices)
        return lambda: softmax((x @ q) @ (x @ k).swapaxes(1, 2), x @ v)
    if isinstance(work, Run):
        return lambda: rk4(lambda y: velocity(y, work.scale), x, work.step, round(work.t_end / work.step))
    return lambda: velocity(x, work.scale)
