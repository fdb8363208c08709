"""The vector space against plain NumPy formulas."""

import math

import numpy as np
import pytest

from fastpde.integrate.space import VectorSpace

SHAPES = [(), (5,), (7, 2), (3, 4, 2), (20_000, 2), (2, 9_000, 3), (300, 32, 2)]
COEFS = (0.3, 0.0, -1.7)


def data(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    stages = rng.normal(size=(3, *shape)).astype(dtype)
    return stages, *(np.array(rng.normal(size=shape), dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_combine(shape, dtype):
    stages, y, _ = data(shape, dtype)
    out = np.empty_like(y)
    VectorSpace(shape, dtype).combine(y, 0.1, COEFS, stages, out)
    need = y.astype(float) + 0.1 * (0.3 * stages[0].astype(float) - 1.7 * stages[2].astype(float))
    assert out.dtype == dtype
    # Four roundings of terms below 4 in size.
    np.testing.assert_allclose(out, need, rtol=0, atol=16 * np.finfo(dtype).eps)


def test_combine_does_not_read_zero_terms_and_with_none_copies():
    stages, y, _ = data((4, 2), np.float64)
    stages[1] = np.nan
    out = np.empty_like(y)
    space = VectorSpace(y.shape, y.dtype)
    space.combine(y, 0.1, COEFS, stages, out)
    assert np.isfinite(out).all()
    space.combine(y, 0.1, (0.0, 0.0, 0.0), stages, out)
    assert out.tobytes() == y.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_error_norm(shape, dtype):
    stages, y0, y1 = data(shape, dtype)
    got = VectorSpace(shape, dtype).error_norm(stages, COEFS, 0.1, y0, y1, 1e-3, 1e-4)
    error = 0.1 * (0.3 * stages[0].astype(float) - 1.7 * stages[2].astype(float))
    ratio = error / (1e-4 + 1e-3 * np.maximum(np.abs(y0), np.abs(y1)).astype(float))
    squares = (ratio**2).reshape(shape[0] if len(shape) == 3 else 1, -1)
    # Each ratio is right to a few eps of its terms; the mean of squares does not make it worse.
    assert got == pytest.approx(np.sqrt(squares.mean(axis=1)).max(), rel=32 * float(np.finfo(dtype).eps))


def test_a_system_is_judged_alone():
    # Equal bits: a system's sum depends on its own length alone, whatever the company.
    stages, y0, y1 = data((40, 1000, 3), np.float64)
    norms = [
        VectorSpace((1, 1000, 3), np.float64).error_norm(
            stages[:, b : b + 1].copy(), COEFS, 0.1, y0[b : b + 1], y1[b : b + 1], 1e-3, 1e-4
        )
        for b in range(40)
    ]
    assert VectorSpace(y0.shape, np.float64).error_norm(stages, COEFS, 0.1, y0, y1, 1e-3, 1e-4) == max(norms)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["stage", "y0", "y1"])
@pytest.mark.parametrize("shape", [(7, 2), (3, 4, 2), (20_000, 2), (2, 9_000, 3)])
def test_nothing_bad_passes(shape, where, bad):
    stages, y0, y1 = data(shape, np.float64)
    {"stage": stages[2], "y0": y0, "y1": y1}[where].reshape(-1)[-1] = bad
    with np.errstate(all="ignore"):
        norm = VectorSpace(shape, np.float64).error_norm(stages, COEFS, 0.1, y0, y1, 1e-3, 1e-4)
    assert not math.isfinite(norm)


def test_bad_entry_of_any_system_shows():
    stages, y0, y1 = data((300, 32, 2), np.float64)
    stages[0, 17, 3, 1] = np.nan
    assert not VectorSpace(y0.shape, np.float64).error_norm(stages, COEFS, 0.1, y0, y1, 1e-3, 1e-4) <= 1e300


@pytest.mark.parametrize("shape", SHAPES)
def test_max_norm(shape):
    _, y, _ = data(shape, np.float64)
    space = VectorSpace(shape, np.float64)
    assert space.max_norm(y) == np.abs(y).max()
    for bad in (np.nan, np.inf):
        y.reshape(-1)[0] = bad
        assert not math.isfinite(space.max_norm(y))
