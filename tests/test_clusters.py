"""Clusters against blobs that are known, and against single linkage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

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


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_between_two_single_linkages(d):
    """Tokens within `length` in every coordinate are together; what is together is linked by steps of 2 `length`."""
    for length in (0.05, 0.15, 0.4):
        x = RNG.normal(size=(150, d))
        labels = fp.clusters(x, length).labels
        tree = linkage(x, "single", metric="chebyshev")
        fine, coarse = fcluster(tree, length, "distance"), fcluster(tree, 2 * length * (1 + 1e-12), "distance")
        assert len(set(zip(fine, labels, strict=True))) == len(set(fine))
        assert len(set(zip(labels, coarse, strict=True))) == len(set(labels))


def test_a_chain_and_the_ends():
    chain = np.arange(1000.0)[:, None] * 0.9
    assert len(fp.clusters(chain, 1.0)) == 1
    assert len(fp.clusters(chain, 0.4)) == 1000
    assert len(fp.clusters(np.zeros((7, 3)), 1e-9)) == 1
    one = fp.clusters([[2.0, 3.0]], 1.0)
    np.testing.assert_array_equal(one.positions, [[2.0, 3.0]])
    # More cells than 2^62: rows are compared then.
    far = np.array([[0.0] * 5, [1e6] * 5, [1e6 + 0.5] * 5])
    np.testing.assert_array_equal(fp.clusters(far, 1e-1).sizes, [1, 1, 1])
    np.testing.assert_array_equal(fp.clusters(far, 1.0).sizes, [2, 1])


def test_exactly_a_length_apart():
    """Tokens on the faces of cells: those whose difference, as computed, is at most `length` are together."""
    assert len(fp.clusters([[-0.2], [-0.1], [-0.9]], 0.1)) == 2
    for length in (0.1, 0.3, 1 / 3, 0.7):
        for start in (0.0, -0.9, 1.1, -17.3):
            for count in (9, 300):  # a chain: what is moved at one face moves what is behind the next
                x = start + length * np.arange(count)[:, None]
                far = np.diff(x[:, 0]) > length
                assert len(fp.clusters(x, length)) <= 1 + far.sum()
                # Two lengths apart they are apart, where the numbers are exact.
                assert len(fp.clusters(np.arange(count)[:, None] * 0.5, 0.25)) == count


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_pair_of_a_lattice(d, dtype):
    """Against all pairs, on decimal lattices that are moved along, and tokens a rounding beside."""
    rng = np.random.default_rng(d)
    for _ in range(40):
        length = float(rng.choice([0.1, 0.2, 0.3, 0.7, 1.1]))
        x = (rng.integers(-12, 12, (60, d)) * length / rng.integers(1, 4) + rng.choice([0.0, 0.1, -2.3])).astype(dtype)
        x[::5] = np.nextafter(x[::5], dtype(9))
        labels = fp.clusters(x, length).labels
        wide = x.astype(float)
        near = (np.abs(wide[:, None] - wide[None]).max(axis=2) <= length).nonzero()
        np.testing.assert_array_equal(labels[near[0]], labels[near[1]])


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
    counts = [len(fp.clusters(tokens / np.abs(tokens).max(), 0.05)) for tokens in run.x]
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
