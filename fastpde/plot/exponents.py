"""The picture of Lyapunov exponents: means over longer and longer times, and errors of the last of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde.plot import canvas

Array = np.ndarray[Any, Any]


def figure(t: Array, profile: Array, exponents: Array, errors: Array) -> Figure:
    """Draw means (m, k) up to the times t (m,), and the exponents (k,) with their errors at the last time."""
    drawn = canvas.figure(7.0, 4.2)
    axes = drawn.subplots()
    colours = canvas.COLOURS if len(exponents) <= len(canvas.COLOURS) else canvas.shades(-np.arange(len(exponents)))
    for j, colour in zip(range(len(exponents)), colours, strict=False):
        axes.plot(t, np.where(np.isfinite(profile[:, j]), profile[:, j], np.nan), color=colour, linewidth=1.4)
        if np.isfinite(exponents[j]):
            error = errors[j] if np.isfinite(errors[j]) else 0.0
            axes.errorbar(t[-1:], exponents[j : j + 1], yerr=[error], color=colour, marker="o", markersize=4, capsize=3)
    axes.set_title("Lyapunov exponents", fontsize=11)
    axes.set_xlabel("mean up to t")
    axes.set_ylabel("rate of growth")
    canvas.tidy(axes)
    return drawn
