"""Scalings of kernels given as matrices: what is promised of the error, the bound on the work, and the safeguards."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.transport import anderson
from fastpde.transport.anderson import Window
from fastpde.transport.scaling import Softmin, _foresee, iterate, scale

from .. import naive


class Matrix(Softmin):
    """Scores (B, n, n) as arrays; counts its calls."""

    def __init__(self, scores, weights=None, symmetric=None):
        self.scores = scores if scores.ndim == 3 else scores[None]
        n = self.scores.shape[1]
        self.weights = np.full((1, n), 1 / n) if weights is None else np.atleast_2d(weights)
        same = bool((self.scores == self.scores.swapaxes(1, 2)).all())
        self.symmetric = same if symmetric is None else symmetric
        self.calls, self.last = 0, None

    def rows(self, g, out, last):
        self.last = g.copy() if last else None
        self._sum(self.scores, g, out)

    def columns(self, f, out):
        self._sum(self.scores.swapaxes(1, 2), f, out)

    def _sum(self, scores, g, out):
        self.calls += 1
        s = scores + (g + np.log(self.weights))[:, None, :]
        top = s.max(axis=2, keepdims=True)
        out[...] = -(top[..., 0] + np.log(np.exp(s - top).sum(axis=2)))

    def errors(self, found):
        """The true errors of rows and columns, (2, B)."""
        kappa = np.exp(found.f[:, :, None] + found.g[:, None, :] + self.scores)
        w = np.broadcast_to(self.weights, found.f.shape)
        rows, columns = np.einsum("bij,bj->bi", kappa, w), np.einsum("bij,bi->bj", kappa, w)
        return np.stack([(w * np.abs(rows - 1)).sum(axis=1), (w * np.abs(columns - 1)).sum(axis=1)])


def kernel(name, eps, n=80, d=2, seed=0, weighted=False, clusters=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if clusters:
        x = 0.05 * x + 3 * rng.normal(size=(5, d))[rng.integers(0, 5, n)]
    A = {"K = Q": np.eye(d), "K = -Q": -np.eye(d), "other": rng.normal(size=(d, d)) / np.sqrt(d)}[name]
    w = rng.uniform(0.01, 1, n) ** 3 if weighted else np.ones(n)
    x = x - x.mean(axis=0)
    return Matrix(np.einsum("ia,ab,jb->ij", x, A, x) / eps, w / w.sum(), symmetric=name != "other")


def zeros(softmin):
    return np.zeros(softmin.scores.shape[:2])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", ["K = Q", "K = -Q", "other"])
@pytest.mark.parametrize("tol", [1e-3, 1e-9])
def test_the_error_that_is_reported_bounds_the_error(name, eps, weighted, tol):
    """Rows to rounding: scores of 100 have 1e-14. The last row step is made with the potentials that are returned."""
    softmin = kernel(name, eps, weighted=weighted)
    found = scale(softmin, zeros(softmin), tol, 10_000)
    rows, columns = softmin.errors(found)
    assert found.half_iterations == softmin.calls
    assert rows[0] < 1e-13
    assert columns[0] <= found.error[0] + 1e-13 <= tol + 1e-13
    np.testing.assert_array_equal(softmin.last, found.g)


def test_the_true_errors_can_be_large():
    softmin = kernel("other", 1.0)
    found = iterate(softmin, zeros(softmin), 1)
    rows, columns = softmin.errors(found)
    assert rows[0] < 1e-13 and columns[0] > 0.05


@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize("d", [1, 2, 8])
@pytest.mark.parametrize("eps", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_symmetric_positive_kernels_need_few_half_iterations(eps, d, clusters):
    for weighted in (False, True):
        softmin = kernel("K = Q", eps, d=d, n=200, weighted=weighted, clusters=clusters)
        found = scale(softmin, zeros(softmin), 1e-9, 1000)
        assert found.error[0] <= 1e-9 and found.half_iterations <= 25


@pytest.mark.parametrize("name", ["K = -Q", "other"])
def test_mixing_is_faster_than_plain_steps(name):
    """Half the half-iterations at least where the plain ones converge slowly."""
    softmin = kernel(name, 0.3)
    found = scale(softmin, zeros(softmin), 1e-9, 1000)
    plain = 1
    while softmin.errors(iterate(softmin, zeros(softmin), plain))[1][0] > 1e-9:
        plain += 2
    assert 2 * found.half_iterations <= plain


@pytest.mark.parametrize("n_half", [1, 3, 7])
def test_plain_half_iterations(n_half):
    softmin = kernel("other", 0.5)
    found = iterate(softmin, zeros(softmin), n_half)
    f, g = naive.potentials(naive.wide(softmin.scores[0]), naive.wide(softmin.weights[0]), n_half=n_half)
    np.testing.assert_allclose(found.f[0], f.astype(float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.g[0], g.astype(float), rtol=0, atol=1e-12)
    assert softmin.calls == found.half_iterations == n_half and np.isnan(found.error).all()


def test_systems_of_a_batch_do_not_see_each_other():
    """Fast ones beside slow ones, one that rounding keeps from the tolerance and one without numbers: bit for bit, the
    windows too, in a second scaling as in the first. The matrix sums here do not depend on `last`.
    """
    alone = [kernel("other", eps, seed=seed) for seed, eps in enumerate((10.0, 0.3, 1.0, 1.0))]
    alone[3].scores = alone[3].scores * 1e7
    alone.append(Matrix(np.full((80, 80), np.nan), symmetric=False))
    together = Matrix(np.concatenate([one.scores for one in alone]))
    window, start = Window.empty((5, 80)), zeros(together)
    own = [(Window.empty((1, 80)), zeros(one)) for one in alone]
    for _ in range(2):
        found = scale(together, start, 1e-9, 60, window)
        start = 0.9 * found.g
        for b, one in enumerate(alone):
            single = scale(one, own[b][1], 1e-9, 60, own[b][0])
            own[b] = own[b][0], 0.9 * single.g
            np.testing.assert_array_equal(found.g[b], single.g[0])
            np.testing.assert_array_equal(found.error[b], single.error[0])
            for whole, part in zip(window, own[b][0], strict=True):
                np.testing.assert_array_equal(whole[b], part[0])
            assert single.half_iterations <= found.half_iterations
    assert (found.error[:3] <= 1e-9).all() and found.error[3] > 1e-9 and np.isnan(found.error[4])


@pytest.mark.parametrize("name", ["K = Q", "other"])
def test_not_converged(name):
    softmin = kernel(name, 0.1)
    found = scale(softmin, zeros(softmin), 1e-9, 6)
    assert found.half_iterations == softmin.calls <= 6
    assert found.error[0] > 1e-9


def test_numbers_that_overflow_end_it_at_once():
    softmin = Matrix(np.full((3, 3), np.nan))
    found = scale(softmin, zeros(softmin), 1e-9, 1000)
    assert softmin.calls <= 2 and np.isnan(found.error).all()


@pytest.mark.parametrize("name", ["K = Q", "K = -Q", "other"])
@pytest.mark.parametrize("eps", [0.001, 1.0])
def test_rounding_ends_it(name, eps):
    """A tolerance below rounding is not worth the half-iterations that are allowed; what is reached is rounding: of
    scores of some 10 / eps, in units of 1e-16."""
    softmin = kernel(name, eps, n=4)
    found = scale(softmin, zeros(softmin), 1e-18, 10_000)
    assert found.half_iterations < 5000
    assert found.error[0] == 0 or (found.rounding[0] and found.error[0] <= 1e-14 * (1 + 10 / eps))
    assert not scale(softmin, zeros(softmin), 1e-18, 4).rounding.any()


def test_errors_near_overflow_are_foreseen_without_a_warning():
    assert _foresee(np.array([1e-3]), np.array([9e306])) >= 9e306


@pytest.mark.parametrize("name, d, seed", [("K = -Q", 1, 0), ("other", 1, 0), ("other", 2, 0), ("other", 2, 3)])
def test_the_safeguard_finds_the_way_between_clusters(name, d, seed, monkeypatch):
    """Clusters far apart: with it at most half of the half-iterations that the unguarded iteration takes (measured 3.3
    times or more), or of a bound that it does not keep."""
    found = []
    for slack in (anderson._SLACK, np.inf):
        monkeypatch.setattr(anderson, "_SLACK", slack)
        softmin = kernel(name, 0.1, d=d, n=60, seed=seed, clusters=True)
        found.append(scale(softmin, zeros(softmin), 1e-9, 800))
        if found[-1].error[0] <= 1e-9:
            assert softmin.errors(found[-1])[1][0] <= 1e-9 + 1e-13
    assert found[0].error[0] <= 1e-9
    assert 2 * found[0].half_iterations <= found[1].half_iterations


@pytest.mark.parametrize("size", [1e4, 1e17])
@pytest.mark.parametrize("name", ["K = Q", "K = -Q", "other"])
def test_a_misleading_window_does_no_lasting_harm(name, size):
    """Random directions, random changes: the dual value falls, and the window goes. Potentials of 1e17, whose rounding
    is larger than any error, do not end it."""
    softmin = kernel(name, 0.5)
    rng = np.random.default_rng(0)
    empty = Window.empty((1, 80))
    dr, du = 1e-3 * rng.normal(size=empty.dr.shape), size * rng.normal(size=empty.du.shape)
    window = Window(dr, du, np.einsum("bin,bn,bjn->bij", dr, softmin.weights, dr), np.array([10]))
    found = scale(softmin, zeros(softmin), 1e-9, 300, window)
    assert found.error[0] <= 1e-9 and softmin.errors(found)[1][0] <= 1e-9


def test_the_window_of_a_similar_problem_helps():
    softmin, similar = kernel("other", 0.3), kernel("other", 0.301)
    window = Window.empty((1, 80))
    first = scale(softmin, zeros(softmin), 1e-9, 1000, window)
    with_window = scale(similar, first.g, 1e-9, 1000, window)
    without = scale(similar, first.g, 1e-9, 1000)
    assert with_window.half_iterations < without.half_iterations < first.half_iterations
