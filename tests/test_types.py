"""What cannot be used is refused by name, at once, before anything is compiled; what can be used is taken as it is."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import _types
from fastpde.errors import InputError, InputTypeError

from .problems import run

I2, X = np.eye(2), np.arange(10.0).reshape(5, 2)
HALF = np.full(5, 0.2)
NAN = float("nan")
PLAIN = fp.Softmax(I2, I2, I2)
MASKED = fp.Masked(PLAIN)
HEADS = [fp.Softmax(I2, I2, np.ones((1, 2)))] * 2


def with_(array, index, value):
    """A copy with one entry changed."""
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[index] = value
    return array


class Tensor:
    """What a tensor of PyTorch that requires a gradient is to NumPy."""

    ndim = 2

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


# The argument that the error must name -> what is done.
WRONG = [
    # tokens
    ("x", lambda: PLAIN.velocity(with_(X, (3, 1), NAN))),
    ("x", lambda: PLAIN.velocity(with_(X, (0, 0), np.inf))),
    ("x", lambda: PLAIN.velocity(X[:, 0])),
    ("x", lambda: PLAIN.velocity(X[None, None])),
    ("x", lambda: PLAIN.velocity(X[:0])),
    ("x", lambda: PLAIN.velocity(X[:, :0])),
    ("x", lambda: PLAIN.velocity(np.ones((5, 3)))),
    ("x", lambda: PLAIN.velocity(X + 0j)),
    ("x", lambda: PLAIN.velocity(X.astype(object))),
    ("x", lambda: PLAIN.velocity(X.astype(str))),
    ("x", lambda: PLAIN.velocity(X > 2)),
    ("x", lambda: PLAIN.velocity("tokens.npy")),
    ("x", lambda: PLAIN.velocity(None)),
    ("x", lambda: PLAIN.velocity([[1.0, 2.0], [3.0]])),
    ("x", lambda: PLAIN.velocity({"x": X})),
    ("x", lambda: PLAIN.velocity(np.ma.masked_array(X, X > 2))),
    ("x", lambda: PLAIN.velocity(np.array(["2020-01-01"], "M8[D]")[:, None])),
    # points
    ("at", lambda: PLAIN.velocity(X, at=with_(X, (1, 1), NAN))),
    ("at", lambda: PLAIN.velocity(X, at=np.ones((4, 3)))),
    ("at", lambda: PLAIN.velocity(X, at=X[None])),
    ("at", lambda: PLAIN.velocity(X[None], at=X)),
    ("at", lambda: PLAIN.velocity(np.ones((3, 5, 2)), at=np.ones((2, 4, 2)))),
    ("at", lambda: PLAIN.velocity(X, at=np.ones((0, 2)))),
    # weights
    ("weights", lambda: PLAIN.velocity(X, weights=with_(HALF, 0, 0.0))),
    ("weights", lambda: PLAIN.velocity(X, weights=[0.6, 0.6, -0.2, 0.1, -0.1])),
    ("weights", lambda: PLAIN.velocity(X, weights=2 * HALF)),
    ("weights", lambda: PLAIN.velocity(X, weights=HALF[:4])),
    ("weights", lambda: PLAIN.velocity(X, weights=with_(HALF, 1, NAN))),
    ("weights", lambda: PLAIN.velocity(X, weights=0.2)),
    ("weights", lambda: PLAIN.velocity(np.ones((3, 5, 2)), weights=np.tile(HALF, (2, 1)))),
    ("weights", lambda: PLAIN.velocity(X, weights=["a"] * 5)),
    # positions
    ("positions", lambda: PLAIN.velocity(X, positions=np.arange(5))),
    ("at_positions", lambda: PLAIN.velocity(X, at_positions=np.arange(5))),
    ("positions", lambda: MASKED.velocity(X, positions=np.arange(4))),
    ("positions", lambda: MASKED.velocity(X, positions=with_(np.arange(5.0), 2, NAN))),
    ("positions", lambda: MASKED.velocity(X, positions=[True] * 5)),
    ("positions", lambda: MASKED.velocity(X, positions=[[0, 1], [2]])),
    ("positions", lambda: MASKED.velocity(X, positions=["a"] * 5)),
    ("positions", lambda: MASKED.velocity(X, positions=np.ma.masked_equal([0, 1, 2, 3, 4], 2))),
    ("positions", lambda: MASKED.velocity(X[None], positions=np.zeros((1, 5)))),
    ("at_positions", lambda: MASKED.velocity(X, at=X)),
    ("at_positions", lambda: MASKED.velocity(X, at_positions=np.arange(5))),
    ("at_positions", lambda: MASKED.velocity(X, at=X, at_positions=[0, 1, 2, 3, -1])),
    ("at_positions", lambda: MASKED.velocity(X, at=X[:2], at_positions=np.arange(5))),
    # time, backend
    ("t", lambda: PLAIN.velocity(X, t="0")),
    ("t", lambda: PLAIN.velocity(X, t=True)),
    ("t", lambda: PLAIN.velocity(X, t=NAN)),
    ("backend", lambda: PLAIN.velocity(X, backend="gpu")),
    ("backend", lambda: PLAIN.velocity(X, backend=None)),
    ("backend", lambda: PLAIN.velocity(X, backend=fp.Direct)),
    # parameters
    ("Q", lambda: fp.Softmax(with_(I2, (0, 1), NAN), I2, I2)),
    ("Q", lambda: fp.Softmax("identity", I2, I2)),
    ("Q", lambda: fp.Softmax(1.0, I2, I2)),
    ("Q", lambda: fp.Softmax(np.ones((0, 2)), np.ones((0, 2)), I2)),
    ("Q", lambda: fp.L2([[1.0, 2.0], [3.0]], I2, I2)),
    ("K", lambda: fp.Softmax(I2, np.eye(3), I2)),
    ("K", lambda: fp.Softmax(I2, np.ones((3, 2)), I2)),
    ("V", lambda: fp.Softmax(I2, I2, np.eye(3))),
    ("V", lambda: fp.Linear(I2, I2, I2 * 1j)),
    ("scale", lambda: fp.Softmax(I2, I2, I2, scale="1/sqrt(d)")),
    ("scale", lambda: fp.Softmax(I2, I2, I2, scale=np.inf)),
    ("scale", lambda: fp.Softmax(I2, I2, I2, scale=I2)),
    ("bias", lambda: fp.Sigmoid(I2, I2, I2, bias=NAN)),
    ("bias", lambda: fp.Sigmoid(I2, I2, I2, bias=None)),
    ("Q", lambda: fp.Softmax(np.ones((4, 2, 2)), I2, I2).velocity(np.ones((3, 5, 2)))),
    ("scale", lambda: fp.Softmax(I2, I2, I2, scale=np.ones(4)).velocity(X)),
    ("Q(0.5)", lambda: fp.Softmax(lambda t: np.full((2, 2), NAN), I2, I2).velocity(X, t=0.5)),
    ("Q(0.5)", lambda: fp.Softmax(lambda t: None, I2, I2).velocity(X, t=0.5)),
    ("K", lambda: fp.Softmax(lambda t: np.ones((3, 2)), I2, I2).velocity(X)),
    ("Layers.stack", lambda: fp.Layers(1.0, 1.0)),
    ("Layers.stack", lambda: fp.Layers(np.ones((0, 2, 2)), 1.0)),
    ("Layers.t_end", lambda: fp.Layers(np.ones((3, 2, 2)), 0.0)),
    ("Layers.t_end", lambda: fp.Layers(np.ones((3, 2, 2)), "1")),
    ("t", lambda: fp.Softmax(fp.Layers(np.ones((3, 2, 2)), 1.0), I2, I2).velocity(X, t=1.5)),
    # heads and masks
    ("heads", lambda: fp.MultiHead([])),
    ("heads", lambda: fp.MultiHead(PLAIN)),
    ("heads[1]", lambda: fp.MultiHead([PLAIN, "softmax"])),
    ("heads[1]", lambda: fp.MultiHead([PLAIN, fp.Softmax(np.eye(3), np.eye(3), np.eye(3))])),
    ("heads[1]", lambda: fp.MultiHead([PLAIN, HEADS[0]])),
    ("W", lambda: fp.MultiHead(HEADS, W=np.ones((3, 2, 1)))),
    ("W", lambda: fp.MultiHead(HEADS, W=[np.ones((2, 1))])),
    ("W", lambda: fp.MultiHead(HEADS, W=np.ones((2, 1)))),
    ("W[0]", lambda: fp.MultiHead(HEADS, W=np.ones((2, 2, 2)))),
    ("W", lambda: fp.MultiHead(HEADS, W=np.ones((4, 2, 2, 1))).velocity(np.ones((3, 5, 2)))),
    ("attention", lambda: fp.Masked(MASKED)),
    ("attention", lambda: fp.Masked(fp.MultiHead([PLAIN, MASKED]))),
    ("attention", lambda: fp.Masked(I2)),
    # solve
    ("attention", lambda: fp.solve("softmax", X, (0, 1))),
    ("attention", lambda: fp.solve(fp.Softmax, X, (0, 1))),
    ("attention", lambda: fp.solve(HEADS[0], X, (0, 1))),
    ("x0", lambda: fp.solve(PLAIN, X[:, 0], (0, 1))),
    ("x0", lambda: fp.solve(PLAIN, with_(X, (4, 0), NAN), (0, 1))),
    ("x0", lambda: fp.solve(PLAIN, X.astype(complex), (0, 1))),
    ("x0", lambda: fp.solve(PLAIN, np.ones((5, 3)), (0, 1))),
    ("x0", lambda: fp.solve(PLAIN, np.ma.masked_array(X, X > 2), (0, 1))),
    ("t_span", lambda: fp.solve(PLAIN, X, 1.0)),
    ("t_span", lambda: fp.solve(PLAIN, X, (0, 1, 2))),
    ("t_span[1]", lambda: fp.solve(PLAIN, X, (0, np.inf))),
    ("t_span[0]", lambda: fp.solve(PLAIN, X, ("0", 1))),
    ("method", lambda: fp.solve(PLAIN, X, (0, 1), method="rk45")),
    ("method", lambda: fp.solve(PLAIN, X, (0, 1), method=4)),
    ("step", lambda: fp.solve(PLAIN, X, (0, 1), method="rk4")),
    ("step", lambda: fp.solve(PLAIN, X, (0, 1), method="rk4", step=-0.1)),
    ("rtol", lambda: fp.solve(PLAIN, X, (0, 1), rtol=0.0)),
    ("atol", lambda: fp.solve(PLAIN, X, (0, 1), atol="1e-9")),
    ("max_steps", lambda: fp.solve(PLAIN, X, (0, 1), max_steps=-5)),
    ("max_steps", lambda: fp.solve(PLAIN, X, (0, 1), max_steps=10.0)),
    ("t_eval", lambda: fp.solve(PLAIN, X, (0, 1), t_eval=[0.5, 0.2])),
    ("t_eval", lambda: fp.solve(PLAIN, X, (0, 1), t_eval=[0.5, 2.0])),
    ("weights", lambda: fp.solve(PLAIN, X, (0, 1), weights=HALF[:3])),
    ("positions", lambda: fp.solve(PLAIN, X, (0, 1), positions=np.arange(5))),
    ("backend", lambda: fp.solve(PLAIN, X, (0, 1), backend="fft")),
    ("events", lambda: fp.solve(PLAIN, X, (0, 1), events=fp.BlowUp(10.0))),
    ("events[0]", lambda: fp.solve(PLAIN, X, (0, 1), events=(3,))),
    ("observers[0]", lambda: fp.solve(PLAIN, X, (0, 1), observers=(print,))),
    ("t", lambda: fp.solve(fp.Softmax(fp.Layers(np.ones((3, 2, 2)), 1.0), I2, I2), X, (0, 2))),
    # energy
    ("x", lambda: fp.interaction_energy(PLAIN, X[0])),
    ("weights", lambda: fp.interaction_energy(PLAIN, X, weights=HALF[:3])),
    ("positions", lambda: fp.interaction_energy(PLAIN, X, positions=np.arange(5))),
    ("attention", lambda: fp.interaction_energy("softmax", X)),
    # tensors that NumPy cannot read
    ("x", lambda: PLAIN.velocity(Tensor())),
    ("weights", lambda: PLAIN.velocity(X, weights=Tensor())),
    ("positions", lambda: MASKED.velocity(X, positions=Tensor())),
    ("Q", lambda: fp.Softmax(Tensor(), I2, I2)),
    ("Q(0.5)", lambda: fp.Softmax(lambda t: Tensor(), I2, I2).velocity(X, t=0.5)),
    ("Q(0.0)", lambda: fp.Softmax(lambda t: Tensor(), I2, I2).system(0).velocity(X)),
    ("Layers.stack", lambda: fp.Layers(Tensor(), 1.0)),
    ("cov", lambda: fp.Gaussian(0.0, Tensor())),
    ("t_span[0]", lambda: fp.solve(PLAIN, X, (Tensor(), 1.0))),
    ("t_eval", lambda: fp.solve(PLAIN, X, (0, 1), t_eval=Tensor())),
]


def refusal(call):
    """The error of a call, which must be one of ours."""
    with pytest.raises((InputError, InputTypeError)) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("index", range(len(WRONG)), ids=lambda i: f"{WRONG[i][0]}-{i}")
def test_wrong_input_is_named(index):
    """As the whole name or, for entries such as x[3, 1], as its beginning; with what came and what is needed."""
    name, call = WRONG[index]
    error = refusal(call)
    assert isinstance(error, ValueError | TypeError)
    assert error.name == name or error.name.startswith((f"{name}[", f"{name}("))
    assert str(error).startswith(f"{error.name}: got ")
    assert "; need " in str(error)
    assert len(str(error)) < 600


def test_wrong_input_compiles_nothing():
    """All of them in a new process."""
    code = """
import json
import fastpde as fp
from tests import test_types
from numba.core import event
with event.install_recorder("numba:compile") as compiled:
    for name, call in test_types.WRONG:
        try:
            call()
        except Exception:
            pass
print(json.dumps(len(compiled.buffer)))
"""
    compiled, _ = run(code)
    assert compiled == 0


def test_a_tensor_says_itself_what_to_do():
    error = refusal(lambda: PLAIN.velocity(Tensor()))
    assert isinstance(error, InputTypeError) and "got a Tensor" in str(error) and ".detach()" in str(error)


def test_the_offending_entry_is_shown():
    assert refusal(lambda: PLAIN.velocity(with_(X, (3, 1), NAN))).name == "x[3, 1]"
    assert "nan" in str(refusal(lambda: PLAIN.velocity(with_(X, (3, 1), NAN))))


def test_what_can_be_used_is():
    """Lists, integers and half precision become float64; float32 stays."""
    want = PLAIN.velocity(X)
    for x in (X.tolist(), X.astype(int), X.astype(np.uint8), X.astype(np.float16)):
        got = PLAIN.velocity(x)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, want)
    assert PLAIN.velocity(X.astype(np.float32)).dtype == np.float32
    assert PLAIN.velocity(X, at=X.astype(np.float32)).dtype == np.float64
    assert PLAIN.velocity(X, weights=HALF.astype(np.float32)).dtype == np.float64
    np.testing.assert_array_equal(PLAIN.velocity(X, weights=HALF[None]), PLAIN.velocity(X, weights=HALF))
    np.testing.assert_array_equal(fp.Softmax(I2, I2, I2, scale=np.float32(1)).velocity(X, t=np.int64(3)), want)
    np.testing.assert_array_equal(fp.Softmax(np.eye(2, dtype=int), [[1, 0], [0, 1]], I2).velocity(X), want)


def test_tokens_are_contiguous_and_native():
    for x in (np.asfortranarray(X), X[::-1], X.astype(">f8"), X.astype(">f4"), np.ones((3, 5, 2))[:, ::2]):
        tokens = _types.as_tokens("x", x)
        assert tokens.flags.c_contiguous and tokens.dtype.isnative
        np.testing.assert_array_equal(tokens, x)


def test_weights_that_sum_to_one_in_float32_are_taken():
    """A sum of float32 weights misses one by their rounding, which is no error of the user's."""
    rng = np.random.default_rng(0)
    for n in (3, 1000, 100_000):
        w = rng.uniform(size=n).astype(np.float32)
        w /= w.sum(dtype=np.float64).astype(np.float32)
        assert _types.as_weights(w, (n, 2)).shape == (1, n)


def test_numbers_of_more_digits_and_of_other_libraries_have_a_clear_answer():
    class Brain:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("Got unsupported ScalarType BFloat16")

    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(InputTypeError, match=r"astype\(float\)"):
            _types.as_tokens("x", np.ones((2, 2), np.longdouble))
    with pytest.raises(InputTypeError, match=r"tensor\.float\(\)"):
        _types.as_tokens("x", Brain())
    assert _types.as_tokens("x", np.ones((2, 2), np.float16)).dtype == np.float64


def test_words_for_what_came():
    with pytest.raises(InputTypeError, match=r"^x: got None; need float64, float32 or whole numbers"):
        PLAIN.velocity(None)
    with pytest.raises(InputTypeError, match=r"^t_span: got 1\.0 \(float\); .* written t_span=\(0\.0, t1\)\.$"):
        fp.solve(PLAIN, X, 1.0)
    with pytest.raises(InputTypeError, match=rf"^events\[0\]: got an array of shape \({len(X)}, 2\) at t = 0\.0; "):
        fp.solve(PLAIN, X, (0.0, 1.0), events=[lambda t, x: x])
    with pytest.raises(InputError, match=r"^at: got shape \(4, 3\); need shape \(m, 2\)"):
        PLAIN.velocity(X, at=np.ones((4, 3)))


@pytest.mark.parametrize("kind", [fp.Softmax, fp.L2, fp.Linear, fp.Sigmoid, fp.Sinkhorn])
def test_an_argument_that_a_variant_does_not_have(kind):
    """The message names the class that was called, and what it takes."""
    with pytest.raises(InputTypeError, match=rf"^{kind.__name__}: .*'beta'.*Q, K, V, .*scale=1.0"):
        kind(np.eye(2), np.eye(2), np.eye(2), beta=9.0)
    with pytest.raises(InputTypeError, match=rf"^{kind.__name__}: .*'V'"):
        kind(np.eye(2), np.eye(2))


def test_functions_with_other_arguments_are_refused_before_any_work():
    attention, x = fp.Softmax(np.eye(2), np.eye(2), np.eye(2)), np.zeros((3, 2))
    with pytest.raises(InputTypeError, match=r"Observer.callback: got a function \(t\)"):
        fp.Observer(lambda t: None, steps=1)
    with pytest.raises(InputTypeError, match=r"events\[0\]: got a function \(t\)"):
        fp.solve(attention, x, (0.0, 1.0), events=[lambda t: 1.0])
    assert fp.Observer(print, steps=1) and fp.Observer(lambda t, x, more=0: None, steps=1)


def test_a_law_in_the_place_of_tokens():
    attention = fp.Softmax(np.eye(2), np.eye(2), np.eye(2))
    for call in (
        attention.velocity,
        lambda law: fp.lipschitz(attention, law),
        lambda law: fp.stationary(attention, law),
    ):
        with pytest.raises(fp.InputTypeError, match=r"a law, .*Ball.*law\.sample\(n, seed\)"):
            call(fp.laws.Ball(2))
