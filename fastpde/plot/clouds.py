"""tokens.png: the cloud of tokens of a run at several times, read from its trajectory."""

from __future__ import annotations

from pathlib import Path

from fastpde.plot import canvas, token_panels
from fastpde.run.trajectory import read_trajectory

_FEW = 500  # tokens by which frames are chosen


def save(source: Path, count: int, target: Path, made_of: str = "", total: int = 0) -> None:
    """Draw the tokens of a trajectory with `count` frames into `target`; made_of: see `canvas.save`.

    total: the number of tokens of the run, of which the trajectory may have some.
    """
    last = read_trajectory(source, frames=[count - 1], max_tokens=token_panels.MAX_POINTS)
    if last.value.shape[2] == 1:
        drawn = token_panels.paths(read_trajectory(source, max_tokens=token_panels.PATHS), total)
    else:
        frames = token_panels.chosen(count, lambda some: read_trajectory(source, frames=some, max_tokens=_FEW).value)
        shown = read_trajectory(source, frames=frames, max_tokens=token_panels.MAX_POINTS)
        drawn = token_panels.panels(shown, total)
    canvas.save(drawn, target, made_of)
