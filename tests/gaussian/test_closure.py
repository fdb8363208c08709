"""The affine field of a Gaussian law against particle velocities at weighted Gauss-Hermite nodes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

import fastpde as fp
from fastpde.attention.gaussian_field import narrowed

from ..naive import sigmoid
from .cases import attentions, law, matrices, nodes

# Nodes integrate e^{u.y} y against these laws to rounding; the largest error seen is 1e-14.
ROUNDING = 1e-12


def error(got, want):
    return np.abs(got - want).max() / np.abs(want).max()


@pytest.mark.parametrize("rank", [None, 1], ids=["full", "rank one"])
@pytest.mark.parametrize("name", attentions(1))
@pytest.mark.parametrize("d", [1, 2])
def test_affine_is_the_field_of_the_particles(d, name, rank):
    attention, (mean, cov) = attentions(d)[name], law(d, rank=rank)
    x, weights = nodes(mean, cov)
    at = np.random.default_rng(3).normal(size=(6, d)) * 0.5
    M, c = attention.affine(mean, cov)
    assert M.shape == (d, d) and c.shape == (d,)
    assert error(at @ M.T + c, attention.velocity(x, at=at, weights=weights)) < ROUNDING
    np.testing.assert_allclose(attention.gaussian_velocity(at, mean, cov), at @ M.T + c, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(
    "kind, options", [("Exponential", {}), ("Sigmoid", {"bias": 0.4}), ("Sigmoid", {"scale": 2.5})]
)
def test_velocity_where_the_field_is_not_affine(kind, options, d):
    attention = getattr(fp, kind)(*matrices(d), **options)
    mean, cov = law(d)
    x, weights = nodes(mean, cov, order=120)  # a sigmoid has poles: its quadrature converges slower
    at = np.random.default_rng(3).normal(size=(6, d)) * 0.5
    got = attention.gaussian_velocity(at, mean, cov)
    assert error(got, attention.velocity(x, at=at, weights=weights)) < ROUNDING
    with pytest.raises(fp.NoGaussianClosure, match="gaussian_velocity"):
        attention.affine(mean, cov)
    heads = fp.MultiHead([attention, attention])
    np.testing.assert_allclose(heads.gaussian_velocity(at, mean, cov), 2 * got, rtol=1e-14)


@pytest.mark.parametrize("spread", [0.0, 1e-3, 3.0, 40.0])
@pytest.mark.parametrize("centre", [0.0, -2.5, 30.0])
def test_sigmoid_velocity_for_scores_of_any_size(centre, spread):
    """In one dimension with x = q = k = v = 1 the score is the token: z ~ N(centre, spread^2)."""
    got = fp.Sigmoid([[1.0]], [[1.0]], [[1.0]]).gaussian_velocity([[1.0]], [centre], [[spread**2]])[0, 0]

    def integrand(u):
        y = centre + spread * u
        return y * sigmoid(np.array(y)) * np.exp(-u * u / 2) / np.sqrt(2 * np.pi)

    kink = min(max(-centre / spread, -9), 9) if spread else 0.0
    want = quad(integrand, -10, 10, points=[kink], epsabs=1e-14, epsrel=1e-13, limit=400)[0]
    assert abs(got - want) <= 1e-12 * max(1.0, abs(want), spread)


def test_no_inverse_of_the_covariance():
    """A point mass moves like one token, whatever the variant."""
    mean = np.array([0.3, -0.8])
    for name, attention in attentions(2).items():
        M, c = attention.affine(mean, np.zeros((2, 2)))
        np.testing.assert_allclose(M @ mean + c, attention.velocity(mean[None])[0], rtol=1e-13, err_msg=name)


def test_leading_axes_are_systems():
    """Laws (3, 2), parameters shared or (2,) per system: each is as if alone."""
    Q, K, V = matrices(3)
    laws = [[law(3, seed=10 * i + j) for j in range(2)] for i in range(3)]
    mean, cov = (np.array([[one[part] for one in row] for row in laws]) for part in (0, 1))
    several = fp.L2(np.stack([Q, 2 * Q]), K, V, scale=[0.5, 0.7])
    for attention, single in (
        (fp.L2(Q, K, V), [fp.L2(Q, K, V)] * 2),
        (several, [fp.L2(Q, K, V, scale=0.5), fp.L2(2 * Q, K, V, scale=0.7)]),
        (fp.MultiHead([several] * 2), [fp.L2(Q, K, 2 * V, scale=0.5), fp.L2(2 * Q, K, 2 * V, scale=0.7)]),
    ):
        M, c = attention.affine(mean, cov)
        assert M.shape == (3, 2, 3, 3) and c.shape == (3, 2, 3)
        for i in range(3):
            for j in range(2):
                alone = single[j].affine(*laws[i][j])
                np.testing.assert_allclose(M[i, j], alone[0], rtol=1e-12)
                np.testing.assert_allclose(c[i, j], alone[1], rtol=1e-12)


@pytest.mark.parametrize("name", ["Softmax", "L2"])
def test_masked_with_equal_gaussians_at_all_positions(name):
    """theta (x) N(mean, cov): the field at every position is the unmasked one (Theory 2.2)."""
    attention, (mean, cov) = attentions(1)[name], law(1)
    x, weights = nodes(mean, cov)
    places = np.repeat([0.0, 0.3, 1.0], len(x))
    share = np.repeat([0.2, 0.5, 0.3], len(x)) * np.tile(weights, 3)
    at, at_positions = np.tile(np.array([[-0.4], [0.7]]), (3, 1)), np.repeat([0.0, 0.3, 1.0], 2)
    masked = fp.Masked(attention)
    got = masked.velocity(np.tile(x, (3, 1)), weights=share, positions=places, at=at, at_positions=at_positions)
    M, c = masked.affine(mean, cov)
    assert error(at @ M.T + c, got) < ROUNDING


def test_refusals_say_why():
    Q, K, V = matrices(2)
    mean, cov = law(2)
    for attention, reason in (
        (fp.Sigmoid(Q, K, V), "not affine"),
        (fp.Exponential(Q, K, V), "not affine"),
        (fp.MultiHead([fp.Softmax(Q, K, V), fp.Sigmoid(Q, K, V)]), "not affine"),
        (fp.Masked(fp.Linear(Q, K, V)), "Gaussian per position"),
    ):
        with pytest.raises(fp.NoGaussianClosure, match=reason):
            attention.affine(mean, cov)
    with pytest.raises(fp.NoGaussianClosure):
        fp.Masked(fp.Sigmoid(Q, K, V)).gaussian_velocity([[0.0, 0.0]], mean, cov)


@pytest.mark.parametrize(
    "mean, cov, name",
    [
        ([0.0, 0.0], [[1.0, 0.5], [0.4, 1.0]], "cov"),
        ([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]], "cov"),
        ([0.0, 0.0], [[1.0, np.nan], [0.0, 1.0]], "cov"),
        ([0.0, 0.0], [1.0, 1.0], "cov"),
        ([0.0, 0.0, 0.0], np.eye(2), "mean"),
        (["a", "b"], np.eye(2), "mean"),
        (np.zeros((3, 2)), np.zeros((4, 2, 2)), "mean"),
        ([0.0, 0.0, 0.0], np.eye(3), "mean"),
    ],
)
def test_wrong_laws_are_named(mean, cov, name):
    with pytest.raises((ValueError, TypeError), match=f"^{name}") as caught:
        fp.Softmax(*[np.eye(2)] * 3).affine(mean, cov)
    assert caught.value.name.startswith(name)


def test_a_law_whose_inverse_is_lost_by_rounding_harms_no_other():
    """I + L^T D L is singular in floats for the second law: nan there, and no exception for the batch."""
    factors, D = np.stack([np.eye(2), 1e12 * np.eye(2)]), np.ones((2, 2))
    found = narrowed(factors, D)
    np.testing.assert_allclose(found[0], np.array([[2.0, -1.0], [-1.0, 2.0]]) / 3.0, rtol=1e-14)
    assert np.isnan(found[1]).all()
