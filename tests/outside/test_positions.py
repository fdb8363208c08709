"""Scores with a map by position and with a bias by position, from outside of the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fastpde as fp

from .positions import Forgotten, LinearBias, NearBias, Rotary, rotations
from .test_attention import TOLERANCE, drawn, tokens

KINDS = (Rotary, LinearBias, NearBias)


def naive(kind, x, places, Q, K, V, *, at=None, at_places=None, weights=None, masked=False, slope=0.3):
    """Pair by pair, in extended precision."""
    p, q = (np.asarray(a, np.longdouble) for a in (places if at is None else at_places, places))
    y, at, Q, K, V = (np.asarray(a).astype(np.longdouble) for a in (x, x if at is None else at, Q, K, V))
    left, right = at @ Q.T, y @ K.T
    if kind is Rotary:
        left, right = (np.einsum("nij,nj->ni", rotations(r), v) for r, v in ((p, left), (q, right)))
    scores = -(((left[:, None] - right) ** 2).sum(axis=2)) if kind is NearBias else left @ right.T
    if kind is not Rotary:
        scores = scores - slope * (p[:, None] - q)
    w = np.exp(scores) * (1 / np.longdouble(len(y)) if weights is None else weights)
    w = w * (q <= p[:, None]) if masked else w
    return (w @ y / w.sum(axis=1, keepdims=True)) @ V.T


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [2, 5])
def test_velocities(kind, masked, d, dtype):
    """In the order of positions and out of it, with ties, at other points, weighted, in two heads."""
    Q, K, V = drawn(d, 2)
    rng = np.random.default_rng(1)
    x, at = tokens(60, d, dtype=dtype), tokens(9, d, dtype=dtype)
    weights = rng.uniform(0.5, 2.0, 60)
    weights /= weights.sum()
    for places in (np.arange(60) / 8, rng.integers(0, 20, 60) / 4):
        at_places = rng.uniform(places.min(), 8.0, 9)
        own = fp.Masked(kind(Q, K, V)) if masked else kind(Q, K, V)
        for asked in ({}, {"at": at}, {"weights": weights}):
            more = {"at_positions": at_places} if "at" in asked else {}
            found = own.velocity(x, positions=places, **asked, **more)
            want = naive(kind, x, places, Q, K, V, masked=masked, at_places=at_places, **asked)
            assert found.dtype == dtype
            assert np.abs(found - want).max() <= TOLERANCE[dtype] * np.abs(want).max()
        both = fp.MultiHead([own, own]).velocity(x, positions=places)
        np.testing.assert_allclose(both, 2 * own.velocity(x, positions=places), rtol=1e-6)
    default = own.velocity(x)
    np.testing.assert_array_equal(default, own.velocity(x, positions=np.arange(60.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_flows(kind):
    """A run, a batch whose systems are those alone, parameters in time, and sums in O(n)."""
    Q, K, V = drawn(2)
    own, places = kind(Q, K, V), np.random.default_rng(2).permutation(40) / 10
    clouds = tokens(3, 40, 2)
    batch = fp.solve(own, clouds, (0.0, 0.5), positions=places, rtol=1e-9)
    for b, x0 in enumerate(clouds):
        alone = fp.solve(own, x0, (0.0, 0.5), positions=places, rtol=1e-9)
        np.testing.assert_allclose(batch.x_final[b], alone.x_final, rtol=1e-9)
        want = naive(kind, alone.x_final, places, Q, K, V)
        np.testing.assert_allclose(own.velocity(alone.x_final, positions=places), want, rtol=1e-11, atol=1e-13)
    moving = kind(lambda t: Q * (1 + t), K, V)
    np.testing.assert_array_equal(moving.velocity(clouds[0], t=0.0), own.velocity(clouds[0]))
    many, spread = tokens(6000, 2), np.random.default_rng(3).uniform(0.0, 3.0, 6000)
    exact, fast = (own.velocity(many, positions=spread, backend=b) for b in ("direct", fp.Fast(1e-7)))
    assert 0 < np.abs(fast - exact).max() < 1e-6 * np.abs(exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_law_of_tokens_does_not_say_is_refused(kind):
    own = kind(*drawn(2))
    for attention in (own, fp.MultiHead([own]), fp.Masked(own)):
        with pytest.raises(fp.NoGaussianClosure, match="positions"):
            attention.affine(np.zeros(2), np.eye(2))
        with pytest.raises(fp.NoGaussianClosure, match="positions"):
            attention.gaussian_velocity(np.ones((1, 2)), np.zeros(2), np.eye(2))
        with pytest.raises(fp.InputError, match="stability"):
            attention.stability_rate(1.0)
        assert attention._reduced_form() is None and attention._affine_heads() is None and attention.positional
    with pytest.raises(fp.InputError, match="energy balance"):
        fp.dissipation(own, tokens(9, 2))
    for x in (tokens(9, 2), tokens(3, 9, 2)):
        with pytest.raises(fp.InputError, match="positional = True"):
            fp.solve(Forgotten(*drawn(2)), x, (0.0, 0.1))
    with pytest.raises(fp.InputError, match="variants"):
        fp.studies.mean_field([kind], sizes=[10], draws=2)


class Misshapen(LinearBias):
    """A bias of another shape."""

    def score(self, t):
        return replace(super().score(t), bias_at=lambda places: np.zeros((len(places), 1)))


def test_shapes_of_functions_of_positions():
    with pytest.raises(fp.InputError, match=r"bias_at that returns shape \(9, 1\)"):
        Misshapen(*drawn(2)).velocity(tokens(9, 2))
