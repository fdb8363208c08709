"""The Jacobian of the velocities of all tokens in their places, on their manifold and in the norm of W_2.

Vectors delta (n, d), tangent at the tokens, have coordinates u (N,): those of sqrt(w_i) delta_i in an orthonormal basis
of every tangent space. So |u|^2 = sum_i w_i |delta_i|^2, and the transposed matrix is the adjoint W^{-1} J^T W.

On a manifold the velocity is P Gamma, P the projection to the tangent space, and J the tangent part of its derivative,
P (D Gamma delta + DP[delta] Gamma); on the sphere that is P D Gamma delta - <x, Gamma> delta. Source: Theory 12.5.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Array, as_tokens
from ..attention.base import Attention
from ..attention.derivatives import backend_of, masses_of
from ..errors import InputError
from ..manifold import Euclidean, Manifold, as_manifold
from ..meanfield import Field, bind

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

DENSE = 128  # coordinates up to which the matrix is made
_TANGENT = 0.5  # eigenvalues of a projection are 0 and 1


def one_cloud(
    name: str,
    attention: Attention,
    x: Any,
    t: float,
    weights: Any,
    positions: Any,
    manifold: Manifold | None,
    backend: Any,
) -> tuple[Field, Array]:
    """Check one cloud x (n, d), whose argument is `name`; return its field and the cloud in float64, on the manifold.

    Raises InputError, InputTypeError.
    """
    tokens, place = as_tokens(name, x), as_manifold(manifold)
    if tokens.ndim != 2:
        raise InputError(name, f"shape {tokens.shape}", "one cloud (n, d)")
    wide = tokens.astype(np.float64, copy=False)
    moving = bind(attention, wide, weights=weights, positions=positions, backend=backend, manifold=place)
    backend_of(moving.backend)
    attention._check(moving.cloud.x, t, name, square="attention")
    place.check(tokens, name)
    start = wide.copy()
    place.retract(start)
    return moving, start


class CloudJacobian:
    """The velocities of a cloud x (n, d) at time t, and their Jacobian as a map of coordinates (N,).

    Attributes:
        x, velocity: (n, d), the tokens and their velocities, tangent.
        masses: (n,), of the tokens.
        size: N.

    Raises InputError, naming `name`, for tokens or velocities without a finite norm.
    """

    def __init__(self, moving: Field, x: Array, t: float, name: str = "x") -> None:
        self.x, self._manifold = x, moving.manifold
        self._backend = copy(moving.backend)  # with memory of its own: others of the same field stay as they are
        cloud = moving.cloud.with_(x=x[None], memory=None)
        with self._backend.evaluation(), np.errstate(over="ignore", invalid="ignore"):
            self._linear = moving.attention._linearised(cloud, t, self._backend)
        self._gamma = np.ascontiguousarray(self._linear.field[0])
        with np.errstate(over="ignore"):
            good = np.isfinite(np.square(self._gamma)).all() and np.isfinite(np.square(x)).all()
        if not good:
            raise InputError(name, "tokens that, or whose velocities, have no finite norm", "smaller tokens or scores")
        self.velocity = self._gamma.copy()
        self._manifold.project(x, self.velocity)
        self.masses = masses_of(cloud)[0]
        self._root = np.sqrt(self.masses)[:, None]
        self._basis = None if isinstance(self._manifold, Euclidean) else _tangent_basis(self._manifold, x)
        self.size = x.size if self._basis is None else self._basis[:, 0].size

    # -- coordinates --------------------------------------------------------------------------------------------------

    def coordinates(self, vectors: Array) -> Array:
        """Return the coordinates (N,) of the tangent parts of vectors (n, d)."""
        return self._flat(self._root * vectors)

    def vectors(self, u: Array) -> Array:
        """Return the tangent vectors (n, d) of coordinates (N,)."""
        return self._raised(u) / self._root

    def _flat(self, vectors: Array) -> Array:
        """Return the coordinates (n r,) of vectors (n, d) in the bases of the tangent spaces."""
        return (vectors if self._basis is None else np.einsum("nd,ndr->nr", vectors, self._basis)).ravel()

    def _raised(self, u: Array) -> Array:
        """Return the vectors (n, d) whose coordinates in the bases of the tangent spaces are u (n r,)."""
        rows = u.reshape(len(self.x), -1)
        return rows if self._basis is None else np.einsum("nr,ndr->nd", rows, self._basis)

    # -- the map ------------------------------------------------------------------------------------------------------

    def push(self, u: Array) -> Array:
        """Return J u."""
        delta = self.vectors(u)
        with self._backend.evaluation():
            change = self._linear.push(delta[None], delta[None])[0]
        return self.coordinates(change + self._bent(delta))

    def pull(self, u: Array) -> Array:
        """Return J* u."""
        c = np.ascontiguousarray(self._root * self._raised(u))
        with self._backend.evaluation():
            found = self._linear.pull(c[None]).x[0]
        return self._flat((found + self._bent(c)) / self._root)

    def _bent(self, delta: Array) -> Array:
        """Return the tangent part of DP[delta] Gamma: how projecting the velocity changes if tokens move by delta.

        It is a symmetric map of tangent vectors delta (n, d), so J and J* have the same.
        """
        return self._manifold.pull_projection(self.x, self._gamma, np.ascontiguousarray(delta))[0]

    def of_points(self) -> Array:
        """Return the Jacobian of the velocity in the point, for a fixed measure, on each tangent space (n, r, r)."""
        with self._backend.evaluation():
            found = self._linear.jacobian()[0]
        if self._basis is None:
            return found
        bent = [self._bent(self._basis[:, :, k]) for k in range(self._basis.shape[2])]
        moved = np.einsum("ncd,ndr->ncr", found, self._basis) + np.stack(bent, axis=2)
        return np.einsum("nds,ndr->nsr", self._basis, moved)

    def matrix(self) -> Array:
        """Return J (N, N)."""
        return np.stack([self.push(unit) for unit in np.eye(self.size)], axis=1)

    def operator(self, apply: Any) -> LinearOperator:
        """Return a map of coordinates as SciPy knows it."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator((self.size, self.size), matvec=lambda u: apply(np.ravel(u)), dtype=np.float64)


def _tangent_basis(manifold: Manifold, x: Array) -> Array:
    """Return an orthonormal basis of the tangent space at every token, (n, d, r), in columns."""
    n, d = x.shape
    units = np.repeat(np.eye(d)[None], n, axis=0)  # [i, k] is the unit vector k
    points = np.repeat(x[:, None], d, axis=1)
    manifold.project(points, units)
    values, vectors = np.linalg.eigh(0.5 * (units + units.swapaxes(1, 2)))
    r = int((values[0] > _TANGENT).sum())
    if not r or ((values > _TANGENT).sum(axis=1) != r).any():
        raise InputError("manifold", f"{manifold!r} in dimension {d}", "one with tangent spaces of one dimension >= 1")
    return np.ascontiguousarray(vectors[:, :, d - r :])
