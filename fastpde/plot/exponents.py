"""The picture of Lyapunov exponents: means over longer and longer times, and errors of the last of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde.plot import canvas, scales

Array = np.ndarray[Any, Any]


@canvas.in_style
def figure(t: Array, profile: Array, exponents: Array, errors: Array) -> Figure:
    """Draw means (m, k) up to the times t (m,), and the exponents (k,) with their errors at the last time."""
    drawn = canvas.figure(7.0, 4.2)
    axes = drawn.subplots()
    few = len(exponents) <= len(canvas.COLOURS)
    colours = canvas.COLOURS if few else canvas.shades(-np.arange(len(exponents)))
    for j, colour in zip(range(len(exponents)), colours, strict=False):
        known = np.where(np.isfinite(profile[:, j]), profile[:, j], np.nan)
        if few:
            canvas.curve(axes, t, known, j, f"{j + 1}: {exponents[j]:.3g}".replace("-", "\N{MINUS SIGN}"))
        else:
            axes.plot(t, known, color=colour, linewidth=1.4)
        if np.isfinite(exponents[j]):
            error = errors[j] if np.isfinite(errors[j]) else 0.0
            axes.errorbar(t[-1:], exponents[j : j + 1], yerr=[error], color=colour, marker="o", markersize=4, capsize=3)
    axes.set_title("Lyapunov exponents")
    if few:
        axes.legend(title="exponent", title_fontsize=canvas.SMALL, loc="center left", bbox_to_anchor=(1.0, 0.5))
    scales.times(axes, t, "t up to which the mean is taken")
    axes.set_ylabel("exponent (1 / unit of t)")
    canvas.tidy(axes)
    return drawn
