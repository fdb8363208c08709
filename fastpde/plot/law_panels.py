"""Pictures of Gaussian laws over time: ellipses in the plane, and the principal standard deviations of each law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde.plot import canvas

Array = np.ndarray[Any, Any]
MOST = 6  # largest number of laws, and of times, that are drawn
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 181)
_FAR = 5.0  # widths that a mean moves from which on ellipses are drawn about it
_DECADES = 30.0  # ratio of largest to smallest from which on an axis is logarithmic
_ZERO = 1e-10  # standard deviations below this part of the largest are zero to rounding


def of_laws(t: Array, mean: Array, cov: Array, t_final: Array, status: Sequence[str]) -> Figure:
    """Draw laws with means (m, B, d) and covariances (m, B, d, d) at times t (m,); one that has ended is nan then.

    In the plane the upper row has the ellipses of one standard deviation at up to six times.
    """
    count, plane = min(MOST, mean.shape[1]), mean.shape[2] == 2
    widths = np.sqrt(np.trace(cov[:, :count], axis1=2, axis2=3))
    far = bool(
        np.nanmax(np.nanmax(mean[:, :count], axis=0) - np.nanmin(mean[:, :count], axis=0)) > _FAR * np.nanmax(widths)
    )
    drawn = canvas.figure(max(4.0, 2.6 * count + 0.6), 5.6 if plane else 3.2)
    for b in range(count):
        name = f"law {b}" if mean.shape[1] > 1 else ""
        end = "" if status[b] == "completed" else f"{status[b].replace('_', ' ')} at t = {t_final[b]:.4g}"
        heading = "\n".join(part for part in (name, end) if part)
        if plane:
            axes: Any = drawn.add_subplot(2, count, b + 1)
            _ellipses(axes, t, mean[:, b] * (not far), cov[:, b])
            axes.set_title(heading, fontsize=8)
        axes = drawn.add_subplot(1 + plane, count, plane * count + b + 1)
        _deviations(axes, t, cov[:, b], t_final[b])
        axes.set_xlabel("t", fontsize=9)
        axes.set_ylabel("principal standard deviations" if b == 0 else "", fontsize=9)
        if not plane:
            axes.set_title(heading, fontsize=8)
    shown = f"{count} of {mean.shape[1]} laws; " if count < mean.shape[1] else ""
    about = " about the mean, which moves further than they are wide" * far
    above = f"above, ellipses of one standard deviation{about}, early dark to late light; " if plane else ""
    canvas.caption(drawn, f"{shown}{above}standard deviations that are zero to rounding are not drawn")
    return drawn


def _ellipses(axes: Any, t: Array, mean: Array, cov: Array) -> None:
    known = np.flatnonzero(np.isfinite(cov).all(axis=(1, 2)))
    some = known[np.unique(np.linspace(0, len(known) - 1, min(MOST, len(known))).astype(int))]
    circle = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    for i, colour in zip(some, canvas.shades(np.arange(len(some))), strict=True):
        values, vectors = np.linalg.eigh(cov[i])
        points = mean[i][:, None] + vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * circle)
        axes.plot(*points, color=colour, linewidth=1.4, label=f"t = {t[i]:.3g}")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("$x_1$", fontsize=9)
    axes.set_ylabel("$x_2$", fontsize=9)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6, frameon=False, loc="best")
    canvas.tidy(axes)


def _deviations(axes: Any, t: Array, cov: Array, t_final: float) -> None:
    known = np.isfinite(cov).all(axis=(1, 2))
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(cov[known]), 0.0))[:, ::-1]
    roots = np.where(roots > _ZERO * roots.max(axis=1, initial=0.0, keepdims=True), roots, np.nan)
    for k, column in enumerate(roots.T):
        mark = "o" if len(column) <= 12 else ""
        axes.plot(t[known], column, marker=mark, markersize=3, color=canvas.COLOURS[k % len(canvas.COLOURS)])
    seen = roots[np.isfinite(roots)]
    if seen.size and seen.max() > _DECADES * seen.min():
        axes.set_yscale("log")
    if np.isfinite(t_final) and not known.all():
        axes.axvline(t_final, color=canvas.FAINT, linestyle=":", linewidth=1)
    axes.tick_params(labelsize=7)
    canvas.tidy(axes)
