"""Errors of n random tokens against the limit of their law: velocity, moments, distances and places over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastpde as fp
from fastpde._numbers import flag, positive, whole
from fastpde.errors import explained
from fastpde.integrate.reporting import counting

from . import central_limit
from .limit_distances import NOT_ASKED
from .limit_reference import Reference
from .limit_settings import COMPOSED, Setting, cells_of, named_laws, named_variants, samples_of, settings, underived
from .limit_table import MeanField, clt_of, limits_of
from .study_arguments import code_of, several
from .study_cells import Cells

VARIANTS = ("softmax", "l2", "sigmoid", "sinkhorn", *COMPOSED, "exponential")
SIZES = (100, 316, 1000, 3162, 10_000)
_DIMENSIONS = 64
_FOLLOWED = 10_000  # tokens, at most, whose places are compared with those of the limit


@explained
def mean_field(
    variants: Sequence[Any] = VARIANTS,
    sizes: Sequence[int] = SIZES,
    draws: int = 12,
    *,
    laws: Sequence[Any] = ("ball", "gaussian"),
    dimension: int = 2,
    strengths: Sequence[float] = (0.25,),
    times: int = 3,
    steps: int = 12,
    points: int = 32,
    distances: bool = True,
    clt_draws: int = 1000,
    seed: int = 0,
    backend: Any = "auto",
    cells: str | Path | None = None,
    progress: Any = False,
) -> MeanField:
    """Compare n tokens drawn from a law with its mean-field limit, for many laws, variants and n.

    Attention has A = strength G, |G| = 1 a random matrix, and V = I. Tokens are followed to t = 1 / (4 strength) beside
    the limit (`fp.MeanField`) and compared with it: their velocity at points of the law, moments, W_1, W_2 and sliced
    W_2, and how far at most 10,000 of them are from where the limit carries their starts. Distances are exact in
    dimension 1, and to many points of the law, for at most 320 tokens, in more; `limits` of the result says what these
    allow to see, and how far limits themselves may be off. The central limit is measured in clouds of 256 tokens and
    predicted by influence functions; the growth of W_2 to the limit stands beside the bound C(t, R0) and a local rate.

    Under a mask n tokens have n^{1/3} positions with n^{2/3} tokens each; distances are those of
    `fp.conditional_wasserstein` (d > 1: for at most 1000 tokens), other errors times the root of the part that is seen.

    Args:
        variants: some of "softmax", "l2", "sigmoid", "sinkhorn" (eps = 1), "linear", "exponential", "multihead" (two
            softmax heads), "masked" (softmax), or classes of your own without positions. Where a law is unbounded
            exponential attention has no limit, and is left out.
        sizes: numbers of tokens.
        draws: number of clouds of each size; seeds of draw b of n tokens are from `default_rng([seed, n, b])`.
        laws: some of "ball" (of radius 1), "gaussian" (N(0, I)), "sphere", "annulus" (from 1/2 to 1), "box" ([-1, 1]^d)
            and "mixture" (of two Gaussians), or laws of `fp.laws`.
        dimension: the dimension d; above 3 limits are those of Sobol points, where a law does not stay Gaussian.
        strengths: values of |A|, the norm of the matrix of the scores <Ax, y>; V = I, and a run ends at
            t = 1 / (4 |A|). For N(0, I) the error of the velocity has a second moment only if |A| < 1 / sqrt 2
            (Theory 8.3).
        times: number of times at which errors are measured, evenly spaced from first to last; at least 2.
        steps: number of steps of rk4, at least times - 1.
        points: number of points, drawn from the law anew for each cloud, at which velocities are compared.
        distances: whether W_1, W_2 and sliced W_2 are computed, which takes most of the time of small clouds.
        clt_draws: number of clouds by which the central limit is measured; 0: none.
        seed: the seed of all random numbers.
        backend: as for `fp.solve`.
        cells: a file that keeps finished cells, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of cells that are done, {"systems": number of cells}); a
            setting has a cell for its limit, one for its central limit, and one for each cloud.

    Raises:
        InputError, InputTypeError: naming the argument; also for a strength at which a limit cannot be followed.

    Source: Theory 8.3, 13.4; Fournier and Guillin (2015).
    """
    _check_alone(backend)
    d, names = whole("dimension", dimension, 1, _DIMENSIONS), named_variants(variants)
    of_name, strengths = named_laws(laws, d), [positive("strengths", s) for s in several("strengths", strengths)]
    asked, skipped = settings(of_name, names, strengths)
    parameters = {
        "variants": names,
        **code_of([name for name in names if name not in COMPOSED]),
        "sizes": [whole("sizes", n, 2) for n in several("sizes", sizes)],
        "laws": list(of_name),
        **(samples_of(of_name) | underived(names, d)),
        "skipped": skipped,
        "dimension": d,
        "strengths": strengths,
        **_counted(draws, times, steps, points, clt_draws, seed),
        "distances": flag("distances", distances),
    }
    tables = _Tables(parameters, Cells(cells, parameters), backend)
    with counting(progress, cells_of(asked, parameters)) as report:
        return tables.of(asked, of_name, report)


def _check_alone(backend: Any) -> None:
    """Raise InputError for a backend that shares tokens with other processes."""
    if getattr(backend, "processes", 1) > 1:
        remedy = "Give each process variants or sizes of its own."
        raise fp.InputError("backend", repr(backend), "one whose tokens are all in this process", remedy)


def _counted(draws: Any, times: Any, steps: Any, points: Any, clt_draws: Any, seed: Any) -> dict[str, int]:
    """Return the parameters that are numbers of times, steps, points and clouds, and the seed, checked."""
    frames = whole("times", times, 2)
    found = {
        "draws": whole("draws", draws, 2),
        "times": frames,
        "steps": whole("steps", steps, frames - 1),
        "points": whole("points", points, 1),
        "clt_draws": whole("clt_draws", clt_draws, 0),
        "seed": whole("seed", seed, 0),
    }
    if found["clt_draws"] == 1:
        raise fp.InputError("clt_draws", "1", "0, or at least 2 clouds")
    return found


class _Tables:
    """The rows of the tables, setting by setting, from finished cells where these are kept."""

    def __init__(self, parameters: Mapping[str, Any], kept: Cells, backend: Any) -> None:
        self._parameters, self._kept, self._backend, self._done = parameters, kept, backend, 0
        self.rows: list[dict[str, Any]] = []
        self.limits: list[dict[str, Any]] = []
        self.clt: list[dict[str, Any]] = []

    def of(
        self, asked: Sequence[Setting], laws: Mapping[str, fp.laws.Law], report: Callable[[int], object]
    ) -> MeanField:
        """Return the study of these settings. Raises as `add`."""
        for setting in asked:
            self.add(setting, laws[setting.law], report)
        columns = {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}
        return MeanField(self._parameters, columns, limits_of(self.limits), clt_of(self.clt))

    def add(self, setting: Setting, law: fp.laws.Law, report: Callable[[int], object]) -> None:
        """Add all rows of a setting; report(done) is called after each cell. Raises InputError, OSError."""
        made: list[Reference] = []

        def reference() -> Reference:  # made once, and only if a cell is missing
            if not made:
                made.append(Reference.of(setting, law, self._parameters))
            return made[0]

        def cell(name: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
            key = f"{name} {setting}"
            if key not in self._kept:
                self._kept.add(key, make())
            self._done += 1
            report(self._done)
            return self._kept[key]

        self.limits += cell("limit", lambda: reference().rows(self._parameters["distances"]))
        if self._parameters["clt_draws"]:
            self.clt += cell("clt", lambda: central_limit.rows(reference(), self._parameters))
        for n in self._parameters["sizes"]:
            for b in range(self._parameters["draws"]):

                def cloud(n: int = n, b: int = b) -> list[dict[str, Any]]:
                    return _cloud(reference(), n, b, self._parameters, self._backend)

                self.rows += cell(f"{n} {b}", cloud)


def _cloud(reference: Reference, n: int, b: int, parameters: Mapping[str, Any], backend: Any) -> list[dict[str, Any]]:
    """Return the rows of one cloud, one for each time."""
    law, attention, t, count = reference.law, reference.attention, reference.t, parameters["points"]
    first, second = np.random.default_rng([parameters["seed"], n, b]).integers(2**62, size=2).tolist()
    x0, levels = law.sample(n, first), reference.levels(n)
    followed = np.arange(min(n, _FOLLOWED)) * n // min(n, _FOLLOWED)
    starts = np.concatenate([x0[followed], law.sample(count, second)])
    places, spread, seen_by = None, levels.spread(count), levels.averaging()
    if reference.masked:
        places = np.repeat(levels.places, levels.counts)
    found: Any = fp.solve(
        attention, x0, (0.0, t[-1]), t_eval=t, method="rk4", step=t[-1] / parameters["steps"], positions=places,
        backend=backend,
    )  # fmt: skip
    if not found.success:
        raise fp.InputError("backend", repr(backend), "one that can follow the tokens", found.message)
    at_places, off_at_first = None if places is None else levels.places[spread], levels.means(x0) - law.mean
    rows = []
    for frame, x in enumerate(found.x):
        moved = reference.push(frame, starts)
        at, (mean, cov) = moved[len(followed) :], reference.moments[frame]
        seen = attention.velocity(x, at=at, positions=places, at_positions=at_places, backend=backend)
        coupled, level = x[followed] - moved[: len(followed)], levels.of_tokens(followed)
        own = x.mean(axis=0)
        known, w1, w2, sliced = reference.distances.to(x, frame, levels) if parameters["distances"] else NOT_ASKED
        rows.append({
            **reference.setting._asdict(),
            "n": n,
            "draw": b,
            "t": float(t[frame]),
            "positions": len(levels.counts),
            "velocity": levels.size(seen - reference.velocity(frame, at), spread),
            "mean": levels.of_means(seen_by @ levels.means(x) - mean),
            "cov": float(np.linalg.norm((x - own).T @ (x - own) / n - cov)),
            "distances": known,
            "w1": w1,
            "w2": w2,
            "sliced_w2": sliced,
            "followed": len(followed),
            "drift": levels.of_means(levels.drift(float(t[frame])) @ off_at_first),
            "coupling": levels.size(coupled, level),
            "coupling_max": float(np.sqrt(levels.seen[level] * np.square(coupled).sum(axis=1)).max()),
        })  # fmt: skip
    return rows
