"""Parameters: constants, functions of time and layers; and what attentions say of themselves."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastpde as fp
from fastpde.attention.parameters import matrix, parameter, scalar

I2 = np.eye(2)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 49, 1000])
@pytest.mark.parametrize("t_end", [1.0, 0.1, 3.7, 1e6])
def test_layers_at_multiples_of_the_step(count, t_end):
    """Layer l acts at l t_end / L however that time is computed: as a product, as a quotient, as a running sum."""
    layers, step, total = fp.Layers(np.arange(float(count)), t_end), t_end / count, 0.0
    assert len(layers) == count
    for layer in range(count):
        assert layers(layer * step) == layers(layer * t_end / count) == layers(total) == layer
        assert layers((layer + 0.5) * step) == layer
        total += step
    assert layers(t_end) == layers(0.999999 * t_end) == count - 1


def test_layers_keep_what_they_were_given():
    stack = np.ones((2, 2, 2))
    layers = fp.Layers(stack, 1.0)
    stack[:] = 7.0
    np.testing.assert_array_equal(layers(0.0), np.ones((2, 2)))


def test_layers_end():
    layers = fp.Layers(np.zeros((3, 2, 2)), 1.5)
    for t in (-0.01, 1.51, 1e9):
        with pytest.raises(fp.InputError, match=r"a time in \[0, 1.5\]"):
            layers(t)


def test_the_batch_axis():
    """The last of the axes that a parameter may have is the batch's, whatever the other sizes are."""
    for value, want in ((1.0, 1), (np.ones(4), 4)):
        assert scalar("scale", value).systems(0.0) == want
    for value, want in ((np.ones((3, 2)), 1), (np.ones((4, 3, 2)), 4)):
        assert matrix("Q", value).systems(0.0) == matrix("Q", lambda t, value=value: value).systems(0.0) == want
    for value, want in ((np.ones((5, 3, 2)), 1), (np.ones((4, 5, 3, 2)), 4)):
        assert parameter("W", value, (3, 4)).systems(0.0) == want


def test_some_systems():
    """Of a batch axis those asked for; one of length 1 is one value for all, as it is in `velocity`."""
    stack, x = np.arange(12.0).reshape(3, 2, 2), np.random.default_rng(0).normal(size=(3, 5, 2))
    which = np.array([2, 0])
    for source in (stack, lambda t: stack):
        np.testing.assert_array_equal(matrix("Q", source).system(which)(0.0), stack[which])
    for source in (stack[:1], lambda t: stack[:1]):
        np.testing.assert_array_equal(matrix("Q", source).system(2)(0.0), stack[0])
        np.testing.assert_array_equal(matrix("Q", source).system(which)(0.0), stack[[0, 0]])
    head = fp.Softmax(I2, stack[:1] / 9, stack)
    for attention in (head, fp.MultiHead([head, head], W=np.stack([np.stack([I2, 2 * I2])] * 3))):
        want = attention.velocity(x)
        np.testing.assert_array_equal(attention.system(which).velocity(x[which]), want[which])
        np.testing.assert_array_equal(attention.system(2).velocity(x[2]), want[2])


def test_as_many_heads_as_systems():
    """W (H, d, dv) with H = B is still one W for all."""
    rng = np.random.default_rng(0)
    heads, W, x = [fp.Softmax(I2, I2, I2)] * 3, rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 9, 2))
    attention = fp.MultiHead(heads, W=W)
    np.testing.assert_array_equal(attention.velocity(x), np.stack([attention.velocity(one) for one in x]))


def test_functions_may_return_lists_and_integers():
    x = np.random.default_rng(0).normal(size=(9, 2))
    got = fp.Softmax(lambda t: [[1, 0], [0, 1]], I2, lambda t: I2.astype(np.float32)).velocity(x)
    np.testing.assert_array_equal(got, fp.Softmax(I2, I2, I2).velocity(x))


def test_shapes_that_change_with_time_are_checked_each_time():
    """By name, at the time at which they do not fit."""
    attention = fp.Softmax(I2, I2, lambda t: np.ones((2, 2 if t < 0.5 else 3)))
    x = np.ones((4, 2))
    assert attention.velocity(x, t=0.0).shape == (4, 2)
    with pytest.raises(fp.InputError, match="V"):
        attention.velocity(x, t=0.7)


@pytest.mark.parametrize("name", ["Q", "K", "V"])
@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (3, 2), (2,), (2, 2, 2)])
def test_a_solve_says_when_a_parameter_becomes_unfit(name, shape):
    """In the middle of a run too: an error of ours, not one from inside NumPy, and above all no wrong result."""
    parameters = {"Q": I2, "K": I2, "V": I2, name: lambda t: np.ones(shape) if 0.4 < t < 0.6 else I2}
    with pytest.raises(fp.InputError):
        fp.solve(fp.Softmax(**parameters), np.ones((4, 2)), (0.0, 1.0), method="rk4", step=0.1)


def test_texts():
    def turning(t):
        return I2

    plain = fp.Sigmoid(np.ones((3, 2)), np.ones((3, 2)), I2, scale=0.5, bias=-1)
    assert repr(plain) == "Sigmoid(Q(3, 2), K(3, 2), V(2, 2), scale=0.5, bias=-1.0)"
    assert repr(fp.Masked(fp.Linear(I2, turning, I2))) == "Masked(Linear(Q(2, 2), K=turning, V(2, 2), scale=1.0))"
    assert repr(fp.MultiHead([fp.L2(I2, I2, fp.Layers(I2[None], 1.0))])).startswith("MultiHead([L2(Q(2, 2)")


def test_parameters_are_arrays():
    Q = np.arange(6.0).reshape(2, 3)
    attention = fp.Softmax(Q, Q, np.eye(3), scale=lambda t: 1.0 + t)
    np.testing.assert_array_equal(np.asarray(attention.Q), Q)
    assert np.asarray(attention.Q, dtype=np.float32).dtype == np.float32
    with pytest.raises(fp.InputError, match="scale: got a function of time"):
        np.asarray(attention.scale)


def test_a_score_is_kept_as_long_as_its_parameters():
    """Constant ones are looked at once; an attribute that is set counts from then on."""
    attention, x = fp.Softmax(I2, I2, I2), np.random.default_rng(0).standard_normal((20, 2))
    before = attention.velocity(x)
    attention.V = matrix("V", 2.0 * I2)
    np.testing.assert_allclose(attention.velocity(x), 2.0 * before, rtol=1e-14)
    moving = fp.Softmax(I2, I2, lambda t: (1.0 + t) * I2)
    np.testing.assert_allclose(moving.velocity(x, t=1.0), 2.0 * moving.velocity(x, t=0.0), rtol=1e-14)


def test_a_copy_with_other_parameters_has_a_score_of_its_own():
    """As `fp.limit` makes them in other units: without going through the attributes."""
    attention, x = fp.Softmax(I2, I2, I2), np.random.default_rng(0).standard_normal((20, 2))
    before, one = attention.velocity(x), copy.copy(attention)
    vars(one).update(vars(attention) | {"V": matrix("V", 3.0 * I2)})
    np.testing.assert_allclose(one.velocity(x), 3.0 * before, rtol=1e-14)
    np.testing.assert_array_equal(attention.velocity(x), before)
