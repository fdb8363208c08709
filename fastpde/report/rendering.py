"""From facts to HTML: the templates beside this file are filled in, every name and number escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastpde.run import machine
from fastpde.run.progress import counted

_MOST_ROWS, _MOST_COLUMNS = 30, 14  # of an excerpt


class Picture(NamedTuple):
    """A picture that is embedded into a page: its name, and its content as a data URL."""

    name: str
    source: str


class Excerpt(NamedTuple):
    """Some rows of a table as text, and how many more rows and columns it has, in words."""

    names: list[str]
    rows: list[list[str]]
    more: str


def render(template: str, **facts: Any) -> str:
    """Return the page that a template makes of facts. A fact that is missing is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template(template).render(version=machine.version(), **facts)


def picture(path: Path) -> Picture:
    """Return a PNG or GIF in the form in which a page holds it. Raises OSError."""
    kind = "gif" if path.suffix == ".gif" else "png"
    return Picture(path.name, f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}")


def excerpt(columns: Mapping[str, Any], most: int = _MOST_ROWS, spared: re.Pattern[str] | None = None) -> Excerpt:
    """Return at most `most` rows of a table, evenly spaced, with the first and the last one; columns: name -> (m,).

    spared: the names of the columns that are left out first where there are too many; all others are then shown.
    """
    names = list(columns)[:_MOST_COLUMNS]
    if spared is not None:
        less = [name for name in columns if spared.fullmatch(name)]
        out = set(less[max(0, _MOST_COLUMNS - (len(columns) - len(less))) :])
        names = [name for name in columns if name not in out]
    count = len(columns[names[0]])
    shown = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))  # none of none
    left = {"row": count - len(shown), "column": len(columns) - len(names)}
    more = " and ".join(counted(number, f"more {what}") for what, number in left.items() if number)
    return Excerpt(names, [[_text(columns[name][i]) for name in names] for i in shown], more)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
