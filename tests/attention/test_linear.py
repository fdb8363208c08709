"""Linear attention, whose maps of the tokens are one: V M A x with the second moment M."""

import numpy as np
import pytest

import fastpde as fp
from tests import naive

EPS = {np.float64: 2.0**-52, np.float32: 2.0**-23}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [3, 11, 14])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_maps_are_one(dtype, rows, weighted):
    """With fewer rows of Q and K than coordinates (3 of 11) the sum is made of them."""
    rng = np.random.default_rng(rows)
    Q, K = rng.standard_normal((2, rows, 11))
    V = rng.standard_normal((11, 11))
    x, at = (rng.standard_normal((n, 11)).astype(dtype) for n in (1500, 40))
    weights = rng.random(1500) if weighted else np.ones(1500)
    weights /= weights.sum()
    found = fp.Linear(Q, K, V, scale=0.3).velocity(x, at=at, weights=weights if weighted else None, backend=fp.Direct())
    case = {"at": at, "scale": 0.3, "weights": weights}
    error = np.abs(found - naive.velocity("Linear", x, Q, K, V, **case))
    assert (error / naive.size("Linear", x, Q, K, V, **case)).max() < EPS[dtype]


def test_units_in_which_the_product_of_the_maps_is_no_number():
    """The systems beside it keep their bits."""
    A, one = np.array([[1e-12, 1e12], [0.0, 1.0]]), np.eye(2)
    attention, rng = fp.Linear(A, one, one), np.random.default_rng(0)
    x = rng.standard_normal((2, 300, 2)).astype(np.float32)
    alone = attention.velocity(x[0], backend=fp.Direct())
    x[1] *= np.array([1e16, 1e-25], np.float32)
    found = attention.velocity(x, backend=fp.Direct())
    np.testing.assert_array_equal(found[0], alone)
    want = naive.velocity("Linear", x[1], A, one, one)
    assert np.abs(found[1] / want - 1.0).max() < 100 * EPS[np.float32]


@pytest.mark.parametrize(
    ("unit", "matrix", "value"), [(1e-163, 1e105, 1e163), (1e-170, 1e105, 1e200), (1e100, 1e-90, 1e-40)]
)
def test_units_in_which_moments_are_not_numbers(unit, matrix, value):
    """Moments below or above all numbers, and far below or above those that lose no digits."""
    rng, one = np.random.default_rng(1), np.eye(2)
    x = unit * rng.standard_normal((20, 2))
    found = fp.Linear(matrix * one, matrix * one, value * one).velocity(x, backend="direct")
    want = naive.velocity("Linear", x, matrix * one, matrix * one, value * one)  # of a wider range
    assert np.abs(found / want - 1.0).max() < 1e-12


def test_partial_sums_beyond_single_precision():
    """Velocities near the largest number, of terms that are beyond it: they are numbers, and infinite ones have the
    right sign."""
    x = (3e13 * np.random.default_rng(2).standard_normal((500, 8))).astype(np.float32)
    x[:, 0] = x[:, 1]
    A = np.eye(8)
    A[0, 1] = -1.0 + 1e-3
    found = fp.Linear(A, np.eye(8), np.eye(8)).velocity(x, backend="direct")
    with np.errstate(over="ignore"):
        want = naive.velocity("Linear", x, A, np.eye(8), np.eye(8)).astype(np.float32)
    finite = np.isfinite(want)
    assert (found[~finite] == want[~finite]).all() and np.isfinite(found[finite]).all()
