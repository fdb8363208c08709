"""Runs over parameters that jump in time: what they do is what is done layer by layer, with constant parameters."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.integrate import Integrator, State

from ..problems_ode import fitted_slope

L, T, D = 5, 1.0, 2
RNG = np.random.default_rng(0)
Q, K, V = RNG.normal(size=(3, L, D, D))
X = RNG.normal(size=(12, D))
ON_SPHERE = X / np.linalg.norm(X, axis=1, keepdims=True)
# What a step too many in the other layer changes is a few hundredths here, and the methods' own errors are the same on
# both sides: what is left is the rounding of times and sums.
ROUNDING = 1e-13


def jumping(stack):
    """A function of time with the layers of a stack that knows nothing of `Layers`."""

    def value(t):
        return stack[min(int(t * L / T), L - 1)]

    value.breaks = [layer * T / L for layer in range(1, L)]
    return value


def softmax(q, k, v):
    return fp.Softmax(q, k, v)


def heads(q, k, v):
    return fp.MultiHead([fp.Softmax(q, k, v), fp.L2(np.eye(D), k, v)], W=[np.eye(D), 0.5 * np.eye(D)])


def masked(q, k, v):
    return fp.Masked(fp.MultiHead([fp.Sigmoid(q, k, v), fp.Linear(q, k, v)]))


def sinkhorn(q, k, v):
    return fp.Sinkhorn(q, k, v, n_half=3)


def converged(q, k, v):
    return fp.Sinkhorn(q, k, v, eps=4.0, scale=0.5, tol=1e-8)


def layer_by_layer(make, x, method, step, backward=False, **options):
    """The end of a run through all layers, each with constant parameters, on its own clock."""
    for layer in range(L)[:: -1 if backward else 1]:
        span = (T / L, 0.0) if backward else (0.0, T / L)
        x = fp.solve(make(Q[layer], K[layer], V[layer]), x, span, method=method, step=step, **options).x_final
    return x


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("make", [softmax, heads, masked, sinkhorn])
def test_runs_are_those_of_the_layers(make, method, backward):
    """In either direction, of `Layers` and of functions with `breaks`."""
    want = layer_by_layer(make, X, method, 0.1, backward)
    for kind in (lambda stack: fp.Layers(stack, T), jumping):
        attention = make(*map(kind, (Q, K, V)))
        span = (T, 0.0) if backward else (0.0, T)
        sol = fp.solve(attention, X, span, method=method, step=0.1, t_eval=[span[0], 0.45, span[1]])
        assert sol.stats["steps"] == 10
        np.testing.assert_allclose(sol.x_final, want, rtol=0, atol=ROUNDING * max(np.abs(want).max(), 1))


def test_order_four():
    """Five layers under rk4, against each of them solved to 1e-13 on its own."""
    attention = softmax(*(fp.Layers(stack, T) for stack in (Q, K, V)))
    exact = layer_by_layer(softmax, X, "dopri5", None, rtol=1e-12, atol=1e-13)
    for steps in ([0.05, 0.025, 0.0125], [1 / 26, 1 / 52, 1 / 104]):  # on the boundaries, and across them
        runs = [fp.solve(attention, X, (0.0, T), method="rk4", step=step) for step in steps]
        # Steps that a boundary divides are of unequal sizes: the slope is not exactly 4.
        assert fitted_slope(steps, [np.abs(run.x_final - exact).max() for run in runs]) > 3.7
    adaptive = fp.solve(attention, X, (0.0, T), rtol=1e-9, atol=1e-9)
    # Local errors of 1e-9 in some dozens of steps, none of which is spent on finding a boundary.
    assert np.abs(adaptive.x_final - exact).max() < 1e-7 and adaptive.stats["rejected"] <= L


def test_backwards_euler_by_hand():
    """One token moves by V x: from 1 at t = 1 by -3 x back to 2.5, then by x back to 1.25."""
    attention = fp.Softmax([[1.0]], [[1.0]], fp.Layers([[[1.0]], [[-3.0]]], 1.0))
    for x0 in (np.ones((1, 1)), np.ones((2, 1, 1))):
        assert (fp.solve(attention, x0, (1.0, 0.0), method="euler", step=0.5).x_final == 1.25).all()


def test_no_layer_is_left_out():
    """An Euler step longer than a layer is divided: x_{l+1} = x_l + length Gamma_l(x_l)."""
    stack = np.array([[[1.0]], [[2.0]], [[3.0]], [[4.0]]])
    attention = fp.Softmax([[1.0]], [[1.0]], fp.Layers(stack, 1.0))
    sol = fp.solve(attention, [[1.0]], (0.0, 1.0), method="euler", step=0.5)
    assert sol.x_final == 1.25 * 1.5 * 1.75 * 2.0 and sol.stats["steps"] == 4


@pytest.mark.parametrize("events", [[], [lambda t, x: 1.0]], ids=["", "a function as event"])
def test_batches(events):
    """Every system of a batch is moved as it is alone: to the bit, and layer by layer."""
    stacks = [np.stack([stack, -stack, 0.5 * stack], axis=1) for stack in (Q, K, V)]  # (L, B, d, d)
    x = np.stack([X, X[::-1], 0.5 * X])
    attention = softmax(*(fp.Layers(stack, T) for stack in stacks))
    sol = fp.solve(attention, x, (0.0, T), method="rk4", step=0.1, events=events, t_eval=[0.2, 0.33, T])
    assert sol.stats["path"] == "batched"
    for b in range(3):
        alone = softmax(*(fp.Layers(stack[:, b], T) for stack in stacks))
        one = fp.solve(alone, x[b], (0.0, T), method="rk4", step=0.1, t_eval=[0.2, 0.33, T])
        np.testing.assert_array_equal(sol.x[:, b], one.x)
        want = x[b]
        for layer in range(L):
            still = softmax(*(stack[layer, b] for stack in stacks))
            want = fp.solve(still, want, (0.0, T / L), method="rk4", step=0.1).x_final
        np.testing.assert_allclose(sol.x_final[b], want, rtol=0, atol=ROUNDING * max(1, np.abs(want).max()))


def test_on_the_sphere():
    attention = softmax(*(fp.Layers(stack, T) for stack in (Q, K, V)))
    sol = fp.solve(attention, ON_SPHERE, (0.0, T), method="rk4", step=0.1, manifold=fp.Sphere())
    want = layer_by_layer(softmax, ON_SPHERE, "rk4", 0.1, manifold=fp.Sphere())
    np.testing.assert_allclose(sol.x_final, want, rtol=0, atol=ROUNDING)


def test_with_noise():
    """Steps that a boundary divides get numbers of their own: one token, heun, the increments replayed from V = 0."""
    times = [0.15, 0.2, 0.3, 0.4, 0.45, 0.6, 0.75, 0.8, 0.9, 1.0]
    options = {"method": "heun", "step": 0.15, "noise": 0.3, "seed": 4, "t_eval": times}
    layers, still = fp.Layers(V[:, :1, :1], T), fp.Layers(np.zeros((L, 1, 1)), T)
    run, brown = (fp.solve(fp.Softmax([[1.0]], [[1.0]], v), [[0.7]], (0.0, T), **options) for v in (layers, still))
    assert run.stats["steps"] == len(times)
    x, before, t = 0.7, 0.7, 0.0
    for end, seen, now in zip(times, run.x[:, 0, 0], brown.x[:, 0, 0], strict=True):
        h, v, dw = end - t, V[int(np.clip(0.5 * (t + end) * L, 0, L - 1)), 0, 0], now - before
        x += 0.5 * h * (v * x + v * (x + h * v * x + dw)) + dw
        assert abs(x - seen) < 1e-14  # a few roundings of numbers of size one
        before, t = now, end


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_gaussian_laws(method):
    """One law, and a batch, through the layers."""
    stacks = (Q, K, 0.3 * V)
    attention = softmax(*(fp.Layers(stack, T) for stack in stacks))
    options = {"method": method, "step": 0.1, "rtol": 1e-11, "atol": 1e-12}
    laws = fp.Gaussian(np.array([[0.1, 0.2], [0.0, -0.3]]), np.array([0.2 * np.eye(2), [[0.3, 0.1], [0.1, 0.2]]]))
    found = fp.solve(attention, laws, (0.0, T), **options)
    for b in range(2):
        law = fp.Gaussian(laws.mean[b], laws.cov[b])
        one = fp.solve(attention, law, (0.0, T), **options)
        for layer in range(L):
            sol = fp.solve(softmax(*(stack[layer] for stack in stacks)), law, (0.0, T / L), **options)
            law = fp.Gaussian(sol.mean[-1], sol.cov[-1])
        # Rounding, of factors too, which are made anew in each layer; adaptive steps differ by their tolerance.
        tol = 1e-9 if method == "dopri5" else 1e-12
        for mean, cov in ((one.mean[-1], one.cov[-1]), (found.mean[-1, b], found.cov[-1, b])):
            np.testing.assert_allclose(mean, law.mean, rtol=0, atol=tol)
            np.testing.assert_allclose(cov, law.cov, rtol=0, atol=tol)


def test_laws_per_position():
    """Linear attention behind a mask, one law per position."""
    laws = fp.Gaussian(np.zeros((3, D)), np.array([0.1, 0.2, 0.3])[:, None, None] * np.eye(D))
    make = lambda q, k, v: fp.Masked(fp.Linear(q, k, v))  # noqa: E731
    sol = fp.solve(make(*(fp.Layers(stack, T) for stack in (Q, K, V))), laws, (0.0, T), method="rk4", step=0.05)
    for layer in range(L):
        one = fp.solve(make(Q[layer], K[layer], V[layer]), laws, (0.0, T / L), method="rk4", step=0.05)
        laws = fp.Gaussian(one.mean[-1], one.cov[-1])
    np.testing.assert_allclose(sol.cov[-1], laws.cov, rtol=1e-11, atol=0)


@pytest.mark.parametrize("make", [softmax, converged])
@pytest.mark.parametrize("method", ["rk4", "bosh3"])
def test_a_run_that_was_cut_has_the_same_bits(make, method):
    """At the end of every step, those on a boundary included, where a scaling remembers what it has found."""

    def problem():
        attention = make(*(fp.Layers(stack[:2], T) for stack in (Q, K, V)))
        return fp.meanfield.prepare(attention, X, (0.0, T), method=method, step=0.3, rtol=1e-3)

    whole, kept = Integrator(problem()), []
    while whole.step() is None:
        kept.append(whole.snapshot().parts())
    assert 0.5 in [numbers["t"] for numbers, _ in kept]
    for numbers, arrays in kept:
        rest = Integrator(problem(), State.of(numbers, arrays))
        while rest.step() is None:
            pass
        assert rest.state.y.tobytes() == whole.state.y.tobytes()


def test_break_points_of_parameters():
    """Those of all parameters of all heads, also of some systems of a batch; none of what is beyond."""
    f = lambda t: np.eye(2) * (t < 0.3)  # noqa: E731
    f.breaks = (0.3,)
    attention = fp.Masked(fp.MultiHead([fp.L2(f, np.eye(2), np.eye(2), scale=fp.Layers([1.0, 2.0], 3.0))], W=[f]))
    assert attention.breaks == attention.system(0).breaks == (0.3, 1.5)
    assert softmax(np.eye(2), np.eye(2), np.eye(2)).breaks == ()
    f.breaks = (np.nan,)
    with pytest.raises(fp.InputError, match=r"Q\.breaks"):
        softmax(f, np.eye(2), np.eye(2))


def test_a_function_that_wraps_layers_keeps_their_sides():
    """What is made of a time beside a jump is still beside it: the order is 4 (it was 1)."""
    layers = fp.Layers([[[1.0]], [[-3.0]], [[2.0]]], 1.0)

    def slower(t):
        return layers(t / 2)

    slower.breaks = 2 * np.array(layers.breaks)
    x = np.random.default_rng(0).standard_normal((20, 1))
    want = x
    for V in layers.stack:
        one = fp.Softmax([[1.0]], [[1.0]], V)
        want = fp.solve(one, want, (0, 2 / 3), method="dopri5", rtol=1e-12, atol=1e-12).x[-1]
    attention, steps = fp.Softmax([[1.0]], [[1.0]], slower), np.array([1 / 15, 1 / 30, 1 / 60])
    errors = [np.abs(fp.solve(attention, x, (0, 2), method="rk4", step=h).x[-1] - want).max() for h in steps]
    assert fitted_slope(steps, errors) > 3.5
