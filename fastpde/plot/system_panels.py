"""Pictures of several systems: the tokens of each at the start and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde import initial
from fastpde.plot import canvas, token_panels, view

Array = np.ndarray[Any, Any]
MOST = 6  # largest number of systems whose tokens are drawn
MAX_POINTS = token_panels.MAX_POINTS // 4  # of each system


def of_systems(
    t: Array, x: Array, t_final: Array, x_final: Array, status: Sequence[str], weights: Array | None = None
) -> Figure:
    """Draw systems x (m, B, n, d) at times t (m,), which ended at t_final (B,) with x_final (B, n, d) and a status.

    weights (B, n): of the tokens, None: all alike.
    """
    shown, some = slice(min(MOST, len(status))), initial.some_of(x_final.shape[1], MAX_POINTS)
    first, last = x[0, shown][:, some], x_final[shown][:, some]
    there = np.asarray(np.isfinite(first).all(axis=(1, 2)))  # not ended before the first time that was kept
    starts = np.where(there, t[0], t_final[shown])
    firsts = np.where(there[:, None, None], first, last)
    shares = None if weights is None else weights[shown][:, some]
    return panels(starts, firsts, t_final[shown], last, status, x_final.shape[1], shares)


@canvas.in_style
def panels(
    t_first: Array, first: Array, t_last: Array, last: Array, status: Sequence[str], total: int = 0,
    weights: Array | None = None,
) -> Figure:  # fmt: skip
    """Draw systems (s, k, d) at times t_first (s,) in the upper row and at times t_last in the lower row, in one frame.

    total: the number of tokens of each, of which these may be some; weights (s, k): of these, None: all alike.
    """
    count, _, d = first.shape
    sphere = view.on_sphere(np.stack([first, last]))
    views = [view.of(x, sphere=sphere) for x in last]
    ends = [np.stack([see(x) for see, x in zip(views, row, strict=True)]) for row in (first, last)]
    width = max(5.0, min(canvas.WIDEST, (2.8 if d == 3 else 2.2) * count + 0.3))
    drawn = canvas.figure(width, 2 * width / count + 0.7 if count > 2 else 5.6)
    grid = np.array([[i + row * count + 1 for i in range(count)] for row in range(2)])
    if d > 1:
        token_panels.lay_out(drawn, space=d == 3)
    frame = view.frame(np.stack(ends), sphere=sphere)
    said: set[str] = set()
    meaning = ""
    for s in range(count):
        colours, meaning = token_panels.order(ends[0][s], sphere=sphere)
        shares = None if weights is None else weights[s] / weights[s].sum()
        cloud = token_panels.Cloud(colours, views[s].labels, frame, shares)
        rank = np.argsort(np.argsort(ends[0][s][:, 0], kind="stable"), kind="stable") / max(1, first.shape[1] - 1)
        for row, t in enumerate((t_first, t_last)):
            axes: Any = drawn.add_subplot(2, count, int(grid[row, s]), **({"projection": "3d"} if d == 3 else {}))
            if d == 1:
                said |= _line(axes, ends[row][s][:, 0], rank, cloud)
            else:
                said |= cloud.draw(axes, ends[row][s])
            note = token_panels.ending(status[s]) if row else ""
            axes.set_title(f"system {s}, {token_panels.title(float(t[s]))}{note}", fontsize=canvas.SMALL)
            if d != 3:
                token_panels.outer(axes, left=s == 0, bottom=row == 1)
    how = f"d = {d}: the two principal components of each system's own last tokens" if d > 3 else ""
    tokens = f"{token_panels.tokens(first.shape[1], total)} of each system"
    parts = [how, tokens, "above the first time, below the end, all at one scale", meaning, *sorted(said)]
    canvas.caption(drawn, "; ".join(part for part in parts if part))
    return drawn


def _line(axes: Any, x: Array, rank: Array, cloud: token_panels.Cloud) -> set[str]:
    """Draw tokens (k,) of a line against their rank at the start; return what a caption says."""
    areas = 9.0 if cloud.weights is None else 9.0 * len(x) * cloud.weights
    axes.scatter(x, rank, s=areas, c=cloud.colours, linewidths=0)
    axes.set(xlim=cloud.frame.limits[0], ylim=(-0.08, 1.08), xlabel="x", ylabel="rank at the start")
    canvas.tidy(axes)
    return set() if cloud.weights is None else {token_panels.WEIGHTS}
