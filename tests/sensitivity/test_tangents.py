"""Tangents of runs against the complex step through the same steps, taken by naive sums."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .test_adjoint import STEP, P, X, run, softmax, steps

RNG = np.random.default_rng(0)
AT = np.array([0.0, 0.13, 0.5, 1.37, 2.0])


def on_sphere(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def check(found, states, x, directions):
    """Compare tangents (m, k, n, d) at the times after t0 with the complex step of states(x)."""
    want = np.array([np.imag(states(x + 1j * STEP * one)) / STEP for one in directions])
    np.testing.assert_allclose(found.swapaxes(0, 1), want, rtol=0, atol=1e-12 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("sphere", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("euler", {"step": 0.3}),
        ("heun", {"step": 0.1}),
        ("rk4", {"step": 0.1}),
        ("bosh3", {"rtol": 1e-3}),
        ("dopri5", {"rtol": 1e-4}),
        ("tsit5", {"rtol": 1e-4}),
    ],
)
def test_every_method_between_and_at_the_ends_of_steps(method, options, sphere):
    """The steps have the bits of a run without tangents."""
    options = {**options, "method": method, "t_eval": AT} | ({"manifold": fp.Sphere()} if sphere else {})
    x, attention, D = on_sphere(X) if sphere else X, fp.Softmax(**P), RNG.standard_normal((3, *X.shape))
    found = fp.solve(attention, x, (0.0, 2.0), tangents=D, **options)
    plain = fp.solve(attention, x, (0.0, 2.0), **options)
    assert np.array_equal(found.x, plain.x) and found.stats["steps"] == plain.stats["steps"]
    times = steps(attention, x, (0.0, 2.0), **options)

    def states(y):
        return run(lambda t, z: softmax(z, P), y, times, method, sphere=sphere, at=AT[1:])

    check(found.tangents[1:], states, x, D)
    assert np.array_equal(found.tangents[-1], found.tangents_final)
    if sphere:
        np.testing.assert_allclose(np.einsum("mnd,mknd->mkn", found.x, found.tangents), 0.0, atol=1e-13)
