"""Ranks and inertia of matrices of floats, without rounding: every float is a fraction, and fractions are exact."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from .._types import Array

fractions = np.vectorize(Fraction, otypes=[object])  # converts a matrix of floats to one of fractions


def rank(matrix: Array) -> int:
    """Return the rank of a matrix of fractions.

    It is found from singular values where rounding cannot change it, and by elimination where it might.
    """
    with np.errstate(over="ignore"):
        rounded = matrix.astype(np.float64)
    if rounded.size and np.isfinite(rounded).all():
        values = np.linalg.svd(rounded, compute_uv=False)
        if values[-1] > 1e-12 * values[0]:
            return len(values)
    left, found = matrix.copy(), 0
    while left.size:
        pivots = np.flatnonzero(left[:, 0])
        if len(pivots):
            row, left = left[pivots[0]], np.delete(left, pivots[0], axis=0)
            left = left - np.outer(left[:, 0] / row[0], row)
            found += 1
        left = left[:, 1:]
    return found


def inertia(matrix: Array) -> tuple[int, int, int]:
    """Return the numbers of negative, zero and positive eigenvalues of a symmetric matrix of fractions.

    Source: Sylvester's law of inertia.
    """
    left, negative, positive = matrix.copy(), 0, 0
    while left.any():
        diagonal = np.flatnonzero(np.diag(left))
        if not len(diagonal):  # x y is a difference of squares of x + y and x - y
            i, j = np.argwhere(left)[0]
            left[i] = left[i] + left[j]
            left[:, i] = left[:, i] + left[:, j]
            diagonal = np.array([i])
        k = int(diagonal[0])
        pivot, others = left[k, k], np.delete(np.arange(len(left)), k)
        negative, positive = negative + int(pivot < 0), positive + int(pivot > 0)
        column = left[others, k]
        left = left[np.ix_(others, others)] - np.outer(column, column) / pivot
    return negative, len(matrix) - negative - positive, positive
