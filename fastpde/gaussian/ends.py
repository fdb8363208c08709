"""Whether a limit is attracting: the flow S' = F(S) = M S + S M^T, linearised at the S that a law has reached.

A law near a limit that attracts everything close to it stays there. Near any other limit, a direction with a small
eigenvalue of S (a thin direction), or a small number, may still lead away later, so that no verdict is certain, however
long the law was at rest.

Source: Theory 12.4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._types import Array
from ..attention.gaussian_maps import Changes, map_of
from ..attention.small_matrices import transposed
from ..batches.affine import AffineHeads
from .units import size


class Linear(NamedTuple):
    """The field F and its derivative at one S, in an orthonormal basis of the N symmetric matrices that S can be."""

    S: Array  # (N,)
    F: Array  # (N,)
    slope: Array  # (N, N) its derivative


def reach(columns: Array) -> Array:
    """Return an orthonormal basis (d, r) of the range of Y (d, m), which is also that of S.

    It spans all of R^d where floats do not resolve the range. The flow keeps the rank r of S: disturbances that would
    raise it cannot occur.
    """
    used = columns[:, columns.any(axis=0)]
    U, s, _ = np.linalg.svd(used, full_matrices=False)
    return U if len(s) and s[-1] > 1e-7 * s[0] else np.eye(len(columns))


def _basis(span: Array) -> Array:
    """Return an orthonormal basis (N, d, d) of the symmetric matrices that S can be if its range is a span (d, r).

    As quadratic forms they vanish on the complement of the span, whose columns are orthonormal; for r = d these are all
    symmetric matrices.
    """
    d, r = span.shape
    frame = np.concatenate([span, np.linalg.svd(span)[0][:, r:]], axis=1)
    rows, columns = np.triu_indices(r, m=d)
    basis = frame.T[rows][:, :, None] * frame.T[columns][:, None, :]
    basis = basis + transposed(basis)
    return basis / np.linalg.norm(basis, axis=(1, 2))[:, None, None]


def linearised(heads: AffineHeads, S: Array, span: Array) -> Linear:
    """Return F and its derivative at S (d, d), of range `span`, for the heads (1, heads, d, d) of one attention."""
    basis = _basis(span)
    M, changes = np.zeros_like(S), np.zeros_like(basis)
    values, vectors = np.linalg.eigh(S)
    factor, still = vectors * np.sqrt(np.maximum(values, 0.0)), np.zeros(len(S))
    for h, (kind, count) in enumerate(zip(heads.kinds, heads.counts, strict=True)):
        law = map_of(kind, count, heads.A[0, h], None if heads.D is None else heads.D[0, h], still, factor)
        M, changes = M + heads.V[0, h] @ law.N, changes + heads.V[0, h] @ law.push(Changes(still, basis))[0]
    rates, slopes = M @ S, changes @ S + M @ basis
    coordinates = basis.reshape(len(basis), -1)

    def seen(matrices: Array) -> Array:
        return (matrices + transposed(matrices)).reshape(*matrices.shape[:-2], -1) @ coordinates.T

    return Linear(coordinates @ S.reshape(-1), seen(rates), seen(slopes).T)


def shape_at_rest(heads: AffineHeads, S: Array, span: Array) -> tuple[float, float]:
    """Return the distance of the shape S / |S| of a growing law from one at rest, and its gap, per e-fold of |S|.

    gap: by how much disturbances of the shape fall behind while |S| grows by e, at the least; negative if they win.
    """
    flow = linearised(heads, S, span)
    unit = flow.S / np.linalg.norm(flow.S)
    growth = float(unit @ flow.F) / float(np.linalg.norm(flow.S))
    if not growth > 0.0:
        return np.inf, -np.inf
    rest = flow.F / np.linalg.norm(flow.S) - growth * unit
    if len(unit) == 1:
        return 0.0, np.inf
    across = np.linalg.svd(unit[None])[2][1:]
    lead = float(np.linalg.eigvals(across @ flow.slope @ across.T).real.max()) / growth - 1.0
    return float(np.linalg.norm(rest)) / growth, -lead


def drives_itself(heads: AffineHeads, S: Array) -> bool:
    """Return whether S grows as it would without its directions with small eigenvalues.

    These fall behind, and may behave otherwise later.
    """
    values, vectors = np.linalg.eigh(S)
    large = (vectors * np.where(values > 1e-6 * values[-1], values, 0.0)) @ vectors.T
    whole, alone = (linearised(heads, some, np.eye(len(S))) for some in (S, large))
    return bool(abs(alone.S @ alone.F / (whole.S @ whole.F) - 1.0) < 1e-2)


def orders(heads: AffineHeads, seconds: list[Array], steps: Array) -> Array:
    """Return how fast disturbances of a moving law grow against |S|: Lyapunov exponents over that of |S|, descending.

    Args: the heads; S at m points of the path, and the m - 1 times between them. The average is over the last half of
    the path, after the disturbances have turned to the directions in which they grow.
    """
    slopes = np.stack([linearised(heads, S, np.eye(len(S))).slope for S in seconds])
    sizes = np.log([size(S) for S in seconds])
    half_step = 0.25 * (slopes[1:] + slopes[:-1]) * steps[:, None, None]
    moved = np.linalg.solve(np.eye(len(half_step[0])) - half_step, np.eye(len(half_step[0])) + half_step)
    frame, total, half = np.eye(slopes.shape[1]), np.zeros(slopes.shape[1]), len(steps) // 2
    for index, change in enumerate(moved):
        frame, grown = np.linalg.qr(change @ frame)
        if index >= half:
            total += np.log(np.abs(np.diag(grown)) + 1e-300)
    return np.sort(total / (sizes[-1] - sizes[half]))[::-1]


def exponents(heads: AffineHeads, S: Array, span: Array, t: float) -> Array:
    """Return the real parts (N,) of the p of disturbances t^p of a law that comes to rest, descending."""
    return np.sort(t * np.linalg.eigvals(linearised(heads, S, span).slope).real)[::-1]


def family(heads: AffineHeads, S: Array, span: Array, rank: int, nullity: int) -> int | None:
    """Return the dimension of the family of limits of that rank around S; None if S is near no limit of a known kind.

    The limits are all U U^T with U^T A U = 0 for every head (Theory 4.3), and, where A U = A^T U = 0, all S on the
    kernel of all A (Theory 4.2), of dimension `nullity`, that vanish on the complement of `span` as quadratic forms:
    what is nearly a kernel is not one.
    """
    d, heads_A = len(S), [A / size(A) for A in heads.A[0] if A.any()]
    if not rank or not heads_A:
        return 0 if heads_A else None
    A, U = np.stack(heads_A), np.linalg.eigh(S)[1][:, d - rank :]
    sides = np.concatenate([A, transposed(A)])
    if nullity:
        _, s, rows = np.linalg.svd(A.reshape(-1, d))
        if np.abs(sides @ U).max() < 1e-4 * s[d - nullity - 1]:
            beyond = nullity - int(np.sum(np.linalg.svd(rows[d - nullity :] @ span, compute_uv=False) > 1.0 - 1e-6))
            return nullity * (nullity + 1) // 2 - beyond * (beyond + 1) // 2
    if np.abs(U.T @ A @ U).max() > 1e-5:
        return None
    directions = np.eye(d * rank).reshape(-1, 1, d, rank)
    bent = (U.T @ A @ directions + transposed(directions) @ A @ U).reshape(d * rank, -1)
    values = np.linalg.svd(bent, compute_uv=False)
    if np.any((values > 1e-6) & (values < 1e-3)):
        return None
    return d * rank - rank * (rank - 1) // 2 - int(np.sum(values > 1e-6))
