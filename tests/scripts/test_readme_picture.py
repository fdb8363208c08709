"""The picture of the front page: tokens are counted once, its file is small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from .loading import load

picture = load("readme_picture")


def test_densities_count_tokens():
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 2))
    assert picture.density(x, 2.0).sum() == pytest.approx(500.0)
    assert picture.density(x, 2.0, np.full(500, 0.5)).sum() == pytest.approx(250.0)
    one = picture.density(np.array([[1.0, -0.5]]), 2.0)  # to the right, and below
    row, column = np.unravel_index(one.argmax(), one.shape)
    assert row < picture.CELLS / 2 < column


def test_the_globe_is_turned():
    """Coordinates are a rotation; the pole is above the middle."""
    axes = picture.turned(np.eye(3))
    assert np.allclose(axes @ axes.T, np.eye(3)) and np.linalg.det(axes) == pytest.approx(1.0)
    assert axes[2, 0] == pytest.approx(0.0) and axes[2, 1] > 0.9


def test_a_picture_is_drawn_and_small(tmp_path):
    stream = np.random.default_rng(0)
    sphere = stream.standard_normal((4, 3000, 3))
    np.savez(
        tmp_path / "frames.npz",
        plane=stream.standard_normal((4, 3000, 2)),
        sphere=sphere / np.linalg.norm(sphere, axis=2, keepdims=True),
    )
    out = tmp_path / "deep" / "a.png"
    assert picture.main(["--frames", str(tmp_path / "frames.npz"), "--out", str(out)]) == 0
    assert 0 < out.stat().st_size <= picture.LARGEST
    with Image.open(out) as image:
        width, height = (np.array(image.size) / picture.DPI).tolist()
    assert width == pytest.approx(picture.WIDTH, abs=0.01)
    assert picture.HEIGHT - 0.01 < height < picture.HEIGHT + 0.2  # with a second line of the caption
