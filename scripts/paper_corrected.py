"""The paper's experiments with fastpde: paths, ends and limits of batches of Gaussian laws, and how each law ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fastpde as fp
from fastpde.plot import covariances

Array = np.ndarray[Any, Any]
# Starts are of order one and limits of lower rank are approached like 1 / t. Far beyond, stability and not
# accuracy limits the steps, and what should vanish stays at the size of the errors: 1e-7 for rtol = 1e-8, from t = 1e7.
LONG = 1e6
ACCURACY: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-14}


def paths(attention: fp.Attention, starts: Array, t_end: float, frames: int = 160) -> tuple[Array, list[str]]:
    """Return covariances (m, B, d, d) in time, nan after a law's end, and how each law ends."""
    times = np.concatenate([[0.0], np.geomspace(1e-2, t_end, frames)])
    solution = _solve(attention, starts, times)
    return solution.cov, outcomes(attention, solution)


def ends(attention: fp.Attention, starts: Array, t_end: float) -> tuple[Array, list[str]]:
    """Return covariances (2, B, d, d) at the start and at the last good time, and how each law ends."""
    solution = fp.solve(attention, fp.Gaussian(0.0, starts), (0.0, t_end), **ACCURACY)
    return solution.cov, outcomes(attention, solution)


def outcomes(attention: fp.Attention, solution: fp.GaussianSolution) -> list[str]:
    """Return how each law ends, from its last covariance (Theory 3, 11.4).

    A law is at rest if |S'| t < 0.1 |S|: however far S grew before, it has stopped. t (tr S)' / tr S is -1 where S
    vanishes like 1 / t, and far below for exponential decay. Growth is judged by tr S itself, by e^5 at least: where
    shapes rotate, the rate of growth changes its sign.
    """
    end = covariances.last(solution.cov)
    rate, change = (values * solution.t_final for values in rates(attention, end))
    folds = np.log(np.trace(end, axis1=1, axis2=2) / np.trace(solution.cov[0], axis1=1, axis2=2))
    moving = np.where(folds > 5.0, "grows", np.where(rate < 0.1, "converges", "undecided"))
    outcome = np.where(change < 0.1, "converges", moving)
    return np.where(np.isfinite(solution.blowup_time), "blows up", outcome).tolist()


def limits(attention: fp.Attention, starts: Array) -> tuple[Array, Array]:
    """Return the ranks (B,) of the limits of laws that converge, and these limits (B, d, d).

    Limits are extrapolated from S_inf + C / t. An eigenvalue vanishes in the limit if it falls like a power of t, here
    faster than t^(-1/2), over the last decade, and stays if it does not: no size is compared with a threshold (Theory
    4.2, 11.2).
    """
    solution = _solve(attention, starts, [LONG / 10, LONG], rtol=1e-10)
    if not solution.success:
        raise RuntimeError(solution.message)
    # Squared singular values of the factor keep the smallest eigenvalues, which those of L L^T would lose.
    values = np.linalg.svd(solution.factor, compute_uv=False) ** 2
    slopes = np.log10(values[1] / values[0])
    return np.sum(slopes > -0.5, axis=-1), (10 * solution.cov[1] - solution.cov[0]) / 9


def closed_form(Q: Array, starts: Array) -> Array:
    """Return S_inf = N (N^T S0^{-1} N)^{-1} N^T (B, d, d) for V = I, K = -Q, with N a basis of ker Q (Theory 4.2)."""
    N = np.linalg.svd(Q)[2][len(Q) :].T
    return N @ np.linalg.inv(N.T @ np.linalg.inv(starts) @ N) @ N.T


def distance(cov: Array, want: Array) -> float:
    """Return the largest |cov - want| / |want| of laws (B, d, d)."""
    return float(np.max(np.linalg.norm(cov - want, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))))


def rates(attention: fp.Attention, cov: Array) -> tuple[Array, Array]:
    """Return (tr S)' / tr S and |S'| / |S|, both (B,), at covariances (B, d, d)."""
    slopes = []
    for S in cov:
        M, _ = attention.affine(np.zeros(len(S)), S)
        half = M @ S / np.trace(S)
        slopes.append(half + half.T)
    trace = np.trace(slopes, axis1=1, axis2=2)
    size = np.linalg.norm(cov, axis=(1, 2)) / np.trace(cov, axis1=1, axis2=2)
    return trace, np.linalg.norm(slopes, axis=(1, 2)) / size


def _solve(
    attention: fp.Attention, starts: Array, times: Sequence[float] | Array, **other: float
) -> fp.GaussianSolution:
    return fp.solve(attention, fp.Gaussian(0.0, starts), (0.0, times[-1]), t_eval=times, **(ACCURACY | other))
