"""The Bures-Wasserstein distance: W_2 between Gaussian laws, of any rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array
from ..errors import InputError, explained
from .measures import Normal, as_cloud


@explained
def bures_wasserstein(g: Any, h: Any) -> float | Array:
    """Return W_2 of two Gaussian laws: W_2^2 = |m - n|^2 + tr S + tr T - 2 tr (S^{1/2} T S^{1/2})^{1/2}.

    The traces are never subtracted. With factors S = L L^T, T = M M^T it is |m - n|^2 + min_U |L - M U|_F^2 over
    orthogonal U, which is P R^T for the singular vectors of M^T L = P diag(s) R^T: equal laws get 0, and laws that
    differ by 1e-10 get it to six digits. No covariance is inverted.

    Args:
        g, h: `fp.Gaussian`, whose leading axes are systems and broadcast; or tokens (n, d), which stand for the
            Gaussian law with their mean and covariance. For tokens the result is a lower bound of their W_2, with
            equality for affine images (Gelbrich).

    Returns:
        A float, or an array of the shape of the leading axes.

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 7; Gelbrich (1990); Bhatia, Jain, Lim (2019).
    """
    (m, L), (n, M) = _moments("g", g), _moments("h", h)
    if m.shape[-1] != n.shape[-1]:
        raise InputError("h", f"dimension {n.shape[-1]}", f"dimension {m.shape[-1]}, as g")
    P, _, R = np.linalg.svd(np.swapaxes(M, -1, -2) @ L)
    apart = L - M @ (P @ R)
    # hypot of norms: squares of 1e200 would overflow.
    found = np.hypot(np.linalg.norm(m - n, axis=-1), np.linalg.norm(apart, axis=(-2, -1)))
    return float(found) if found.ndim == 0 else found


def _moments(name: str, law: Any) -> tuple[Array, Array]:
    """Return the mean (..., d) and a factor (..., d, d) of the covariance of a Gaussian law or of tokens (n, d)."""
    if isinstance(law, Normal):
        return law.mean, law.factor
    cloud = as_cloud(name, law)
    mean = cloud.x.mean(axis=0)
    # A QR decomposition of the tokens gives the factor: forming their covariance would square small numbers.
    triangle = np.asarray(np.linalg.qr((cloud.x - mean) / np.sqrt(len(cloud.x)), mode="r"))
    factor = np.zeros((len(mean), len(mean)))
    factor[:, : len(triangle)] = triangle.T
    return mean, factor
