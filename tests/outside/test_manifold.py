"""A manifold from outside of the package: circles of radius 2, one for each pair of coordinates (a torus)."""

from __future__ import annotations

import numpy as np

import fastpde as fp
from fastpde.manifold import Manifold

RADIUS = 2.0


class Torus(Manifold):
    """Tokens whose pairs of coordinates have the norm 2."""

    def check(self, x, name="x0"):
        norms = np.linalg.norm(x.reshape(-1, 2), axis=1)
        if not np.allclose(norms, RADIUS, atol=1e-6):
            raise fp.InputError(name, "tokens that are not there", "pairs of coordinates of norm 2")

    def retract(self, x):
        pairs = x.reshape(-1, 2)
        pairs *= RADIUS / np.linalg.norm(pairs, axis=1, keepdims=True)

    def project(self, x, v):
        pairs, vectors = x.reshape(-1, 2), v.reshape(-1, 2)
        vectors -= np.sum(pairs * vectors, axis=1, keepdims=True) / RADIUS**2 * pairs


def tokens(systems, n=9):
    angles = np.random.default_rng(4).uniform(0.0, 2.0, (systems, n, 2))
    return RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(systems, n, 4)


def test_runs_and_ensembles_stay_there():
    x0, attention = tokens(3), fp.Softmax(np.eye(4), np.eye(4), np.eye(4))
    for options in ({"method": "rk4", "step": 0.05}, {"rtol": 1e-8}, {"method": "heun", "step": 0.05, "noise": 0.1}):
        whole = fp.solve(attention, x0, (0.0, 1.0), manifold=Torus(), t_eval=[0.33, 1.0], **options)
        assert whole.stats["path"] == "batched" and whole.success
        np.testing.assert_allclose(np.linalg.norm(whole.x.reshape(-1, 2), axis=1), RADIUS, rtol=1e-14)
        assert np.abs(whole.x_final - x0).max() > 0.1
        for b, x in enumerate(x0):
            own = {"first_system": b} if "noise" in options else {}
            one = fp.solve(attention, x, (0.0, 1.0), manifold=Torus(), t_eval=[0.33, 1.0], **options, **own)
            np.testing.assert_array_equal(whole.x[:, b], one.x)


def test_the_motion_is_the_projected_one():
    """In angles, by an integrator that knows nothing of it: theta' = <tangent, Gamma> / 2."""
    from scipy.integrate import solve_ivp

    x0, attention = tokens(1)[0], fp.Softmax(np.eye(4), np.eye(4), np.eye(4))

    def slope(t, angles):
        x = RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(-1, 4)
        tangent = np.stack([-np.sin(angles), np.cos(angles)], axis=-1)
        return np.sum(tangent * attention.velocity(x).reshape(-1, 2), axis=1) / RADIUS

    pairs = x0.reshape(-1, 2)
    want = solve_ivp(slope, (0.0, 0.5), np.arctan2(pairs[:, 1], pairs[:, 0]), rtol=1e-10, atol=1e-12).y[:, -1]
    got = fp.solve(attention, x0, (0.0, 0.5), manifold=Torus(), rtol=1e-9, atol=1e-11).x_final.reshape(-1, 2)
    # Both are right to about a hundred times their rtol.
    np.testing.assert_allclose(got, RADIUS * np.stack([np.cos(want), np.sin(want)], axis=-1), rtol=0, atol=1e-7)
