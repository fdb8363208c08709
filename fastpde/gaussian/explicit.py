"""Limits and blow-up times of Gaussian laws that are known in closed form, and ranks known by a theorem.

With a factor L of S0 = L L^T, of any rank, nothing is inverted: S^{-1} = S0^{-1} - t B becomes
S = L (I - t L^T B L)^{-1} L^T.

Source: Theory 3, 4.1, 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.small_matrices import transposed
from . import exact
from .classification import Outcome, Verdict
from .heads import Head, Heads, exact_scores, exact_value, heads_of, product
from .units import size

_ROUNDING = 1e-13  # of products of a few matrices, relative to the products of their norms


def kernel(attention: Attention, t: float = 0.0) -> Array:
    """Return an orthonormal basis (d, m) of the vectors that every M annihilates.

    That is the intersection of the kernels of all K_h^T Q_h.
    """
    rows = [_unit(A) for A in attention._score_matrices(t)]
    return _null(np.concatenate(rows))


def invariant(attention: Attention, cov: Array) -> tuple[Array, Array]:
    """Return N (d, m) and N^T S^+ N (m, m), which the flow conserves.

    N spans ker Q and, if S is singular, its intersection with range S. L(t) = Phi(t) L(0) with Phi n = n for n in ker
    Q: what is conserved is |w|^2 where L w = n has a solution.

    Args: attention with constant parameters of one system; cov (d, d). Source: Theory 4.1.
    """
    values, vectors = np.linalg.eigh(cov)
    used = values > 1e-15 * values[-1]
    factor = vectors[:, used] * np.sqrt(values[used])
    basis = common(attention, factor)
    return basis, _inside(factor, basis)


def common(attention: Attention, factor: Array) -> Array:
    """Return an orthonormal basis (d, m) of the intersection of ker Q and range L, L (d, r) of full column rank."""
    rows = [_unit(A) for A in attention._score_matrices(0.0)]
    return np.linalg.qr(factor @ _null(np.concatenate(rows) @ factor))[0]


def _inside(factor: Array, basis: Array) -> Array:
    """Return N^T (L L^T)^+ N (m, m) for a basis N (d, m) within the range of the factor L."""
    w = np.linalg.lstsq(factor, basis, rcond=None)[0]
    return transposed(w) @ w


def drift(basis: Array, start: Array, end: Array) -> float:
    """Return the relative change of N^T S^+ N between the factors `start` and `end` of S; 0 if N is empty."""
    if not basis.shape[1]:
        return 0.0
    before = _inside(start, basis)
    return float(np.linalg.norm(_inside(end, basis) - before) / np.linalg.norm(before))


def _unit(A: Array) -> Array:
    """Return A divided by its Frobenius norm; A itself if it is zero."""
    return A / size(A) if A.any() else A


def _null(rows: Array) -> Array:
    """Return an orthonormal basis, as columns, of the kernel of a matrix."""
    _, s, vectors = np.linalg.svd(rows)
    rank = int(np.sum(s > _ROUNDING * s[0]))
    return vectors[rank:].T


def _symmetric(cov: Array) -> Array:
    """Return the symmetric part of the covariance as it was given, as fractions."""
    S = exact.fractions(cov)
    return (S + S.T) / 2


def _definite(matrix: Array) -> int:
    """Return 1 for a symmetric positive definite matrix of fractions, -1 for a negative definite one, else 0."""
    negative, _, positive = exact.inertia(matrix) if (matrix == matrix.T).all() else (0, 0, 0)
    return int(positive == len(matrix)) - int(negative == len(matrix))


def of_degree_two(attention: Attention) -> bool:
    """Return whether S' = sum V S A S + tr for all S, tr the transposed sum.

    For linear attention the first S is the second moment.
    """
    return all(head.is_product or head.is_linear for head, _ in heads_of(attention))


def is_stationary(attention: Attention, mean: Array, cov: Array) -> bool:
    """Return whether S' is zero, without rounding.

    Where S' is not of degree two, all S A_h S must be zero (Theory 4.3).
    """
    S, heads = _symmetric(cov), heads_of(attention)
    if of_degree_two(attention):
        m = exact.fractions(mean)
        second = [S + np.outer(m, m) if head.is_linear else S for head, _ in heads]
        terms = [
            exact_value(V) @ moment @ exact_scores(head) @ S for (head, V), moment in zip(heads, second, strict=True)
        ]
        rate = sum(terms[1:], terms[0])
        return not (rate + rate.T).any()
    return all(not product(V).any() or not (S @ exact_scores(head) @ S).any() for head, V in heads)


@dataclass(frozen=True)
class Known:
    """An answer in closed form; `error` is that of `cov`, in the Frobenius norm."""

    verdict: Verdict
    cov: Array
    rank: int
    error: float = np.nan


@dataclass(frozen=True)
class Theory:
    """What theory says about a law that is to be followed.

    Attributes:
        bounded: whether no law blows up (Theory 4.5).
        conserves: whether the eigenvalues of A S are constant, so that S has no slow drift.
        rank: rank of the limit to which S converges (Theory 4.2); None: unknown.
        low, high: S' is of degree two in S for |S| far below `low`, and has its final degree far above `high`; inf and
            0 if it is of degree two everywhere.
        mixed: whether some heads saturate at large S and others do not.
        closed: whether S, or the second moment for linear attention, obeys an equation of its own.
        nullity: the dimension of the kernel of all scores.
        nilpotent: whether powers of V vanish, so that S may grow like a power of t.
    """

    bounded: bool
    conserves: bool
    rank: int | None
    low: float
    high: float
    mixed: bool
    closed: bool
    nullity: int
    nilpotent: bool

    @staticmethod
    def of(attention: Attention, factor: Array, cov: Array, *, mean_matters: bool) -> Theory:
        """Collect what theory says about a law with the factor (d, r), under an attention of one system."""
        heads = heads_of(attention)
        bends = np.concatenate([_bends(head) for head, _ in heads])
        linear = {head.is_linear for head, _ in heads}
        return Theory(
            bounded=attention.never_blows_up,
            conserves=_growth(heads) == 0,
            rank=_known_rank(heads, factor),
            low=float(np.min(1.0 / bends, initial=np.inf)),
            high=float(np.max(1.0 / bends, initial=0.0)),
            mixed=len(bends) > 0 and any(head.is_product or head.is_linear for head, _ in heads),
            closed=linear != {True, False} or not mean_matters,
            nullity=len(cov) - exact.rank(np.concatenate([exact_scores(head) for head, _ in heads])),
            nilpotent=len(heads) == 1 and _is_nilpotent(exact_value(heads[0][1])),
        )


def _is_nilpotent(V: Array) -> bool:
    """Return whether V^d = 0, exactly, for a matrix V of fractions.

    Floats decide where V^d is plainly not zero.
    """
    rounded = V.astype(np.float64)
    size = np.linalg.norm(rounded, 2)
    # Each product of matrices of norm one at most is off by d eps at most.
    if size > 0.0 and np.linalg.norm(np.linalg.matrix_power(rounded / size, len(V))) > 1e-15 * len(V) ** 2:
        return False
    return not product([V] * len(V)).any()


def _bends(head: Head) -> Array:
    """Return the nonzero singular values of the matrix by which a head departs from degree two in S.

    This is K^T K, scaled, for L2 and A / eps for Sinkhorn attention; Softmax and linear heads have none.
    """
    if head.is_product or head.is_linear:
        return np.empty(0)
    if head.eps is None:
        K = head.score.K
        values = np.linalg.svd(K, compute_uv=False)[: exact.rank(exact.fractions(K))]
        return np.abs(head.score.scale) * values**2
    scores = exact_scores(head)
    return np.linalg.svd(head.score.matrix / head.eps, compute_uv=False)[: exact.rank(scores)]


def explicit(attention: Attention, factor: Array, cov: Array) -> Known | None:
    """Return the answer for S0 = L L^T, L (d, r), where theory gives it without a doubt; None elsewhere."""
    heads = heads_of(attention)
    if all(head.is_product for head, _ in heads):
        return _commuting(heads, factor, cov) or _turning(heads, factor)
    Q, V = _opposite(heads), product(heads[0][1])
    if Q is None or not V[0, 0] > 0 or not np.array_equal(V, V[0, 0] * np.eye(len(V))):
        return None
    return _projected(Q, factor, exact.rank(exact.fractions(Q)), factor.shape[1] == len(V), "closed form Theory 4.2")


def _known_rank(heads: Heads, factor: Array) -> int | None:
    """Return the rank of the limit for V = V^T > 0, K = -Q and S0 > 0, which is dim ker Q; else None.

    Source: the theorem of Theory 4.2.
    """
    Q = _opposite(heads)
    d, r = factor.shape
    if Q is None or r < d:
        return None
    V = product(heads[0][1])
    symmetric = (V + V.T) / 2
    # A V that is symmetric but for the last bit must be far from singular.
    room = 0.0 if np.array_equal(V, V.T) else 1e-6 * float(size(V))
    if np.abs(V - V.T).max() > 1e-14 * np.abs(V).max() or np.linalg.eigvalsh(symmetric)[0] < room:
        return None
    return d - exact.rank(exact.fractions(Q)) if _definite(exact.fractions(symmetric)) == 1 else None


def _opposite(heads: Heads) -> Array | None:
    """Return Q of a single Softmax, L2 or Sinkhorn head with K = -Q; else None."""
    head = heads[0][0]
    if len(heads) > 1 or head.is_linear or head.n_half is not None:
        return None
    Q, K = head.score.Q, head.score.K
    return Q if np.array_equal(K, -Q) and head.score.scale > 0 else None


def _commuting(heads: Heads, factor: Array, cov: Array) -> Known | None:
    """Return the answer for Softmax heads whose V commute with S0 and with B = sum V A + A^T V^T.

    There S^{-1} = S0^{-1} - t B. S blows up if B is positive anywhere on the range of S0; signs are decided in exact
    arithmetic.
    """
    values = [product(V) for _, V in heads]
    scores = [head.score.matrix for head, _ in heads]
    S = factor @ factor.T
    B = sum((V @ A + (V @ A).T for A, V in zip(scores, values, strict=True)), np.zeros_like(S))
    most = sum(float(size(V) * size(A)) for A, V in zip(scores, values, strict=True))
    for V in values:
        for matrix, norm in ((S, size(S)), (B, most)):
            if size(V @ matrix - matrix @ V) > _ROUNDING * size(V) * norm:
                return None
    exactly, start = [exact_value(V) for _, V in heads], _symmetric(cov)
    terms = [V @ exact_scores(head) for V, (head, _) in zip(exactly, heads, strict=True)]
    bend = sum((term + term.T for term in terms), np.zeros_like(start))
    if any((V @ matrix != matrix @ V).any() for V in exactly for matrix in (start, bend)):
        return _nearly_commuting(B, factor)
    _, zeros, positive = exact.inertia(bend)
    whole = factor.shape[1] == len(S) and _definite(start) == 1
    if not positive:
        squares, vectors = np.linalg.eigh(-B)
        rows = np.sqrt(np.maximum(squares[zeros:, None], 0.0)) * vectors[:, zeros:].T
        return _projected(rows, factor, len(S) - zeros, whole, "closed form Theory 3")
    if not whole:
        return _nearly_commuting(B, factor)
    largest, resolved = _largest(B, factor), 1e-6 * float(size(B) * size(S))
    time = 1.0 / largest if largest > resolved else _blowup_time(start, start @ bend @ start)
    return _blows_up("closed form Theory 3: t* = 1 / lambda_max(L^T B L)", time, S)


def _largest(B: Array, factor: Array) -> float:
    """Return lambda_max(L^T B L)."""
    return float(np.linalg.eigvalsh(factor.T @ B @ factor)[-1])


def _nearly_commuting(B: Array, factor: Array) -> Known | None:
    """Do as `_commuting` where it holds only up to rounding: return an answer only if it is far from any other."""
    room = 1e-6 * float(size(factor) ** 2 * size(B))
    S, most = factor @ factor.T, _largest(B, factor)
    if most > room:
        return _blows_up("closed form Theory 3: t* = 1 / lambda_max(L^T B L)", 1.0 / most, S)
    return _vanishes("closed form Theory 3", S) if most < -room else None


def _blowup_time(S: Array, bent: Array) -> float:
    """Return the first t at which S - t S B S, matrices of fractions, is not positive definite.

    `bent` is S B S. The search bisects the logarithm of t.
    """

    def positive(power: float) -> bool:
        return _definite(S - Fraction(2.0**power) * bent) == 1

    low, high = -1000.0, 1000.0
    while high - low > 1e-15 * max(abs(low), abs(high), 1e-3):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if positive(middle) else (low, middle)
    return float(2.0**low)


def _growth(heads: Heads) -> int | None:
    """Return the sign of g in A V + V^T A = 2 g |A| for one Softmax head with A symmetric and definite; else None.

    With R = |A|^{1/2} S |A|^{1/2} and W = |A|^{1/2} V |A|^{-1/2}: W = g + skew, and R' = +-(W R^2 + R^2 W^T) turns R
    and changes its eigenvalues by r' = +-2 g r^2.
    """
    if len(heads) > 1 or not heads[0][0].is_product:
        return None
    A, V = heads[0][0].score.matrix, product(heads[0][1])
    trend = A @ V + (A @ V).T
    if size(A - A.T) > _ROUNDING * size(A) or A[0, 0] == 0.0:
        return None
    if size(trend - trend[0, 0] / A[0, 0] * A) > _ROUNDING * size(A) * size(V):
        return None
    A, V = exact_scores(heads[0][0]), exact_value(heads[0][1])
    sign = _definite(A)
    trend = A @ V + (A @ V).T
    if not sign or (trend * A[0, 0] != A * trend[0, 0]).any():
        return None
    return int(np.sign(trend[0, 0]))


def _turning(heads: Heads, factor: Array) -> Known | None:
    """Return the answer where the eigenvalues r of R obey r' = 2 g r^2 with g not zero, see `_growth`; else None.

    All of them blow up (g > 0), or all vanish like 1 / t (g < 0).
    """
    sign, S = _growth(heads), factor @ factor.T
    if not sign:
        return None
    if sign < 0:
        return _vanishes("closed form: r' = -2 g r^2 for the eigenvalues r of |A| S", S)
    A = heads[0][0].score.matrix
    scores = exact_scores(heads[0][0])
    g = abs(float((scores @ exact_value(heads[0][1]))[0, 0] / scores[0, 0]))
    A = A * np.sign(A[0, 0])
    return _blows_up("closed form: r' = 2 g r^2 for the eigenvalues r of |A| S", 0.5 / (g * _largest(A, factor)), S)


def _blows_up(reason: str, time: float, S: Array) -> Known:
    return Known(Verdict(Outcome.BLOWS_UP, reason, exponent=-1.0, blowup_time=float(time)), np.full_like(S, np.nan), -1)


def _vanishes(reason: str, S: Array) -> Known:
    return Known(Verdict(Outcome.CONVERGES, reason, exponent=-1.0, approach="explicit"), np.zeros_like(S), 0, 0.0)


def _projected(Q: Array, factor: Array, rank: int, whole: bool, reason: str) -> Known | None:
    """Return the limit N (N^T S0^{-1} N)^{-1} N^T, N a basis of ker Q, without the inverse; None in doubt.

    It is L P L^T, P the projection to the kernel of Q L. `rank` is that of Q, `whole` says whether S0 is of full rank.
    If it is not, there is no answer where a singular value of Q on the range of S0 is in doubt.
    """
    (d, r), most = factor.shape, size(Q)
    nullity = d - rank
    if not whole:
        seen = np.linalg.svd(Q @ np.linalg.qr(factor)[0], compute_uv=False)
        if np.any((seen > 1e-13 * most) & (seen < 1e-9 * most)):
            return None
        nullity = r - int(np.sum(seen > 1e-13 * most))
    s, vectors = np.linalg.svd(np.concatenate([Q @ factor, np.zeros((r, r))]))[1:]
    N = np.linalg.svd(Q)[2][rank:].T
    kept = N @ (N.T @ factor @ vectors[r - nullity :].T)
    gap = float(s[r - nullity - 1] / s[0]) if 0 < nullity < r else 1.0
    error = 1e-15 * r * float(size(factor) ** 2) / max(gap, 1e-300)
    verdict = Verdict(Outcome.CONVERGES, reason, exponent=-1.0, approach="explicit")
    return Known(verdict, kept @ kept.T, nullity, error)
