"""Where the interaction energy of Gaussian laws fails to be convex along geodesics: open question 1 of the paper.

E(mu) = 1/2 iint e^{<x, A y>} dmu dmu, A symmetric, mu = N(m, S) with |S^{1/2} A S^{1/2}| < 1, where E is finite. It is
not geodesically convex for the twisted Wasserstein metric int Z_mu |v|^2 dmu, Z_mu(x) = int e^{<x, A y>} dmu(y), and
the paper asks for classes of measures on which it is. Three searches:

    geodesics    E'' < 0 somewhere on the Wasserstein (Bures) geodesic of two random Gaussians, in closed form
    wasserstein  the Riemannian Hessian of E at a random Gaussian has a negative direction, Wasserstein metric
    twisted      the same in the twisted metric restricted to Gaussians that move by affine velocities

Geodesics of the unrestricted twisted metric may leave the Gaussians, and its optimal velocities need not be affine: the
third search is about the restriction, and a convex restriction does not make E convex. In d = 1 every velocity that
keeps Gaussians Gaussian is affine, so there the restricted metric is the induced one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import fastpde as fp
from fastpde._numbers import one_of, whole
from fastpde.errors import explained
from fastpde.theory import gaussian_energy as ge

from .study_arguments import several
from .study_cells import Rows, rows_of
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

SPECTRA = ("positive", "negative", "indefinite")
SEARCHES = ("geodesics", "wasserstein", "twisted")
_EDGES = np.linspace(0.0, 1.0, 11)
_NEGATIVE = 1e-9  # of the largest size: a direction counts as negative below, as derivatives are exact to rounding
_TIMES = 17  # on a geodesic


@dataclass(frozen=True, eq=False, repr=False)
class EnergyConvexity(Study):
    """The table of `energy_convexity`."""

    name: ClassVar[str] = "energy-convexity"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "d": Column("whole", "", "dimension"),
            "spectrum": Column("text", "", "of A: positive, negative or indefinite"),
            "means": Column("text", "", "of the Gaussians: zero, or any"),
            "search": Column("text", "", "one of " + ", ".join(SEARCHES)),
            "size_from": Column("number", "", "least |S^{1/2} A S^{1/2}|; of geodesics, of the larger of the two ends"),
            "size_to": Column("number", "", "largest one"),
            "laws": Column("whole", "", "Gaussians, or geodesics, of this size"),
            "violations": Column("whole", "", "those at which E bends down"),
            "worst": Column("number", "", "the least curvature, over the largest one in size; -inf where E is infinite "
                            "between finite ends; nan without laws"),
        }  # fmt: skip

    def violations(self, **wanted: Any) -> tuple[int, int]:
        """Return (violations, laws) of the rows whose columns have the wanted values."""
        own = np.ones(len(self), bool)
        for name, value in wanted.items():
            own &= self[name] == value
        return int(self["violations"][own].sum()), int(self["laws"][own].sum())

    def summary(self) -> str:
        """Return by search, spectrum and means at how many laws E bends down."""
        told = []
        for search in SEARCHES:
            shares = []
            for spectrum in self.parameters["spectra"]:
                for means in ("zero", "any"):
                    bad, count = self.violations(search=search, spectrum=spectrum, means=means)
                    if count:
                        shares.append(f"{spectrum} A and {means} mean{'s' if means == 'any' else ''} {bad / count:.2%}")
            told.append(f"{search}: " + ", ".join(shares))
        return "E bends down at these shares of laws: " + "; ".join(told)

    def figure(self) -> Figure:
        """Draw the shares of laws at which E bends down against |S^{1/2} A S^{1/2}|."""
        from fastpde.plot import convexity

        return convexity.figure(self)


@explained
def energy_convexity(
    dimensions: Sequence[int] = (1, 2, 3),
    gaussians: int = 4000,
    *,
    spectra: Sequence[str] = SPECTRA,
    seed: int = 0,
    cells: str | Path | None = None,
    progress: Any = False,
) -> EnergyConvexity:
    """Search random Gaussian laws, and geodesics between them, for directions in which the softmax energy bends down.

    A has random axes and log-normal absolute eigenvalues. Covariances have log-normal eigenvalues and random axes, and
    are scaled to a uniform |S^{1/2} A S^{1/2}|; means are zero, or S^{1/2} z with a normal z.

    Args:
        dimensions: of the laws, each once.
        gaussians: number of laws of a class: of a dimension, a spectrum, and means or none.
        spectra: of A, some of "positive", "negative", "indefinite" (d >= 2).
        seed: the seed of all random numbers.
        cells: a file that keeps finished classes, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of classes that are done, {"systems": number of classes}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 7; Castin et al. 2025, section 5.4.
    """
    parameters: dict[str, Any] = {
        "dimensions": [whole("dimensions", d, 1) for d in several("dimensions", dimensions)],
        "gaussians": whole("gaussians", gaussians, 1),
        "spectra": [one_of("spectra", name, SPECTRA) for name in several("spectra", spectra)],
        "seed": whole("seed", seed, 0),
    }
    every = classes(parameters["dimensions"], parameters["spectra"])
    tasks = {" ".join(map(str, one)): (*one, parameters["gaussians"], parameters["seed"]) for one in every}
    return EnergyConvexity.of_rows(parameters, rows_of(_rows, tasks, cells, parameters, progress))


def classes(dimensions: Sequence[int], spectra: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return (dimension, spectrum, means) of all classes of laws. Raises InputError if there is none."""
    found = [
        (d, spectrum, means)
        for d in dimensions
        for spectrum in spectra
        for means in ("zero", "any")
        if d > 1 or spectrum != "indefinite"
    ]
    if not found:
        raise fp.InputError("spectra", repr(list(spectra)), "more than indefinite A, which need d >= 2")
    return found


def matrices(spectrum: str, count: int, d: int, rng: np.random.Generator) -> Array:
    """Draw symmetric A (B, d, d) with random eigenvectors, log-normal absolute eigenvalues and the signs asked for."""
    vectors = np.linalg.qr(rng.standard_normal((count, d, d)))[0]
    values = np.exp(rng.standard_normal((count, d)))
    if spectrum == "indefinite":
        values *= np.where(rng.random((count, d)) < 0.5, -1.0, 1.0)
        values[:, :2] = np.abs(values[:, :2]) * [1.0, -1.0]
    return (vectors * (-values if spectrum == "negative" else values)[:, None]) @ np.swapaxes(vectors, 1, 2)


def laws(A: Array, extent: Array, means: str, rng: np.random.Generator) -> ge.Law:
    """Draw Gaussians with |S^{1/2} A S^{1/2}| = extent (B,): log-normal eigenvalues, random axes, any anisotropy."""
    count, d, _ = A.shape
    vectors = np.linalg.qr(rng.standard_normal((count, d, d)))[0]
    S = (vectors * np.exp(1.5 * rng.standard_normal((count, 1, d)))) @ np.swapaxes(vectors, 1, 2)
    S *= (extent / ge.size(A, S))[:, None, None]
    z = rng.standard_normal((count, d)) * (means == "any")
    return np.einsum("bij,bj->bi", np.linalg.cholesky(S), z), S


def at_points(search: str, A: Array, law: ge.Law, means: str) -> Array:
    """Return the least curvature (B,) of E at Gaussians, over the largest absolute one.

    Among centred Gaussians, if means are "zero": reflection x -> -x fixes these, so they are totally geodesic, and
    their block is their own Hessian.
    """
    find = ge.hessian_twisted if search == "twisted" else ge.hessian_wasserstein
    hessian, metric = find(A, *law)
    first = A.shape[-1] if means == "zero" else 0
    back = np.linalg.inv(np.linalg.cholesky(metric[:, first:, first:]))
    values = np.linalg.eigvalsh(back @ hessian[:, first:, first:] @ np.swapaxes(back, 1, 2))
    return np.asarray(values[:, 0] / np.abs(values).max(axis=1))


def along_geodesics(A: Array, first: ge.Law, second: ge.Law) -> tuple[Array, Array]:
    """Return the least E'' (B,) on Wasserstein geodesics, over the sizes of its terms, and the larger extent of their
    ends.

    The former is -inf where E is infinite between finite ends; the extent of an end is |S^{1/2} A S^{1/2}|.
    """
    found = [ge.along_wasserstein(A, first, second, float(t)) for t in np.linspace(0.0, 1.0, _TIMES)]
    bends, extents = (np.array(values) for values in zip(*found, strict=True))
    least = np.where(np.isnan(bends).any(axis=0), -np.inf, bends.min(axis=0))
    return least, np.maximum(extents[0], extents[-1])


def _rows(d: int, spectrum: str, means: str, count: int, seed: int) -> Rows:
    """Return the rows of one class of laws: one per search and bin of |S^{1/2} A S^{1/2}|."""
    rng = np.random.default_rng([seed, d, SPECTRA.index(spectrum), means == "any"])
    A = matrices(spectrum, count, d, rng)
    # The larger of two ends is uniform too if it is drawn first.
    extent = rng.uniform(0.01, 0.99, count)
    law, other = laws(A, extent, means, rng), laws(A, extent * rng.random(count), means, rng)
    rows = []
    for search in SEARCHES:
        along = search == "geodesics"
        least, sizes = along_geodesics(A, law, other) if along else (at_points(search, A, law, means), extent)
        for low, high in pairwise(_EDGES.tolist()):
            own = least[(sizes >= low) & (sizes < high)]
            rows.append({
                "d": d, "spectrum": spectrum, "means": means, "search": search, "size_from": low, "size_to": high,
                "laws": len(own), "violations": int(np.sum(own < -_NEGATIVE)),
                "worst": float(own.min()) if len(own) else np.nan,
            })  # fmt: skip
    return rows
