"""O(n) sums: their parts by themselves, and their error against sums over all pairs in every kind of cloud."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev
from scipy.special import iv

import fastpde as fp
from fastpde.kernels import plans
from fastpde.sums import planning
from fastpde.sums.chebyshev_grid import Sorted
from fastpde.sums.pair_sum import PairSum
from fastpde.sums.translation import Axis, core
from fastpde.weights import Exp

from ..naive import wide

TOLS = (1e-4, 1e-6, 1e-8, 1e-10)


def take(name, shape, dtype):
    return np.empty(shape, dtype)


def clouds(d, n=2500, seed=0):
    """Clouds of every kind that a grid may meet, by name; logits |x|^2 up to 1000."""
    rng = np.random.default_rng([seed, d])
    g = rng.standard_normal((n, d))
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    sides = np.where(rng.random(n)[:, None] < 0.5, 1.0, -1.0)
    stretched = g * np.geomspace(5.0, 0.05, d) if d > 1 else 5 * g
    radius = rng.random(n)[:, None] ** (1 / d)
    return {
        "gaussian": g,
        "ball": 5 * u * radius,
        "sphere": 3 * u,
        "heavy tails": rng.standard_t(3, (n, d)),
        "anisotropic": stretched,
        "two clusters": 4 * sides + 1e-2 * g,
        "two tight clusters": 20 * sides + 1e-3 * g,
        "collapsed": 0.3 + 1e-12 * g,
        "a point": np.full((n, d), 0.7),
        "a line": np.outer(2 * rng.standard_normal(n), np.ones(d)),
        "logits of 1000": 31 * u * radius,
    }


def error(attention, x, backend, rows=slice(None, None, 7), **options):
    """The largest error of a velocity, relative to the spread of the tokens."""
    got = attention.velocity(x, backend=backend, **options)
    assert got.dtype == x.dtype and np.isfinite(got).all()
    want = naive_softmax(attention, x, rows, **options)
    spread = np.abs(x - x.mean(axis=0)).max()
    return float(np.abs(got[rows] - want).max() / (np.linalg.norm(attention.V(0.0), 2) * max(spread, 1e-300)))


def naive_softmax(attention, x, rows, weights=None, tilt=0.0):
    """V E[y e^s] / E[e^s] in extended precision, or with -scale |Ky|^2 in s for L2."""
    A, V, K = (wide(m) for m in (attention._score_matrix(0.0), attention.V(0.0), attention.K(0.0)))
    y = wide(x)
    s = y[rows] @ A.T @ y.T
    if isinstance(attention, fp.L2):
        s = 2 * s - (attention.scale(0.0) * (y @ K.T) ** 2).sum(axis=1)
    if weights is not None:
        s = s + np.log(wide(weights))
    p = np.exp(s - s.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ y @ V.T


# -- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load, slabs, order", [(27.0, 18, 13), (27.0, 27, 9), (2.0, 1, 14), (0.02, 1, 5), (200.0, 80, 14)]
)
def test_cores_fit_the_exponential_within_their_bound(load, slabs, order):
    """All pairs of cells, at random points and at the corners: values and slopes, in relative error."""
    reach_z, reach_y = 2 * load**0.5, load**0.5 / 2
    matrix = core(Axis(reach_z, reach_y, slabs, order, order), np.arange(slabs), np.arange(slabs), take)
    rng = np.random.default_rng(0)
    z, y = (np.append(rng.uniform(-r, r, 300), [r, -r]) for r in (reach_z, reach_y))

    def basis(points, reach, slope=False):
        half = reach / slabs
        slab = np.clip(((points + reach) / (2 * half)).astype(int), 0, slabs - 1)
        u = (points - half * (2 * slab + 1 - slabs)) / half
        values = chebyshev.chebvander(u, order - 1)
        if slope:
            values = np.stack([chebyshev.chebval(u, chebyshev.chebder(e)) for e in np.eye(order)], axis=1) / half
        whole = np.zeros((len(points), slabs, order))
        whole[np.arange(len(points)), slab] = values
        return whole.reshape(len(points), -1), np.abs(half * (2 * slab + 1 - slabs))

    left, corner = basis(z, reach_z)
    right, _ = basis(y, reach_y)
    scale = np.exp(corner * reach_y)[:, None]
    exact = np.exp(np.outer(z, y))
    value = np.abs(scale * (left @ matrix.T @ right.T) / exact - 1).max()
    slope = np.abs((scale * (basis(z, reach_z, True)[0] @ matrix.T @ right.T) / exact - y) / reach_y).max()
    theta = load / slabs
    bessel = np.empty(25)
    plans.bessels(theta, bessel)
    np.testing.assert_allclose(bessel, iv(np.arange(25), theta), rtol=1e-13)
    bound = plans.source_error(order, theta, slabs, bessel) + plans.target_error(order, theta, bessel)
    assert value < bound and slope < 1.1 * bound
    assert slope > 1e-3 * bound  # the bound says something


def test_plans():
    loads = np.array([20.0, 5.0])
    grids = [planning.plan(loads, 10**6, 10**6, tol) for tol in TOLS]
    assert all(grid is not None and grid.error < tol for grid, tol in zip(grids, TOLS, strict=True))
    assert grids[0].seconds < grids[-1].seconds
    assert planning.plan(np.array([plans.MOST_LOGITS + 1.0]), 10**6, 10**6, 1e-6) is None
    assert planning.plan(np.array([5.0]), 10**6, 10**6, 1e-18) is None  # rounding forbids it


def test_sorting_is_stable_and_keeps_every_point():
    rng = np.random.default_rng(0)
    points = np.where(rng.random((2, 5000)) < 0.5, rng.uniform(-1, -0.8, (2, 5000)), rng.uniform(0.5, 1, (2, 5000)))
    slabs = np.array([10, 7])
    found = Sorted.into(points, np.zeros(2), np.ones(2), slabs, take, "x")
    assert [list(kept) for kept in found.kept] == [[0, 7, 8, 9], [0, 5, 6]]  # empty slabs are left out
    cell = [
        np.searchsorted(kept, ((p + 1) / (2 / s)).astype(int))
        for p, s, kept in zip(points, slabs, found.kept, strict=True)
    ]
    order = np.argsort(cell[0] * 3 + cell[1], kind="stable")
    np.testing.assert_array_equal(found.order, order)
    width = 2 / slabs[:, None]
    centre = -1 + width * (np.array([found.kept[k][cell[k]] for k in range(2)]) + 0.5)
    np.testing.assert_allclose(found.local, ((points - centre) / (width / 2))[:, order], atol=1e-13)
    sizes = found.items[:, 2] - found.items[:, 1]
    assert sizes.sum() == 5000


# -- the sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", clouds(1, 10))
@pytest.mark.parametrize("d", [1, 2, 3])
def test_errors_stay_below_the_tolerance(d, name):
    """The grid is forced: a direct sum would be exact."""
    x = clouds(d)[name]
    spread = max(np.abs(x - x.mean(axis=0)).max(), 1e-300)
    rounding = 4 * 2.0**-52 * (1000 + np.abs(x).max() / spread)  # of scores, and of tokens far from the origin
    for tol in TOLS:
        for attention in (fp.Softmax(*[np.eye(d)] * 3), fp.L2(np.eye(d), 0.7 * np.eye(d), np.eye(d))):
            backend = fp.Fast(tol)
            assert error(attention, x, backend) < max(tol, rounding)
            assert backend.report["error_bound"] < tol


@pytest.mark.parametrize("d, k", [(8, 1), (8, 2), (8, 3), (8, 4), (2, 1), (3, 2)])
def test_low_rank_scores_in_many_dimensions(d, k):
    rng = np.random.default_rng(d + k)
    attention = fp.Softmax(*(rng.normal(size=(2, k, d)) / d**0.5), rng.normal(size=(d, d)))
    assert error(attention, rng.normal(size=(2500, d)), fp.Fast(1e-8)) < 1e-8


def test_four_coordinates():
    rng = np.random.default_rng(4)
    attention, x = fp.Softmax(*[np.eye(4)] * 3), 0.2 * rng.normal(size=(4000, 4))
    for tol in (1e-4, 1e-7):
        backend = fp.Fast(tol)
        assert error(attention, x, backend) < tol
        assert backend.report["grids"] == 1
    assert both(fp.Exponential(*[np.eye(4)] * 3), x, 1e-6) < 1e-6
    masked, seen = fp.Masked(attention), np.linspace(0.0, 1.0, 4000)
    got = masked.velocity(x, positions=seen, backend=fp.Fast(1e-6))
    assert np.abs(got - masked.velocity(x, positions=seen, backend="direct")).max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 10, 129])
def test_few_tokens(n):
    rng = np.random.default_rng(n)
    x, (Q, K, V) = rng.normal(size=(n, 2)), rng.normal(size=(3, 2, 2))
    attention = fp.Softmax(Q, K, V)
    assert np.abs(attention.velocity(x, backend=fp.Fast(1e-9)) - attention.velocity(x, backend="direct")).max() < 1e-8


def both(attention, x, tol=1e-9, **options):
    """The largest difference of fast and direct velocities, relative to the largest."""
    want = attention.velocity(x, **options, backend="direct")
    return np.abs(attention.velocity(x, backend=fp.Fast(tol), **options) - want).max() / np.abs(want).max()


def test_every_kind_of_sum():
    rng = np.random.default_rng(0)
    x, (Q, K, V) = rng.normal(size=(1500, 2)), 0.6 * rng.normal(size=(3, 2, 2))
    weights = rng.uniform(0.1, 2.0, 1500)
    weights /= weights.sum()
    at = rng.normal(size=(333, 2)) * 2
    for attention in (
        fp.Softmax(Q, K, V),
        fp.L2(Q, K, V),
        fp.Exponential(Q, K, V),
        fp.Sigmoid(Q, K, V, bias=0.3),
        fp.Linear(Q, K, V),
        fp.MultiHead([fp.Softmax(Q[:1], K[:1], V), fp.Sigmoid(Q, K, V), fp.Exponential(K, Q, V)]),
        fp.Sinkhorn(Q, K, V, tol=1e-11),
        fp.Masked(fp.Softmax(Q, K, V)),
    ):
        masked = {"at_positions": np.arange(333)} if attention.masked else {}
        assert both(attention, x) < 1e-8
        assert both(attention, x, weights=weights, at=at, **masked) < 1e-8
        assert both(attention, np.stack([x, 2 * x - 1])) < 1e-8


@pytest.mark.parametrize("d, size, n", [(1, 1.0, 3000), (2, 0.7, 3000), (3, 0.3, 3000)])
def test_masked_sums(d, size, n):
    """Windows of sources: in order, with ties across windows, all at one position, weighted, other points."""
    rng = np.random.default_rng(d)
    x, V = size * rng.normal(size=(n, d)), rng.normal(size=(d, d))
    weights = rng.uniform(0.1, 2.0, n)
    weights /= weights.sum()
    ties = np.sort(rng.integers(0, 9, n))
    inside = fp.L2(np.eye(d), np.eye(d), V)
    backend = fp.Fast(1e-9)
    for positions in (None, ties, np.zeros(n), rng.permutation(n)):
        for attention in (fp.Softmax(*[np.eye(d)] * 2, V), inside, fp.Exponential(*[np.eye(d)] * 2, V)):
            masked = fp.Masked(attention)
            want = masked.velocity(x, positions=positions, weights=weights, backend="direct")
            got = masked.velocity(x, positions=positions, weights=weights, backend=backend)
            assert np.abs(got - want).max() < 1e-8 * np.abs(want).max()
            assert backend.report["grids"] == 1
    at, where = rng.normal(size=(77, d)) * size, rng.integers(0, n, 77)
    want = fp.Masked(inside).velocity(x, at=at, at_positions=where, backend="direct")
    got = fp.Masked(inside).velocity(x, at=at, at_positions=where, backend=backend)
    assert np.abs(got - want).max() < 1e-8 * np.abs(want).max()


def test_float32_tokens():
    x = np.random.default_rng(0).normal(size=(2500, 2)).astype(np.float32)
    assert error(fp.Softmax(*[np.eye(2)] * 3), x, fp.Fast(1e-8)) < 2e-7


def test_totals():
    rng = np.random.default_rng(0)
    z, y, b = 3 * rng.normal(size=(1, 400, 2)), 3 * rng.normal(size=(1, 900, 2)), rng.normal(size=(1, 900)) * 5
    logs, out = np.empty((1, 400)), np.empty((1, 400, 0))
    fp.Fast(1e-10).attend(PairSum(Exp(), True, z, y, np.empty((1, 900, 0)), b), out, logs)
    s = wide(z[0]) @ wide(y[0]).T + wide(b)
    want = s.max(axis=1) + np.log(np.exp(s - s.max(axis=1, keepdims=True)).mean(axis=1))
    assert np.abs(logs[0] - want).max() < 1e-10


def test_threads_change_no_bit():
    from fastpde import sums

    x = np.random.default_rng(0).normal(size=(20000, 2))
    attention = fp.Softmax(*[np.eye(2)] * 3)
    two = attention.velocity(x, backend=fp.Fast(1e-8))
    sums.set_threads(1)
    try:
        one = attention.velocity(x, backend=fp.Fast(1e-8))
    finally:
        sums.set_threads(2)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("tol", [0.0, -1.0, np.nan, "1e-8", None, True])
def test_wrong_tolerances(tol):
    with pytest.raises((fp.InputError, fp.InputTypeError), match=r"^tol"):
        fp.Fast(tol)
