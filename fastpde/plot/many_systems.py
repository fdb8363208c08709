"""Pictures of an ensemble.

ensemble.png has moments against time, ends.png the ends against time, systems.png the tokens of some systems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastpde.plot import canvas, palette, scales, system_panels
from fastpde.run.trajectory_ensemble import EnsembleData, read_ends

Array = np.ndarray[Any, Any]


@canvas.in_style
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
    panels[0].legend(ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    scales.times(panels[1], data.time)
    running = np.isfinite(data.observables["t"]).sum(axis=1)
    text = f"over {_systems(data)}"
    if running[-1] < running[0]:
        text += f"; at each time those that have not ended, {running[-1]} of them at t = {data.time[-1]:.4g}"
    canvas.caption(drawn, text)
    drawn.align_ylabels()
    canvas.save(drawn, target, made_of)


@canvas.in_style
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
        axes.step(t, share, where="post", label=label, **palette.look(i, marker=False))
    axes.set_ylim(-0.03, 1.03)
    scales.times(axes, data.time)
    axes.set_ylabel("fraction of systems ended")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    canvas.tidy(axes)
    canvas.caption(drawn, f"of {_systems(data)}")
    canvas.save(drawn, target)


def save_systems(data: EnsembleData, source: Path, target: Path, total: int = 0) -> None:
    """Draw the tokens of the first systems, at their start in the upper row and at their end in the lower row.

    total: the number of tokens of each, of which the file may have some.
    """
    shown = list(range(min(system_panels.MOST, len(data.status))))
    first, last = read_ends(source, shown, system_panels.MAX_POINTS)
    starts = np.full(len(shown), data.time[0])
    canvas.save(system_panels.panels(starts, first, data.t_final, last, data.status, total), target)


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
    scales.vertical(axes, np.stack([low, middle, high, mean]))


def _systems(data: EnsembleData) -> str:
    done = len(data.status)
    return f"{done} systems" if done == data.asked else f"the {done} of {data.asked} systems that are done"
