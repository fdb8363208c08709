"""Sums that were once wrong without a word, each with what it showed; n = 20,000 where `Auto` sums in O(n)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fastpde as fp
from fastpde.sums.pair_sum import PairSum
from fastpde.sums.sampling import few_directly, probes
from fastpde.weights import Exp

from . import pair_sums

N, PLANE = 20_000, np.eye(2)
TOL = 1e-8


def error(attention, x, backend="auto", **of):
    """The largest error at some targets, relative to the largest of the direct values there."""
    rows = np.unique(np.linspace(0, len(x) - 1, 700).astype(int))
    at = {"at": x[rows]} | ({"at_positions": rows.astype(float)} if isinstance(attention, fp.Masked) else {})
    want = attention.velocity(x, backend="direct", **at, **of)
    got = attention.velocity(x, backend=backend, **of)[rows]
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    finite = np.isfinite(want)
    return np.abs(got[finite] - want[finite]).max() / np.abs(want[finite]).max()


def equal_queries():
    x = np.random.default_rng(0).standard_normal((N, 2))
    x[:, 0] = 1
    return fp.Softmax([[1.0, 0.0]], [[0.0, 1.0]], PLANE), x


@pytest.mark.parametrize("backend", ["auto", "fast"])
def test_all_queries_are_equal(backend):
    """Off by 2e37: an eigenvalue of zero was floored at 1e-322, and coordinates of 1e80 met widths of 1e-80."""
    head, x = equal_queries()
    assert error(fp.MultiHead([head, head]), x, backend) < TOL


def test_a_run_with_equal_queries():
    """Ended COMPLETED with 3.7e36."""
    head, x = equal_queries()
    runs = [fp.solve(head, x, (0, 1), method="rk4", step=0.5, backend=b).x for b in ("auto", "direct")]
    assert np.abs(runs[0] - runs[1]).max() < 10 * TOL


class Wrong(fp.Fast):
    """Sums that are off by one, until it is told to be right."""

    wrong = True

    def _choose(self, task):
        choice = super()._choose(task)
        return (Off(choice[0]), choice[1]) if choice and self.wrong else choice


class Off:
    """A way that is off by one."""

    def __init__(self, way):
        self._way = way

    def attend(self, task, plan):
        self._way.attend(task, plan)
        task.out[:] += 1.0


def few(seed=0):
    return np.random.default_rng(seed).standard_normal((900, 1))


def test_every_head_is_checked():
    """Of two heads only the first one was."""
    x, heads = few(), [fp.Softmax([[q]], [[1.0]], [[1.0]]) for q in (1.0, 2.0)]
    backend = Wrong()
    got = fp.MultiHead(heads).velocity(x, backend=backend)
    np.testing.assert_allclose(got, fp.MultiHead(heads).velocity(x, backend="direct"), rtol=1e-13)
    assert backend.stats()["fast_checked"] == backend.stats()["fast_failed"] == 2


def test_every_velocity_of_its_own_is_checked():
    """Those after the first one of a backend were not."""
    x, backend, head = few(), Wrong(), fp.Softmax([[1.0]], [[1.0]], [[1.0]])
    backend.wrong = False
    head.velocity(x, backend=backend)
    backend.wrong = True
    np.testing.assert_allclose(head.velocity(x, backend=backend), head.velocity(x, backend="direct"), rtol=1e-13)


def test_after_a_failure_every_sum_is_checked_until_four_have_passed():
    """The 15 sums after one that had failed used the same grid unchecked."""
    x, backend = few(), Wrong()

    def steps(count, wrong):
        backend.wrong = wrong
        before = backend.stats()["fast_checked"]
        for _ in range(count):
            backend.attend(pair, out)
        return backend.stats()["fast_checked"] - before

    pair, out = PairSum(Exp(), True, x[None], x[None], history=np.zeros((1, 2))), np.empty((1, 900, 1))
    assert steps(6, wrong=True) == 6
    assert steps(10, wrong=False) == 4  # then those before the 17th sum are trusted
    assert steps(2, wrong=False) == 1


def test_what_is_counted_belongs_to_heads_and_systems_and_goes_with_a_checkpoint():
    """Two heads, 20 evaluations: the first and the 17th sum of each is checked. Cut in two, and the same bits."""
    x, heads = few(), [fp.Softmax([[q]], [[1.0]], [[-1.0]]) for q in (1.0, 2.0)]
    sol = fp.solve(fp.MultiHead(heads), x, (0, 1), method="rk4", step=0.2, backend="fast")
    assert sol.stats["evaluations"] == 20 and sol.stats["fast_checked"] == 4 and sol.stats["fast_failed"] == 0
    wrong = fp.solve(fp.MultiHead(heads), x, (0, 1), method="rk4", step=0.2, backend=Wrong())
    assert wrong.stats["fast_failed"] == wrong.stats["fast_checked"] == 40


@pytest.mark.parametrize("values", [np.arange(-5, 6), np.arange(-40, 41) / 8])
def test_masked_sums_of_integer_or_quantised_tokens(values):
    """Off by 0.52: a cell's slab was found by a product, and again by a quotient."""
    x = np.random.default_rng(0).choice(values, (N, 1)).astype(float)
    head = fp.Softmax([[4.0]], [[1.0]], [[1.0]])
    assert error(fp.Masked(fp.MultiHead([head, head])), x) < TOL


@pytest.mark.parametrize("thin", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("turned", [False, True])
def test_thin_directions_of_keys(thin, turned):
    """Off by 0.087: a covariance does not see what is below 1e-8 of the widest direction. A turned direction has lost
    1e-16 / thin of its digits before anything is summed."""
    x = np.random.default_rng(1).standard_normal((N, 2)) * [1.0, thin]
    c, s = (np.cos(0.3), np.sin(0.3)) if turned else (1.0, 0.0)
    R = np.array([[c, -s], [s, c]])
    x, A = x @ R.T, R @ np.diag([1.0, thin**-2]) @ R.T
    assert error(fp.Softmax(A, PLANE, PLANE), x) < TOL + (1e-15 / thin if turned else 0.0)


def test_a_direction_of_one_token():
    x = np.random.default_rng(2).standard_normal((N, 2)) * [1.0, 0.0]
    x[7, 1] = 1e-9
    assert error(fp.Softmax(np.diag([1.0, 1e19]), PLANE, PLANE), x) < TOL


def test_a_token_off_the_plane_of_the_others():
    """Off by 2.9e-7 at n = 1e5: the remainder of the values, judged by its variance, passed for rounding."""
    x = np.random.default_rng(0).standard_normal((N, 3))
    x[:, 2] = 0.0
    for off in (1e-3, 1e-6):
        x[7, 2] = off
        Q = np.array([[1.0, 0.5, 0.0]])
        assert error(fp.L2(Q, Q, np.eye(3)), x) < TOL


@pytest.mark.parametrize("q", [[0.0, 140.0], [40.0, 0.0]])
def test_totals_where_all_sources_that_matter_lie_on_one_point(q):
    """Off by 10 to 1800 in the log, infinite where the truth is 4.8e294, or no number: a box of no width was given
    targets' boxes of 2e28."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(-2, 3, N).astype(float), rng.standard_normal(N)], axis=1)
    for backend in ("auto", "fast"):
        # An error of the log of 1e-8, and of a score's own rounding, 1500 eps.
        assert error(fp.Exponential([q], [[1.0, 0.0]], PLANE), x, backend) < 2 * TOL


@pytest.mark.parametrize("bias", [0.0, -700.0])
def test_sigmoids_of_very_negative_scores(bias):
    """An OverflowError; and weights of 1e-34 that were 8e-31."""
    x = 30 + np.random.default_rng(0).standard_normal((N, 1))
    attention = fp.Sigmoid([[1.0]], [[-1.0]], [[1.0]], bias=bias)
    assert np.isfinite(attention.velocity(x)).all()
    few = x[:50].astype(np.float32) / np.float32(3.4)  # scores about -78
    got = fp.Sigmoid([[1.0]], [[-1.0]], [[1.0]]).velocity(few)
    s = np.outer(few.astype(float), few.astype(float))
    np.testing.assert_allclose(got, np.exp(-s) @ few.astype(float) / 50, rtol=1e-4)  # eps of the scores


@pytest.mark.parametrize("unit", [1e-200, 1e-160, 1e160, 1e200])
def test_tokens_in_tiny_and_huge_units(unit):
    """Off by 3e-3 and 0.5: squares of tokens, and the product of Q and K, were beyond the range of numbers."""
    x = np.random.default_rng(0).standard_normal((N, 2))
    for kind in (fp.Softmax, fp.L2):
        want = kind(PLANE, PLANE, PLANE).velocity(x, at=x[:200], backend="direct")
        got = kind(PLANE / unit, PLANE / unit, PLANE).velocity(unit * x)[:200] / unit
        assert np.abs(got - want).max() < TOL * 5


def test_systems_and_axes_in_units_of_their_own():
    """Uniform attention: K^T Q was judged by the largest of all its entries and systems, and 1e-400 is zero."""
    x = np.random.default_rng(0).standard_normal((50, 1))
    Q = np.array([[[1.0]], [[1e-200]]])
    for kind in (fp.Softmax, fp.L2):
        want = kind(Q[0], Q[0], Q[0]).velocity(x)
        both = kind(Q, Q, [[1.0]]).velocity(np.stack([x, 1e200 * x]))
        np.testing.assert_allclose(both[1] / 1e200, want, atol=1e-13)
        plane = np.random.default_rng(1).standard_normal((50, 2))
        units = np.array([1.0, 1e200])
        got = kind(np.diag(1 / units), np.diag(1 / units), PLANE).velocity(plane * units)
        np.testing.assert_allclose(got / units, kind(PLANE, PLANE, PLANE).velocity(plane), atol=1e-13)


def test_bits_of_masked_sums_do_not_depend_on_the_other_targets():
    """Weights over many decades were lifted by what the targets of a call saw."""
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((1, 256, 2)), np.exp2(np.sort(-60 * rng.random(256)))[None]
    pair = PairSum(Exp(), True, x, x, masses=weights / weights.sum(), limits=np.arange(1, 257))
    whole, part = np.empty_like(x), np.empty((1, 128, 2))
    fp.Direct().attend(pair, whole)
    late = replace(pair, targets=np.ascontiguousarray(x[:, 128:]), limits=np.arange(129, 257))
    fp.Direct().attend(late, part)
    np.testing.assert_array_equal(part, whole[:, 128:])


def test_the_unit_of_sigmoid_sums_sees_the_sources_that_weigh():
    """Off by 323 times the tolerance: of 128 sources drawn at random none was the one that had all the weight."""
    rng = np.random.default_rng(37)
    x = 1 + 0.2 * rng.standard_normal((N, 1))
    x[0] = -37.0
    weights = np.full(N, 1e-300)
    weights[0] = 1.0
    at, attention = x[1:2000], fp.Sigmoid([[1.0]], [[1.0]], [[1.0]])
    got, want = (attention.velocity(x, at=at, weights=weights, backend=b) for b in ("fast", "direct"))
    assert np.abs(got - want).max() <= TOL * np.abs(x).max() * np.mean(1 / (1 + np.exp(-at * x[0])))


def test_rounding_has_moved_all_keys_from_their_centre_alike():
    """A direction without width had a box of infinite targets: a warning, and a direct sum."""
    verdict = pair_sums.verdict(pair_sums.case(19137))
    assert verdict.good and verdict.how == "masked tree"


def test_targets_to_check_in_single_precision():
    """A warning of a division of zero by zero: the least width of a box was zero in single precision."""
    z = np.stack([np.ones(100), np.linspace(-1e30, 1e30, 100)]).astype(np.float32)
    rows = probes(z, 4, 2)
    assert {0, 99} <= set(rows.tolist())


def test_neighbours_that_are_farthest_are_all_checked():
    """Targets were searched in parts, of each of which only a few were kept: those of tokens in order lie together."""
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 100_000))
    z[:, 70_000:70_008] = np.array([4.0, -4.0, 3.8, -3.8, 3.6, -3.6, 3.4, -3.4])
    assert set(range(70_000, 70_008)) <= set(probes(z, 4, 8).tolist())


def test_a_part_of_the_sources_without_weight():
    """The check sums sources part by part: one of weight zero has no mean."""
    rng, n = np.random.default_rng(0), 70_000
    masses = np.where(np.arange(n) < 30_000, 1.0 / 30_000, 0.0)[None]
    pair = PairSum(Exp(), True, rng.standard_normal((1, 3, 2)), rng.standard_normal((1, n, 2)), masses=masses)
    found, _ = few_directly(pair)
    weights = np.exp(pair.targets[0] @ pair.keys[0].T) * masses
    np.testing.assert_allclose(found, weights @ pair.keys[0] / weights.sum(axis=1, keepdims=True), rtol=1e-12)
