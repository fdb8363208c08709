"""Pictures of an ensemble.

ensemble.png has moments against time, ends.png the ends against time, systems.png the tokens of some systems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastpde.plot import canvas, clouds, view
from fastpde.run.trajectory_ensemble import EnsembleData, read_ends

Array = np.ndarray[Any, Any]
MOST = 6  # largest number of systems whose tokens are drawn


def save_moments(data: EnsembleData, target: Path, made_of: str = "") -> None:
    """Draw effective rank and spread, tr(S)^(1/2), against time; made_of: see `canvas.save`.

    There are the mean and the quartiles over the systems that run.
    """
    spread = np.sqrt(data.observables["trace"])
    drawn = canvas.figure(7.0, 5.4)
    panels = drawn.subplots(2, 1, sharex=True)
    for axes, values in zip(panels, (data.observables["effective_rank"], spread), strict=True):
        _band(axes, data.time, values)
        canvas.tidy(axes)
    panels[0].set_ylabel("effective rank")
    panels[1].set_ylabel("spread (root mean square\ndistance from the mean)")
    panels[0].legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    panels[1].set_xlabel("t")
    running = np.isfinite(data.observables["t"]).sum(axis=1)
    text = f"over {_systems(data)}"
    if running[-1] < running[0]:
        text += f"; at each time those that have not ended, {running[-1]} of them at t = {data.time[-1]:.4g}"
    canvas.caption(drawn, text)
    drawn.align_ylabels()
    canvas.save(drawn, target, made_of)


def save_ends(data: EnsembleData, target: Path) -> None:
    """Draw the fraction of systems that each event has ended, against time."""
    drawn = canvas.figure(7.0, 4.0)
    axes = drawn.add_subplot()
    for i, name in enumerate(data.events):
        ends = np.sort(data.t_final[np.array(data.status) == name])
        # A stair from the start to the end of the run, one step up per system.
        t = np.concatenate([data.time[:1], ends, data.time[-1:]])
        share = np.concatenate([[0], np.arange(1, len(ends) + 1), [len(ends)]]) / len(data.status)
        label = f"{name.replace('_', ' ')}: {len(ends)} of {len(data.status)}"
        axes.step(t, share, where="post", color=canvas.COLOURS[i], linewidth=1.6, label=label)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("t")
    axes.set_ylabel("fraction of systems ended")
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    canvas.tidy(axes)
    canvas.caption(drawn, f"of {_systems(data)}")
    canvas.save(drawn, target)


def save_systems(data: EnsembleData, source: Path, target: Path) -> None:
    """Draw the tokens of the first systems, at their start in the upper row and at their end in the lower row."""
    shown = list(range(min(MOST, len(data.status))))
    first, last = read_ends(source, shown, clouds.MAX_POINTS // 4)
    d = first.shape[2]
    size = 2.9 if d == 3 else 2.2
    drawn = canvas.figure(max(5.0, size * len(shown) + 0.3), 2 * size + 0.9)
    if d == 3:  # the layout does not know how far the labels of 3-D axes reach
        drawn.set_layout_engine("constrained", rect=(0.0, 0.01, 0.99, 0.98))
    for s in shown:
        see, labels = (_ranked(first[s]), ("x", "rank at start")) if d == 1 else _view(last[s])
        colours = canvas.shades(see(first[s])[:, 0])
        ends = (data.time[0], first[s], ""), (data.t_final[s], last[s], _end(data.status[s]))
        for row, (t, x, note) in enumerate(ends):
            kind = {"projection": "3d"} if len(labels) == 3 else {}
            axes: Any = drawn.add_subplot(2, len(shown), row * len(shown) + s + 1, **kind)
            points = see(x)
            clouds.scatter(axes, points, colours, labels)
            if d == 3:
                axes.set_box_aspect((1, 1, 1), zoom=0.75)  # room for the labels beside the next panel
            if d == 1:
                axes.set_ylim(-0.08, 1.08)
                axes.set_aspect("auto")
            _name_outer(axes, labels, left=s == 0, bottom=row == 1)
            axes.set_title(f"system {s}, {clouds.title(float(t))}{note}", fontsize=8)
    how = f"d = {d}: the two principal components of each system's own last tokens; " if d > 3 else ""
    count = f"{first.shape[1]} token{'s' * (first.shape[1] != 1)} of each system"
    text = f"{how}{count}; above the start, below the end; each panel at its own scale; "
    canvas.caption(drawn, text + "colour: order along the first axis at the start")
    canvas.save(drawn, target)


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


def _end(status: str) -> str:
    return "" if status == "completed" else f"\n({status.replace('_', ' ')})"


def _band(axes: Any, t: Array, values: Array) -> None:
    """Draw mean, median and quartiles of the finite entries of each row (m, S)."""
    known = np.isfinite(values)
    low, middle, high = canvas.quartiles(values)
    with np.errstate(invalid="ignore"):  # times at which no system runs have nan, as they should
        mean = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
    mark = "o" if np.isfinite(mean).sum() < 12 else ""
    axes.fill_between(t, low, high, color=canvas.COLOURS[0], alpha=0.2, linewidth=0, label="quartiles")
    axes.plot(t, middle, color=canvas.COLOURS[0], linewidth=1.0, linestyle="--", label="median")
    axes.plot(t, mean, color=canvas.COLOURS[0], linewidth=1.8, label="mean", marker=mark, markersize=4)
    positive = values[values > 0]
    if positive.size and positive.max() > 100 * positive.min() and (low[np.isfinite(low)] > 0).all():
        axes.set_yscale("log")


def _systems(data: EnsembleData) -> str:
    done = len(data.status)
    return f"{done} systems" if done == data.asked else f"the {done} of {data.asked} systems that are done"
