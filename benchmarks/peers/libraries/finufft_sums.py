"""FINUFFT as a Gauss transform.

The weights e^{<x, y>} are e^{|x|^2/2} e^{|y|^2/2} e^{-|x - y|^2/2}, and the Gauss kernel is a sum of plane waves: one
transform of type 1 of the weights e^{|y|^2/2}, and 1 + d of type 2 for the sum F and its gradient; the mean of y is
x + grad F / F. Tokens are centred first. Its error is relative to the largest weight, so it grows like e^{|x|^2/2}.
"""

from __future__ import annotations

import math
import os
from functools import partial

import finufft
import numpy as np

from ..tuning import Tuned, tuned
from ..work import Array, Work

LADDER = (1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14)


def means(x: Array, eps: float) -> Array:
    """Compute the means of y weighted by e^{<x, y>}, at tokens (n, d), with a tolerance of FINUFFT."""
    centre = (x.max(axis=0) + x.min(axis=0)) / 2
    u = x - centre
    n, d = u.shape
    cut = math.sqrt(2 * math.log(1 / eps))  # where the kernel, and its transform, fall below eps
    step = 2 * np.pi / (2 * np.abs(u).max() + cut)
    modes = 2 * math.ceil(cut / step) + 1
    waves = step * np.arange(-(modes // 2), modes // 2 + 1)
    points = [np.ascontiguousarray(column) for column in (step * u).T]
    # <x, y> = <x, u_y> + const: the targets keep their centre, which weighs the sources.
    logs = u @ centre + 0.5 * np.square(u).sum(axis=1)
    weights = np.exp(logs - logs.max()).astype(complex)
    options = {"eps": eps, "nthreads": int(os.environ.get("OMP_NUM_THREADS", "1"))}
    down = {1: finufft.nufft1d1, 2: finufft.nufft2d1, 3: finufft.nufft3d1}[d]
    up = {1: finufft.nufft1d2, 2: finufft.nufft2d2, 3: finufft.nufft3d2}[d]
    axes = [[-1 if i == k else 1 for i in range(d)] for k in range(d)]
    table = down(*points, weights, (modes,) * d, isign=-1, **options)
    for axis in axes:
        table *= np.exp(-0.5 * waves**2).reshape(axis)
    total = up(*points, table, isign=1, **options).real
    out = np.empty((n, d))
    for k, axis in enumerate(axes):
        slope = up(*points, table * (1j * waves).reshape(axis), isign=1, **options)
        out[:, k] = x[:, k] + slope.real / total
    return out


def call(work: Work) -> Tuned:
    """Prepare a piece of work with the loosest tolerance that reaches its error."""
    unit = math.sqrt(work.scale)
    x = work.tokens.astype(float) * unit
    return tuned(work, "eps", LADDER, lambda eps: lambda: partial(means, x, eps)() / unit, patience=60.0)
