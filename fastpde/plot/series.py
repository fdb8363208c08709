"""observables.png: energies, and the observables of the user's own, against time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde.plot import canvas, scales

Array = np.ndarray[Any, Any]
# Columns that other pictures show.
_SHOWN = re.compile(
    r"t|step|mean_norm|mean_\d+|trace|eigenvalue_\d+|effective_rank|radius|clusters|clustered|running", re.ASCII
)
_MOST = 8  # panels


def names(columns: dict[str, Array]) -> list[str]:
    """Return the names of the columns that are drawn: those of no other picture, with a number somewhere."""
    return [name for name, values in columns.items() if not _SHOWN.fullmatch(name) and np.isfinite(values).any()]


def save(t: Array, columns: dict[str, Array], target: Path) -> None:
    """Draw columns against the times t (m,) into `target`, see `figure`. Raises OSError."""
    canvas.save(figure(t, columns), target)


@canvas.in_style
def figure(t: Array, columns: dict[str, Array]) -> Figure:
    """Draw columns against the times t (m,): (m,) of one system, (m, B) of many, as their median and quartiles."""
    shown = names(columns)
    left, shown = shown[_MOST:], shown[:_MOST]
    drawn = canvas.figure(7.0, 1.2 + 1.5 * len(shown))
    panels = drawn.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, name) in enumerate(zip(panels, shown, strict=True)):
        _panel(
            axes, t, *scales.readable(name.replace("_", " "), columns[name]), canvas.COLOURS[i % len(canvas.COLOURS)]
        )
    panels[0].set_title("Observables of all tokens")
    scales.times(panels[-1], t, whole=True)
    many = any(columns[name].ndim == 2 for name in shown)
    large = [name for name in shown if not np.isfinite(scales.readable(name, columns[name])[1][-1:]).any()]
    notes = ["median and quartiles of the systems that have not ended"] * many
    notes += [f"{len(left)} more in the table: {', '.join(left)}"] if left else []
    notes += [f"no number, or too large a one, in the end: {', '.join(large)}"] if large else []
    if notes:
        canvas.caption(drawn, "; ".join(notes))
    drawn.align_ylabels()
    return drawn


def _panel(axes: Any, t: Array, said: str, values: Array, colour: str) -> None:
    """Draw one column, which is called `said`, in a colour."""
    middle = values
    if values.ndim == 2:
        low, middle, high = canvas.quartiles(values)
        axes.fill_between(t, low, high, color=colour, alpha=0.25, linewidth=0)
        values = np.stack([low, middle, high])
    axes.plot(t, middle, color=colour, linewidth=1.6, marker="o" if len(t) < 12 else "", markersize=4)
    scales.vertical(axes, values, said)
    axes.set_ylabel(said)
    canvas.tidy(axes)
