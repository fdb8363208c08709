"""Sums with a second score, against long double sums pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import weights
from fastpde.sums.pair_sum import PairSum, SecondScore

B, M, N, K, Q, C, E = 2, 21, 230, 3, 5, 4, 2


def naive(pair: PairSum, second: SecondScore) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = [np.longdouble(a) for a in (pair.targets, pair.keys, pair.values)]
    s = np.einsum("bmk,bnk->bmn", wide[0], wide[1])
    if pair.bias is not None:
        s = s + pair.bias[:, None]
    top = s.max(axis=2, keepdims=True) if weights.is_exponential(pair.weight) else np.longdouble(0.0)
    w = pair.weight.value(s - top)
    masses = np.full((1, N), 1.0 / N) if pair.masses is None else pair.masses
    w = w * masses[:, None]
    if pair.limits is not None:
        w = np.where(np.arange(N) < pair.limits[:, None], w, 0.0)
    total = w.sum(axis=2, keepdims=True)
    t = np.einsum("bmq,bnq->bmn", np.longdouble(second.targets), np.longdouble(second.keys))
    values = np.concatenate([second.values, np.ones((B, N, 1))], axis=2)
    factor = 1.0 / total if pair.normalised else np.exp(top)
    logs = (np.log(np.abs(total)) + top)[:, :, 0]
    return factor * (w @ wide[2]), factor * ((w * t) @ np.longdouble(values)), logs


@pytest.mark.parametrize("backend", ["direct", "columns"])
@pytest.mark.parametrize("kind", ["softmax", "plain exp", "sigmoid", "own"])
@pytest.mark.parametrize("size", [1.0, 40.0])
@pytest.mark.parametrize("masked", [False, True])
def test_against_pairs(backend, kind, size, masked):
    rng = np.random.default_rng([len(kind), int(size), masked])
    weight = {"sigmoid": weights.Sigmoid(), "own": fp.Weight(lambda s: 1.0 / (1.0 + s * s))}.get(kind, weights.Exp())
    if kind == "plain exp":
        size = min(size, 15.0)
    masses = np.exp(rng.normal(scale=8.0 if kind == "softmax" else 1.0, size=(B, N)))
    masses /= masses.sum(axis=1, keepdims=True)
    pair = PairSum(
        weight, kind == "softmax", size * rng.normal(size=(B, M, K)), rng.normal(size=(B, N, K)),
        1e3 * rng.normal(size=(B, N, C)), rng.normal(size=(B, N)), masses if masked else None,
        np.sort(rng.integers(1, N + 1, size=M)) if masked else None,
    )  # fmt: skip
    second = SecondScore(*(rng.normal(size=shape) for shape in ((B, M, Q), (B, N, Q), (B, N, E))))
    out, out_second, logs = np.empty((B, M, C)), np.empty((B, M, E + 1)), np.empty((B, M))
    direct = fp.Direct()
    if backend == "direct":
        direct.attend_second(pair, second, out, out_second, logs)
    else:
        super(fp.Direct, direct).attend_second(pair, second, out, out_second, logs)
    for got, want in zip((out, out_second, logs), naive(pair, second), strict=True):
        np.testing.assert_allclose(got, want.astype(float), rtol=0, atol=2e-14 * float(abs(want).max()))


def test_a_choosing_backend_makes_large_sums_in_o_n():
    rng = np.random.default_rng(3)
    n = 20_000
    x = rng.normal(size=(1, n, 1))
    pair = PairSum(weights.Exp(), True, x, x, x)
    second = SecondScore(rng.normal(size=(1, n, 2)), np.concatenate([x, rng.normal(size=(1, n, 1))], axis=2), x)
    found = []
    for backend in (fp.Fast(1e-10), fp.Direct()):
        out, out_second = np.empty((1, n, 1)), np.empty((1, n, 2))
        backend.attend_second(pair, second, out, out_second)
        found.append((out, out_second))
        if isinstance(backend, fp.Fast):
            assert backend.stats()["fast_sums"] == 1
            assert backend.stats()["direct_sums"] == 0
    for got, want in zip(*found, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * np.abs(want).max())


def test_bits_do_not_depend_on_the_number_of_threads_or_on_slices():
    from fastpde.simd import pool

    rng = np.random.default_rng(5)
    x = rng.normal(size=(1, 700, 8))
    pair, second = PairSum(weights.Exp(), True, x, x, x), SecondScore(x[:, ::-1].copy(), x, x)
    found = []
    for threads in (1, 2):
        if threads > pool.most():
            pytest.skip("one thread")
        before = pool.threads()
        pool.set_threads(threads)
        try:
            out, out_second = np.empty((1, 700, 8)), np.empty((1, 700, 9))
            fp.Direct().attend_second(pair, second, out, out_second)
        finally:
            pool.set_threads(before)
        found.append((out, out_second))
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
