"""tokens.png: the cloud of tokens of a run at several times, read from its trajectory."""

from __future__ import annotations

from pathlib import Path

from fastpde.plot import canvas, token_panels
from fastpde.run.trajectory import read_trajectory


def save(source: Path, count: int, target: Path, made_of: str = "") -> None:
    """Draw the tokens of a trajectory with `count` frames into `target`; made_of: see `canvas.save`."""
    last = read_trajectory(source, frames=[count - 1], max_tokens=token_panels.MAX_POINTS)
    if last.value.shape[2] == 1:
        drawn = token_panels.paths(read_trajectory(source, max_tokens=token_panels.PATHS))
    else:
        frames = token_panels.chosen(count)
        drawn = token_panels.panels(read_trajectory(source, frames=frames, max_tokens=token_panels.MAX_POINTS))
    canvas.save(drawn, target, made_of)
