"""Derivatives, events and laws that were once wrong or refused, each with what it showed."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from ..naive import velocity

EYE = np.eye(2)


def difference(f, h):
    """The derivative of f at 0, of fourth order."""
    return (8.0 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12.0 * h)


def test_tokens_that_no_point_sees():
    """Under a mask the weights of tokens behind all points overflowed in sums over these, and 0 inf is nan."""
    rng = np.random.default_rng(3)
    x, at, c = rng.standard_normal((5, 2)), rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    x[[1, 3, 4]] = 5.0 * at[1]  # points would attend to nothing else
    (Q, K, V), places = [EYE, EYE, rng.standard_normal((2, 2))], np.array([0, 2, 0, 1, 2])
    for scale in (1.0, 1e4):
        head = fp.Softmax(Q, K, V, scale=scale)
        found = fp.Masked(head).vjp(x, c, at=at, positions=places, at_positions=[0, 0])
        seen = head.vjp(x[[0, 2]], c, at=at)
        np.testing.assert_allclose(found.x[[0, 2]], seen.x, rtol=0, atol=1e-12 * np.abs(seen.x).max())
        assert not found.x[[1, 3, 4]].any() and not found.parameters["weights"][[1, 3, 4]].any()
    want = velocity("Softmax", x[[0, 2]], Q, K, V, at=at, scale=1e4)
    np.testing.assert_allclose(found.velocity, want.astype(float), rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_gradients_of_batches_with_noise_on_a_sphere(method):
    """Off by 1 %: states were kept of a run whose noise was not made tangent."""
    rng = np.random.default_rng(5)
    x, dx, c = rng.standard_normal((3, 2, 3, 3))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    dx -= (dx * x).sum(axis=2, keepdims=True) * x
    attention = fp.Softmax(*rng.standard_normal((3, 3, 3)))
    options = {"method": method, "step": 0.2, "noise": 0.3, "seed": 3, "manifold": fp.Sphere()}
    found = fp.gradient(lambda y: ((c * y).sum(), c), attention, x, (0.0, 0.6), **options)

    def loss(h):
        moved = (x + h * dx) / np.linalg.norm(x + h * dx, axis=2, keepdims=True)
        return (c * fp.solve(attention, moved, (0.0, 0.6), **options).x_final).sum()

    assert (found.x0 * dx).sum() == pytest.approx(difference(loss, 1e-3), abs=1e-9)


@pytest.mark.parametrize("seed", [2, 28])
def test_sinkhorn_attention_of_tokens_in_one_place(seed):
    """No derivative was found: a constant less its mean is rounding, which was taken for something to solve for.

    Whatever the kernel is, the field is V times the mean token.
    """
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(2, 6)), int(rng.integers(1, 3))
    x, w = np.tile(rng.standard_normal((1, d)), (n, 1)), rng.uniform(0.2, 1.0, n)
    (Q, K, V), dx, c = rng.standard_normal((3, d, d)), rng.standard_normal((n, d)), rng.standard_normal((n, d))
    w /= w.sum()
    attention = fp.Sinkhorn(Q, K, V, tol=1e-14)
    tangent = attention.jvp(x, dx, weights=w)[1]
    np.testing.assert_allclose(tangent, np.tile(V @ (w @ dx), (n, 1)), rtol=0, atol=1e-13)
    np.testing.assert_allclose(attention.vjp(x, c, weights=w).x, np.outer(w, c.sum(axis=0) @ V), rtol=0, atol=1e-13)


def test_steps_under_sinkhorn_attention_that_are_made_again_many_times():
    """Potentials grew by a common number with every start until they had no digits left: a FieldError."""
    rng = np.random.default_rng(4)
    (Q, K, V), (x, dx, c) = rng.standard_normal((3, 3, 3)) * 0.6, rng.standard_normal((3, 6, 3))
    attention = fp.Sinkhorn(Q, K, fp.Layers(np.array([V, 1.2 * V, -V]), 0.8), eps=0.9, tol=1e-12)
    options = {"method": "bosh3", "rtol": 1e-4, "atol": 1e-6}
    found = fp.gradient(lambda y: ((c * y).sum(), c), attention, x, (0.0, 0.8), memory=200, **options)
    tangents = fp.solve(attention, x, (0.0, 0.8), tangents=dx[None], **options).tangents_final[0]
    assert found.stats["kept"] == 2
    assert (found.x0 * dx).sum() == pytest.approx((c * tangents).sum(), abs=1e-11)


def test_a_scaling_that_misses_its_tol_on_the_way_back_says_so():
    """It was nan without a word."""
    attention = fp.Sinkhorn(EYE, EYE, -EYE, tol=1e-10)
    x = np.random.default_rng(0).standard_normal((5, 2))

    def loss(y):  # the run is over
        attention.max_iter = 3
        return 0.5 * (y**2).sum(), y

    with pytest.raises(fp.ConvergenceError, match="marginal error"):
        fp.gradient(loss, attention, x, (0.0, 0.4), method="rk4", step=0.1)


@pytest.mark.parametrize("case", ["alone", "batched", "fused"])
def test_a_velocity_that_overflows_where_an_event_ends_a_run(case):
    """e^{x^2} is out of range at the end of the step that leaves the radius: nan within the step was an InputError."""
    x = np.array([[-0.54425898], [-0.31630016], [0.41163054]])
    given = x if case == "alone" else np.tile(x, (2, 1, 1))
    options = {"method": "rk4", "step": 0.01, "backend": "auto" if case == "fused" else "direct"}
    attention = fp.Exponential([[1.0]], [[1.0]], [[2.0]])
    sol = fp.solve(attention, given, (0.0, 2.0), events=[fp.BlowUp(5.0)], **options)
    assert np.ravel([sol.status])[0] is fp.Status.BLOW_UP
    assert np.isfinite(sol.x_final).all() and np.abs(sol.x_final).max() > 5.0
    before = fp.solve(attention, x, (0.0, np.ravel(sol.t_final)[0] - 0.01), **options)
    assert before.success and np.abs(before.x_final).max() < 5.0


@pytest.mark.parametrize("d", [1, 3])
def test_jumps_of_radial_densities_are_refused_wherever_they_are(d):
    """In the middle of a cell two even rules agree, beside its end any two do: the covariance was off by 1e-3."""
    ends = 0.5 - 0.5 * np.cos(np.arange(257) * np.pi / 256)
    low, high = ends[60], ends[61]
    for share in (0.01, 0.3, 0.5, 0.55, 0.99):
        edge = low + share * (high - low)
        with pytest.raises(fp.InputError, match="smooth between the edges"):
            fp.laws.Radial(lambda r, edge=edge: 1.0 * (r < edge), d)
        law = fp.laws.Radial(lambda r, edge=edge: 1.0 * (r < edge), d, (0.0, edge, 1.0))
        assert law.cov[0, 0] == pytest.approx(edge**2 / (d + 2), rel=1e-13)


def test_laws_where_they_are_not():
    """The density of a ball was that of its inside from 1e154 on, where squares overflow; others warned."""
    laws = [fp.laws.Ball(2), fp.laws.Annulus(2, 0.5), fp.laws.Radial(lambda r: 1.0 + r, 2), fp.Gaussian(0.0, EYE)]
    for law in laws:
        assert not law.density([[1e160, 1e160], [1e300, 0.0]]).any()
    assert fp.laws.Sphere(1).quantile([0.5]) == -1.0 and fp.laws.Annulus(1, 0.5).quantile([0.5]) == -0.5


def test_a_law_of_weight_zero_needs_no_rule():
    flat = fp.laws.Ball(5)
    law = fp.laws.Mixture([flat, fp.Gaussian(np.zeros(5), np.eye(5))], [0.0, 1.0])
    x, w = law.nodes(2)
    assert len(w) == 32 and np.allclose((w * x.T) @ x, np.eye(5))


def test_the_density_of_a_gaussian_limit_that_has_become_thin():
    """The covariance has the condition 3e17: its density was refused as that of a point. A diagonal stays one."""
    limit = fp.MeanField(fp.L2(EYE, EYE, np.diag([1.0, -1.0])), fp.Gaussian(0.0, EYE), (0.0, 20.0), tol=1e-6)
    cov = np.diag(limit.cov(20.0))
    x = np.sqrt(cov) * [[0.0, 0.0], [1.0, -2.0]]
    want = -np.log(2.0 * np.pi) - 0.5 * np.log(cov).sum() - [0.0, 2.5]
    assert cov[0] / cov[1] > 1e15
    np.testing.assert_allclose(limit.log_density(20.0, x), want, rtol=1e-12)
