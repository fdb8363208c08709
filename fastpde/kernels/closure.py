"""The velocity of a Gaussian law: y' = M(y) y + [c(y), 0] for y = [mean, L] (d, 1 + r), covariance L L^T.

Every head adds V Z, with X = A y and T = L^T X (Theory 2, 2.1). Its kind, a constant of this module, determines Z:
    TILT      Z = L (I + 2 L^T D L)^{-1} (T - 2 [L^T D mean, 0]) + [mean, 0]
    LINEAR    Z = L T + mean (mean^T X)
    PLAN      Z = L phi(B B^T) [0, B] + [mean, 0],  B = L^T A L,  phi(s) = 2 / (1 + sqrt(1 + 4 s))
    STEPS     Z = P A y + [b, 0] after `count` half-iterations of Sinkhorn
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from .small import eigen, multiply, multiply_transposed, solve_spd
from .systems import Shape

TILT, LINEAR, PLAN, STEPS = range(4)


class Closure(NamedTuple):
    """The heads of 1 or B attentions; the eps of Sinkhorn attention is contained in A and V."""

    kinds: np.ndarray  # (heads,) int64
    counts: np.ndarray  # (heads,) int64: of STEPS, half-iterations; of TILT, whether D is not zero
    A: np.ndarray  # (1 or B, heads, d, d)
    D: np.ndarray  # (1 or B, heads, d, d)
    V: np.ndarray  # (1 or B, heads, d, d)


class Workspace(NamedTuple):
    """Workspace of one thread, or of all threads with one more leading axis."""

    Y: np.ndarray  # (d, 1 + r) the state
    F: np.ndarray  # (d, 1 + r) its velocity
    L: np.ndarray  # (d, r) the factor
    X: np.ndarray  # (d, 1 + r)
    Z: np.ndarray  # (d, 1 + r)
    T: np.ndarray  # (r, 1 + r)
    W: np.ndarray  # (r, 1 + r)
    C: np.ndarray  # (r, r)
    U: np.ndarray  # (r, r)
    R: np.ndarray  # (r, d)
    G: np.ndarray  # (d, d)
    M: np.ndarray  # (d, d)
    P: np.ndarray  # (d, d)
    slope: np.ndarray  # (d, 1)
    b: np.ndarray  # (d, 1)


def shapes(d: int, r: int) -> dict[str, tuple[int, int]]:
    """Return the shapes of the arrays of one thread's workspace."""
    m = 1 + r
    return {
        "Y": (d, m), "F": (d, m), "L": (d, r),
        "X": (d, m), "Z": (d, m), "T": (r, m), "W": (r, m), "C": (r, r), "U": (r, r), "R": (r, d),
        "G": (d, d), "M": (d, d), "P": (d, d), "slope": (d, 1), "b": (d, 1),
    }  # fmt: skip


def shape_for(d: int, r: int, heads: int) -> Shape:
    """Return the sizes of laws as systems of 1 + r tokens, the mean and the columns of L, without padding.

    Errors are averaged over a state of full rank, so that columns of zeros that are left out change no step.
    """
    return Shape(
        n=1 + r, d=d, entries=d * (1 + d), heads=heads, width=1, lanes=1 + r, rows=d, columns=1,
        normalised=0, tilted=0, plain=0, sphere=0, factor=1.0, reach=0.0,
    )  # fmt: skip


def allocate(threads: int, shape: Shape, workspace) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array."""
    sizes = shapes(shape.d, shape.n - 1)
    return Workspace(
        **{name: workspace(f"closure_{name}", (threads, *size), np.float64) for name, size in sizes.items()}
    )


@jit(borrowed=True)
def _inner(G, L, factor, C):
    """Write I + factor L^T G L into C (r, r)."""
    d, r = L.shape
    for i in range(r):
        for j in range(r):
            C[i, j] = 1.0 if i == j else 0.0
    for p in range(d):
        for j in range(r):
            row = 0.0
            for q in range(d):
                row += G[p, q] * L[q, j]
            for i in range(r):
                C[i, j] += factor * L[p, i] * row


@jit(borrowed=True)
def _tilt(D, y, work):
    """Replace T by (I + 2 L^T D L)^{-1} (T - 2 [L^T D mean, 0])."""
    L = work.L
    d, r = L.shape
    for p in range(d):
        image = 0.0
        for q in range(d):
            image += D[p, q] * y[q, 0]
        for i in range(r):
            work.T[i, 0] -= 2.0 * L[p, i] * image
    _inner(D, L, 2.0, work.C)
    solve_spd(work.C, work.T)


@jit(borrowed=True)
def _plan(work):
    """Replace T by phi(B B^T) [0, B], with B = T[:, 1:], by the eigenvectors of B B^T."""
    T, W, C, U = work.T, work.W, work.C, work.U
    r = T.shape[0]
    for i in range(r):
        T[i, 0] = 0.0
    for i in range(r):
        for j in range(r):
            total = 0.0
            for q in range(1, r + 1):
                total += T[i, q] * T[j, q]
            C[i, j] = total
    eigen(C, U)
    multiply_transposed(U, T, W)
    for i in range(r):
        square = C[i, i] if C[i, i] < math.inf else math.nan  # an overflow would pass for phi = 0
        phi = 1.0 / (0.5 + math.sqrt(0.25 + (0.0 if square < 0.0 else square)))
        for j in range(r + 1):
            W[i, j] *= phi
    multiply(U, W, T)


@jit(borrowed=True)
def _half_steps(A, count, y, work):
    """Write M y + [b, 0] into Z, with E[y | x] = M x + b after `count` half-iterations (Theory 2.1).

    The potentials are -y.G.y / 2 + slope.y. A half-iteration has P = (S^{-1} + G)^{-1}, b = mean + P (slope - G mean)
    and M = P A; then G becomes A^T M, and slope becomes -A^T b. Every second half-iteration has A^T in place of A.
    """
    L, C, R, G, M, P, slope, b = work.L, work.C, work.R, work.G, work.M, work.P, work.slope, work.b
    d, r = L.shape
    G[:] = 0.0
    slope[:] = 0.0
    for index in range(count):
        _inner(G, L, 1.0, C)
        for i in range(r):
            for p in range(d):
                R[i, p] = L[p, i]
        solve_spd(C, R)
        multiply(L, R, P)
        for p in range(d):
            for q in range(d):
                slope[p, 0] -= G[p, q] * y[q, 0]
        multiply(P, slope, b)
        for p in range(d):
            b[p, 0] += y[p, 0]
        if index % 2 == 0:
            multiply(P, A, M)
            multiply_transposed(A, M, G)
            multiply_transposed(A, b, slope)
        else:
            multiply(P, A.T, M)
            multiply(A, M, G)
            multiply(A, b, slope)
        for p in range(d):
            slope[p, 0] = -slope[p, 0]
    multiply(M, y, work.Z)
    for p in range(d):
        work.Z[p, 0] += b[p, 0]


@jit(borrowed=True)
def velocity(closure, b, y, work, out):
    """Write y' of system b into `out`; y and out (d, 1 + r)."""
    d, columns = y.shape
    p = b % closure.A.shape[0]
    L = work.L
    for i in range(d):
        for j in range(1, columns):
            L[i, j - 1] = y[i, j]
    out[:, :] = 0.0
    for h in range(closure.kinds.shape[0]):
        kind, A = closure.kinds[h], closure.A[p, h]
        if kind == STEPS:
            _half_steps(A, closure.counts[h], y, work)
        else:
            multiply(A, y, work.X)
            multiply_transposed(L, work.X, work.T)
            if kind == PLAN:
                _plan(work)
            elif kind == TILT and closure.counts[h] != 0:
                _tilt(closure.D[p, h], y, work)
            multiply(L, work.T, work.Z)
            for j in range(columns if kind == LINEAR else 1):
                share = 1.0
                if kind == LINEAR:
                    share = 0.0
                    for q in range(d):
                        share += y[q, 0] * work.X[q, j]
                for i in range(d):
                    work.Z[i, j] += share * y[i, 0]
        multiply(closure.V[p, h], work.Z, work.X)
        for i in range(d):
            for j in range(columns):
                out[i, j] += work.X[i, j]


@jit
def flat_velocity(closure, b, x, work, out):
    """Write y' of system b at y = x into `out`; x and out are flat."""
    at, d, columns = 0, work.Y.shape[0], work.Y.shape[1]
    for i in range(d):
        for j in range(columns):
            work.Y[i, j] = x[at]
            at += 1
    velocity(closure, b, work.Y, work, work.F)
    at = 0
    for i in range(d):
        for j in range(columns):
            out[at] = work.F[i, j]
            at += 1
