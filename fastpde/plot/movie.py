"""tokens.gif: the moving cloud, in at most `MAX_FRAMES` frames, all at one scale."""

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


@canvas.in_style
def save(source: Path, count: int, target: Path, total: int = 0) -> bool:
    """Draw the movie of a trajectory with `count` frames into `target`, and return whether it was drawn.

    There is no movie in one dimension, where the picture of the paths shows everything.
    total: the number of tokens of the run, of which the trajectory may have some.
    """
    frames = np.unique(np.linspace(0, count - 1, min(count, view.MAX_FRAMES)).round().astype(int))
    data = read_trajectory(source, frames=frames, max_tokens=_POINTS)
    if data.value.shape[2] == 1:
        return False
    sphere = view.on_sphere(data.value)
    shown = view.of(data.value[-1], sphere=sphere)
    points = np.stack([shown(x) for x in data.value])
    colours, meaning = token_panels.order(points[0], sphere=sphere)
    cloud = token_panels.Cloud(colours, shown.labels, view.frame(points, sphere=sphere))
    drawn = canvas.figure(4.6, 4.9, dpi=100, layout="none")
    axes: Any = drawn.add_subplot(**({"projection": "3d"} if len(shown.labels) == 3 else {}))
    drawn.subplots_adjust(left=0.18, right=0.96, bottom=0.19, top=0.92)  # fixed: moving axes would shake the movie
    text = drawn.text(0.03, 0.02, "", fontsize=canvas.SMALL)  # from the left: what is added moves no word
    images, said = [], set()
    for t, x in zip(data.time, points, strict=True):
        axes.clear()
        said |= cloud.draw(axes, x)
        axes.set_title(token_panels.title(float(t)))
        parts = [shown.caption, token_panels.tokens(x.shape[0], total), meaning, *sorted(said)]
        text.set_text(textwrap.fill("; ".join(part for part in parts if part), 76))
        images.append(_image(drawn))
    times = [_MILLISECONDS] * (len(images) - 1) + [_LAST]
    rest: dict[str, Any] = {"append_images": images[1:], "duration": times, "loop": 0}
    canvas.write(target, lambda stream: images[0].save(stream, format="GIF", save_all=True, **rest))
    return True


def _image(drawn: Any) -> Image.Image:
    drawn.canvas.draw()
    return Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy()).quantize(64)
