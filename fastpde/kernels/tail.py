"""The flow of a Gaussian law to its limit, by shape and size, in a rescaled time, with a factor that can come to rest.

The state is Y = [mean, L] as Y = e^size X, and the time t as log(1 + t / unit): rows of X (d, 1 + r), then one row
[size, log(1 + t / unit), 0 ...]. Three choices make blow-up, growth and decay like 1 / t equally easy:
    shape   X keeps its norm while Y explodes or collapses (Theory 3, the projective flow);
    clock   dtau = |S'| / |S| dt + dlog(t + unit) is log 1 / (t* - t) near a blow-up and log t in an algebraic tail, and
            tau - log(1 + t / unit) is how far S has gone;
    gauge   L' = M L + L Omega with Omega skew gives the same S = L L^T. The Omega that makes L^T L' symmetric leaves
            L at rest when S is, though M is not zero.

Only the direction of X is read, so that rounding and the errors of steps across the sphere do no harm.

Source: Theory 2, 3, 11; Bhatia, Jain, Lim 2019 (the horizontal lift of a path of covariances).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from . import closure
from .small import orthogonal
from .systems import Shape

GROWTH, CHANGE, STRENGTH, SPECTRUM = 0, 1, 2, 3  # entries of `Work.seen`; the spectrum from SPECTRUM on


class Tail(NamedTuple):
    """The field of 1 or B attentions, and the B units of time."""

    heads: closure.Closure
    units: np.ndarray  # (B,)


class Workspace(NamedTuple):
    """Workspace of one thread, or of all threads with one more leading axis."""

    law: closure.Workspace
    X: np.ndarray  # (d, 1 + r) the shape, |X| = 1
    Y: np.ndarray  # (d, 1 + r) the mean and a factor with orthogonal columns, |Y| = 1, then in full size
    F: np.ndarray  # (d, 1 + r) the velocity
    W: np.ndarray  # (r, r) turns X into Y
    G: np.ndarray  # (r, r)
    seen: np.ndarray  # (3 + r,) growth of log |Y|, |S'| / |S|, |M| on the range of S, singular values of L / |Y|


def shape_for(d: int, r: int, heads: int) -> Shape:
    """Return the sizes of `closure.shape_for`, with one more row for size and time."""
    return closure.shape_for(d, r, heads)._replace(d=d + 1, entries=d * (1 + d) + 2, rows=d + 1)


def allocate(threads: int, shape: Shape, workspace) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array."""
    d, r = shape.d - 1, shape.n - 1
    law = closure.allocate(threads, shape._replace(d=d), workspace)
    m = 1 + r
    sizes = {"X": (d, m), "Y": (d, m), "F": (d, m), "W": (r, r), "G": (r, r), "seen": (SPECTRUM + r,)}
    return Workspace(
        law, **{name: workspace(f"tail_{name}", (threads, *size), np.float64) for name, size in sizes.items()}
    )


@jit(borrowed=True)
def _at_rest(work):
    """Add Y Omega to F, so that L is at rest when S is, and rotate the result back to the columns of X.

    X becomes workspace.
    """
    X, Y, F, W, G = work.X, work.Y, work.F, work.W, work.G
    d, r = X.shape[0], W.shape[0]
    for i in range(r):
        for j in range(r):
            total = 0.0
            for p in range(d):
                total += Y[p, 1 + i] * F[p, 1 + j]
            G[i, j] = total
    for i in range(r):
        for j in range(i):
            pair = work.seen[SPECTRUM + i] ** 2 + work.seen[SPECTRUM + j] ** 2
            turn = (G[j, i] - G[i, j]) / pair if pair > 0.0 else 0.0
            G[i, j], G[j, i] = turn, -turn
        G[i, i] = 0.0
    for p in range(d):
        for j in range(r):
            total = F[p, 1 + j]
            for i in range(r):
                total += Y[p, 1 + i] * G[i, j]
            X[p, 1 + j] = total  # X has been read and serves as workspace
        for j in range(r):
            total = 0.0
            for i in range(r):
                total += X[p, 1 + i] * W[j, i]
            F[p, 1 + j] = total


@jit(borrowed=True)
def _change(work):
    """Return |S'| / |S|, or the change of the mean if that is more, from Y with |Y| = 1 and Y' = F."""
    Y, F = work.Y, work.F
    d, columns = Y.shape
    square = 0.0
    for p in range(d):
        for q in range(p + 1):
            entry = 0.0
            for j in range(1, columns):
                entry += F[p, j] * Y[q, j] + Y[p, j] * F[q, j]
            square += entry * entry * (1.0 if p == q else 2.0)
    size = 0.0
    for j in range(columns - 1):
        size += work.seen[SPECTRUM + j] ** 4
    moved, product, mean = 0.0, 0.0, 0.0
    for p in range(d):
        moved += F[p, 0] * F[p, 0]
        product += F[p, 0] * Y[p, 0]
        mean += Y[p, 0] * Y[p, 0]
    change = math.sqrt(square) / max(math.sqrt(size), 1e-300)
    return max(change, math.sqrt(2.0 * (moved * mean + product * product)))


@jit(borrowed=True)
def _strength(work):
    """Return |M| on the range of S, from the columns of Y = U s and F = M U s."""
    square = 0.0
    for j in range(work.W.shape[0]):
        size = work.seen[SPECTRUM + j]
        for p in range(work.F.shape[0]):
            square += (work.F[p, 1 + j] / size) ** 2 if size > 0.0 else 0.0
    return math.sqrt(square)


@jit(borrowed=True)
def rates(tail, b, x, work):
    """Write the velocity of X per time t into work.F, and the numbers that describe the flat state x into work.seen."""
    X, Y, F = work.X, work.Y, work.F
    d, columns = X.shape
    square = 0.0
    for i in range(d * columns):
        square += x[i] * x[i]
    for p in range(d):
        for j in range(columns):
            X[p, j] = x[p * columns + j] / math.sqrt(square)
            Y[p, j] = X[p, j]
    orthogonal(Y[:, 1:], work.W)
    for j in range(1, columns):
        total = 0.0
        for p in range(d):
            total += Y[p, j] * Y[p, j]
        work.seen[SPECTRUM + j - 1] = math.sqrt(total)
    scale = math.exp(x[d * columns])
    for p in range(d):
        for j in range(columns):
            Y[p, j] *= scale
    closure.velocity(tail.heads, b, Y, work.law, F)
    for p in range(d):
        for j in range(columns):
            Y[p, j] /= scale
            F[p, j] /= scale
    work.seen[CHANGE] = _change(work)
    work.seen[STRENGTH] = _strength(work)
    _at_rest(work)
    growth = 0.0
    for p in range(d):
        for j in range(columns):
            X[p, j] = x[p * columns + j] / math.sqrt(square)
            growth += X[p, j] * F[p, j]
    for p in range(d):
        for j in range(columns):
            F[p, j] -= growth * X[p, j]
    work.seen[GROWTH] = growth


@jit
def flat_velocity(tail, b, x, work, out):
    """Write the derivative of the state x in the clock tau into `out`; both are flat."""
    rates(tail, b, x, work)
    (d, columns), unit = work.X.shape, tail.units[b]
    slow = math.exp(-x[d * columns + 1])  # unit / (t + unit)
    rate = unit * work.seen[CHANGE] + slow
    for p in range(d):
        for j in range(columns):
            out[p * columns + j] = unit / rate * work.F[p, j]
    for j in range(columns):
        out[d * columns + j] = 0.0
    out[d * columns] = unit / rate * work.seen[GROWTH]
    out[d * columns + 1] = slow / rate


@jit
def look(tail, which, rows, work, out):
    """Write the numbers (3 + r,) of `Work.seen` for law which[i] at the flat state rows[k, i] into out[k, i]."""
    for i in range(which.shape[0]):
        for k in range(rows.shape[0]):
            rates(tail, which[i], rows[k, i], work)
            for j in range(work.seen.shape[0]):
                out[k, i, j] = work.seen[j]
