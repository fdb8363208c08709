"""Errors against the number of tokens, with fitted powers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.plot import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.mean_field import MeanField

Array = np.ndarray[Any, Any]
_PANELS = (
    ("velocity", 0, "error of the velocity at t = 0"),
    ("cov", -1, "error of the covariance at the end"),
    ("sliced_w2", -1, "sliced $W_2$ to the law at the end"),
)
_CRITICAL = np.sqrt(0.5)


def figure(study: MeanField) -> Figure:
    """Draw the errors of a mean-field study against n.

    With several strengths another panel has the powers of n against the strength.
    """
    strengths = study.parameters["strengths"]
    several = len(strengths) > 1
    shown = [panel for panel in _PANELS if np.isfinite(study[panel[0]]).any()]
    drawn = canvas.figure(3.5 + 3.0 * (len(shown) + several), 4.4)
    panels = drawn.subplots(1, len(shown) + several, squeeze=False)[0]
    s = strengths[0]
    for axes, (error, end, title) in zip(panels, shown, strict=False):
        for name, colour in zip(study.parameters["variants"], canvas.COLOURS, strict=False):
            _errors(axes, study, error, name, s, end, colour)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("n")
        axes.set_title(title, fontsize=11)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        canvas.tidy(axes)
    if several:
        _powers(panels[-1], study)
    bars = "Points: root mean square over the draws; bars: its 16 and 84 % quantiles over resampled draws."
    size = f"d = {study.parameters['dimension']}, |A| = {s:g}"
    canvas.caption(drawn, f"{size}, {study.parameters['draws']} draws of each size. {bars} {study.summary()}.")
    return drawn


def _times(study: MeanField, variant: str, strength: float) -> Array:
    rows = (study["variant"] == variant) & (study["strength"] == strength)
    return np.unique(study["t"][rows])


def _errors(axes: Any, study: MeanField, error: str, variant: str, strength: float, end: int, colour: str) -> None:
    t = _times(study, variant, strength)[end]
    rows = (study["variant"] == variant) & (study["strength"] == strength) & (study["t"] == t)
    n, values = study["n"][rows], study[error][rows]
    if not np.isfinite(values).all():
        return
    sizes, stream = np.unique(n), np.random.default_rng(0)
    middle, low, high = [], [], []
    for size in sizes:
        own = np.square(values[n == size])
        again = np.sqrt(own[stream.integers(0, len(own), (500, len(own)))].mean(axis=1))
        middle.append(np.sqrt(own.mean()))
        low.append(np.quantile(again, 0.16))
        high.append(np.quantile(again, 0.84))
    rate = study.rate(error, variant, strength, t)
    bars = [np.maximum(np.subtract(middle, low), 0), np.maximum(np.subtract(high, middle), 0)]
    power = f"{variant}: $n^{{{rate.power:.2f} \\pm {rate.half_width:.2f}}}$" if np.isfinite(rate.power) else variant
    axes.errorbar(sizes, middle, yerr=bars, fmt="o", markersize=4, color=colour, label=power, linewidth=1)
    axes.plot(sizes, rate.factor * sizes.astype(float) ** rate.power, color=colour, linewidth=1)


def _powers(axes: Any, study: MeanField) -> None:
    strengths = np.array(study.parameters["strengths"])
    for name, colour in zip(study.parameters["variants"], canvas.COLOURS, strict=False):
        rates = [study.rate("velocity", name, s, 0.0) for s in strengths]
        bars = [rate.half_width for rate in rates]
        axes.errorbar(
            strengths, [rate.power for rate in rates], yerr=bars, fmt="o-", color=colour, label=name, capsize=2
        )
    axes.axhline(-0.5, color=canvas.FAINT, linewidth=1, linestyle="--")
    if strengths.max() > 0.6 * _CRITICAL:
        axes.axvline(_CRITICAL, color=canvas.FAINT, linewidth=1, linestyle=":")
        axes.annotate(r"$|A| = 1/\sqrt{2}$", (_CRITICAL, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set_xlabel("|A|")
    axes.set_title("power of n of the velocity's error", fontsize=11)
    axes.legend(frameon=False, fontsize=8)
    canvas.tidy(axes)
