"""spectrum.png: eigenvalues of the tokens' covariance against time, and their effective rank below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogFormatter, LogFormatterSciNotation, NullFormatter

from fastpde.plot import canvas, scales

Array = np.ndarray[Any, Any]


@canvas.in_style
def save(table: dict[str, Array], target: Path) -> None:
    """Draw the columns of observables.csv into `target`."""
    drawn = canvas.figure(7.0, 5.6)
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    values = np.array([column for name, column in table.items() if name.startswith("eigenvalue_")])
    _eigenvalues(top, table["t"], values)
    _line(bottom, table["t"], table["effective_rank"], canvas.INK, "")
    bottom.set_ylabel("effective rank")
    ranks = table["effective_rank"][np.isfinite(table["effective_rank"])]
    bottom.set_ylim(0, 1.12 * max(1.0, *ranks) if ranks.size else 1.0)
    scales.times(bottom, table["t"])
    for axes in (top, bottom):
        canvas.tidy(axes)
    drawn.align_ylabels()
    canvas.save(drawn, target)


class _Plain(LogFormatter):
    """Numbers as 0.6, not 6e-01, where a logarithmic axis has a label."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _line(axes: Any, t: Array, y: Array, colour: Any, label: str) -> None:
    axes.plot(t, y, color=colour, linewidth=1.6, label=label, marker="o" if len(t) < 12 else "", markersize=4)


def _eigenvalues(axes: Any, t: Array, values: Array) -> None:
    many = len(values) > len(canvas.COLOURS)
    for i, row in enumerate(values):
        label, positive = f"$\\lambda_{{{i + 1}}}$", np.where(row > 0, row, np.nan)
        if many:
            _line(axes, t, positive, mpl.colormaps["viridis"](0.88 * i / (len(values) - 1)), label)
        else:
            canvas.curve(axes, t, positive, i, label)
    axes.set_ylabel("eigenvalue of the covariance")
    axes.set_title("Covariance of all tokens" + (f": its {len(values)} largest eigenvalues" if many else ""))
    positive = values[values > 0]
    if positive.size:
        axes.set_yscale("log")
        if positive.max() / positive.min() > 30:  # decades say enough; minor labels would crowd
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            plain = positive.min() >= 1e-3 and positive.max() <= 1e4
            written = (_Plain if plain else LogFormatterSciNotation)(labelOnlyBase=False, minor_thresholds=(2, 0.5))
            axes.yaxis.set_minor_formatter(written)
            axes.yaxis.set_major_formatter(written)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
