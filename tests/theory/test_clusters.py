"""Clusters against blobs that are known, and against single linkage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components

import fastpde as fp

RNG = np.random.default_rng(8)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 2, 3, 4, 8])
def test_blobs(d, dtype):
    """Number, sizes, masses, positions and labels of blobs 10 apart and 1 wide, some on the corners of a grid."""
    centres = 10.0 * np.stack([np.arange(5)] * d, axis=1) * RNG.choice([-1, 1], d)
    counts = np.array([400, 300, 200, 60, 40])
    truth = RNG.permutation(np.repeat(np.arange(5), counts))
    x = (centres[truth] + RNG.uniform(-0.5, 0.5, (1000, d))).astype(dtype)
    found = fp.clusters(x, 1.5)
    assert len(found) == 5
    np.testing.assert_array_equal(found.sizes, counts)
    np.testing.assert_array_equal(found.labels, truth)
    for label, position in enumerate(found.positions):
        np.testing.assert_allclose(position, x[truth == label].mean(axis=0, dtype=float), rtol=1e-12, atol=1e-12)
    w = np.where(truth == 4, 26.0, 1.0)  # masses 400, 300, 200, 60 and 1040, of 2000
    weighted = fp.clusters(x, 1.5, weights=w / w.sum())
    np.testing.assert_array_equal(weighted.sizes, [40, 400, 300, 200, 60])
    np.testing.assert_allclose(weighted.masses, np.array([1040, 400, 300, 200, 60]) / 2000, rtol=1e-12)
    assert weighted.count() == 5 and weighted.count(0.12) == 3


def joined(x, length):
    """Labels of the components of the graph of all pairs within `length`."""
    wide = x.astype(float)
    near = np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(axis=2)) <= length
    return connected_components(near, directed=False)[1]


def same(labels, others):
    """Whether two labellings are of the same clusters."""
    return len(set(zip(labels, others, strict=True))) == len(set(labels)) == len(set(others))


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_single_linkage(d):
    for length in (0.05, 0.15, 0.4):
        x = RNG.normal(size=(150, d))
        assert same(fp.clusters(x, length).labels, fcluster(linkage(x, "single"), length, "distance"))


def test_a_turn_changes_nothing():
    x = np.concatenate([c + 0.3 * RNG.normal(size=(200, 3)) for c in ((0, 0, 0), (3, 3, 0), (-2, 4, 1))])
    for _ in range(5):
        turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
        assert same(fp.clusters(x, 0.3).labels, fp.clusters(x @ turn, 0.3).labels)


def test_a_chain_and_the_ends():
    chain = np.arange(1000.0)[:, None] * 0.9
    assert len(fp.clusters(chain, 1.0)) == 1
    assert len(fp.clusters(chain, 0.4)) == 1000
    assert len(fp.clusters(np.zeros((7, 3)), 1e-9)) == 1
    one = fp.clusters([[2.0, 3.0]], 1.0)
    np.testing.assert_array_equal(one.positions, [[2.0, 3.0]])
    # More cells than 2^62: rows are compared then.
    far = np.array([[0.0] * 5, [1e6] * 5, [1e6 + 0.4] * 5])
    np.testing.assert_array_equal(fp.clusters(far, 0.8).sizes, [1, 1, 1])
    np.testing.assert_array_equal(fp.clusters(far, 1.0).sizes, [2, 1])


@pytest.mark.parametrize("d", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_pair_of_a_lattice(d, dtype):
    """Against all pairs, on decimal lattices that are moved, and tokens a rounding beside: many are at `length`."""
    rng = np.random.default_rng(d)
    for _ in range(40):
        length = float(rng.choice([0.1, 0.2, 0.3, 0.7, 1.1]))
        x = (rng.integers(-12, 12, (60, d)) * length / rng.integers(1, 4) + rng.choice([0.0, 0.1, -2.3])).astype(dtype)
        x[::5] = np.nextafter(x[::5], dtype(9))
        assert same(fp.clusters(x, length).labels, joined(x, length))


@pytest.mark.parametrize("gap", [0.999, 1.0, 1.001])
def test_two_dense_clouds(gap):
    """Cells of many tokens, whose closest pair is at the length, as computed, or next to it."""
    x = np.concatenate([RNG.uniform(-0.1, 0.0, (3000, 2)), RNG.uniform(0.0, 0.1, (3000, 2)) + np.array([gap, 0.0])])
    x[10], x[3010] = (0.0, 0.05), (gap, 0.05)
    assert len(fp.clusters(x, 1.0)) == (1 if gap <= 1.0 else 2)
    assert len(fp.clusters(x, np.nextafter(gap, 0.0))) == 2 and len(fp.clusters(x, gap)) == 1


def test_progress_is_reported(capsys):
    seen, x = [], RNG.normal(size=(500, 5))
    fp.clusters(x, 0.3, progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0 and all(done <= total for done, total in seen) and sorted(seen) == seen
    fp.clusters(x, 0.3, progress=True)
    assert "cells" in capsys.readouterr().err
    with pytest.raises(fp.InputTypeError, match="progress"):
        fp.clusters(x, 0.3, progress=3)


def test_what_is_refused():
    for x, length, name in (([[1.0]], 0.0, "length"), ([[[1.0]]], 1.0, "x"), ([[0.0], [1.0]], 1e-300, "length")):
        with pytest.raises(fp.InputError) as caught:
            fp.clusters(x, length)
        assert caught.value.name == name


def test_clusters_of_a_run():
    """Softmax with Q = K = V = 1 on three groups of a line: the one in the middle joins an end (order is kept)."""
    x = np.concatenate([c + 0.01 * RNG.normal(size=20) for c in (-2.0, 0.3, 2.0)])[:, None]
    times = np.linspace(0.0, 3.0, 21)
    run = fp.solve(fp.Softmax([[1.0]], [[1.0]], [[1.0]]), x, (0.0, 3.0), t_eval=times)
    counts = [len(fp.clusters(tokens / np.abs(tokens).max(), 0.1)) for tokens in run.x]
    found = fp.plateaus(times, counts, least=0.3)
    assert [plateau.count for plateau in found] == [3, 2]
    assert found[0].start == 0.0 and found[1].end == 3.0


def test_plateaus():
    t = [0.0, 1.0, 2.0, 3.0, 5.0, 8.0]
    found = fp.plateaus(t, [4, 4, 3, 2, 2, 2])
    assert found == [fp.Plateau(0.0, 1.0, 4), fp.Plateau(2.0, 2.0, 3), fp.Plateau(3.0, 8.0, 2)]
    assert fp.plateaus(t, [4, 4, 3, 2, 2, 2], least=2.0) == [fp.Plateau(3.0, 8.0, 2)]
    with pytest.raises(fp.InputError, match="rising"):
        fp.plateaus([0.0, 0.0], [1, 1])
    with pytest.raises(fp.InputError, match="counts"):
        fp.plateaus(t, [1, 1])
