"""Gradients of energies and their Hessians against the complex step of naive sums."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

RNG = np.random.default_rng(0)
STEP = 1e-30
KINDS = {"softmax": fp.Softmax, "l2": fp.L2, "sigmoid": fp.Sigmoid, "exponential": fp.Exponential, "linear": fp.Linear}


def force(kind, x, p, w, seen):
    """Return the gradient of 1/2 sum w w law(s) where seen, pair by pair; of complex tokens, too."""
    if kind == "l2":
        apart = (x @ p["Q"].T)[:, None] - (x @ p["K"].T)[None]
        e = np.where(seen, 0.5 * w[:, None] * w * np.exp(-p["scale"] * (apart**2).sum(axis=2)), 0.0)
        moved = -2.0 * p["scale"] * e[:, :, None] * apart
        return moved.sum(axis=1) @ p["Q"] - moved.sum(axis=0) @ p["K"]
    A = p["scale"] * p["K"].T @ p["Q"]
    s = (x @ A.T) @ x.T + p.get("bias", 0.0)
    slope = {"sigmoid": lambda s: 0.25 / np.cosh(s / 2) ** 2, "linear": np.ones_like}.get(kind, np.exp)
    pairs = np.where(seen, 0.5 * w[:, None] * w * slope(s), 0.0)
    return pairs @ x @ A + pairs.T @ x @ A.T


def setting(kind, k, d, *, symmetric=False, n=6):
    x, dx = RNG.standard_normal((2, n, d))
    Q, K = RNG.standard_normal((2, k, d))
    K = Q if symmetric else K
    p = {"Q": Q, "K": K, "V": RNG.standard_normal((d, d)), "scale": np.asarray(0.6)}
    p |= {"bias": np.asarray(-0.3)} if kind == "sigmoid" else {}
    w = RNG.uniform(0.5, 2.0, n)
    return x, dx, p, w / w.sum(), RNG.integers(0, 3, n)


def assert_close(got, want, tol=1e-12):
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * np.abs(want).max())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_variant(kind, masked):
    for k, d, symmetric in ((2, 3, False), (3, 2, True)):
        x, dx, p, w, places = setting(kind, k, d, symmetric=symmetric)
        attention, seen, given = KINDS[kind](**p), np.ones((6, 6), bool), {"weights": w, "backend": "direct"}
        if masked:
            attention, seen = fp.Masked(attention), places[None] <= places[:, None]
            given |= {"positions": places.astype(np.uint8)}
        gradient, change = fp.energy_hvp(attention, x, dx, **given)
        assert_close(gradient, force(kind, x, p, w, seen))
        assert_close(change, force(kind, x + 1j * STEP * dx, p, w, seen).imag / STEP)
        np.testing.assert_array_equal(fp.energy_gradient(attention, x, **given), gradient)
        h = 1e-4  # the energy itself, by differences of fourth order
        at = [fp.interaction_energy(attention, x + j * h * dx, **given) for j in (-2, -1, 1, 2)]
        slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        assert abs((gradient * dx).sum() - slope) < 1e-9 * max(1.0, np.abs(at).max())
        other = RNG.standard_normal(x.shape)
        back = fp.energy_hvp(attention, x, other, **given)[1]
        assert abs((other * change).sum() - (dx * back).sum()) < 1e-13 * np.abs(other * change).sum()


def test_distances_far_from_the_origin():
    """Only x_i - x_j counts: as at the origin, but for the digits of the tokens themselves."""
    x, dx, p, w, _ = setting("l2", 2, 2, symmetric=True)
    near, far = (fp.energy_hvp(fp.L2(**p), y, dx, weights=w) for y in (x, x + 1e6))
    for a, b in zip(near, far, strict=True):
        assert_close(b, a, 1e-9)


def plan(x, p, w, steps=1500):
    """Return w_i w_j kappa_ij by scalings far beyond convergence; of complex tokens, too."""
    kernel = np.exp(p["scale"] * (x @ p["Q"].T) @ (x @ p["K"].T).T / p["eps"])
    v = np.ones(len(x), kernel.dtype)
    for _ in range(steps):
        u = 1.0 / (kernel @ (w * v))
        v = 1.0 / ((w * u) @ kernel)
    return (w * u)[:, None] * kernel * (w * v)


@pytest.mark.parametrize("symmetric", [False, True])
def test_sinkhorn(symmetric):
    x, dx, p, w, _ = setting("sinkhorn", 2, 2, symmetric=symmetric)
    p["eps"] = np.asarray(1.5)
    A = p["scale"] * p["K"].T @ p["Q"]

    def naive(y):
        pi = plan(y, p, w)
        return -(pi @ y @ A + pi.T @ y @ A.T)

    attention = fp.Sinkhorn(**p, tol=1e-13)
    gradient, change = fp.energy_hvp(attention, x, dx, weights=w)
    assert_close(gradient, naive(x), 1e-11)
    assert_close(change, naive(x + 1j * STEP * dx).imag / STEP, 1e-10)
    h = 1e-4
    at = [fp.sinkhorn_energy(attention, x + j * h * dx, weights=w) for j in (-2, -1, 1, 2)]
    assert abs((gradient * dx).sum() - (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)) < 1e-9
    if symmetric:
        flow = fp.Sinkhorn(p["Q"], p["K"], A, 1.5, 0.6, tol=1e-13)
        assert_close(gradient, -3.0 * w[:, None] * flow.velocity(x, weights=w), 1e-11)


def test_heads_batches_and_layers():
    """The energy of heads is the sum; parameters with a value for each system, at their time; float32."""
    x, dx = RNG.standard_normal((2, 3, 5, 2))
    Q = RNG.standard_normal((3, 2, 2))
    first, second = fp.Softmax(lambda t: t * Q, np.eye(2), np.eye(2)), fp.Sigmoid(np.eye(2), Q, np.eye(2))
    third = fp.Sinkhorn(np.eye(2), Q, np.eye(2), eps=[1.0, 2.0, 3.0])
    fourth = fp.L2(np.eye(2), Q, np.eye(2), scale=[0.5, 1.0, 1.5])
    heads = fp.MultiHead([fp.MultiHead([first, fp.Masked(second)]), third, fourth], W=RNG.standard_normal((3, 2, 2)))
    gradient, change = fp.energy_hvp(heads, x, dx, t=0.5)
    for b in range(3):
        parts = [fp.Softmax(0.5 * Q[b], np.eye(2), np.eye(2)), fp.Masked(fp.Sigmoid(np.eye(2), Q[b], np.eye(2)))]
        parts.append(fp.Sinkhorn(np.eye(2), Q[b], np.eye(2), eps=1.0 + b))
        parts.append(fp.L2(np.eye(2), Q[b], np.eye(2), scale=0.5 + 0.5 * b))
        alone = [fp.energy_hvp(part, x[b], dx[b]) for part in parts]
        assert_close(gradient[b], sum(g for g, _ in alone), 1e-8)  # of the scalings
        assert_close(change[b], sum(c for _, c in alone), 1e-8)
    single = fp.energy_gradient(parts[0], x[2].astype(np.float32))
    assert single.dtype == np.float32
    assert_close(single, alone[0][0], 1e-6)


def test_the_logarithm_does_not_overflow():
    """Small scores: the formula for log E. Large ones: finite, and that of the pair that dominates."""
    x, dx, p, w, places = setting("softmax", 2, 2)
    second = fp.Sigmoid(p["K"], p["Q"], p["V"], bias=0.5)
    heads = [fp.Masked(fp.Softmax(**p)), second, fp.L2(**p)]
    attention, given = fp.MultiHead(heads), {"weights": w, "positions": places}
    E = fp.interaction_energy(attention, x, **given)
    g, H = fp.energy_hvp(attention, x, dx, **given)
    gradient, change = fp.energy_hvp(attention, x, dx, log=True, **given)
    assert_close(gradient, g / E)
    assert_close(change, H / E - g * (g * dx).sum() / E**2)
    eye, far = np.eye(2), np.array([[100.0, 0.0], [1.0, 2.0]])
    attention = fp.Softmax(eye, eye, eye)
    with pytest.raises(fp.InputError, match="log=True"):
        fp.energy_gradient(attention, far)
    gradient, change = fp.energy_hvp(attention, far, np.ones((2, 2)), log=True)
    np.testing.assert_allclose(gradient, [[200.0, 0.0], [0.0, 0.0]], atol=1e-9)  # log E = |x_1|^2 - log 8
    np.testing.assert_allclose(change, [[2.0, 2.0], [0.0, 0.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("attention", "given", "message"),
    [
        (fp.Softmax(*np.ones((3, 2, 2)), weight=fp.Weight(lambda s: s * s)), {}, "weight: got"),
        (fp.Sinkhorn(*np.ones((3, 2, 2)), n_half=3), {}, "attention: got n_half=3"),
        (fp.Sinkhorn(*np.ones((3, 2, 2))), {"log": True}, "log: got True"),
        (fp.Linear(np.eye(2), -np.eye(2), np.eye(2)), {"log": True}, "log: got True"),
        (fp.Softmax, {}, "attention: got"),
        (fp.Softmax(*np.ones((3, 2, 2))), {"log": "no"}, "log: got 'no' .*; need True or False"),
        (fp.Softmax(*np.ones((3, 2, 2))), {"dx": np.ones((3, 2))}, "dx: got shape"),
    ],
)
def test_what_is_refused(attention, given, message):
    asked = {"dx": np.ones((5, 2))} | given
    with pytest.raises((fp.InputError, fp.InputTypeError), match=message):
        fp.energy_hvp(attention, RNG.standard_normal((5, 2)), asked.pop("dx"), **asked)
