"""KeOps: a symbolic matrix of scores and its reduction `sumsoftmaxweight`, compiled for each d and precision."""

from __future__ import annotations

import math

from pykeops.numpy import LazyTensor

from ..work import Call, Work


def call(work: Work) -> Call:
    """Prepare a piece of work."""
    x = work.tokens
    scaled = x * x.dtype.type(math.sqrt(work.scale))
    score = LazyTensor(scaled[:, None, :]) | LazyTensor(scaled[None, :, :])
    values = LazyTensor(x[None, :, :])
    return lambda: score.sumsoftmaxweight(values, axis=1, backend="CPU")
