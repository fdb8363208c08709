"""Lyapunov exponents against traces of the particles' Jacobian, Gaussian laws and clusters on the sphere."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.sensitivity import lyapunov as file

from ..gaussian.cases import nodes
from .test_adjoint import STEP, P, X
from .test_tangents import averages

RNG = np.random.default_rng(0)


def test_the_sum_of_all_is_the_mean_trace():
    """The trace of the Jacobian is taken by complex steps of naive sums, its mean by Simpson's rule over 150 steps.

    Both rk4 and the rule are of fourth order; with half the step the difference is a sixteenth.
    """
    seen, w = np.tril(np.ones((6, 6))), RNG.uniform(0.5, 1.5, 6)
    w /= w.sum()
    second = {name: 0.5 * RNG.standard_normal((2, 2)) for name in "QKV"}
    attention = fp.MultiHead([fp.Masked(fp.Softmax(**P)), fp.Softmax(**second)])
    h, end = 0.02, 1.5

    def trace(x):
        moved = x + 1j * STEP * np.eye(x.size).reshape(-1, *x.shape)
        found = [averages(one, P, w * seen) + averages(one, second, w) for one in moved]
        return sum(one.ravel()[i].imag / STEP for i, one in enumerate(found))

    times = np.linspace(0.0, end, 2 * round(end / h) + 1)
    states = fp.solve(attention, X, (0.0, end), method="rk4", step=h / 2, weights=w, t_eval=times).x
    weights = np.r_[1.0, np.tile([4.0, 2.0], len(times) // 2 - 1), 4.0, 1.0] * (h / 6 / end)
    options = {"k": 12, "drop": 0.0, "weights": w, "method": "rk4", "step": h}
    found = fp.lyapunov(attention, X, (0.0, end), **options)
    assert abs(found.exponents.sum() - weights @ [trace(x) for x in states]) < 1e-7
    np.testing.assert_allclose(found.profile[-1], found.exponents)
    seldom = fp.lyapunov(attention, X, (0.0, end), every=4, **options)
    assert len(seldom.times) == 19 < len(found.times) == 75
    np.testing.assert_allclose(seldom.exponents, found.exponents, rtol=0, atol=1e-10)


def test_a_gaussian_law():
    """For V = 1 and A < 0 a law shrinks and its mean leaves zero as e^t / sqrt(1 - 2 A s0 t): the largest exponent.

    At all times after t = 10.5, when some e^-10.5 is left of other directions (1e-7 is measured), and rounding of the
    nodes has grown to 1e-11.
    """
    x, w = nodes(np.zeros(1), 0.5 * np.eye(1), 20, 1e-16)
    found = fp.lyapunov(fp.Softmax([[0.8]], [[-1.0]], [[1.0]]), x, (0.0, 14.0), drop=0.75, weights=w, rtol=1e-9)

    def grown(t):
        return t - 0.5 * np.log(1.0 + 0.8 * t)

    assert found.start >= 10.5 and len(found.times) > 20
    growth = found.profile[:, 0] * (found.times - found.start)
    np.testing.assert_allclose(growth, grown(found.times) - grown(found.start), rtol=0, atol=2e-7)


@pytest.mark.parametrize("options", [{"rtol": 1e-7}, {"method": "rk4", "step": 0.05}])
def test_a_cluster_on_the_sphere(options):
    """All tokens at one point, V = I: it turns freely (d - 1 times 0), and draws tokens back ((n - 1)(d - 1) times -1).

    Tokens at rest do not limit adaptive steps: tangents do. What is left of the beginning is e^-20.
    """
    x = np.repeat([[0.6, 0.0, 0.8]], 3, axis=0)
    attention = fp.Softmax(2.0 * np.eye(3), np.eye(3), np.eye(3))
    found = fp.lyapunov(attention, x, (0.0, 30.0), k=6, drop=2 / 3, manifold=fp.Sphere(), **options)
    np.testing.assert_allclose(found.exponents, [0, 0, -1, -1, -1, -1], rtol=0, atol=1e-6)
    assert (found.errors < 1e-6).all() and found.start >= 20.0
    assert len(found.times) > 60


def test_tokens_at_one_point():
    """The field there is V x: Re spec V once, and 0 (n - 1) d times."""
    V = np.array([[2.0, 0.7], [0.0, -1.5]])
    found = fp.lyapunov(fp.Softmax(**P | {"V": V}), np.zeros((3, 2)), (0.0, 12.0), k=6, rtol=1e-7)
    np.testing.assert_allclose(found.exponents, [2, 0, 0, 0, 0, -1.5], rtol=0, atol=1e-6)


def test_with_noise_the_path_is_that_of_the_run():
    """Linear attention in one dimension, x' = v m2 x: one token has the exponent of its mean rate, 3 v x^2."""
    options = {"method": "euler", "step": 0.01, "noise": 0.3, "seed": 5}
    found = fp.lyapunov(fp.Linear([[1.0]], [[1.0]], [[-1.0]]), [[0.5]], (0.0, 5.0), drop=0.2, **options)
    times = np.arange(100, 500) * 0.01
    x = fp.solve(fp.Linear([[1.0]], [[1.0]], [[-1.0]]), [[0.5]], (0.0, 5.0), t_eval=times, **options).x
    assert abs(found.exponents[0] - np.log(np.abs(1 - 0.01 * 3 * x**2)).mean() / 0.01) < 1e-12
    assert found.errors.shape == (1,) and 0.001 < found.errors[0] < 0.2


def test_errors_are_those_of_means_of_blocks():
    """Of 1000 intervals of one length with independent growth: the standard error within its own scatter, 24 %."""
    times, logs = np.arange(1001) * 0.1, RNG.standard_normal((1000, 2)) * [1.0, 3.0] - [0.0, 1.0]
    found = file._averaged(times, logs, 0.2, None)
    kept = logs[200:]
    np.testing.assert_allclose(found.exponents, kept.mean(axis=0) / 0.1)
    blocks = kept.reshape(10, 80, 2).mean(axis=1) / 0.1
    np.testing.assert_allclose(found.errors, blocks.std(axis=0, ddof=1) / np.sqrt(10))
    assert len(found.times) == 800 and found.times[-1] == 100.0
    single = file._averaged(times[:2], logs[:1], 0.0, None)
    assert np.isnan(single.errors).all()


def test_the_picture(tmp_path):
    found = fp.lyapunov(fp.Softmax(**P), X, (0.0, 0.5), k=3, drop=0.0)
    found.plot(tmp_path / "exponents")
    assert (tmp_path / "exponents.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 13}, "k: got 13; need at most 12"),
        ({"k": 7, "manifold": fp.Sphere(), "x0": X / np.linalg.norm(X, axis=1, keepdims=True)}, "need at most 6"),
        ({"k": 0}, "k: got 0"),
        ({"drop": 1.0}, "drop: got 1.0"),
        ({"every": 0.5}, "every"),
        ({"x0": np.stack([X, X])}, "x0: got shape"),
        ({"max_steps": 2}, "t_span: got a run that ended"),
        ({"method": "rk4", "step": 1.0, "drop": 0.5, "every": 3}, "t_span: got a run of 1 steps.*Take a lower drop"),
        ({"method": "rk4", "step": 0.01, "every": 500}, r"every: got 500: 1 factorisations.*Take every = 5\."),
        ({"span": (0.0, 0.0)}, "t_span: got a run without a step"),
        ({"events": [fp.BlowUp(9.0)]}, "events"),
    ],
)
def test_what_is_refused(given, message):
    asked = {"x0": X, **given}
    with pytest.raises((ValueError, TypeError), match=message):
        fp.lyapunov(fp.Softmax(**P), asked.pop("x0"), asked.pop("span", (0.0, 1.0)), **asked)


@pytest.mark.parametrize("given", [{}, {"method": "rk4", "step": 0.1}])
def test_tangents_that_are_lost_in_rounding(given):
    """Tokens run away to both sides of the plane: at 1e7 derivatives of averages are differences of numbers of 1e14.

    Steps small enough for their rounding would be 1e-3 and smaller. Up to t = 10 exponents are those of e^t.
    """
    eye, x = np.eye(2), np.random.default_rng(1).standard_normal((6, 2))
    attention = fp.Softmax(eye, eye, eye)
    with pytest.raises(fp.InputError, match=r"t_span: .* by rounding; need an end before t = (1[4-6]|20).*run away"):
        fp.lyapunov(attention, x, (0.0, 20.0), k=2, **given)
    found = fp.lyapunov(attention, x, (0.0, 10.0), k=2, **given)
    assert found.solution.stats["steps"] < 150 and np.abs(found.exponents - 1.0).max() < 0.02


def test_tangents_that_overflow():
    """x' = 800 x: a step of rk4 multiplies by 1.7e10, one for x' = 1e80 x by 1e318."""
    attention, x = fp.Softmax(np.eye(1), np.eye(1), [[800.0]]), np.zeros((1, 1))
    with pytest.raises(fp.InputError, match=r"every: got 40, and tangents overflow.*need fewer steps between"):
        fp.lyapunov(attention, x, (0.0, 40.0), method="rk4", step=1.0, every=40, drop=0.0)
    with pytest.raises(fp.InputError, match="step: got one in which tangents overflow; need smaller steps"):
        fp.lyapunov(fp.Softmax(np.eye(1), np.eye(1), [[1e80]]), x, (0.0, 20.0), method="rk4", step=1.0, drop=0.0)


def test_what_is_not_taken():
    attention, x = fp.Softmax(np.eye(2), np.eye(2), np.eye(2)), np.eye(2)
    with pytest.raises(fp.InputTypeError, match="t_eval: got a value; need none"):
        fp.lyapunov(attention, x, (0.0, 1.0), t_eval=[1.0])
    with pytest.raises(fp.InputTypeError, match=r'metod: .* Did you mean "method"\?'):
        fp.lyapunov(attention, x, (0.0, 1.0), metod="rk4")
    with pytest.raises(fp.InputError, match=r"x0: got Gaussian\(d=2\); need tokens \(n, d\)\. Draw"):
        fp.lyapunov(attention, fp.Gaussian(0.0, np.eye(2)), (0.0, 1.0))
