"""Ratios of distances along pairs of flows, with their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.plot import canvas, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.stability import Stability

_COLUMNS = 3


@canvas.in_style
def figure(study: Stability) -> Figure:
    """Draw a panel per variant: the ratio of every pair, and the bounds, on a logarithmic scale."""
    names = study.parameters["variants"]
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    drawn = canvas.figure(3.0 * columns + 0.5, 2.7 * rows + 0.9)
    panels = np.atleast_1d(drawn.subplots(rows, columns, sharex=True, squeeze=False)).ravel()
    verdicts = study.verdicts
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, study, name)
        axes.set_title(f"{name}: {'holds' if verdicts[name] else 'EXCEEDED'}")
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel("t")
        axes.tick_params(labelbottom=True)
    for axes in panels[: len(names) : columns]:
        axes.set_ylabel(r"$\log\, W_2(\mu_t, \nu_t) / W_2(\mu_0, \nu_0)$")
    drawn.align_ylabels()
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=3)
    told = study.parameters
    canvas.caption(
        drawn,
        f"{told['draws']} pairs of clouds of {told['n']} tokens, d = {told['dimension']}, R0 = {told['radius']:g}, "
        f"|V| = {told['speed']:g}, |K^T Q| = 1. {study.summary()}.",
    )
    return drawn


def _panel(axes: Any, study: Stability, name: str) -> None:
    own = study["variant"] == name
    times = study.parameters["times"]
    t = study["t"][own][:times]
    ratio, bound, measured = (study[key][own].reshape(-1, times) for key in ("log_ratio", "log_bound", "log_measured"))
    for i, row in enumerate(ratio):
        axes.plot(t, row, color=canvas.COLOURS[0], linewidth=0.8, alpha=0.6, label="pairs" if i == 0 else None)
    lowest = measured.min(axis=0)
    finite = np.isfinite(bound[0])
    axes.plot(t, lowest, color=canvas.COLOURS[2], label="bound from measured radii (the lowest)")
    explicit = "explicit bound C(t, R0)"
    axes.plot(t[finite], bound[0][finite], color=canvas.COLOURS[1], linestyle=palette.LINES[1], label=explicit)
    top = max(2.0 * float(np.max(lowest[np.isfinite(lowest)])), float(ratio.max()) * 1.2, 0.1)
    low = float(ratio.min())
    axes.set_ylim(min(low - 0.05 * (top - low), -0.05), top)
    canvas.tidy(axes)
