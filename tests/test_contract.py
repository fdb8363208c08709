"""Every variant on every backend against the naive oracle: one contract for all shapes, masks and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpde as fp
from fastpde import sums

from . import naive, problems
from .problems import CONTRACT, DTYPES, EPS, VARIANTS, Case, random_case

each_variant = pytest.mark.parametrize("kind", VARIANTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

# What RELIABILITY asks for degenerate input: 16 eps (1 + max logit) sqrt(d).
BOUND = 16.0

# k = d, k < d, k > d; n around tiles and chunks comes further below.
SHAPES = [(1, 1), (2, 2), (5, 3), (3, 7), (20, 14)]
FORMS = {
    "plain": {},
    "weights": {"weights": True},
    "at": {"m": 41},
    "at, weights": {"m": 1, "weights": True},
    "masked, ties": {"masked": True},
    "masked, weights": {"masked": True, "weights": True},
    "masked, at": {"masked": True, "m": 53},
    "masked, at, weights": {"masked": True, "m": 53, "weights": True},
}


def check(got, case):
    assert got.dtype == case.x.dtype
    assert naive.relative_error(got, case.naive()) < CONTRACT[case.x.dtype.name]


def test_every_registered_variant_has_an_oracle():
    assert set(VARIANTS) == set(naive.KINDS)
    assert {*VARIANTS, "Sinkhorn"} <= set(fp.__all__)


def test_the_error_measures_can_fail():
    case = random_case("Softmax")
    want = case.naive().astype(float)
    assert case.scaled_error(want) < 1
    assert naive.relative_error(want, case.naive()) < 1e-15
    for wrong in (want * (1 + 1e-10), want + 1e-10, np.full_like(want, np.nan), np.full_like(want, np.inf)):
        assert not case.scaled_error(wrong) <= BOUND
        assert not naive.relative_error(wrong, case.naive()) <= CONTRACT["float64"]
    huge = Case("Exponential", np.array([[40.0], [40.0]]), np.eye(1), np.eye(1), np.eye(1))
    assert huge.scaled_error(np.full((2, 1), np.inf)) == 0.0
    for wrong in (-np.inf, np.nan, 1e308):
        assert not huge.scaled_error(np.full((2, 1), wrong)) <= BOUND


@pytest.mark.parametrize("backend", [*sums.NAMES, None])
@each_dtype
@each_variant
def test_backends(kind, dtype, backend):
    """By name and as an object."""
    case = random_case(kind, dtype=dtype, masked=True, weights=True)
    check(case.velocity(fp.Direct() if backend is None else backend), case)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("d, k", SHAPES)
@each_dtype
@each_variant
def test_velocity(kind, dtype, d, k, form):
    case = random_case(kind, d=d, k=k, dtype=dtype, seed=3, **FORMS[form])
    check(case.velocity(), case)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 16, 17, 48, 64, 65, 191, 192, 193, 384, 1025])
@each_dtype
@each_variant
def test_token_counts(kind, dtype, n):
    """Around the sizes of tiles, groups and chunks, masked and not; as many sources and as many targets."""
    for masked in (False, True):
        case = random_case(kind, n=n, d=2, k=2, m=33, dtype=dtype, masked=masked, weights=masked)
        check(case.velocity(), case)
        case = random_case(kind, n=9, d=2, k=2, m=n, dtype=dtype, masked=masked, weights=masked)
        check(case.velocity(), case)


@pytest.mark.parametrize(
    "d, k", [(1, 1), (2, 2), (4, 4), (1, 9), (9, 1), (64, 64), (130, 130), (130, 2), (3, 400), (12, 12), (13, 13)]
)
@each_dtype
def test_dimensions(dtype, d, k):
    """Value columns in one group and in several."""
    case = random_case("Softmax", n=50, d=d, k=k, dtype=dtype)
    check(case.velocity(), case)


@pytest.mark.parametrize("order", ["sorted", "reversed", "tied", "default"])
@each_dtype
@each_variant
def test_masks(kind, dtype, order):
    case = random_case(kind, n=101, dtype=dtype)
    rng = np.random.default_rng(1)
    positions = {"sorted": np.arange(101.0), "reversed": -np.arange(101.0), "tied": np.zeros(101), "default": None}[
        order
    ]
    got = fp.Masked(case.attention).velocity(case.x, positions=positions)
    positions = np.arange(101.0) if positions is None else positions
    check(got, case.with_(data={"positions": positions}))
    if order == "tied":  # everyone sees everyone; linear sums add by tiles without a mask, token by token under one
        rounding = 8.0 * EPS[np.dtype(dtype).name] if kind == "Linear" else 0.0
        np.testing.assert_allclose(got, case.velocity(), rtol=0.0, atol=rounding * np.abs(got).max())
    # Points in random order, many of them at places between those of the tokens.
    at, places = rng.normal(size=(300, 3)).astype(dtype), rng.uniform(positions.min(), positions.max() + 9, 300)
    points = case.with_(data={"positions": positions, "at": at, "at_positions": places})
    check(points.velocity(), points)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@each_dtype
@each_variant
def test_batches(kind, dtype, masked, shared):
    """Systems with their own parameters, weights and points are what each is alone."""
    systems = 5
    cases = [
        random_case(kind, n=37, d=3, k=2, m=11, seed=s, dtype=dtype, weights=True, masked=masked)
        for s in range(systems)
    ]
    first = cases[0]
    places = {key: first.data[key] for key in ("positions", "at_positions") if key in first.data}
    cases = [c.with_(data={**c.data, **places}) for c in cases]
    if shared:
        cases = [c.with_(Q=first.Q, K=first.K, V=first.V) for c in cases]
        parameters, options = (first.Q, first.K, first.V), first.options
    else:
        options = {key: value * np.linspace(0.5, 1.0, systems) for key, value in first.options.items()}
        cases = [c.with_(options={key: value[b] for key, value in options.items()}) for b, c in enumerate(cases)]
        parameters = [np.stack([getattr(c, name) for c in cases]) for name in "QKV"]
    attention = getattr(fp, kind)(*parameters, **options)
    attention = fp.Masked(attention) if masked else attention
    x, at, weights = (
        np.stack(a) for a in ([c.x for c in cases], [c.data["at"] for c in cases], [c.data["weights"] for c in cases])
    )
    got = attention.velocity(x, at=at, weights=weights, **places)
    assert got.shape == (systems, 11, 3)
    for b, case in enumerate(cases):
        check(got[b], case)
    both = attention.velocity(x, weights=weights, **({"positions": places["positions"]} if masked else {}))
    for b, case in enumerate(cases):
        own = {key: value for key, value in case.data.items() if not key.startswith("at")}
        check(both[b], case.with_(data=own))


@each_dtype
@each_variant
def test_a_batch_of_one_is_the_system(kind, dtype):
    case = random_case(kind, dtype=dtype)
    np.testing.assert_array_equal(case.attention.velocity(case.x[None])[0], case.velocity())


@each_variant
def test_a_batch_is_its_systems_bit_for_bit(kind):
    x = np.random.default_rng(0).normal(size=(9, 33, 2))
    attention = problems.case_like(kind, 2)
    np.testing.assert_array_equal(attention.velocity(x), np.stack([attention.velocity(one) for one in x]))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("form", ["plain", "masked, at, weights"])
@each_dtype
@each_variant
def test_heads_of_any_width(kind, dtype, form, rows):
    """V (dv, d) with dv below and above d; the sum with W, against the sum of the oracles."""
    heads = [random_case(kind, d=4, k=k, rows=rows, seed=9, dtype=dtype, **FORMS[form]) for k in (2, 4, 6)]
    data, x = heads[0].data, heads[0].x
    heads = [head.with_(x=x, data=data) for head in heads]
    W = np.random.default_rng(0).normal(size=(3, 4, rows)) / 2
    plain = [getattr(fp, kind)(h.Q, h.K, h.V, **h.options) for h in heads]
    want = sum(h.naive() @ w.T for h, w in zip(heads, W, strict=True))
    for attention in (fp.MultiHead(plain, W=W), fp.MultiHead(plain, W=list(W)), fp.MultiHead(plain, W=lambda t: W)):
        got = (fp.Masked(attention) if "positions" in data else attention).velocity(x, **data)
        assert got.dtype == np.dtype(dtype)
        assert naive.relative_error(got, want) < CONTRACT[dtype]


@each_dtype
def test_heads_of_different_kinds_nested(dtype):
    """sum_h W_h head_h, with a MultiHead as a head, masked inside and outside, and one head twice."""
    cases = {kind: random_case(kind, d=3, k=2, seed=4, dtype=dtype, masked=True) for kind in VARIANTS}
    x, data = cases["Softmax"].x, cases["Softmax"].data
    cases = {kind: c.with_(x=x, data=data) for kind, c in cases.items()}
    plain = {kind: c.with_(data={}) for kind, c in cases.items()}
    W = np.random.default_rng(0).normal(size=(3, 3, 3))
    inner = fp.MultiHead([plain["Softmax"].attention, plain["Sigmoid"].attention])
    outer = fp.MultiHead([inner, plain["L2"].attention, inner], W=W)

    def want(found):
        both = found["Softmax"].naive() + found["Sigmoid"].naive()
        return both @ W[0].T + found["L2"].naive() @ W[1].T + both @ W[2].T

    assert naive.relative_error(outer.velocity(x), want(plain)) < CONTRACT[dtype]
    assert naive.relative_error(fp.Masked(outer).velocity(x, **data), want(cases)) < CONTRACT[dtype]
    # Masked heads beside a plain one.
    mixed = fp.MultiHead([fp.Masked(plain["Softmax"].attention), plain["L2"].attention, cases["Linear"].attention])
    total = cases["Softmax"].naive() + plain["L2"].naive() + cases["Linear"].naive()
    assert naive.relative_error(mixed.velocity(x, **data), total) < CONTRACT[dtype]


@each_dtype
def test_heads_per_system(dtype):
    """W (B, H, d, dv) and heads with parameters (B, k, d)."""
    rng = np.random.default_rng(0)
    cases = [
        [random_case("Softmax", n=20, d=3, k=2, rows=2, seed=10 * b + h, dtype=dtype) for h in range(2)]
        for b in range(3)
    ]
    heads = [
        fp.Softmax(*(np.stack([cases[b][h].__dict__[p] for b in range(3)]) for p in "QKV"), scale=0.8) for h in range(2)
    ]
    W, x = rng.normal(size=(3, 2, 3, 2)), np.stack([cases[b][0].x for b in range(3)])
    got = fp.MultiHead(heads, W=W).velocity(x)
    for b in range(3):
        want = sum(cases[b][h].with_(x=x[b]).naive() @ W[b, h].T for h in range(2))
        assert naive.relative_error(got[b], want) < CONTRACT[dtype]


@each_dtype
def test_a_reused_backend_forgets(dtype):
    """Large and small sums in turn through one object, each as with an object of its own."""
    backend = fp.Direct()
    for n, d, k, masked in (
        (300, 5, 5, True),
        (3, 2, 7, False),
        (900, 1, 1, True),
        (3, 2, 7, False),
        (40, 30, 2, True),
    ):
        for kind in VARIANTS:
            case = random_case(kind, n=n, d=d, k=k, dtype=dtype, masked=masked)
            np.testing.assert_array_equal(case.velocity(backend), case.velocity())


# ---- degenerate input ----------------------------------------------------------------------------------------------

SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 65, 191, 192, 193, 384, 385, 1025]
WHERE = ["gauss", "identical", "zeros", "one zero", "line", "two clusters", "offset", "opposite"]


@st.composite
def degenerate(draw):
    d = draw(st.sampled_from([1, 1, 2, 2, 3, 4, 5, 8, 12, 13, 14, 31, 64, 130]))
    n = draw(st.sampled_from(SIZES if d < 20 else SIZES[:12]))
    k = draw(st.sampled_from([1, 2, 3, d, d + 1]))
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(VARIANTS))
    case = random_case(
        kind, n=n, d=d, k=k, seed=draw(st.integers(0, 99)), dtype=dtype, weights=draw(st.booleans()),
        masked=draw(st.booleans()), m=draw(st.sampled_from([None, None, 1, 5])),
    )  # fmt: skip
    where = draw(st.sampled_from(WHERE))
    small = {"float64": [1e-150, 1e-8], "float32": [1e-15, 1e-4]}[dtype]
    size = draw(st.sampled_from([*small, 0.3, 1.0, 1.0, 4.0, 40.0, 1e3]))
    x = case.x
    if where == "identical":
        x = np.repeat(x[:1], n, axis=0)
    elif where == "zeros":
        x = np.zeros_like(x)
    elif where == "one zero":
        x[0] = 0
    elif where == "line":
        x[:, 1:] = 0
    elif where == "two clusters":
        x[: n // 2] = -x[:1]
    elif where == "offset":
        x += draw(st.sampled_from([1e2, 1e4, 1e6]))
    elif where == "opposite":
        x[n // 2 :] = -x[: n - n // 2]
    options = {**case.options, "scale": draw(st.sampled_from([0.8, 0.8, 0.0, -0.8, 1e-3]))}
    V = case.V if draw(st.integers(0, 9)) else np.zeros_like(case.V)
    return case.with_(x=(x * size).astype(dtype), options=options, V=V)


@given(degenerate())
def test_degenerate_input(case):
    """Within 16 eps (1 + max logit) sqrt(d) of the oracle: RELIABILITY's bound, which scores of this size need."""
    assert case.scaled_error(case.velocity()) <= BOUND


@given(degenerate())
@settings(max_examples=25)
def test_degenerate_batches(case):
    """Several such systems of equal shape at once, of very different sizes: bit for bit what each gives alone."""
    places = {"positions": case.data["positions"]} if "positions" in case.data else {}
    x = np.stack([case.x * np.asarray(scale, case.x.dtype) for scale in (1, 0, -2, 0.01)])
    got = case.attention.velocity(x, **places)
    for system, one in zip(got, x, strict=True):
        np.testing.assert_array_equal(system, case.attention.velocity(one, **places))


# ---- large logits --------------------------------------------------------------------------------------------------

LOGITS = [87.0, 88.5, 89.0, 103.9, 700.0, 709.0, 709.7, 710.0, 745.0, 1e4, 1e6]


def logit_case(kind, dtype, logits, *, n=200, masked=False, weights=None, value=1.0):
    """Two-dimensional tokens whose score with the target (1, 0) is `logits` (n,): keys along the first axis.

    For L2 the exponent -|Qx - Ky|^2 can only be negative: its tokens have the distances sqrt |logits|.
    """
    rng = np.random.default_rng(7)
    logits = np.broadcast_to(np.asarray(logits, float), n)
    x = np.stack([np.sqrt(np.abs(logits)) if kind == "L2" else logits, value * rng.uniform(0.5, 1.0, n)], axis=1)
    Q = np.diag([0.0 if kind == "L2" else 1.0, 0.0])
    # V reads the second coordinate: the value itself is of size one.
    case = Case(kind, x.astype(dtype), Q, np.diag([1.0, 0.0]), np.array([[0.0, 1.0], [0.0, -0.5]]))
    data = {"at": np.array([[1.0, 0.0], [-1.0, 0.0], [0.5, 3.0]], dtype)}
    if masked:
        data |= {"positions": np.arange(float(n)), "at_positions": np.array([n, n / 2, n / 3])}
    if weights is not None:
        data["weights"] = weights
    return case.with_(data=data)


def check_bounded(case):
    got = case.velocity()
    assert case.scaled_error(got) <= BOUND


def failures(cases):
    """The labels of the cases that are not right (see `check_bounded`), of a dict label -> case."""
    return [label for label, case in cases.items() if not case.scaled_error(case.velocity()) <= BOUND]


@pytest.mark.parametrize("arrangement", ["equal", "opposite", "growing", "shrinking", "one"])
@each_dtype
@each_variant
def test_large_logits(kind, dtype, arrangement):
    """Right where representable, inf where not, never nan: growing logits move the running maximum in every chunk."""
    n, cases = 400, {}
    for logit in LOGITS:
        logits = {
            "equal": np.full(n, logit),
            "opposite": np.where(np.arange(n) % 2, logit, -logit),
            "growing": np.linspace(-logit, logit, n),
            "shrinking": np.linspace(logit, -logit, n),
            "one": np.where(np.arange(n) == 333, logit, 0.0),
        }[arrangement]
        for masked in (False, True):
            cases[logit, masked] = logit_case(kind, dtype, logits, n=n, masked=masked)
    assert failures(cases) == []


@pytest.mark.parametrize("d", [1, 2, 3])
@each_dtype
@each_variant
def test_large_logits_among_tokens(kind, dtype, d):
    """Tokens of norm sqrt(logit) seeing each other, V = I: no component may turn another one's overflow into nan."""
    rng, cases = np.random.default_rng(2), {}
    for logit in LOGITS:
        x = rng.normal(size=(60, d))
        x *= np.sqrt(logit) / np.linalg.norm(x, axis=1, keepdims=True)
        case = Case(kind, x.astype(dtype), np.eye(d), np.eye(d), np.eye(d))
        cases[logit, False] = case
        cases[logit, True] = case.with_(data={"positions": rng.integers(0, 30, 60).astype(float)})
    assert failures(cases) == []


@pytest.mark.parametrize("dtype, logit", [("float64", 709.0), ("float64", 709.7), ("float32", 88.0), ("float32", 88.7)])
@pytest.mark.parametrize("masked", [False, True])
def test_exponential_is_right_up_to_the_largest_number(dtype, logit, masked):
    """The mean is representable though the sum over n tokens is not."""
    case = logit_case("Exponential", dtype, logit, n=100, masked=masked, value=0.9)
    with np.errstate(over="ignore"):
        assert np.isfinite(case.naive().astype(dtype)).all()
    check_bounded(case)


@each_dtype
def test_exponential_scaled_down_by_V(dtype):
    """V y is small: the value is representable although int y e^s dmu is not."""
    logit = {"float64": 712.0, "float32": 91.0}[dtype]
    case = logit_case("Exponential", dtype, logit, n=30)
    check_bounded(case.with_(V=1e-4 * case.V))


def test_exponential_heads_overflow_to_inf():
    """Through W, 0 inf is nan: all that is promised is that nothing finite comes out."""
    case = logit_case("Exponential", "float64", 1000.0, n=10)
    head = case.with_(V=np.array([[0.0, 1.0]])).attention
    got = fp.MultiHead([head], W=np.array([[[1.0], [0.0]]])).velocity(case.x, at=case.data["at"][:1])
    assert not np.isfinite(got).any()


@pytest.mark.parametrize("masked", [False, True])
@each_variant
def test_extreme_weights(kind, masked):
    """Weights from 1e-300 to 1: log w joins the scores, so a rare token with a huge score counts as it should."""
    n = 200
    w = 10.0 ** np.linspace(-300, 0, n)
    w /= w.sum()
    for order in (slice(None), slice(None, None, -1)):
        for logits in (np.zeros(n), np.linspace(0, 690, n), np.linspace(690, 0, n)):
            check_bounded(logit_case(kind, "float64", logits, n=n, masked=masked, weights=w[order].copy()))


@pytest.mark.parametrize("tiny", [1e-30, 1e-44, 1e-60, 1e-300])
@pytest.mark.parametrize("logit", [0.0, 60.0])
@pytest.mark.parametrize("given", DTYPES)
@each_variant
def test_extreme_weights_float32(kind, given, logit, tiny):
    """float32 tokens, weights in float64 below the range of float32: they are positive, so nothing becomes 0 / 0."""
    n = 50
    w = np.full(n, tiny)
    w[-1] = 1 - tiny * (n - 1)
    if given == "float32" and not np.float32(tiny) > 0:
        return
    case = logit_case(kind, "float32", logit, n=n, masked=True, weights=w.astype(given))
    case = case.with_(data={**case.data, "positions": np.arange(float(n)), "at_positions": np.array([0.0, 20.0, n])})
    check_bounded(case)


FAR = {"float32": (1e5, 1e9, 1e10, 1e12, 1e18), "float64": (1e5, 1e9, 1e10, 1e18, 1e30, 1e100)}


@pytest.mark.parametrize("masked", [False, True])
@each_dtype
@each_variant
def test_enormous_tokens(kind, dtype, masked):
    """Logits up to 1e36 and 1e200: attention is an argmax or a sign, whatever integers the exponents would need.

    Logits differ by far more than their rounding errors, so the answer has no error but that of the values: 16 eps.
    """
    wrong = [far for far in FAR[dtype] if not right_when_enormous(kind, dtype, masked, far)]
    assert wrong == []


def right_when_enormous(kind, dtype, masked, far):
    x = (np.array([[1.0], [2.0], [-1.0], [0.0], [-3.0], [1.5]]) * far).astype(dtype)
    case = Case(kind, x, np.eye(1), np.eye(1), np.eye(1))
    if masked:
        case = case.with_(data={"positions": np.array([3.0, 0, 1, 5, 2, 2])})
    with np.errstate(over="ignore", invalid="ignore"):
        want = case.naive().astype(dtype)
        got = case.velocity()
    tolerance = 16 * problems.EPS[dtype]
    return np.allclose(got, want, rtol=tolerance, atol=tolerance * far)


@pytest.mark.parametrize("offset", [1e3, 1e6])
@each_dtype
def test_far_from_the_origin(dtype, offset):
    """L2 with Q = K depends on differences only: far away it is as accurate as the tokens themselves."""
    case = random_case("L2", d=2, k=2, dtype=dtype)
    near = case.with_(K=case.Q)
    moved = near.with_(x=(near.x + np.asarray(offset, dtype)))
    # The oracle sees the same rounded tokens; what remains is rounding at the size of the offset.
    assert naive.relative_error(moved.velocity(), moved.naive()) < 8 * problems.EPS[dtype]


@pytest.mark.parametrize(
    "positions", [[1e300, -1e300, 0, 5, 5], [-5, -3, -3, -1e-300, 0.0], [2**53 - 1, 2**53, 0, 1, 1]]
)
def test_extreme_positions(positions):
    case = random_case("Softmax", n=5, d=2, k=2).with_(data={"positions": np.array(positions, float)})
    check(case.velocity(), case)


def test_large_integer_positions_are_not_rounded_to_ties():
    """Nanosecond time stamps: float64 cannot tell them apart."""
    case = random_case("Softmax", n=5, d=2, k=2)
    stamps = 1_700_000_000_000_000_000 + np.arange(5)
    got = fp.Masked(case.attention).velocity(case.x, positions=stamps)
    np.testing.assert_array_equal(got, fp.Masked(case.attention).velocity(case.x, positions=np.arange(5)))


@pytest.mark.parametrize("kinds", [("u8", "i8"), ("i8", "u8"), ("i8", "f8"), ("f8", "u8")])
def test_large_positions_of_two_types_are_not_rounded_to_ties(kinds):
    """Even stamps above 2^53 are numbers of all these types, but NumPy compares two types as floats; odd ones lie
    between. Each point sees what it sees at small positions, which all types hold: the same bits."""
    case, attention = random_case("Softmax", n=5, d=2, k=2), fp.Masked(fp.Softmax(np.eye(2), np.eye(2), np.eye(2)))
    both = 2 * np.arange(5) + (kinds[0] != "f8"), 2 * np.arange(1, 6) + (kinds[1] != "f8")

    def seen(offset):
        places = [(offset + each).astype(kind) for each, kind in zip(both, kinds, strict=True)]
        return attention.velocity(case.x, positions=places[0], at=case.x, at_positions=places[1])

    np.testing.assert_array_equal(seen(2**53), seen(0))


@each_dtype
@each_variant
def test_zero_values_and_scales(kind, dtype):
    for scale in (0.0, -1.5):
        case = random_case(kind, dtype=dtype)
        case = case.with_(options={**case.options, "scale": scale})
        assert case.scaled_error(case.velocity()) <= BOUND
    nothing = random_case(kind, dtype=dtype)
    assert not nothing.with_(V=np.zeros((3, 3))).velocity().any()


@each_dtype
def test_one_token(dtype):
    """Alone it sees itself: V x for averages, V x weight(s) otherwise, also masked and at other points."""
    for kind in VARIANTS:
        for form in FORMS.values():
            case = random_case(kind, n=1, d=3, k=2, dtype=dtype, **form)
            assert case.scaled_error(case.velocity()) <= BOUND
