"""POT without the whole matrix: `ot.bregman.empirical_sinkhorn(isLazy=True)` gives potentials, a chunk at a time."""

from __future__ import annotations

import math

import numpy as np
import ot
from scipy.special import softmax

from ..larger import Scaling
from ..tuning import Tuned, chunk, in_chunks, tuned
from ..work import Array

TIGHTER = (1.0, 0.1, 0.01, 0.001)


def call(work: Scaling) -> Tuned:
    """Prepare a piece of work with the loosest threshold that reaches its error."""
    x = work.tokens

    def velocity(threshold: float) -> Array:
        how = {"isLazy": True, "batchSize": chunk(work.n), "stopThr": threshold, "numIterMax": 100_000}
        _, g = ot.bregman.empirical_sinkhorn(x, x, work.reg, **how)
        means = in_chunks(x, lambda targets: softmax(g - ot.dist(targets, x) / work.reg, axis=1) @ x)
        return np.asarray(means / work.eps)

    ladder = [work.tol / math.sqrt(work.n) * factor for factor in TIGHTER]
    return tuned(work, "stopThr", ladder, lambda threshold: lambda: velocity(threshold))
