"""The leading eigenvalues of the Jacobian of a cloud at rest, and what they say about clouds near it (Theory 12.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..errors import FieldError, InputError
from ..manifold import Euclidean
from ..meanfield import Field
from .cloud_jacobian import DENSE, CloudJacobian

# Real parts are told from zero above _ZERO |J| + _FLAT sqrt(residual): of x' = -x^2 with the residual x^2 it is 2 x.
_ZERO, _FLAT = 1e-7, 10.0
_REST = 1e-9  # velocities of a cloud at rest that was moved, relative to |J| and its size
_RIGID = 1e-5  # how far an eigenvector may be from a motion of the whole cloud, relative
_TURN = 0.5  # by which the cloud is moved to see whether it stays at rest


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues with the largest real parts (k,), the kind of the cloud that follows, and why it is undecided."""

    eigenvalues: Array
    kind: str
    reason: str


def spectrum(moving: Field, at: CloudJacobian, t: float, k: int, residual: float) -> Spectrum:
    """Return the k leading eigenvalues of a cloud whose velocities are at most `residual`, and its kind."""
    values, vectors, scale = _eigenvalues(at, k)
    if len(values) == 0:
        return Spectrum(values, "undecided", "The eigenvalues were not found.")
    some, zero = values[:k], _ZERO * scale + _FLAT * np.sqrt(residual)
    real, everything = values.real, len(values) == at.size
    if (real > zero).any():
        return Spectrum(some, "repelling" if everything and (real > zero).all() else "saddle", "")
    still = np.flatnonzero(real >= -zero)
    if not len(still):
        return Spectrum(some, "attracting", "")
    count = f"{len(still)} of the eigenvalues cannot be told from zero"
    if len(still) == len(values) and not everything:
        return Spectrum(some, "undecided", f"{count}, all that were computed: raise k.")
    slow = _REST * scale * max(1.0, float(np.abs(at.x).max())) + 100.0 * residual
    if all(_stays_at_rest(moving, at, t, vectors[:, i], slow) for i in still):
        return Spectrum(some, "attracting", f"{count}: the cloud can be turned or moved and stays at rest.")
    return Spectrum(some, "undecided", f"{count}, where the linear part alone decides nothing.")


def _eigenvalues(at: CloudJacobian, k: int) -> tuple[Array, Array, float]:
    """Return eigenvalues by falling real parts and eigenvectors in columns, all or about k, and the size of J.

    There are none where they were not found.
    """
    if at.size <= max(DENSE, k + 2):
        matrix = at.matrix()
        scale = float(np.linalg.norm(matrix, 2))
        values, vectors = np.linalg.eig(matrix)
    else:
        from scipy.sparse.linalg import ArpackError, eigs

        start = np.random.default_rng(0).standard_normal(at.size)
        scale = _size(at, start)
        if scale == 0.0:
            return np.zeros(k, complex), np.eye(at.size, k), scale
        # Shifted: an eigenvalue near zero would have to be found to more digits than there are.
        shift = 2.0 * scale
        moved = at.operator(lambda u: at.push(u) + shift * u)
        try:
            values, vectors = eigs(moved, k, which="LR", v0=start, ncv=min(at.size, 2 * k + 20), tol=1e-10)
        except ArpackError:
            return np.empty(0, complex), np.empty((at.size, 0)), scale
        values = values - shift
    order = np.argsort(-values.real, kind="stable")
    return values[order].astype(complex), vectors[:, order], scale


def _size(at: CloudJacobian, start: Array) -> float:
    """Return the size of J, from a few steps of power iteration with J* J."""
    u, size = start / np.linalg.norm(start), 0.0
    for _ in range(4):
        u = at.pull(at.push(u))
        size = float(np.linalg.norm(u))
        if size == 0.0:
            return 0.0
        u /= size
    return float(np.sqrt(size))


def _stays_at_rest(moving: Field, at: CloudJacobian, t: float, vector: Array, slow: float) -> bool:
    """Return whether an eigenvector belongs to a motion of the whole cloud that leaves it at rest, however far it goes.

    Motions are turns x -> e^G x, G skew; in all of R^d also shifts.
    """
    masses = at.masses
    for part in (vector.real, vector.imag):
        size = np.linalg.norm(part)
        if size <= _RIGID * np.linalg.norm(vector):
            continue
        delta = at.vectors(part / size)
        free = isinstance(moving.manifold, Euclidean)
        centre = masses @ at.x if free else np.zeros(at.x.shape[1])
        shift = masses @ delta if free else centre
        apart = at.x - centre
        G = _turn(apart, delta - shift, masses)
        if np.linalg.norm(at.coordinates(delta - shift - apart @ G.T)) > _RIGID:
            return False
        x = apart @ _turned(_TURN * G).T + centre + _TURN * shift
        moving.manifold.retract(x)
        try:
            there = CloudJacobian(moving, x, t)
        except (InputError, FieldError):
            return False
        if np.linalg.norm(there.velocity, axis=1).max() > slow:
            return False
    return True


def _turn(apart: Array, delta: Array, masses: Array) -> Array:
    """Return the skew G (d, d) with the smallest sum_i w_i |delta_i - G x_i|^2: G C + C G = B - B^T."""
    C, B = (apart.T * masses) @ apart, (delta.T * masses) @ apart
    values, U = np.linalg.eigh(C)
    right, sums = U.T @ (B - B.T) @ U, values[:, None] + values
    known = sums > 1e-12 * max(float(values[-1]), 1e-300)
    return U @ np.where(known, right / np.where(known, sums, 1.0), 0.0) @ U.T


def _turned(G: Array) -> Array:
    """Return e^G of a skew matrix."""
    values, U = np.linalg.eigh(1j * G)
    return np.asarray((U * np.exp(-1j * values)) @ U.conj().T).real
