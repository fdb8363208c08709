"""A few scores show that more axes carry them than grids have: never where the reduction would find fewer."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.parallel.partition import Undivided
from fastpde.sums import reduction
from fastpde.sums.score_rank import too_many

THIN = 1e-9


def clouds(rank, d=12, n=300):
    """Targets and keys (n, d) whose scores about the mean of the keys have this rank, by name: plain and hard cases."""
    rng = np.random.default_rng(rank)
    to, of = rng.normal(size=(2, rank, d))
    z, y = rng.normal(size=(2, n, rank))
    noise = rng.normal(size=(2, n, d))
    yield "plain", z @ to, y @ of
    yield "far away", z @ to, y @ of + 1e4 * rng.normal(size=d)
    yield "large", 1e3 * z @ to, 1e3 * y @ of
    yield "float32", (z @ to).astype(np.float32), (y @ of).astype(np.float32)
    yield "unseen", z @ to + 1e-13 * noise[0], y @ of + 1e-13 * noise[1]
    yield "seldom", z @ to, np.where(np.arange(n)[:, None] == 17, 3.0, 1.0) * (y @ of)


@pytest.mark.parametrize("rank", [1, 4, 5, 9])
def test_it_agrees_with_the_reduction(rank, monkeypatch):
    """Of rank 4 and less nothing is refused, but float32's own rounding may be; above, plain clouds are."""
    found = {name: too_many(z, y, 4, THIN, Undivided(len(y))) for name, z, y in clouds(rank)}
    if rank <= 4:
        assert not any(shown for name, shown in found.items() if name != "float32")
    else:
        assert all(found.values())
    monkeypatch.setattr(reduction, "too_many", lambda *_: False)
    for name, z, y in clouds(rank):
        if found[name]:
            assert reduction.reduce_pair(z, y, None, 4, THIN, lambda _, shape, dtype: np.empty(shape, dtype)) is None


def test_few_points_show_nothing():
    x = np.random.default_rng(0).normal(size=(4, 9))
    assert not too_many(x, x, 4, THIN, Undivided(4))
    assert not too_many(np.full((50, 9), np.nan), np.ones((50, 9)), 4, THIN, Undivided(50))


def test_about_the_origin_the_mean_is_an_axis_too():
    """Four axes, and one more that all keys have in common: five about the origin, four about the centre."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 200, 8))
    y[:, 4:] = 0.0
    y[:, 4] = 1.0
    assert too_many(z, y, 4, THIN, Undivided(200), centred=False)
    assert not too_many(z, y, 4, THIN, Undivided(200))


@pytest.mark.parametrize("kind", [fp.Softmax, fp.Sigmoid])
def test_many_dimensions_are_not_reduced_at_all(kind, monkeypatch):
    """At d = 64 the reduction alone takes longer than the direct sum; a velocity must not make it."""

    def frame(*_, **__):
        raise AssertionError("reduced")

    monkeypatch.setattr(reduction, "frame", frame)
    x = np.random.default_rng(0).normal(size=(3000, 64)) / 8
    attention = kind(*[np.eye(64)] * 3)
    both = [attention.velocity(x, backend=backend) for backend in ("auto", "direct")]
    assert np.array_equal(*both)
