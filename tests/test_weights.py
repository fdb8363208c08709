"""Weights in readable formulas; the vector code emitted for them against extended precision, for scores of any size."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from fastpde import weights
from fastpde._jit import intrinsic
from fastpde.simd import emitters
from fastpde.simd.vectors import lanes_of, load, store

each_bits = pytest.mark.parametrize("bits", [32, 64])

# Stated bounds. float64: the coefficients' 2.1e-16 and the roundings of the last steps of Horner's rule (measured
# 3.9e-16, DIRECT 6). float32: the coefficients' 7.5e-8, and 6e-8 for each of the last two roundings (measured 2.1e-7).
EXP2_ERROR = {32: 2.3e-7, 64: 4.5e-16}
# One more addition and a division, half a unit each.
SIGMOID_ERROR = {32: 3.5e-7, 64: 1e-15}


def emitted(emit):
    """A compiled function (t, out) that applies vector code emit(builder, lanes, t) to whole vectors."""

    @intrinsic
    def each(typingctx, t, out):
        lanes = lanes_of(t.dtype.bitwidth)

        def codegen(context, builder, signature, args):
            source, target = (
                make_array(kind)(context, builder, a) for kind, a in zip(signature.args, args, strict=True)
            )
            size = builder.extract_value(source.shape, 0)
            step = size.type(lanes.count)
            with cgutils.for_range_slice(builder, size.type(0), size, step) as (index, _):
                store(builder, emit(builder, lanes, load(builder, lanes.type, source.data, index)), target.data, index)
            return context.get_dummy_value()

        return types.void(t, out), codegen

    @njit
    def apply(t, out):
        each(t, out)

    def call(t):
        t = np.ascontiguousarray(t)
        width = lanes_of(8 * t.itemsize).count
        padded = np.zeros(-(-t.size // width) * width, t.dtype)
        padded[: t.size] = t
        out = np.empty_like(padded)
        apply(padded, out)
        return out[: t.size]

    return call


KINDS = [type(weight) for weight in weights.WEIGHTS]
PAIRWISE = [kind for kind in KINDS if kind is not weights.Linear]
exp2 = emitted(emitters.emit_exp2)
clamp = emitted(lambda b, lanes, t: emitters.emit_clamp(b, lanes, t, emitters.CLAMP[lanes.bits]))
# As the kernels' wide mode applies them, to scores of any size.
EMITTED = {
    kind: emitted(lambda b, lanes, t, kind=kind: emitters.emit_any_weight(kind, b, lanes, t)) for kind in PAIRWISE
}


def grid(bits, low, high, count=200_001):
    """Scores from low to high: a fine grid, random ones, integers, halves (where n changes) and tiny ones."""
    rng = np.random.default_rng(0)
    whole = np.arange(np.ceil(low), np.floor(high))
    parts = [
        np.linspace(low, high, count), rng.uniform(low, high, count), whole, whole + 0.5,
        np.nextafter(whole + 0.5, -np.inf), np.nextafter(whole + 0.5, np.inf), [0.0, -0.0, 1e-30, -1e-30],
    ]  # fmt: skip
    return np.concatenate(parts).astype({32: np.float32, 64: np.float64}[bits])


def worst(got, want):
    return float(np.max(np.abs(got.astype(np.longdouble) - want) / want))


@each_bits
def test_exp2(bits):
    """Over the range that bounds and clamps leave, and beyond it to the ends of the normal range."""
    edge = emitters.CLAMP[bits]
    for low, high in ((-1.0, 1.0), (-edge, edge), {32: (-125.4, 127.4), 64: (-1021.4, 1023.4)}[bits]):
        t = grid(bits, low, high)
        assert worst(exp2(t), np.exp2(t.astype(np.longdouble))) <= EXP2_ERROR[bits]


@each_bits
def test_exp2_of_whole_numbers_is_nearly_exact(bits):
    """Exact in float64; in float32 one unit in the last place (the constant coefficient is not 1)."""
    t = np.arange(-100, 101).astype({32: np.float32, 64: np.float64}[bits])
    assert worst(exp2(t), np.exp2(t.astype(np.longdouble))) <= {32: 1.2e-7, 64: 0.0}[bits]


def test_the_bound_can_fail():
    t = grid(64, -1.0, 1.0)
    wrong = emitted(lambda b, lanes, t: b.fmul(emitters.emit_exp2(b, lanes, t), lanes.constant(1 + 1e-15)))
    assert not worst(wrong(t), np.exp2(t.astype(np.longdouble))) <= EXP2_ERROR[64]


@each_bits
def test_clamp(bits):
    edge, dtype = emitters.CLAMP[bits], {32: np.float32, 64: np.float64}[bits]
    t = np.array([-np.inf, -1e30, -1.0001 * edge, -edge, -1.0, -0.0, 0.0, 1.5, edge, 1.0001 * edge, np.inf], dtype)
    np.testing.assert_array_equal(clamp(t), np.clip(t, dtype(-edge), dtype(edge)))


@each_bits
@pytest.mark.parametrize("kind", PAIRWISE)
def test_without_the_clamp_inside_its_range(kind, bits):
    """The narrow mode, for scores that are known to be bounded: the same bits."""
    t = grid(bits, -emitters.CLAMP[bits], emitters.CLAMP[bits], 20_001)
    bare = emitted(lambda b, lanes, t: emitters.emit_weight(kind, b, lanes, t))
    np.testing.assert_array_equal(bare(t), EMITTED[kind](t))


@each_bits
def test_clamped_weights_are_normal_numbers(bits):
    """Subnormal ones would make sums up to 200 times slower; products with values of 1e-6 stay normal too."""
    info = np.finfo({32: np.float32, 64: np.float64}[bits])
    assert 2.0 ** -emitters.CLAMP[bits] * 1e-6 > info.tiny
    assert 2.0 ** -emitters.CLAMP[bits] < info.eps**2


@each_bits
def test_sigmoid(bits):
    """Relative error down to the smallest normal number, zero below; saturated at 1 above."""
    edge = emitters.NORMAL[bits] - 0.5
    t = grid(bits, -edge, edge)
    want = 1 / (1 + np.exp2(-t.astype(np.longdouble)))
    assert worst(EMITTED[weights.Sigmoid](t), want) <= SIGMOID_ERROR[bits]
    far = np.array([1e4, 1e6, 1e30, np.inf, edge + 1]).astype(t.dtype)
    np.testing.assert_array_equal(EMITTED[weights.Sigmoid](far), 1.0)
    np.testing.assert_array_equal(EMITTED[weights.Sigmoid](-far), 0.0)


@each_bits
@pytest.mark.parametrize("kind", PAIRWISE)
def test_nan_stays_nan(kind, bits):
    """In every lane, alone or beside others, of either sign."""
    t = np.tile(np.array([np.nan, 1.0, -np.nan, -1.0]), 16).astype({32: np.float32, 64: np.float64}[bits])
    np.testing.assert_array_equal(np.isnan(EMITTED[kind](t)), np.isnan(t))
    np.testing.assert_array_equal(np.isnan(clamp(t)), np.isnan(t))


@each_bits
@pytest.mark.parametrize("kind", PAIRWISE)
def test_the_readable_weight_is_the_emitted_one(kind, bits):
    t = grid(bits, -90, 90, 2001)
    want = kind().value(t.astype(np.longdouble) * np.log(np.longdouble(2)))
    assert worst(EMITTED[kind](t), want) <= SIGMOID_ERROR[bits]


@each_bits
def test_the_linear_weight_is_the_score(bits):
    t = grid(bits, -1e6, 1e6, 2001)
    np.testing.assert_array_equal(emitted(lambda b, lanes, t: emitters.emit_weight(weights.Linear, b, lanes, t))(t), t)


@pytest.mark.parametrize("weight", weights.WEIGHTS, ids=lambda weight: type(weight).__name__)
def test_every_weight_says_what_it_is(weight):
    """It is emitted; whether it can be shifted, and is bounded; its slope, by differences of fourth order."""
    s, h = np.array([-3.0, 0.5, 7.0]), 1e-3
    ratio = weight.value(s + 5.0) / weight.value(s)
    # exp of such numbers is right to a few units in the last place.
    assert weights.is_exponential(weight) == np.allclose(ratio, np.exp(5.0), rtol=1e-14)
    assert (type(weight) in emitters.SHIFTABLE) == weights.is_exponential(weight)
    assert weights.is_bounded(weight) == (np.abs(weight.value(np.array([-300.0, 300.0]))).max() <= 1.0)
    assert weights.is_positive(weight) == bool((weight.value(np.array([-30.0, 30.0])) > 0).all())
    slope = (
        (8 * (weight.value(s + h) - weight.value(s - h)) - weight.value(s + 2 * h) + weight.value(s - 2 * h)) / 12 / h
    )
    np.testing.assert_allclose(weight.derivative(s), slope, rtol=1e-9)  # h^4, and rounding over h


@pytest.mark.parametrize("weight", weights.WEIGHTS, ids=lambda weight: type(weight).__name__)
def test_expectations_under_gaussian_scores(weight):
    """By 90 Gauss-Hermite nodes, which are exact to 1e-12 for spreads below one."""
    z, part = np.polynomial.hermite_e.hermegauss(90)
    mean, spread = np.array([-2.0, 0.0, 0.3, 4.0]), np.array([0.8, 0.0, 0.5, 1.0])
    scores = mean[:, None] + spread[:, None] * z
    common, value, slope = weight.expected(mean, spread)
    for got, f in ((value, weight.value), (slope, weight.derivative)):
        np.testing.assert_allclose(common * got, f(scores) @ part / part.sum(), rtol=1e-11)


def test_expectations_of_an_odd_weight():
    """They are zero at a mean of zero, though no term is small beside their sum."""
    weight = weights.Weight(lambda s: s / (1.0 + s * s), lambda s: (1.0 - s * s) / (1.0 + s * s) ** 2)
    _, value, slope = weight.expected(np.array([0.0, 0.5]), np.array([1.0, 1.0]))
    z = np.linspace(-12.0, 12.0, 200_001)
    bell = np.exp(-0.5 * z * z) / np.exp(-0.5 * z * z).sum()
    assert abs(value[0]) < 1e-15
    np.testing.assert_allclose(value[1], bell @ weight.value(z + 0.5), rtol=1e-9)
    np.testing.assert_allclose(slope[0], bell @ weight.derivative(z), rtol=1e-9)
