"""The compiled velocity of a Gaussian law against the formulas in NumPy, and the small dense algebra below it."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from fastpde.attention import gaussian_field as formulas
from fastpde.attention import gaussian_maps as maps
from fastpde.kernels import closure as kernel
from fastpde.kernels import small


@numba.njit
def eigen(matrix, vectors):
    """Replace `matrix` and `vectors` by what the part of the kernels finds."""
    small.eigen(matrix, vectors)


@numba.njit
def orthogonal(matrix, turn):
    """Replace `matrix` and `turn` by what the part of the kernels finds."""
    small.orthogonal(matrix, turn)


@numba.njit
def _velocity(form, y, work, out):
    kernel.velocity(form, 0, y, work, out)


def velocity(kind, count, A, D, V, y):
    heads = [matrix[None, None] for matrix in (A, D, V)]
    form = kernel.Closure(np.array([kind]), np.array([count]), *heads)
    sizes = kernel.shapes(len(A), y.shape[1] - 1)
    work = kernel.Workspace(**{name: np.full(shape, np.nan) for name, shape in sizes.items()})
    out = np.full_like(y, np.nan)
    _velocity(form, y, work, out)
    return out


@pytest.mark.parametrize("name", ["plain", "curved", "linear", "plan", "1 half", "3 half"])
@pytest.mark.parametrize("d, r", [(1, 1), (2, 2), (4, 3), (5, 5)])
def test_velocity(d, r, name):
    """To rounding: a few hundred operations of size one."""
    rng = np.random.default_rng([d, r])
    A, V, root = rng.normal(size=(3, d, d)) * 0.5
    D, mean, L = root.T @ root, rng.normal(size=d), rng.normal(size=(d, r))
    y = np.concatenate([mean[:, None], L], axis=1)
    if name in ("plain", "curved"):
        kind, count = kernel.TILT, int(name == "curved")
        M, c = formulas.tilted(A, D if count else None, V, mean, L)
    elif name == "linear":
        kind, count, M, c = kernel.LINEAR, 0, V @ (L @ L.T + np.outer(mean, mean)) @ A, np.zeros(d)
    elif name == "plan":
        N = maps.Planned(A, mean, L).N
        kind, count, M, c = kernel.PLAN, 0, V @ N, V @ (mean - N @ mean)
    else:
        kind, count = kernel.STEPS, int(name[0])
        law = maps.Stepped(A, count, mean, L)
        M, c = V @ law.N, V @ law.b
    want = M @ y
    want[:, 0] += c
    np.testing.assert_allclose(velocity(kind, count, A, D, V, y), want, rtol=0, atol=1e-13 * (1 + np.abs(want).max()))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 12])
def test_eigen(n):
    root = np.random.default_rng(n).normal(size=(n, max(1, n - 1)))
    matrix = root @ root.T
    left, vectors = matrix.copy(), np.empty((n, n))
    eigen(left, vectors)
    np.testing.assert_allclose(np.sort(np.diag(left)), np.linalg.eigvalsh(matrix), atol=1e-13 * n)
    np.testing.assert_allclose((vectors * np.diag(left)) @ vectors.T, matrix, atol=1e-13 * n)


@pytest.mark.parametrize("m, n", [(1, 1), (3, 3), (5, 2), (6, 6)])
def test_orthogonal(m, n):
    """Columns that differ by many decades: their norms are the singular values, to the last digits of each."""
    rng = np.random.default_rng([m, n])
    left, right = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (m, n))
    sizes = 10.0 ** -np.arange(n)
    matrix = (left[:, :n] * sizes) @ right
    found, turn = matrix.copy(), np.empty((n, n))
    orthogonal(found, turn)
    np.testing.assert_allclose(np.sort(np.linalg.norm(found, axis=0))[::-1], sizes, rtol=1e-9)
    np.testing.assert_allclose(turn.T @ turn, np.eye(n), atol=1e-14 * n)
    np.testing.assert_allclose(matrix @ turn, found, atol=1e-14 * n)
