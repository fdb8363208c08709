"""The clustering phase diagram of tokens on a sphere: how many systems have collapsed, by temperature and time.

    python scripts/phase_diagram.py [--systems 2048] [--betas 90] [--dimensions 2 8 32 64] [--out phase_diagram.png]

32 tokens, independent and uniform on the unit sphere of R^d, move by

    x_i' = P(x_i) sum_j softmax_j(beta <x_i, x_j>) x_j,    P(x) v = v - <v, x> x,

300 Euler steps of 0.1. One panel per dimension, beta upwards from 0 to 9, time to the right; the colour is the fraction
of systems in which all <x_i, x_j> > 1 - 1e-3, that is |x_i - x_j| < sqrt(2e-3), for all i and j. The run looks at the
distance to the mean: with r the largest, the largest distance of two tokens is between r and 2 r, so r <= sqrt(2e-3)/2
is enough for the condition above, and comes later than it by at most the time in which a cluster halves.

Source: Geshkovski, Letrouit, Polyanskiy, Rigollet, A mathematical perspective on Transformers, Bull. AMS 62 (2025).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import fastpde as fp

Array = np.ndarray[Any, Any]
TOKENS, STEP, STEPS, LARGEST_BETA = 32, 0.1, 300, 9.0
TOLERANCE = math.sqrt(2e-3) / 2


def uniform_on_sphere(systems: int, d: int, seed: list[int], dtype: str) -> Array:
    """Draw tokens (systems, 32, d), independent and uniform on the unit sphere."""
    x = np.random.default_rng(seed).standard_normal((systems, TOKENS, d))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)


def collapse_times(beta: float, x0: Array, *, early: bool = True) -> Array:
    """Return the times (systems,) at which systems collapse, nan for those that have not; `early`: they end there."""
    eye = np.eye(x0.shape[2])
    event = fp.Collapsed(TOLERANCE, terminal=early)
    solution = fp.solve(
        fp.Softmax(eye, eye, eye, scale=beta), x0, (0.0, STEP * STEPS),
        method="euler", step=STEP, manifold=fp.Sphere(), events=[event],
    )  # fmt: skip
    if not solution.success:
        raise RuntimeError(solution.message)
    return solution.t_events[0]


def fractions(times: Array) -> Array:
    """Return the fraction of systems that have collapsed by the end of each step (301,), from their times."""
    ends = STEP * np.arange(STEPS + 1)
    # A step's end is a multiple of 0.1 to rounding only.
    return (times[:, None] <= ends + 1e-9).mean(axis=0)


def panel(d: int, betas: Array, chosen: argparse.Namespace) -> Array:
    """Return the fractions (betas, 301) of one dimension."""
    rows = []
    for index, beta in enumerate(tqdm(betas, desc=f"d = {d}", unit=" betas", file=sys.stderr, disable=chosen.quiet)):
        dtype = "float32" if chosen.float32 else "float64"
        x0 = uniform_on_sphere(chosen.systems, d, [chosen.seed, d, index], dtype)
        rows.append(fractions(collapse_times(float(beta), x0, early=not chosen.to_the_end)))
    return np.array(rows)


def draw(panels: dict[int, Array], betas: Array, systems: int, path: Path) -> None:
    """Draw all panels in one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(panels) + 1.2, 3.8), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    times = STEP * np.arange(STEPS + 1)
    for axes, (d, values) in zip(grid, panels.items(), strict=True):
        image = axes.pcolormesh(times, betas, values, vmin=0.0, vmax=1.0, cmap="viridis", rasterized=True)
        axes.set(title=f"d = {d}", xlabel="time t")
    grid[0].set_ylabel(r"inverse temperature $\beta$")
    figure.colorbar(image, ax=list(grid), label=f"fraction of {systems} systems that have collapsed")
    figure.savefig(path, dpi=150)


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", type=int, default=2048, help="systems per beta (default 2048)")
    parser.add_argument("--betas", type=int, default=90, help="values of beta from 0 to 9 (default 90)")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 8, 32, 64], help="default 2 8 32 64")
    parser.add_argument("--out", type=Path, default=Path("phase_diagram.png"), help="the picture to write")
    parser.add_argument("--float32", action="store_true", help="compute in float32")
    parser.add_argument("--to-the-end", action="store_true", help="do not end a system when it has collapsed")
    parser.add_argument("--seed", type=int, default=0, help="of the initial tokens (default 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    read = parser.parse_args(arguments)
    for name, least in (("systems", 1), ("betas", 2)):
        if getattr(read, name) < least:
            parser.error(f"--{name}: got {getattr(read, name)}; need a whole number of at least {least}")
    if min(read.dimensions) < 2:
        parser.error(f"--dimensions: got {min(read.dimensions)}; need at least 2")
    if not read.out.parent.is_dir():
        parser.error(f"--out: the folder {read.out.parent} does not exist")
    return read


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    chosen = options(arguments)
    betas, panels = np.linspace(0.0, LARGEST_BETA, chosen.betas), {}
    for d in chosen.dimensions:
        began = time.perf_counter()
        panels[d] = panel(d, betas, chosen)
        seconds = time.perf_counter() - began
        work = f"{chosen.betas} x {chosen.systems} systems"
        print(f"d = {d}: {work} in {seconds:.1f} s, {panels[d][:, -1].mean():.1%} of them collapsed by t = 30")
    draw(panels, betas, chosen.systems, chosen.out)
    print(f"picture: {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
