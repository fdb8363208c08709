"""Gradients of runs against the complex step of the same steps, taken by naive sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastpde as fp
from fastpde.integrate.methods import TABLEAUX
from fastpde.noise import Brownian
from fastpde.sensitivity import snapshots

STEP = 1e-30
RNG = np.random.default_rng(0)
P = {name: 0.7 * RNG.standard_normal((2, 2)) for name in "QKV"}
X = RNG.standard_normal((6, 2))


def softmax(x, p, seen=None):
    s = (x @ p["Q"].T) @ (x @ p["K"].T).T
    e = np.exp(s - s.real.max(axis=1, keepdims=True))
    e = e if seen is None else np.where(seen, e, 0.0)
    return (e @ (x @ p["V"].T)) / e.sum(axis=1, keepdims=True)


def run(velocity, x, times, method, *, sphere=False, at=(), noise=None):
    """Take the steps of a run between given times; return the states at the times `at`, or the last one."""
    tableau = TABLEAUX[method]

    def retract(y):
        return y / np.sqrt((y * y).sum(axis=1, keepdims=True)) if sphere else y

    def tangent(y, v):
        return v - (y * v).sum(axis=1, keepdims=True) * y if sphere else v

    x, found = retract(x), []
    for n, (t, end) in enumerate(itertools.pairwise(times)):
        h, k = end - t, []
        more = 0.0
        if noise is not None:
            more = np.empty(x.shape)
            noise(n, h, x.real, more)
            more = tangent(x, more)
        for s in range(tableau.stages):
            y = x + h * (sum((a * v for a, v in zip(tableau.a[s], k, strict=False)), 0.0 * x) + tableau.c[s] * more)
            y = retract(y) if s else x
            k.append(tangent(y, velocity(t + tableau.c[s] * h, y)))
        for time in at:
            if t < time <= end:
                theta = (time - t) / h
                weights = [theta * b for b in tableau.b] if noise is not None else tableau.weights_at(theta)
                change = sum(w * v for w, v in zip(weights, k, strict=True)) + (theta * more)
                found.append(retract(x + h * change))
        x = y
    return np.array(found) if len(at) else x


def steps(attention, x, span, **options):
    """Return the times of the steps of a run."""
    times = []
    fp.solve(attention, x, span, observers=[fp.Observer(lambda t, _: times.append(t), steps=1)], **options)
    return sorted(set(times))


def loss(weights):
    """Return a loss for `gradient`, and the same for complex numbers."""
    return (
        lambda x: (float((weights * x).sum() + 0.5 * (x * x).sum()), weights + x),
        lambda x: (weights * x).sum() + 0.5 * (x * x).sum(),
    )


def check(found, number, at, what):
    """Compare a gradient with the complex step along random directions."""
    for name, value in at.items():
        direction = np.random.default_rng(1).standard_normal(value.shape)
        want = np.imag(number(**{name: value + 1j * STEP * direction})) / STEP
        got = (found.x0 if name == "x" else found.parameters[name] * 1.0).reshape(value.shape)
        assert abs((got * direction).sum() - want) <= 1e-10 * max(1.0, abs(want)), (what, name)


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [("rk4", {"step": 0.04}), ("dopri5", {"rtol": 1e-5}), ("bosh3", {"rtol": 1e-4}), ("heun", {"step": 0.1})],
)
def test_steps_of_every_kind(method, options, sphere):
    """The end and states between steps count; rk4 makes 50 steps. With little memory the same numbers come out."""
    options = {**options, "method": method, "backend": "direct"} | ({"manifold": fp.Sphere()} if sphere else {})
    x = X / np.linalg.norm(X, axis=1, keepdims=True) if sphere else X
    attention, at, span = fp.Softmax(**P), np.array([0.13, 0.5, 1.37, 2.0]), (0.0, 2.0)
    c = np.random.default_rng(2).standard_normal((4, *x.shape))
    ours, naive = loss(c)
    found = fp.gradient(ours, attention, x, span, t_eval=at, **options)
    times = steps(attention, x, span, **options)
    assert found.stats["steps"] == len(times) - 1 and (method != "rk4" or found.stats["steps"] == 50)

    def number(x=x, **p):
        return naive(run(lambda t, y: softmax(y, P | p), x, times, method, sphere=sphere, at=at))

    assert abs(found.value - number().real) < 1e-12 * abs(found.value)
    check(found, number, {"x": x, **P}, method)
    little = fp.gradient(ours, attention, x, span, t_eval=at, memory=6 * 8 * x.size, **options)
    assert little.stats["kept"] < found.stats["kept"] and little.stats["velocities"] > found.stats["velocities"]
    np.testing.assert_allclose(little.x0, found.x0, rtol=1e-13, atol=1e-14)


def test_masks_heads_and_weights():
    seen = np.tril(np.ones((6, 6), bool))
    second = {name: 0.5 * RNG.standard_normal((2, 2)) for name in "QKV"}
    W = RNG.standard_normal((2, 2, 2))
    attention = fp.MultiHead([fp.Masked(fp.Softmax(**P)), fp.Softmax(**second)], W=W)
    ours, naive = loss(np.random.default_rng(3).standard_normal(X.shape))
    found = fp.gradient(ours, attention, X, (0.0, 1.0), method="rk4", step=0.1, backend="direct")
    times = steps(attention, X, (0.0, 1.0), method="rk4", step=0.1, backend="direct")

    def number(x=X, W=W, **p):
        first = {name: p.get(f"heads[0].{name}", P[name]) for name in "QKV"}
        other = {name: p.get(f"heads[1].{name}", second[name]) for name in "QKV"}
        return naive(run(lambda t, y: softmax(y, first, seen) @ W[0].T + softmax(y, other) @ W[1].T, x, times, "rk4"))

    check(found, number, {"x": X, "W": W, "heads[0].Q": P["Q"], "heads[1].V": second["V"]}, "heads")


def test_layers_and_functions_of_time():
    """The gradient of layers is that of their stack; a function of time has none, but is followed."""
    stack = 0.7 * RNG.standard_normal((3, 2, 2))
    attention = fp.Softmax(lambda t: (1.0 + t) * P["Q"], fp.Layers(stack, 1.0), P["V"])
    ours, naive = loss(np.random.default_rng(4).standard_normal(X.shape))
    options = {"method": "heun", "step": 1 / 12, "backend": "direct"}
    found = fp.gradient(ours, attention, X, (0.0, 1.0), **options)
    times = steps(attention, X, (0.0, 1.0), **options)

    def number(x=X, K=stack, V=P["V"]):
        def velocity(t, y):
            start = max(time for time in times[:-1] if time <= now[0] + 1e-12)
            return softmax(y, {"Q": (1.0 + t) * P["Q"], "K": K[min(2, int(3 * start + 1e-9))], "V": V})

        now = [0.0]
        for first, last in itertools.pairwise(times):
            now[0] = first
            x = run(velocity, x, [first, last], "heun")
        return naive(x)

    assert "Q" not in found.parameters
    check(found, number, {"x": X, "K": stack, "V": P["V"]}, "layers")


@pytest.mark.parametrize("sphere", [False, True])
def test_the_path_of_the_noise_is_that_of_the_run(sphere):
    x = X / np.linalg.norm(X, axis=1, keepdims=True) if sphere else X
    place = {"manifold": fp.Sphere()} if sphere else {}
    attention, at = fp.Softmax(**P), np.array([0.33, 1.0])
    ours, naive = loss(np.random.default_rng(5).standard_normal((2, *x.shape)))
    options = {"method": "heun", "step": 0.1, "noise": 0.3, "seed": 7, "backend": "direct", **place}
    found = fp.gradient(ours, attention, x, (0.0, 1.0), t_eval=at, **options)
    times = steps(attention, x, (0.0, 1.0), **options)

    def number(x=x, **p):
        states = run(lambda t, y: softmax(y, P | p), x, times, "heun", sphere=sphere, at=at, noise=Brownian(0.3, 7))
        return naive(states)

    assert abs(found.value - number().real) < 1e-11
    check(found, number, {"x": x, **P}, "noise")


def test_the_way_back_is_reported():
    seen = []
    found = fp.gradient(
        lambda x: (x.sum(), np.ones_like(x)), fp.Softmax(**P), X, (0.0, 1.0), method="rk4", step=0.25,
        progress=lambda t, stats: seen.append((t, stats["steps"])),
    )  # fmt: skip
    assert seen == [(0.75, 1), (0.5, 2), (0.25, 3), (0.0, 4)] and found.stats["steps"] == 4


def test_memory_bounds_the_states():
    """With S states in memory, at most S / 2 are kept and as many are made between two of them."""
    kept = snapshots.Snapshots((6, 2), 10 * 8 * 12)
    for n in range(1001):
        kept.take(0.001 * n, X)
    assert len(kept.times) == 1001 and len(kept.states) <= kept.most == 5
    assert kept.stride * (len(kept.states) - 1) <= 1000 < kept.stride * len(kept.states) + kept.stride


class Counted:
    """A number that knows how many of its kind there are, and were at most."""

    alive = most = 0

    def __init__(self, value):
        self.value = value
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


@pytest.mark.parametrize(("count", "room"), [(0, 3), (1, 1), (7, 7), (40, 6), (41, 3), (30, 2), (20, 1), (1000, 12)])
def test_states_are_made_again_in_little_room(count, room):
    Counted.most = Counted.alive = 0
    calls = []

    def advance(n, y):
        assert y.value == n
        calls.append(n)
        return Counted(n + 1)

    start, expected = Counted(5), 5 + count
    for n, y in snapshots.backwards(5, 5 + count, start, room, advance):
        expected -= 1
        assert n == y.value == expected
    assert expected == 5 and Counted.most <= room + 3
    assert len(calls) <= (2 if count <= room**2 // 4 else count) * count


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        (lambda x: (0.0, np.zeros((5, 2))), {}, "loss: got a derivative of shape"),
        (lambda x: (0.0, np.full_like(x, np.nan)), {}, "loss: got a derivative that is not finite"),
        (lambda x: (0.0, x), {"max_steps": 2}, "t_span: got a run that ended"),
        (lambda x: (0.0, x), {"memory": 0}, "memory"),
        (lambda x: (0.0, x), {"x0": np.ones((2, 6, 2))}, "x0: got float64 of shape"),
    ],
)
def test_what_is_refused(loss, given, message):
    asked = {"x0": X, **given}
    with pytest.raises(fp.InputError, match=message):
        fp.gradient(loss, fp.Softmax(**P), asked.pop("x0"), (0.0, 1.0), **asked)
