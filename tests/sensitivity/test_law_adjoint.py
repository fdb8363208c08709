"""Gradients of runs of Gaussian laws against the complex step of the same steps, with plain formulas of the field."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastpde as fp
from fastpde.gaussian.closure_field import Field
from fastpde.integrate.methods import TABLEAUX

from ..gaussian.cases import field, law, matrices

STEP = 1e-30
Q, K, V = matrices(3, 2, size=0.8)
P = {"Q": Q, "K": K, "V": 0.4 * V - 0.4 * K.T @ Q, "scale": np.array(0.8)}  # no law below blows up
AT = np.array([0.13, 0.5, 1.37, 2.0])


def run(velocity, mean, L, times, method, at):
    """Take the steps of a run between given times; return means and covariances at the times `at`."""
    tableau, y, found = TABLEAUX[method], np.concatenate([mean[:, None], L], axis=1).astype(complex), []
    for t, end in itertools.pairwise(times):
        h, k = end - t, []
        for s in range(tableau.stages):
            z = y + h * sum((a * v for a, v in zip(tableau.a[s], k, strict=False)), 0.0 * y)
            M, c = velocity(t + tableau.c[s] * h, z[:, 0], z[:, 1:] @ z[:, 1:].T)
            k.append(M @ z + np.concatenate([c[:, None], 0.0 * z[:, 1:]], axis=1))
        for time in at:
            if t < time <= end:
                there = y + h * sum(w * v for w, v in zip(tableau.weights_at((time - t) / h), k, strict=True))
                found.append(there)
        y = z
    return np.array([y[:, 0] for y in found]), np.array([y[:, 1:] @ y[:, 1:].T for y in found])


def steps(attention, mean, cov, span, **options):
    """Return the times of the steps of a run."""
    times, start = [], fp.Gaussian(mean, cov)
    y0 = np.concatenate([mean[:, None], start.factor], axis=1)
    observer = fp.Observer(lambda t, _: times.append(t), steps=1)
    fp.integrate.integrate(Field(attention), y0, span, observers=[observer], **options)
    return sorted(set(times))


def losses(m, d):
    """Return a loss for `gradient`, and the same for complex numbers."""
    a, B = np.random.default_rng(2).standard_normal((m, d)), np.random.default_rng(3).standard_normal((m, d, d))

    def number(mean, cov):
        return (a * mean).sum() + (B * cov).sum() + 0.5 * (mean * mean).sum() + 0.5 * (cov * cov).sum()

    return (lambda mean, cov: (float(number(mean, cov)), (a + mean, B + cov))), number


def assert_gradient(found, start, p, velocity, times, method, at, number):
    """Compare a gradient with complex steps: of the mean, of the covariance along w w^T, and of parameters."""
    mean, factor = start.mean, start.factor
    rng = np.random.default_rng(4)

    def derivative(mean=mean, factor=factor, **own):
        return number(*run(lambda t, m, S: velocity(t, m, S, p | own), mean, factor, times, method, at)).imag / STEP

    v = rng.standard_normal(mean.shape)
    assert_close(found.mean @ v, derivative(mean=mean + 1j * STEP * v))
    for w in rng.standard_normal((3, len(mean))):  # L L^T + i h w w^T, also where that raises the rank
        more = np.concatenate([factor, np.sqrt(1j * STEP) * w[:, None]], axis=1)
        assert_close(w @ found.cov @ w, derivative(factor=more))
    np.testing.assert_array_equal(found.cov, found.cov.T)
    for name, value in p.items():
        change = rng.standard_normal(np.shape(value))
        assert_close((found.parameters[name] * change).sum(), derivative(**{name: value + 1j * STEP * change}))


def assert_close(got, want):
    assert abs(got - want) <= 1e-10 * max(1.0, abs(want)), (got, want)


@pytest.mark.parametrize("rank", [None, 1], ids=["full", "rank one"])
@pytest.mark.parametrize(
    ("kind", "method", "options"),
    [
        ("Softmax", "rk4", {"step": 0.04}),
        ("L2", "dopri5", {"rtol": 1e-5}),
        ("Linear", "tsit5", {"rtol": 1e-5}),
        ("Sinkhorn", "rk4", {"step": 0.5}),
        ("3 half", "heun", {"step": 0.2}),
    ],
)
def test_runs_of_every_kind(kind, method, options, rank):
    """States between steps and at the end count; rk4 makes 50 steps. With little memory the same numbers come out."""
    p = P | ({"eps": np.array(0.7)} if kind in ("Sinkhorn", "3 half") else {})
    attention = fp.Sinkhorn(**p, n_half=3) if kind == "3 half" else getattr(fp, kind)(**p)
    mean, cov = law(3, rank=rank)
    start, options = fp.Gaussian(mean, cov), {**options, "method": method}
    ours, number = losses(len(AT), 3)
    found = fp.gradient(ours, attention, start, (0.0, 2.0), t_eval=AT, **options)
    assert isinstance(found, fp.GaussianGradient)
    times = steps(attention, mean, cov, (0.0, 2.0), **options)
    assert found.stats["steps"] == len(times) - 1 and (kind != "Softmax" or found.stats["steps"] == 50)
    plain = run(lambda t, m, S: field(kind, m, S, p), mean, start.factor, times, method, AT)
    assert abs(found.value - number(*plain).real) < 1e-12 * abs(found.value)
    assert_gradient(found, start, p, lambda t, m, S, p: field(kind, m, S, p), times, method, AT, number)
    if kind == "Softmax":
        little = fp.gradient(ours, attention, start, (0.0, 2.0), t_eval=AT, memory=6 * 8 * 12, **options)
        assert little.stats["kept"] < found.stats["kept"] and little.stats["velocities"] > found.stats["velocities"]
        np.testing.assert_allclose(little.cov, found.cov, rtol=1e-13, atol=1e-14)


def test_heads_and_the_end_of_a_run_backwards_in_time():
    mean, cov = law(3)
    W = np.random.default_rng(5).standard_normal((2, 3, 3)) * 0.5
    heads = fp.MultiHead([fp.Softmax(**P), fp.L2(**P)], W=W)
    ours, number = losses(1, 3)

    def last(mean, cov):
        value, (dmean, dcov) = ours(mean[None], cov[None])
        return value, (dmean[0], dcov[0])

    options = {"method": "rk4", "step": 0.1}
    found = fp.gradient(last, heads, fp.Gaussian(mean, cov), (1.0, 0.0), **options)
    times = steps(heads, mean, cov, (1.0, 0.0), **options)[::-1]

    def velocity(t, m, S, p):
        parts = [field(kind, m, S, P | {"Q": p[f"heads[{h}].Q"]}) for h, kind in enumerate(("Softmax", "L2"))]
        return tuple(sum(w @ part[i] for w, part in zip(p["W"], parts, strict=True)) for i in (0, 1))

    p = {"W": W, "heads[0].Q": Q, "heads[1].Q": Q}
    for name, value in p.items():
        change = np.random.default_rng(6).standard_normal(value.shape)
        moved = p | {name: value + 1j * STEP * change}
        # In the time s = 1 - t the run goes forward.
        ends = run(lambda s, m, S, p=moved: tuple(-a for a in velocity(1.0 - s, m, S, p)), mean,
                   fp.Gaussian(mean, cov).factor, [1.0 - t for t in times], "rk4", [1.0])  # fmt: skip
        assert_close((found.parameters[name] * change).sum(), number(*ends).imag / STEP)


def test_layers_have_the_gradient_of_their_stack():
    mean, cov = law(3)
    stack = 0.7 * np.random.default_rng(7).standard_normal((2, 3, 3))
    attention = fp.Softmax(Q, lambda t: (1.0 + t) * K, fp.Layers(stack, 1.0))
    ours, number = losses(1, 3)
    options = {"method": "euler", "step": 0.25}
    found = fp.gradient(ours, attention, fp.Gaussian(mean, cov), (0.0, 1.0), t_eval=[1.0], **options)
    assert set(found.parameters) == {"Q", "V", "scale"} and found.parameters["V"].shape == (2, 3, 3)

    def velocity(t, m, S, p):
        return field("Softmax", m, S, {"Q": p["Q"], "K": (1.0 + t) * K, "V": p["V"][int(2 * t)], "scale": 1.0})

    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    # The last stage of euler, of no weight, is at t = 1, where the layers end.
    early = lambda t, m, S, p: velocity(min(t, 0.99), m, S, p)  # noqa: E731
    assert_gradient(found, fp.Gaussian(mean, cov), {"Q": Q, "V": stack}, early, times, "euler", [1.0], number)


@pytest.mark.parametrize("options", [{"method": "rk4", "step": 0.1}, {"rtol": 1e-5}])
def test_several_laws_have_the_gradients_of_each(options):
    """Laws with a value of Q each, and one V for all, whose gradients add; and layers, one stack for each law."""
    rng, (mean, cov) = np.random.default_rng(8), law(3)
    means, covs = mean * np.array([[1.0], [0.5]]), np.stack([cov, 0.5 * cov])
    Qs, stacks = np.stack([Q, 0.5 * Q]), 0.7 * rng.standard_normal((2, 2, 2, 3))
    a, B, at = rng.standard_normal((2, 2, 3)), rng.standard_normal((2, 2, 3, 3)), [0.45, 1.0]

    def same(got, want):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())

    def loss(mean, cov, a=a, B=B):
        return float((a * mean).sum() + (B * cov).sum()), (a, B)

    for Ks in (np.stack([K, K]), fp.Layers(stacks, 1.0)):
        attention = fp.Softmax(Qs, Ks, P["V"])
        found = fp.gradient(loss, attention, fp.Gaussian(means, covs), (0.0, 1.0), t_eval=at, **options)
        apart = [
            fp.gradient(lambda m, S, b=b: loss(m, S, a[:, b], B[:, b]), attention.system(b),
                        fp.Gaussian(means[b], covs[b]), (0.0, 1.0), t_eval=at, **options) for b in (0, 1)
        ]  # fmt: skip
        assert abs(found.value - sum(one.value for one in apart)) < 1e-12 * abs(found.value)
        for name in ("mean", "cov"):
            same(getattr(found, name), np.stack([getattr(one, name) for one in apart]))
        each = {name: [one.parameters[name] for one in apart] for name in found.parameters}
        same(found.parameters["V"], sum(each["V"]))
        same(found.parameters["Q"], np.stack(each["Q"]))
        same(found.parameters["K"], np.stack(each["K"], axis=int(isinstance(Ks, fp.Layers))))
        assert found.stats["steps"] == sum(one.stats["steps"] for one in apart)


def test_what_has_no_gradient_says_so():
    mean, cov = law(2)
    Q, K, V = matrices(2)
    start, attention = fp.Gaussian(mean, cov), fp.Softmax(Q, K, V)

    def loss(mean, cov):
        return 0.0, (mean, cov)

    wrong = [
        ("x0", (loss, fp.Masked(attention), fp.Gaussian([mean, mean], cov), (0.0, 1.0)), {}),
        ("x0", (loss, fp.Softmax([Q, Q, Q], K, V), fp.Gaussian([mean, mean], cov), (0.0, 1.0)), {}),
        ("noise", (loss, attention, start, (0.0, 1.0)), {"noise": 0.1, "method": "euler", "step": 0.1}),
        ("weights", (loss, attention, start, (0.0, 1.0)), {"weights": [1.0]}),
        ("t_span", (loss, fp.Softmax(np.eye(2), np.eye(2), np.eye(2)), start, (0.0, 9.0)), {}),
        ("loss", (lambda mean, cov: (0.0, mean), attention, start, (0.0, 1.0)), {}),
        ("loss", (lambda mean, cov: (0.0, (mean, mean)), attention, start, (0.0, 1.0)), {}),
        ("memory", (loss, attention, start, (0.0, 1.0)), {"memory": 0}),
    ]
    for name, arguments, options in wrong:
        with pytest.raises(fp.InputError) as caught:
            fp.gradient(*arguments, **options)
        assert caught.value.name == name
    with pytest.raises(fp.NoGaussianClosure):
        fp.gradient(loss, fp.Sigmoid(Q, K, V), start, (0.0, 1.0))


@pytest.mark.parametrize("end", [0.0, 0.5])
def test_a_loss_that_does_not_depend_on_the_run(end):
    """All parameters are there, with zeros; so they are for a run of no time."""
    found = fp.gradient(
        lambda mean, cov: (1.0, (0.0 * mean, 0.0 * cov)), fp.L2(np.eye(2), np.eye(2), np.eye(2)),
        fp.Gaussian(0.0, np.eye(2)), (0.0, end),
    )  # fmt: skip
    assert {name: np.shape(zeros) for name, zeros in found.parameters.items()} == {
        "Q": (2, 2), "K": (2, 2), "V": (2, 2), "scale": (),
    }  # fmt: skip
    assert not any(np.any(zeros) for zeros in found.parameters.values())


def test_a_value_that_is_no_number():
    with pytest.raises(fp.InputError, match=r"loss: got a value of shape \(2, 2\); need one number"):
        fp.gradient(
            lambda mean, cov: (cov, (mean, cov)), fp.L2(np.eye(2), np.eye(2), np.eye(2)), fp.Gaussian(0.0, np.eye(2)),
            (0.0, 0.5),
        )  # fmt: skip
