"""O(n) sums of sigmoid weights: their parts by themselves, and their error against sums over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev

import fastpde as fp
from fastpde import sums
from fastpde.sums import sigmoid_nodes
from fastpde.sums.cell_nodes import Cells
from fastpde.sums.pair_sum import PairSum
from fastpde.sums.sigmoid_nodes import order_for
from fastpde.weights import Sigmoid, slope_of

from ..naive import wide
from .test_fast import clouds, take

TOLS = (1e-4, 1e-6, 1e-8)


@pytest.fixture
def always(monkeypatch):
    """Cells are used however few the tokens: a direct sum would be exact."""
    monkeypatch.setattr(sigmoid_nodes, "_OVERHEAD", -1e9)
    monkeypatch.setattr(sigmoid_nodes, "_MOST_NODES", 1e6)


def sigma(u):
    return 1 / (1 + np.exp(-np.clip(u, -700, None)))


def slope(u):
    return sigma(u) * sigma(-u)


def error(attention, x, backend, rows=slice(None, None, 19), weights=None):
    """The largest error of a velocity, relative to the largest |value| times the mean weight of a pair."""
    got = attention.velocity(x, backend=backend, weights=weights)
    assert got.dtype == x.dtype and np.isfinite(got).all()
    y, w = wide(x), np.full(len(x), 1 / len(x)) if weights is None else weights
    p = sigma(y[rows] @ wide(attention._score_matrix(0.0)).T @ y.T + wide(attention.bias(0.0))) * wide(w)
    values = y @ wide(attention.V(0.0)).T
    return float(np.abs(got[rows] - p @ values).max() / (np.abs(values).max() * p.sum(axis=1).mean()))


# -- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.01, 0.5, 2.0, 6.0, 20.0])
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("law", [sigma, slope])
def test_orders_interpolate_within_the_bound(a, tol, law):
    """s + a t inside the scores, wherever the pole is; with scores far below zero fewer points do."""
    t = np.linspace(-1, 1, 501)

    def worst(order, places):
        found = [chebyshev.chebinterpolate(lambda u, s=s: law(s + a * u), order - 1) for s in places]
        return max(np.abs(chebyshev.chebval(t, c) - law(s + a * t)).max() for c, s in zip(found, places, strict=True))

    order, bound = order_for(a, tol, -50.0, 50.0, law is slope)
    rounding = 1e-14  # of the oracle
    assert bound <= tol and worst(order, np.linspace(-2 * a, 2 * a, 41)) < bound + rounding
    for high in (-2.0, -8.0):
        fewer, bound = order_for(a, tol, -50.0 - a, high, law is slope)
        assert fewer <= order and worst(fewer, np.linspace(-50, high - a, 41)) < bound + rounding
    if order > 3:
        assert worst(order - 3, np.linspace(-a, a, 41)) > 0.02 * tol  # the bound says something


@pytest.mark.parametrize("r", [1, 2, 3])
def test_nodes_keep_polynomials(r):
    """Weights of nodes give sums of polynomials, and polynomials through the nodes are themselves, to rounding; the
    same in cells of few points, which stay as they are."""
    rng = np.random.default_rng(r)
    x = np.concatenate([rng.uniform(-2, -0.5, (r, 3037)), rng.uniform(0, 2, (r, 3))], axis=1)
    orders = np.arange(4, 4 + r)
    ends = np.stack([x.min(axis=1), x.max(axis=1)])
    cells = Cells.of(x, ends, np.full(r, 2), orders, take, "x")
    assert len(cells.points) < 3040 and len(cells.single) > 0 and len(cells.full) > 0
    w = rng.normal(size=3040)
    nodes = cells.gathered(w, take)

    def polynomial(points):
        return np.prod([chebyshev.chebval(points[k] / 2, np.ones(orders[k])) for k in range(r)], axis=0)

    assert nodes @ polynomial(cells.points.T) == pytest.approx(w @ polynomial(x), rel=1e-12)
    np.testing.assert_allclose(cells.spread_out(polynomial(cells.points.T), take), polynomial(x), atol=1e-12)


# -- the sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", clouds(1, 10))
@pytest.mark.parametrize("d, n", [(1, 2500), (2, 1200), (3, 800)])
def test_errors_stay_below_the_tolerance(always, d, n, name):
    x = clouds(d, n)[name]
    rounding = 4 * 2.0**-52 * 1000 * 100  # of scores up to 1000; weights may be 100 times their mean
    for tol in TOLS:
        for bias in (0.0, -np.log(n), 2.0):
            backend = fp.Fast(tol)
            attention = fp.Sigmoid(*[np.eye(d)] * 3, bias=bias)
            assert error(attention, x, backend) < max(tol, rounding)
            assert backend.stats()["fast_error_bound"] < tol


@pytest.mark.parametrize("d, size", [(1, 2.0), (2, 0.7), (3, 0.25)])
def test_many_tokens_per_cell(d, size):
    """Where cells pay: far fewer pairs than tokens would have."""
    rng = np.random.default_rng(d)
    n = 12000
    x, (Q, K, V) = size * rng.normal(size=(n, d)), rng.normal(size=(3, d, d))
    weights = rng.lognormal(size=n)
    weights /= weights.sum()
    for scores in ((np.eye(d), np.eye(d)), (-np.eye(d), np.eye(d)), (Q, K)):
        for tol in TOLS:
            for w in (None, weights):
                backend = fp.Fast(tol)
                assert error(fp.Sigmoid(*scores, V), x, backend, slice(None, None, 199), w) < tol
                assert backend.report["grids"] == 1 and backend.report["error_bound"] < tol
                assert backend.report["pairs"] < 0.3 * n**2 and backend.report["error_sampled"] < tol


@pytest.mark.parametrize("bias", [0.0, -3.0])
@pytest.mark.parametrize("d", [1, 2])
def test_sums_of_the_derivative(always, d, bias):
    """Errors refer to the largest |value| times the mean weight, here that of sigma'."""
    x = np.random.default_rng(d).normal(size=(4000, d))
    weight, values = slope_of(Sigmoid()), np.ascontiguousarray(x[None, :, ::-1])
    for tol in TOLS:
        pair = PairSum(weight, False, x[None], x[None], values, np.full((1, 4000), bias))
        backend, out = fp.Fast(tol), np.empty((1, 4000, d))
        with backend.evaluation():
            backend.attend(pair, out)
        assert backend.report["grids"] == 1 and backend.stats()["fast_error_bound"] < tol
        p = slope(wide(x[::19]) @ wide(x).T + bias) / 4000
        worst = np.abs(out[0, ::19] - p @ values[0]).max()
        assert worst < tol * np.abs(values).max() * p.sum(axis=1).mean()


def test_derivatives_of_sigmoid_attention():
    """Tangents, cotangents and divergences as by direct sums, relative to their largest entry, all in O(n)."""
    rng = np.random.default_rng(3)
    x, dx, c = 0.7 * rng.normal(size=(3, 12000, 1))
    attention, backend = fp.Sigmoid([[1.0]], [[1.0]], [[0.8]], bias=-1.0), fp.Fast(1e-8)

    def derivatives(how):
        return (
            attention.jvp(x, dx, backend=how)[1],
            attention.vjp(x, c, backend=how).x,
            attention.divergence(x, backend=how),
        )

    for found, want in zip(derivatives(backend), derivatives("direct"), strict=True):
        assert np.abs(found - want).max() < 1e-7 * np.abs(want).max()
    assert backend.stats()["direct_sums"] == 0 and backend.stats()["fast_sums"] >= 7


@pytest.mark.parametrize("k", [1, 2])
def test_low_rank_scores_in_many_dimensions(k):
    rng = np.random.default_rng(k)
    attention = fp.Sigmoid(*(rng.normal(size=(2, k, 8)) / 4), rng.normal(size=(8, 8)), bias=-1.0)
    backend = fp.Fast(1e-8)
    assert error(attention, rng.normal(size=(9000, 8)), backend, slice(None, None, 99)) < 1e-8
    assert backend.report["grids"] == 1


@pytest.mark.parametrize("n", [1, 2, 10, 129])
def test_few_tokens(always, n):
    rng = np.random.default_rng(n)
    attention = fp.Sigmoid(*rng.normal(size=(3, 2, 2)))
    assert error(attention, rng.normal(size=(n, 2)), fp.Fast(1e-8), slice(None)) < 1e-8


def test_tokens_far_from_the_origin(always):
    """The origin matters to sigma(<z, y>): it may not be moved, and the mean may be one axis more."""
    x = np.random.default_rng(0).normal(size=(2000, 2)) * [1.0, 1e-3] + [0.5, 3.0]
    assert error(fp.Sigmoid(np.eye(2), np.diag([1.0, -0.5]), np.eye(2)), x, fp.Fast(1e-8)) < 1e-8


def test_every_kind_of_sum(always):
    """Other points, systems side by side, heads, masks: as direct sums."""
    rng = np.random.default_rng(0)
    x, (Q, K, V) = rng.normal(size=(2000, 2)), 0.6 * rng.normal(size=(3, 2, 2))
    weights, at = rng.uniform(0.1, 2.0, 2000), 2 * rng.normal(size=(333, 2))
    weights /= weights.sum()
    for attention in (
        fp.Sigmoid(Q, K, V, bias=0.3),
        fp.Sigmoid(Q, K, V, bias=np.array([0.3, -2.0])),
        fp.MultiHead([fp.Sigmoid(Q[:1], K[:1], V), fp.Sigmoid(Q, K, V), fp.Softmax(K, Q, V)]),
        fp.Masked(fp.Sigmoid(Q, K, V)),
    ):
        masked = {"at_positions": np.arange(333)} if attention.masked else {}
        two = np.stack([x, 2 * x - 1])
        for options in ({}, {"weights": weights}, {"at": np.stack([at, at]), **masked}):
            want = attention.velocity(two, **options, backend="direct")
            got = attention.velocity(two, backend=fp.Fast(1e-9), **options)
            assert np.abs(got - want).max() < 1e-8 * np.abs(want).max()


def test_float32_tokens():
    x = np.random.default_rng(0).normal(size=(6000, 1)).astype(np.float32)
    backend = fp.Fast(1e-8)
    assert error(fp.Sigmoid(*[np.eye(1)] * 3), x, backend) < 2e-7  # float32 has 1.2e-7
    assert backend.report["grids"] == 1


def test_direct_where_cells_cannot_help():
    """Too little to gain, too many axes, a tolerance below rounding: bits of direct sums."""
    rng = np.random.default_rng(0)
    for n, d, tol in ((500, 1, 1e-6), (2500, 4, 1e-6), (2500, 1, 1e-14)):
        x, backend = rng.normal(size=(n, d)), fp.Fast(tol)
        attention = fp.Sigmoid(*[np.eye(d)] * 3)
        np.testing.assert_array_equal(attention.velocity(x, backend=backend), attention.velocity(x, backend="direct"))
        assert backend.stats()["direct_sums"] == 1 and backend.report["direct_targets"] == n


def test_the_check_finds_wrong_sums(monkeypatch):
    """Orders that are far too low: the sampled check fails, and the sum is direct."""
    monkeypatch.setattr(sigmoid_nodes, "order_for", lambda *_: (2, 0.0))
    x, backend = np.random.default_rng(0).normal(size=(5000, 1)), fp.Fast(1e-6)
    attention = fp.Sigmoid(*[np.eye(1)] * 3)
    np.testing.assert_array_equal(attention.velocity(x, backend=backend), attention.velocity(x, backend="direct"))
    assert backend.stats()["fast_error_sampled"] > 1e-6 and backend.stats()["fast_direct_targets"] == 5000


def test_threads_change_no_bit():
    x = np.random.default_rng(0).normal(size=(20000, 2))
    attention = fp.Sigmoid(*[np.eye(2)] * 3, bias=-1.0)
    two = fp.Fast(1e-6)
    want = attention.velocity(x, backend=two)
    assert two.report["grids"] == 1
    sums.set_threads(1)
    try:
        one = attention.velocity(x, backend=fp.Fast(1e-6))
    finally:
        sums.set_threads(2)
    np.testing.assert_array_equal(one, want)
