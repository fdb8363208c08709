"""Lipschitz constants against the Jacobian of naive sums, column by column by the complex step."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

RNG = np.random.default_rng(0)


def softmax(x, Q, K, V, w, seen, at=None):
    """Sum pair by pair at the tokens, or at points for a fixed measure; of complex numbers, too."""
    at = x if at is None else at
    s = (at @ Q.T) @ (x @ K.T).T
    e = np.where(seen, np.exp(s - np.where(seen, s.real, -np.inf).max(axis=1, keepdims=True)), 0.0) * w
    return (e @ (x @ V.T)) / e.sum(axis=1, keepdims=True)


def derivatives(f, x):
    """Return the derivative of f in every entry of x, (entries of f, entries of x)."""
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.stack([f(x + 1e-30j * unit).imag.ravel() / 1e-30 for unit in units], axis=1)


def tangent(x, v):
    return v - (x * v).sum(axis=1, keepdims=True) * x


def constants(p, x, w, seen, *, sphere):
    """Return the norm, the log-norm and the rate of points, by dense matrices."""
    n, d = x.shape
    place = tangent if sphere else lambda x, v: v
    J = derivatives(lambda y: place(y, softmax(y, *p, w, seen)), x)
    normals = np.zeros((n, x.size))  # tangent displacements are orthogonal to these
    if sphere:
        normals[np.repeat(np.arange(n), d), np.arange(x.size)] = x.ravel()
    free = np.linalg.svd(normals)[2][n if sphere else 0 :].T  # orthonormal, in columns
    root = np.repeat(np.sqrt(w), d)
    S = (root[:, None] * J / root) if not sphere else free.T @ (root[:, None] * J / root) @ free
    points = []
    for i in range(n):
        D = derivatives(lambda y, i=i: place(y, softmax(x, *p, w, seen[i : i + 1], y)), x[i : i + 1])
        T = np.linalg.svd(x[i : i + 1])[2][1:].T if sphere else np.eye(d)
        points.append(np.linalg.eigvalsh(T.T @ (D + D.T) @ T / 2).max())
    return np.linalg.norm(S, 2), np.linalg.eigvalsh((S + S.T) / 2).max(), max(points)


@pytest.mark.parametrize(
    ("n", "sphere", "masked"), [(7, False, False), (7, True, True), (50, False, True), (70, True, False)]
)
def test_against_dense_matrices(n, sphere, masked):
    """50 and 70 tokens in three dimensions are beyond the size for which the matrix is made."""
    p = RNG.standard_normal((3, 3, 3))
    x = RNG.standard_normal((n, 3))
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if sphere else x
    w = RNG.uniform(0.5, 2.0, n)
    w /= w.sum()
    places = RNG.integers(0, 4, n)
    seen = places[None] <= places[:, None] if masked else np.ones((n, n), bool)
    attention = fp.Masked(fp.Softmax(*p)) if masked else fp.Softmax(*p)
    given = {"positions": places} if masked else {}
    given |= {"manifold": fp.Sphere()} if sphere else {}
    found = fp.lipschitz(attention, x, weights=w, backend="direct", tol=1e-10, **given)
    want = constants(p, x, w, seen, sphere=sphere)
    np.testing.assert_allclose([found.norm, found.log_norm, found.point_rate], want, rtol=1e-11)
    assert found.rate == max(found.log_norm, found.point_rate)
    delta = found.direction
    assert abs((w[:, None] * delta**2).sum() - 1.0) < 1e-12
    if sphere:
        assert np.abs((x * delta).sum(axis=1)).max() < 1e-14


def test_what_is_known_in_closed_form():
    """All tokens at one point: the velocity is V times the mean, whose norm is |V|; without V there is nothing."""
    V = np.array([[1.0, 2.0], [0.0, -3.0]])
    eye, x = np.eye(2), np.ones((80, 2))
    found = fp.lipschitz(fp.Softmax(eye, eye, V), x, tol=1e-12)
    assert abs(found.norm - np.linalg.norm(V, 2)) < 1e-12
    assert abs(found.log_norm - np.linalg.eigvalsh((V + V.T) / 2).max()) < 1e-10
    assert abs(found.point_rate) < 1e-12
    nothing = fp.lipschitz(fp.Softmax(eye, eye, 0.0 * V), RNG.standard_normal((80, 2)))
    assert nothing.norm == nothing.log_norm == nothing.rate == 0.0


def test_the_rate_bounds_runs():
    """Two runs near each other, along the direction that grows fastest at the start: e^{int rate} bounds them."""
    attention, x = fp.Softmax([[1.5]], [[1.0]], [[-0.7]]), np.linspace(-1.0, 1.0, 40)[:, None]
    t = np.linspace(0.0, 1.0, 21)
    options = {"rtol": 1e-11, "atol": 1e-13}
    rates = [fp.lipschitz(attention, y).rate for y in fp.solve(attention, x, (0.0, 1.0), t_eval=t, **options).x]
    delta = 1e-5 * fp.lipschitz(attention, x).direction
    ends = [fp.solve(attention, y, (0.0, 1.0), **options).x_final for y in (x, x + delta)]
    ratio = fp.wasserstein(*ends) / fp.wasserstein(x, x + delta)
    assert 0.99 < ratio / np.exp(np.trapezoid(rates, t)) < 1.0  # the trapezoidal rule is right to 1e-5 here


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.ones((2, 5, 2))}, "x: got shape"),
        ({"x": np.ones((5, 3))}, "x: got dimension 3"),
        ({"tol": 0.0}, "tol"),
        ({"tol": 2.0}, "tol: got 2.0; need a number above 0 and below 1"),
        ({"manifold": fp.Sphere()}, "x: got a token"),
        (
            {"attention": fp.Exponential(np.eye(2), np.eye(2), np.eye(2)), "x": np.full((5, 2), 1e3)},
            "x: got tokens that, or whose",
        ),
        ({"attention": fp.Softmax(np.eye(2), np.eye(2), np.ones((1, 2)))}, "attention: got a field of length 1"),
    ],
)
def test_what_is_refused(given, message):
    asked = {"attention": fp.Softmax(*np.ones((3, 2, 2))), "x": RNG.standard_normal((5, 2))} | given
    with pytest.raises(fp.InputError, match=message):
        fp.lipschitz(asked.pop("attention"), asked.pop("x"), **asked)


def test_sums_in_linear_time():
    """Relative to the sums: tol (1 + 2 a R^2) with scores of 2 at most."""
    x = RNG.uniform(-1.5, 1.5, (1000, 1))
    attention = fp.Softmax([[1.0]], [[1.0]], [[1.0]])
    found, want = (fp.lipschitz(attention, x, backend=how, tol=1e-7) for how in (fp.Fast(1e-6), "direct"))
    for name in ("norm", "log_norm", "point_rate"):
        assert abs(getattr(found, name) / getattr(want, name) - 1.0) < 2e-5
