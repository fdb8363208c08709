"""Shares of Gaussian laws at which the interaction energy bends down, by the size of their covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastpde.plot import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.energy_convexity import EnergyConvexity

_STYLES = ((":", "o"), ("--", "s"), ("-", "^"), ("-.", "D"))


@canvas.in_style
def figure(study: EnergyConvexity) -> Figure:
    """Draw a column per spectrum of A, a row for centred Gaussians and one for any mean; a curve per search and d."""
    told = study.parameters
    drawn = canvas.figure(3.2 * len(told["spectra"]) + 0.6, 6.6)
    grid = drawn.subplots(2, len(told["spectra"]), sharex=True, sharey=True, squeeze=False)
    searches = list(dict.fromkeys(study["search"].tolist()))
    seen = {}
    for row, means in zip(grid, ("zero", "any"), strict=True):
        for axes, spectrum in zip(row, told["spectra"], strict=True):
            for s, search in enumerate(searches):
                for k, d in enumerate(told["dimensions"]):
                    own = (study["d"] == d) & (study["spectrum"] == spectrum) & (study["means"] == means)
                    own &= (study["search"] == search) & (study["laws"] > 0)
                    if not own.any():
                        continue
                    style, marker = _STYLES[k % len(_STYLES)]
                    (line,) = axes.plot(
                        0.5 * (study["size_from"][own] + study["size_to"][own]),
                        study["violations"][own] / study["laws"][own],
                        linestyle=style, marker=marker, markersize=4, linewidth=1.3, color=canvas.COLOURS[s],
                    )  # fmt: skip
                    seen[f"{search}, d = {d}"] = line
            definite = "" if spectrum == "indefinite" else " definite"
            axes.set_title(f"A {spectrum}{definite}, {'mean zero' if means == 'zero' else 'any mean'}")
            axes.set_ylim(-0.04, 1.04)
            canvas.tidy(axes)
        row[0].set_ylabel("share at which E bends down")
    for axes in grid[1]:
        axes.set_xlabel(r"$|S^{1/2} A S^{1/2}|$")
    columns = min(3, max(1, int(np.ceil(len(seen) / 3))))
    drawn.legend(list(seen.values()), list(seen), loc="outside upper center", ncols=columns)
    text = (
        f"{told['gaussians']} laws per class. geodesics: E'' < 0 on a Wasserstein geodesic, against the larger of the "
        "two ends; wasserstein, twisted: the Hessian of E has a negative direction (twisted: restricted to Gaussians)"
    )
    canvas.caption(drawn, text)
    return drawn
