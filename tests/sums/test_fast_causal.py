"""Masked O(n) sums: windows, halves and running sums against direct sums, which are exact, and their parts."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.kernels import causal as kernels
from fastpde.sums import masked_windows

TOL = 1e-9
BOUND = 1e-8  # of the largest velocity: tol is relative to the spread of the tokens, and V is of order one


def parts(monkeypatch):
    """Names of the ways that sums are made, as they are used."""
    used = []
    for owner, name in ((masked_windows, "_in_windows"), (masked_windows._Halves, "add"), (masked_windows, "_alike")):
        whole = getattr(owner, name)

        def noted(*args, name=name, whole=whole):
            used.append(name)
            return whole(*args)

        monkeypatch.setattr(owner, name, noted)
    return used


def difference(attention, x, **options):
    """The largest difference of fast and direct velocities, relative to the largest."""
    want = attention.velocity(x, **options, backend="direct")
    return np.abs(attention.velocity(x, backend=fp.Fast(TOL), **options) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("d, n", [(1, 2500), (2, 5000), (3, 6000)])
@pytest.mark.parametrize("positions", ["order", "ties", "one", "permuted"])
def test_windows(d, n, positions, monkeypatch):
    """Tokens in order; ties across windows; all at one position; any order."""
    rng = np.random.default_rng(d)
    at = {"order": None, "ties": np.sort(rng.integers(0, 9, n)), "one": np.zeros(n), "permuted": rng.permutation(n)}
    x, V, eye = 0.6 * rng.normal(size=(n, d)), rng.normal(size=(d, d)), np.eye(d)
    weights = rng.uniform(0.1, 2.0, n)
    used = parts(monkeypatch)
    for attention in (fp.Softmax(eye, eye, V), fp.L2(eye, 0.5 * eye, V), fp.Exponential(eye, eye, V)):
        options = {"positions": at[positions], "weights": weights / weights.sum()}
        assert difference(fp.Masked(attention), x, **options) < BOUND
    assert set(used) == (set() if positions == "one" else {"_in_windows"})


def test_windows_of_other_points_heads_and_low_rank_scores(monkeypatch):
    used = parts(monkeypatch)
    rng = np.random.default_rng(0)
    x, (Q, K) = rng.normal(size=(5000, 6)) / 3, rng.normal(size=(2, 2, 2, 6)) / 2
    heads = [fp.Softmax(Q[0], K[0], rng.normal(size=(3, 6))), fp.L2(Q[1], K[1], rng.normal(size=(3, 6)))]
    attention = fp.Masked(fp.MultiHead(heads, W=rng.normal(size=(2, 6, 3))))
    assert difference(attention, x) < BOUND
    places = rng.integers(0, 5000, 3000)  # many see the same, some see one token only
    places[:3] = 0
    assert difference(attention, x, at=rng.normal(size=(3000, 6)) / 3, at_positions=places) < BOUND
    assert used == ["_in_windows"] * 4


@pytest.mark.parametrize("memory", [1e4, 1e6])
def test_parts_of_the_windows_and_of_their_neighbourhoods(memory, monkeypatch):
    """What is held at a time changes no more than rounding."""
    x, attention = np.random.default_rng(0).normal(size=(6000, 2)) / 2, fp.Masked(fp.Softmax(*[np.eye(2)] * 3))
    whole = attention.velocity(x, backend=fp.Fast(TOL))
    monkeypatch.setattr(masked_windows, "_MEMORY", memory)
    np.testing.assert_allclose(attention.velocity(x, backend=fp.Fast(TOL)), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_halves_where_logits_are_too_large(d, monkeypatch):
    """Two tight clusters with logits of 400 d, and a cloud that moves from one side to the other: log-weights of its
    late tokens are 300 above those of early ones."""
    monkeypatch.setattr(masked_windows, "_LONG", 0.0)
    monkeypatch.setattr(masked_windows, "_LEAF", 600)
    used = parts(monkeypatch)
    rng = np.random.default_rng(d)
    n, eye = 5000, np.eye(d)
    clusters = np.where(rng.random(n)[:, None] < 0.5, 20.0, -20.0) + 1e-3 * rng.normal(size=(n, d))
    moving = 0.3 * rng.normal(size=(n, d)) + np.linspace(-18, 18, n)[:, None]
    for x in (clusters, moving):
        for positions in (None, np.sort(rng.integers(0, 40, n))):
            assert difference(fp.Masked(fp.Softmax(eye, eye, eye)), x, positions=positions) < BOUND
    assert "_in_windows" not in used and used.count("add") > 20


def test_no_logits(monkeypatch):
    """Scores that are all the same: running means. The tolerance is rounding of 5000 terms."""
    used = parts(monkeypatch)
    rng = np.random.default_rng(0)
    x, zero, eye = rng.normal(size=(5000, 2)), np.zeros((2, 2)), np.eye(2)
    weights = rng.uniform(0.1, 2.0, 5000)
    weights /= weights.sum()
    for attention in (fp.Softmax(zero, eye, eye), fp.Exponential(zero, eye, eye)):
        assert difference(fp.Masked(attention), x, weights=weights) < 1e-13
    assert difference(fp.Masked(fp.Softmax(eye, eye, eye)), np.full((5000, 2), 0.7)) < 1e-14
    assert used == ["_alike"] * 3


def test_threads_change_no_bit():
    from fastpde import sums

    attention = fp.Masked(fp.Softmax(*[np.eye(2)] * 3))
    x = np.random.default_rng(0).normal(size=(9000, 2))
    many = attention.velocity(x, backend=fp.Fast(TOL))
    sums.set_threads(1)
    try:
        one = attention.velocity(x, backend=fp.Fast(TOL))
    finally:
        sums.set_threads(2)
    np.testing.assert_array_equal(one, many)


def test_joining_sums():
    """Means and log-weights of two sets of sources, one of which may be empty, are those of the union."""
    means, logs = np.array([[1.0], [2.0], [np.nan]]), np.array([np.log(3.0), -np.inf, -np.inf])
    more, their = np.array([[[5.0], [7.0], [9.0]]]), np.array([[np.log(1.0), 800.0, -np.inf]])
    kernels.join(more, their, np.array([0]), np.array([3]), means, logs)
    np.testing.assert_allclose(means[:2, 0], [2.0, 7.0], rtol=1e-15)
    np.testing.assert_allclose(logs, [np.log(4.0), 800.0, -np.inf], rtol=1e-15)
