"""The mean-field limit of masked attention, against a product integration of the tests' own and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

import fastpde as fp
from fastpde import laws
from fastpde.mean_field_flow.agreement import by_agreement
from fastpde.mean_field_flow.node_field import NodeField
from fastpde.mean_field_flow.node_sets import by_rule
from fastpde.mean_field_flow.position_rule import PositionRule
from fastpde.mean_field_flow.setting import Setting

from .. import naive
from ..outside.positions import Rotary

A, V = [[1.3]], [[0.7]]
POINTS, PLACES = np.array([[-0.7], [0.1], [0.4], [1.2]]), np.array([0.0, 0.2, 0.55, 1.0])
KINDS = ("Softmax", "L2", "Sigmoid", "Exponential", "Linear")


def drifting(s):
    """Uniform on an interval whose centre and length depend on the position."""
    return laws.Ball(1, 0.6 + 0.2 * np.sin(2.0 * s), 0.5 * np.cos(3.0 * s))


def head_of(kind):
    return getattr(fp, kind)(A, [[1.0]], V)


def integrals(s, nodes):
    """int_0^s l_b for Lagrange's polynomials of the nodes, by a Gauss rule that is exact for them, (len(s), P)."""
    x, w = np.polynomial.legendre.leggauss(len(nodes))
    r = np.outer(s, (x + 1) / 2).astype(naive.WIDE)  # (len(s), P)
    basis = [
        np.prod([(r - other) / (node - other) for other in nodes if other != node], axis=0)
        for node in nodes.astype(naive.WIDE)
    ]
    return np.stack([s * (one @ (w / 2)) for one in basis], axis=1)


class Reference:
    """Legendre nodes of positions times those of space, moved in extended precision by the classical fourth order."""

    def __init__(self, kind, nodes):
        self.kind, self.p = kind, nodes
        z, v = np.polynomial.legendre.leggauss(nodes)
        self.s = (z + 1) / 2
        self.x = np.concatenate([drifting(s).mean + drifting(s).radius * z for s in self.s])
        self.w = v / 2

    def velocity(self, x, at, places):
        P = len(self.s)
        kernel, top = naive.kernel(self.kind, naive.scores(self.kind, at[:, None], x[:, None], A, [[1.0]]))
        kernel = kernel.reshape(len(at), P, self.p)
        B = integrals(np.maximum(places, 1e-12), self.s)  # the ratio has a limit at 0
        Z = np.einsum("ab,abi,i->a", B, kernel, self.w)
        G = np.einsum("ab,abi,i,bi->a", B, kernel, self.w, x.reshape(P, self.p)) * V[0][0]
        return G / Z if self.kind in naive.NORMALISED else G * np.exp(top[:, 0])

    def push(self, points, places, end, steps=40):
        y, h, q = np.concatenate([self.x, points]).astype(naive.WIDE), end / steps, len(self.x)
        both = np.concatenate([np.repeat(self.s, self.p), places])

        def rate(y):
            return self.velocity(y[:q], y, both)

        for _ in range(steps):
            a = rate(y)
            b = rate(y + h / 2 * a)
            c = rate(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + rate(y + h * c))
        return y[q:].astype(float)


def check_against_reference(kind, end, nodes, steps):
    """With `nodes` positions and as many nodes in each for the flow, half as many more for the velocity at first."""
    limit, exact = fp.MeanField(fp.Masked(head_of(kind)), drifting, (0.0, end)), Reference(kind, 3 * nodes // 2)
    at_first = exact.velocity(exact.x, POINTS[:, 0], PLACES).astype(float)
    np.testing.assert_allclose(limit.velocity(0.0, POINTS, PLACES)[:, 0], at_first, atol=1e-10)
    moved = limit.push(end, POINTS, PLACES)[:, 0]
    np.testing.assert_allclose(moved, Reference(kind, nodes).push(POINTS[:, 0], PLACES, end, steps), atol=1e-8)
    assert limit.error[-1] <= 1e-8


@pytest.mark.parametrize("kind", ["Softmax", "Exponential"])
def test_masked_limits_follow_a_reference_of_another_make(kind):
    """Steps of 1/80 have errors of 1e-9 for these fields, whose time scale is 1."""
    check_against_reference(kind, 0.25, 20, 20)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_masked_limits_follow_a_reference_with_more_nodes(kind):
    check_against_reference(kind, 0.5, 32, 50)


def test_averages_over_positions_are_spectral_and_have_their_limit_at_the_start():
    def g(s):
        return np.exp(np.sin(5.0 * s))

    errors, s = [], np.array([1e-9, 0.03, 0.4, 1.0])
    want = [quad(lambda u: g(one * u), 0.0, 1.0)[0] for one in s]  # noqa: B023
    for count in (4, 8, 16, 32):
        rule = PositionRule(count)
        averages, ends = rule.average(s), np.array([0.0, 1.0])
        np.testing.assert_allclose([averages.sum(axis=1), rule.interpolation(s).sum(axis=1)], 1.0, atol=1e-12)
        np.testing.assert_allclose(rule.average(ends)[0], rule.interpolation(ends)[0], atol=1e-12)
        np.testing.assert_allclose(rule.average(ends)[1], rule.weights, atol=1e-13)
        errors.append(np.abs(averages @ g(rule.s) - want).max())
    assert errors[1] < 0.1 * errors[0] and errors[2] < 2e-2 * errors[1] and errors[3] < 1e-6 * errors[2]
    rule = PositionRule(6)
    for power in range(6):  # exact for polynomials of degree 5
        np.testing.assert_allclose(rule.average(s) @ rule.s**power, s**power / (power + 1), atol=1e-13)


@pytest.mark.parametrize("kind", ["Softmax", "Sigmoid"])
def test_velocities_are_spectral_in_position(kind):
    """From 4 to 8 to 16 nodes, the error falls by more and more: 1/m would be 2, 1/m^4 16."""
    attention, exact = fp.Masked(head_of(kind)), Reference(kind, 24)
    want = exact.velocity(exact.x, POINTS[:, 0], PLACES).astype(float)
    setting = Setting(attention, drifting, False, np.array([0.0, 1.0]), 6000, False)
    errors = []
    for m in (4, 8, 16):
        nodes = by_rule(setting, m)
        found = NodeField(attention, nodes).velocity(0.0, nodes.x, POINTS[None], PLACES)[0, :, 0]
        errors.append(np.abs(found - want).max())
    assert errors[0] < 0.1 and errors[1] < 0.03 * errors[0] and errors[2] < 1e-3 * errors[1]


def test_linear_masked_attention_follows_its_closed_form():
    """U = int_0^s E x^2 obeys U' = v a U^2, so that E x^2 = m0 / (1 - v a m0 s t)^2, if all positions begin alike."""
    attention, law = fp.Masked(fp.Linear([[1.0]], [[1.0]], [[1.0]])), laws.Box(-1.0, 1.0)
    limit, m0 = fp.MeanField(attention, law, (0.0, 1.5)), 1.0 / 3.0
    for t, s in ((0.0, 0.3), (0.7, 0.0), (0.7, 0.5), (1.5, 1.0)):
        stretch = 1.0 / (1.0 - m0 * s * t)  # x' = U x
        np.testing.assert_allclose(limit.cov(t, s), m0 * stretch**2, rtol=1e-8)
        np.testing.assert_allclose(limit.push(t, POINTS, s), POINTS * stretch, rtol=1e-8)
        np.testing.assert_allclose(limit.velocity(t, POINTS, s), POINTS * m0 * s * stretch, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(limit.density(t, POINTS[:3], s), 0.5 / stretch, rtol=1e-8)
        assert abs(limit.radius(t, s=s) - stretch) < 1e-8 * stretch
    with pytest.raises(fp.InputError, match=r"t_span: got the end 4; need an end of at most \S+, .* to t = 3 only"):
        fp.MeanField(attention, law, (0.0, 4.0), tol=1e-5, most_nodes=200)  # 1 / m0


def test_equal_laws_stay_equal_under_masked_averages():
    """One position is enough then, and it is the limit without a mask."""
    head, law = fp.Softmax([[1.0, 0.3], [-0.2, 0.8]], np.eye(2), [[0.6, -0.5], [0.4, 0.7]]), laws.Ball(2)
    masked, plain = (fp.MeanField(field, law, (0.0, 0.3)) for field in (fp.Masked(head), head))
    assert len(masked.weights) == len(plain.weights)
    x, s = law.sample(5, 0), np.linspace(0.0, 1.0, 5)
    for t in (0.0, 0.2, 0.3):
        np.testing.assert_allclose(masked.velocity(t, x, s), plain.velocity(t, x), atol=1e-12)
        np.testing.assert_allclose(masked.push(t, x, s), plain.push(t, x), atol=1e-11)
        np.testing.assert_allclose(masked.cov(t, 0.7), plain.cov(t), atol=1e-11)
        np.testing.assert_allclose(masked.points(t, 0.7)[0], plain.points(t)[0], atol=1e-11)
    np.testing.assert_allclose(masked.log_density(0.3, x, s), plain.log_density(0.3, x), atol=1e-10)
    same = fp.MeanField(fp.Masked(head), lambda s: law, (0.0, 0.1), tol=1e-5)  # a function: with nodes of positions
    np.testing.assert_allclose(same.velocity(0.1, x, s), plain.velocity(0.1, x), atol=1e-5)


def test_heads_add_up_masked_or_not():
    heads = [fp.Masked(fp.Softmax(A, [[1.0]], V)), fp.Sigmoid(A, [[0.5]], V), fp.Masked(fp.Exponential(A, [[0.3]], V))]
    W = np.array([[[0.5]], [[-1.0]], [[0.8]]])
    limit = fp.MeanField(fp.MultiHead(heads, W), drifting, (0.0, 0.1), tol=1e-6)
    total, only = 0.0, [[[1.0]], [[0.0]]]  # a head alone, beside one that makes positions matter and counts nothing
    for h, W_h in enumerate(W):
        pair = fp.MultiHead([heads[h], heads[0]], W_h * only)
        total = total + fp.MeanField(pair, drifting, (0.0, 0.1), tol=1e-6).velocity(0.0, POINTS, PLACES)
    np.testing.assert_allclose(limit.velocity(0.0, POINTS, PLACES), total, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_scores_may_depend_on_positions(masked):
    """Against sums over nodes in 40 positions; a token at the end sees all, masked or not."""
    head = Rotary(np.eye(2), [[1.0, 0.3], [-0.2, 0.8]], 0.5 * np.eye(2))
    limit = fp.MeanField(fp.Masked(head) if masked else head, laws.Ball(2), (0.0, 0.1), tol=1e-4)
    x, w = np.polynomial.legendre.leggauss(40)
    nodes, weights = laws.Ball(2).nodes(12)
    at, places = laws.Ball(2).sample(3, 0), np.ones(3) if masked else np.array([0.0, 0.4, 1.0])
    want = head.velocity(
        np.tile(nodes, (40, 1)), at=at, weights=np.outer(w / 2, weights).ravel(),
        positions=np.repeat((x + 1) / 2, len(nodes)), at_positions=places,
    )  # fmt: skip
    np.testing.assert_allclose(limit.velocity(0.0, at, places), want, atol=1e-6)
    if masked:  # the first token sees its own position alone
        alone = head.velocity(nodes, at=at, weights=weights, positions=np.zeros(len(nodes)), at_positions=np.zeros(3))
        np.testing.assert_allclose(limit.velocity(0.0, at, 0.0), alone, atol=1e-6)


@pytest.mark.parametrize("kind", ["Softmax", "Sigmoid"])
def test_densities_moments_and_points_agree_with_the_flow_map(kind):
    """d = 1: the density is that of the start over the slope of the flow map, by differences of fourth order."""
    limit, s, h = fp.MeanField(fp.Masked(head_of(kind)), drifting, (0.0, 0.4), tol=1e-7), 0.35, 1e-2
    x0 = drifting(s).mean + np.array([[-0.3], [0.2]])
    a, b, c, e = (limit.push(0.4, x0 + k * h, s) for k in (-2, -1, 1, 2))
    slope = ((a - 8 * b + 8 * c - e) / (12 * h))[:, 0]
    want = drifting(s).density(x0) / slope
    np.testing.assert_allclose(limit.density(0.4, limit.push(0.4, x0, s), s), want, rtol=1e-6)
    x, w = limit.points(0.4, s)  # nodes of the law at s, where mean and covariance are interpolated
    np.testing.assert_allclose(limit.mean(0.4, s), w @ x, atol=1e-7)
    np.testing.assert_allclose(limit.cov(0.4, s), (w[:, None] * (x - w @ x)).T @ (x - w @ x), atol=1e-7)
    rate = (limit.push(0.21, x0, s) - limit.push(0.19, x0, s)) / 0.02  # an error of 1e-4 times the third derivative
    np.testing.assert_allclose(limit.velocity(0.2, limit.push(0.2, x0, s), s), rate, atol=1e-4)


@pytest.mark.parametrize("kind", ["Softmax", "Exponential"])
def test_tokens_of_the_engine_come_near(kind):
    """n position midpoints times Gauss nodes of space, whose sums include their own position: an error of order 1/n."""
    attention, end, far = fp.Masked(head_of(kind)), 0.3, []
    limit = fp.MeanField(attention, drifting, (0.0, end), tol=1e-7)
    for n in (20, 40, 80):
        s = (np.arange(n) + 0.5) / n
        x, w = zip(*(drifting(one).nodes(8) for one in s), strict=True)
        x0, places = np.concatenate(x), np.repeat(s, 8)
        sol = fp.solve(attention, x0, (0.0, end), weights=np.concatenate(w) / n, positions=places, rtol=1e-8)
        far.append(np.abs(sol.x[-1] - limit.push(end, x0, places)).max())
    assert far[0] < 0.1 and 1.6 < far[0] / far[1] < 2.6 and 1.6 < far[1] / far[2] < 2.6


def test_where_masked_nodes_hold_is_said():
    """Few nodes for scores that grow: the refusal names a time, and half of that is fine."""
    attention = fp.Masked(fp.Softmax([[3.0]], [[1.0]], [[1.0]]))
    with pytest.raises(
        fp.InputError, match=r"t_span: .*need an end of at most \S+, .*most_nodes to 441 and more"
    ) as told:
        fp.MeanField(attention, drifting, (0.0, 1.5), tol=1e-3, most_nodes=300)
    end = float(str(told.value).split("at most ")[1].split(",")[0])
    assert 0.0 < end < 1.5
    fp.MeanField(attention, drifting, (0.0, end / 2), tol=1e-3, most_nodes=300)


def test_positions_are_asked_for_where_they_matter():
    masked = fp.MeanField(fp.Masked(head_of("Softmax")), laws.Ball(1), (0.0, 0.1), tol=1e-4)
    plain = fp.MeanField(head_of("Softmax"), laws.Ball(1), (0.0, 0.1), tol=1e-4)
    for call, message in (
        (lambda: masked.velocity(0.0, POINTS), "s: got none; need a position from 0 to 1"),
        (lambda: masked.mean(0.0), "s: got none"),
        (lambda: masked.points(0.0), "s: got none"),
        (lambda: masked.push(0.1, POINTS, 1.5), "s: got 1.5; need positions from 0 to 1"),
        (lambda: masked.push(0.1, POINTS, [0.1, 0.2]), r"s: got shape \(2,\); need a number or shape \(4,\)"),
        (lambda: masked.cov(0.1, [0.1]), r"s: got shape \(1,\); need one position"),
        (lambda: plain.velocity(0.0, POINTS, 0.5), "s: got 0.5; need none.*fp.Masked"),
        (lambda: plain.mean(0.0, 0.5), "s: got 0.5; need none"),
        (lambda: fp.MeanField(fp.Masked(head_of("Softmax")), lambda: 1, (0, 1)), "law: "),
        (
            lambda: fp.MeanField(fp.Masked(head_of("Softmax")), lambda s: s, (0, 1)),
            r"law\(0.5\): got 0.5; need one law",
        ),
        (
            lambda: fp.MeanField(fp.Masked(head_of("Softmax")), lambda s: laws.Ball(1 if s > 0.4 else 2), (0, 1)),
            r"law\(0\): got Ball\(d=2.*; need a law in R\^1",
        ),
        (
            lambda: fp.MeanField(fp.Masked(head_of("Exponential")), lambda s: laws.Gaussian([0.0], [[1.0]]), (0, 1)),
            "law: .*bounded support",
        ),
    ):
        with pytest.raises((fp.InputError, fp.InputTypeError), match=message):
            call()
    assert "drifting(s), 81 nodes" in repr(fp.MeanField(fp.Masked(head_of("Softmax")), drifting, (0.0, 0.01), tol=1e-2))


def test_agreement_says_what_it_needs():
    setting = Setting(fp.Masked(head_of("Softmax")), drifting, False, np.array([0.0, 1.0]), 50, False)
    with pytest.raises(fp.InputError, match="most_nodes: got 50; need at least the 81 nodes of two rules"):
        by_agreement(setting, 1e-4)
