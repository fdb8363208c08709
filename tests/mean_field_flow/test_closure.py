"""The mean-field limit where the law stays Gaussian: no nodes, any dimension."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import fastpde as fp
from fastpde import laws

RNG = np.random.default_rng(1)


def pieces(d):
    A, V, L = RNG.standard_normal((3, d, d)) / np.sqrt(d)
    return A, 0.5 * V, laws.Gaussian(RNG.standard_normal(d), 0.3 * L @ L.T + 0.1 * np.eye(d))


@pytest.mark.parametrize("kind", [fp.Softmax, fp.L2, fp.Sinkhorn, fp.Linear])
def test_points_move_in_the_field_of_the_law(kind):
    """In d = 5, against scipy's flow of mean, covariance and points by `gaussian_velocity` and `affine`."""
    d, end = 5, 0.3
    A, V, law = pieces(d)
    attention, x0 = kind(A, 0.5 * np.eye(d), V), law.sample(7, 0)
    limit = fp.MeanField(attention, law, (0.0, end))

    def rate(t, y):
        mean, cov, x = y[:d], y[d : d + d * d].reshape(d, d), y[d + d * d :].reshape(-1, d)
        M, c = attention.affine(mean, 0.5 * (cov + cov.T))
        return np.concatenate([M @ mean + c, (M @ cov + cov @ M.T).ravel(), (x @ M.T + c).ravel()])

    start = np.concatenate([law.mean, law.cov.ravel(), x0.ravel()])
    y = solve_ivp(rate, (0.0, end), start, "DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(limit.mean(end), y[:d], atol=1e-8)
    np.testing.assert_allclose(limit.cov(end), y[d : d + d * d].reshape(d, d), atol=1e-8)
    moved = y[d + d * d :].reshape(-1, d)
    np.testing.assert_allclose(limit.push(end, x0), moved, atol=1e-8)
    want = attention.gaussian_velocity(moved, limit.mean(end), limit.cov(end))
    np.testing.assert_allclose(limit.velocity(end, moved), want, atol=1e-9)
    np.testing.assert_allclose(
        limit.log_density(end, moved), laws.Gaussian(limit.mean(end), limit.cov(end)).log_density(moved), atol=1e-9
    )
    assert limit.error[-1] <= 1e-8 and limit.tol == 1e-8 and limit.points(end)[0].shape == (1024, d)


def test_nodes_and_the_closure_agree():
    A, V, law = pieces(2)
    attention, x0 = fp.MultiHead([fp.Softmax(A, np.eye(2), V), fp.L2(A.T, 0.5 * np.eye(2), V)]), law.sample(5, 0)
    exact, nodes = fp.MeanField(attention, law, (0.0, 0.3)), fp.MeanField(attention, laws.Mixture([law]), (0.0, 0.3))
    for t in (0.0, 0.17, 0.3):
        np.testing.assert_allclose(exact.push(t, x0), nodes.push(t, x0), atol=1e-8)
        np.testing.assert_allclose(exact.velocity(t, x0), nodes.velocity(t, x0), atol=1e-8)
        np.testing.assert_allclose(exact.cov(t), nodes.cov(t), atol=1e-8)
        np.testing.assert_allclose(exact.log_density(t, x0), nodes.log_density(t, x0), atol=1e-7)
        x, w = exact.points(t)
        np.testing.assert_allclose(w @ x, exact.mean(t), atol=1e-12)
        np.testing.assert_allclose((w[:, None] * (x - w @ x)).T @ (x - w @ x), exact.cov(t), atol=1e-12)


def test_masked_averages_of_one_gaussian_are_its_closure():
    A, V, law = pieces(3)
    head, x0 = fp.Softmax(A, np.eye(3), V), law.sample(4, 0)
    masked, plain = fp.MeanField(fp.Masked(head), law, (0.0, 0.2)), fp.MeanField(head, law, (0.0, 0.2))
    np.testing.assert_allclose(masked.push(0.2, x0, [0.0, 0.3, 0.7, 1.0]), plain.push(0.2, x0), atol=1e-12)
    with pytest.raises(fp.InputError, match="s: got none"):
        masked.push(0.2, x0)


def test_a_law_that_becomes_infinite_is_refused_with_the_time():
    """Under V = A = 1 the variance obeys S' = 2 S^2: infinite at 1 / (2 S_0) = 2."""
    attention, law = fp.Softmax([[1.0]], [[1.0]], [[1.0]]), laws.Gaussian([0.0], [[0.25]])
    with pytest.raises(
        fp.InputError, match=r"t_span: got the end 3; need an end of at most 1.\d+, .*infinite at t = 2\."
    ):
        fp.MeanField(attention, law, (0.0, 3.0))
    limit = fp.MeanField(attention, law, (0.0, 1.5))
    np.testing.assert_allclose(limit.cov(1.5), 0.25 / (1.0 - 0.5 * 1.5), rtol=1e-8)


def test_a_gaussian_without_a_closure_has_nodes():
    A, V, law = pieces(2)
    limit = fp.MeanField(fp.Sigmoid(A, np.eye(2), V), law, (0.0, 0.1), tol=1e-6)
    x = law.sample(5, 0)
    np.testing.assert_allclose(
        limit.velocity(0.0, x), limit.attention.gaussian_velocity(x, law.mean, law.cov), atol=1e-6
    )
