"""A search for violations of convexity of the interaction energy of Gaussians along geodesics.

    python scripts/energy_convexity.py [--gaussians 4000] [--out energy_convexity]

E(mu) = 1/2 iint e^{x.A.y} dmu dmu, A symmetric, mu = N(m, S) with |S^{1/2} A S^{1/2}| < 1, where E is finite. Castin,
Ablin, Carrillo and Peyre (2025) show that E is not geodesically convex for the twisted Wasserstein metric
int Z_mu |v|^2 dmu, Z_mu(x) = int e^{x.A.y} dmu(y), and ask for classes of measures on which it is. Three searches:

    geodesics    E'' < 0 somewhere on the Wasserstein (Bures) geodesic of two random Gaussians, in closed form
    wasserstein  the Riemannian Hessian of E at a random Gaussian has a negative direction, Wasserstein metric
    twisted      the same in the twisted metric restricted to Gaussians that move by affine velocities

Geodesics of the unrestricted twisted metric may leave the Gaussians, and its optimal velocities need not be affine: the
third search is about the restriction, and a convex restriction does not make E convex. In d = 1 every velocity that
keeps Gaussians Gaussian is affine, so there the restricted metric is the induced one.

Found, for d = 1, 2, 3 and 4000 Gaussians each (defaults):
    A definite, centred      no violation, in any of the three searches
    A > 0, with means        Wasserstein: none; twisted: none here, but a few in 100000 of other samples,
                             at |S^{1/2} A S^{1/2}| of 0.1 to 0.2 (tests/scripts/test_energy_convexity.py follows E
                             along the geodesic of one)
    A < 0, with means        Wasserstein: everywhere in d = 2, 3, at 83% in d = 1; twisted: nearly everywhere if
                             |S^{1/2} A S^{1/2}| is small, hardly anywhere near 1, 54% to 61% in all
    A indefinite             Wasserstein: at 88% to 100%; twisted: as for A < 0, 30% centred, 42% with means
Two of the zeros are theorems. Wasserstein, A semidefinite and centred, or A >= 0 and any mean: with S' = H S + S H and
S'' = 2 H S H every term of (log E)'' is nonnegative, see gaussian_energy.derivatives. Twisted, d = 1, centred:
dE / dl = a^2 s^{3/2} (1 - a^2 s^2)^{-3/4} in the arc length l grows with s.

Covariances are scaled to a given |S^{1/2} A S^{1/2}|, eigenvalues are log-normal in size with random axes, means
m = S^{1/2} z with z normal or zero. A direction counts as negative below -1e-9 of the largest in size: derivatives are
exact to rounding. Source: Theory 7; Castin et al. 2025, section 5.4.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gaussian_energy as ge
import numpy as np
from tqdm import tqdm

from fastpde.plot import canvas

Array = np.ndarray[Any, Any]
SPECTRA = ("positive", "negative", "indefinite")
SEARCHES = ("geodesics", "wasserstein", "twisted")
EDGES = np.linspace(0.0, 1.0, 11)
NEGATIVE = 1e-9
COLUMNS = ("d", "spectrum", "means", "search", "size_from", "size_to", "gaussians", "violations", "fraction", "worst")


def matrices(spectrum: str, count: int, d: int, rng: np.random.Generator) -> Array:
    """Draw symmetric A (B, d, d) with random eigenvectors, log-normal absolute eigenvalues and the signs asked for."""
    vectors = np.linalg.qr(rng.standard_normal((count, d, d)))[0]
    values = np.exp(rng.standard_normal((count, d)))
    if spectrum == "indefinite":
        values *= np.where(rng.random((count, d)) < 0.5, -1.0, 1.0)
        values[:, :2] = np.abs(values[:, :2]) * [1.0, -1.0]
    return (vectors * (-values if spectrum == "negative" else values)[:, None]) @ np.swapaxes(vectors, 1, 2)


def gaussians(A: Array, extent: Array, means: bool, rng: np.random.Generator) -> ge.Law:
    """Draw Gaussians with |S^{1/2} A S^{1/2}| = extent (B,): log-normal eigenvalues, random axes, any anisotropy."""
    count, d, _ = A.shape
    vectors = np.linalg.qr(rng.standard_normal((count, d, d)))[0]
    S = (vectors * np.exp(1.5 * rng.standard_normal((count, 1, d)))) @ np.swapaxes(vectors, 1, 2)
    S *= (extent / ge.size(A, S))[:, None, None]
    z = rng.standard_normal((count, d)) * means
    return np.einsum("bij,bj->bi", np.linalg.cholesky(S), z), S


def least_curvature(hessian: Array, metric: Array) -> Array:
    """Return the least eigenvalue (B,) of the Hessian in the metric, over the largest absolute one."""
    back = np.linalg.inv(np.linalg.cholesky(metric))
    values = np.linalg.eigvalsh(back @ hessian @ np.swapaxes(back, 1, 2))
    return values[:, 0] / np.abs(values).max(axis=1)


def at_points(search: str, A: Array, law: ge.Law, means: bool) -> Array:
    """Return the least curvature (B,) of E at Gaussians; without `means`, in directions of centred Gaussians alone."""
    find = ge.hessian_twisted if search == "twisted" else ge.hessian_wasserstein
    hessian, metric = find(A, *law)
    # Reflection x -> -x fixes centred Gaussians: they are totally geodesic, and their block is their own Hessian.
    first = 0 if means else A.shape[-1]
    return least_curvature(hessian[:, first:, first:], metric[:, first:, first:])


def along_geodesics(A: Array, first: ge.Law, second: ge.Law, times: int = 17) -> tuple[Array, Array]:
    """Return the least E'' (B,) on Wasserstein geodesics, over the sizes of its terms, and the larger extent of their
    ends.

    The former is -inf where E is infinite between finite ends; the extent of an end is |S^{1/2} A S^{1/2}|.
    """
    bends, extents = zip(
        *(ge.along_wasserstein(A, first, second, float(t)) for t in np.linspace(0.0, 1.0, times)), strict=True
    )
    values = np.array(bends)
    least = np.where(np.isnan(values).any(axis=0), -np.inf, values.min(axis=0))
    return least, np.maximum(extents[0], extents[-1])


def rows(d: int, spectrum: str, means: bool, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the table's rows of one class of A and Gaussians: one per search and bin of |S^{1/2} A S^{1/2}|."""
    rng = np.random.default_rng([seed, d, SPECTRA.index(spectrum), means])
    A = matrices(spectrum, count, d, rng)
    # The larger of two ends is uniform too if it is drawn first.
    extent = rng.uniform(0.01, 0.99, count)
    law, other = gaussians(A, extent, means, rng), gaussians(A, extent * rng.random(count), means, rng)
    for search in SEARCHES:
        if search == "geodesics":
            least, sizes = along_geodesics(A, law, other)
        else:
            least, sizes = at_points(search, A, law, means), extent
        for low, high in pairwise(EDGES):
            own = least[(sizes >= low) & (sizes < high)]
            bad = int(np.sum(own < -NEGATIVE))
            values = d, spectrum, means, search, low, high, len(own), bad, bad / max(1, len(own)), own.min(initial=1.0)
            yield dict(zip(COLUMNS, values, strict=True))


def search(count: int, seed: int = 0, quiet: bool = False) -> list[dict[str, Any]]:
    """Return the whole table."""
    classes = [(d, s, m) for d in (1, 2, 3) for s in SPECTRA for m in (False, True) if d > 1 or s != "indefinite"]
    bar = tqdm(classes, desc="classes", unit=" classes", file=sys.stderr, disable=quiet)
    return [row for d, spectrum, means in bar for row in rows(d, spectrum, means, count, seed)]


def total(table: list[dict[str, Any]], **wanted: Any) -> tuple[int, int]:
    """Return (violations, Gaussians) of the rows that have the wanted values."""
    own = [row for row in table if all(row[key] == value for key, value in wanted.items())]
    return sum(row["violations"] for row in own), sum(row["gaussians"] for row in own)


def summary(table: list[dict[str, Any]]) -> str:
    """Return the percentages of violations by class, a line per spectrum, means and dimension."""
    lines = [f"{'A':<12}{'means':<8}{'d':<4}" + "".join(f"{name:>13}" for name in SEARCHES)]
    for spectrum in SPECTRA:
        for means in (False, True):
            for d in (1, 2, 3):
                counts = [total(table, d=d, spectrum=spectrum, means=means, search=name) for name in SEARCHES]
                if counts[0][1]:
                    shares = "".join(f"{bad / count:13.2%}" for bad, count in counts)
                    lines.append(f"{spectrum:<12}{'any' if means else 'zero':<8}{d:<4}{shares}")
    return "\n".join(lines)


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """Draw fractions against |S^{1/2} A S^{1/2}|: a column per spectrum, a row for centred Gaussians and any mean."""
    drawn = canvas.figure(10.0, 6.2)
    grid = drawn.subplots(2, 3, sharex=True, sharey=True)
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    for row, means in zip(grid, (False, True), strict=True):
        for axes, spectrum in zip(row, SPECTRA, strict=True):
            for s, name in enumerate(SEARCHES):
                for d, style, marker in ((1, ":", "o"), (2, "--", "s"), (3, "-", "^")):
                    own = [
                        r
                        for r in table
                        if (r["d"], r["spectrum"], r["means"], r["search"]) == (d, spectrum, means, name)
                    ]
                    if own:
                        axes.plot(middles, [r["fraction"] for r in own], linestyle=style, marker=marker, markersize=4,
                                  linewidth=1.3, color=canvas.COLOURS[s], label=f"{name}, d = {d}")  # fmt: skip
            axes.set_title(f"A {spectrum}{'' if spectrum == 'indefinite' else ' definite'}, "
                           f"{'any mean' if means else 'mean zero'}", fontsize=10)  # fmt: skip
            axes.set_ylim(-0.04, 1.04)
            canvas.tidy(axes)
        row[0].set_ylabel("fraction that violates convexity")
    for axes in grid[1]:
        axes.set_xlabel(r"$|S^{1/2} A S^{1/2}|$")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    text = (
        "geodesics: E'' < 0 on a Wasserstein geodesic, against the larger of the two ends; wasserstein, twisted: the "
    )
    canvas.caption(drawn, text + "Hessian of E has a negative direction (twisted: restricted to Gaussians)")
    canvas.write(path, lambda stream: drawn.savefig(stream, format="png"))


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gaussians", type=int, default=4000, help="per class (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--out", type=Path, default=Path("energy_convexity"), help="the .csv and .png, without ending")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_args(arguments)
    if chosen.gaussians < 1:
        parser.error(f"--gaussians: got {chosen.gaussians}; need a whole number of at least 1")
    if not chosen.out.parent.is_dir():
        parser.error(f"--out: the folder {chosen.out.parent} does not exist")
    table = search(chosen.gaussians, chosen.seed, chosen.quiet)
    with chosen.out.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(table)
    draw(table, chosen.out.with_suffix(".png"))
    print(summary(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
