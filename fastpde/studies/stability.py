"""Distances of pairs of clouds along the flow, against the bounds of Theory 8: no pair may exceed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import fastpde as fp
from fastpde._numbers import positive, whole
from fastpde.attention.variants import VARIANTS, chosen, named
from fastpde.errors import explained

from .study_arguments import code_of, several
from .study_cells import Rows, rows_of
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

_COMPOSED = ("multihead", "masked")
# The error that a flow at rtol = 1e-9 and a distance may have.
_ROUNDING = 1e-7
# Number of radii measured per interval of the table: the bound grows from each of them until the next is known.
_BETWEEN = 8
_PAIRS = ("independent", "nudged", "shifted")


@dataclass(frozen=True, eq=False, repr=False)
class Stability(Study):
    """The table of `stability`."""

    name: ClassVar[str] = "stability"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "variant": Column("text", "", "of attention"),
            "draw": Column("whole", "", "number of the pair"),
            "pair": Column("text", "", "how the second cloud was made"),
            "t": Column("number", "time", ""),
            "distance": Column("number", "length", "W_2 of the pair; for masked attention the conditional distance"),
            "log_ratio": Column("number", "", "log of distance / distance at t = 0"),
            "log_bound": Column("number", "", "log C(t, R0); inf where the support may be infinite"),
            "log_measured": Column("number", "", "log C from the radii that were measured"),
            "radius": Column("number", "length", "largest |x| of both clouds"),
            "radius_bound": Column("number", "length", "R(t) from R0"),
        }

    @property
    def verdicts(self) -> dict[str, bool]:
        """A bool for each variant: whether no pair exceeded a bound, of the distance or of the radius."""
        good = self["log_ratio"] <= np.minimum(self["log_bound"], self["log_measured"]) + _ROUNDING
        good &= self["radius"] <= self["radius_bound"] * (1.0 + _ROUNDING)
        return {name: bool(good[self["variant"] == name].all()) for name in self.parameters["variants"]}

    def sharpness(self, variant: str) -> float:
        """Return the largest log_ratio / log_measured of a variant, where the bound is not trivial."""
        rows = (self["variant"] == variant) & (self["log_measured"] > 1e-6) & np.isfinite(self["log_measured"])
        return float(np.max(self["log_ratio"][rows] / self["log_measured"][rows])) if rows.any() else np.nan

    def summary(self) -> str:
        """Return whether the bounds held, and for each variant how close a pair came to them."""
        verdicts = self.verdicts
        broken = [name for name, holds in verdicts.items() if not holds]
        pairs = len(self) // self.parameters["times"]
        told = ", ".join(f"{name} {self.sharpness(name):.2f}" for name in verdicts)
        held = f"exceeded by {', '.join(broken)}" if broken else f"no pair of {pairs} exceeds a bound"
        return f"{held}; largest log ratio / log measured bound: {told}"

    def figure(self) -> Figure:
        """Draw ratios and bounds against t, with a panel per variant."""
        from fastpde.plot import pair_distances

        return pair_distances.figure(self)


@explained
def stability(
    variants: Sequence[Any] = (*VARIANTS, *_COMPOSED),
    draws: int = 25,
    *,
    n: int = 48,
    dimension: int = 2,
    radius: float = 1.0,
    speed: float = 0.5,
    t_end: float = 1.0,
    times: int = 11,
    seed: int = 0,
    cells: str | Path | None = None,
    progress: Any = False,
) -> Stability:
    """Follow pairs of clouds and compare W_2(mu_t, nu_t) / W_2(mu_0, nu_0) with the bounds of Theorem 3.1's kind.

    Q, K and V are random with |Q| = |K| = |K^T Q| = 1 and |V| = speed: a variant has one explicit bound C(t, R0) for
    all draws. The second cloud is independent of the first, or the first with each token nudged, or shifted.

    Args:
        variants: some of "softmax", "l2", "sigmoid", "sinkhorn" (eps = 1), "linear", "exponential", "multihead" (two
            softmax heads), "masked" (softmax; the distance is the conditional one), or classes of
            your own with a known bound.
        draws: number of pairs per variant; draw b comes from `np.random.default_rng([seed, b])`.
        n: number of tokens of a cloud.
        dimension: the dimension d.
        radius: the radius R0 of the ball that holds both clouds; the first has a token on its sphere.
        speed: the norm |V|.
        t_end: the last time.
        times: number of times, evenly spaced from 0 to t_end; at least 2.
        seed: the seed of all random numbers.
        cells: a file that keeps finished pairs, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of pairs that are done, {"systems": number of pairs}).

    Raises:
        InputError, InputTypeError: naming the argument; also where tokens may become infinite before t_end.

    Source: Theory 8.1, 8.2, 9; Castin et al. 2025, Theorem 3.1.
    """
    asked = several("variants", variants)
    every = [name if name in _COMPOSED else chosen("variants", name, beside=_COMPOSED).name for name in asked]
    names = several("variants", every)
    parameters = {
        "variants": names,
        **code_of(names),
        "draws": whole("draws", draws, 1),
        "n": whole("n", n, 2, 2000),
        "dimension": whole("dimension", dimension, 1),
        "radius": positive("radius", radius),
        "speed": positive("speed", speed),
        "t_end": positive("t_end", t_end),
        "times": whole("times", times, 2),
        "seed": whole("seed", seed, 0),
    }
    for name in names:  # no bound may be known of a user's own
        fp.stability_bound(_attention(name, np.random.default_rng(0), dimension, 1.0), [0.0], 1.0)
    tasks = {f"{name} {b}": (name, b, parameters) for name in names for b in range(draws)}
    return Stability.of_rows(parameters, rows_of(_pair, tasks, cells, parameters, progress))


def _attention(name: str, stream: np.random.Generator, d: int, speed: float) -> fp.Attention:
    def head(kind: Any, size: float) -> fp.Attention:
        G, H, B = stream.standard_normal((3, d, d))
        rotation = np.linalg.qr(H)[0]  # |K| = 1 and |K^T Q| = |Q|
        made: fp.Attention = kind(G / np.linalg.norm(G, 2), rotation, size * B / np.linalg.norm(B, 2))
        return made

    if name == "multihead":
        return fp.MultiHead([head(fp.Softmax, speed / 2), head(fp.Softmax, speed / 2)])
    if name == "masked":
        return fp.Masked(head(fp.Softmax, speed))
    return head(named(name).kind, speed)


def _clouds(stream: np.random.Generator, kind: str, n: int, d: int, radius: float) -> Array:
    """Return two clouds (2, n, d) in the ball, the first with a token on its sphere."""

    def cloud() -> Array:
        x = stream.standard_normal((n, d)) * stream.uniform(0.2, 1.0, d)
        return np.asarray(x / np.linalg.norm(x, axis=1).max())

    x = cloud()
    if kind == "independent":
        y = cloud()
    elif kind == "nudged":
        y = x + 1e-3 * stream.standard_normal((n, d))
    else:
        y = x + 0.1 * stream.standard_normal(d)
    y /= max(1.0, np.linalg.norm(y, axis=1).max())
    return radius * np.stack([x, y])


def _pair(name: str, b: int, parameters: Mapping[str, Any]) -> Rows:
    """Return the rows of one pair, one for each time."""
    stream = np.random.default_rng([parameters["seed"], b])
    n, d, R0, kind = parameters["n"], parameters["dimension"], parameters["radius"], _PAIRS[b % len(_PAIRS)]
    attention = _attention(name, stream, d, parameters["speed"])
    x0 = _clouds(stream, kind, n, d, R0)
    fine = np.linspace(0.0, parameters["t_end"], _BETWEEN * (parameters["times"] - 1) + 1)
    t = fine[::_BETWEEN]
    paths = []
    for cloud in x0:
        found: Any = fp.solve(attention, cloud, (0.0, t[-1]), t_eval=fine, rtol=1e-9, atol=1e-12, backend="direct")
        if not found.success:
            need = "a time, a speed and a radius at which tokens stay finite"
            raise fp.InputError("t_end", f"{t[-1]:g} with {name}", need, found.message)
        paths.append(found.x)
    x, y = paths
    positions = np.arange(n, dtype=float)
    distance = np.array([
        fp.conditional_wasserstein(a, c, positions) if name == "masked" else fp.wasserstein(a, c)
        for a, c in zip(x[::_BETWEEN], y[::_BETWEEN], strict=True)
    ])  # fmt: skip
    radii = np.linalg.norm(np.concatenate([x, y], axis=1), axis=2).max(axis=1)
    bounds = fp.stability_bound(attention, t, R0, log=True)
    measured = fp.measured_stability_bound(attention, fine, radii, log=True)[::_BETWEEN]
    reach = fp.support_bound(attention, t, R0)
    ratio = np.log(distance / distance[0])
    columns = (t, distance, ratio, bounds, measured, radii[::_BETWEEN], reach)
    keys = ("t", "distance", "log_ratio", "log_bound", "log_measured", "radius", "radius_bound")
    return [
        {"variant": name, "draw": b, "pair": kind} | dict(zip(keys, map(float, row), strict=True))
        for row in zip(*columns, strict=True)
    ]
