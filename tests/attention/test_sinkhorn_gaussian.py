"""Sinkhorn attention of Gaussian laws: the flow and the energy in closed form (Theory 2.1, 7)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from ..problems import gauss_hermite

EYE = np.eye(2)


def gaussian_flow(S, mean, A, V, eps, t, steps=400):
    """Mean and covariance at t: S' = (V C^T + C V^T)/eps, mean' = V mean/eps, C of Theory 2.1, by classical steps."""

    def rates(S, mean):
        value, vector = np.linalg.eigh(S)
        root = (vector * np.sqrt(value)) @ vector.T
        U, s, Wt = np.linalg.svd(root @ A.T @ root / eps)
        C = root @ (U * (2 * s / (1 + np.sqrt(1 + 4 * s * s)))) @ Wt @ root
        return (V @ C.T + C @ V.T) / eps, V @ mean / eps

    h = t / steps
    for _ in range(steps):
        a = rates(S, mean)
        b = rates(S + h / 2 * a[0], mean + h / 2 * a[1])
        c = rates(S + h / 2 * b[0], mean + h / 2 * b[1])
        e = rates(S + h * c[0], mean + h * c[1])
        S, mean = (y + h / 6 * (p + 2 * q + 2 * r + u) for y, p, q, r, u in zip((S, mean), a, b, c, e, strict=True))
    return S, mean


def nodes(d, order):
    """Weighted nodes (n, d) of a standard normal law."""
    one, w = gauss_hermite(order)
    grid = np.stack(np.meshgrid(*[one] * d, indexing="ij"), axis=-1).reshape(-1, d)
    weights = np.prod(np.meshgrid(*[w] * d, indexing="ij"), axis=0).ravel()
    keep = weights > 1e-18
    return grid[keep], weights[keep] / weights[keep].sum()


@pytest.mark.parametrize("eps", [0.7, 1.5])
@pytest.mark.parametrize("d, order", [(1, 40), (2, 24)])
def test_gaussians_stay_gaussian(d, order, eps):
    """1e-9: nodes below 1e-18 are left out, tol and the solver are below 1e-11, the reference has steps of 1e-3."""
    rng = np.random.default_rng(d)
    grid, w = nodes(d, order)
    root = np.diag(np.linspace(0.5, 0.7, d)) + 0.1
    Q, K, V = 0.6 * rng.normal(size=(3, d, d))
    mean0 = np.linspace(0.4, -0.3, d)
    attention = fp.Sinkhorn(Q, K, V, eps=eps, tol=1e-12)
    solution = fp.solve(attention, mean0 + grid @ root, (0.0, 0.4), weights=w, rtol=1e-10, atol=1e-12)
    x = solution.x[-1]
    S, mean = gaussian_flow(root @ root, mean0, K.T @ Q, V, eps, 0.4)
    got = w @ x
    np.testing.assert_allclose(got, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose((w * (x - got).T) @ (x - got), S, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("d, order", [(1, 40), (2, 24)])
def test_energy_of_a_gaussian(d, order, shift):
    """-<al, A al> - sum t r - (eps/2) sum log(1 - r^2), r from t/eps (Theory 7).

    The mean is not the plain mean of the nodes, about which the sums are taken.
    """
    rng = np.random.default_rng(d)
    grid, w = nodes(d, order)
    root = np.diag(np.linspace(0.5, 0.7, d)) + 0.1
    eps, mean = 0.8, shift + np.linspace(0.4, -0.3, d)
    for Q, K in ((rng.normal(size=(d, d)),) * 2, rng.normal(size=(2, d, d))):
        A = 0.5 * K.T @ Q
        t = np.linalg.svd(root @ A.T @ root)[1]
        r = 2 * t / eps / (1 + np.sqrt(1 + 4 * (t / eps) ** 2))
        want = -mean @ A @ mean - (t * r).sum() - eps / 2 * np.log(1 - r * r).sum()
        attention = fp.Sinkhorn(Q, K, np.eye(d), eps=eps, scale=0.5, tol=1e-11)
        got = fp.sinkhorn_energy(attention, mean + grid @ root, weights=w)
        assert isinstance(got, float)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * (1 + abs(want)))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_rate_of_the_energy(sign):
    """V = +-Q^T K symmetric: d/dt S/2 = -+eps int |Gamma|^2. 1e-6: the central difference, with steps of 1e-4."""
    Q, eps = np.array([[0.8, 0.2], [0.2, 0.6]]), 0.7
    x = np.random.default_rng(2).normal(size=(2, 40, 2))
    attention = fp.Sinkhorn(Q, EYE, sign * Q, eps=eps, tol=1e-12)
    v, h = attention.velocity(x), 1e-4
    slope = (fp.sinkhorn_energy(attention, x + h * v) - fp.sinkhorn_energy(attention, x - h * v)) / (4 * h)
    assert slope.shape == (2,)
    np.testing.assert_allclose(slope, -sign * eps * (v**2).sum(axis=2).mean(axis=1), rtol=1e-6)
