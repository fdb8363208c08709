"""Sums of products of values with keys in O(n), against long double sums pair by pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fastpde as fp
from fastpde import weights
from fastpde.simd import pool
from fastpde.sums import ways
from fastpde.sums.direct import Direct
from fastpde.sums.pair_sum import PairSum

TOL = 1e-8


def values_of(kind, rng, n):
    """Values that are the keys, that are centred or not, that have one number in a column, or zero in all."""
    some = rng.normal(size=(1, n, 2))
    same = np.concatenate([np.ones((1, n, 1)), some[:, :, 1:]], axis=2)
    return {"keys": None, "random": some, "far": some + 100.0, "one the same": same, "zero": 0.0 * some}[kind]


def naive(pair, rows):
    """Return the means and the logs of the totals for some targets, and the columns whose means they are."""
    y = np.longdouble(pair.keys[0])
    s = np.longdouble(pair.targets[0][rows]) @ y.T + (0.0 if pair.bias is None else pair.bias[0])
    w = np.exp(s - s.max(axis=1, keepdims=True)) * (1.0 / len(y) if pair.masses is None else pair.masses[0])
    if pair.limits is not None:
        w = np.where(np.arange(len(y)) < pair.limits[rows][:, None], w, 0.0)
    values = y if pair.values is None else np.longdouble(pair.values[0])
    columns = np.concatenate([values, (values[:, :, None] * y[:, None]).reshape(len(y), -1)], axis=1)
    total = w.sum(axis=1, keepdims=True)
    found = w @ columns / total
    return found, (np.log(total) + s.max(axis=1, keepdims=True)), columns


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(("way", "d", "size", "n"), [("grid", 1, 1, 3000), ("grid", 3, 1, 3000), ("grid", 2, 1, 3000),
                                                     ("windows", 2, 1, 3000), ("tree", 2, 12, 12000)])  # fmt: skip
def test_against_pairs(way, d, size, n, normalised):
    """The unit of errors is that of other sums in O(n): the largest spread of a column, times the total."""
    rng = np.random.default_rng([d, size, normalised])
    y = rng.normal(size=(1, n, d))
    limits = np.sort(rng.integers(1, n + 1, n)) if way == "windows" else None
    pair = PairSum(weights.Exp(), normalised, size * (y @ rng.normal(size=(d, d))), y, limits=limits, products=True)
    masses = np.exp(rng.normal(size=(1, n)))
    more = {"random": {"masses": masses / masses.sum()}, "keys": {"bias": rng.normal(size=(1, n))}}
    for kind in ["keys", "random", "far", "one the same", "zero"] if way == "grid" else ["keys", "random"]:
        one = replace(pair, values=values_of(kind, rng, n), **more.get(kind, {}))
        out = np.full((n, one.width), np.nan)
        ways.only(next(w for w in ways.WAYS if w.name == way), one, out, np.empty(0), Direct(), TOL)
        rows = rng.integers(0, n, 30)
        want, logs, columns = naive(one, rows)
        got = out[rows] if normalised else out[rows] / np.exp(logs)
        spread = float(np.abs(columns - columns.mean(axis=0)).max())
        unit = spread if normalised else max(spread, float(np.abs(columns).max()))
        assert np.abs(got - want).max() <= TOL * unit, kind


def test_a_pair_sum_says_what_it_carries():
    rng = np.random.default_rng(4)
    x, v = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 2))
    pair = PairSum(weights.Exp(), True, x, x, v, products=True)
    assert pair.width == 8 and pair.columns == 11
    np.testing.assert_array_equal(pair.carried[:, :, 2:].reshape(2, 5, 2, 3), v[..., None] * x[:, :, None])
    assert replace(pair, products=False).carried is v


def test_bits_do_not_depend_on_the_number_of_threads():
    if pool.most() < 2:
        pytest.skip("one thread")
    x, c = np.random.default_rng(5).normal(size=(2, 9000, 2))
    attention, found, before = fp.Softmax(np.eye(2), -np.eye(2), np.eye(2)), [], pool.threads()
    for threads in (1, 2):
        pool.set_threads(threads)
        try:
            backend = fp.Fast(1e-8)
            pulled = attention.vjp(x, c, backend=backend)
            found.append([attention.jvp(x, c, backend=backend)[1], pulled.x, *pulled.parameters.values()])
            assert backend.stats()["fast_sums"] == 3 and backend.stats()["direct_sums"] == 0
        finally:
            pool.set_threads(before)
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
