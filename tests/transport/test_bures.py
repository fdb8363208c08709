"""The Bures-Wasserstein distance against closed forms and extended precision."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

RNG = np.random.default_rng(4)


def random_covariance(d, rank):
    L = RNG.normal(size=(d, rank))
    return L @ L.T


def by_roots(m, S, n, T):
    """|m - n|^2 + tr S + tr T - 2 tr (S^{1/2} T S^{1/2})^{1/2}, as it is written."""
    values, vectors = np.linalg.eigh(S)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ T @ root), 0)).sum()
    return np.sqrt(((m - n) ** 2).sum() + np.trace(S) + np.trace(T) - 2 * cross)


@pytest.mark.parametrize(("d", "ranks"), [(1, (1, 1)), (3, (3, 3)), (4, (2, 3)), (5, (1, 5)), (4, (2, 2))])
def test_the_formula(d, ranks):
    (m, n), S, T = RNG.normal(size=(2, d)), random_covariance(d, ranks[0]), random_covariance(d, ranks[1])
    # 1e-7: the oracle takes roots of eigenvalues that are zero up to 1e-15.
    got = fp.bures_wasserstein(fp.Gaussian(m, S), fp.Gaussian(n, T))
    assert got == pytest.approx(by_roots(m, S, n, T), rel=1e-7)
    assert fp.bures_wasserstein(fp.Gaussian(n, T), fp.Gaussian(m, S)) == pytest.approx(got, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_covariances_that_commute(rank):
    """(sum (sqrt s - sqrt t)^2)^{1/2}, of singular ones too, to 1e-12: nothing is subtracted."""
    turn = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    s, t = np.zeros(4), RNG.uniform(0.1, 5, 4)
    s[:rank] = RNG.uniform(0.1, 5, rank)
    laws = [fp.Gaussian(np.zeros(4), (C + C.T) / 2) for C in ((turn * s) @ turn.T, (turn * t) @ turn.T)]
    want = np.linalg.norm(np.sqrt(s) - np.sqrt(t))
    assert fp.bures_wasserstein(*laws) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_laws_that_are_nearly_equal(rank):
    """T = (1 + h)^2 S: the distance is h (tr S)^{1/2}; subtracted traces would have an error of 1e-8."""
    S = random_covariance(3, rank)
    S = (S + S.T) / 2
    for h in (1e-4, 1e-7, 1e-10):
        laws = fp.Gaussian(np.zeros(3), S), fp.Gaussian(np.zeros(3), (1 + h) ** 2 * S)
        # The covariances are rounded to 1e-16, of a difference of h; where S is singular their roots to 1e-8 (sqrt).
        slack = 1e-14 if rank == 3 else 2e-8
        assert fp.bures_wasserstein(*laws) == pytest.approx(h * np.sqrt(np.trace(S)), abs=slack)
    law = fp.Gaussian(np.ones(3), S)
    assert fp.bures_wasserstein(law, law) < 1e-14


def test_batches_and_clouds():
    means, covs = RNG.normal(size=(4, 3)), np.stack([random_covariance(3, 3) for _ in range(4)])
    one = fp.Gaussian(np.zeros(3), np.eye(3))
    got = fp.bures_wasserstein(fp.Gaussian(means, covs), one)
    want = [fp.bures_wasserstein(fp.Gaussian(m, C), one) for m, C in zip(means, covs, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-12)  # products in another order
    x = RNG.normal(size=(200, 3)) @ RNG.normal(size=(3, 3))
    law = fp.Gaussian(x.mean(axis=0), np.cov(x.T, bias=True))
    assert fp.bures_wasserstein(x, one) == pytest.approx(fp.bures_wasserstein(law, one), rel=1e-12)
    # Gelbrich: a lower bound of W_2, equal for an increasing affine image; fewer tokens than dimensions.
    y = RNG.exponential(size=(200, 3))
    assert fp.bures_wasserstein(x, y) <= fp.wasserstein(x, y)
    image = x @ np.array([[2.0, 0.5, 0], [0.5, 1, 0], [0, 0, 0.5]]) + 1
    assert fp.bures_wasserstein(x, image) == pytest.approx(fp.wasserstein(x, image), rel=1e-10)
    assert fp.bures_wasserstein(x[:2], x[:2] + np.array([1.0, 0, 0])) == pytest.approx(1.0, rel=1e-12)


def test_dimensions_must_agree():
    with pytest.raises(fp.InputError, match="h: got dimension 2"):
        fp.bures_wasserstein(fp.Gaussian(np.zeros(3), np.eye(3)), np.zeros((4, 2)))
