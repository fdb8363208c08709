"""What the bridges share: where the numbers of arrays stand in an attention. And what is said without the libraries."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

import fastpde as fp
from fastpde.bridge import Factory

RNG = np.random.default_rng(0)


def heads(Q, K, W, end):
    """Two heads with one stack of layers, turned in one of them, and a matrix of its own."""
    first = fp.Softmax(fp.Layers(Q, end), K[0], np.eye(2))
    second = fp.Sigmoid(K[1].T, fp.Layers(Q[::-1], end), 2.0 * np.eye(2), bias=0.5)
    return fp.MultiHead([first, second], W=W)


def test_numbers_are_followed():
    """Each gradient adds up where its number has gone, wherever that is; layers at a time are those that act then."""
    shapes = {"Q": (3, 2, 2), "K": (2, 2, 2), "W": (2, 2, 2)}
    factory = Factory(heads, shapes, {"end": 3.0})
    values = {name: RNG.standard_normal(shape) for name, shape in shapes.items()}
    attention = factory.attention(values)
    found = {"heads[0].Q": RNG.standard_normal((3, 2, 2)), "heads[1].K": RNG.standard_normal((3, 2, 2))}
    found |= {name: RNG.standard_normal((2, 2)) for name in ("heads[0].K", "heads[1].Q", "heads[1].V")}
    found["W"] = RNG.standard_normal((2, 2, 2))
    got = factory.cotangents(attention, None, found)
    np.testing.assert_array_equal(got["Q"], found["heads[0].Q"] + found["heads[1].K"][::-1])
    np.testing.assert_array_equal(got["K"], [found["heads[0].K"], found["heads[1].Q"].T])
    np.testing.assert_array_equal(got["W"], found["W"])
    now = found | {"heads[0].Q": found["heads[0].Q"][0], "heads[1].K": found["heads[1].K"][0]}
    got = factory.cotangents(attention, 0.5, now)
    np.testing.assert_array_equal(got["Q"], [now["heads[0].Q"], np.zeros((2, 2)), now["heads[1].K"]])
    factory.refuse_lost(["Q", "K", "W"])


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: fp.Softmax(2.0 * a, b, b),
        lambda a, b: fp.Softmax(0.5 * (a + b), b, b),
        lambda a, b: fp.Softmax(a @ b, b, b),
        lambda a, b: fp.Softmax(a, b, b, scale=a.sum()),
    ],
)
def test_arithmetic_is_refused(make):
    with pytest.raises(fp.InputError, match="make: got a function that calculates"):
        _ = Factory(make, {"a": (2, 2), "b": (2, 2)}, {}).places


def test_what_is_lost_or_no_attention_is_refused():
    with pytest.raises(fp.InputError, match="b: got an array that is not seen"):
        Factory(lambda a, b: fp.Softmax(a, a, lambda t: t * b), {"a": (2, 2), "b": (2, 2)}, {}).refuse_lost(["a", "b"])
    for make, message in ((3, "make: got int"), (lambda: 3, "make: got a function that returns a int")):
        with pytest.raises(fp.InputTypeError, match=message):
            Factory(make, {}, {}).attention({})


@pytest.mark.parametrize(("world", "library"), [("torch", "PyTorch"), ("jax", "JAX")])
def test_a_library_that_is_missing_is_named(world, library, monkeypatch):
    monkeypatch.delitem(sys.modules, f"fastpde.{world}", raising=False)
    monkeypatch.setitem(sys.modules, world, None)
    with pytest.raises(ImportError, match=f"fastpde.{world} needs {library}.*pip install {world}"):
        importlib.import_module(f"fastpde.{world}")
