"""Scores over few coordinates: nothing that makes logits is lost, however thin, seldom used or small it is."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.parallel.partition import Undivided
from fastpde.sums.reduction import frame, maps, reduce_pair

from ..naive import wide


def take(name, shape, dtype):
    return np.empty(shape, dtype)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_reduction_keeps_scores_and_values(rank):
    """k = 8 columns of which `rank` carry logits: the same scores and values, in as few coordinates."""
    rng = np.random.default_rng(rank)
    to, of = rng.normal(size=(2, rank, 8))
    x = rng.normal(size=(400, 8)) + 3
    targets, keys, values = (
        x @ to.T @ rng.normal(size=(rank, 8)),
        x @ of.T @ rng.normal(size=(rank, 8)),
        x[:, :5].copy(),
    )
    found = reduce_pair(targets, keys, values, 4, 1e-9, take)
    assert found.y.shape == (rank, 400) and found.channels.shape == (min(5, 8 - rank), 400)  # more are not independent
    want = targets @ (keys - keys.mean(axis=0)).T
    np.testing.assert_allclose(found.z.T @ found.y, want, atol=1e-9 * np.abs(want).max())
    rebuilt = found.B @ np.concatenate([found.y, found.channels]) + found.constant[:, None]
    np.testing.assert_allclose(rebuilt, values.T, atol=1e-12)
    sizes = [found.y.var(axis=1), found.z.var(axis=1)]
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=1e-8)  # balanced
    assert reduce_pair(targets, keys, values, rank - 1, 1e-9, take) is None


def kinds(n=2000):
    """Points whose covariance says little of their directions: (points (n, 3), how many directions they have)."""
    rng = np.random.default_rng(0)
    g, R = rng.normal(size=(n, 3)), rotation(3)
    seldom = g * [1.0, 1.0, 0.0]
    seldom[17] += [0.0, 0.0, 1e-6]
    outlier = g * [1.0, 1e-9, 0.0]
    outlier[5] *= 1e6
    return {
        "thin": (g * [1.0, 1e-6, 1e-12] @ R, 3),
        "line": (g[:, :1] @ rng.normal(size=(1, 3)), 1),
        "plane, one token off it": (seldom @ R, 3),
        "outlier": (outlier, 2),
        "constant coordinate": (g * [1.0, 0.0, 1.0] + 5.0, 2),
        "far away": (g @ R + 1e8, 3),
        "all equal": (np.ones((n, 3)), 0),
        "units apart": (g * [1e-200, 1.0, 1e150], 3),
    }


@pytest.mark.parametrize("name", kinds())
def test_frames_have_every_direction(name):
    """x = centre + N t to the rounding of t = M (x - centre): eight roundings of each coordinate's reach and offset."""
    x, directions = kinds()[name]
    found = frame(x, take, Undivided(len(x)))
    assert found.M.shape == (directions, 3) and found.N.shape == (3, directions)
    t = (wide(x) - wide(found.centre)) @ wide(found.M).T
    back = found.centre + t @ wide(found.N).T
    reach = np.abs(x - found.centre).max(axis=0) + np.finfo(float).eps * np.abs(x).max(axis=0)
    # Directions that are not there are rounding: 8 k eps of what a coordinate reaches, in each of k.
    assert (np.abs(back - x).max(axis=0) <= 3 * 24 * np.finfo(float).eps * reach).all()
    assert not directions or np.abs(t).max(axis=0) == pytest.approx(np.ones(directions), abs=1.001)
    assert (np.abs(found.M @ found.N - np.eye(directions)) <= 1e-14 * np.abs(found.M) @ np.abs(found.N)).all()


def test_a_direction_that_rounding_makes_is_left_out():
    """A rotated line: its other directions are 1e-16 of it."""
    x = np.random.default_rng(1).normal(size=(500, 1)) @ rotation(4)[:1]
    assert len(frame(x, take, Undivided(500)).M) == 1


@pytest.mark.parametrize("name", [name for name in kinds() if name not in ("all equal", "far away")])
def test_thin_directions_that_make_logits_are_kept(name):
    """Targets that read the thin directions with logits of order one: against long double scores, with the rounding of
    their terms (as of a direct sum)."""
    x, directions = kinds()[name]
    rng, of = np.random.default_rng(2), frame(x, take, Undivided(len(x)))
    z = rng.normal(size=(300, directions)) @ of.M  # <z, x - centre> = <normal, t>
    found = reduce_pair(z, x, x, 4, 1e-10, take)
    scores = wide(z) @ (wide(x) - wide(found.centre)).T
    terms = float((np.abs(z) @ np.abs(x - found.centre).max(axis=0)).max())
    error = float(np.abs(wide(found.z).T @ wide(found.y) - scores).max())
    assert error <= found.dropped + 64 * np.finfo(float).eps * terms
    rebuilt = found.B @ np.concatenate([found.y, found.channels]) + found.constant[:, None]
    reach = np.abs(x - found.centre).max(axis=0)
    assert (np.abs(rebuilt.T - x).max(axis=0) <= 1.01e-10 * reach.max()).all()  # as is allowed


def test_axes_that_are_left_out_carry_less_than_is_allowed_together():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1000, 4))
    z = x * [1.0, 1e-11, 1e-11, 1e-11]
    for thin in (1e-9, 3e-11, 0.0):
        found = reduce_pair(z, x, x, 4, thin, take)
        assert found.dropped <= thin
        error = np.abs(found.z.T @ found.y - z @ (x - found.centre).T).max()
        assert error <= found.dropped + 1e-14
        assert len(found.y) == {1e-9: 1, 0.0: 4}.get(thin, len(found.y))


@pytest.mark.parametrize("unit", [2.0**-600, 2.0**-40, 2.0**40, 2.0**600])
def test_units_do_not_matter(unit):
    """Powers of two change no bit of scores: moments are taken of numbers of size one."""
    rng = np.random.default_rng(4)
    x, z = rng.normal(size=(400, 3)), rng.normal(size=(300, 3))
    one, other = reduce_pair(z, x, x, 4, 1e-9, take), reduce_pair(z / unit, unit * x, x, 4, 1e-9, take)
    np.testing.assert_array_equal(one.z.T @ one.y, other.z.T @ other.y)


def test_remainders_are_found_by_their_largest_entry():
    """Values that are a function of the keys but for one token, by 1e-7 of their spread: seen in one channel."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(5000, 2))
    values = x @ rng.normal(size=(2, 3))
    values[99, 1] += 1e-7
    found = reduce_pair(x, x, values, 4, 1e-9, take)
    assert len(found.channels) == 1
    rebuilt = found.B @ np.concatenate([found.y, found.channels]) + found.constant[:, None]
    np.testing.assert_allclose(rebuilt.T, values, atol=1e-13)
    assert len(reduce_pair(x, x, x @ rng.normal(size=(2, 3)), 4, 1e-9, take).channels) == 0


def test_amplification_bounds_what_errors_of_means_become():
    """Heavy tails: the fit by coordinates follows an outlier, and must not spoil the others' digits."""
    rng = np.random.default_rng(6)
    x = rng.standard_t(0.7, size=(3000, 2))
    for values in (np.tanh(x), x, rng.normal(size=(3000, 2))):
        found = reduce_pair(1e-3 * x, x, values, 4, 0.0, take)
        r = len(found.y)
        errors = np.abs(found.B[:, :r]) @ np.abs(found.y).max(axis=1)
        spread = np.abs(values - values.mean(axis=0)).max()
        assert errors.max() <= np.sqrt(r) * found.amplification * spread
        assert found.amplification < 20


def test_numbers_out_of_range_are_told():
    x = np.array([[1e308, 0.0], [-1e308, 1.0], [0.0, 2.0]])
    assert reduce_pair(x, x, x, 4, 1e-9, take) is None
    assert reduce_pair(1e200 * np.ones((2, 2)), 1e200 * np.eye(2), np.eye(2), 4, 1e-9, take) is None


def test_maps_keep_scores_whatever_the_moments_are():
    rng = np.random.default_rng(7)
    x, z = rng.normal(size=(300, 3)) * [1.0, 1e-9, 1.0], np.ones((50, 3))  # all targets are equal
    of = frame(x, take, Undivided(300))
    to_y, to_z, _ = maps(of, z, take, Undivided(300))
    # Each entry to the rounding of the terms it is made of.
    assert (np.abs(to_z.T @ to_y - np.eye(3)) <= 1e-14 * np.abs(to_z.T) @ np.abs(to_y)).all()
