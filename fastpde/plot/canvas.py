"""The common parts of all pictures: figures without pyplot, a palette for colour-blind readers, and atomic writing."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastpde import solutions

Array = np.ndarray[Any, Any]
INK, FAINT = "#222222", "#999999"
# Wong's palette (Nature Methods 2011), without its yellow, which is not visible on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def figure(width: float, height: float, *, dpi: int = 150, layout: Any = "constrained") -> Figure:
    """Return a figure of width x height inches that is drawn with Agg, independent of the user's pyplot."""
    made = Figure(figsize=(width, height), dpi=dpi, layout=layout, facecolor="white")
    FigureCanvasAgg(made)
    return made


def shades(values: Array) -> Array:
    """Return a colour for each value, by rank: viridis up to where it is still dark enough for white paper."""
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(mpl.colormaps["viridis"](0.88 * rank / max(1, len(values) - 1)))


def caption(drawn: Figure, text: str) -> None:
    """Write a text below a figure, in lines as long as the figure is wide."""
    # About 16 characters of this size fit an inch.
    drawn.supxlabel("\n".join(textwrap.wrap(text, int(16 * drawn.get_figwidth()))), fontsize=8, color=INK)


def plain(text: str) -> str:
    """Return a text of a user's so that no part of it is taken for a formula."""
    return text.replace("$", r"\$")


def tidy(axes: Any) -> None:
    """Remove the upper and right side of the frame, and put a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def write(path: Path, save: Callable[[Any], None]) -> None:
    """Write a file by `save(stream)` under a temporary name, and rename it when it is complete. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            save(stream)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
