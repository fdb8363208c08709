"""The unit sphere in compiled code: parts of vectors tangent to it at tokens, and tokens divided by their norms.

Tokens and vectors are flat arrays. Coordinate r of token i is entry i * apart + r * step: apart, step are d, 1 for
tokens (n, d), and 1, lanes for rows of lanes as in `systems`. Whatever the layout, a token has the same bits.
"""

from __future__ import annotations

import math

import numpy as np

from .._jit import jit


@jit(inline=True)
def _dot(x, y, at, step, d):
    """Return <x, y> of one token in float64, even and odd coordinates apart, those of a group of eight from behind.

    That is the order of NumPy's einsum where its vectors have two numbers.
    """
    even, odd, r = 0.0, 0.0, 0
    while r + 8 <= d:
        for q in range(6, -2, -2):
            here = at + (r + q) * step
            even += np.float64(x[here]) * np.float64(y[here])
            odd += np.float64(x[here + step]) * np.float64(y[here + step])
        r += 8
    while r + 2 <= d:
        here = at + r * step
        even += np.float64(x[here]) * np.float64(y[here])
        odd += np.float64(x[here + step]) * np.float64(y[here + step])
        r += 2
    if r < d:
        here = at + r * step
        even += np.float64(x[here]) * np.float64(y[here])
    return even + odd


@jit(inline=True)
def to_tangent(x, v, n, d, apart, step):
    """Subtract <x, v> x from v, for n tokens x in R^d."""
    for i in range(n):
        along = _dot(x, v, i * apart, step, d)
        for r in range(d):
            at = i * apart + r * step
            v[at] = np.float64(v[at]) - along * np.float64(x[at])


@jit(inline=True)
def to_sphere(x, n, d, apart, step):
    """Divide n tokens x in R^d by their norms; one of infinite norm becomes nan."""
    for i in range(n):
        norm = math.sqrt(_dot(x, x, i * apart, step, d))
        # x / inf = 0 is finite: the one way a token that has overflowed could pass for a good one.
        norm = norm if norm < math.inf else math.nan
        for r in range(d):
            at = i * apart + r * step
            x[at] = np.float64(x[at]) / norm


@jit
def project(x, v, d):
    """Replace vectors v (n, d), flat, by their parts tangent to the sphere at tokens x."""
    to_tangent(x, v, x.shape[0] // d, d, d, 1)


@jit
def retract(x, d):
    """Divide tokens x (n, d), flat, by their norms."""
    to_sphere(x, x.shape[0] // d, d, d, 1)
