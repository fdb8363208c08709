"""Clouds at rest: what the flow of known clouds has for eigenvalues, and dense Jacobians by the complex step."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

RNG = np.random.default_rng(0)


def on_the_sphere(n, d):
    x = RNG.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def derivative(beta, x):
    """Return the Jacobian of the naive flow on the sphere, V = I and scores beta <x, y>, by the complex step."""

    def velocity(y):
        e = np.exp(beta * (y @ y.T))
        v = (e @ y) / e.sum(axis=1, keepdims=True)
        return v - (y * v).sum(axis=1, keepdims=True) * y

    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.stack([velocity(x + 1e-30j * unit).imag.ravel() / 1e-30 for unit in units], axis=1)


@pytest.mark.parametrize(("n", "d"), [(8, 3), (70, 3)])
def test_consensus_on_the_sphere(n, d):
    """0 d - 1 times, for turns, and -1 (n - 1)(d - 1) times, whatever the scores; 70 tokens by Arnoldi's method."""
    eye = np.eye(d)
    found = fp.stationary(fp.Softmax(2.0 * eye, eye, eye), on_the_sphere(n, d), manifold=fp.Sphere(), k=16)
    assert found.converged and found.residual <= 1e-12 and found.kind == "attracting"
    assert np.abs(found.x - found.x[0]).max() < 1e-11
    want = np.repeat([0.0, -1.0], [d - 1, 16 - (d - 1)])
    np.testing.assert_allclose(found.eigenvalues, want, rtol=0, atol=1e-9)
    assert "2 of the eigenvalues" in found.message and "turned" in found.message


def test_two_opposite_clusters_are_a_saddle():
    """The eigenvalues on the tangent spaces; the normal ones of the ambient Jacobian are -2 <x, Gamma>."""
    axis = on_the_sphere(1, 3)[0]
    signs = np.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    start = signs[:, None] * axis + 0.005 * RNG.standard_normal((7, 3))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    eye = np.eye(3)
    found = fp.stationary(fp.Softmax(1.5 * eye, eye, eye), start, manifold=fp.Sphere(), k=14)
    assert found.converged and found.residual <= 1e-12 and found.kind == "saddle"
    assert np.abs(found.x @ found.x.T - np.outer(signs, signs)).max() < 1e-11
    normals = np.zeros((7, 21))
    normals[np.repeat(np.arange(7), 3), np.arange(21)] = found.x.ravel()
    free = np.linalg.svd(normals)[2][7:].T
    want = np.linalg.eigvals(free.T @ derivative(1.5, found.x) @ free)
    np.testing.assert_allclose(found.eigenvalues.real, np.sort(want.real)[::-1], rtol=0, atol=1e-9)


def test_a_neutral_cloud_is_undecided():
    """V = -I gathers the tokens at the origin, but how they come together is not linear: distances fall like t^-1/2."""
    eye = np.eye(2)
    found = fp.stationary(fp.Softmax(eye, eye, -eye), RNG.standard_normal((6, 2)))
    assert found.converged and found.residual <= 1e-12 and found.kind == "undecided"
    assert np.abs(found.x).max() < 1e-3 and "cannot be told from zero" in found.message


def test_one_token():
    """A token feels itself alone: x' = V x. Saddle, repelling, attracting, or still wherever it is moved."""
    eye, start = np.eye(2), 0.01 * RNG.standard_normal((1, 2))
    for V, kind in (([1.0, -2.0], "saddle"), ([1.0, 2.0], "repelling"), ([-1.0, -2.0], "attracting")):
        found = fp.stationary(fp.Softmax(eye, eye, np.diag(V)), start)
        assert found.kind == kind and found.residual <= 1e-12
        np.testing.assert_allclose(found.eigenvalues, np.sort(V)[::-1], atol=1e-12)
    still = fp.stationary(fp.Softmax(eye, eye, 0.0 * eye), start)
    assert still.kind == "attracting" and np.array_equal(still.x, start)


def test_zeros_that_no_motion_explains():
    """Five, and two shifts of the whole cloud at most: undecided. V = diag(-1, 0) keeps every x_2."""
    eye = np.eye(2)
    found = fp.stationary(fp.Softmax(eye, 0.0 * eye, np.diag([-1.0, 0.0])), RNG.standard_normal((3, 2)))
    assert found.converged and found.kind == "undecided"
    assert np.sum(np.abs(found.eigenvalues) < 1e-9) == 5


def test_masks_weights_and_turning_parameters():
    """Causal attention on the circle with V = a rotation: no cloud is at rest, and the search says so."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    eye, x = np.eye(2), on_the_sphere(5, 2)
    seen = []
    lost = fp.stationary(
        fp.Masked(fp.Softmax(eye, eye, turn)), x, manifold=fp.Sphere(), max_iterations=20,
        progress=lambda i, stats: seen.append((i, stats["steps"] + stats["refused"])),
    )  # fmt: skip
    assert not lost.converged and lost.kind == "undecided" and len(lost.eigenvalues) == 0
    assert seen == [(i, i) for i in range(1, 21)] and lost.residual > 0.1 and "20 iterations" in lost.message
    w = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    found = fp.stationary(fp.Masked(fp.Softmax(eye, eye, eye)), x, weights=w, manifold=fp.Sphere())
    assert found.converged and np.abs(found.x - x[0]).max() < 1e-9  # the first token sees itself alone and stays
    assert found.kind == "attracting"


def test_tokens_that_run_away():
    """Under V = 1 the largest of some tokens attends to itself, and goes outwards for ever."""
    found = fp.stationary(fp.Softmax([[1.0]], [[1.0]], [[1.0]]), [[-1.0], [0.3], [1.2]], max_iterations=200)
    assert not found.converged and found.kind == "undecided"
    assert "Tokens run away: the largest is" in found.message and "from 1.2" in found.message
    assert np.abs(found.x).max() > 10.0 and "Raise max_iterations" not in found.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x0": np.ones((2, 5, 2))}, "x0: got shape"),
        ({"x0": np.full((5, 2), 1e200)}, "x0: got tokens that, or whose velocities"),
        ({"k": 0}, "k"),
        ({"max_iterations": 1.5}, "max_iterations"),
        ({"tol": -1.0}, "tol"),
        ({"tol": 1.0}, "tol: got 1.0; need a number above 0 and below 1"),
    ],
)
def test_what_is_refused(given, message):
    asked = {"x0": RNG.standard_normal((5, 2))} | given
    with pytest.raises((fp.InputError, fp.InputTypeError), match=message):
        fp.stationary(fp.Softmax(*np.ones((3, 2, 2))), asked.pop("x0"), **asked)
