"""Distances against assignments, closed forms, linear programs and each other."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from scipy.special import ndtri

import fastpde as fp
from fastpde.transport import wasserstein
from fastpde.transport.line import line_cost_to_normal
from fastpde.transport.measures import as_cloud

RNG = np.random.default_rng(3)


def random_weights(n):
    w = RNG.uniform(0.1, 3.0, n)
    return w / w.sum()


def costs(x, y, p):
    """|x_i - y_j|^p, from differences."""
    return np.linalg.norm(x[:, None] - y[None], axis=2) ** p


def by_program(x, y, p, a, b):
    """W_p by the simplex method of SciPy on the whole program."""
    n, m = len(a), len(b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = linprog(costs(x, y, p).ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    return found.fun ** (1 / p)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_equal_weights(p):
    """n = 500, d = 3, to 1e-10: against SciPy's assignment."""
    x, y = RNG.normal(size=(500, 3)), 1.5 * RNG.normal(size=(500, 3)) + 1
    cost = costs(x, y, p)
    want = cost[linear_sum_assignment(cost)].mean() ** (1 / p)
    assert fp.wasserstein(x, y, p) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("d", [1, 2])
def test_unequal_weights_and_numbers(d, p):
    """Against a linear program, 1e-7: its own tolerance; and tokens doubled are weights doubled, 1e-12."""
    x, y, a, b = RNG.normal(size=(20, d)), RNG.normal(size=(13, d)) + 1, random_weights(20), random_weights(13)
    got = fp.wasserstein(x, y, p, x_weights=a, y_weights=b)
    assert got == pytest.approx(by_program(x, y, p, a, b), rel=1e-7)
    double = fp.wasserstein(x, np.repeat(y, 2, axis=0), p)
    assert double == pytest.approx(fp.wasserstein(x, y, p), rel=1e-12)
    assert fp.wasserstein(x, y, p, x_weights=a) == pytest.approx(fp.wasserstein(y, x, p, y_weights=a), rel=1e-12)


@pytest.mark.parametrize("size", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("d", [1, 3])
def test_a_translation_is_its_length(d, size):
    """Exactly, but for rounding of x + v and of a sum; at sizes whose squares leave the range of numbers too."""
    x, v = RNG.normal(size=(50, d)), np.array([3.0, 4.0, 12.0])[:d]
    want = np.linalg.norm(v) * size
    for options in ({}, {"x_weights": (w := random_weights(50)), "y_weights": w}):
        for p in (1, 2, 4):
            assert fp.wasserstein(size * x, size * (x + v), p, **options) == pytest.approx(want, rel=1e-13)
    assert fp.wasserstein(size * x, size * x) == 0.0


def test_types_and_float32():
    x = RNG.normal(size=(30, 2)).astype(np.float32)
    got = fp.wasserstein(x, x + np.float32(1))
    assert isinstance(got, float)
    assert got == pytest.approx(np.sqrt(2), rel=1e-6)  # x + 1 is rounded to float32
    assert fp.wasserstein(x, x, return_error=True) == (0.0, 0.0)


def test_a_line_of_many_tokens():
    """d = 1 takes no matrix: 1e5 quantiles of two normal laws, N(0, 1) and N(1, 4), are sqrt(1 + 1) apart.

    1e-3: what the quantiles miss of the tails.
    """
    z = ndtri((np.arange(100_000) + 0.5) / 100_000)[:, None]
    assert fp.wasserstein(z, 1 + 2 * z) == pytest.approx(np.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weights", [False, True])
def test_from_a_cloud_to_a_gaussian_on_the_line(p, weights):
    """Against the law's quantiles at 2e6 levels: they miss about 1e-4 of W_1 and W_2 in the tails."""
    x = RNG.normal(size=(7, 1))
    w = random_weights(7) if weights else None
    law = fp.Gaussian([0.4], [[2.25]])
    levels = (np.arange(2_000_000) + 0.5) / 2_000_000
    order = np.argsort(x[:, 0])
    ends = np.cumsum(np.full(7, 1 / 7) if w is None else w[order])
    near = x[order, 0][np.minimum(np.searchsorted(ends, levels), 6)]
    want = (np.abs(near - 0.4 - 1.5 * ndtri(levels)) ** p).mean() ** (1 / p)
    assert fp.wasserstein(x, law, p, x_weights=w) == pytest.approx(want, rel=1e-4)
    assert fp.wasserstein(law, x, p, y_weights=w) == fp.wasserstein(x, law, p, x_weights=w)
    # A law without variance is a Dirac.
    want = (np.abs(x[:, 0] - 0.4) ** p).mean() ** (1 / p)
    assert line_cost_to_normal(as_cloud("x", x), 0.4, 0.0, float(p)) ** (1 / p) == pytest.approx(want, rel=1e-13)


def sliced_gaussians(m, S, T):
    """SW_2 of N(0, S) and N(m, T) in the plane, by the trapezoidal rule over angles: exact for periodic functions."""
    angle = np.arange(4000) * np.pi / 4000
    u = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    s, t = (np.sqrt(np.einsum("ai,ij,aj->a", u, C, u)) for C in (S, T))
    return np.sqrt(((u @ m) ** 2 + (s - t) ** 2).mean())


def test_sliced_distance_of_two_gaussians():
    """Within four of its standard errors, which is right: over seeds it scatters by that much, within a factor of 1.5.

    The clouds are 20,000 tokens: their own error, 1e-2 of a distance of 1.5, is of second order and below that.
    """
    m, S, T = np.array([1.5, -1.0]), np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([[0.4, -0.2], [-0.2, 2.0]])
    want = sliced_gaussians(m, S, T)
    x = RNG.multivariate_normal(np.zeros(2), S, 20_000)
    y = RNG.multivariate_normal(m, T, 20_000)
    got, error = fp.wasserstein(x, y, method="sliced", return_error=True)
    assert abs(got - want) < 4 * error
    assert 0.005 < error < 0.1
    options = {"method": "sliced", "projections": 50, "return_error": True}
    few = [fp.wasserstein(x[:500], y[:500], seed=seed, **options) for seed in range(60)]
    values, errors = np.array(few).T
    assert errors.mean() / 1.5 < values.std() < 1.5 * errors.mean()
    assert fp.wasserstein(x, y, method="sliced") <= fp.bures_wasserstein(x, y) * 1.1


def test_sliced_distance_to_a_gaussian_law():
    """Its projections are known: against many tokens drawn from it, with the same directions."""
    S = np.array([[1.0, 0.3], [0.3, 0.5]])
    law, x = fp.Gaussian([1.0, -1.0], S), RNG.normal(size=(100, 2))
    y = RNG.multivariate_normal([1.0, -1.0], S, 40_000)
    for p in (1, 2):
        want = fp.wasserstein(x, y, p, method="sliced", projections=40)
        # The tokens' own error is 1/sqrt(40,000) of a size of one.
        assert fp.wasserstein(x, law, p, method="sliced", projections=40) == pytest.approx(want, rel=2e-2)


@pytest.mark.parametrize("weights", [False, True])
def test_sinkhorn_divergence(weights):
    """Within its proved bound of the exact distance; the bound and the difference shrink with eps; equal clouds: 0."""
    x, y = RNG.normal(size=(150, 2)), 1.3 * RNG.normal(size=(120, 2)) + 1
    given = {"x_weights": random_weights(150), "y_weights": random_weights(120)} if weights else {}
    exact = fp.wasserstein(x, y, **given)
    bounds = []
    for eps in (0.5, 0.05):
        got, bound = fp.wasserstein(x, y, method="sinkhorn", eps=eps, return_error=True, **given)
        assert abs(got - exact) <= bound
        bounds.append(bound)
    assert bounds[1] < bounds[0] / 3
    assert bounds[1] < 0.05 * exact
    same, bound = fp.wasserstein(x, x[::-1], method="sinkhorn", return_error=True)
    # Roots of differences of rounding and of a marginal error of 1e-4.
    assert same < 2e-2
    assert same <= bound
    # Moving both clouds changes nothing but rounding; units are squared lengths.
    moved = fp.wasserstein(3 * x + 100, 3 * y + 100, method="sinkhorn", eps=9 * 0.05, **given)
    assert moved == pytest.approx(3 * got, rel=1e-9)


def test_two_gaussian_laws():
    g, h = fp.Gaussian([0.0, 0.0], np.eye(2)), fp.Gaussian([3.0, 4.0], np.eye(2))
    assert fp.wasserstein(g, h) == fp.bures_wasserstein(g, h) == pytest.approx(5.0, rel=1e-15)


def test_what_is_refused():
    x, law = RNG.normal(size=(5, 2)), fp.Gaussian([0.0, 0.0], np.eye(2))
    for arguments, options, name in (
        ((x, x[:, :1]), {}, "y"),
        ((x, x, 0.5), {}, "p"),
        ((x, x, np.inf), {}, "p"),
        ((x, x), {"method": "best"}, "method"),
        ((x, x), {"x_weights": np.ones(5)}, "x_weights"),
        ((x, x), {"method": "sinkhorn", "eps": 0.0}, "eps"),
        ((x, x, 1), {"method": "sinkhorn"}, "p"),
        ((x, x), {"method": "sliced", "projections": 1}, "projections"),
        ((x, law), {}, "method"),
        ((x, law, 3), {"method": "sliced"}, "p"),
        ((x, fp.Gaussian(np.zeros((3, 2)), np.eye(2))), {}, "y"),
        ((x[None], x), {}, "x"),
        ((law, law), {"y_weights": [1.0]}, "y_weights"),
        ((law, law), {"x_weights": [1.0]}, "x_weights"),
        ((law, fp.Gaussian(np.zeros((3, 2)), np.eye(2))), {}, "y"),
        ((law, x[:, :1]), {"method": "sliced"}, "y"),
    ):
        with pytest.raises(fp.InputError) as caught:
            fp.wasserstein(*arguments, **options)
        assert caught.value.name == name


def test_too_large_for_the_memory():
    """Refused before anything is allocated, with numbers."""
    x = np.zeros((3_000_000, 2))
    with pytest.raises(fp.InputError, match=r"x, y: got 3000000 and 3000000 tokens.*4.02e\+05 GiB.*sliced"):
        fp.wasserstein(x, x)


def test_a_solver_that_gives_up_is_never_a_zero(monkeypatch):
    """POT's limit of pivots, and a plan whose marginals are wrong, however it is called."""
    import ot

    x, y, w = RNG.normal(size=(60, 2)), RNG.normal(size=(50, 2)), random_weights(60)
    monkeypatch.setattr(wasserstein, "_PIVOTS", 3)
    with pytest.raises(fp.TransportError, match="numItermax"):
        fp.wasserstein(x, y, x_weights=w)
    monkeypatch.setattr(ot, "emd", lambda a, b, M, **_: (np.zeros(M.shape), {"warning": None}))
    with pytest.raises(fp.TransportError, match="off by 1"):
        fp.wasserstein(x, y, x_weights=w)


def test_pot_is_imported_when_it_is_needed():
    from tests.problems import run

    found, _ = run("import sys, json, fastpde as fp\nprint(json.dumps('ot' in sys.modules))")
    assert found is False
    assert sys.modules[fp.wasserstein.__module__] is wasserstein


def test_divergences_by_sums_in_any_way_agree():
    """Sums are right to 1e-10, and a divergence is a root of their differences: to the root of that."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(150, 2)), rng.normal(size=(120, 2)) + 1.0
    found = [fp.wasserstein(x, y, method="sinkhorn", eps=0.5, backend=b) for b in ("direct", fp.Fast(1e-10))]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
