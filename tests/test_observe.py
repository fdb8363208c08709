"""Diagnostics against NumPy and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde import observe
from fastpde.errors import InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200_000, 3)) @ RNG.normal(size=(3, 3)) + 5.0  # more than one block
W = RNG.random(len(X))
W /= W.sum()
# Sums of 2e5 terms of about 5 round to about 1e-16 * sqrt(2e5) each; 1e-12 leaves a factor of 20.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("weights", [None, W])
def test_moments(weights):
    w = np.full(len(X), 1 / len(X)) if weights is None else weights
    mean = np.average(X, axis=0, weights=w)
    np.testing.assert_allclose(observe.mean(X, weights), mean, **CLOSE)
    expected = np.cov(X.T, aweights=w, bias=True)
    np.testing.assert_allclose(observe.covariance(X, weights), expected, **CLOSE)


def test_float32_tokens_are_summed_in_float64():
    x = np.full((100_000, 1), 0.1, dtype=np.float32)
    # A float32 sum would be off by 1e-4; a float64 one by 1e-16 times a small factor.
    assert observe.mean(x)[0] == pytest.approx(float(np.float32(0.1)), rel=1e-13)


@pytest.mark.parametrize(
    ("values", "rank"),
    [([1, 1, 1], 3), ([2, 0, 0], 1), ([0, 0, 0], 0), ([1e300, 1e300, 1e300], 3), ([5, 5, 0], 2)],
)
def test_effective_rank_of_known_spectra(values, rank):
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    cov = turn @ np.diag(np.array(values, dtype=float)) @ turn.T
    # A zero eigenvalue comes out as e = 1e-16, which adds e log(1/e), about 1e-14.
    assert observe.effective_rank(cov) == pytest.approx(rank, abs=1e-12)
    assert observe.participation_ratio(cov) == pytest.approx(rank, abs=1e-12)


def test_participation_ratio_is_below_the_entropy_rank():
    cov = np.diag([3.0, 1.0])
    assert observe.participation_ratio(cov) == pytest.approx(16 / 10, rel=1e-15)  # one rounding or two
    assert observe.participation_ratio(cov) < observe.effective_rank(cov)


def test_radius_at_both_ends_of_the_range():
    assert observe.radius(np.array([[3.0, 4.0], [1.0, 0.0]])) == pytest.approx(5.0, rel=1e-15)  # one rounding
    assert observe.radius(np.array([[3e200, 4e200]])) == pytest.approx(5e200, rel=1e-15)
    assert observe.radius(np.zeros((3, 2))) == 0.0


@pytest.mark.parametrize("weights", [None, W[:50] / W[:50].sum()])
def test_mean_cosine_is_the_mean_over_pairs(weights):
    x = X[:50].copy()
    x[7] = 0.0
    w = np.full(50, 1 / 50) if weights is None else weights
    norm = np.linalg.norm(x, axis=1)
    u = x / np.where(norm > 0, norm, 1)[:, None]
    pairs = np.outer(w, w) * (1 - np.eye(50))
    expected = (pairs * (u @ u.T)).sum() / pairs.sum()
    assert observe.mean_cosine(x, weights) == pytest.approx(expected, rel=1e-12)  # 2500 terms, no cancellation


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match="x: got shape"):
        observe.mean(np.zeros(3))
    with pytest.raises(InputError, match="weights"):
        observe.covariance(X[:5], W[:4])
    with pytest.raises(InputError, match="single token"):
        observe.mean_cosine(X[:1])
