"""Gaussian laws."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from .._types import Array, as_gaussian, as_numbers, covariance_eigen
from ..errors import InputError
from ..initial import BLOCK
from .law import Law
from .quadrature import hermite, tensor


class Gaussian(Law):
    """The law N(mean, cov) on R^d, or a batch of them, with covariances of any rank.

    Samples are mean + R z, where R is the symmetric root of cov and z has d independent N(0, 1) numbers. Nodes are
    those of a Gauss-Hermite rule along the eigenvectors, m for each that is not in the kernel: exact for polynomials of
    degree 2m - 1 in each of these coordinates. They are for one law: of a batch, take the laws one by one.

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

    @property
    def support_radius(self) -> float:
        """Infinity, or |mean| if the covariance is zero."""
        self._one()
        return math.inf if self.factor.any() else float(np.linalg.norm(self.mean))

    @property
    def variates(self) -> tuple[int, int]:
        """The pair (d, 0): a sample is made from d normal numbers."""
        self._one()
        return self.dimension, 0

    @cached_property
    def root(self) -> float | Array:
        """The symmetric root R (d, d) of the covariance, R R = cov, or r if R = r I."""
        self._one()
        size = float(self.cov[0, 0])
        if (self.cov == size * np.eye(self.dimension)).all():
            return math.sqrt(size)
        values, vectors = covariance_eigen("cov", self.cov)
        return np.asarray((vectors * np.sqrt(values)) @ vectors.T)

    def place(self, z: Array, u: Array) -> Array:
        """Return mean + R z for normals z (n, d)."""
        if isinstance(self.root, float):
            return np.asarray(self.mean + z * self.root)
        whole = np.zeros((-(-len(z) // BLOCK) * BLOCK, self.dimension))
        whole[: len(z)] = z  # how a matrix product rounds may depend on the number of rows
        return np.asarray((self.mean + whole @ self.root.T)[: len(z)])

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (m^r, d) and weights (m^r,) of the Gauss-Hermite rule, r the rank of the covariance.

        It is exact for polynomials of degree 2m - 1. Raises InputError, InputTypeError naming m.
        """
        self._one()
        columns = self.factor[:, np.any(self.factor != 0.0, axis=0)]
        if not columns.shape[1]:
            return self.mean[None].copy(), np.ones(1)
        z, w = tensor([hermite(m)] * columns.shape[1])
        return self.mean + z @ columns.T, w

    def quantile(self, u: Any) -> Array:
        """Return mean + sqrt(cov) z (m,), z the points below which N(0, 1) has mass u (m,), in dimension 1.

        Raises InputError, InputTypeError.
        """
        from scipy.special import ndtri

        self._one()
        return np.asarray(self.mean[0] + math.sqrt(self.cov[0, 0]) * ndtri(self._levels(u)))

    def log_density(self, x: Any) -> Array:
        """Return -(|L^{-1}(x - mean)|^2 + log det cov + d log 2 pi) / 2 (...) at points x (..., d).

        Raises InputError, InputTypeError: for points of another dimension, and singular covariances.
        """
        self._one()
        points, _ = self._checked(x)
        values, vectors = covariance_eigen("cov", self.cov)
        if values[0] == 0.0:
            raise self._singular()
        z = (points - self.mean) @ (vectors / np.sqrt(values))
        with np.errstate(over="ignore"):
            square = (z**2).sum(axis=-1)
        return np.asarray(-0.5 * (square + np.log(values).sum() + self.dimension * math.log(2 * math.pi)))

    def _one(self) -> None:
        """Raise InputError for a batch."""
        if self.mean.ndim > 1:
            raise InputError("law", repr(self), "one law, a mean of shape (d,)", "Take the laws of a batch one by one.")
