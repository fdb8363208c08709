"""tokens.gif: the moving cloud, in at most `MAX_FRAMES` frames, each at its own scale."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastpde.plot import canvas, token_panels, view
from fastpde.run.trajectory import read_trajectory

_POINTS = 2000
_MILLISECONDS, _LAST = 100, 1500  # per frame, and the pause on the last one


def save(source: Path, count: int, target: Path, total: int = 0) -> bool:
    """Draw the movie of a trajectory with `count` frames into `target`, and return whether it was drawn.

    There is no movie in one dimension, where the picture of the paths shows everything.
    total: the number of tokens of the run, of which the trajectory may have some.
    """
    frames = np.unique(np.linspace(0, count - 1, min(count, view.MAX_FRAMES)).round().astype(int))
    data = read_trajectory(source, frames=frames, max_tokens=_POINTS)
    if data.value.shape[2] == 1:
        return False
    shown = view.of(data.value[-1])
    drawn = canvas.figure(4.6, 4.9, dpi=100, layout="none")
    three = len(shown.labels) == 3
    axes = drawn.add_subplot(projection="3d") if three else drawn.add_subplot()
    drawn.subplots_adjust(left=0.18, right=0.96, bottom=0.17, top=0.92)  # fixed: moving axes would shake the movie
    points = [shown(x) for x in data.value]
    artist = token_panels.scatter(axes, points[0], canvas.shades(points[0][:, 0]), shown.labels)
    text = shown.caption or f"{token_panels.tokens(data.value.shape[1], total)}, scale follows the cloud"
    drawn.text(0.5, 0.02, textwrap.fill(text, 70), ha="center", fontsize=7)
    images = []
    for t, cloud in zip(data.time, points, strict=True):
        _move(artist, cloud)
        token_panels.frame(axes, cloud, shown.labels)
        axes.set_title(token_panels.title(float(t)), fontsize=11)
        images.append(_image(drawn))
    times = [_MILLISECONDS] * (len(images) - 1) + [_LAST]
    rest: dict[str, Any] = {"append_images": images[1:], "duration": times, "loop": 0}
    canvas.write(target, lambda stream: images[0].save(stream, format="GIF", save_all=True, **rest))
    return True


def _move(artist: Any, points: Any) -> None:
    if points.shape[1] == 3:
        artist._offsets3d = tuple(points.T)  # matplotlib has no public way to move 3-D points
    else:
        artist.set_offsets(points)


def _image(drawn: Any) -> Image.Image:
    drawn.canvas.draw()
    return Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()).quantize(64)
