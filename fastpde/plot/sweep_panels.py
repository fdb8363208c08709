"""Panels of the pictures of a sweep: numbers of cells as curves, maps or points over what varies."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    StrMethodFormatter,
)

from fastpde.plot import canvas, palette
from fastpde.plot.sweep_axes import SweepParameter, distinct_words
from fastpde.run.sweep_table import FAILED, FINISHED

Array = np.ndarray[Any, Any]
UNFINISHED = "unfinished"  # what is neither finished nor failed
CURVES = (canvas.COLOURS[0], *canvas.COLOURS[2:])  # of parameters: vermilion is that of failures
_COLOUR_MAP = "viridis"
_TICKS, _WIDTH = 7, 30  # ticks at the values themselves: at most so many, of so many characters together
_LONGEST = 36  # characters of a label that is turned
_NEAR = 0.1  # of the length of an axis: values nearer to each other get no ticks of their own
# Marks of cells without a value: neither colour nor shape alone carries the meaning.
_MARKS: dict[str, dict[str, Any]] = {
    FAILED: {"marker": "X", "color": canvas.COLOURS[1], "markeredgecolor": "white"},
    UNFINISHED: {"marker": "o", "color": "white", "markeredgecolor": canvas.INK},
}


def rough(states: Array) -> Array:
    """Return for each cell (cells,) whether it is finished, failed or unfinished."""
    return np.where(np.isin(states, (FINISHED, FAILED)), states, UNFINISHED)


def frame(axes: Any, letter: str, shown: SweepParameter, *, named: bool = True) -> None:
    """Set the scale, the ticks and the name of the axis "x" or "y" on which a parameter is drawn."""
    axis, values = getattr(axes, f"{letter}axis"), shown.values
    if named:
        getattr(axes, f"set_{letter}label")(shown.name)
    if shown.labels:
        lines = [label.split("\n") for label in shown.labels]
        every = -(-len(lines) * max(map(len, lines)) // 24)  # so that labels do not touch
        turned = letter == "x" and len("  ".join(max(one, key=len) for one in lines)) > _WIDTH
        look = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        words = [", ".join(one) for one in lines] if turned else shown.labels
        words = [word if len(word) <= _LONGEST else f"{word[: _LONGEST - 1]}…" for word in words] if turned else words
        getattr(axes, f"set_{letter}ticks")(np.arange(len(words))[::every], words[::every], **look)
        getattr(axes, f"set_{letter}lim")(-0.5, len(shown.labels) - 0.5)
        return
    if shown.logarithmic:
        getattr(axes, f"set_{letter}scale")("log")
    scaled = np.log(values) if shown.logarithmic else values
    gaps, words = np.diff(scaled), distinct_words(values)
    if len(values) == 1 or (
        len(values) <= _TICKS and len("  ".join(words)) <= _WIDTH and gaps.min() >= _NEAR * (scaled[-1] - scaled[0])
    ):
        axis.set_major_locator(FixedLocator(values.tolist()))
        axis.set_major_formatter(FixedFormatter(words))
        axis.set_minor_locator(NullLocator())
    elif not shown.logarithmic:
        axis.set_major_locator(MaxNLocator(4, integer=bool((values == np.round(values)).all())))
    elif values[-1] < 50.0 * values[0]:  # at most two powers of ten
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_minor_formatter(NullFormatter())


def medians(places: Array, values: Array) -> tuple[Array, Array]:
    """Return the different places, and the median of the finite values at each; nan where there are none."""
    found, number = np.unique(places, axis=0, return_inverse=True)
    number, middle = number.ravel(), np.full(len(found), np.nan)
    known = np.isfinite(values)
    order = np.argsort(number[known], kind="stable")
    at, sorted_values = number[known][order], values[known][order]
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    for i, part in zip(at[starts], np.split(sorted_values, starts[1:]), strict=False):
        middle[i] = np.median(part)
    return found, middle


def curves(axes: Any, x: SweepParameter, y: SweepParameter | None, values: Array, states: Array, own: Array) -> None:
    """Draw values of the cells `own` against x, a curve for each value of y through the medians of finished ones.

    Values of other cells are marked; no curve leads to them, or across places that have no others.
    """
    kinds = y.values if y is not None else np.zeros(1)
    for i, kind in enumerate(kinds):
        mine = own if y is None else own & (y.places == kind)
        look = {"color": CURVES[i % len(CURVES)], "marker": palette.MARKERS[i % len(CURVES)]}
        done = mine & (rough(states) == FINISHED)
        at, middle = medians(x.places[mine], np.where(done, values, np.nan)[mine])
        known = np.isfinite(middle)
        drawn = known | ~np.isin(at, x.places[done])  # the curve is broken where no cell has finished
        if np.isfinite(values[done]).sum() > known.sum():
            faint = {"linestyle": "none", "markersize": 3, "alpha": 0.35, "markeredgewidth": 0}
            axes.plot(x.places[done], values[done], **faint, **look)
        line = "none" if x.labels else "-"
        label = y.words(kind) if y is not None else None
        axes.plot(at[drawn], middle[drawn], linestyle=line, linewidth=1.4, markersize=5, label=label, **look)
        colour = look["color"] if y is not None else ""  # marks have the colours of their curves, in rows below
        for state in _MARKS:
            there = mine & (rough(states) == state) & np.isfinite(values)
            axes.plot(x.places[there], values[there], linestyle="none", markersize=7, **_mark(state, colour))
        _mark_below(axes, x, values, states, mine, 0.03 + 0.035 * i if y is not None else 0.04, colour)
    _span(axes, "x", x)


def points(axes: Any, x: SweepParameter, values: Array, states: Array) -> None:
    """Draw the values of all cells as points against x, without curves."""
    size = float(np.clip(300.0 / max(1, len(values)), 2.0, 5.0))
    axes.plot(x.places, values, "o", color=CURVES[0], markersize=size, alpha=0.6, markeredgewidth=0)
    _span(axes, "x", x)
    _mark_below(axes, x, values, states, np.ones(len(values), dtype=bool))


def _span(axes: Any, letter: str, shown: SweepParameter) -> None:
    """Set the limits of an axis to all values of a number, whether or not there is something to draw."""
    low, high = float(shown.values[0]), float(shown.values[-1])
    limit = getattr(axes, f"set_{letter}lim")
    if shown.logarithmic:
        limit(low * (low / high) ** 0.06, high * (high / low) ** 0.06)
    elif high > low and not shown.labels:
        limit(low - 0.06 * (high - low), high + 0.06 * (high - low))


def _mark_below(
    axes: Any, x: SweepParameter, values: Array, states: Array, own: Array, height: float = 0.04, colour: str = ""
) -> None:
    """Mark at the bottom of the panel, at a height in units of it, where cells without a value are."""
    for state in _MARKS:
        at = np.unique(x.places[own & (rough(states) == state) & ~np.isfinite(values)])
        place = {"transform": axes.get_xaxis_transform(), "zorder": 1.5, "linestyle": "none", "markersize": 7}
        axes.plot(at, np.full(len(at), height), **place, **_mark(state, colour))


def _mark(state: str, colour: str = "") -> dict[str, Any]:
    """Return how a cell of a state is marked, in its own colour or in another one."""
    return _MARKS[state] | ({"color" if state == FAILED else "markeredgecolor": colour} if colour else {})


def colours(
    axes: Any,
    x: SweepParameter,
    y: SweepParameter,
    values: Array,
    states: Array,
    own: Array,
    norm: Normalize,
    *,
    filled: bool,
) -> Any:
    """Draw the medians of values over x and y in colours, as a map (`filled`) or as points; return the artist."""
    at, middle = medians(np.stack([x.places[own], y.places[own]], axis=1), values[own])
    if filled:
        columns, rows = x.values, y.values
        grid = np.full((len(rows), len(columns)), np.nan)
        grid[np.searchsorted(rows, at[:, 1]), np.searchsorted(columns, at[:, 0])] = middle
        axes.patch.set(hatch="////", edgecolor="#cccccc")  # where there is nothing
        edges = _edges(x), _edges(y)
        artist = axes.pcolormesh(*edges, np.ma.masked_invalid(grid), norm=norm, cmap=_COLOUR_MAP)
        size = float(np.clip(150.0 / max(len(rows), len(columns)), 2.5, 8.0))
    else:
        size = float(np.clip(900.0 / max(1, len(at)), 3.0, 7.0))
        known = np.isfinite(middle)
        look = {"edgecolors": canvas.FAINT, "linewidths": 0.4}
        artist = axes.scatter(*at[known].T, c=middle[known], norm=norm, cmap=_COLOUR_MAP, s=size**2, **look)
        canvas.tidy(axes)
        _span(axes, "x", x)
        _span(axes, "y", y)
    finished = own & (rough(states) == FINISHED)
    done = {tuple(place) for place in np.stack([x.places[finished], y.places[finished]], axis=1)}
    for state, look in _MARKS.items():
        mine = own & (rough(states) == state)
        there = np.unique(np.stack([x.places[mine], y.places[mine]], axis=1), axis=0)
        if state == UNFINISHED:  # a place where others have finished has its value
            there = np.array([place for place in there if tuple(place) not in done]).reshape(-1, 2)
        axes.plot(*there.T, linestyle="none", markersize=size, markeredgewidth=min(1.0, 0.13 * size), **look)
    return artist


def _edges(shown: SweepParameter) -> Array:
    """Return the borders (m + 1,) of the cells around m values: half-way between neighbours on the axis's scale."""
    values = np.arange(len(shown.labels), dtype=float) if shown.labels else shown.values
    at = np.log(values) if shown.logarithmic else values
    middle = (at[1:] + at[:-1]) / 2
    ends = [at[0] - (middle[0] - at[0]), at[-1] + (at[-1] - middle[-1])] if len(at) > 1 else [at[0] - 0.5, at[0] + 0.5]
    edges = np.concatenate([ends[:1], middle, ends[1:]])
    return np.exp(edges) if shown.logarithmic else edges


def handles(states: Array, colour: str = "") -> list[Line2D]:
    """Return the entries of a legend for the marks of cells that are not finished, in their own or another colour."""
    there = set(rough(states).tolist())
    look: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    return [Line2D([], [], label=state, **look, **_mark(state, colour)) for state in _MARKS if state in there]
