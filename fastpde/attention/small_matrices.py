"""Small matrices, or one of each system of a batch: products without BLAS, whose bits may depend on its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._types import Array

if TYPE_CHECKING:
    from ..sums.backend import Backend


def transposed(a: Array) -> Array:
    """Return the transposes of matrices (..., p, q)."""
    return np.swapaxes(a, -1, -2)


def times(matrix: Array, vector: Array) -> Array:
    """Return matrix (..., p, q) times vector (..., q)."""
    return (matrix @ vector[..., None])[..., 0]


def is_identity(matrix: Array) -> bool:
    """Return whether matrices (..., p, q) map every vector to itself."""
    rows, columns = matrix.shape[-2:]
    return rows == columns and bool((matrix == np.eye(rows)).all())


def product(left: Array, right: Array) -> Array:
    """Return left (..., p, q) times right (..., q, r)."""
    return np.einsum("...ij,...jk->...ik", left, right)


def apply(backend: Backend, matrix: Array, vectors: Array) -> Array:
    """Return matrix[b] vectors[b], (B, q), of a matrix (q, d) or (B, q, d) and vectors (B, d)."""
    out = np.empty((len(vectors), 1, matrix.shape[-2]))
    backend.project(vectors[:, None, :], matrix, out)
    return out[:, 0]


def gram(backend: Backend, K: Array, Q: Array) -> Array:
    """Return K^T Q, (d, d) or (B, d, d)."""
    rows, columns = np.swapaxes(K, -1, -2), np.swapaxes(Q, -1, -2)
    systems = max(Q.shape[0] if Q.ndim == 3 else 1, K.shape[0] if K.ndim == 3 else 1)
    out = np.empty((systems, rows.shape[-2], columns.shape[-2]))
    backend.project(np.broadcast_to(rows, (systems, *rows.shape[-2:])).copy(), columns, out)
    return out if max(Q.ndim, K.ndim) == 3 else out[0]


def over_largest(matrix: Array) -> Array:
    """Return a matrix over its largest entry: products of such are numbers."""
    largest = np.abs(matrix).max(axis=(-2, -1), keepdims=True)
    return matrix / np.where(largest > 0.0, largest, 1.0)


def one_head(matrix: Array) -> Array:
    """Return a matrix, or one of each system, as (1 or B, 1, rows, columns)."""
    return matrix.reshape(-1, 1, *matrix.shape[-2:])


def side_by_side(arrays: list[Array]) -> Array:
    """Return arrays (1 or B, H, ...) as one with all their heads."""
    systems = max(map(len, arrays))
    return np.concatenate([np.broadcast_to(a, (systems, *a.shape[1:])) for a in arrays], axis=1)
