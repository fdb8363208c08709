"""Ends of random Gaussian laws: shares of outcomes, and whether isotropic ends attract and S stays bounded there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.plot import canvas, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.stationary_points import StationaryPoints

# outcome: what the legend says, colour, marker
_MARKS = {
    "converges": ("S converges", canvas.COLOURS[0], "o"),
    "grows": ("S grows exponentially, isotropic", canvas.COLOURS[2], "s"),
    "blows up": ("blows up in a fixed shape", canvas.COLOURS[1], "^"),
    "decays": ("decays like 1/t", canvas.COLOURS[4], "v"),
    "moves": ("the shape keeps moving", canvas.COLOURS[3], "D"),
    "undecided": ("undecided", canvas.FAINT, "X"),
}

_POWERS = -0.5, 2.0


@canvas.in_style
def figure(study: StationaryPoints) -> Figure:
    """Draw a bar per case with the shares of outcomes, and the ends without a fixed growth in a plane of two numbers.

    These are the largest growth rate of disturbances and the power p of tr S ~ tau^p.
    """
    drawn = canvas.figure(canvas.WIDEST, 5.0)
    left, right = drawn.subplots(1, 2, width_ratios=(1.15, 1.0))
    _bars(left, study)
    _plane(right, study)
    handles = _handles(left)
    drawn.legend(*handles, loc="outside upper center", ncols=3)
    told = study.parameters
    text = (
        f"Softmax attention, Q and K (k, d), V and G (d, d) with N(0, 1) entries, S0 = G G^T: {told['draws']} laws per "
        f"case, followed to tau = {told['tau']:g}. {study.summary()}."
    )
    canvas.caption(drawn, text)
    return drawn


def _bars(axes: Any, study: StationaryPoints) -> None:
    """Draw stacked bars with the numbers of laws; of laws that converge or grow, also their ranks."""
    cases = study.parameters["cases"]
    for row, (d, k) in enumerate(cases):
        start, total = 0.0, study.parameters["draws"]
        for outcome, count in study.counts(d, k).items():
            if not count:
                continue
            share = count / total
            axes.barh(row, share, left=start, height=0.72, color=_MARKS[outcome][1], edgecolor="white", linewidth=0.8)
            text = str(count)
            if outcome in ("converges", "grows") and share > 0.12:
                own = (study["d"] == d) & (study["k"] == k) & (study["outcome"] == outcome)
                ranks, counts = np.unique(study["rank"][own], return_counts=True)
                text += "\nrank " + ", ".join(f"{r}: {c}" for r, c in zip(ranks, counts, strict=True))
            if share > 0.03:
                colour = palette.text_on(_MARKS[outcome][1])
                axes.text(start + share / 2, row, text, ha="center", va="center", fontsize=canvas.SMALL, color=colour)
            start += share
    axes.set_yticks(range(len(cases)), [f"d = {d}, k = {k}" for d, k in cases])
    axes.invert_yaxis()
    axes.set(xlim=(0.0, 1.0), xlabel="share of laws")
    axes.spines[["top", "right"]].set_visible(False)


def _plane(axes: Any, study: StationaryPoints) -> None:
    ends = study.isotropic
    for outcome, (_, colour, marker) in _MARKS.items():
        own = ends & (study["outcome"] == outcome)
        if own.any():
            power = np.clip(study["power"][own], *_POWERS)
            axes.scatter(study["rate"][own], power, s=16, color=colour, marker=marker, alpha=0.6, linewidths=0)
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.axvline(0.0, color=canvas.INK, linewidth=1.0, linestyle="--")
    for power in (0.0, 1.0):
        axes.axhline(power, color=canvas.FAINT, linewidth=0.8, zorder=0)
    axes.set_xlabel(r"largest growth rate of disturbances / ($|V|\,|A|\,\mathrm{tr}\,S$)")
    axes.set_ylabel(r"$p$ of $\mathrm{tr}\,S \sim \tau^p$, cut at $-1/2$ and $2$")
    axes.set_title("isotropic ends: left of the line they attract")
    canvas.tidy(axes)


def _handles(axes: Any) -> tuple[list[Any], list[str]]:
    """Return what the legend shows: a patch for each outcome that has a bar."""
    from matplotlib.patches import Patch

    seen = {patch.get_facecolor() for patch in axes.patches}
    found = [(Patch(color=colour), text) for text, colour, _ in _MARKS.values()]
    shown = [(patch, text) for patch, text in found if patch.get_facecolor() in seen]
    return [patch for patch, _ in shown], [text for _, text in shown]
