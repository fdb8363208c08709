"""The scheme of the authors' scripts, vectorised over laws: explicit Euler on covariances, and a projection.

S += h S'; then every negative eigenvalue becomes 1e-14. A law has converged once |S'|_F < tol and diverged once
tr S > 1000; 50000 steps at most. Kept as it was published, with its faults (Theory 11). Source: Theory 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from paper_experiments import Case, Head

Array = np.ndarray[Any, Any]
FLOOR, LARGEST, STEPS = 1e-14, 1e3, 50_000


@dataclass(frozen=True)
class Published:
    """The result of the scheme for B laws."""

    cov: Array  # (m, B, d, d) at some steps, the last state after a law's end
    outcome: list[str]  # converges | grows | undecided

    @property
    def converged(self) -> Array:
        """The mask (B,) of the laws that ended by |S'| < tol."""
        return np.array(self.outcome) == "converges"


def slope(case: Case) -> Callable[[Array], Array]:
    """Return the function S -> S' = M S + S M^T on covariances (B, d, d)."""
    if case.sinkhorn is not None:
        A, V = case.sinkhorn
        return lambda S: _twice(V @ plan(A, S))
    if len(case.heads[0].A) == 2:
        maps = [_Motion2(head) for head in case.heads]
        return lambda S: _slope2(maps, S)
    return lambda S: _twice(np.sum([_motion(head, S) for head in case.heads], axis=0) @ S)


def euler(case: Case, starts: Array, tol: float, *, frames: int = 100) -> Published:
    """Run every law to its end by the authors' rules, and keep about `frames` states of each."""
    rate, cov, S = slope(case), starts.copy(), starts.copy()
    keep = {0, *np.unique(np.geomspace(1, STEPS, frames).astype(int)).tolist()}
    outcome = np.full(len(cov), "undecided", dtype="U10")
    alive, kept = np.arange(len(cov)), []
    for step in range(STEPS + 1):
        change = rate(S)
        ended = np.einsum("bij,bij->b", change, change) < tol * tol
        grown = np.einsum("bii->b", S) > LARGEST
        if step in keep or ended.any() or grown.any():
            cov[alive] = S
        if step in keep:
            kept.append(cov.copy())
        if ended.any() or grown.any():
            outcome[alive[grown]], outcome[alive[ended & ~grown]] = "grows", "converges"
            going = ~(ended | grown)
            alive, S, change = alive[going], S[going], change[going]
        if not len(alive):
            break
        S = project(S + case.step * change)
    kept.append(cov)
    return Published(np.stack(kept), outcome.tolist())


def project(S: Array) -> Array:
    """Replace the negative eigenvalues of (B, d, d) by 1e-14."""
    # A negative pivot of Gaussian elimination means a negative eigenvalue; only those laws pay for eigenvectors.
    rest, bad = S, np.zeros(len(S), dtype=bool)
    for _ in range(S.shape[1]):
        pivot = rest[:, 0, 0]
        bad |= ~(pivot > 0)
        safe = np.where(pivot > 0, pivot, 1.0)
        rest = rest[:, 1:, 1:] - rest[:, 1:, :1] * rest[:, :1, 1:] / safe[:, None, None]
    if bad.any():
        values, vectors = np.linalg.eigh(S[bad])
        values = np.where(values < 0, FLOOR, values)
        S = S.copy()
        S[bad] = (vectors * values[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return S


def published_ranks(cov: Array) -> Array:
    """Return the published rank of covariances (B, d, d): the number of eigenvalues above 0.1."""
    return np.sum(np.linalg.eigvalsh(cov) > 0.1, axis=-1)


def plan(A: Array, S: Array) -> Array:
    """Return C^T (B, 2, 2), the covariance of the Sinkhorn plan, by the authors' formula; A and S must be invertible.

    C^T = A^{-T} S^{-1} C_S S, C_S = (S^{1/2} (4 S^{1/2} A^T S A S^{1/2} + I)^{1/2} S^{-1/2} - I) / 2 (Theory 2.1).
    """
    half, eye = _root(S), np.eye(2)
    middle = _root(4 * half @ A.T @ S @ A @ half + eye)
    inner = (half @ middle @ _inverse(half) - eye) / 2
    return np.linalg.pinv(A).T @ _inverse(S) @ inner @ S


class _Motion2:
    """The function M = V P A of one head in the plane, as rows (4, B) from the rows S11, S12, S22 (3, B).

    For L2, D = 2 K^T K: P = (S + det(S) adj(D)) / (1 + tr(D S) + det(D) det(S)).
    """

    def __init__(self, head: Head) -> None:
        basis = np.array([[[1.0, 0], [0, 0]], [[0, 1.0], [1.0, 0]], [[0, 0], [0, 1.0]]])
        self.linear = (head.V @ basis @ head.A).reshape(3, 4).T.copy()
        self.D = None if head.K is None else 2 * head.K.T @ head.K
        if self.D is not None:
            self.shift = (head.V @ _adjugate(self.D[None])[0] @ head.A).reshape(4, 1)
            self.trace = np.einsum("bij,ji->b", basis, self.D)
            self.det = float(np.linalg.det(self.D))

    def __call__(self, s: Array) -> Array:
        M = self.linear @ s
        if self.D is None:
            return M
        det = s[0] * s[2] - s[1] * s[1]
        return (M + self.shift * det) / (1 + self.trace @ s + self.det * det)


def _slope2(maps: list[_Motion2], S: Array) -> Array:
    s = S.reshape(-1, 4).T[[0, 1, 3]]
    M = maps[0](s)
    for other in maps[1:]:
        M = M + other(s)
    out = np.empty_like(S)
    out[:, 0, 0] = 2 * (M[0] * s[0] + M[1] * s[1])
    out[:, 0, 1] = out[:, 1, 0] = M[0] * s[1] + M[1] * s[2] + M[2] * s[0] + M[3] * s[1]
    out[:, 1, 1] = 2 * (M[2] * s[1] + M[3] * s[2])
    return out


def _motion(head: Head, S: Array) -> Array:
    """Return M (B, d, d) of one head; P = S - 2 S K^T (I + 2 K S K^T)^{-1} K S for L2."""
    if head.K is None:
        return head.V @ (S @ head.A)
    K = head.K
    inner = np.eye(len(K)) + 2 * (K @ S @ K.T)
    return head.V @ ((S - 2 * (S @ K.T) @ _inverse(inner) @ (K @ S)) @ head.A)


def _twice(a: Array) -> Array:
    return a + np.swapaxes(a, 1, 2)


def _inverse(X: Array) -> Array:
    """Return the inverses of (B, 1, 1) or (B, 2, 2)."""
    if X.shape[1] == 1:
        return 1 / X
    det = X[:, 0, 0] * X[:, 1, 1] - X[:, 0, 1] * X[:, 1, 0]
    return _adjugate(X) / det[:, None, None]


def _adjugate(X: Array) -> Array:
    return np.stack([X[:, 1, 1], -X[:, 0, 1], -X[:, 1, 0], X[:, 0, 0]], axis=1).reshape(-1, 2, 2)


def _root(X: Array) -> Array:
    """Return the square roots of positive definite (B, 2, 2): (X + sqrt(det) I) / sqrt(tr + 2 sqrt(det))."""
    root = np.sqrt(np.maximum(X[:, 0, 0] * X[:, 1, 1] - X[:, 0, 1] * X[:, 1, 0], 0.0))
    return (X + root[:, None, None] * np.eye(2)) / np.sqrt(X[:, 0, 0] + X[:, 1, 1] + 2 * root)[:, None, None]
