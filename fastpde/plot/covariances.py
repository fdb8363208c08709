"""Pictures of covariances: paths in the cone of 2 x 2 covariances, their shapes in a disc, ranks of limits, outcomes.

A covariance S (2, 2) has the coordinates u = S11 - S22, w = 2 S12, z = tr S. A point is a covariance iff
z >= sqrt(u^2 + w^2): covariances of rank one are on the cone itself, and multiples of the identity on its axis. Its
shape S / tr S is the point (u, w) / z of the unit disc. Source: Theory 10.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.art3d import Line3DCollection

from fastpde.plot import canvas

Array = np.ndarray[Any, Any]
Panels = Mapping[str, tuple[Array, Sequence[str]]]  # title: covariances (m, B, 2, 2) in time, outcomes (B,)

# Colour and marker, so that neither colour nor shape alone carries the meaning.
MARKS = {
    "converges": (canvas.COLOURS[0], "o"),
    "blows up": (canvas.COLOURS[1], "^"),
    "grows": (canvas.COLOURS[2], "s"),
    "oscillates": (canvas.COLOURS[3], "D"),
    "undecided": (canvas.FAINT, "X"),
}
LARGEST = r"$\lambda_{\max}(VA + A^{\mathsf{T}}V^{\mathsf{T}})$"
_TICKS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 97)


def coordinates(cov: Array) -> Array:
    """Return (S11 - S22, 2 S12, S11 + S22) of covariances (..., 2, 2), as (..., 3)."""
    first, second = cov[..., 0, 0], cov[..., 1, 1]
    return np.stack([first - second, cov[..., 0, 1] + cov[..., 1, 0], first + second], axis=-1)


def last(cov: Array) -> Array:
    """Return the last finite covariance (B, 2, 2) of each law, of covariances (m, B, 2, 2) that may end in nan."""
    finite = np.asarray(np.isfinite(cov).all(axis=(2, 3)))
    rows = len(cov) - 1 - np.argmax(finite[::-1], axis=0)
    return np.asarray(cov[rows, np.arange(cov.shape[1])])


@canvas.in_style
def cones(panels: Panels, *, caption: str = "", height: float | None = None) -> Figure:
    """Draw paths in the cone of covariances, one cone per panel, all at one scale.

    height: the largest trace that is drawn; None: the largest at a start or at the end of a law that converges. Paths
        that leave the picture are cut there.
    """
    drawn = canvas.figure(4.4 * len(panels) + 0.6, 4.9)
    _room(drawn)
    top = _height(panels) if height is None else height
    seen: set[str] = set()
    for index, (title, (cov, outcomes)) in enumerate(panels.items()):
        axes: Any = drawn.add_subplot(1, len(panels), index + 1, projection="3d")
        _surface(axes, top)
        _paths(axes, cov, outcomes, top)
        _frame(axes, top)
        axes.set_title(_heading(title, outcomes))
        seen |= set(outcomes)
    _legend(drawn, seen, "end")
    canvas.caption(drawn, caption)
    return drawn


@canvas.in_style
def discs(panels: Panels, *, caption: str = "") -> Figure:
    """Draw the shapes S / tr S at the start, coloured by how the law ends, and at the end as black dots."""
    drawn = canvas.figure(4.4 * len(panels) + 0.6, 5.6, layout="compressed")  # for panels of equal sides
    grid = drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    seen: set[str] = set()
    for axes, (title, (cov, outcomes)) in zip(grid, panels.items(), strict=True):
        _disc(axes, cov, outcomes)
        axes.set_title(_heading(title, outcomes))
        seen |= set(outcomes)
    grid[0].set_ylabel(r"$2 S_{12}\,/\,\mathrm{tr}\,S$")
    _legend(drawn, seen, "start")
    canvas.caption(drawn, caption)
    return drawn


@canvas.in_style
def cone_and_disc(cov: Array, ends: Array, outcomes: Sequence[str], *, caption: str = "") -> Figure:
    """Draw one batch of laws twice: paths in the cone, and shapes at the start (in colour) and at the end (black).

    ends: covariances (B, 2, 2), or their shapes, that the laws reach in the end. Paths are cut at ten times the largest
        trace of a start, or lower if all limits are below.
    """
    drawn = canvas.figure(canvas.WIDEST, 5.0)
    _room(drawn)
    left: Any = drawn.add_subplot(1, 2, 1, projection="3d")
    top = min(_height({"": (cov, outcomes)}), 10.0 * float(np.trace(cov[0], axis1=1, axis2=2).max()))
    _surface(left, top)
    _paths(left, cov, outcomes, top)
    _frame(left, top)
    right = drawn.add_subplot(1, 2, 2)
    _disc(right, np.stack([cov[0], ends]), outcomes)
    right.set_ylabel(r"$2 S_{12}\,/\,\mathrm{tr}\,S$")
    left.set_title(f"S, as far as tr S < {top:.3g}: white at the start")
    right.set_title("S / tr S: in colour at the start, black at the end")
    _legend(drawn, set(outcomes), "")
    canvas.caption(drawn, caption)
    return drawn


@canvas.in_style
def ranks(panels: Mapping[str, Mapping[int, Array]], expected: Mapping[int, int], *, caption: str = "") -> Figure:
    """Draw histograms of ranks, one row per panel and one column per dimension d, with the expected rank marked.

    panels: title -> {d: ranks (draws,)}, -1 for a law without a limit.
    expected: d -> rank.
    """
    dimensions = sorted(expected)
    drawn = canvas.figure(2.6 * len(dimensions) + 0.8, 2.3 * len(panels) + 0.9)
    grid = drawn.subplots(len(panels), len(dimensions), squeeze=False)
    for row, (title, found) in zip(grid, panels.items(), strict=True):
        for axes, d in zip(row, dimensions, strict=True):
            _histogram(axes, np.asarray(found[d], dtype=int), d, expected[d])
        row[0].set_ylabel(f"{title}\nnumber of draws")
    for axes in grid[-1]:
        axes.set_xlabel("rank of the limit")
    drawn.legend(handles=[_expected()], loc="outside upper center")
    canvas.caption(drawn, caption)
    return drawn


@canvas.in_style
def fractions(
    largest: Array, outcomes: Sequence[str], *, label: str = LARGEST, bins: int = 20, caption: str = ""
) -> Figure:
    """Draw stacked fractions of outcomes (B,) against `largest` (B,), lambda_max(V A + A^T V^T).

    Bins have equal counts, which gives every bin the same standard error.
    """
    names = np.asarray(outcomes)
    kinds = [kind for kind in MARKS if kind in names]
    edges = np.unique(np.quantile(largest, np.linspace(0.0, 1.0, bins + 1)))
    place = np.clip(np.searchsorted(edges, largest, side="right") - 1, 0, max(0, len(edges) - 2))
    count = np.bincount(place, minlength=len(edges) - 1)
    drawn = canvas.figure(7.0, 4.2)
    axes = drawn.add_subplot()
    below = np.zeros(len(edges) - 1)
    for kind in kinds:
        share = np.bincount(place[names == kind], minlength=len(edges) - 1) / count
        text = f"{kind} ({np.mean(names == kind):.1%})"
        axes.stairs(below + share, edges, baseline=below, fill=True, color=MARKS[kind][0], label=text)
        axes.stairs(below + share, edges, color="white", linewidth=0.8)
        below = below + share
    if edges[0] < 0.0 < edges[-1]:
        axes.axvline(0.0, color=canvas.INK, linewidth=1.0, linestyle="--")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0.0, 1.0), ylabel="fraction of systems")
    axes.set_xlabel(label)
    axes.legend(ncols=len(kinds), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    canvas.caption(drawn, caption or f"{len(names)} systems in {len(edges) - 1} bins of equal count")
    return drawn


def _room(drawn: Figure) -> None:
    """Leave a margin at the right, because the layout ignores the label of the vertical axis."""
    engine: Any = drawn.get_layout_engine()
    engine.set(rect=(0.0, 0.0, 1.0 - 0.3 / drawn.get_figwidth(), 1.0))


def _height(panels: Panels) -> float:
    traces = [0.0]
    for cov, outcomes in panels.values():
        z = np.trace(cov, axis1=2, axis2=3)
        ends = np.trace(last(cov), axis1=1, axis2=2)
        traces += [z[0].max(), *(end for end, name in zip(ends, outcomes, strict=True) if name == "converges")]
    return 1.1 * max(traces)


def _surface(axes: Any, top: float) -> None:
    """Draw the cone's surface, its rim and some of its lines."""
    z, angle = np.meshgrid([0.0, top], _ANGLES)
    axes.plot_surface(z * np.cos(angle), z * np.sin(angle), z, color="#7f9fbf", alpha=0.13, linewidth=0)
    axes.plot(top * np.cos(_ANGLES), top * np.sin(_ANGLES), top, color=canvas.FAINT, linewidth=0.8)
    for a in _ANGLES[:-1:12]:
        axes.plot([0, top * np.cos(a)], [0, top * np.sin(a)], [0, top], color=canvas.FAINT, linewidth=0.4)


def _paths(axes: Any, cov: Array, outcomes: Sequence[str], top: float) -> None:
    """Draw paths with a hollow start and a filled end, in the colour of their outcome."""
    points, names = coordinates(cov), np.asarray(outcomes)
    # What is above the picture is left out.
    points = np.where(points[..., 2:] <= top * (1 + 1e-12), points, np.nan)
    ends = coordinates(last(cov))
    ends = np.where(ends[:, 2:] <= top * (1 + 1e-12), ends, np.nan)
    for kind, (colour, marker) in MARKS.items():
        own = np.asarray(names == kind)
        if not own.any():
            continue
        lines = [piece for path in points[:, own].swapaxes(0, 1) for piece in _pieces(path)]
        axes.add_collection3d(Line3DCollection(lines, colors=colour, linewidths=0.7, alpha=0.6))
        axes.scatter(*points[0, own].T, s=9, facecolors="white", edgecolors=colour, linewidths=0.6, depthshade=False)
        axes.scatter(*ends[own].T, s=22, color=colour, marker=marker, edgecolors=canvas.INK, linewidths=0.5,
                     depthshade=False, zorder=5)  # fmt: skip


def _pieces(path: Array) -> list[Array]:
    """Return the finite stretches of a path (m, 3), without the points that are not finite between them."""
    finite: Array = np.asarray(np.isfinite(path).all(axis=1))
    places = np.split(np.arange(len(path)), np.flatnonzero(finite[1:] != finite[:-1]) + 1)
    return [path[at] for at in places if finite[at[0]] and len(at) > 1]


def _frame(axes: Any, top: float) -> None:
    axes.set(xlim=(-top, top), ylim=(-top, top), zlim=(0.0, top))
    axes.set_xlabel(r"$S_{11} - S_{22}$", labelpad=-2)
    axes.set_ylabel(r"$2 S_{12}$", labelpad=-2)
    axes.set_zlabel(r"$S_{11} + S_{22}$", labelpad=-2)
    axes.tick_params(pad=-1)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(_ticks())
        axis.pane.set_alpha(0.15)
    axes.view_init(elev=18, azim=-55)
    axes.set_box_aspect((1, 1, 0.9), zoom=1.08)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _disc(axes: Any, cov: Array, outcomes: Sequence[str]) -> None:
    start, end = coordinates(cov[0]), coordinates(last(cov))
    names = np.asarray(outcomes)
    axes.plot(np.cos(_ANGLES), np.sin(_ANGLES), color=canvas.INK, linewidth=1.0)
    # The size at which the starts of a grid touch and do not overlap.
    size = min(60.0, 12000.0 / max(1, len(names)))
    for kind, (colour, marker) in MARKS.items():
        own = np.asarray(names == kind)
        if own.any():
            axes.scatter(*_shape(start[own]).T, s=size, color=colour, marker=marker, alpha=0.55, linewidths=0)
    axes.scatter(*_shape(end).T, s=9, color=canvas.INK, linewidths=0, zorder=4)
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), aspect="equal", xticks=_TICKS, yticks=_TICKS)
    axes.set_xlabel(r"$(S_{11} - S_{22})\,/\,\mathrm{tr}\,S$")
    canvas.tidy(axes)


def _shape(points: Array) -> Array:
    """Return (u, w) / z (B, 2) of coordinates (B, 3); nan for S = 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(points[:, :2] / points[:, 2:])


def _histogram(axes: Any, ranks: Array, d: int, want: int) -> None:
    counts = np.bincount(ranks + 1, minlength=d + 2)
    first = 0 if counts[0] else 1  # a place left of rank 0 for laws without a limit, if there are any
    places, counts = np.arange(first, len(counts)) - 1, counts[first:]
    bars = axes.bar(places, counts, width=0.8, color=canvas.COLOURS[0])
    axes.bar_label(bars, labels=[str(c) if c else "" for c in counts], fontsize=canvas.SMALL)
    axes.axvspan(want - 0.48, want + 0.48, facecolor="none", edgecolor=canvas.COLOURS[1], linestyle="--", linewidth=1.4)
    axes.set(title=f"d = {d}", ylim=(0, 1.15 * max(1, counts.max())))
    axes.set_xticks(places, ["none" if place < 0 else str(place) for place in places])
    canvas.tidy(axes)


def _expected() -> Line2D:
    return Line2D([], [], color=canvas.COLOURS[1], linestyle="--", linewidth=1.4, label="expected rank")


def tally(outcomes: Sequence[str]) -> str:
    """Return how many laws have each outcome, in words: "3 converge, 1 blows up"."""
    counts = Counter(outcomes)
    return ", ".join(f"{counts[kind]} {_plural(kind, counts[kind])}" for kind in MARKS if counts[kind])


def _heading(title: str, outcomes: Sequence[str]) -> str:
    return "\n".join([title, *textwrap.wrap(tally(outcomes), 48)])


def _plural(kind: str, count: int) -> str:
    """Return an outcome as the verb for `count` laws: "converge" for 3, "blows up" for 1; `kind` is the singular."""
    if count == 1 or kind == "undecided":
        return kind
    verb, *rest = kind.split()
    return " ".join([verb.removesuffix("s"), *rest])


def _legend(drawn: Any, seen: set[str], where: str) -> None:
    prefix = f"{where}, " if where else ""
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, label=prefix + kind, markersize=6)
        for kind, (colour, marker) in MARKS.items()
        if kind in seen
    ]
    other = {"end": ("start", "white", canvas.FAINT, 4), "start": ("end", canvas.INK, canvas.INK, 3)}
    if where in other:
        label, face, edge, size = other[where]
        handles.append(Line2D([], [], linestyle="none", marker="o", markersize=size, mfc=face, mec=edge, label=label))
    columns = min(len(handles), max(2, math.floor(drawn.get_figwidth() / 1.4)))
    drawn.legend(handles=handles, loc="outside upper center", ncols=columns)
