"""Jumps: steps made in one compiled call are those of single steps, to the bit, and are made where nobody looks."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.batches import one_call
from fastpde.integrate import Problem
from fastpde.integrate.jumps import can_jump
from fastpde.integrate.options import Options
from fastpde.meanfield import bind

RNG = np.random.default_rng(3)
L, STEP = 40, 0.05
END = L * STEP
EYE = np.eye(2)
Q, K = RNG.normal(size=(2, 2, 2)) / 2
X = RNG.normal(size=(70, 2)) / 2
ON_SPHERE = X / np.linalg.norm(X, axis=1, keepdims=True)
WEIGHTS = RNG.uniform(0.5, 2.0, size=70) / 70
WEIGHTS /= WEIGHTS.sum()


def layered(*shape):
    return fp.Layers(RNG.normal(size=(L, *shape)) / 2, END)


HEADS = [fp.Softmax(layered(2, 2), layered(2, 2), layered(2, 2)) for _ in range(3)]
EULER, RK4, HEUN = ({"method": name, "step": STEP} for name in ("euler", "rk4", "heun"))
RUNS = {
    "heads": (fp.MultiHead(HEADS), EULER),
    "heads on the sphere": (fp.MultiHead(HEADS), EULER | {"manifold": fp.Sphere()}),
    "shorter steps": (fp.MultiHead(HEADS), EULER | {"step": 0.017}),
    "heun": (fp.L2(Q, layered(2, 2), -EYE), HEUN | {"weights": WEIGHTS}),
    "rk4": (fp.Softmax(Q, K, -EYE), RK4 | {"manifold": fp.Sphere(), "weights": WEIGHTS}),
    "masked": (fp.Masked(fp.Softmax(Q, K, EYE)), RK4),
    "sigmoid": (fp.Sigmoid(Q, layered(2, 2), -EYE), EULER),
}
STILL = {
    "function of time": (fp.Softmax(lambda t: Q * (1 + t), K, EYE), EULER),
    "layers and a function": (fp.Softmax(layered(2, 2), lambda t: K, EYE), EULER),
    "unlike heads": (fp.MultiHead([HEADS[0], fp.Softmax(Q, K, EYE)]), EULER),
    "positions": (fp.Masked(fp.Softmax(Q, K, EYE)), EULER | {"positions": np.arange(70)[::-1]}),
    "moments": (fp.Linear(Q, K, -EYE), EULER),
}


@pytest.fixture
def made(monkeypatch):
    """The numbers of steps that compiled calls have made."""
    numbers, march = [], one_call.march

    def counted(*arguments):
        numbers.append(march(*arguments))
        return numbers[-1]

    monkeypatch.setattr(one_call, "march", counted)
    return numbers


def both(attention, made, x=X, span=(0.0, END), **options):
    """A run that may jump, and one whose every step is reported; the number of steps that were jumped over."""
    x = ON_SPHERE if "manifold" in options else x
    one = fp.solve(attention, x, span, **options)
    jumped = sum(made)
    other = fp.solve(attention, x, span, progress=lambda t, stats: None, **options)
    assert sum(made) == jumped
    return one, other, jumped


def assert_same(one, other):
    same = [np.array_equal(a, b, equal_nan=True) for a, b in ((one.x, other.x), (one.x_final, other.x_final))]
    assert all(same) and (one.status, one.message, one.t_final) == (other.status, other.message, other.t_final)
    assert {**one.stats, "wall_time": 0} == {**other.stats, "wall_time": 0}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RUNS)
def test_jumps_have_the_bits_of_steps(name, dtype, made):
    attention, options = RUNS[name]
    x = (ON_SPHERE if "manifold" in options else X).astype(dtype)
    one, other, jumped = both(attention, made, x, **options)
    assert_same(one, other)
    assert jumped > one.stats["steps"] - 10


@pytest.mark.parametrize("name", STILL)
def test_other_fields_take_single_steps(name, made):
    attention, options = STILL[name]
    one, other, jumped = both(attention, made, **options)
    assert_same(one, other)
    assert jumped == 0


def test_states_are_looked_at_where_they_are_asked_for(made):
    """t_eval between steps and at their ends, and observers by steps and times: seen as without jumps."""
    seen = [[], []]
    asked = {"t_eval": [0.0, 0.613, 1.0, END]}
    runs = []
    for record, progress in zip(seen, (False, lambda t, stats: None), strict=True):
        watch = [fp.Observer(lambda t, x, record=record: record.append((t, x.copy())), steps=11)]
        watch.append(fp.Observer(lambda t, x, record=record: record.append((t, x.copy())), time=0.7))
        runs.append(fp.solve(RUNS["heads"][0], X, (0.0, END), observers=watch, progress=progress, **asked, **EULER))
    assert_same(*runs)
    assert [t for t, _ in seen[0]] == [t for t, _ in seen[1]] and len(seen[0]) > 6
    assert all((a == b).all() for (_, a), (_, b) in zip(*seen, strict=True))
    assert 10 < sum(made) < L


def test_a_jump_ends_before_what_is_not_finite(made):
    one, other, jumped = both(fp.Softmax(Q, K, 1e60 * EYE), made, **EULER)
    assert one.status is fp.Status.NOT_FINITE and jumped > 0
    assert_same(one, other)


def test_a_jump_ends_at_the_bound_on_steps(made):
    one, other, jumped = both(RUNS["heads"][0], made, max_steps=17, **EULER)
    assert one.status is fp.Status.MAX_STEPS and one.stats["steps"] == 17 and jumped == 15
    assert_same(one, other)


def test_backwards(made):
    one, other, jumped = both(RUNS["heads"][0], made, span=(END, 0.0), **EULER)
    assert_same(one, other)
    assert jumped > 30


def test_what_is_looked_at_after_every_step_does_not_jump():
    field = bind(RUNS["heads"][0], X)
    asked = {"events": [fp.BlowUp(1e3)]}, {"observers": [fp.Observer(print, walltime=1.0)]}
    options = Options
    for more in ({}, *asked):
        problem = Problem.checked(field, X, (0.0, END), options(**EULER, **more))
        assert can_jump(problem) == (not more)


def test_euler_on_the_sphere_against_numpy():
    """The residual stack x <- (x + h P(x) Gamma_l(x)) / |...|, with dense softmax sums."""
    x = ON_SPHERE
    for layer in range(L):
        v = np.zeros_like(x)
        for head in HEADS:
            Q, K, V = (p.source.stack[layer] for p in (head.Q, head.K, head.V))
            w = np.exp(x @ Q.T @ K @ x.T)
            v += (w / w.sum(axis=1, keepdims=True)) @ x @ V.T
        v -= (v * x).sum(axis=1, keepdims=True) * x
        x = x + STEP * v
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    got = fp.solve(RUNS["heads"][0], ON_SPHERE, (0.0, END), manifold=fp.Sphere(), **EULER).x_final
    # Rounding of 40 layers, each of which may spread an error by a small factor.
    np.testing.assert_allclose(got, x, rtol=0, atol=1e-11)
