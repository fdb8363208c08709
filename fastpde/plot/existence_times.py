"""Times of existence of laws with large supports under unnormalised attention, with their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.plot import canvas, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.blow_up import BlowUp

_STYLES = "-", "--", ":", "-."


@canvas.in_style
def figure(study: BlowUp) -> Figure:
    """Draw four panels: d = 1 with V A > 0, with V A < 0, linear attention, and laws of the plane."""
    drawn = canvas.figure(canvas.WIDEST, 8.0)
    (attracting, falling), (linear, plane) = drawn.subplots(2, 2)
    _growing(attracting, study)
    _attracted(falling, study)
    _linear(linear, study)
    _plane(plane, study)
    for axes in (attracting, falling, linear, plane):
        canvas.tidy(axes)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            axes.legend(handles, labels)
        else:
            axes.set(xticks=[], yscale="linear", yticks=[])
            axes.text(0.5, 0.5, "not in this study", transform=axes.transAxes, ha="center", color=canvas.FAINT)
    canvas.caption(drawn, f"N(0, I) truncated at R, A diagonal, V a rotation. {study.summary()}.")
    return drawn


def _line(study: BlowUp) -> list[float]:
    return [spectrum[0] for spectrum in study.parameters["spectra"] if len(spectrum) == 1]


def _growing(axes: Any, study: BlowUp) -> None:
    """Draw log t* against R^2 of exponential attention in d = 1, with the bounds from above and below."""
    for i, a in enumerate(a for a in _line(study) if a > 0.0):
        own = study.rows("exponential", (a,))
        if not own.any():
            continue
        R2, colour = study["radius"][own] ** 2, canvas.COLOURS[i % len(canvas.COLOURS)]
        fitted, expected = study.exponent(a)
        told = f", slope {fitted:.3f} ({expected:.4g})" if np.isfinite(fitted) else ""
        axes.plot(R2, study["t_star"][own], "-", marker=palette.MARKERS[i % 6], color=colour, label=f"a = {a:g}{told}")
        for name, style in (("frozen", "--"), ("tails", "-."), ("at_least", ":")):
            axes.plot(R2, study[name][own], style, color=colour, linewidth=0.9)
    for name, style in (("field of the start", "--"), ("tails alone", "-."), ("guarantee of 8.2", ":")):
        if axes.lines:
            axes.plot([], [], style, color=canvas.INK, linewidth=0.9, label=name)
    axes.set_yscale("log")
    axes.set(xlabel=r"$R^2$", ylabel=r"$t^*$", title="exponential, d = 1, VA = a > 0: blow-up")


def _attracted(axes: Any, study: BlowUp) -> None:
    """Draw the edge at later times against R of exponential attention in d = 1 with V A < 0."""
    for i, a in enumerate(a for a in _line(study) if a < 0.0):
        own = study.rows("exponential", (a,))
        for k, t in enumerate(study.parameters["times"]):
            if own.any():
                axes.plot(
                    study["radius"][own], study[f"edge_{k}"][own], _STYLES[i % 4] + palette.MARKERS[k % 6],
                    color=canvas.COLOURS[k % 6], label=f"a = {a:g}, t = {t:g}",
                )  # fmt: skip
    axes.set(xlabel="R", ylabel="edge of the support", title="exponential, d = 1, VA < 0: down from infinity")
    if axes.lines:
        axes.set_ylim(bottom=0.0)


def _linear(axes: Any, study: BlowUp) -> None:
    """Draw measured against exact blow-up times of linear attention."""
    own = (study["variant"] == "linear") & np.isfinite(study["t_star"])
    for plane, marker, word in ((False, "o", "d = 1"), (True, "s", "d = 2")):
        rows = own & (np.isfinite(study["lambda_2"]) == plane)
        if rows.any():
            off = np.abs(study["t_star"][rows] / study["exact"][rows] - 1.0)
            axes.plot(study["exact"][rows], np.maximum(off, 1e-16), marker, color=canvas.COLOURS[plane], label=word)
    axes.set_yscale("log")
    axes.set(xlabel=r"exact $t^*$ from second moments", ylabel=r"$|t^*$ / exact $- 1|$", title="linear attention")


def _plane(axes: Any, study: BlowUp) -> None:
    """Draw t* against R^2 of exponential attention in d = 2, a curve per spectrum and turn."""
    for i, spectrum in enumerate(s for s in study.parameters["spectra"] if len(s) == 2):
        for k, turn in enumerate(study.parameters["turns"]):
            own = study.rows("exponential", spectrum, turn)
            own &= np.isfinite(study["t_star"])
            if own.any():
                rate = study["growth"][own][0]
                told = f"A = diag({spectrum[0]:g}, {spectrum[1]:g}), turn {turn:g}°, growth {rate:.3g}"
                axes.plot(
                    study["radius"][own] ** 2, study["t_star"][own], _STYLES[k % 4] + palette.MARKERS[i % 6],
                    color=canvas.COLOURS[i % 6], label=told,
                )  # fmt: skip
    axes.set_yscale("log")
    axes.set(xlabel=r"$R^2$", ylabel=r"$t^*$", title="exponential, d = 2: blow-up")
