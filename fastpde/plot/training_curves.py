"""Losses of small Transformers on sequences: by learning rate, over the training, by length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator

from fastpde.plot import canvas, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.sequence_task import SequenceTask

_SHOWN = (0.25, 0.75)  # quantiles over the seeds
_TOP = 3.0  # losses beyond are drawn there


@canvas.in_style
def figure(study: SequenceTask) -> Figure:
    """Draw a row of three panels per task."""
    told = study.parameters
    tasks, names = told["tasks"], told["variants"]
    drawn = canvas.figure(canvas.WIDEST, 2.7 * len(tasks) + 1.1)
    panels = drawn.subplots(len(tasks), 3, squeeze=False, sharey="row")
    for row, task in zip(panels, tasks, strict=True):
        for i, name in enumerate(names):
            style = palette.look(i) | {"label": name}
            by_rate = [study.cell(task, name, rate)["test_1"] for rate in told["rates"]]
            _band(row[0], told["rates"], np.array(by_rate), style)
            best = study.cell(task, name, study.best_rate(task, name))
            curves = np.array([values for column, values in best.items() if column.startswith("train_")])
            step = (np.arange(len(curves)) + 0.5) * told["steps"] / len(curves)
            _band(row[1], step, curves, style | {"marker": ""})
            tests = {int(column[5:]): values for column, values in best.items() if column.startswith("test_")}
            lengths = [k * told["length"] for k in tests]
            _band(row[2], lengths, np.array(list(tests.values())), style)
        row[0].set_ylabel(f"{task}\nloss / variance")
        for axes in (row[0], row[2]):
            axes.set_xscale("log")
        row[0].set_xticks(told["rates"], [f"{rate:g}" for rate in told["rates"]])
        row[2].set_xticks(lengths, [str(n) for n in lengths])
        for axes in row:
            axes.set_yscale("log")
            axes.minorticks_off()
        low, high = row[0].get_ylim()
        subs = (1.0, 2.0, 5.0) if high < 30.0 * low else (1.0,)
        row[0].yaxis.set_major_locator(LogLocator(subs=subs))
        row[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes in row:
            axes.axhline(1.0, color=canvas.FAINT, linewidth=0.8, linestyle=":")
            canvas.tidy(axes)
    titles = ("test, by learning rate", "training, at the best rate", "test, by length, at the best rate")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title)
    for axes, label in zip(panels[-1], ("learning rate", "step", "tokens"), strict=True):
        axes.set_xlabel(label)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=len(names))
    canvas.caption(
        drawn,
        f"Layers: {told['layers']}, heads: {told['heads']}, rank {told['rank']}; {told['steps']} steps of Adam; "
        f"medians and quartiles over {told['seeds']} seeds; dotted: a constant answer; losses above {_TOP:g} are drawn "
        "there. "
        f"{study.summary()}.",
    )
    return drawn


def _band(axes: Any, x: Any, values: Any, style: dict[str, Any]) -> None:
    """Draw the medians of values (points, seeds), and their quartiles as a band."""
    values = np.minimum(values, _TOP)
    low, middle, high = np.quantile(values, [_SHOWN[0], 0.5, _SHOWN[1]], axis=1)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, middle, linewidth=1.4, **style)
