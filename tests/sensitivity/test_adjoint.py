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
            if t < np.real(time) <= end:
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


@pytest.mark.parametrize(
    ("method", "options"), [("euler", {"step": 0.25}), ("rk4", {"step": 0.2}), ("dopri5", {"rtol": 1e-6})]
)
@pytest.mark.parametrize("sphere", [False, True])
def test_a_batch_is_its_systems(method, options, sphere):
    """Parameters of each system, of all together, of layers, and masses: what the systems have alone, or its sum."""
    rng = np.random.default_rng(11)
    x, q, k = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 2, 2)), rng.standard_normal((2, 2))
    x = x / np.linalg.norm(x, axis=2, keepdims=True) if sphere else x
    stacks = rng.standard_normal((4, 3, 2, 2)), rng.standard_normal((4, 2, 2))
    w, c = rng.uniform(0.5, 1.0, (3, 5)), rng.standard_normal((2, 3, 5, 2))
    w /= w.sum(axis=1, keepdims=True)
    given = {"method": method, "t_eval": [0.3, 1.0], "backend": "direct", **options}
    given |= {"manifold": fp.Sphere()} if sphere else {}

    def field(b=None):
        own = stacks[0] if b is None else stacks[0][:, b]
        first = fp.Softmax(q if b is None else q[b], k, fp.Layers(own, 1.0))
        return fp.MultiHead([first, fp.Masked(fp.L2(k, k, fp.Layers(stacks[1], 1.0)))])

    found = fp.gradient(loss(c)[0], field(), x, (0.0, 1.0), weights=w, **given)
    each = [fp.gradient(loss(c[:, b])[0], field(b), x[b], (0.0, 1.0), weights=w[b], **given) for b in range(3)]
    assert abs(found.value - sum(one.value for one in each)) < 1e-12 * abs(found.value)
    close = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(found.x0, [one.x0 for one in each], **close)
    np.testing.assert_allclose(found.parameters["weights"], [one.parameters["weights"] for one in each], **close)
    assert set(found.parameters) == set(each[0].parameters)
    for name in set(found.parameters) - {"weights"}:
        value, alone = found.parameters[name], [one.parameters[name] for one in each]
        if name in ("heads[0].Q", "heads[0].V"):
            np.testing.assert_allclose(value, np.stack(alone, axis=int(name.endswith("V"))), **close, err_msg=name)
        else:
            np.testing.assert_allclose(value, sum(alone), **close, err_msg=name)


def test_the_noise_of_a_batch():
    """Each system has its own; the first is that of a run alone."""
    x = np.stack([X, X])
    c = np.stack([np.ones_like(X), np.zeros_like(X)])
    given = {"method": "heun", "step": 0.1, "noise": 0.3, "backend": "direct"}
    found = fp.gradient(loss(c)[0], fp.Softmax(**P), x, (0.0, 1.0), **given)
    alone = fp.gradient(loss(c[0])[0], fp.Softmax(**P), X, (0.0, 1.0), **given)
    np.testing.assert_allclose(found.x0[0], alone.x0, rtol=1e-12, atol=1e-13)
    assert np.abs(found.x0[1] - alone.x0).max() > 0.1


def test_masks_heads_and_weights():
    second = {name: 0.5 * RNG.standard_normal((2, 2)) for name in "QKV"}
    W = RNG.standard_normal((2, 2, 2))
    places = np.array([3.0, 1.0, 2.0, 6.0, 4.0, 5.0])  # positions in no order
    seen = places[None] <= places[:, None]
    attention = fp.MultiHead([fp.Masked(fp.Softmax(**P)), fp.Softmax(**second)], W=W)
    ours, naive = loss(np.random.default_rng(3).standard_normal(X.shape))
    options = {"method": "rk4", "step": 0.1, "backend": "direct", "positions": places}
    found = fp.gradient(ours, attention, X, (0.0, 1.0), **options)
    times = steps(attention, X, (0.0, 1.0), **options)

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
        (lambda x: (0.0, x), {"x0": X.astype(np.float32)}, "x0: got float32"),
        (lambda x: 0.0, {}, "loss: got a function that returns 0.0"),
        (lambda x, t: (0.0, x), {"events": [fp.Collapsed(1e-9)]}, "loss: got a function that returns .0.0"),
        (lambda x: (0.0, x), {"events": [fp.Collapsed(1e-9)], "t_eval": [1.0]}, "events: got 1"),
        (lambda x: (0.0, x), {"x0": np.ones((2, 6, 2)), "events": [fp.Collapsed(1e-9)]}, "events: got 1"),
        (lambda x, t: (0.0, x, 0.0), {"events": [lambda t, x: 1.0]}, "events: got .* an attribute `gradient`"),
    ],
)
def test_what_is_refused(loss, given, message):
    asked = {"x0": X, **given}
    with pytest.raises(fp.InputError, match=message):
        fp.gradient(loss, fp.Softmax(**P), asked.pop("x0"), (0.0, 1.0), **asked)


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("event", ["function", "blow-up", "collapsed"])
def test_the_end_at_an_event(event, sphere):
    """The time of the end follows the state; the reference moves it by the implicit function of the event."""
    if sphere and event == "blow-up":
        pytest.skip("tokens stay on the sphere")
    x = X / np.linalg.norm(X, axis=1, keepdims=True) if sphere else X
    p = P | {"V": 2.0 * np.eye(2), "Q": 0.3 * P["Q"]}
    if event == "collapsed" and not sphere:
        p["V"] = -p["V"]
        p["Q"] = p["K"]  # the tokens attract each other
        p["V"] = p["V"] - 1.0 * np.eye(2)
    then = fp.solve(fp.Softmax(**p), x, (0.0, 0.53), manifold=fp.Sphere() if sphere else None).x_final

    def first(t, y):
        return float(y[0, 0] - then[0, 0] + 0.01 * (t - 0.53))

    first.gradient = lambda t, y: (0.01, np.eye(1, y.size).reshape(y.shape))

    def radius(y):
        return float(np.linalg.norm(y, axis=1).max())

    grown, spread = radius(then), radius(then - then.mean(axis=0))
    events = {"function": first, "blow-up": fp.BlowUp(grown), "collapsed": fp.Collapsed(spread)}
    chosen = events[event]
    options = {"rtol": 1e-4, "backend": "direct", "manifold": fp.Sphere() if sphere else None}
    attention, c = fp.Softmax(**p), np.random.default_rng(8).standard_normal(x.shape)

    def ours(y, t):
        return float((c * y).sum() + t * t), c, 2.0 * t

    found = fp.gradient(ours, attention, x, (0.0, 30.0), events=[chosen], **options)
    sol = found.solution
    assert sol.status is not fp.Status.COMPLETED and sol.stats["steps"] > 1
    times = steps(attention, x, (0.0, 30.0), events=[chosen], **options)
    times[-1] = times[-2] + sol.stats["last_step"]
    assert times[-2] < sol.t_final < times[-1], "the event is within a step"

    def state(x=x, t=sol.t_final, **changed):
        return run(lambda _, y: softmax(y, p | changed), x, times, "dopri5", sphere=sphere, at=[t])[0]

    def value(t, y):
        if event == "function":
            return y[0, 0] - then[0, 0] + 0.01 * (t - 0.53)
        y = y - (y.mean(axis=0) if event == "collapsed" else 0.0)
        outermost = np.argmax(np.abs(y.real * y.real).sum(axis=1))
        return np.sqrt((y[outermost] * y[outermost]).sum()) / (chosen.tol if event == "collapsed" else chosen.radius)

    assert abs(found.value - (c * state()).sum() - sol.t_final**2) < 1e-12
    later = sol.t_final + 1j * STEP
    there = state(t=later)
    rate, slope = np.imag(there) / STEP, np.imag(value(later, there)) / STEP
    for name, direction in {"x": 1.0 + X[::-1], **dict.fromkeys("QKV", 1.0 + P["Q"])}.items():
        base = x if name == "x" else p[name]
        moved = state(**{name: base + 1j * STEP * direction})
        dt = -np.imag(value(sol.t_final, moved)) / STEP / slope
        want = (c * (np.imag(moved) / STEP + rate * dt)).sum() + 2.0 * sol.t_final * dt
        got = ((found.x0 if name == "x" else found.parameters[name]) * direction).sum()
        assert abs(got - want) <= 1e-10 * max(1.0, abs(want)), name


def test_a_steady_state_ends_with_a_step():
    stable = fp.Softmax(0.1 * P["Q"], P["K"], -np.eye(2))
    found = fp.gradient(
        lambda x, t: (float(x.sum()), np.ones_like(x), 0.0), stable, X, (0.0, 50.0), events=[fp.SteadyState(0.3)]
    )
    assert found.solution.status is fp.Status.STEADY_STATE
    times = steps(stable, X, (0.0, 50.0), events=[fp.SteadyState(0.3)])
    direction = np.random.default_rng(0).standard_normal(X.shape)
    field = lambda _, y: softmax(y, P | {"V": -np.eye(2), "Q": 0.1 * P["Q"]})  # noqa: E731
    want = np.imag(run(field, X + 1j * STEP * direction, times, "dopri5").sum()) / STEP
    assert abs((found.x0 * direction).sum() - want) <= 1e-10


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "step": 0.5}])
@pytest.mark.parametrize("system", [0, 1])
def test_systems_that_the_loss_does_not_see(system, options):
    """Their gradients are zero; the others' are those of a run alone."""
    x = RNG.standard_normal((2, 4, 2))

    def loss(y):
        found = np.zeros_like(y)
        found[system] = y[system]
        return 0.5 * (y[system] ** 2).sum(), found

    attention = fp.Softmax(P["Q"], P["K"], np.stack([P["V"], -P["V"]]))
    found = fp.gradient(loss, attention, x, (0.0, 1.0), **options)
    alone = fp.Softmax(P["Q"], P["K"], attention.V(0.0)[system])
    one = fp.gradient(lambda y: (0.5 * (y**2).sum(), y), alone, x[system], (0.0, 1.0), **options)
    assert not found.x0[1 - system].any() and not found.parameters["V"][1 - system].any()
    assert np.allclose(found.parameters["V"][system], one.parameters["V"], rtol=1e-12)
    for name in ("Q", "K", "scale", "weights"):
        assert np.allclose(found.parameters[name], one.parameters[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weights", [None, np.full((2, 4), 0.25)])
@pytest.mark.parametrize("span", [(0.0, 0.0), (0.0, 0.5)])
def test_a_loss_that_does_not_depend_on_the_run(span, weights):
    """All names are there, with zeros of the shapes that they have else; so they are for a run of no time."""
    layers = fp.Layers(np.stack([P["V"]] * 3), 0.5)
    attention = fp.MultiHead(
        [fp.Masked(fp.Softmax(P["Q"], P["K"], layers)), fp.Sinkhorn(**P)], np.stack([np.eye(2)] * 2)
    )
    x = RNG.standard_normal((2, 4, 2))
    none = fp.gradient(lambda y: (1.0, 0.0 * y), attention, x, span, weights=weights)
    some = fp.gradient(lambda y: (y.sum(), np.ones_like(y)), attention, x, (0.0, 0.5), weights=weights).parameters
    assert none.value == 1.0 and none.parameters.keys() == some.keys()
    for name, zeros in none.parameters.items():
        assert np.shape(zeros) == np.shape(some[name]) and not np.any(zeros), name


def test_a_loss_may_overwrite_its_argument():
    def loss(y):
        y *= 2.0
        return y.sum(), np.full_like(y, 2.0)

    found = fp.gradient(loss, fp.Softmax(**P), X, (0.0, 0.5))
    assert np.array_equal(found.solution.x_final, fp.solve(fp.Softmax(**P), X, (0.0, 0.5)).x_final)


def single(t, x):
    return np.abs(x).max() - 0.5


def flat(t, x):
    return np.abs(x).max() - 0.5


single.gradient = lambda t, x: np.ones_like(x)
flat.gradient = lambda t, x: (0.0, np.zeros_like(x))


class Row(fp.Event):
    """Its derivative would be spread over all tokens."""

    def value(self, t, y, velocity):
        return np.abs(y).max() - 0.5

    def gradient(self, t, y):
        return 0.0, np.ones(2)


@pytest.mark.parametrize(
    ("loss", "more", "error", "message"),
    [
        (lambda y, t: (1.0, y, 0.0), {"events": [Row()]}, fp.InputError, r"events: got a gradient of shape \(2,\)"),
        (lambda y, t: (1.0, y, 0.0), {"events": Row()}, fp.InputTypeError, "events: got .*; need a sequence"),
        (lambda y: (np.nan, y), {}, fp.InputError, "loss: got a value that is nan; need a finite number"),
        (lambda y: (1.0, y), {"metod": "rk4"}, fp.InputTypeError, r'metod: .*Did you mean "method"\?'),
        (lambda y: (1.0, y), {"t_evl": [1.0]}, fp.InputTypeError, r'Did you mean "t_eval"\?'),
        (lambda y: (y.sum(axis=1), y), {}, fp.InputError, r"loss: got a value of shape \(6,\); need one number"),
        (lambda y: (1j, y), {}, fp.InputTypeError, "loss: got a value of dtype complex128"),
        (None, {}, fp.InputTypeError, "loss: got None"),
        (lambda y: (1.0, y), {"events": [fp.BlowUp(9.0)]}, fp.InputTypeError, r"a function \(x, t\) ->"),
        (lambda y: (1.0, y), {"observers": []}, fp.InputTypeError, "observers: got a value; need none"),
        (lambda y, t: (1.0, y, 0.0), {"events": [single]}, fp.InputError, "events: got a gradient that returns"),
        (lambda y, t: (1.0, y, "a"), {"events": [fp.Collapsed(1.0)]}, fp.InputTypeError, "a derivative in t of dtype"),
        (lambda y, t: (1.0, y, 0.0), {"events": [flat]}, fp.InputError, "derivatives do not change it along the run"),
    ],
)
def test_losses_and_events_of_no_use(loss, more, error, message):
    with pytest.raises(error, match=message):
        fp.gradient(loss, fp.Softmax(np.eye(2), np.eye(2), -np.eye(2)), X, (0.0, 9.0), **more)


def test_laws_are_no_tokens():
    with pytest.raises(fp.InputError, match=r"x0: got Ball.*Draw tokens, law.sample"):
        fp.gradient(lambda y: (1.0, y), fp.Softmax(**P), fp.laws.Ball(2), (0.0, 1.0))
