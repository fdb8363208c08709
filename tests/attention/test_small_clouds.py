"""Fields of small clouds, made in one call for all heads: what heads may differ in, what is kept, units, subclasses."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import fastpde as fp
from fastpde.attention.parameters import Parameter
from fastpde.batches import one_call

RNG = np.random.default_rng(0)
Q, K, Q2, K2 = RNG.standard_normal((4, 2, 2))
X = RNG.standard_normal((50, 2))
EYE = np.eye(2)


class Divided(fp.SingleHead):
    """A score of one's own, with a number of its own and one of its matrix: it is not made for stacked parameters."""

    def __init__(self, Q, K, V, size):
        self.size = size
        super().__init__(Q, K, V)

    def score(self, t):
        score = super().score(t)
        return replace(score, scale=score.scale / (self.size * np.linalg.norm(score.Q)))


def added(*heads, x=X, t=0.0):
    return sum(head.velocity(x, t=t) for head in heads)


def assert_close(got, want, eps=2.0**-50):
    np.testing.assert_allclose(got, want, rtol=0, atol=eps * np.abs(want).max())


def cauchy(s):
    return 1.0 / (1.0 + s * s)


def not_normalised():
    head = fp.Softmax(Q2, K2, EYE)
    head.normalised = False
    return head


UNLIKE = {
    "weight": lambda: fp.Softmax(Q2, K2, EYE, weight=fp.Weight(cauchy)),
    "normalised": not_normalised,
    "class": lambda: fp.L2(Q2, K2, EYE),
    "rank": lambda: fp.Softmax(Q2[:1], K2[:1], EYE),
    "time": lambda: fp.Softmax(lambda t: Q2 * (1 + t), K2, EYE),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_heads_that_differ(name):
    one, other = fp.Softmax(Q, K, EYE), UNLIKE[name]()
    for heads in ([one, other], [other, one], [one, other, one]):
        assert_close(fp.MultiHead(heads).velocity(X, t=0.5), added(*heads, t=0.5))


def test_heads_of_a_class_of_ones_own():
    heads = Divided(Q, K, EYE, 2.0), Divided(Q2, K2, EYE, 3.0)
    assert_close(fp.MultiHead(heads).velocity(X), added(*heads))


WRAPPED = {
    "head": lambda head: head,
    "masked": fp.Masked,
    "heads": lambda head: fp.MultiHead([head, fp.Softmax(Q2, K2, EYE)]),
    "masked heads": lambda head: fp.Masked(fp.MultiHead([head])),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_attributes_may_change(name):
    wrap, head = WRAPPED[name], Divided(Q, K, EYE, 2.0)
    whole = wrap(head)
    before = whole.velocity(X)
    head.size = 5.0
    np.testing.assert_array_equal(whole.velocity(X), wrap(Divided(Q, K, EYE, 5.0)).velocity(X))
    head.size = 2.0
    np.testing.assert_array_equal(whole.velocity(X), before)
    plain = fp.Softmax(Q, K, EYE)
    whole = wrap(plain)
    whole.velocity(X)
    plain.weight = fp.Weight(cauchy)
    assert_close(whole.velocity(X), wrap(fp.Softmax(Q, K, EYE, weight=fp.Weight(cauchy))).velocity(X))
    del plain.weight
    np.testing.assert_array_equal(whole.velocity(X), wrap(fp.Softmax(Q, K, EYE)).velocity(X))


def test_heads_may_be_replaced():
    a, b, c = fp.Softmax(Q, K, EYE), fp.Softmax(K, Q, EYE), fp.Softmax(Q2, K2, EYE)
    whole = fp.MultiHead([a, b])
    assert_close(whole.velocity(X), added(a, b))
    whole.heads = (a, c)
    assert_close(whole.velocity(X), added(a, c))


def test_functions_of_time_may_share_an_array():
    held = np.empty((2, 2))

    def rising(t):
        held[...] = Q * (1 + t)
        return held

    def falling(t):
        held[...] = K * (2 - t)
        return held

    heads = fp.MultiHead([fp.Softmax(rising, K, EYE), fp.Softmax(falling, K, EYE)])
    assert_close(heads.velocity(X, t=0.5), added(fp.Softmax(1.5 * Q, K, EYE), fp.Softmax(1.5 * K, K, EYE)))


def layered(*shape, count=70):
    return fp.Layers(np.random.default_rng([count, *shape]).standard_normal((count, *shape)) / 2, 7.0)


LAYERED = {
    "head": fp.Softmax(layered(2, 2), K, layered(2, 2)),
    "distance": fp.L2(layered(2, 2), layered(2, 2), EYE, scale=layered()),
    "bias": fp.Sigmoid(layered(1, 2), layered(1, 2), EYE, bias=layered()),
    "heads": fp.MultiHead([fp.Softmax(layered(2, 2), K, EYE), fp.Softmax(layered(2, 2), Q, K2)]),
    "W": fp.MultiHead([fp.Softmax(layered(1, 2), K[:1], EYE)] * 2, W=np.stack([Q2, K2])),
    "layers of W": fp.MultiHead([fp.Softmax(Q, K, EYE), fp.Softmax(Q2, K, EYE)], W=layered(2, 2, 2)),
    "layers of each W": fp.MultiHead([fp.L2(Q, K, EYE)] * 2, W=[layered(2, 2), layered(2, 2)]),
    "as many systems as heads": fp.MultiHead([fp.Softmax(layered(3, 2, 2), K, EYE)] * 3),
    "systems": fp.Softmax(layered(3, 2, 2), K, EYE),
    "other times": fp.Softmax(layered(2, 2), layered(2, 2, count=35), EYE),
    "masked": fp.Masked(fp.Softmax(layered(2, 2), K, EYE)),
}


@pytest.mark.parametrize("together", [1.0, 100.0, 1e6])
@pytest.mark.parametrize("name", LAYERED)
def test_layers_are_those_of_their_time(name, together, monkeypatch):
    """Against the same functions of time, which are no layers; forwards, backwards, anywhere, and in a run."""
    monkeypatch.setattr(one_call, "_TOGETHER", together)
    attention, plain = copy.deepcopy(LAYERED[name]), copy.deepcopy(LAYERED[name])
    unlayer(plain)
    x = np.stack([X[:20], X[20:40], X[30:50]]).astype(float)
    for t in (0.0, 0.05, 0.1, 3.3, 6.99, 7.0, 0.2, 5.0, 4.9):
        assert_close(attention.velocity(x, t=t), plain.velocity(x, t=t))
    with pytest.raises(fp.InputError):
        attention.velocity(x, t=7.1)
    one, other = (fp.solve(field, x, (0.0, 3.0), method="rk4", step=0.1).x_final for field in (attention, plain))
    assert_close(one, other, eps=1e-12)


@pytest.mark.parametrize("name", ["softmax", "weights", "sigmoid"])
def test_no_bit_depends_on_how_a_system_is_divided(name, monkeypatch):
    """Parts of tokens and shares of heads, of one system and of several, in one call and in several."""
    kind = fp.Sigmoid if name == "sigmoid" else fp.Softmax
    attention, x = fp.MultiHead([kind(Q, K, EYE), kind(Q2, K, K2), kind(K, Q2, EYE)]), RNG.normal(size=(2, 200, 2))
    weights = np.linspace(0.5, 1.5, 200) / 200 if name == "weights" else None
    found, division = [], one_call._division

    def divided(cuts, block):
        pieces = cuts[0] * cuts[1]
        return lambda count, shape: division(count, shape)._replace(
            cuts=cuts, shared=pieces > 1, items=count * pieces, block=block, portion=1
        )

    for cuts in ((1, 1), (4, 1), *(() if name == "sigmoid" else ((1, 2), (4, 3)))):
        for block in (1, 3, 100):
            monkeypatch.setattr(one_call, "_division", divided(cuts, block))
            found.append(attention.velocity(x, weights=weights))
    assert all((one == found[0]).all() for one in found)


@pytest.mark.parametrize("name", ["head", "layers of W"])
def test_threads_may_be_at_other_layers(name, monkeypatch):
    monkeypatch.setattr(one_call, "_TOGETHER", 100.0)
    attention, times = copy.deepcopy(LAYERED[name]), np.linspace(0.0, 7.0, 50)
    want = [attention.velocity(X, t=t) for t in times]

    def velocities(seed):
        order = np.random.default_rng(seed).permutation(len(times))
        return all((attention.velocity(X, t=times[i], backend=fp.Direct()) == want[i]).all() for i in order)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(velocities, range(12)))


def unlayer(attention):
    """Make functions of the layers of an attention."""
    for name, value in vars(attention).items():
        if isinstance(value, Parameter) and isinstance(value.source, fp.Layers):
            vars(attention)[name] = replace(value, source=lambda t, layers=value.source: layers(t))
        for inner in value if isinstance(value, tuple) else [value]:
            if isinstance(inner, fp.Attention):
                unlayer(inner)


def test_layers_are_fixed():
    layers = fp.Layers(np.stack([Q, K]), 1.0)
    with pytest.raises(ValueError, match="read-only"):
        layers.stack[1] = EYE


@pytest.mark.parametrize(("light", "unit"), [(1e-68, 1e5), (1e-60, 1e-20)])
def test_light_tokens_that_some_see_alone(light, unit):
    x = np.float32([[1, 2], [3, 4]]) * np.float32(unit)
    found = fp.Masked(fp.Softmax(0 * EYE, EYE, EYE)).velocity(x, weights=np.array([light, 1 - light]))
    np.testing.assert_allclose(found, x, rtol=1e-6)


UNITS = {  # attention, unit of the tokens: matrices beyond single precision, fields within
    "D is infinite": (fp.L2(EYE, 1e20 * EYE, EYE), 1e-20),
    "D vanishes": (fp.L2(0 * EYE, 5e-28 * EYE, EYE), 5e27),
    "W V is infinite": (fp.MultiHead([fp.Softmax(EYE, EYE, 1e25 * EYE)], W=1e25 * EYE[None]), 1e-30),
    "W V vanishes": (fp.MultiHead([fp.Softmax(0 * EYE, EYE, 1e-25 * EYE)], W=1e-25 * EYE[None]), 1e30),
}


@pytest.mark.parametrize("name", UNITS)
def test_units(name):
    attention, unit = UNITS[name]
    x = (X * unit).astype(np.float32)
    found = attention.velocity(x)
    assert np.isfinite(found).all() and np.abs(found).max() > 0
    assert_close(found, attention.velocity(x.astype(float)), eps=3e-5)
    many = fp.solve(attention, np.stack([x, x]), (0.0, 1e-3), method="euler", step=1e-3)
    assert np.isfinite(many.x_final).all()


@pytest.mark.parametrize("kind", [fp.Direct, fp.Auto])
def test_a_backend_of_ones_own_makes_all_sums(kind):
    class Counting(kind):
        asked = 0

        def attend(self, *arguments, **named):
            self.asked += 1
            super().attend(*arguments, **named)

    backend = Counting()
    assert_close(fp.Softmax(Q, K, EYE).velocity(X, backend=backend), fp.Softmax(Q, K, EYE).velocity(X))
    assert backend.asked == 1
