"""Tangents of runs against the complex step through the same steps, taken by naive sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq

import fastpde as fp
from fastpde import tangents
from fastpde.integrate.solve import run as integrate_run
from fastpde.meanfield import bind, prepare
from fastpde.noise import Brownian

from .test_adjoint import STEP, P, X, run, softmax, steps

RNG = np.random.default_rng(0)
AT = np.array([0.0, 0.13, 0.5, 1.37, 2.0])
D = np.random.default_rng(1).standard_normal((3, *X.shape))


def on_sphere(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def averages(x, p, w):
    """Softmax attention of tokens with masses w (n,), or (n, n) of what each of them sees."""
    s = (x @ p["Q"].T) @ (x @ p["K"].T).T
    e = w * np.exp(s - s.real.max(axis=1, keepdims=True))
    return (e @ (x @ p["V"].T)) / e.sum(axis=1, keepdims=True)


def check(found, states, x):
    """Compare tangents (m, k, n, d) along D, at the times after t0, with the complex step of states(x).

    Rounding of a few eps in each of some hundred stages, relative to the largest tangent.
    """
    want = np.array([np.imag(states(x + 1j * STEP * one)) / STEP for one in D])
    np.testing.assert_allclose(found.swapaxes(0, 1), want, rtol=0, atol=1e-12 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("euler", {"step": 0.3}),
        ("heun", {"step": 0.1}),
        ("rk4", {"step": 0.1}),
        ("bosh3", {"rtol": 1e-3}),
        ("dopri5", {"rtol": 1e-4}),
        ("tsit5", {"rtol": 1e-4}),
    ],
)
def test_every_method_between_and_at_the_ends_of_steps(method, options, sphere):
    """The steps have the bits of a run without tangents."""
    options = {**options, "method": method, "t_eval": AT} | ({"manifold": fp.Sphere()} if sphere else {})
    x, attention = on_sphere(X) if sphere else X, fp.Softmax(**P)
    found = fp.solve(attention, x, (0.0, 2.0), tangents=D, **options)
    plain = fp.solve(attention, x, (0.0, 2.0), **options)
    assert np.array_equal(found.x, plain.x) and found.stats["steps"] == plain.stats["steps"]
    times = steps(attention, x, (0.0, 2.0), **options)

    def states(y):
        return run(lambda t, z: softmax(z, P), y, times, method, sphere=sphere, at=AT[1:])

    check(found.tangents[1:], states, x)
    assert np.array_equal(found.tangents[-1], found.tangents_final)
    if sphere:
        np.testing.assert_allclose(np.einsum("mnd,mknd->mkn", found.x, found.tangents), 0.0, atol=1e-13)
    else:
        assert np.array_equal(found.tangents[0], D)


def test_masks_heads_weights_and_no_times_of_output():
    """Without t_eval the rows are the start and the end. Backwards in time, too."""
    seen, w = np.tril(np.ones((6, 6), bool)), RNG.uniform(0.5, 1.5, 6)
    w /= w.sum()
    second = {name: 0.5 * RNG.standard_normal((2, 2)) for name in "QKV"}
    W = RNG.standard_normal((2, 2, 2))
    attention = fp.MultiHead([fp.Masked(fp.Softmax(**P)), fp.Softmax(**second)], W=W)
    for span in ((0.0, 1.0), (1.0, 0.0)):
        options = {"method": "rk4", "step": 0.1, "weights": w}
        found = fp.solve(attention, X, span, tangents=D, **options)
        times = steps(attention, X, span, **options)[:: 1 if span[1] else -1]

        def field(t, y):
            return averages(y, P, w * seen) @ W[0].T + averages(y, second, w) @ W[1].T

        check(found.tangents[1:], lambda y: run(field, y, times, "rk4")[None], X)  # noqa: B023
        assert np.array_equal(found.tangents[-1], found.tangents_final) and len(found.tangents) == 2


def test_layers_and_functions_of_time():
    """Steps end between layers, and the field at the end of a step is that of its own layer."""
    stack = 0.7 * RNG.standard_normal((3, 2, 2))
    attention = fp.Softmax(lambda t: (1.0 + t) * P["Q"], fp.Layers(stack, 1.0), P["V"])
    options = {"method": "dopri5", "rtol": 1e-4, "t_eval": np.array([0.3, 0.6, 1.0])}
    found = fp.solve(attention, X, (0.0, 1.0), tangents=D, **options)
    times = steps(attention, X, (0.0, 1.0), **options)

    def states(y):
        kept = []
        for first, last in itertools.pairwise(times):
            K = stack[min(2, int(3 * first + 1e-9))]

            def field(t, z, K=K):
                return softmax(z, P | {"Q": (1.0 + t) * P["Q"], "K": K})

            own = [t for t in options["t_eval"] if first < t <= last]
            kept += list(run(field, y, [first, last], "dopri5", at=own)) if own else []
            y = run(field, y, [first, last], "dopri5")
        return np.array(kept)

    check(found.tangents, states, X)


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("sphere", [False, True])
def test_the_path_of_the_noise_is_that_of_the_run(sphere, method):
    x = on_sphere(X) if sphere else X
    options = {"method": method, "step": 0.1, "noise": 0.3, "seed": 7, "t_eval": np.array([0.33, 1.0])}
    options |= {"manifold": fp.Sphere()} if sphere else {}
    found = fp.solve(fp.Softmax(**P), x, (0.0, 1.0), tangents=D, **options)
    times = steps(fp.Softmax(**P), x, (0.0, 1.0), **options)

    def states(y):
        noise = Brownian(0.3, 7)
        return run(lambda t, z: softmax(z, P), y, times, method, sphere=sphere, at=options["t_eval"], noise=noise)

    check(found.tangents, states, x)


def level(t, x):
    return float(x[0, 0] + x[1, 1] ** 2 + 0.1 * t)


def gradient(t, x):
    found = np.zeros_like(x)
    found[0, 0], found[1, 1] = 1.0, 2 * x[1, 1]
    return 0.1, found


@pytest.mark.parametrize("method", ["dopri5", "rk4", "heun noise"])
@pytest.mark.parametrize(
    ("kind", "sphere"), [("level", False), ("level", True), ("BlowUp", False), ("Collapsed", True)]
)
def test_an_event_moves_the_end(kind, method, sphere):
    """The end of a run is that of its steps, cut at the root: against differences of fourth order of such ends.

    These are right to 1e-9: h^4 = 1e-12 times high derivatives, roots to 1e-15 / h.
    """
    x, place = (on_sphere(X + np.array([1.5, 0.0])), {"manifold": fp.Sphere()}) if sphere else (X, {})
    method, noisy = method.split()[0], "noise" in method
    options = {"method": method, "step": 0.1, **place} if method != "dopri5" else {"rtol": 1e-4, **place}
    options |= {"noise": 0.1, "seed": 3} if noisy else {}
    attention = fp.Softmax(**P)
    whole = fp.solve(attention, x, (0.0, 2.0), t_eval=[0.0, 0.731], **options)
    value = {
        "level": level,
        "BlowUp": lambda t, y: np.linalg.norm(y, axis=1).max(),
        "Collapsed": lambda t, y: np.linalg.norm(y - y.mean(axis=0), axis=1).max(),
    }[kind]  # fmt: skip
    there = value(0.731, whole.x[1])
    if kind == "level":
        event = lambda t, y: level(t, y) - there  # noqa: E731
        event.gradient = gradient
    else:
        event = getattr(fp, kind)(there)
        start = value(0.0, x)
        if (start > there) != (kind == "Collapsed"):
            event.direction = -event.direction
    found = fp.solve(attention, x, (0.0, 2.0), tangents=D, events=[event], **options)
    assert found.status.value in ("event", "blow_up", "collapsed") and 0.0 < found.t_final < 2.0
    times = steps(attention, x, (0.0, 2.0), **options)
    begun = max(t for t in times if t < found.t_final)
    last = times[: times.index(begun) + 2]

    def end(y):
        def state(t):
            noise = Brownian(0.1, 3) if noisy else None
            return run(lambda _, z: softmax(z, P), y, last, method, sphere=sphere, at=[t], noise=noise)[0]

        def at(t):
            return value(t, state(t)) - there

        t = found.t_final
        return state(brentq(at, max(t - 0.02, begun + 1e-9), min(t + 0.02, last[-1]), xtol=1e-15, rtol=1e-15))

    h = 2e-4
    for one, got in zip(D, found.tangents_final, strict=True):
        ends = [end(on_sphere(x + s * h * one) if sphere else x + s * h * one) for s in (-2, -1, 1, 2)]
        want = np.tensordot([1, -8, 8, -1], ends, axes=1) / (12 * h)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-9 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("tokens", [1, 12])
def test_tangents_are_computed_one_by_one_and_together(tokens, monkeypatch):
    """Many tokens have no copies of their cloud: with one, and with two of three tangents in a call."""
    options = {"tangents": D, "method": "rk4", "step": 0.2}
    together = fp.solve(fp.L2(**P), X, (0.0, 1.0), **options)
    monkeypatch.setattr(tangents, "_COPIED", tokens)
    found = fp.solve(fp.L2(**P), X, (0.0, 1.0), **options)
    np.testing.assert_allclose(found.tangents, together.tangents, rtol=1e-13, atol=1e-14)


def test_sums_in_linear_time_and_float32():
    """Tangents through O(n) sums are right to some tol; those of a float32 run to its rounding, in its dtype."""
    x = RNG.standard_normal((4000, 1))
    attention = fp.Softmax([[1.0]], [[0.7]], [[-0.8]])
    options = {"tangents": RNG.standard_normal((1, *x.shape)), "method": "heun", "step": 0.25}
    exact = fp.solve(attention, x, (0.0, 0.5), backend="direct", **options)
    fast = fp.solve(attention, x, (0.0, 0.5), backend=fp.Fast(1e-8), **options)
    assert fast.stats["fast_sums"] > 0
    assert np.array_equal(fast.x, fp.solve(attention, x, (0.0, 0.5), backend=fp.Fast(1e-8), method="heun", step=0.25).x)
    assert 0.0 < np.abs(fast.tangents - exact.tangents).max() < 1e-7
    single = fp.solve(attention, x[:50].astype("f4"), (0.0, 0.5), **options | {"tangents": options["tangents"][:, :50]})
    double = fp.solve(attention, x[:50], (0.0, 0.5), **options | {"tangents": options["tangents"][:, :50]})
    assert single.tangents.dtype == single.tangents_final.dtype == np.float32
    np.testing.assert_allclose(single.tangents, double.tangents, atol=5e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_sinkhorn_attention(heads):
    """Potentials, of each head from its own last ones, are right to tol = 1e-13: against differences of runs."""
    parts = [fp.Sinkhorn(**P, eps=0.8, tol=1e-13), fp.Sinkhorn(P["K"], P["V"], P["Q"], tol=1e-13)]
    attention, h = fp.MultiHead(parts) if heads == 2 else parts[0], 1e-3
    options = {"method": "rk4", "step": 0.25}
    found = fp.solve(attention, X, (0.0, 0.5), tangents=D[:1], **options)
    ends = [fp.solve(attention, X + s * h * D[0], (0.0, 0.5), **options).x_final for s in (-2, -1, 1, 2)]
    want = np.tensordot([1, -8, 8, -1], ends, axes=1) / (12 * h)
    np.testing.assert_allclose(found.tangents_final[0], want, rtol=0, atol=1e-9 * np.abs(want).max())


def test_a_scaling_that_tangents_need_and_do_not_get():
    problem = prepare(fp.Sinkhorn(**P, eps=0.8), X, (0.0, 0.5), method="rk4", step=0.25)
    follower = tangents.Follower(problem, D)
    follower._moving = bind(fp.Sinkhorn(**P, eps=0.8, tol=1e-13, max_iter=3), X)
    with pytest.raises(fp.ConvergenceError, match=r"Sinkhorn scaling at t = 0.0"):
        integrate_run(problem, follow=follower)


def test_runs_that_do_not_go_far(tmp_path):
    """What has been reached has tangents; an event at the start ends the run there."""
    attention = fp.Softmax(**P)
    short = fp.solve(attention, X, (0.0, 2.0), tangents=D, t_eval=AT, max_steps=1, rtol=1e-4)
    assert not short.success and len(short.tangents) == len(short.t) < len(AT)
    assert short.tangents_final.shape == D.shape and not np.array_equal(short.tangents_final, D)
    none = fp.solve(attention, X, (0.0, 2.0), tangents=D, events=[fp.BlowUp(0.1)])
    assert none.tangents.shape == (1, *D.shape) and np.array_equal(none.tangents_final, D)
    with np.load(short.save(tmp_path / "run")) as kept:
        assert np.array_equal(kept["tangents"], short.tangents) and "log_density" not in kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tangents": D[0]}, "tangents: got shape"),
        ({"tangents": D[:, :, :1]}, "tangents: got shape"),
        ({"tangents": D * np.nan}, r"tangents\[0, 0, 0\]: got nan"),
        ({"tangents": np.full(D.shape, "a")}, "tangents: got dtype"),
        ({"tangents": D[:0]}, "tangents: got shape"),
        ({"tangents": D, "x0": np.stack([X, X])}, r"tangents: got shape \(3, 6, 2\); need shape \(k, 2, 6, 2\)"),
        ({"tangents": D, "x0": fp.Gaussian(0.0, np.eye(2))}, "tangents: got a value; need none for a Gaussian law"),
        ({"tangents": D, "events": [level]}, "events: got .* need a function with an attribute `gradient`"),
        ({"log_density": np.zeros(5)}, "log_density: got shape"),
        ({"log_density": lambda x: x}, "log_density: got shape"),
        (
            {"log_density": np.zeros(6), "noise": 0.1, "method": "euler", "step": 0.1},
            "log_density: got a value in a run",
        ),
        ({"log_density": np.zeros(6), "x0": np.stack([X, X])}, r"log_density: got shape \(6,\); need shape \(2, 6\)"),
        ({"log_density": fp.laws.Ball}, "log_density: got .*; need a function"),
        ({"log_density": lambda: 0.0}, "log_density: got a function"),
        ({"log_density": fp.laws.Ball(3)}, "log_density: got a law in dimension 3; need one in dimension 2"),
        ({"log_density": fp.laws.Ball(2, 0.1)}, r"whose density is zero at x0\[0\]; need a law from which"),
        ({"log_density": fp.laws.Sphere(2)}, "law: got Sphere.*; need a law with a density"),
        ({"log_density": fp.Gaussian(np.zeros((2, 2)), np.eye(2))}, "log_density: got Gaussian.*; need one law"),
        (
            {"log_density": fp.laws.Ball(2), "x0": on_sphere(X), "manifold": fp.Sphere()},
            "log_density: got Ball.*; need values .* A law has its density in all of R",
        ),
    ],
)
def test_what_is_refused(given, message):
    asked = {"x0": X, **given}
    with pytest.raises((ValueError, TypeError), match=message):
        fp.solve(fp.Softmax(**P), asked.pop("x0"), (0.0, 1.0), **asked)


SYSTEMS = np.stack([X, 0.5 * X[::-1], X + 0.2])
KEEN = fp.Softmax(np.stack([P["Q"], -P["Q"], 2.0 * P["Q"]]), P["K"], P["V"])
MOVES = np.random.default_rng(3).standard_normal((2, *SYSTEMS.shape))


def assert_systems(found, alone, atol=1e-13):
    """Compare with runs of one system each; nan at times that one does not reach."""
    for b, one in enumerate(alone):
        m = len(one.t)
        for name, own in (("tangents", found.tangents[:, :, b]), ("log_density", found.log_density[:, b])):
            size = np.abs(getattr(one, name)).max()
            np.testing.assert_allclose(own[:m], getattr(one, name), rtol=0, atol=atol * max(1.0, size), err_msg=name)
            assert np.isnan(own[m:]).all(), name
        np.testing.assert_allclose(found.tangents_final[:, b], one.tangents_final, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.log_density_final[b], one.log_density_final, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize("options", [{"method": "rk4", "step": 0.1}, {"method": "euler", "step": 0.3}, {"rtol": 1e-4}])
def test_systems_have_the_tangents_of_each(options, sphere):
    """With parameters and steps of their own, or steps of one size, which are made again together."""
    x = on_sphere(SYSTEMS) if sphere else SYSTEMS
    place = {"manifold": fp.Sphere()} if sphere else {}
    asked = {"t_eval": AT, **options, **place}
    found = fp.solve(KEEN, x, (0.0, 2.0), tangents=MOVES, log_density=np.ones((3, 6)), **asked)
    plain = fp.solve(KEEN, x, (0.0, 2.0), **asked)
    assert np.array_equal(found.x, plain.x) and found.tangents.shape == (5, 2, 3, 6, 2)
    alone = [
        fp.solve(KEEN.system(b), x[b], (0.0, 2.0), tangents=MOVES[:, b], log_density=np.ones(6), **asked)
        for b in range(3)
    ]
    assert_systems(found, alone)
    if not sphere:
        ends = fp.solve(KEEN, x, (0.0, 2.0), tangents=MOVES, **options)
        assert ends.tangents.shape == (2, 2, 3, 6, 2) and ends.log_density is None
        np.testing.assert_allclose(ends.tangents[-1], found.tangents[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"rtol": 1e-4}, {"method": "rk4", "step": 0.1}])
def test_systems_that_an_event_ends(options, tmp_path):
    """Some end early, one where it begins, and the ends move along tangents; all of it is saved and shown."""
    x, told = np.stack([X, 0.2 * X, 9.0 * X]), []
    attention = fp.Softmax(P["Q"], P["K"], np.eye(2))
    asked = {"t_eval": AT, "events": [fp.BlowUp(8.0)], **options}
    found = fp.solve(attention, x, (0.0, 2.0), tangents=MOVES, log_density=np.zeros((3, 6)),
                     progress=lambda done, stats: told.append(done), **asked)  # fmt: skip
    assert told == [1, 2, 3] and 0.0 == found.t_final[2] < found.t_final[0] < 2.0
    alone = [
        fp.solve(attention, x[b], (0.0, 2.0), tangents=MOVES[:, b], log_density=np.zeros(6), **asked) for b in range(3)
    ]
    assert_systems(found, alone, atol=1e-12)
    assert "tangents (5, 2, 3, 6, 2)" in repr(found)
    with np.load(found.save(tmp_path / "runs")) as kept:
        assert np.array_equal(kept["tangents_final"], found.tangents_final) and "log_density" in kept


def test_systems_under_noise_and_masks():
    w = np.random.default_rng(5).uniform(0.5, 1.5, (3, 6))
    w /= w.sum(axis=1, keepdims=True)
    asked = {"method": "heun", "step": 0.1, "noise": 0.2, "seed": 3}
    found = fp.solve(fp.Masked(KEEN), SYSTEMS, (0.0, 1.0), tangents=MOVES, weights=w, **asked)
    for b in range(3):
        one = fp.solve(fp.Masked(KEEN.system(b)), SYSTEMS[b], (0.0, 1.0), tangents=MOVES[:, b], weights=w[b],
                       first_system=b, **asked)  # fmt: skip
        np.testing.assert_allclose(found.tangents[:, :, b], one.tangents, rtol=0, atol=1e-12)


def test_a_law_has_its_density():
    law = fp.laws.Ball(2, 5.0)
    for x in (X, SYSTEMS):
        found, want = (
            fp.solve(fp.Softmax(**P), x, (0.0, 0.5), rtol=1e-3, log_density=given) for given in (law, law.log_density)
        )
        assert np.array_equal(found.log_density, want.log_density)
        assert found.log_density[0] == pytest.approx(-np.log(25.0 * np.pi))


def test_what_a_solution_shows():
    attention, x = fp.Softmax(np.eye(2), np.eye(2), -np.eye(2)), np.eye(2)
    sol = fp.solve(attention, x, (0.0, 1.0), tangents=np.ones((3, 2, 2)), log_density=np.zeros(2))
    assert repr(sol).startswith("Solution: t (2,), x (2, 2, 2), tangents (2, 3, 2, 2), log_density (2, 2)\n")
    assert repr(fp.solve(attention, x, (0.0, 1.0))).startswith("Solution: t (2,), x (2, 2, 2)\n")


def test_tokens_that_have_met_at_the_start():
    """No vector is divided by its norm 0, neither at the check of events nor at the end."""
    there = np.zeros((3, 2))
    for event in (fp.Collapsed(0.1), fp.BlowUp(9.0)):
        with np.errstate(all="raise"):
            sol = fp.solve(fp.Softmax(*-np.eye(2)[None].repeat(3, 0)), there, (0.0, 1.0), events=[event],
                           tangents=np.ones((1, 3, 2)))  # fmt: skip
        assert np.isfinite(sol.tangents_final).all()
