"""How disturbances of a limit of Gaussian laws grow: the eigenvalues of the flow S' = M S + S M^T, linearised there.

At S = U U^T (rank r) with U^T A U = 0 they follow from two matrices of size r x r, B2 = U^T A V U and B1 = U^T V^T A U.
At other limits they are those of the derivative on all symmetric matrices. Source: Theory 12.4.
"""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..attention.base import Attention, as_attention
from ..batches.affine import AffineHeads
from ..errors import InputError, InputTypeError, explained
from ..laws.gaussian import Gaussian
from .ends import family, linearised
from .units import size

_ISOTROPIC = 1e-5  # |U^T A U| / (|A| |S|) below which a limit is isotropic, as in `ends.family`
_ZERO = 1e-6  # eigenvalues, over |V| |A| |S|, that count as zero
_STATIONARY = 1e-4  # |S'| / (|V| |A| |S|^2) of what counts as stationary
_LARGEST = 300  # size of a matrix whose eigenvalues are computed: symmetric matrices up to d = 24


@explained
def growth_rates(attention: Attention, law: Gaussian) -> Array:
    """Return the rates (d (d + 1) / 2,), complex, at which disturbances of a stationary covariance grow.

    They are the eigenvalues of the flow of the covariance, linearised there on all symmetric matrices, descending in
    their real parts. Zero are those along a family of stationary points, and in directions that count to second order.

    Args:
        attention: with constant parameters.
        law: `fp.Gaussian`, one law, of mean 0 under linear attention; d at most 24 where scores within its range are
            not zero or there are several heads.

    Raises:
        InputError, InputTypeError: naming the argument; for a covariance that moves, |S'| > 1e-4 |V| |A| |S|^2.
        NoGaussianClosure: for an attention that does not keep Gaussians Gaussian.

    Source: Theory 12.4.
    """
    as_attention(attention)
    if not isinstance(law, Gaussian):
        raise InputTypeError("law", type(law).__name__, "a Gaussian law, as fp.Gaussian(mean, cov)")
    if law.mean.ndim != 1 or not (attention.mean_free or not law.mean.any()):
        raise InputError("law", repr(law), "one law, and of mean 0 where the mean moves the covariance")
    if not all(p.constant and p.systems(0.0) == 1 for p in attention.parameters()):
        raise InputError("attention", repr(attention), "parameters constant in time, of one system")
    M, heads = attention.affine(law.mean, law.cov)[0], attention._affine_heads()
    rate = M @ law.cov
    if heads is None:
        raise InputError("attention", repr(attention), "one whose closure has known derivatives")
    moves = float(size(rate + rate.T) / max(_unit(heads, law.cov) * float(size(law.cov)), np.finfo(float).tiny))
    if moves > _STATIONARY:
        raise InputError("law", f"a covariance with |S'| = {moves:.1e} |V| |A| |S|^2", "a stationary one, 1e-4 at most")
    rates = rates_at(heads, law.cov, int(law.factor.any(axis=0).sum()), moves * float(size(law.cov)))[0]
    if np.isnan(rates).any():
        raise InputError("law", f"d = {len(law.cov)}", "d of at most 24")
    return rates


def _unit(heads: AffineHeads, S: Array) -> float:
    """Return the size of rates at S, |V| |A| |S| of all heads."""
    return float(size(S) * np.sum(size(heads.A[0]) * size(heads.V[0])))


def rates_at(heads: AffineHeads, S: Array, rank: int, error: float) -> tuple[Array, bool | None]:
    """Return the rates (d (d + 1) / 2,) of disturbances of a limit, descending in their real parts, and their verdict.

    Args:
        heads: (1, heads, d, d), of one attention whose closure does not depend on the mean there.
        S: (d, d), the limit, of rank `rank`, up to `error` in the Frobenius norm.

    Returns:
        complex rates, nan where d is too large, and whether the limit attracts, see `GaussianLimit.attracting`.
    """
    d = len(S)
    count = d * (d + 1) // 2
    unit = _unit(heads, S)
    if not (rank and unit > 0.0 and np.isfinite(unit)):
        return np.zeros(count, complex), None
    values, vectors = np.linalg.eigh(S)
    U = vectors[:, d - rank :] * np.sqrt(values[d - rank :])
    seen = np.swapaxes(U, 0, 1) @ heads.A[0] @ U
    isotropic = bool(size(seen).max() <= _ISOTROPIC * size(heads.A[0]).max() * size(S))
    wrong = float(error / size(S))
    if isotropic and len(heads.kinds) == 1 and 2 * rank <= d and rank**2 <= _LARGEST:
        found, zero = of_isotropic(heads, U), unit * max(_ZERO, 10.0 * wrong)
        grows, neutral = bool((found.real > zero).any()), bool((found.real >= -zero).any())
        rates = np.concatenate([found, np.zeros(count - len(found))])
        return _sorted(rates), False if grows else None if neutral else True
    if count > _LARGEST:
        return np.full(count, complex(np.nan, np.nan)), None
    rates = _sorted(np.linalg.eigvals(linearised(heads, S, np.eye(d)).slope))
    zero = unit * max(_ZERO, 10.0 * wrong**0.5)  # of double eigenvalues
    if rates[0].real > zero:
        return rates, False
    sides = np.concatenate([heads.A[0] @ U, np.swapaxes(heads.A[0], 1, 2) @ U]).swapaxes(0, 1).reshape(d, -1)
    thin = d - np.linalg.matrix_rank(sides, tol=1e-6 * size(sides)) if isotropic else 0
    limits = family(heads, S, np.eye(d), rank, d - _rank(heads.A[0].reshape(-1, d)))
    room = None if limits is None else limits + thin * (thin + 1) // 2
    attracts = room is not None and room < count and int(np.sum(rates.real >= -zero)) <= room
    return rates, True if attracts else None


def of_isotropic(heads: AffineHeads, U: Array) -> Array:
    """Return the rates at S = U U^T, U^T A U = 0, of one head, but for those that are zero whatever A and V are.

    They are beta_i + beta_j (i <= j), each beta_i (d - 2 r times) and the eigenvalues of G -> G^T B1 + B2 G, beta those
    of B2. With scores that have the part -<y, D y> it is R B2 and B1 R instead, R = (I + 2 U^T D U)^{-1}.

    Args:
        heads: (1, 1, d, d), of one head.
        U: (d, r), 2 r <= d.
    """
    A, V, (d, r) = heads.A[0, 0], heads.V[0, 0], U.shape
    B2, B1 = U.T @ A @ V @ U, U.T @ V.T @ A @ U
    if heads.D is not None:
        R = np.linalg.inv(np.eye(r) + 2.0 * U.T @ heads.D[0, 0] @ U)
        B2, B1 = R @ B2, B1 @ R
    beta = np.linalg.eigvals(B2).astype(complex)
    first, second = np.triu_indices(r)
    units = np.eye(r * r).reshape(-1, r, r)
    images = np.swapaxes(units, 1, 2) @ B1 + B2 @ units
    turned = np.linalg.eigvals(images.reshape(r * r, r * r).T)
    return np.concatenate([beta[first] + beta[second], np.repeat(beta, d - 2 * r), turned])


def _sorted(rates: Array) -> Array:
    rates = rates.astype(complex)
    return rates[np.lexsort((rates.imag, -rates.real))]


def _rank(matrix: Array) -> int:
    return int(np.linalg.matrix_rank(matrix))
