"""Energies whose Bures-Wasserstein gradient flow is that of a Gaussian law under attention (Theory 7)."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from .._types import Array
from ..attention import L2, Attention, MultiHead, Sinkhorn, Softmax
from ..attention.base import as_attention
from ..attention.small_matrices import transposed
from ..errors import InputError, InputTypeError, explained
from ..laws.gaussian import Gaussian

_NEED = (
    "V = A or V = -A with A = scale K^T Q symmetric, of fp.Softmax, fp.L2 with Q = K, fp.Sinkhorn, or of every head "
    "W_h V_h of an fp.MultiHead of fp.Softmax"
)


@explained
def bures_energy(attention: Attention, law: Gaussian, *, t: float = 0.0) -> float:
    """Return the energy F(N(m, S)) whose W_2 gradient is the field of the law: S' = M S + S M with M = +-2 grad_S F.

    With A = scale K^T Q symmetric and V = A or V = -A:
    Softmax: tr(A S A S) / 4, for heads their sum; L2, Q = K: tr(A S) / 2 - log det(I + 2 A S) / 4; both for m = 0.
    Sinkhorn: S_eps / (2 eps), S_eps the value of `fp.sinkhorn_energy` on the law, any m.

    Args:
        law: one Gaussian law.

    Raises:
        InputError, InputTypeError: naming the argument; where the flow is no such gradient flow.

    Source: Theory 7; Castin et al. 2025.
    """
    return _found(attention, law, t)[0]


@explained
def bures_dissipation(attention: Attention, law: Gaussian, *, t: float = 0.0) -> float:
    """Return dF/dt along the flow of the law, for F = `bures_energy`.

    It is int |Gamma|^2 dN(m, S), with the sign + where the flow ascends F and - where it descends. It ascends for V = A
    and descends for V = -A; under Sinkhorn attention it is the other way round.

    Raises: as `bures_energy`.

    Source: Theory 7.
    """
    sign = _found(attention, law, t)[1]
    M, c = attention.affine(law.mean, law.cov, t=t)
    return sign * float(np.sum((M @ law.factor) ** 2) + np.sum((M @ law.mean + c) ** 2))


def _found(attention: Attention, law: Gaussian, t: float) -> tuple[float, int]:
    """Check the arguments; return the energy, and 1 where the flow ascends it, -1 where it descends."""
    as_attention(attention)
    if not isinstance(law, Gaussian):
        raise InputTypeError("law", type(law).__name__, "an fp.Gaussian(mean, cov)")
    if law.mean.ndim != 1:
        raise InputError("law", f"{len(law.mean)} laws", "one law")
    attention._check_dimension(len(law.mean), t, "law")
    if not isinstance(attention, Sinkhorn) and law.mean.any():
        need = "mean 0: with another one the flow is no gradient flow, except under Sinkhorn attention"
        raise InputError("law", f"mean {law.mean}", need)
    return _energy(attention, law, t)


@singledispatch
def _energy(attention: Any, law: Gaussian, t: float) -> tuple[float, int]:
    raise InputError("attention", repr(attention), _NEED)


@_energy.register
def _softmax(attention: Softmax, law: Gaussian, t: float) -> tuple[float, int]:
    A, sign = _matrices(attention, t)
    return _quadratic(A, law), sign


@_energy.register
def _multihead(attention: MultiHead, law: Gaussian, t: float) -> tuple[float, int]:
    outputs = attention._outputs(t) or [np.eye(len(law.mean))] * len(attention.heads)
    if not all(isinstance(head, Softmax) for head in attention.heads):
        raise InputError("attention", repr(attention), _NEED)
    found = [_matrices(head, t, W) for head, W in zip(attention.heads, outputs, strict=True)]
    signs = {sign for _, sign in found}
    if len(signs) > 1:
        raise InputError("attention", "heads that ascend and heads that descend", _NEED, "Their signs must agree.")
    return sum(_quadratic(A, law) for A, _ in found), signs.pop()


@_energy.register
def _l2(attention: L2, law: Gaussian, t: float) -> tuple[float, int]:
    A, sign = _matrices(attention, t)
    if np.abs(attention.Q(t) - attention.K(t)).max() > _slack(attention.K(t)):
        raise InputError("attention", repr(attention), _NEED)
    # tr(A S) / 2 - log det(I + 2 A S) / 4 of the eigenvalues of 2 L^T A L: no digits are lost where S is small.
    values = 2.0 * np.linalg.eigvalsh(law.factor.T @ A @ law.factor)
    return float(values.sum() / 4.0 - np.log1p(values).sum() / 4.0), sign


@_energy.register
def _sinkhorn(attention: Sinkhorn, law: Gaussian, t: float) -> tuple[float, int]:
    if attention.n_half is not None:
        raise InputError("attention", f"n_half={attention.n_half}", "converged potentials", "Leave n_half out.")
    A, sign = _matrices(attention, t)
    return _sinkhorn_value(A, float(np.reshape(attention.eps(t), -1)[0]), law) / 2.0, -sign


def _sinkhorn_value(A: Array, eps: float, law: Gaussian) -> float:
    """Return S_eps / eps of a Gaussian law for the score <y, A x>, A (d, d).

    It is -<m, A m> / eps - sum t r - sum log(1 - r^2) / 2, t the singular values of L^T A L / eps and r = t (1 - r^2).
    """
    s = np.linalg.svd(law.factor.T @ A @ law.factor / eps, compute_uv=False)
    r = 2.0 * s / (1.0 + np.sqrt(1.0 + 4.0 * s * s))
    # 1 / (1 - r^2) = 1 + s r: no digits are lost where s is small.
    return float(-law.mean @ A @ law.mean / eps - (s * r).sum() + 0.5 * np.log1p(s * r).sum())


def _matrices(attention: Any, t: float, W: Array | None = None) -> tuple[Array, int]:
    """Return A = scale K^T Q (d, d) and the sign with which W V = +-A. Raises InputError."""
    A = attention._score_matrix(t)
    V = attention.V(t) if W is None else W @ attention.V(t)
    if A.ndim == 2 and V.shape == A.shape and np.abs(A - transposed(A)).max() <= _slack(A):
        for sign in (1, -1):
            if np.abs(V - sign * A).max() <= _slack(A):
                return A, sign
    raise InputError("attention", repr(attention), _NEED)


def _slack(A: Array) -> float:
    return 1e-12 * float(np.abs(A).max())


def _quadratic(A: Array, law: Gaussian) -> float:
    """Return tr(A S A S) / 4."""
    inner = law.factor.T @ A @ law.factor
    return float(np.sum(inner * inner)) / 4.0
