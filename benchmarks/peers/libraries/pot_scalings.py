"""POT: `ot.sinkhorn` on the whole matrix. It stops by the L^2 norm of a marginal's error, every tenth time."""

from __future__ import annotations

import math

import numpy as np
import ot

from ..larger import Scaling
from ..tuning import Tuned, tuned
from ..work import Array

TIGHTER = (1.0, 0.1, 0.01, 0.001)  # times the threshold that bounds the L^1 norm


def call(work: Scaling) -> Tuned:
    """Prepare a piece of work with the loosest threshold that reaches its error."""
    x, weights = work.tokens, np.full(work.n, 1 / work.n)

    def velocity(threshold: float) -> Array:
        cost = ot.dist(x, x)
        plan = ot.sinkhorn(weights, weights, cost, work.reg, stopThr=threshold, numItermax=100_000)
        found: Array = work.n / work.eps * (plan @ x)
        return found

    ladder = [work.tol / math.sqrt(work.n) * factor for factor in TIGHTER]
    return tuned(work, "stopThr", ladder, lambda threshold: lambda: velocity(threshold))
