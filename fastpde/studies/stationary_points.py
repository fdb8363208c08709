"""Where random Gaussian laws go if no matrices commute: limits, their ranks and their stability (Theory 12.4).

S = L L^T moves by L' = V L L^T A L under softmax attention. In the clock dtau = tr S dt the shape Y = L / |L| has a
flow of its own, and log tr S grows by g(Y). A shape that comes to rest with g > 0 is a blow-up, with g < 0 a decay like
1 / t. Where g vanishes too, tr S ~ tau^p: S converges for p = 0, and for p = 1 it grows exponentially in t.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

import fastpde as fp
from fastpde._numbers import positive, whole
from fastpde.errors import explained

from .study_arguments import several
from .study_cells import Rows, rows_of
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

CASES = ((2, 2), (3, 3), (3, 2), (3, 1), (4, 4), (4, 2), (5, 5))
OUTCOMES = ("converges", "grows", "blows up", "decays", "moves", "undecided")
_TOLD = {
    "converges": "converges",
    "grows": "grows exponentially",
    "blows up": "blows up in a fixed shape",
    "decays": "decays to zero",
    "moves": "keeps changing its shape",
    "undecided": "is undecided",
}
_STEPS = 20_000  # of the method: a shape that still moves after so many does not come to rest
_BACK = 8.0  # the end is compared with tau over this
_MOVED = 1e-2  # |change of Y Y^T| in that time of a shape that moves
_FIXED = 100.0  # d log tr S / d log tau beyond which g does not vanish
_LOOK = 50  # steps between two looks at whether a shape with growth is at rest
_REST = 1e-8, 1e-6  # |(Y Y^T)'| / |g| of such a shape, and the smallest |g|
_CONVERGES, _GROWS = 0.25, (0.75, 1.5)  # the same of S that converges, and of S that grows exponentially
_ISOTROPIC = 1e-2  # |F^T A F| / |A| of an isotropic shape, F an orthonormal basis of the directions that stay
_NEUTRAL = 1e-6  # rates, in units |V| |A| tr S, that count as zero
_VANISHES = 0.25  # -d log lambda / d log tau of an eigenvalue of the shape that vanishes


@dataclass(frozen=True, eq=False, repr=False)
class StationaryPoints(Study):
    """The table of `stationary_points`."""

    name: ClassVar[str] = "stationary-points"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "d": Column("whole", "", "dimension"),
            "k": Column("whole", "", "rows of Q and K"),
            "draw": Column("whole", "", "number of the draw in its case"),
            "outcome": Column("text", "", "what S does in the end: one of " + ", ".join(OUTCOMES)),
            "rank": Column("whole", "", "of the shape S / tr S in the end, if it comes to rest; else -1"),
            "isotropy": Column("number", "", "|L^T A L| / (|A| tr S) in the end: 0 if it is isotropic"),
            "power": Column("number", "", "d log tr S / d log tau in the end, dtau = tr S dt; nan with a fixed growth"),
            "growth": Column("number", "|V| |A|", "d log tr S / dtau in the end; on average if the shape moves"),
            "rate": Column("number", "|V| |A| tr S", "largest real part of the flow linearised at an isotropic shape, "
                           "but for zeros; else nan"),
            "drift": Column("number", "", "|<u, A V^-1 u>| / (|A| |V^-1|) of an isotropic shape u u^T; else nan"),
            "tau": Column("number", "1/(|V| |A|)", "how far the law was followed"),
            "steps": Column("whole", "", "steps that this took"),
        }  # fmt: skip

    def counts(self, d: int, k: int) -> dict[str, int]:
        """Return how many laws of a case have each outcome, in the order of `OUTCOMES`."""
        own = self["outcome"][(self["d"] == d) & (self["k"] == k)]
        return {outcome: int(np.sum(own == outcome)) for outcome in OUTCOMES}

    @property
    def isotropic(self) -> Array:
        """A mask of the laws whose shape comes to rest where L^T A L = 0."""
        return np.isfinite(self["rate"])

    def summary(self) -> str:
        """Return how many laws have each outcome, and how many isotropic ends attract."""
        found = [(outcome, int(np.sum(self["outcome"] == outcome))) for outcome in OUTCOMES]
        first, *others = [(_TOLD[outcome], count) for outcome, count in found if count]
        told = [f"{first[0]} in {first[1]} of {len(self)} laws"] + [f"{text} in {count}" for text, count in others]
        ends = self.isotropic
        attract = int(np.sum(self["rate"][ends] < 0.0))
        told[-1] += f"; {int(ends.sum())} shapes end isotropic, {attract} of them with a stable linearised flow"
        return "S " + ", ".join(told)

    def figure(self) -> Figure:
        """Draw the shares of outcomes of each case, and growth against stability of isotropic ends."""
        from fastpde.plot import isotropic_ends

        return isotropic_ends.figure(self)


@explained
def stationary_points(
    cases: Sequence[tuple[int, int]] = CASES,
    draws: int = 100,
    *,
    tau: float = 1e8,
    seed: int = 0,
    cells: str | Path | None = None,
    progress: Any = False,
) -> StationaryPoints:
    """Follow the shapes of N(0, S0) under softmax attention with random Q, K, V to their ends, and ask what attracts.

    Nothing commutes, so that no closed form says what the limits are: this is the open question of section 4.1 of the
    paper. A shape that comes to rest without growth should be isotropic, L^T A L = 0, and the flow linearised there
    should be stable.

    Args:
        cases: pairs (d, k), the dimension and the number of rows of Q and K, each once.
        draws: number of laws per case; draw b comes from `np.random.default_rng([seed, d, k, b])`, Q and K (k, d), V
            and G (d, d) with N(0, 1) entries, S0 = G G^T.
        tau: how far laws are followed, in units 1 / (|V| |A|) of the clock; at least 100.
        seed: the seed of all random numbers.
        cells: a file that keeps finished laws, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of laws that are done, {"systems": number of laws}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 12.4; Castin et al. 2025, section 4.1.
    """
    pairs = [_case(pair) for pair in several("cases", cases)]
    count, far = whole("draws", draws, 1), positive("tau", tau)
    if far < 100.0:
        raise fp.InputError("tau", repr(tau), "at least 100")
    parameters = {"cases": pairs, "draws": count, "tau": far, "seed": whole("seed", seed, 0)}
    tasks = {f"{d} {k} {b}": (d, k, b, parameters) for d, k in pairs for b in range(count)}
    return StationaryPoints.of_rows(parameters, rows_of(_rows, tasks, cells, parameters, progress))


def _case(pair: Any) -> list[int]:
    """Return a pair (d, k) as a list. Raises InputError, InputTypeError."""
    try:
        d, k = pair
    except (TypeError, ValueError):
        raise fp.InputError("cases", repr(pair), "pairs (d, k)") from None
    return [whole("cases", d, 2), whole("cases", k, 1)]


class _End(NamedTuple):
    """A shape at the end of its way, and at tau over 8: factors Y (d, d), |Y| = 1; and how far it was followed."""

    Y: Array
    before: Array
    grown: float  # of log tr S between them
    total: float  # of log tr S from the start
    growth: float  # g of a shape at rest with growth, before tau; else 0
    tau: float
    steps: int


def _rows(d: int, k: int, b: int, parameters: Mapping[str, Any]) -> Rows:
    """Return the row of one law."""
    stream = np.random.default_rng([parameters["seed"], d, k, b])
    Q, K, V, G = (stream.standard_normal(shape) for shape in ((k, d), (k, d), (d, d), (d, d)))
    A = K.T @ Q / np.linalg.norm(K.T @ Q)
    V = V / np.linalg.norm(V)
    end = _followed(A, V, G / np.linalg.norm(G), parameters["tau"])
    S, before = end.Y @ end.Y.T, end.before @ end.before.T
    values, vectors = np.linalg.eigh(S)
    falls = np.log(np.maximum(np.linalg.eigvalsh(before), 1e-300) / np.maximum(values, 1e-300)) / np.log(_BACK)
    keep = (values > 1e-15) & (falls < _VANISHES)
    frame, isotropy = vectors[:, keep], float(np.linalg.norm(end.Y.T @ A @ end.Y))
    power, growth, rank = float(end.grown / np.log(_BACK)), float(end.grown / end.tau / (1.0 - 1.0 / _BACK)), keep.sum()
    outcome, rate, drift = "undecided", np.nan, np.nan
    if end.growth:
        outcome, power, growth = "blows up" if end.growth > 0.0 else "decays", np.nan, end.growth
    elif end.tau < parameters["tau"]:
        outcome, power, growth, rank = "moves", np.nan, end.total / end.tau, -1
    elif np.linalg.norm(frame.T @ A @ frame) < _ISOTROPIC:
        rate, drift = _stability(A, V, frame * np.sqrt(values[keep]))
        if abs(power) < _CONVERGES:
            outcome = "converges"
        elif _GROWS[0] < power < _GROWS[1]:
            outcome = "grows"
    elif np.linalg.norm(S - before) > _MOVED:
        outcome, power, growth, rank = "moves", np.nan, end.total / end.tau, -1
    elif abs(power) > _FIXED:
        outcome, power = "blows up" if power > 0.0 else "decays", np.nan
    return [{
        "d": d, "k": k, "draw": b, "outcome": outcome, "rank": int(rank), "isotropy": isotropy, "power": power,
        "growth": growth, "rate": rate, "drift": drift, "tau": end.tau, "steps": end.steps,
    }]  # fmt: skip


def _followed(A: Array, V: Array, Y: Array, tau: float) -> _End:
    """Follow a shape: Y' = F - <F, Y> Y with F = V Y Y^T A Y, and (log tr S)' = 2 <F, Y>, by LSODA."""
    from scipy.integrate import LSODA

    shape, size = Y.shape, Y.size

    def slope(_: float, y: Array) -> Array:
        L = y[:size].reshape(shape)
        F = V @ L @ (L.T @ A @ L)
        growth = np.vdot(F, L) / np.vdot(L, L)
        return np.append((F - growth * L).ravel(), 2.0 * growth)

    run = LSODA(slope, 0.0, np.append(Y.ravel(), 0.0), tau, rtol=1e-9, atol=1e-12)
    before, steps, growth = None, 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA warns why it has failed
        while run.status == "running" and steps < _STEPS and not growth:
            run.step()
            steps += 1
            growth = _fixed(A, V, run.y[:size].reshape(shape)) if steps % _LOOK == 0 else 0.0
            if before is None and run.t >= tau / _BACK:
                before = run.dense_output()(tau / _BACK)
    end = np.asarray(run.y)
    before = end if before is None else before
    units = [y[:size].reshape(shape) / np.linalg.norm(y[:size]) for y in (end, before)]
    return _End(units[0], units[1], float(end[-1] - before[-1]), float(end[-1]), growth, float(run.t), steps)


def _fixed(A: Array, V: Array, L: Array) -> float:
    """Return the growth g of tr S in a shape that is at rest, 0 for one that moves or has no growth."""
    S = L @ L.T / np.vdot(L, L)
    rate = V @ S @ A @ S
    growth = 2.0 * float(np.trace(rate))
    moves = np.linalg.norm(rate + rate.T - growth * S)
    return growth if abs(growth) > _REST[1] and moves < _REST[0] * abs(growth) else 0.0


def _stability(A: Array, V: Array, U: Array) -> tuple[float, float]:
    """Return the largest real part of the flow linearised at U U^T / |U|^2, but for zeros, and the drift if r = 1."""
    U = U / np.linalg.norm(U)
    try:
        rates = fp.growth_rates(fp.Softmax(A, np.eye(len(A)), V), fp.Gaussian(0.0, U @ U.T))
    except fp.InputError:  # not at rest to 1e-4
        return np.nan, np.nan
    some = np.abs(rates) > _NEUTRAL
    rate = float(rates.real[some].max()) if some.any() else 0.0
    if U.shape[1] > 1:
        return rate, np.nan
    inverse = np.linalg.inv(V)
    return rate, float(abs((U.T @ A @ inverse @ U).item()) / np.linalg.norm(inverse))
