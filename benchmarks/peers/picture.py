"""Times against the number of tokens, a panel for each kind of work."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.plot.canvas import COLOURS, INK, figure, save, tidy

from .registry import PEERS
from .rows import Row

MARKERS = "osD^vP"


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw all kinds of work that were measured with at least two numbers of tokens. Raises ValueError, OSError."""
    panels: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.ratio is not None:
            panels.setdefault((row.work, row.d, row.dtype), []).append(row)
    panels = {key: known for key, known in panels.items() if len({row.n for row in known}) > 1}
    if not panels:
        raise ValueError("no work was measured with two numbers of tokens")
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    drawn = figure(3.3 * columns + 0.4, 2.8 * lines + 1.3)
    grid = drawn.subplots(lines, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for axes, (key, known) in zip(grid.flat, panels.items(), strict=False):
        _panel(axes, known, handles)
        axes.set_title(f"{key[0]}\nd = {key[1]}, {key[2]}", fontsize=9, color=INK)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("seconds per call")
    for column in range(columns):
        last = max(i for i in range(lines) if i * columns + column < len(panels))
        grid[last, column].set_xlabel("tokens n")
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(6, len(handles)), fontsize=8)
    drawn.suptitle("\n".join(textwrap.wrap(title, int(15 * drawn.get_figwidth()))), fontsize=8, color=INK)
    save(drawn, path)


def _panel(axes: Any, known: Sequence[Row], handles: dict[str, Any]) -> None:
    """Draw the times of fastpde, medians over those beside all peers, and of each peer; hollow: not accurate enough.

    A peer's time is its ratio times that of fastpde: times measured minutes apart do not compare.
    """
    sizes = sorted({row.n for row in known})
    mine = [float(np.median([row.ours for row in known if row.n == n])) for n in sizes]
    unit = dict(zip(sizes, mine, strict=True))
    handles.setdefault("fastpde", axes.loglog(sizes, mine, color=INK, linewidth=2.4, marker=".", zorder=3)[0])
    for name in dict.fromkeys(row.peer for row in known):
        place = list(PEERS).index(name)
        colour, style = COLOURS[place % len(COLOURS)], "-" if place < len(COLOURS) else "--"
        rows = sorted((row for row in known if row.peer == name), key=lambda row: row.n)
        at, times = [row.n for row in rows], [(row.ratio or 0.0) * unit[row.n] for row in rows]
        look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.2, "markersize": 4}
        marker = MARKERS[place % len(MARKERS)]
        handles.setdefault(name, axes.loglog(at, times, marker=marker, **look)[0])
        wrong = [(n, t) for n, t, row in zip(at, times, rows, strict=True) if row.inaccurate]
        hollow = {"linestyle": "", "markerfacecolor": "white", "color": colour, "markersize": 5, "zorder": 4}
        axes.loglog([n for n, _ in wrong], [t for _, t in wrong], marker=marker, **hollow)
    tidy(axes)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.tick_params(labelsize=8, which="both")
