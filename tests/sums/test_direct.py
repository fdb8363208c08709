"""The backend's contract by itself: sums with bias, weights and limits, log totals, maps, means, memory, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastpde as fp
from fastpde import sums
from fastpde.kernels import pack
from fastpde.kernels.layout import layout_for
from fastpde.simd import pool
from fastpde.sums.pair_sum import PairSum
from fastpde.weights import Exp, Linear, Sigmoid

from ..naive import relative_error, sigmoid, wide
from ..problems import CONTRACT, DTYPES, EPS, random_case

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
LAWS = {Exp: np.exp, Sigmoid: sigmoid, Linear: lambda s: s}


def pair_and_sums(law, *, dtype, normalised=False, weights=False, bias=False, limits=False):
    """A random pair sum (2 systems, 41 targets, 53 sources, k = 3, 4 values), its value and the total weights."""
    rng = np.random.default_rng(0)
    z, y, v = (rng.normal(size=(2, count, r)).astype(dtype) for count, r in ((41, 3), (53, 3), (53, 4)))
    w = rng.uniform(0.5, 2, (2, 53))
    w = w / w.sum(axis=1, keepdims=True) if weights else np.full((2, 53), 1 / 53)
    b = rng.normal(size=(2, 53)).astype(dtype)
    ends = np.sort(rng.integers(1, 54, 41)) if limits else np.full(41, 53)
    scores = wide(z) @ wide(y).swapaxes(1, 2) + (wide(b)[:, None, :] if bias else 0)
    kernel = np.where(np.arange(53) < ends[:, None], LAWS[type(law)](scores), 0) * w[:, None, :]
    sums, totals = kernel @ wide(v), kernel.sum(axis=2)
    pair = PairSum(
        law, normalised, z, y, v, b if bias else None, w if weights else None, ends.astype(np.int64) if limits else None
    )
    return pair, sums / totals[..., None] if normalised else sums, totals


@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("law", [Exp(), Sigmoid()], ids=lambda law: type(law).__name__)
@each_dtype
def test_attend(dtype, law, bias, weights, limits):
    for normalised in (False, True):
        pair, sums, totals = pair_and_sums(
            law, dtype=dtype, normalised=normalised, weights=weights, bias=bias, limits=limits
        )
        out, logs = np.full(sums.shape, np.nan, dtype), np.full(totals.shape, np.nan)
        fp.Direct().attend(pair, out, None if normalised else logs)
        assert relative_error(out, sums) < CONTRACT[dtype]
        if not normalised:
            # An absolute error of a logarithm is a relative one of the total.
            assert np.abs(logs - np.log(totals)).max() < CONTRACT[dtype]


@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@each_dtype
def test_attend_linear(dtype, weights, limits):
    pair, sums, _ = pair_and_sums(Linear(), dtype=dtype, weights=weights, limits=limits)
    out = np.full(sums.shape, np.nan, dtype)
    fp.Direct().attend(pair, out)
    assert relative_error(out, sums) < CONTRACT[dtype]


@each_dtype
def test_no_values_asks_for_totals_only(dtype):
    pair, _, totals = pair_and_sums(Exp(), dtype=dtype)
    empty = PairSum(pair.weight, False, pair.targets, pair.keys, np.empty((2, 53, 0), dtype))
    logs = np.empty(totals.shape)
    fp.Direct().attend(empty, np.empty((2, 41, 0), dtype), logs)
    assert np.abs(logs - np.log(totals)).max() < CONTRACT[dtype]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n, d, q", [(1, 1, 1), (5, 3, 2), (257, 2, 17), (300, 70, 33), (4, 1, 130)])
@each_dtype
def test_project(dtype, n, d, q, shared):
    """M (x - origin) + shift, every part of it optional; relative to the sizes of the terms."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, n, d)).astype(dtype)
    matrix = rng.normal(size=(q, d) if shared else (3, q, d))
    origin, shift = rng.normal(size=(3, d)), rng.normal(size=(3, q))
    for c in (None, origin):
        for s in (None, shift):
            out = np.full((3, n, q), np.nan, dtype)
            fp.Direct().project(x, matrix, out, c, s)
            moved = wide(x) - (0 if c is None else wide(c)[:, None])
            want = moved @ wide(matrix).swapaxes(-1, -2) + (0 if s is None else wide(s)[:, None])
            # d products of numbers of size one and the roundings of x - c and of the matrix.
            assert relative_error(out, want, 1.0) < 10 * (d + 3) * EPS[dtype]
            if q == d:
                fp.Direct().project(x, None, out, c, s)
                assert relative_error(out, moved + (0 if s is None else wide(s)[:, None]), 1.0) < 8 * EPS[dtype]


@each_dtype
def test_centre(dtype):
    """In float64, also of float32 tokens far from the origin."""
    x = (np.random.default_rng(0).normal(size=(2, 50_000, 3)) + 1000).astype(dtype)
    got = fp.Direct().centre(x)
    assert got.dtype == np.float64
    # A sum of n terms one after the other: at most n roundings, usually sqrt(n).
    np.testing.assert_allclose(got, wide(x).mean(axis=1).astype(float), rtol=1e-12)


def test_memory_is_kept_and_aligned():
    backend = fp.Direct()
    first = backend.workspace("a", (10, 3), np.float64)
    again = backend.workspace("a", (7,), np.float64)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, backend.workspace("b", (10, 3), np.float64))
    assert not np.shares_memory(first, backend.workspace("a", (10, 3), np.float32))
    larger = backend.workspace("a", (31,), np.float64)  # one more than is held
    assert larger.shape == (31,)
    assert all(a.ctypes.data % 64 == 0 for a in (first, again, larger))


def test_python_threads():
    """Several at once, each with a backend of its own: the bits of one after the other."""
    cases = [random_case("Softmax", n=200 + i, d=2, k=2, dtype=DTYPES[i % 2], masked=i % 3 == 0) for i in range(24)]
    want = [case.velocity() for case in cases]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(velocity_of, cases * 4))
    for one, other in zip(got, want * 4, strict=True):
        np.testing.assert_array_equal(one, other)


def velocity_of(case):
    return case.velocity()


def test_set_threads():

    before = pool.threads()
    try:
        sums.set_threads(1)
        assert pool.threads() == 1
    finally:
        pool.set_threads(before)
    for wrong, kind in (
        (0, fp.InputError),
        (10_000, fp.InputError),
        (True, fp.InputTypeError),
        ("2", fp.InputTypeError),
    ):
        with pytest.raises(kind) as caught:
            sums.set_threads(wrong)
        assert caught.value.name == "threads"


def test_resolve():
    for name, kind in {"auto": fp.Auto, "direct": fp.Direct, "fast": fp.Fast}.items():
        assert type(sums.resolve(name)) is kind
    mine = fp.Direct()
    assert sums.resolve(mine) is mine
    assert repr(mine) == "Direct()"


def test_biases_are_centred_where_that_keeps_tiles_narrow():
    """The range is halved up to the reach; beyond, the largest bias is near 0, where float32 keeps its digits."""
    y = np.ones((1, 12, 1), np.float32)
    layout = layout_for(12, 1, 1, y.dtype)
    packed = pack.allocate(1, layout, y.dtype, fp.Direct().workspace)
    for spread, largest in ((100.0, 50.0), (1000.0, 1000.0)):
        bias = np.linspace(-spread, 0.0, 12, dtype=np.float32)[None] / np.float32(pack.LOG2E)
        pack.pack_sources(y, bias, np.empty((0, 0)), y, True, layout, packed)
        assert abs(packed.bounds[0, 1] - largest) <= 1.0
        np.testing.assert_allclose(packed.bias[:12] + packed.exponents[0, 1], bias[0] * pack.LOG2E, atol=1e-3)


def error_over_decades(decades, dtype, *, masked=False):
    """The largest error in eps of softmax sums of weights that rise over so many decades; unmasked, in random order."""
    weights = np.logspace(-decades, 0.0, 200)
    case = random_case("Softmax", n=200, d=2, k=2, dtype=dtype)
    data = {"weights": weights / weights.sum()} | ({"positions": np.arange(200.0)} if masked else {})
    if not masked:
        np.random.default_rng(0).shuffle(data["weights"])
    case = case.with_(data=data)
    return relative_error(case.velocity(), case.naive()) / EPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decades", [20, 40, 68, 100, 290])
def test_weights_over_many_decades_take_no_digits(decades, dtype):
    """8: logits of up to 4 lose 4 eps, and values are rounded. With the middle of the weights at bias 0 these are up to
    18, others 128."""
    assert error_over_decades(decades, dtype) < 8.0


def test_masked_weights_over_many_decades():
    """Rows see the light half only, or all: biases of at most 250, whose spacing is 128 eps: half of it in log 2."""
    assert error_over_decades(75, "float32", masked=True) < 45.0
