"""Derivatives of velocities against the complex step of naive sums, which has no error of differences."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import fastpde as fp

WIDE = np.clongdouble
STEP = 1e-30
KINDS = {"softmax": fp.Softmax, "l2": fp.L2, "sigmoid": fp.Sigmoid, "exponential": fp.Exponential, "linear": fp.Linear}
SHAPES = [(3, 3, 3), (2, 4, 4), (3, 2, 1), (2, 3, 5)]  # k, d, dv: keys that are tokens and not, V applied late and not


def naive(kind, x, at, w, p, seen=None):
    """Sum pair by pair, of complex numbers too: analytic in all that goes in."""
    q, k, v = at @ p["Q"].T, x @ p["K"].T, x @ p["V"].T
    if kind == "l2":
        s = -p["scale"] * ((q[:, None] - k[None]) ** 2).sum(axis=2)
    else:
        s = p["scale"] * (q @ k.T) + p.get("bias", 0.0)
    seen = np.ones(s.shape, bool) if seen is None else seen
    if kind in ("softmax", "l2"):
        e = np.where(seen, np.exp(s - np.where(seen, s.real, -np.inf).max(axis=1, keepdims=True)), 0.0) * w
        return (e @ v) / e.sum(axis=1, keepdims=True)
    law = {"sigmoid": lambda s: 1.0 / (1.0 + np.exp(-s)), "exponential": np.exp, "linear": lambda s: s}[kind]
    return (np.where(seen, law(s), 0.0) * w) @ v


def derivative(f, value, direction):
    """Return the derivative of f at a value along a direction, to rounding."""
    return np.imag(f(value.astype(WIDE) + 1j * STEP * direction)) / STEP


def gradient(f, value):
    """Return the gradient of a number f, entry by entry."""
    found = np.empty(value.shape)
    for index in np.ndindex(value.shape):
        unit = np.zeros(value.shape)
        unit[index] = 1.0
        found[index] = derivative(f, value, unit)
    return found


def assert_close(got, want, tol=1e-12):
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * max(float(np.abs(want).max()), 1e-300))


class Setting:
    """A head, tokens, perhaps other points, weights and positions with ties, and the same field by naive sums."""

    def __init__(self, kind, shape, *, masked=False, other=False, weighted=False, n=7, m=5):
        k, d, dv = shape
        self.rng = rng = np.random.default_rng([k, d, dv, masked, other, weighted])
        self.kind, self.x = kind, rng.standard_normal((n, d))
        self.at = rng.standard_normal((m, d)) if other else None
        self.w = rng.uniform(0.5, 2.0, n) if weighted else np.ones(n)
        self.w /= self.w.sum()
        Q, K = rng.standard_normal((2, k, d))
        self.p = {"Q": Q, "K": K, "V": rng.standard_normal((dv, d)), "scale": np.asarray(0.7)}
        if kind == "sigmoid":
            self.p["bias"] = np.asarray(-0.4)
        head = KINDS[kind](**self.p)
        self.attention, self.options, self.seen = head, {"at": self.at, "backend": "direct"}, None
        if weighted:
            self.options["weights"] = self.w
        if masked:
            self.attention = fp.Masked(head)
            places = rng.integers(0, 4, n)
            at_places = rng.integers(int(places.min()), 5, m) if other else places
            self.seen = places[None] <= at_places[:, None]
            self.options |= {"positions": places} | ({"at_positions": at_places} if other else {})

    def field(self, x=None, at=None, w=None, **p):
        x = self.x if x is None else x
        at = (x if self.at is None else self.at) if at is None else at
        return naive(self.kind, x, at, self.w if w is None else w, self.p | p, self.seen)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tangents_and_cotangents(kind, masked):
    for i, shape in enumerate(SHAPES):
        one = Setting(kind, shape, masked=masked, other=i % 2 == 1, weighted=i > 1)
        dx = one.rng.standard_normal(one.x.shape)
        dat = None if one.at is None else one.rng.standard_normal(one.at.shape)
        velocity, tangent = one.attention.jvp(one.x, dx, dat=dat, **one.options)
        assert_close(velocity, one.field().real)
        want = derivative(lambda x, one=one: one.field(x=x), one.x, dx)
        if dat is not None:
            want = want + derivative(lambda at, one=one: one.field(at=at), one.at, dat)
        assert_close(tangent, want)
        c = one.rng.standard_normal(velocity.shape)
        found = one.attention.vjp(one.x, c, **one.options)
        assert_close(found.velocity, velocity)
        loss = lambda c=c, one=one, **given: (c * one.field(**given)).sum()  # noqa: E731
        assert_close(found.x, gradient(lambda x, loss=loss: loss(x=x), one.x))
        if one.at is None:
            assert found.at is None
        else:
            assert_close(found.at, gradient(lambda at, loss=loss: loss(at=at), one.at))
        assert set(found.parameters) == {*one.p, "weights"}
        for name, value in one.p.items():
            assert_close(found.parameters[name], gradient(lambda v, name=name, loss=loss: loss(**{name: v}), value))
        assert_close(found.parameters["weights"], gradient(lambda w, loss=loss: loss(w=w), one.w))
        moved = (c * tangent).sum()
        pulled = (found.x * dx).sum() + (0.0 if dat is None else (found.at * dat).sum())
        assert abs(moved - pulled) <= 1e-13 * np.abs(c * tangent).sum()


def sinkhorn(x, at, w, p, steps=1500):
    """Return the field by scalings of the whole matrix, far beyond convergence or `steps`; of complex numbers too."""
    scores = [p["scale"] * (points @ p["Q"].T) @ (x @ p["K"].T).T / p["eps"] for points in (x, at)]
    kernel, there = (np.exp(s - s.real.max()) for s in scores)
    v = np.ones(len(x), kernel.dtype)
    for _ in range(steps):
        u = 1.0 / (kernel @ (w * v))
        v = 1.0 / ((w * u) @ kernel)
    plan = there * (w * v)
    return (plan @ (x @ p["V"].T)) / plan.sum(axis=1, keepdims=True) / p["eps"]


@pytest.mark.parametrize("n_half", [None, 1, 5])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 3), (3, 2, 1)])
def test_scalings(shape, other, n_half):
    """The potentials are differentiated, too; gradients of eps and of masses among them."""
    k, d, dv = shape
    rng = np.random.default_rng([k, other])
    x, dx = rng.standard_normal((2, 6, d))
    at, dat = rng.standard_normal((2, 4, d)) if other else (None, None)
    w = rng.uniform(0.5, 2.0, 6)
    w /= w.sum()
    Q, K = 0.7 * rng.standard_normal((2, k, d))
    p = {"Q": Q, "K": K, "V": rng.standard_normal((dv, d)), "eps": np.asarray(0.8), "scale": np.asarray(1.2)}
    attention = fp.Sinkhorn(**p, tol=1e-13, n_half=n_half)
    steps = {} if n_half is None else {"steps": n_half // 2}

    def field(x=x, at=at, w=w, **given):
        return sinkhorn(x, x if at is None else at, w, p | given, **steps)

    velocity, tangent = attention.jvp(x, dx, at=at, dat=dat, weights=w)
    assert_close(velocity, field().real)
    want = derivative(lambda x: field(x=x), x, dx)
    want = want + derivative(lambda at: field(at=at), at, dat) if other else want
    assert_close(tangent, want)
    c = rng.standard_normal(velocity.shape)
    found = attention.vjp(x, c, at=at, weights=w)
    assert_close(found.x, gradient(lambda x: (c * field(x=x)).sum(), x))
    if other:
        assert_close(found.at, gradient(lambda at: (c * field(at=at)).sum(), at))
    for name, value in p.items():
        assert_close(found.parameters[name], gradient(lambda v, name=name: (c * field(**{name: v})).sum(), value))
    assert_close(found.parameters["weights"], gradient(lambda w: (c * field(w=w)).sum(), w))
    points = x if at is None else at
    low, high = (attention.velocity(x, at=points + h * np.eye(d)[0], weights=w) for h in (-1e-4, 1e-4))
    assert_close(attention.jacobian(x, at=points, weights=w)[:, :, 0], (high - low) / 2e-4, 1e-6)


def test_half_steps_where_a_token_is_hardly_attended_to():
    """Logits of some thousands: sums of columns are below every number; the reference works in logarithms."""
    rng = np.random.default_rng(9)
    x, dx, c = rng.standard_normal((3, 6, 2))
    Q, V = 50.0 * rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    K = 50.0 * rng.standard_normal((2, 2))

    def log_mean(a, axis):
        top = a.real.max(axis=axis, keepdims=True)
        return top + np.log(np.exp(a - top).mean(axis=axis, keepdims=True))

    def field(x=x, Q=Q):
        scores, g = (x @ Q.T) @ (x @ K.T).T, np.zeros((1, 6))
        for _ in range(2):
            f = -log_mean(scores + g, 1)
            g = -log_mean(scores + f, 0)
        a = scores + g
        plan = np.exp(a - a.real.max(axis=1, keepdims=True))
        return (plan @ (x @ V.T)) / plan.sum(axis=1, keepdims=True)

    attention = fp.Sinkhorn(Q, K, V, n_half=5)
    velocity, tangent = attention.jvp(x, dx)
    assert np.ptp((x @ Q.T) @ (x @ K.T).T) > 3000.0
    assert_close(velocity, field().real, 1e-9)
    assert_close(tangent, derivative(lambda x: field(x=x), x, dx), 1e-9)
    found = attention.vjp(x, c)
    assert_close(found.x, gradient(lambda x: (c * field(x=x)).sum(), x), 1e-9)
    # Each token sees one other, which no small change of Q changes.
    np.testing.assert_allclose(found.parameters["Q"], gradient(lambda Q: (c * field(Q=Q)).sum(), Q), atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_and_divergences(kind, masked):
    for other, shape in ((False, (2, 4, 4)), (True, (3, 3, 3)), (True, (3, 2, 1))):
        one = Setting(kind, shape, masked=masked, other=other, weighted=True)
        points = one.x if one.at is None else one.at
        units = np.eye(shape[1])
        want = np.stack(
            [derivative(lambda at, one=one: one.field(at=at), points, np.tile(e, (len(points), 1))) for e in units], 2
        )
        assert_close(one.attention.jacobian(one.x, **one.options), want)
        if shape[1] == shape[2]:
            assert_close(one.attention.divergence(one.x, **one.options), np.trace(want, axis1=1, axis2=2))
        else:
            with pytest.raises(fp.InputError, match="length"):
                one.attention.divergence(one.x, **one.options)


@pytest.mark.parametrize("listed", [False, True])
def test_heads_with_matrices(listed):
    """Heads of different kinds, one of them masked, behind matrices: gradients by name."""
    rng = np.random.default_rng(3)
    x, dx, c = rng.standard_normal((3, 6, 3))
    parts = [Setting("softmax", (2, 3, 2)), Setting("sigmoid", (3, 3, 2)), Setting("l2", (2, 3, 2), masked=True, n=6)]
    seen, places = parts[2].seen, parts[2].options["positions"]
    W = rng.standard_normal((3, 3, 2))
    attention = fp.MultiHead([part.attention for part in parts], W=list(W) if listed else W)

    def field(x, W=W, h=None, **p):
        return sum(
            naive(part.kind, x, x, np.full(6, 1 / 6), part.p | (p if i == h else {}), seen if i == 2 else None) @ W[i].T
            for i, part in enumerate(parts)
        )

    _, tangent = attention.jvp(x, dx, positions=places)
    assert_close(tangent, derivative(field, x, dx))
    found = attention.vjp(x, c, positions=places)
    assert_close(found.x, gradient(lambda x: (c * field(x)).sum(), x))
    of_W = gradient(lambda W: (c * field(x, W)).sum(), W)
    assert_close(np.stack([found.parameters[f"W[{h}]"] for h in range(3)]) if listed else found.parameters["W"], of_W)
    for h, part in enumerate(parts):
        for name, value in part.p.items():
            of = gradient(lambda v, h=h, name=name: (c * field(x, h=h, **{name: v})).sum(), value)
            assert_close(found.parameters[f"heads[{h}].{name}"], of)

    def at_points(at):
        each = (naive(p.kind, x, at, np.full(6, 1 / 6), p.p, seen if i == 2 else None) for i, p in enumerate(parts))
        return sum(one @ W[i].T for i, one in enumerate(each))

    columns = [derivative(at_points, x, np.tile(e, (6, 1))) for e in np.eye(3)]
    assert_close(attention.jacobian(x, positions=places), np.stack(columns, axis=2))
    assert_close(attention.divergence(x, positions=places), np.trace(np.stack(columns, axis=2), axis1=1, axis2=2))


def test_batches_have_the_derivatives_of_each_system():
    rng = np.random.default_rng(4)
    Q, K = rng.standard_normal((2, 3, 2, 3))  # Q for each of three systems; K, V for all
    x, dx, c = rng.standard_normal((3, 3, 5, 3))
    V, W = rng.standard_normal((2, 3, 3))
    several = fp.MultiHead([fp.L2(Q, K[0], V), fp.Softmax(K[1], Q, W)])
    velocity, tangent = several.jvp(x, dx)
    found = several.vjp(x, c)
    total = dict.fromkeys(("heads[0].K", "heads[0].V", "heads[1].Q", "heads[1].V", "heads[1].scale"), 0.0)
    for b in range(3):
        one = several.system(b)
        alone = one.jvp(x[b], dx[b])
        assert_close(velocity[b], alone[0])
        assert_close(tangent[b], alone[1])
        pulled = one.vjp(x[b], c[b])
        assert_close(found.x[b], pulled.x)
        assert_close(found.parameters["heads[0].Q"][b], pulled.parameters["heads[0].Q"])
        assert_close(found.parameters["weights"][b], pulled.parameters["weights"])
        total = {name: value + pulled.parameters[name] for name, value in total.items()}
    for name, value in total.items():
        assert_close(found.parameters[name], value)
        assert found.parameters[name].shape == np.shape(value)


def test_parameters_in_time_single_precision_and_own_weights():
    rng = np.random.default_rng(5)
    Q, K, V = rng.standard_normal((3, 2, 2))
    x, dx, c = rng.standard_normal((3, 6, 2))
    moving = fp.Softmax(lambda t: (1.0 + t) * Q, K, V)
    still = fp.Softmax(1.5 * Q, K, V)
    assert (moving.jvp(x, dx, t=0.5)[1] == still.jvp(x, dx)[1]).all()
    assert (moving.vjp(x, c, t=0.5).parameters["Q"] == still.vjp(x, c).parameters["Q"]).all()
    single = still.jvp(x.astype(np.float32), dx)
    assert single[0].dtype == single[1].dtype == np.float32
    assert_close(single[1], still.jvp(x.astype(np.float32).astype(float), dx)[1], 1e-7)
    for normalised in (False, True):
        weight = fp.Weight(lambda s: 1.0 / (1.0 + s * s), derivative=lambda s: -2.0 * s / (1.0 + s * s) ** 2)
        kind = fp.Softmax if normalised else fp.Exponential
        own = kind(Q, K, V, weight=weight)

        def field(x, normalised=normalised):
            s = (x @ Q.T) @ (x @ K.T).T
            w = 1.0 / (1.0 + s * s)
            return w @ (x @ V.T) / (w.sum(axis=1, keepdims=True) if normalised else len(x))

        assert_close(own.jvp(x, dx)[1], derivative(field, x, dx))
        assert_close(own.vjp(x, c).x, gradient(lambda x, field=field: (c * field(x)).sum(), x))
    with pytest.raises(fp.InputError, match="derivative="):
        fp.Exponential(Q, K, V, weight=fp.Weight(lambda s: s * s)).jvp(x, dx)


@pytest.mark.parametrize("kind", ["softmax", "l2"])
def test_far_from_the_origin(kind):
    """A cloud of size 0.1 at distance 1e6, with scores of products and of distances that are of order one."""
    one = Setting(kind, (2, 2, 2))
    far = 1e6 * np.ones(2) + 0.1 * one.x
    one.p["Q"] = one.p["K"].copy() if kind == "l2" else 1e-5 * one.p["Q"]
    attention = KINDS[kind](**one.p)
    dx, c = one.rng.standard_normal((2, *far.shape))

    def field(x):
        return naive(kind, x, x, one.w, one.p)

    assert_close(attention.jvp(far, dx)[1], derivative(field, far, dx), 1e-9)
    assert_close(attention.vjp(far, c).x, gradient(lambda x: (c * field(x)).sum(), far), 1e-9)


@pytest.mark.parametrize("kind", ["softmax", "l2", "sigmoid"])
def test_large_logits(kind):
    one = Setting(kind, (3, 3, 3))
    largest = np.abs((one.x @ one.p["Q"].T) @ (one.x @ one.p["K"].T).T).max()
    one.p["scale"] = np.asarray(1.05e4 / largest)
    attention = KINDS[kind](**one.p)
    dx, c = one.rng.standard_normal((2, *one.x.shape))
    with np.errstate(over="ignore"):
        want = derivative(lambda x: naive(kind, x, x, one.w, one.p), one.x, dx)
        of_x = gradient(lambda x: (c * naive(kind, x, x, one.w, one.p)).sum(), one.x)
    assert_close(attention.jvp(one.x, dx)[1], want, 1e-9)
    assert_close(attention.vjp(one.x, c).x, of_x, 1e-9)


def test_linear_attention_needs_no_products_of_columns(monkeypatch):
    """Its sums have at most 2 d values: d^2 of them, as other weights may have, would take d times as long."""
    widths, attend = [], fp.Direct.attend

    def counted(self, pair, *arguments):
        widths.append(pair.own.shape[2])
        attend(self, pair, *arguments)

    monkeypatch.setattr(fp.Direct, "attend", counted)
    rng = np.random.default_rng(0)
    attention = fp.Linear(*rng.standard_normal((3, 8, 8)))
    x, dx = rng.standard_normal((2, 20, 8))
    velocity, tangent = attention.jvp(x, dx, backend="direct")
    assert_close((attention.vjp(x, velocity, backend="direct").x * dx).sum(), (tangent * velocity).sum(), 1e-12)
    assert len(widths) >= 6 and max(widths) <= 16


@pytest.mark.parametrize("d", [1, 2])
def test_sums_in_linear_time(d):
    rng = np.random.default_rng(d)
    x, dx, c = rng.standard_normal((3, 4000, d))
    attention, tol = fp.Softmax(*[np.eye(d)] * 3), 1e-8
    fast, exact = (attention.jvp(x, dx, backend=b)[1] for b in (fp.Fast(tol), "direct"))
    radius = np.linalg.norm(x, axis=1).max()
    assert 0.0 < np.abs(fast - exact).max() <= (1.0 + 2.0 * radius**2) * tol * np.abs(dx).max()
    pulled = [attention.vjp(x, c, backend=b).x for b in (fp.Fast(tol), "direct")]
    assert 0.0 < np.abs(pulled[0] - pulled[1]).max() <= (1.0 + 2.0 * radius**2) * tol * np.abs(pulled[1]).max()


@pytest.mark.parametrize(
    ("shape", "kind", "options"),
    [
        ((1, 2, 2), "softmax", {}),
        ((2, 2, 1), "softmax", {"weighted": True}),
        ((2, 2, 2), "l2", {"other": True}),
        ((2, 2, 2), "exponential", {"weighted": True}),
        ((1, 1, 1), "l2", {"masked": True, "weighted": True}),
    ],
)
def test_sums_in_linear_time_of_all_heads(shape, kind, options):
    """Keys that are values or not, with biases, weights, other points and masks, as by direct sums."""
    one, tol = Setting(kind, shape, n=3000, m=2000, **options), 1e-8
    dx, fast = one.rng.standard_normal(one.x.shape), fp.Fast(tol)
    dat = None if one.at is None else one.rng.standard_normal(one.at.shape)
    c, found = one.rng.standard_normal((3000 if one.at is None else 2000, shape[2])), []
    for backend in (fast, "direct"):
        given = one.options | {"backend": backend}
        value, tangent = one.attention.jvp(one.x, dx, dat=dat, **given)
        pulled = one.attention.vjp(one.x, c, **given)
        jacobian = one.attention.jacobian(one.x, **given)
        found.append([value, tangent, pulled.x, jacobian, *pulled.parameters.values()])
        found[-1] += [pulled.at] if one.at is not None else []
        found[-1] += [one.attention.divergence(one.x, **given)] if shape[1] == shape[2] else []
    assert fast.stats()["fast_sums"] > 0 and fast.stats()["direct_sums"] == fast.stats()["fast_failed"] == 0
    radius = np.linalg.norm(one.x, axis=1).max() ** 2 * np.linalg.norm(one.p["Q"]) * np.linalg.norm(one.p["K"])
    for got, want in zip(*found, strict=True):
        assert_close(got, want, (1.0 + 2.0 * radius) * tol)


@pytest.mark.parametrize("kind", ["softmax", "l2"])
def test_gaussian_tangents_are_those_of_the_closure(kind):
    """Nodes of Gauss and Hermite moved affinely: dM x + dc + M delta, dM and dc by differences of the closed form."""
    rng = np.random.default_rng(6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    w = np.outer(weights, weights).ravel()
    keep = w > 1e-25
    points = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)[keep]
    w = w[keep] / w[keep].sum()
    mean, root = rng.standard_normal(2), 0.5 * np.eye(2) + 0.1 * rng.standard_normal((2, 2))
    x = mean + points @ root.T
    B, b = rng.standard_normal((2, 2)), rng.standard_normal(2)
    delta = (x - mean) @ B.T + b
    attention = KINDS[kind](*(0.5 * rng.standard_normal((3, 2, 2))))

    def closure(h):
        moved = (np.eye(2) + h * B) @ root
        return attention.affine(mean + h * b, moved @ moved.T)

    h = 1e-3
    dM, dc = (
        (8 * (p - m) - (q - o)) / (12 * h) for p, m, q, o in zip(*map(closure, (h, -h, 2 * h, -2 * h)), strict=True)
    )
    M, _ = closure(0.0)
    inner = w > 1e-12
    tangent = attention.jvp(x, delta, weights=w)[1]
    assert_close(tangent[inner], (x @ dM.T + dc + delta @ M.T)[inner], 1e-9)


def test_an_attention_without_derivatives_says_so():
    class Still(fp.Attention):
        averages = False

        def parameters(self):
            return iter(())

        def _dimensions(self, t):
            return 2, 2

        def _evaluate(self, cloud, t, backend, out):
            out[...] = 0.0

        def _totals(self, cloud, t, backend):
            return iter(())

        def _closure(self, mean, factor, t):
            raise fp.NoGaussianClosure("none")

    assert (Still().velocity(np.ones((3, 2))) == 0.0).all()
    with pytest.raises(fp.InputError, match="derivatives are known"):
        Still().jvp(np.ones((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dx": np.ones((3, 2))}, "dx: got shape"),
        ({"dx": np.full((4, 2), np.nan)}, r"dx\[0, 0\]: got nan"),
        ({"dx": np.ones((4, 2)), "dat": np.ones((4, 2))}, "dat: got a value"),
        ({"dx": np.ones((4, 2)), "at": np.ones((3, 2)), "dat": np.ones((4, 2))}, "dat: got shape"),
        ({"dx": np.array([["a", "b"]] * 4)}, "dx: got dtype"),
        ({"dx": np.ma.masked_less(np.ones((4, 2)), 0.5)}, "dx: got a masked array"),
    ],
)
def test_wrong_directions_are_refused(given, message):
    with pytest.raises((fp.InputError, fp.InputTypeError), match=message):
        fp.Softmax(*[np.eye(2)] * 3).jvp(np.ones((4, 2)), **given)
    with pytest.raises(fp.InputError, match="cotangent: got shape"):
        fp.Softmax(*[np.eye(2)] * 3).vjp(np.ones((4, 2)), np.ones((4, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_what_overflows(dtype):
    """e^900 (30, 0) and its changes: inf of the right sign, other tokens as ever, and no warning."""
    attention = fp.Exponential(np.eye(2), np.eye(2), np.diag([-1.0, 1.0]))
    x = np.array([[30.0, 0.0], [0.0, 1.0], [-1.0, 0.5]], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        velocity, tangent = attention.jvp(x, np.ones((3, 2)), backend="direct")
        other = attention.vjp(x, np.ones((3, 2)), backend="direct")
    assert np.isneginf(velocity[0, 0]) and np.isneginf(tangent[0, 0]) and np.isposinf(tangent[0, 1])
    for found in (velocity, other.velocity):
        np.testing.assert_allclose(found, attention.velocity(x, backend="direct"), rtol=1e-6)

    def field(x):
        return (np.exp(x[1:] @ x.T) @ (x * [-1.0, 1.0])) / 3.0

    np.testing.assert_allclose(tangent[1:], derivative(field, x.astype(float), np.ones((3, 2))), rtol=1e-6)
