"""The field of a Gaussian measure: affine, Gamma(x) = M x + c, for averages by e^{x.A.y - y.D.y} and linear weights.

mu = N(mean, S), S = L L^T with a factor L (..., d, r) of any rank: no formula inverts A or S. Leading axes are systems.
Source: Theory 2, 2.1, 2.3; Castin et al. 2025.
"""

from __future__ import annotations

import numpy as np

from .. import weights
from .._types import Array
from ..errors import NoGaussianClosure
from .score import Score
from .small_matrices import times, transposed

Affine = tuple[Array, Array]  # M (..., d, d), c (..., d)


def narrowed(factor: Array, D: Array) -> Array:
    """Return (S^{-1} + D)^{-1} = L (I + L^T D L)^{-1} L^T, the covariance of N(., S) e^{-y.D.y / 2}, D = D^T >= 0."""
    inner = np.eye(factor.shape[-1]) + transposed(factor) @ D @ factor
    inner = np.where(np.isfinite(inner), inner, np.nan)  # the inverse of an overflow would pass for zero
    right = transposed(factor) + np.zeros((*inner.shape[:-2], 1, 1))
    try:
        return factor @ np.linalg.solve(inner, right)
    except np.linalg.LinAlgError:  # of laws so large that the identity is lost by rounding: nan, for these alone
        singular = np.linalg.matrix_rank(np.nan_to_num(inner)) < inner.shape[-1]
        return factor @ np.linalg.solve(np.where(singular[..., None, None], np.nan, inner), right)


def tilted(A: Array, D: Array | None, V: Array, mean: Array, factor: Array) -> Affine:
    """Return M = V P A, c = V (I + 2 S D)^{-1} mean, P = (S^{-1} + 2 D)^{-1}; (I + 2 S D)^{-1} = I - 2 P D."""
    if D is None:
        return V @ factor @ transposed(factor) @ A, times(V, mean)
    P = narrowed(factor, 2.0 * D)
    return V @ P @ A, times(V, mean - 2.0 * times(P @ D, mean))


# -- of a head --------------------------------------------------------------------------------------------------------


def is_linear(score: Score) -> bool:
    """Return whether the field depends on mu by its second moments alone: w(s) = s = <A x, y>."""
    return isinstance(score.weight, weights.Linear) and not (score.normalised or score.distance or score.bias.any())


def closure(score: Score, mean: Array, factor: Array, name: str) -> Affine:
    """Return (M, c) of a head.

    Raises NoGaussianClosure where its field is not affine, with the `name` of the attention.
    """
    if score.positional:
        raise NoGaussianClosure(f"{name} attention depends on positions: the law of all tokens does not say its field.")
    if score.shifts:
        return tilted(score.linear, score.curvature, score.V, mean, factor)
    if is_linear(score):
        M = second_moment_map(score, factor @ transposed(factor) + mean[..., :, None] * mean[..., None, :])
        return M, np.zeros(M.shape[:-1])
    known = "" if score.distance else " Its velocity is known: gaussian_velocity."
    exponential = weights.is_exponential(score.weight) and not score.distance
    raise NoGaussianClosure(
        f"{name} attention is not affine for a Gaussian law: the law stops being Gaussian at once (Theory 2.3).{known}"
        + (" Softmax attention, its normalised form, has a closure." if exponential else "")
    )


def second_moment_map(score: Score, second: Array) -> Array:
    """Return V M2 A, the matrix of a linear head for second moments M2 (..., d, d)."""
    return score.V @ second @ score.matrix


def is_affine(score: Score) -> bool:
    """Return whether `closure` is asked: it has the field if that is affine, and says so if there is no formula."""
    return score.shifts or score.distance or score.positional or is_linear(score)


def field(score: Score, x: Array, mean: Array, factor: Array) -> Array:
    """Return Gamma(x) of a head whose field is not affine, at points x (..., m, d).

    With z ~ N(<A x, mean> + bias, <A x, S A x>) it is V (mean E w(z) + S A x E w'(z)), over E w(z) if normalised.
    """
    Ax = x @ transposed(score.matrix)
    seen = Ax @ factor
    centre = times(Ax, mean) + (score.bias[:, None] if score.bias.ndim else score.bias)
    common, value, slope = score.weight.expected(centre, np.sqrt(np.sum(seen * seen, axis=-1)))
    inner = mean[..., None, :] * value[..., None] + (seen @ transposed(factor)) * slope[..., None]
    if score.normalised:
        return inner @ transposed(score.V) / value[..., None]
    return inner @ transposed(score.V) * common[..., None]
