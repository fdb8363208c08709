"""Anderson acceleration on fixed-point problems with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.transport.anderson import Anderson, coefficients


def contraction(rng, n, slow):
    """(M, b): x -> M x + b, with a few rates close to one and the others small, and its fixed point."""
    U = np.linalg.qr(rng.normal(size=(n, n)))[0]
    M = (U * np.concatenate([slow, np.full(n - len(slow), 0.1)])) @ U.T
    b = rng.normal(size=n)
    return M, b, np.linalg.solve(np.eye(n) - M, b)


def test_a_few_slow_directions_cost_a_few_steps():
    """Plain steps would need thousands; five different rates are one more step each for GMRES. 1e-6: 1e-10 / 1e-3."""
    rng = np.random.default_rng(0)
    problems = [contraction(rng, 30, [0.999, -0.99, 0.9, 0.5]) for _ in range(3)]
    anderson = Anderson(np.full((1, 30), 1 / 30), (3, 30))
    x = np.zeros((3, 30))
    for _ in range(12):
        r = np.stack([M @ y + b - y for (M, b, _), y in zip(problems, x, strict=True)])
        anderson.step(x, r, np.zeros(3), np.ones(3, bool))  # no merit to fall
    for (_, _, solution), y in zip(problems, x, strict=True):
        np.testing.assert_allclose(y, solution, rtol=0, atol=1e-6 * np.abs(solution).max())


def test_a_lower_merit_goes_back_to_the_best():
    anderson = Anderson(np.full((1, 4), 0.25), (2, 4))
    x, r = np.ones((2, 4)), np.full((2, 4), 0.5)
    anderson.step(x, r.copy(), np.array([1.0, 1.0]), np.ones(2, bool))
    np.testing.assert_array_equal(x, 1.5)  # the first step is plain
    x[...] = 9.0
    anderson.step(x, r.copy(), np.array([0.5, 2.0]), np.array([True, False]))
    np.testing.assert_array_equal(x[0], 1.5)  # a plain step from the best
    np.testing.assert_array_equal(x[1], 9.0)  # better, but told to stay
    assert not anderson.window.dr[0].any() and not anderson.window.gram[0].any()
    assert anderson.window.taken.tolist() == [1, 0]


@pytest.mark.parametrize("size", [1e-150, 1.0, 1e100])
def test_coefficients(size):
    """Least squares, whatever the size of the vectors; zero vectors and copies are harmless."""
    rng = np.random.default_rng(0)
    v = size * rng.normal(size=(3, 50))
    y = 2 * v[0] - v[1]
    vectors = np.stack([v[0], v[1], np.zeros(50), v[1]])
    c = coefficients((vectors @ vectors.T)[None], (vectors @ y)[None], 1e-10)[0]
    # The ridge of 1e-10 moves them by about that much.
    np.testing.assert_allclose([c[0], c[1] + c[3], c[2]], [2.0, -1.0, 0.0], atol=1e-8)
