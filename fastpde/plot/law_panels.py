"""Pictures of Gaussian laws over time: ellipses in the plane, and the principal standard deviations of each law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastpde.plot import canvas, scales

Array = np.ndarray[Any, Any]
MOST = 6  # largest number of laws, and of times, that are drawn
_COLUMNS = 3
_APART = 8.0  # ratio of the sizes of laws from which on each has a frame of its own
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 181)
_FAR = 5.0  # widths that a mean moves from which on ellipses are drawn about it
_DECADES = 30.0  # ratio of largest to smallest from which on an axis is logarithmic
_ZERO = 1e-10  # standard deviations below this part of the largest are zero to rounding


@canvas.in_style
def of_laws(t: Array, mean: Array, cov: Array, t_final: Array, status: Sequence[str]) -> Figure:
    """Draw laws with means (m, B, d) and covariances (m, B, d, d) at times t (m,); one that has ended is nan then.

    Each has a panel of its principal standard deviations, all at one scale; in the plane above it one with the ellipses
    of one standard deviation at up to six times.
    """
    laws, plane = mean.shape[1], mean.shape[2] == 2
    count = min(MOST, laws)
    mean, cov = mean[:, :count], cov[:, :count]
    far = _moves_far(mean, cov)
    columns = min(_COLUMNS, count)
    rows = (1 + plane) * -(-count // columns)
    drawn = canvas.figure(max(5.0, 3.0 * columns + 0.5), 2.9 * rows + 0.5)
    grid = drawn.subplots(rows, columns, squeeze=False)
    curves = []
    for b in range(count):
        row, column = (1 + plane) * (b // columns), b % columns
        end = "" if status[b] == "completed" else f"{status[b].replace('_', ' ')} at t = {t_final[b]:.4g}"
        heading = [f"law {b}" if count > 1 else "", end]
        if plane:
            heading.append(_ellipses(grid[row, column], t, mean[:, b] * (not far), cov[:, b]))
        grid[row, column].set_title("\n".join(part for part in heading if part), fontsize=canvas.LABEL)
        curves.append(grid[row + plane, column])
        _deviations(curves[-1], t, cov[:, b], t_final[b] if end else np.nan)
        curves[-1].set_ylabel("principal standard deviations" if column == 0 else "")
    for axes in grid.ravel()[(1 + plane) * columns * (count // columns) :]:
        axes.set_visible(axes.has_data())
    for axes in curves[1:]:
        axes.sharey(curves[0])
    _scale(curves, t)
    shared = plane and _in_one_frame([axes for axes in grid.ravel() if axes.has_data() and axes not in curves])
    parts = [f"{count} of {laws} laws"] * (count < laws)
    if plane:
        about = " about the mean, which moves further than they are wide" * far
        scale = ", all laws at one scale" * (shared and count > 1)
        parts.append(f"above, ellipses of one standard deviation{about}{scale}, early dark to late light")
    if any(np.isnan(np.asarray(line.get_ydata())).any() for axes in curves for line in axes.lines):
        parts.append("standard deviations that are zero to rounding are not drawn")
    canvas.caption(drawn, "; ".join(parts))
    return drawn


def _moves_far(mean: Array, cov: Array) -> bool:
    """Return whether the mean of a law moves by several widths, so that ellipses about it would be dots."""
    widths = np.sqrt(np.trace(cov, axis1=2, axis2=3))
    return bool(np.nanmax(np.nanmax(mean, axis=0) - np.nanmin(mean, axis=0)) > _FAR * np.nanmax(widths))


def _ellipses(axes: Any, t: Array, mean: Array, cov: Array) -> str:
    """Draw the ellipses of a law at some times, and return these in words."""
    known = np.flatnonzero(np.isfinite(cov).all(axis=(1, 2)))
    some = known[np.unique(np.linspace(0, len(known) - 1, min(MOST, len(known))).astype(int))]
    circle = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])
    for i, colour in zip(some, canvas.shades(np.arange(len(some))), strict=True):
        values, vectors = np.linalg.eigh(cov[i])
        points = mean[i][:, None] + vectors @ (np.sqrt(np.maximum(values, 0.0))[:, None] * circle)
        axes.plot(*points, color=colour, linewidth=1.4)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="$x_1$", ylabel="$x_2$")
    canvas.tidy(axes)
    return f"t = {', '.join(f'{t[i]:.3g}' for i in some)}"


def _in_one_frame(panels: Sequence[Any]) -> bool:
    """Give panels of ellipses the same limits, unless one would be far smaller than another; return whether."""
    ends = np.array([[axes.dataLim.intervalx, axes.dataLim.intervaly] for axes in panels])
    sizes = np.ptp(ends, axis=2).max(axis=1)
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    if (high - low).max() > _APART * sizes.min():
        return False
    for axes, (middle_x, middle_y) in zip(panels, np.tile((low + high) / 2, (len(panels), 1)), strict=True):
        half = 0.54 * float((high - low).max())
        axes.set(xlim=(middle_x - half, middle_x + half), ylim=(middle_y - half, middle_y + half))
        axes.set_aspect("equal", adjustable="box")
    return True


def _deviations(axes: Any, t: Array, cov: Array, t_final: float) -> None:
    """Draw standard deviations against t; t_final: where a law has ended early, which a dotted line shows."""
    known = np.isfinite(cov).all(axis=(1, 2))
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(cov[known]), 0.0))[:, ::-1]
    roots = np.where(roots > _ZERO * roots.max(axis=1, initial=0.0, keepdims=True), roots, np.nan)
    for k, column in enumerate(roots.T):
        canvas.curve(axes, t[known], column, k)
    if np.isfinite(t_final):
        axes.axvline(t_final, color=canvas.FAINT, linestyle=":", linewidth=1)
    canvas.tidy(axes)


def _scale(panels: Sequence[Any], t: Array) -> None:
    """Set the scales of panels of standard deviations against t, which share their vertical axis."""
    lines = [np.asarray(line.get_ydata()) for axes in panels for line in axes.lines if len(line.get_xdata()) > 2]
    seen = np.concatenate([line[np.isfinite(line)] for line in lines] or [np.zeros(0)])
    if seen.size and seen.max() > _DECADES * seen.min():
        panels[0].set_yscale("log")
    for axes in panels:
        scales.times(axes, t)
