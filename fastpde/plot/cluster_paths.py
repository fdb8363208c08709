"""clusters.png: the number of clusters against time with its metastable times, and the effective rank below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import fastpde as fp
from fastpde.plot import canvas, scales
from fastpde.run.observables.token_clusters import SAID

Array = np.ndarray[Any, Any]
_LEAST = 0.1  # fraction of the whole time: a number of clusters that lasts as long is drawn as metastable
_MOST = 200  # number of clusters above which the scale is logarithmic


def save(table: dict[str, Array], target: Path) -> None:
    """Draw the columns of observables.csv into `target`. Raises OSError."""
    canvas.save(figure(table), target)


@canvas.in_style
def figure(table: dict[str, Array]) -> Figure:
    """Draw the columns of observables.csv."""
    drawn = canvas.figure(7.0, 5.6)
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    found = metastable(table)
    _numbers(top, table["t"], table["clusters"], found)
    bottom.plot(table["t"], table["effective_rank"], color=canvas.INK, linewidth=1.6)
    ranks = table["effective_rank"][np.isfinite(table["effective_rank"])]
    bottom.set_ylim(0, 1.12 * max(1.0, *ranks) if ranks.size else 1.0)
    bottom.set_ylabel("effective rank\nof the covariance")
    scales.times(bottom, table["t"])
    for axes in (top, bottom):
        canvas.tidy(axes)
    drawn.align_ylabels()
    return drawn


def metastable(table: dict[str, Array]) -> list[fp.Plateau]:
    """Return the plateaus: times over which the number of clusters stayed the same for a tenth of the run or longer."""
    known = np.isfinite(table["clusters"])
    t = table["t"][known]
    return fp.plateaus(t, table["clusters"][known], _LEAST * (t[-1] - t[0])) if len(t) > 1 else []


def _numbers(axes: Any, t: Array, counts: Array, found: list[fp.Plateau]) -> None:
    axes.step(t, counts, where="post", color=canvas.COLOURS[0], linewidth=1.4, marker="o" if len(t) < 12 else "")
    for i, plateau in enumerate(found):
        label = f"the same for {_LEAST:.0%} of the time or longer" if i == 0 else None
        ends = [plateau.start, plateau.end]
        axes.plot(ends, [plateau.count] * 2, color=canvas.COLOURS[1], linewidth=4, alpha=0.5, label=label)
    axes.set_ylabel("number of clusters")
    axes.set_title(f"Clusters ({SAID})")
    top = max(1.0, np.nanmax(counts, initial=1.0))
    if top > _MOST:
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(-0.4, 3.0 * top)
    else:
        axes.set_ylim(-0.06 * top, 1.2 * top)  # a number of 0 can be seen, and there is room for the legend
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if found:
        axes.legend(loc="best")
