"""Gaussian measures."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import as_gaussian, as_numbers


class Gaussian:
    """The law N(mean, cov) on R^d, or a batch of them, with covariances of any rank.

    Attributes:
        mean: (d,) or (..., d), float64.
        cov: (d, d) or (..., d, d), symmetric positive semidefinite.
        factor: L (..., d, d) with L L^T = cov and zero columns for the rank that is missing.
    """

    def __init__(self, mean: Any, cov: Any) -> None:
        """Make the law, or the batch of laws, of a mean and a covariance whose leading axes broadcast and are systems.

        Args:
            mean: a number for all entries, or (..., d).
            cov: (..., d, d).

        Raises InputError, InputTypeError: for shapes that do not fit and matrices that are no covariance.
        """
        cov = as_numbers("cov", cov)
        if np.ndim(mean) == 0 and cov.ndim:
            mean = np.full(cov.shape[-1], mean)
        self.mean, self.factor = as_gaussian(mean, cov)
        self.cov = np.broadcast_to(np.asarray(cov, dtype=np.float64), self.factor.shape).copy()
        for array in (self.mean, self.factor, self.cov):
            array.flags.writeable = False

    def __repr__(self) -> str:
        *lead, d = self.mean.shape
        return f"Gaussian(d={d}{f', systems={tuple(lead)}' if lead else ''})"
