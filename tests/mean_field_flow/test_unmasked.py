"""The mean-field limit by quadrature nodes, against closed flows, Gaussian closures and a rule of the tests' own."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import fastpde as fp
from fastpde import laws
from fastpde.mean_field_flow import agreement

from .. import naive

I2 = np.eye(2)
A, V = np.array([[1.0, 0.3], [-0.2, 0.8]]), np.array([[0.6, -0.5], [0.4, 0.7]])
POINTS = np.array([[0.3, 0.1], [-0.5, 0.6], [0.0, -0.9]])


def linear_flow(start, times):
    """Second moments and flow maps of linear attention: M' = G M + M G^T, P' = G P with G = V M A."""

    def rate(t, y):
        M, P = y.reshape(2, 2, 2)
        G = V @ M @ A
        return np.stack([G @ M + M @ G.T, G @ P]).ravel()

    found = solve_ivp(rate, (0.0, times[-1]), np.stack([start, I2]).ravel(), "DOP853", times, rtol=1e-12, atol=1e-14)
    return found.y.T.reshape(-1, 2, 2, 2)


@pytest.mark.parametrize(
    "law",
    [laws.Ball(2), laws.Annulus(2, 0.5), laws.Sphere(2, 1.0, [0.2, 0.0]), laws.Box([-1.0, -0.5], [1.0, 0.7]),
     laws.Gaussian([0.1, 0.0], 0.3 * I2), laws.Mixture([laws.Ball(2, 0.5), laws.Gaussian(0.0, 0.2 * I2)]),
     laws.Product([laws.Box(-1.0, 1.0), laws.Sphere(1)]), laws.Radial(lambda r: np.exp(-r), 2)], ids=repr,
)  # fmt: skip
def test_linear_attention_moves_every_law_linearly(law):
    limit = fp.MeanField(fp.Linear(A, I2, V), law, (0.0, 0.8))
    times = np.array([0.0, 0.31, 0.8])  # the second one is between two frames
    moments = law.cov + np.outer(law.mean, law.mean)
    for t, (M, P) in zip(times, linear_flow(moments, times), strict=True):
        mean = limit.mean(t)
        np.testing.assert_allclose(mean, P @ law.mean, atol=1e-9)
        np.testing.assert_allclose(limit.cov(t) + np.outer(mean, mean), M, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(limit.push(t, POINTS), POINTS @ P.T, atol=1e-8)
        np.testing.assert_allclose(limit.velocity(t, POINTS), POINTS @ (V @ M @ A).T, atol=1e-8)
    if isinstance(law, laws.Ball):  # an ellipse; the square of half an angle between points is 6e-4
        largest = np.linalg.norm(P, 2)
        assert largest * (1 - 2e-3) < limit.radius(0.8) <= largest * (1 + 1e-8)


@pytest.mark.parametrize("kind", [fp.Softmax, fp.L2, fp.Sinkhorn])
def test_gaussian_laws_follow_their_closure(kind):
    law, span = laws.Gaussian([0.3, -0.1], [[0.4, 0.1], [0.1, 0.2]]), (0.0, 0.5)
    attention = kind(A, I2, V, tol=1e-12) if kind is fp.Sinkhorn else kind(A, I2, V)
    limit = fp.MeanField(attention, laws.Mixture([law]), span, tol=1e-7)  # no law that is known to have a closure
    exact = fp.solve(attention, law, span, t_eval=[0.0, 0.25, 0.5], rtol=1e-11, atol=1e-13)
    for t, mean, cov in zip(exact.t, exact.mean, exact.cov, strict=True):
        np.testing.assert_allclose(limit.mean(t), mean, atol=1e-9)
        np.testing.assert_allclose(limit.cov(t), cov, atol=1e-9)
        want = attention.gaussian_velocity(POINTS, mean, cov)
        np.testing.assert_allclose(limit.velocity(t, POINTS), want, atol=1e-9)


def test_densities_are_carried_along():
    """Linear attention: the density of the start at P^{-1} x over det P. Softmax: that of the Gaussian closure."""
    law = laws.Ball(2)
    limit = fp.MeanField(fp.Linear(A, I2, V), law, (0.0, 0.8))
    P = linear_flow(law.cov, np.array([0.0, 0.5]))[1, 1]
    x = np.concatenate([0.6 * POINTS, [[2.0, 2.0]]])
    want = law.density(x @ np.linalg.inv(P).T) / np.linalg.det(P)
    np.testing.assert_allclose(limit.density(0.5, x), want, rtol=1e-8)
    assert want[-1] == 0.0 and (limit.density(0.0, x) == law.density(x)).all()
    attention, start = fp.Softmax(A, I2, V), laws.Gaussian([0.3, -0.1], 0.2 * I2)
    limit = fp.MeanField(attention, laws.Mixture([start]), (0.0, 0.4), tol=1e-7)
    end = fp.solve(attention, start, (0.0, 0.4), rtol=1e-11, atol=1e-13)
    want = laws.Gaussian(end.mean[-1], end.cov[-1]).log_density(POINTS)
    np.testing.assert_allclose(limit.log_density(0.4, POINTS), want, atol=1e-9)


def interval_flow(kind, points, end, nodes=60, steps=60):
    """Points moved with the uniform law on [-1, 1]: Legendre nodes, extended precision, the classical fourth order.

    Nodes and steps are twice what 1e-10 needs for |A| = 2.
    """
    z, w = np.polynomial.legendre.leggauss(nodes)
    y, h = np.concatenate([z, points])[:, None], end / steps

    def rate(y):
        return naive.velocity(kind, y[:nodes], [[2.0]], [[1.0]], [[0.7]], at=y, weights=w / 2)

    for _ in range(steps):
        a = rate(y)
        b = rate(y + h / 2 * a)
        c = rate(y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + rate(y + h * c))
    return np.asarray(y[nodes:, 0], dtype=float)


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Sigmoid", "Exponential"])
def test_an_interval_follows_a_reference_of_another_make(kind):
    attention = getattr(fp, kind)([[2.0]], [[1.0]], [[0.7]])
    end = 0.2 if kind == "Exponential" else 0.4  # at 0.343 it blows up
    limit = fp.MeanField(attention, laws.Ball(1), (0.0, end))
    points = np.array([-1.0, -0.3, 0.5, 1.0])
    want = interval_flow(kind, points, end)
    np.testing.assert_allclose(limit.push(end, points[:, None])[:, 0], want, atol=1e-8)
    assert limit.error[-1] <= 1e-8 and abs(limit.radius(end) - np.abs(want).max()) < 1e-8


def test_heads_in_space_and_the_velocity_is_the_rate_of_the_flow():
    """Differences of fourth order over 1e-2, whose error is below 1e-8 for a flow on the time scale of 1."""
    A3, V3 = np.diag([1.0, 0.5, -0.5]), 0.5 * np.eye(3)
    heads = fp.MultiHead([fp.Softmax(A3, np.eye(3), V3), fp.Sigmoid(A3.T, np.eye(3), V3)])
    limit = fp.MeanField(heads, laws.Ball(3), (0.0, 0.2), tol=1e-6)
    x0, h, t = np.concatenate([POINTS, np.full((3, 1), 0.2)], axis=1), 1e-2, 0.1
    a, b, c, e = (limit.push(t + k * h, x0) for k in (-2, -1, 1, 2))
    rate = (a - 8 * b + 8 * c - e) / (12 * h)
    np.testing.assert_allclose(limit.velocity(t, limit.push(t, x0)), rate, atol=1e-7)
    nodes, weights = limit.points(t)
    start, _ = limit.points(0.0)
    np.testing.assert_allclose(limit.push(t, start[:50]), nodes[:50], atol=1e-7)
    assert abs(weights.sum() - 1.0) < 1e-14 and nodes.shape == (len(weights), 3)


def test_the_error_that_is_stated_holds():
    """Against three times as many nodes; the stated error is that of the coarser of two rules."""
    attention, law, tol = fp.Softmax(3 * A, I2, V), laws.Ball(2), 1e-6
    limit = fp.MeanField(attention, law, (0.0, 0.5), tol=tol)
    finer = fp.MeanField(attention, law, (0.0, 0.5), tol=1e-11)
    assert len(finer.weights) > 2 * len(limit.weights)
    off = np.abs(limit.push(0.5, POINTS) - finer.push(0.5, POINTS)).max()
    assert off < limit.error[-1] <= tol


def test_points_with_weights_move_as_tokens():
    x, w = laws.Ball(2).sample(40, 0), np.arange(1.0, 41.0) / 820.0
    attention = fp.Softmax(A, I2, V)
    limit = fp.MeanField(attention, laws.Empirical(x, w), (0.0, 1.0))
    sol = fp.solve(attention, x, (0.0, 1.0), weights=w, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(limit.points(1.0)[0], sol.x[-1], atol=1e-9)


def test_where_nodes_hold_is_said():
    # Sums of linear scores exist until 1 / (2 |V| |A| m0), m0 = E x_1^2 = 1/2: until 1/3.
    with pytest.raises(fp.InputError, match=r"t_span: got the end 1; need an end of at most 0.3125, .* to t = 0.3333"):
        fp.MeanField(fp.Linear(3 * I2, I2, I2), laws.Sphere(2), (0.0, 1.0))
    with pytest.raises(fp.InputError, match=r"t_span: .* an end of at most 0\.3[0-3]\d*, .* to t = 0.3333"):
        fp.MeanField(fp.Linear(3 * I2, I2, I2), laws.Sphere(2), (0.0, 1e7), tol=1e-4)  # before the first time kept
    # Clusters: the corners of a box draw it apart, and few nodes cannot follow the gaps.
    attention = fp.Softmax(8 * I2, I2, I2)
    with pytest.raises(
        fp.InputError, match=r"need an end of at most (\S+), .*clusters form: .* most_nodes to 1024 and more"
    ) as told:
        fp.MeanField(attention, laws.Box([-1.0, -0.5], [1.0, 0.5]), (0.0, 0.8), tol=1e-4, most_nodes=800)
    end = float(str(told.value).split("at most ")[1].split(",")[0])
    assert 0.0 < end < 0.8
    fp.MeanField(attention, laws.Box([-1.0, -0.5], [1.0, 0.5]), (0.0, end / 2), tol=1e-4, most_nodes=800)


def test_a_span_that_is_far_too_long_is_refused_soon(monkeypatch):
    """Nodes move as far as rules agree, and the finest that are allowed are looked at first; the time named holds."""
    steps, attention, law = [], fp.Softmax(I2, I2, I2), laws.Ball(2)
    monkeypatch.setattr(agreement, "_DEAR", 1e7)
    with pytest.raises(fp.InputError, match=r"at most \S+, up to .* 392 do not resolve the law at t = \S+: ") as told:
        fp.MeanField(attention, law, (0.0, 20.0), most_nodes=500, progress=lambda t, stats: steps.append(t))
    held, lost = map(float, re.search(r"at most (\S+), .* at t = (\S+): ", str(told.value)).groups())
    assert 1.0 < held < lost < 6.0 and max(steps) < 6.0
    assert fp.MeanField(attention, law, (0.0, held), most_nodes=500).error[-1] <= 1e-8
    # Between the first two of 33 times: closer ones are looked at.
    with pytest.raises(fp.InputError, match=r"need an end of at most \S+, ") as told:
        fp.MeanField(fp.Softmax([[4.0]], [[1.0]], [[1.0]]), laws.Ball(1), (0.0, 50.0), tol=1e-4, most_nodes=50)
    assert 0.1 < float(re.search(r"at most (\S+), ", str(told.value))[1]) < 50 / 32


@pytest.mark.parametrize(
    ("attention", "law", "end"),
    [
        (fp.Softmax(9 * I2, I2, -I2), laws.Ball(2), 1.0),  # which gathers: later is easier
        (fp.Softmax(6 * A, I2, V), laws.Box([-1.0, -0.5], [1.0, 0.7]), 0.25),  # which parts
        (fp.L2(3 * I2, 3 * I2, 0.3 * I2), laws.Annulus(2, 0.5), 0.5),
    ],
)
def test_what_can_be_followed_is_not_refused_by_a_look_ahead(attention, law, end, monkeypatch):
    want = fp.MeanField(attention, law, (0.0, end), tol=1e-6)
    assert len(want.weights) > 150  # there is something to look ahead to
    monkeypatch.setattr(agreement, "_DEAR", 0.0)
    seen = []
    monkeypatch.setattr(agreement, "_blind", lambda *asked: seen.append(blind(*asked)) or seen[-1])
    found = fp.MeanField(attention, law, (0.0, end), tol=1e-6, most_nodes=1000)
    assert seen == [""] and (found.points(end)[0] == want.points(end)[0]).all()


blind = agreement._blind


def test_what_cannot_be_followed_is_refused():
    good, law = fp.Softmax(I2, I2, I2), laws.Ball(2)
    for make, name in (
        (lambda: fp.MeanField(good, lambda s: law, (0, 1)), "law: got <function"),
        (lambda: fp.MeanField(fp.Exponential(I2, I2, I2), laws.Gaussian(0.0, I2), (0, 1)), "law: .* bounded support"),
        (lambda: fp.MeanField(good, laws.Ball(3), (0, 1)), "law: got dimension 3"),
        (lambda: fp.MeanField(good, law, (1, 0)), "t_span: .*an end after its start"),
        (lambda: fp.MeanField(good, law, (0, 1), tol=1e-14), "tol: "),
        (lambda: fp.MeanField(good, law, (0, 1), most_nodes=100), "most_nodes: .*the 162 nodes of two rules"),
        (lambda: fp.MeanField(good, I2, (0, 1)), "law: "),
        (lambda: fp.MeanField(good, laws.Ball, (0, 1)), "law: got the class Ball"),
    ):  # fmt: skip
        with pytest.raises(fp.InputError, match=f"^{name}"):
            make()
    with pytest.raises(fp.InputTypeError, match="field: "):
        fp.MeanField(fp.Softmax, law, (0, 1))
    with pytest.raises(fp.InputError, match=r"x0: got Ball.*Draw tokens.*or follow infinitely many"):
        fp.solve(good, law, (0.0, 1.0))
    limit = fp.MeanField(fp.Linear(A, I2, V), laws.Gaussian(0.0, 0.1 * I2), (0.0, 0.5))
    for t in (-0.1, 0.6):
        with pytest.raises(fp.InputError, match=r"t: got .*; need a time from 0 to 0.5"):
            limit.mean(t)
    with pytest.raises(fp.InputError, match=r"x0: got shape \(3, 3\)"):
        limit.push(0.1, np.zeros((3, 3)))
    with pytest.raises(fp.InputError, match=r"law: .*a known boundary"):
        limit.radius(0.1)
