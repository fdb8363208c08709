"""The style of all pictures, and their common parts: figures without pyplot, captions, and atomic writing.

A picture is at most `WIDEST` inches wide and has no text below `SMALL` points: shown 800 pixels wide its smallest text
is then 9 pixels high, 7 points of a screen. Its background is white, so that it can be read on a dark page, too.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastpde import solutions
from fastpde.plot.palette import COLOURS, GRID, INK, look
from fastpde.plot.palette import FAINT as FAINT

Array = np.ndarray[Any, Any]
SMALL, LABEL, TITLE = 8.0, 9.0, 10.0  # points: ticks, legends and captions; names of axes; titles
WIDEST = 9.5  # inches
_LINE = 1.2 * SMALL / 72.0  # inches: the height of a line of a caption
_MARKED, _MARKS = 12, 8  # points of a curve below which each has a marker; and markers of other curves
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.labelsize": LABEL,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})",
    "axes.titlecolor": INK,
    "axes.titlesize": TITLE,
    "figure.titlesize": TITLE,
    "figure.labelsize": SMALL,
    "font.family": ["DejaVu Sans"],  # which comes with Matplotlib: pictures are the same everywhere
    "font.size": LABEL,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.title_fontsize": TITLE,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "xtick.color": "#444444",
    "xtick.labelsize": SMALL,
    "ytick.color": "#444444",
    "ytick.labelsize": SMALL,
}
# What is drawn does not depend on the user's settings: those not named above are Matplotlib's own.
_GROUPS = re.compile(
    r"(axes|axes3d|errorbar|figure|font|grid|hatch|image|legend|lines|mathtext|patch|path|savefig|scatter|text"
    r"|xaxis|xtick|yaxis|ytick)\."
)


def _settings() -> Any:
    return {name: value for name, value in mpl.rcParamsDefault.items() if _GROUPS.match(name)} | _STYLE


# A decorator of functions that draw: within them Matplotlib's settings are those of the style.
in_style = mpl.rc_context(_settings())


def figure(width: float, height: float, *, dpi: int = 150, layout: Any = "constrained") -> Figure:
    """Return a figure of width x height inches, at most `WIDEST` wide, drawn with Agg, independent of pyplot."""
    made = Figure(figsize=(min(width, WIDEST), height), dpi=dpi, layout=layout, facecolor="white")
    FigureCanvasAgg(made)
    return made


def shades(values: Array, opacity: float = 1.0) -> Array:
    """Return a colour (m, 4) for each value, by rank: viridis up to where it is still dark enough for white paper."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(mpl.colormaps["viridis"](0.88 * rank / max(1, len(values) - 1), alpha=opacity))


def caption(drawn: Figure, text: str) -> None:
    """Write a text below a figure, in lines as long as the figure is wide; further lines make it higher.

    Sentences may begin with a small letter, as parts of other texts do.
    """
    text = re.sub(r"(?<=[.] )[a-z](?=[a-z])", lambda first: first[0].upper(), text)
    # About 16 characters of this size fit an inch.
    lines = textwrap.wrap(text, int(16 * drawn.get_figwidth()))
    drawn.supxlabel("\n".join(lines), fontsize=SMALL, color=INK)
    drawn.set_figheight(drawn.get_figheight() + max(0, len(lines) - 1) * _LINE)


def plain(text: str) -> str:
    """Return a text of a user's so that no part of it is taken for a formula."""
    return text.replace("$", r"\$")


def tidy(axes: Any) -> None:
    """Remove the upper and right side of the frame, and put a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True)


def curve(axes: Any, t: Array, y: Array, number: int, label: str | None = None) -> None:
    """Draw a curve of values y (m,) at t (m,) in the look of its number, with a marker at every point or at some."""
    every = 1 if len(t) < _MARKED else -(-len(t) // _MARKS)
    start = number * every // len(COLOURS)  # markers of curves that lie together are beside each other
    axes.plot(t, y, label=label, markevery=(start, every), **look(number))


def write(path: Path, save: Callable[[Any], None]) -> None:
    """Write a file by `save(stream)` under a temporary name, and rename it when it is complete. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            save(stream)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@in_style
def save(drawn: Figure, target: Path, made_of: str = "") -> None:
    """Write a figure as a PNG, with a note of what it was drawn from, see `made_of`. Raises OSError."""
    note = {"Source": made_of} if made_of else {}
    write(target, lambda stream: drawn.savefig(stream, format="png", metadata=note))


def made_of(path: Path) -> str:
    """Return the note of what a PNG was drawn from; "" if there is none, or no such file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return str(getattr(image, "text", {}).get("Source", ""))
    except (OSError, SyntaxError, ValueError):
        return ""


def finished(drawn: Figure, path: str | Path | None) -> Figure:
    """Return a figure, written as a PNG first if there is a path, to which the suffix is added if there is none.

    Raises OSError; InputError for another suffix, or a folder that is not there.
    """
    if path is not None:
        save(drawn, solutions.file_of(path, ".png"))
    return drawn


def quartiles(values: Array) -> tuple[Array, Array, Array]:
    """Return the quartiles (m,) of the finite values of each row of (m, B); nan where there are none."""
    found = np.full((3, len(values)), np.nan)
    for i, row in enumerate(values):
        known = row[np.isfinite(row)]
        if len(known):
            found[:, i] = np.quantile(known, (0.25, 0.5, 0.75))
    return found[0], found[1], found[2]
