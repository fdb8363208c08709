"""Distances from clouds of tokens to the limit of their law, exact and sliced.

In one dimension the flow keeps the order of points, so the quantile function of the law at time t is the flow map of
the quantile function at first, and W_p is an integral over levels. In more dimensions, and where no quantile function
is known, many points of the law are moved, and W_p is that to these points: exact by optimal transport for small
clouds, and sliced. Under a mask distances are conditional: those of the tokens of each position to the law, which is
the same at all positions. Source: Theory 9, 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.interpolate import make_interp_spline

import fastpde as fp

from .table import Array

if TYPE_CHECKING:
    from .limit_reference import Reference
    from .mask_levels import Levels

EXACT = 320  # tokens of a position, at most, of which distances are exact in more than one dimension
_EXACT_IN_ALL = 1000  # tokens, at most, in all positions
_FEWER = 2048  # points of the law in exact distances
_PROJECTIONS = 16
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
_KNOTS = 2001  # of the spline of the flow map, of degree 7: errors are rounding for maps that vary on a tenth of it
_DEGREE = 7
_GAUSS = 8  # points in each part of the levels
_HALVINGS = 40  # of the first and the last part, where quantiles may grow like a logarithm
_NARROWEST = 2.0**-46  # of these parts: 1 - u is rounded to multiples of 2^-53
_POWERS = np.array([1.0, 2.0, 2.0])  # p of W_1, W_2 and the sliced W_2
_TOGETHER = 2**20  # parts of the levels that are integrated over at once


class Found(NamedTuple):
    """Distances of a cloud to the law, and how W_1 and W_2 were found, a word of `HOW`."""

    how: str
    w1: float
    w2: float
    sliced: float


HOW = {
    "quantiles": "exact, to the quantile function of the law",
    "points": "exact, to points of the law",
    "sliced": "only the sliced distance is known",
    "none": "they were not asked for",
}
NOT_ASKED = Found("none", np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Distances:
    """The law at some times, as its quantile function or as points.

    Attributes:
        lines: a spline of the flow map for each time, with the quantile function at first; empty: points are used.
        clouds: (frames, N, d) moved points.
    """

    law: fp.laws.Law
    lines: tuple[Any, ...]
    clouds: Array

    @cached_property
    def shadows(self) -> list[Shadows]:
        """The points at each time, for sliced distances."""
        return [Shadows.of(cloud) for cloud in self.clouds]

    @staticmethod
    def of(reference: Reference, count: int, seed: int) -> Distances:
        """Move what stands for the law: knots of a spline, or `count` Sobol points with that seed."""
        law, frames = reference.law, range(len(reference.t))
        if law.dimension == 1 and (ends := _ends(law)) is not None:
            knots = np.linspace(*ends, _KNOTS)
            moved = [reference.push(frame, knots[:, None])[:, 0] for frame in frames]
            return Distances(law, tuple(make_interp_spline(knots, y, _DEGREE) for y in moved), np.empty((0, 0, 1)))
        x = law.sobol(count, seed)
        return Distances(law, (), np.array([reference.push(frame, x) for frame in frames]))

    def to(self, x: Array, frame: int, levels: Levels) -> Found:
        """Return the distances of tokens x (n, d) at a time; W_1 and W_2 of too many tokens are nan.

        With several positions they are conditional, (sum_k mass_k W_p^p)^{1/p} over the positions.
        """
        exactly = x.shape[1] == 1 or (len(x) <= _EXACT_IN_ALL and levels.counts.max() <= EXACT)
        how = "quantiles" if self.lines else "points" if exactly else "sliced"
        each = np.array([self._of_one(part, frame, exactly) for part in np.split(x, levels.starts[1:])])
        powers = levels.masses @ each**_POWERS
        return Found(how, *(powers ** (1.0 / _POWERS)).tolist())

    def _of_one(self, x: Array, frame: int, exactly: bool) -> tuple[float, float, float]:
        """Return W_1, W_2 and the sliced W_2 of the tokens x (n, d) of a position; nan for what is not asked for."""
        if self.lines:
            first, second = self._on_line(np.sort(x[:, 0]), frame)
            return first, second, second
        cloud = self.clouds[frame]
        both = (exact(x, cloud, 1.0), exact(x, cloud, 2.0)) if exactly else (np.nan, np.nan)
        return *both, both[1] if x.shape[1] == 1 else self.shadows[frame].to(x)

    def apart(self, other: Distances, frame: int) -> tuple[float, float, float]:
        """Return W_1, W_2 and the sliced W_2 of the points of two references: what a distance cannot fall below."""
        if self.lines:
            return 0.0, 0.0, 0.0
        x, y = self.clouds[frame], other.clouds[frame]
        some = x if x.shape[1] == 1 else x[: _FEWER // 2]
        both = exact(some, y, 1.0), exact(some, y, 2.0)
        return *both, both[1] if x.shape[1] == 1 else other.shadows[frame].to(x)

    def _on_line(self, x: Array, frame: int) -> tuple[float, float]:
        """Return W_1 and W_2 of sorted tokens x (n,): int |x(u) - q(u)|^p du, q the quantile function.

        Token i has the levels from i/n to (i + 1)/n. In each part of them, the first and the last one halved many times
        and the middle a border, there are Gauss-Legendre points.
        """
        n = len(x)
        ends = 0.5 ** np.arange(1, _HALVINGS) / n
        ends = ends[ends >= _NARROWEST]
        levels = np.unique(np.concatenate([np.arange(n + 1) / n, [0.5], ends, 1.0 - ends]))
        first, second = 0.0, 0.0
        for some in range(0, len(levels) - 1, _TOGETHER):
            borders = levels[some : some + _TOGETHER + 1]
            width = np.diff(borders)
            token = np.minimum((0.5 * (borders[1:] + borders[:-1]) * n).astype(np.int64), n - 1)
            for share, weight in zip(*_unit_rule(), strict=True):
                away = np.abs(x[token] - self.lines[frame](self.law.quantile(borders[:-1] + share * width)))
                first += weight * float(width @ away)
                second += weight * float(width @ away**2)
        return first, float(np.sqrt(second))


def _unit_rule() -> tuple[Array, Array]:
    """Return the Gauss-Legendre rule on [0, 1]."""
    s, w = np.polynomial.legendre.leggauss(_GAUSS)
    return 0.5 * (1.0 + s), 0.5 * w


def _ends(law: fp.laws.Law) -> tuple[float, float] | None:
    """Return where levels next to 0 and 1 are, or None if the quantile function is not known."""
    try:
        low, high = law.quantile(np.array([2.0**-54, 1.0 - 2.0**-53]))  # beyond all Gauss points
    except fp.InputError:
        return None
    return float(low), float(high)


def exact(x: Array, y: Array, p: float) -> float:
    """Return W_p of tokens and points, in more than one dimension of at most 2048 of the points."""
    return float(fp.wasserstein(x, y if x.shape[1] == 1 else y[:_FEWER], p))  # type: ignore[arg-type]


def directions(d: int) -> Array:
    """Return unit vectors (16, d), the same each time, those of `fp.wasserstein` for its seed 0."""
    drawn = np.random.default_rng(0).normal(size=(_PROJECTIONS, d))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


@dataclass(frozen=True)
class Shadows:
    """Points y (N, d) seen along some directions u, for sliced distances of many clouds to them.

    Attributes:
        mean_square: the mean of <u, y>^2 over points and directions.
        integrals: (directions, N + 1), the integrals of the quantile functions of <u, y> up to the levels j/N.
    """

    mean_square: float
    integrals: Array

    @staticmethod
    def of(y: Array) -> Shadows:
        """Sort the points along each direction."""
        seen = np.sort(directions(y.shape[1]) @ y.T, axis=1)
        return Shadows(float(np.mean(seen**2)), np.pad(np.cumsum(seen, axis=1) / len(y), ((0, 0), (1, 0))))

    def to(self, x: Array) -> float:
        """Return the sliced W_2 from tokens x (n, d) to the points.

        Token i, in their order along a direction, has the levels from i/n to (i + 1)/n, so that W_2^2 on the line is
        int (x_i - q)^2 = mean x^2 - 2 sum_i x_i int q + mean y^2, q the quantile function of the points.
        """
        n, total = len(x), self.mean_square
        levels, borders = np.arange(n + 1) / n, np.arange(self.integrals.shape[1]) / (self.integrals.shape[1] - 1)
        for u, integral in zip(directions(x.shape[1]), self.integrals, strict=True):
            seen = np.sort(x @ u)
            both = seen @ np.diff(np.interp(levels, borders, integral))
            total += float(seen @ seen / n - 2.0 * both) / len(self.integrals)
        return float(np.sqrt(max(total, 0.0)))
