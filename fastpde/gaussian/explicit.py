"""Limits and blow-up times of Gaussian laws that are known in closed form, and ranks known by a theorem.

For a factor S0 = L L^T of any rank nothing is inverted: S^{-1} = S0^{-1} - t B becomes S = L (I - t L^T B L)^{-1} L^T.
Source: MATH 3, 4.1, 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .._types import Array
from ..attention import L2, Masked, MultiHead, Sinkhorn, Softmax
from ..attention.base import Attention
from ..attention.closure import transposed
from .verdict import Outcome, Verdict

_ROUNDING = 1e-13  # of products of a few matrices, relative to the products of their norms


def kernel(attention: Attention, t: float = 0.0) -> Array:
    """An orthonormal basis (d, m) of what every M annihilates: the intersection of the kernels of all K_h^T Q_h."""
    rows = [A / max(float(np.linalg.norm(A)), 1e-300) for A in attention.score_matrices(t)]
    return _null(np.concatenate(rows))


def invariant(attention: Attention, cov: Array) -> tuple[Array, Array]:
    """N (d, m) and N^T S^+ N (m, m), which the flow conserves; N spans ker Q and, if S is singular, range S too.

    L(t) = Phi(t) L(0) with Phi n = n for n in ker Q: what is conserved is |w|^2 where L w = n has a solution.

    Args: attention with constant parameters of one system; cov (d, d). Source: MATH 4.1.
    """
    values, vectors = np.linalg.eigh(cov)
    used = values > 1e-15 * values[-1]
    factor = vectors[:, used] * np.sqrt(values[used])
    basis = common(attention, factor)
    return basis, _inside(factor, basis)


def common(attention: Attention, factor: Array) -> Array:
    """An orthonormal basis (d, m) of ker Q and range L, L (d, r) of full column rank."""
    rows = [A / max(float(np.linalg.norm(A)), 1e-300) for A in attention.score_matrices(0.0)]
    return np.linalg.qr(factor @ _null(np.concatenate(rows) @ factor))[0]


def _inside(factor: Array, basis: Array) -> Array:
    """N^T (L L^T)^+ N."""
    w = np.linalg.lstsq(factor, basis, rcond=None)[0]
    return transposed(w) @ w


def drift(basis: Array, start: Array, end: Array) -> float:
    """The relative change of N^T S^+ N between two factors; 0 where there is nothing to conserve."""
    if not basis.shape[1]:
        return 0.0
    before = _inside(start, basis)
    return float(np.linalg.norm(_inside(end, basis) - before) / np.linalg.norm(before))


def _null(rows: Array) -> Array:
    """An orthonormal basis of the kernel of a matrix."""
    _, s, vectors = np.linalg.svd(rows)
    rank = int(np.sum(s > _ROUNDING * max(float(s[0]), 1e-300)))
    return vectors[rank:].T


def _heads(attention: Attention, W: Array | None = None) -> Iterator[tuple[Attention, Array]]:
    """The single heads in an attention, each with its W_h V_h."""
    if isinstance(attention, Masked):
        yield from _heads(attention.attention, W)
    elif isinstance(attention, MultiHead):
        outputs: Sequence[Array | None] = attention.outputs(0.0) or [None] * len(attention.heads)
        for head, own in zip(attention.heads, outputs, strict=True):
            yield from _heads(head, own if W is None else W if own is None else W @ own)
    else:
        V = attention.V(0.0)  # type: ignore[attr-defined]
        yield attention, V if W is None else W @ V


def explicit(attention: Attention, factor: Array) -> tuple[Verdict, Array, int] | None:
    """The verdict, the limit (d, d) and its rank of S0 = L L^T where MATH gives them; None elsewhere."""
    heads = list(_heads(attention))
    if all(type(head) is Softmax for head, _ in heads):
        return _commuting([(head.score_matrix(0.0), V) for head, V in heads], factor)  # type: ignore[attr-defined]
    Q = _opposite(heads)
    v = heads[0][1][0, 0]
    if Q is None or not v > 0 or not np.allclose(heads[0][1], v * np.eye(len(factor)), rtol=0, atol=1e-15 * v):
        return None
    return _projected(Q, factor, "closed form MATH 4.2")


def known_rank(attention: Attention, factor: Array) -> int | None:
    """dim ker Q, the rank of the limit for V = V^T > 0, K = -Q and S0 > 0, by the theorem of MATH 4.2; else None."""
    heads = list(_heads(attention))
    Q, V = _opposite(heads), heads[0][1]
    d, r = factor.shape
    if Q is None or r < d or np.abs(V - V.T).max() > 1e-14 * np.abs(V).max() or np.linalg.eigvalsh(V)[0] <= 0.0:
        return None
    return _null(Q).shape[1]


def _opposite(heads: list[tuple[Attention, Array]]) -> Array | None:
    """Q of a single Softmax, L2 or Sinkhorn head with K = -Q, else None."""
    head = heads[0][0]
    if len(heads) > 1 or type(head) not in (Softmax, L2, Sinkhorn) or getattr(head, "n_half", None) is not None:
        return None
    Q, K, scale = head.Q(0.0), head.K(0.0), head.scale(0.0)  # type: ignore[attr-defined]
    return Q if np.array_equal(K, -Q) and scale > 0 else None


def _commuting(heads: list[tuple[Array, Array]], factor: Array) -> tuple[Verdict, Array, int] | None:
    """Softmax heads whose V commute with S0 and with B = sum V A + A^T V^T: S^{-1} = S0^{-1} - t B."""
    S = factor @ factor.T
    B = sum((V @ A + (V @ A).T for A, V in heads), np.zeros_like(S))
    size = sum(float(np.linalg.norm(V) * np.linalg.norm(A)) for A, V in heads)
    for _, V in heads:
        for matrix, norm in ((S, float(np.linalg.norm(S))), (B, size)):
            if np.linalg.norm(V @ matrix - matrix @ V) > _ROUNDING * np.linalg.norm(V) * norm:
                return None
    values, vectors = np.linalg.eigh(B)
    values = np.where(np.abs(values) > _ROUNDING * size, values, 0.0)
    if (values <= 0.0).all():
        return _projected(np.sqrt(-values)[:, None] * vectors.T, factor, "closed form MATH 3")
    inner = (factor.T @ vectors) * values @ (vectors.T @ factor)
    beta, turns = np.linalg.eigh(inner)
    slack = _ROUNDING * float(np.linalg.norm(factor) ** 2 * np.abs(values).max())
    if beta[-1] > slack:
        reason = "closed form MATH 3: t* = 1 / lambda_max(L^T B L)"
        found = Verdict(Outcome.BLOWS_UP, reason, exponent=-1.0, blowup_time=float(1.0 / beta[-1]))
        return found, np.full_like(S, np.nan), -1
    kept = factor @ turns[:, np.abs(beta) <= slack]
    reason = "closed form MATH 3"
    return Verdict(Outcome.CONVERGES, reason, exponent=-1.0, approach="explicit"), kept @ kept.T, kept.shape[1]


def _projected(Q: Array, factor: Array, reason: str) -> tuple[Verdict, Array, int]:
    """N (N^T S0^{-1} N)^{-1} N^T, N a basis of ker Q, without the inverse: L P L^T, P the projection to ker Q L."""
    kept = factor @ _null(Q @ factor)
    return Verdict(Outcome.CONVERGES, reason, exponent=-1.0, approach="explicit"), kept @ kept.T, kept.shape[1]
