"""Pictures of covariances: what they compute, and that they show it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastpde.plot import canvas, covariances


def laws(count=12, frames=20, seed=0):
    """Covariances (m, B, 2, 2) that shrink like 1 / (1 + t), the first of them one that ends early."""
    G = np.random.default_rng(seed).normal(size=(count, 2, 2)) / 2
    cov = (G @ np.swapaxes(G, 1, 2))[None] / np.linspace(1, 9, frames)[:, None, None, None]
    cov[frames // 2 :, 0] = np.nan
    return cov


NAMES = [*covariances.MARKS] * 2 + ["converges"] * 2


def shown(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def looks_right(path):
    pixels = shown(path)
    edges = min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    return pixels.std() > 5 and (np.ptp(pixels, axis=2) > 40).sum() > 200 and edges > 240


def test_coordinates_turn_the_cone_upright():
    """Rank one is on the cone, multiples of the identity on its axis, and the inside is positive definite."""
    u = np.array([0.6, -1.1])
    x, y, z = covariances.coordinates(np.outer(u, u))
    assert np.hypot(x, y) == pytest.approx(z)
    assert covariances.coordinates(3 * np.eye(2)).tolist() == [0, 0, 6]
    x, y, z = covariances.coordinates(laws()[0]).T
    assert (np.hypot(x, y) < z).all()


def test_last_is_the_last_finite_covariance():
    cov = laws()
    found = covariances.last(cov)
    assert np.array_equal(found[0], cov[9, 0]) and np.array_equal(found[1:], cov[-1, 1:])


@pytest.mark.parametrize("draw", [covariances.cones, covariances.discs])
@pytest.mark.parametrize("panels", [1, 2])
def test_paths_are_drawn_and_nothing_is_cut(tmp_path, draw, panels):
    data = {f"panel {i}": (laws(seed=i), NAMES) for i in range(panels)}
    canvas.save(draw(data, caption="Words of a caption. " * 12), tmp_path / "a.png")
    assert looks_right(tmp_path / "a.png")


def test_a_disc_shows_outcomes_in_their_colours(tmp_path):
    """A picture with blow-ups has vermilion in it, and one without has none."""
    found = {}
    for name in ("blows up", "converges"):
        canvas.save(covariances.discs({"": (laws(), [name] * 12)}), tmp_path / "a.png")
        # Vermilion on white at any opacity: much more red than blue.
        found[name] = ((shown(tmp_path / "a.png") @ [1, 0, -1]) > 60).sum()
    assert found["blows up"] > 500 and found["converges"] == 0


def test_ranks_and_fractions_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    ranks = {d: rng.integers(0, d + 1, 50) for d in (3, 4)}
    drawn = covariances.ranks({"one": ranks, "other": ranks}, {3: 2, 4: 2}, caption="Words.")
    canvas.save(drawn, tmp_path / "ranks.png")
    largest = rng.normal(size=400)
    outcomes = np.where(largest > 0, "blows up", "converges").tolist()
    canvas.save(covariances.fractions(largest, outcomes, bins=8), tmp_path / "fractions.png")
    # Equal laws would make empty bins.
    canvas.save(covariances.fractions(np.repeat(largest[:3], 9), outcomes[:27], bins=20), tmp_path / "few.png")
    for name in ("ranks", "fractions", "few"):
        assert looks_right(tmp_path / f"{name}.png"), name


def test_headings_count_in_words():
    assert covariances._heading("a", ["blows up", "converges", "converges"]) == "a\n2 converge, 1 blows up"
