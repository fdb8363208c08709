"""Sums over clouds with large logits: trees of boxes, what is left out, prices, and errors against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.kernels import pruned, reduce
from fastpde.sums import planning
from fastpde.sums.box import Box
from fastpde.sums.box_tree import Judge
from fastpde.sums.tree_pair import TreePair

from ..naive import wide
from .test_fast import error, take

NONE = np.empty(0)


def cloud(name, n, d, seed=0):
    """Clouds whose sums need more than one grid."""
    rng = np.random.default_rng([seed, d])
    g = rng.standard_normal((n, d))
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    return {
        "heavy tails": rng.standard_t(1.5, (n, d)),
        "ball, logits of 1000": 31 * u * rng.random((n, 1)) ** (1 / d),
        "sphere, logits of 1000": 31 * u,
        "stretched": 10 * g * np.geomspace(1, 0.01, d),
        "clusters": 8 * rng.standard_normal((20, d))[rng.integers(0, 20, n)] + 1e-2 * g,
        "one point and one far away": np.where(np.arange(n)[:, None] == 7, 30.0, 1.0) * np.ones(d),
    }[name]


CLOUDS = [
    "heavy tails",
    "ball, logits of 1000",
    "sphere, logits of 1000",
    "stretched",
    "clusters",
    "one point and one far away",
]


def trees_of(y, z, bias=NONE, share=1e-10):
    halves = (np.ptp(y, axis=1) / 2, np.ptp(z, axis=1) / 2)
    return TreePair(y, z, bias, halves, share, take)


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("d, n", [(1, 1), (1, 25), (2, 1000), (3, 1500)])
def test_trees_hold_every_point_once_in_tight_boxes(name, d, n):
    points = np.ascontiguousarray(cloud(name, n, d).T)
    trees = trees_of(points, points)
    for tree, unit in ((trees.sources, pruned.SOURCES), (trees.targets, pruned.TARGETS)):
        np.testing.assert_array_equal(np.sort(tree.order), np.arange(n))
        np.testing.assert_array_equal(tree.points, points[:, tree.order])
        leaves = tree.right < 0
        ends = tree.ends[leaves]
        assert ends[0, 0] == 0 and ends[-1, 1] == n and (ends[1:, 0] == ends[:-1, 1]).all()
        assert (np.diff(ends, axis=1) <= unit).all() and (ends[:, 0] % unit == 0).all()
        for (first, last), low, high in zip(tree.ends, tree.low, tree.high, strict=True):
            np.testing.assert_array_equal(low, tree.points[:, first:last].min(axis=1))
            np.testing.assert_array_equal(high, tree.points[:, first:last].max(axis=1))
        inner = np.flatnonzero(~leaves)
        np.testing.assert_array_equal(tree.ends[inner, 1], tree.ends[tree.right[inner], 1])
        assert (tree.skip[tree.right[inner]] == tree.skip[inner]).all() and tree.skip[0] == len(tree.right)


@pytest.mark.parametrize("biased", [False, True])
def test_what_is_left_out_does_not_matter(biased):
    """For every leaf of targets, at every target; and something is left out."""
    rng = np.random.default_rng(0)
    y, z = 4 * rng.normal(size=(2, 3000)), (32 if biased else 4) * rng.normal(size=(2, 400))
    bias = -4 * np.square(y).sum(axis=0) + rng.normal(size=3000) if biased else NONE
    trees = trees_of(y, z, bias)
    scores = z.T @ y + (bias if biased else 0.0)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    kept = []
    for leaf in trees.leaves:
        own = trees.targets.order[slice(*trees.targets.ends[leaf])]
        near = trees.sources.order[trees.indices(leaf)]
        lost = np.delete(weights[own], near, axis=1).sum(axis=1) / weights[own].sum(axis=1)
        assert lost.max() < 1e-10
        kept.append(len(near))
    assert np.mean(kept) < 0.7 * 3000
    counts, ends = trees.near(trees.leaves)
    np.testing.assert_array_equal(counts, kept)
    assert (ends[:, 0] >= y.min(axis=1)).all() and (ends[:, 1] <= y.max(axis=1)).all()


def test_bounds_hold_at_random_targets():
    """The two sides of the docstring of `kernels.pruned`, for every node; with rounding of sums of 2000 terms."""
    rng = np.random.default_rng(1)
    y = 2 * rng.normal(size=(3, 2000))
    bias = -np.square(y).sum(axis=0) + rng.normal(size=2000)
    tree, z = trees_of(y, y, bias).sources, 5 * rng.normal(size=(3, 20))
    for node, (first, last) in enumerate(tree.ends):
        points = tree.points[:, first:last]
        total = np.log(np.exp(z.T @ points[:3] + points[3]).sum(axis=1))
        tilted = z + tree.slope[node][:, None]
        below = tree.weight[node] + tree.mean[node] @ tilted
        above = tree.weight[node] + np.maximum(tree.low[node][:, None] * tilted, tree.high[node][:, None] * tilted).sum(
            0
        )
        assert (below <= total + 1e-9).all() and (total <= above + 1e-9).all()


@pytest.mark.parametrize("channels", [0, 1, 7])
def test_sums_over_what_matters(channels):
    """Means of coordinates and channels, and totals, against all pairs; 9 values are more than one panel holds."""
    rng = np.random.default_rng(channels)
    y, z = 3 * rng.normal(size=(2, 700)), 3 * rng.normal(size=(2, 333))
    bias, rest = rng.normal(size=700), rng.normal(size=(channels, 700))
    trees = trees_of(y, z, bias, 1e-13)
    out, logs = np.empty((333, 2 + channels)), np.empty(333)
    result = reduce.Result(np.eye(2 + channels), np.zeros(2 + channels), 0.0, NONE, out, logs)
    assert trees.attend(trees.leaves, rest, True, result) == 333
    s = wide(z).T @ wide(y) + wide(bias)
    top = s.max(axis=1, keepdims=True)
    p = np.exp(s - top)
    want = p @ np.concatenate([y, rest]).T / p.sum(axis=1, keepdims=True)
    # 4 u times logits up to 100, and the share left out times values of size 10
    np.testing.assert_allclose(out, want.astype(float), atol=1e-12)
    np.testing.assert_allclose(logs, (top[:, 0] + np.log(p.sum(axis=1))).astype(float), atol=1e-12)


def test_prices_are_those_of_plans():
    rng = np.random.default_rng(0)
    loads = np.concatenate([rng.uniform(0.02, 80, (30, 3)), [[200.0, 60.0, 1.0]]])
    sizes = rng.integers(10, 10**6, 31)
    seconds = planning.prices(loads, sizes, sizes, 1e-8)
    for L, n, price in zip(loads, sizes, seconds, strict=True):
        found = planning.plan(L, n, n, 1e-8)
        assert (price == np.inf) if found is None else (price == found.seconds and found.error < 1e-8)
    assert seconds[-1] == np.inf and np.isfinite(seconds).sum() > 10


def test_ways_are_the_cheapest_and_hold_every_target_once():
    points = np.ascontiguousarray(cloud("ball, logits of 1000", 20000, 2).T)
    trees = trees_of(points, points)
    ends, span = np.stack([points.min(axis=1), points.max(axis=1)]), np.ptp(points, axis=1) / 2

    def box(y_ends, z_ends):
        return Box.around(y_ends, z_ends, span, 0.02)

    judge = Judge(trees, 0, box, 1e-8, 1, (1, 1), 1000)
    leaves = np.concatenate([trees.below(node) for node, _, _ in judge.ways])
    np.testing.assert_array_equal(np.sort(leaves), trees.leaves)
    whole = planning.plan(box(ends, ends).loads, 20000, 20000, 1e-8)
    assert whole is None  # logits of 1000 are out of the range of one grid
    assert 0 < judge.seconds < 20000**2 / 0.45e9 / 3


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_errors_of_hard_clouds(d, name):
    """Trees are used (6000 tokens are enough), weighted and not; logits up to L cost 4 u L."""
    x = cloud(name, 6000, d)
    weights = np.random.default_rng(0).uniform(0.01, 1.0, 6000)
    logits = np.square(x).sum(axis=1).max()
    for tol in (1e-4, 1e-8):
        for attention in (fp.Softmax(*[np.eye(d)] * 3), fp.L2(np.eye(d), np.eye(d), np.eye(d))):
            backend = fp.Fast(tol)
            options = {"weights": weights / weights.sum()} if tol == 1e-8 else {}
            assert error(attention, x, backend, slice(None, None, 97), **options) < max(tol, 4 * 2.0**-52 * logits)
            assert backend.report["error_bound"] < tol


def test_unnormalised_sums_and_other_points():
    """Sums of e^{<x, y>} with logits of 400, at points of another cloud: relative to the largest."""
    x, at = cloud("clusters", 6000, 2)[:, ::-1].copy() / 2, np.random.default_rng(0).normal(size=(3000, 2))
    attention = fp.Exponential(*[np.eye(2)] * 3)
    want = attention.velocity(x, at=at, backend="direct")
    got = attention.velocity(x, at=at, backend=fp.Fast(1e-9))
    assert (np.abs(got - want).max(axis=1) < 1e-8 * np.abs(want).max(axis=1)).all()


def test_the_check_reaches_every_large_part():
    backend, tasks = fp.Fast(1e-8), []
    backend._checked._passes = lambda task, estimate, whole=backend._checked._passes: (
        tasks.append(task) or whole(task, estimate)
    )
    x = cloud("ball, logits of 1000", 30000, 2) * 14 / 31
    fp.Softmax(*[np.eye(2)] * 3).velocity(x, backend=backend)
    assert backend.report["grids"] > 1 and len(tasks[0].parts) == backend.report["grids"]
    assert 0 < backend.report["error_sampled"] < 1e-8


def test_threads_change_no_bit():
    from fastpde import sums

    x = cloud("ball, logits of 1000", 20000, 2)
    attention = fp.Softmax(*[np.eye(2)] * 3)
    two = attention.velocity(x, backend=fp.Fast(1e-8))
    sums.set_threads(1)
    try:
        one = attention.velocity(x, backend=fp.Fast(1e-8))
    finally:
        sums.set_threads(2)
    np.testing.assert_array_equal(one, two)
