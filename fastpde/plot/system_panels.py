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


def of_systems(t: Array, x: Array, t_final: Array, x_final: Array, status: Sequence[str]) -> Figure:
    """Draw systems x (m, B, n, d) at times t (m,), which ended at t_final (B,) with x_final (B, n, d) and a status."""
    shown, some = slice(min(MOST, len(status))), initial.some_of(x_final.shape[1], MAX_POINTS)
    first, last = x[0, shown][:, some], x_final[shown][:, some]
    there = np.asarray(np.isfinite(first).all(axis=(1, 2)))  # not ended before the first time that was kept
    starts = np.where(there, t[0], t_final[shown])
    firsts = np.where(there[:, None, None], first, last)
    return panels(starts, firsts, t_final[shown], last, status, x_final.shape[1])


def panels(t_first: Array, first: Array, t_last: Array, last: Array, status: Sequence[str], total: int = 0) -> Figure:
    """Draw systems (s, k, d) at times t_first (s,) in the upper row and at times t_last in the lower row.

    total: the number of tokens of each, of which these may be some.
    """
    d = first.shape[2]
    size = 2.9 if d == 3 else 2.2
    drawn = canvas.figure(max(5.0, size * len(first) + 0.3), 2 * size + 0.9)
    if d == 3:  # the layout does not know how far the labels of 3-D axes reach
        drawn.set_layout_engine("constrained", rect=(0.0, 0.01, 0.99, 0.98))
    for s in range(len(first)):
        see, labels = (_ranked(first[s]), ("x", "rank at start")) if d == 1 else _view(last[s])
        colours = canvas.shades(see(first[s])[:, 0])
        ends = (t_first[s], first[s], ""), (t_last[s], last[s], token_panels.ending(status[s]))
        for row, (t, x, note) in enumerate(ends):
            kind = {"projection": "3d"} if len(labels) == 3 else {}
            axes: Any = drawn.add_subplot(2, len(first), row * len(first) + s + 1, **kind)
            points = see(x)
            token_panels.scatter(axes, points, colours, labels)
            if d == 3:
                axes.set_box_aspect((1, 1, 1), zoom=0.75)  # room for the labels beside the next panel
            if d == 1:
                axes.set_ylim(-0.08, 1.08)
                axes.set_aspect("auto")
            _name_outer(axes, labels, left=s == 0, bottom=row == 1)
            axes.set_title(f"system {s}, {token_panels.title(float(t))}{note}", fontsize=8)
    how = f"d = {d}: the two principal components of each system's own last tokens; " if d > 3 else ""
    count = f"{token_panels.tokens(first.shape[1], total)} of each system"
    text = f"{how}{count}; above the first time, below the end; each panel at its own scale; "
    canvas.caption(drawn, text + "colour: order along the first axis at the start")
    return drawn


def _view(last: Array) -> tuple[Any, tuple[str, ...]]:
    see = view.of(last)
    return see, see.labels


def _ranked(first: Array) -> Any:
    """Return the function that maps tokens (k, 1) to (x, rank at the start) (k, 2), the rank scaled to [0, 1]."""
    rank = np.argsort(np.argsort(first[:, 0], kind="stable"), kind="stable") / max(1, len(first) - 1)
    return lambda x: np.column_stack([x[:, 0].astype(np.float64), rank])


def _name_outer(axes: Any, labels: tuple[str, ...], *, left: bool, bottom: bool) -> None:
    """Name the axes of the outer panels only; 3-D axes keep their names."""
    axes.tick_params(labelsize=6)
    if len(labels) == 2:
        axes.set_xlabel(labels[0] if bottom else "", fontsize=8)
        axes.set_ylabel(labels[1] if left else "", fontsize=8)
