"""The unit sphere behind tokens that live on it: a circle in the plane, a globe in space."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from fastpde.plot import canvas

Array = np.ndarray[Any, Any]
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 181)
_BEHIND = 0.25  # opacity of what is on the far side
_INSIDE = "#f4f6f8"
_TIP = 1.15  # where the ends of the axes end


def ground(axes: Any, dimension: int) -> None:
    """Draw the unit circle into axes of the plane, or a globe into axes of space."""
    if dimension == 2:
        axes.fill(np.cos(_ANGLES), np.sin(_ANGLES), facecolor=_INSIDE, edgecolor=canvas.FAINT, linewidth=0.9, zorder=0)
    else:
        _globe(axes)


def seen(axes: Any, points: Array) -> Array:
    """Return whether points (m, 3) are on the side of the globe that faces the reader."""
    return np.asarray(points @ _towards(axes) >= 0.0)


def paler(colours: Array, front: Array) -> Array:
    """Return colours (m, 4), faint where they are not in front (m,)."""
    colours = np.array(colours)
    colours[~front, 3] *= _BEHIND
    return colours


def _towards(axes: Any) -> Array:
    """Return the unit vector from the origin to the reader."""
    up, round_ = np.deg2rad(axes.elev), np.deg2rad(axes.azim)
    return np.array([np.cos(up) * np.cos(round_), np.cos(up) * np.sin(round_), np.sin(up)])


def _globe(axes: Any) -> None:
    """Draw a globe and, in the place of the box with numbers, the ends of the axes."""
    axes.set_proj_type("ortho")
    axes.set_axis_off()
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    axes.computed_zorder = False
    eye = _towards(axes)
    right = np.array([-np.sin(np.deg2rad(axes.azim)), np.cos(np.deg2rad(axes.azim)), 0.0])
    above = np.cross(eye, right)
    circle = np.cos(_ANGLES)[:, None], np.sin(_ANGLES)[:, None]
    rim = circle[0] * right + circle[1] * above
    axes.add_collection3d(
        Poly3DCollection([rim], facecolors=_INSIDE, edgecolors=canvas.FAINT, linewidths=0.9, zorder=0)
    )
    for one, other in _great_circles():
        line = circle[0] * one + circle[1] * other
        front = line @ eye >= 0.0
        for side, width in ((front, 0.5), (~front, 0.2)):
            axes.plot(*np.where(side[:, None], line, np.nan).T, color=canvas.FAINT, linewidth=width, zorder=1)
    for i, tip in enumerate(np.eye(3)):
        axes.plot(*np.stack([tip, _TIP * tip], axis=1), color=canvas.INK, linewidth=0.9, zorder=2)
        axes.text(*(1.12 * _TIP * tip), f"$x_{i + 1}$", fontsize=canvas.LABEL, ha="center", va="center")


def _great_circles() -> list[tuple[Array, Array]]:
    """Return two orthogonal unit vectors of the equator and of six meridians."""
    x, y, z = np.eye(3)
    turns = np.arange(6) * np.pi / 6
    return [(x, y), *((np.cos(a) * x + np.sin(a) * y, z) for a in turns)]
