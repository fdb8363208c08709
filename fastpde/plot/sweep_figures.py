"""results.png and cells.png of a sweep: what its cells have found over what varies, and how and when they ended."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastpde.plot import canvas, scales, sweep_panels
from fastpde.plot.sweep_axes import CellColumns, SweepLayout, SweepParameter
from fastpde.run.observables.token_clusters import SAID
from fastpde.run.sweep_table import FAILED, FINISHED, RUNNING, STOPPED, WAITING

Array = np.ndarray[Any, Any]
MOST = 6  # observables in a picture
_ROWS = 4  # of them where each has several panels
# What people look at first, in this order; then come columns of the user's own.
_NAMES = {
    "effective_rank": "effective rank",
    "clusters": f"clusters\n({SAID})",
    "trace": "trace of the covariance",
    "energy": "energy",
    "radius": "radius",
}
# Columns that are drawn only when they are asked for.
_DETAILS = re.compile(r"t|step|steps|running|clustered|dissipation|mean_norm|mean_\d+|eigenvalue_\d+", re.ASCII)
_UNLIKE = {
    "t": "time t reached",
    "mean_norm": "|mean|",
    "clustered": f"fraction of tokens in clusters\n({SAID})",
}
_OUTCOMES = {  # colour and marker; the colours of parameters are others, see `sweep_panels.CURVES`
    FAILED: (canvas.COLOURS[1], "X"),
    STOPPED: ("#8C510A", "v"),
    RUNNING: ("#542788", ">"),
    WAITING: ("#bbbbbb", "."),
}
_ENDED = (("#333333", "o"), ("#666666", "s"), ("#8f8f8f", "D"))


def main_columns(cells: CellColumns) -> tuple[list[str], list[str]]:
    """Return the observables that are drawn unless others are asked for, and those that are left out."""
    known = [name for name, values in cells.finals.items() if np.isfinite(values).any()]
    mine = [name for name in known if name not in _NAMES and not is_detail(name)]
    found = [name for name in (*_NAMES, *mine) if name in known]
    ends = cells.finals.get("t", np.zeros(0))
    if len(np.unique(ends[np.isfinite(ends)])) > 1:
        found.append("t")
    return found[:MOST], [name for name in known if name not in found[:MOST]]


def is_detail(name: str) -> bool:
    """Return whether an observable is drawn only when it is asked for: components, and parts of others."""
    return _DETAILS.fullmatch(name) is not None


@canvas.in_style
def results(cells: CellColumns, shown: SweepLayout, names: list[str], left: list[str], title: str) -> Figure:
    """Draw the last values of some observables over what varies; title: of the picture; left: names left out."""
    if shown.rest:
        names, left = names[:_ROWS], names[_ROWS:] + left
    finished = np.asarray(cells.states) == FINISHED
    values = dict(_readable(name, np.where(finished, cells.finals[name], np.nan)) for name in names)
    notes = ["values at the end of each finished cell", *shown.notes, *filter(None, [shown.columns()])]
    if shown.kind == "each":
        drawn = _each(cells, shown, values)
    elif shown.rest:
        drawn = _columns(cells, shown, values)
    else:
        drawn = _grid(cells, shown, values)
    if any(np.isnan(numbers[finished]).any() for numbers in values.values()):
        notes.append("nothing is drawn where a finished cell has no such number, or one that is too large")
    if left:
        notes.append(f"not drawn, see --columns: {', '.join(left)}")
    _finish(drawn, title, notes, sweep_panels.handles(cells.states, _neutral(shown)))
    return drawn


def _neutral(shown: SweepLayout) -> str:
    """Return the colour of marks in a legend: ink where each curve has marks in its own colour, else their own."""
    return canvas.INK if shown.kind == "curves" and shown.y is not None else ""


@canvas.in_style
def ends(cells: CellColumns, shown: SweepLayout, title: str) -> Figure:
    """Draw how many cells ended in which way, where those are, and the wall time of each."""
    counts = Counter(cells.outcomes)
    looks = _looks(cells)
    single = shown.kind == "each" or shown.x.name == "cell"
    some = {"where": len(counts) > 1 and not single, "time": bool(np.isfinite(cells.seconds).any())}
    parts = ["counts", *(name for name, there in some.items() if there)]
    height = 3.4 if shown.y is None or shown.kind == "curves" else 3.8
    drawn = canvas.figure(max(5.0, 3.7 * len(parts) + 0.4), height)
    panels = dict(zip(parts, drawn.subplots(1, len(parts), squeeze=False)[0], strict=True))
    _bars(panels["counts"], counts, looks)
    notes, marks = list(shown.notes), []
    if "where" in panels:
        _where(panels["where"], cells, shown, looks)
        if shown.y is not None and (shown.rest or shown.repeats):
            notes.append("where several cells share a place, failed and unfinished ones hide finished ones")
    if "time" in panels:
        # Marks are for cells beside the curves: where the others failed, or wait, is beside it.
        marked = np.isfinite(cells.seconds) & (shown.kind == "curves")
        known = replace(cells, states=np.where(marked, cells.states, FINISHED))
        marks = sweep_panels.handles(known.states, _neutral(shown))
        _panel(drawn, panels["time"], known, shown, cells.seconds, np.ones(len(cells), dtype=bool), "wall time in s")
        panels["time"].set_title("wall time in s")
        notes.append(f"wall time of all cells together: {np.nansum(cells.seconds):.4g} s")
        if shown.rest and shown.kind != "each":
            notes.append(f"medians over {' and '.join(one.name for one in shown.rest)}")
    _finish(drawn, title, notes, marks)
    return drawn


def _finish(drawn: Figure, title: str, notes: list[str], marks: list[Any]) -> None:
    """Write the title, the legend of curves and marks below it, and the caption."""
    legends = {label: handle for axes in drawn.axes
               for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    found = [*legends.values(), *marks]
    if found:
        look = {"ncols": max(1, int(drawn.get_figwidth() / 2.0))}
        drawn.legend(handles=found, loc="outside upper center", title=title, **look)
    else:
        drawn.suptitle(title)
    canvas.caption(drawn, "; ".join(notes))


def _panel(
    drawn: Figure, axes: Any, cells: CellColumns, shown: SweepLayout, values: Array, own: Array, label: str
) -> None:
    """Draw one panel of a layout that is not "each": values of the cells `own`."""
    if shown.kind == "each" or shown.y is None or shown.kind == "curves":
        if shown.kind == "each":
            sweep_panels.points(axes, shown.x, values, cells.states)
        else:
            sweep_panels.curves(axes, shown.x, shown.y, values, cells.states, own)
        scales.vertical(axes, values, label)
        axes.set_ylabel(label)
        sweep_panels.frame(axes, "x", shown.x)
        canvas.tidy(axes)
        return
    norm = scales.colours(values, label)
    sweep_panels.frame(axes, "x", shown.x)
    sweep_panels.frame(axes, "y", shown.y)
    artist = sweep_panels.colours(axes, shown.x, shown.y, values, cells.states, own, norm, filled=shown.kind == "map")
    _bar(drawn, artist, axes, norm)


def _bar(drawn: Figure, artist: Any, axes: Any, norm: Normalize, label: str = "") -> None:
    """Draw the colours of a norm beside axes, with their numbers."""
    bar = drawn.colorbar(artist, ax=axes, label=label)
    if ticks := scales.ticks(norm):
        bar.set_ticks(ticks)


def _grid(cells: CellColumns, shown: SweepLayout, values: dict[str, Array]) -> Figure:
    """Draw a panel per observable."""
    flat = shown.kind in ("curves", "each")
    columns = min(len(values), 3 if not flat or len(values) > 4 else 2)
    rows = -(-len(values) // columns)
    drawn = canvas.figure(max(5.0, 3.5 * columns + 0.3), 2.7 * rows + 1.1)
    grid = drawn.subplots(rows, columns, squeeze=False).ravel()
    own = np.ones(len(cells), dtype=bool)
    for axes, (name, numbers) in zip(grid, values.items(), strict=False):
        _panel(drawn, axes, cells, shown, numbers, own, name)
        if not flat:
            axes.set_title(name)
    for axes in grid[len(values) :]:
        axes.set_visible(False)
    return drawn


def _columns(cells: CellColumns, shown: SweepLayout, values: dict[str, Array]) -> Figure:
    """Draw a row of panels per observable, one for each of some values of further parameters."""
    panels = shown.panels()
    flat = shown.kind == "curves"
    drawn = canvas.figure(max(5.0, 2.7 * len(panels) + 1.0), 2.3 * len(values) + 1.4)
    grid = drawn.subplots(len(values), len(panels), squeeze=False, sharex=True, sharey="row")
    for number, (row, (name, numbers)) in enumerate(zip(grid, values.items(), strict=True), 1):
        norm = scales.colours(numbers, name)
        artist: Any = None
        for axes, (_, own) in zip(row, panels, strict=True):
            sweep_panels.frame(axes, "x", shown.x, named=number == len(grid))
            if flat or shown.y is None:
                sweep_panels.curves(axes, shown.x, shown.y, numbers, cells.states, own)
                canvas.tidy(axes)
                continue
            sweep_panels.frame(axes, "y", shown.y, named=axes is row[0])
            filled = shown.kind == "map"
            artist = sweep_panels.colours(axes, shown.x, shown.y, numbers, cells.states, own, norm, filled=filled)
        if flat:
            scales.vertical(row[0], numbers, name)
            row[0].set_ylabel(name)
        else:
            _bar(drawn, artist, list(row), norm, name)
    for axes, (title, _) in zip(grid[0], panels, strict=True):
        axes.set_title(title, fontsize=canvas.SMALL)
    return drawn


def _each(cells: CellColumns, shown: SweepLayout, values: dict[str, Array]) -> Figure:
    """Draw points against each parameter in turn: a row per observable, a column per parameter."""
    every = [one for one in (shown.x, shown.y, *shown.rest) if one is not None][:_ROWS]
    if len(every) == 1:
        return _grid(cells, shown, values)
    drawn = canvas.figure(max(5.0, 2.8 * len(every) + 0.6), 2.0 * len(values) + 1.4)
    grid = drawn.subplots(len(values), len(every), squeeze=False, sharex="col", sharey="row")
    for number, (row, (name, numbers)) in enumerate(zip(grid, values.items(), strict=True), 1):
        for axes, one in zip(row, every, strict=True):
            sweep_panels.points(axes, one, numbers, cells.states)
            sweep_panels.frame(axes, "x", one, named=number == len(grid))
            canvas.tidy(axes)
        scales.vertical(row[0], numbers, name)
        row[0].set_ylabel(name)
    return drawn


def _readable(name: str, values: Array) -> tuple[str, Array]:
    """Return the name of an observable as a picture has it, and its values, see `scales.readable`."""
    return scales.readable(_NAMES.get(name) or _UNLIKE.get(name) or name.replace("_", " "), values)


def _looks(cells: CellColumns) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each outcome, the ways to finish first."""
    ways = sorted({str(one) for one in cells.outcomes} - set(_OUTCOMES), key=lambda one: (one != FINISHED, one))
    found = {way: _ENDED[i % len(_ENDED)] for i, way in enumerate(ways)}
    return found | {name: look for name, look in _OUTCOMES.items() if name in cells.outcomes}


def _bars(axes: Any, counts: Counter[str], looks: dict[str, tuple[str, str]]) -> None:
    names = list(looks)
    bars = axes.barh(names, [counts[name] for name in names], color=[looks[name][0] for name in names], height=0.6)
    axes.bar_label(bars, padding=3)
    axes.set_xlim(0, 1.18 * max(counts.values()))
    axes.set_ylim(len(names) - 0.4 if len(names) > 1 else 0.9, -0.6 if len(names) > 1 else -0.9)  # the first one above
    axes.set_xlabel("cells")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_title("how cells ended")
    canvas.tidy(axes)


def _where(axes: Any, cells: CellColumns, shown: SweepLayout, looks: dict[str, tuple[str, str]]) -> None:
    """Draw the outcome of each cell over x and y, or over x alone with outcomes on the other axis."""
    names = list(looks)
    place = np.array([names.index(str(one)) for one in cells.outcomes], dtype=np.float64)
    y = shown.y or SweepParameter("", place, tuple(names))
    largest = max(len(shown.x.values), len(y.values))
    size = float(np.clip(140.0 / largest, 2.5, 8.0))
    seen: set[tuple[float, float]] = set()
    for name in reversed(names):  # from the worst: it hides the others of its place
        mine = place == names.index(name)
        at = [tuple(one) for one in np.unique(np.stack([shown.x.places[mine], y.places[mine]], axis=1), axis=0)]
        new = np.array([one for one in at if one not in seen]).reshape(-1, 2)
        seen.update(at)
        colour, marker = looks[name]
        axes.plot(*new.T, linestyle="none", marker=marker, color=colour, markersize=size, markeredgewidth=0)
    sweep_panels.frame(axes, "x", shown.x)
    sweep_panels.frame(axes, "y", y)
    if shown.y is None:
        axes.invert_yaxis()
    axes.set_title("where")
    axes.margins(0.08)
    canvas.tidy(axes)
