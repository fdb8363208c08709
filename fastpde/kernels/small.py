"""Dense algebra for matrices of a few rows, in place and without allocation."""

from __future__ import annotations

import math

from .._jit import jit

_SWEEPS = 30  # Jacobi converges quadratically; ten sweeps suffice for any matrix seen


# One sum at a time, in a register: loops over rows of about three numbers are not worth vectorising.
@jit(borrowed=True)
def multiply(a, b, out):
    """Write a b into `out`."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = 0.0
            for q in range(a.shape[1]):
                total += a[i, q] * b[q, j]
            out[i, j] = total


@jit(borrowed=True)
def multiply_transposed(a, b, out):
    """Write a^T b into `out`."""
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            total = 0.0
            for q in range(a.shape[0]):
                total += a[q, i] * b[q, j]
            out[i, j] = total


@jit(borrowed=True)
def solve_spd(c, x):
    """Replace x by c^{-1} x for a symmetric positive definite c, which becomes its Cholesky factor.

    The result is nan if c has overflowed.
    """
    n = c.shape[0]
    for i in range(n):
        for j in range(i + 1):
            value = c[i, j]
            for q in range(j):
                value -= c[i, q] * c[j, q]
            if not value < math.inf:
                value = math.nan  # a quotient by infinity would pass for zero
            c[i, j] = math.sqrt(value) if i == j else value / c[j, j]
    for column in range(x.shape[1]):
        for i in range(n):
            value = x[i, column]
            for q in range(i):
                value -= c[i, q] * x[q, column]
            x[i, column] = value / c[i, i]
        for i in range(n - 1, -1, -1):
            value = x[i, column]
            for q in range(i + 1, n):
                value -= c[q, i] * x[q, column]
            x[i, column] = value / c[i, i]


@jit(borrowed=True)
def _rotate(c, u, p, q):
    """Apply the Jacobi rotation that makes c[p, q] zero to rows and columns p, q of c and to columns p, q of u."""
    theta = (c[q, q] - c[p, p]) / (2.0 * c[p, q])
    t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
    cosine = 1.0 / math.sqrt(t * t + 1.0)
    sine = t * cosine
    n = c.shape[0]
    for i in range(n):
        left, right = c[i, p], c[i, q]
        c[i, p], c[i, q] = cosine * left - sine * right, sine * left + cosine * right
    for i in range(n):
        left, right = c[p, i], c[q, i]
        c[p, i], c[q, i] = cosine * left - sine * right, sine * left + cosine * right
    c[p, q], c[q, p] = 0.0, 0.0  # rounding errors left there would keep the sweeps going
    for i in range(n):
        left, right = u[i, p], u[i, q]
        u[i, p], u[i, q] = cosine * left - sine * right, sine * left + cosine * right


@jit(borrowed=True)
def eigen(c, u):
    """Write the eigenvectors of a symmetric c into the columns of u; its eigenvalues are left on the diagonal of c.

    Source: Jacobi 1846; Golub, Van Loan, Matrix Computations, 8.5.
    """
    n = c.shape[0]
    for i in range(n):
        for j in range(n):
            u[i, j] = 1.0 if i == j else 0.0
    for _ in range(_SWEEPS):
        off, size = 0.0, 0.0
        for i in range(n):
            size += c[i, i] * c[i, i]
            for j in range(i):
                off += c[i, j] * c[i, j]
        if not off > 1e-32 * size:
            return
        for p in range(n):
            for q in range(p + 1, n):
                if c[p, q] != 0.0:
                    _rotate(c, u, p, q)


@jit(borrowed=True)
def orthogonal(a, w):
    """Replace a (m, n) by a w, whose columns are orthogonal to 1e-15 of their norms, and write the orthogonal w (n, n).

    Small columns keep their digits.

    Source: Hestenes 1958 (one-sided Jacobi rotations); Golub, Van Loan, Matrix Computations, 8.6.3.
    """
    m, n = a.shape
    for i in range(n):
        for j in range(n):
            w[i, j] = 1.0 if i == j else 0.0
    for _ in range(_SWEEPS):
        turned = False
        for p in range(n):
            for q in range(p + 1, n):
                left, right, both = 0.0, 0.0, 0.0
                for i in range(m):
                    left += a[i, p] * a[i, p]
                    right += a[i, q] * a[i, q]
                    both += a[i, p] * a[i, q]
                if not abs(both) > 1e-15 * math.sqrt(left) * math.sqrt(right):
                    continue
                turned = True
                theta = (right - left) / (2.0 * both)
                t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
                cosine = 1.0 / math.sqrt(t * t + 1.0)
                sine = t * cosine
                for i in range(m):
                    one, other = a[i, p], a[i, q]
                    a[i, p], a[i, q] = cosine * one - sine * other, sine * one + cosine * other
                for i in range(n):
                    one, other = w[i, p], w[i, q]
                    w[i, p], w[i, q] = cosine * one - sine * other, sine * one + cosine * other
        if not turned:
            return
