"""Distances from clouds of tokens to the limit of their law, exact and sliced.

In one dimension the flow keeps the order of points, so the quantile function of the law at time t is the flow map of
the quantile function at first, and W_p is an integral over levels. In more dimensions, under a mask, and where no
quantile function is known, many points of the law are moved, and W_p is that to these points: exact by optimal
transport for small clouds, and sliced. Source: Theory 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import make_interp_spline

import fastpde as fp

from .table import Array

if TYPE_CHECKING:
    from .limit_reference import Reference

EXACT = 320  # tokens, at most, of which distances are exact in more than one dimension
_FEWER = 2048  # points of the law in exact distances
_PROJECTIONS = 16
_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)
_KNOTS = 2001  # of the spline of the flow map, of degree 7: errors are rounding for maps that vary on a tenth of it
_DEGREE = 7
_GAUSS = 8  # points in each part of the levels
_HALVINGS = 40  # of the first and the last part, where quantiles may grow like a logarithm
_NARROWEST = 2.0**-46  # of these parts: 1 - u is rounded to multiples of 2^-53


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

    @staticmethod
    def of(reference: Reference, count: int, seed: int) -> Distances:
        """Move what stands for the law: knots of a spline, or `count` Sobol points with that seed."""
        law, frames = reference.law, range(len(reference.t))
        if not reference.masked and law.dimension == 1 and (ends := _ends(law)) is not None:
            knots = np.linspace(*ends, _KNOTS)
            moved = [reference.push(frame, knots[:, None])[:, 0] for frame in frames]
            return Distances(law, tuple(make_interp_spline(knots, y, _DEGREE) for y in moved), np.empty((0, 0, 1)))
        x = law.sobol(count, seed)
        s = np.mod(0.5 + _GOLDEN * np.arange(count), 1.0) if reference.masked else None
        return Distances(law, (), np.array([reference.push(frame, x, s) for frame in frames]))

    def to(self, x: Array, frame: int) -> tuple[float, float, float]:
        """Return W_1, W_2 and the sliced W_2 of tokens x (n, d) at a time; nan for W_1 and W_2 of too many tokens."""
        if self.lines:
            first, second = self._on_line(np.sort(x[:, 0]), frame)
            return first, second, second
        cloud = self.clouds[frame]
        if x.shape[1] == 1 or len(x) <= EXACT:
            return exact(x, cloud, 1.0), exact(x, cloud, 2.0), sliced(x, cloud)
        return np.nan, np.nan, sliced(x, cloud)

    def apart(self, other: Distances, frame: int) -> tuple[float, float, float]:
        """Return W_1, W_2 and the sliced W_2 of the points of two references: what a distance cannot fall below."""
        if self.lines:
            return 0.0, 0.0, 0.0
        x, y = self.clouds[frame], other.clouds[frame]
        some = x if x.shape[1] == 1 else x[:_FEWER]
        return exact(some, y, 1.0), exact(some, y, 2.0), sliced(x, y)

    def _on_line(self, x: Array, frame: int) -> tuple[float, float]:
        """Return W_1 and W_2 of sorted tokens x (n,): int |x(u) - q(u)|^p du, q the quantile function.

        Token i has the levels from i/n to (i + 1)/n. In each part of them, the first and the last one halved many times
        and the middle a border, there are Gauss-Legendre points.
        """
        n = len(x)
        ends = 0.5 ** np.arange(1, _HALVINGS) / n
        ends = ends[ends >= _NARROWEST]
        levels = np.unique(np.concatenate([np.arange(n + 1) / n, [0.5], ends, 1.0 - ends]))
        width = np.diff(levels)
        token = np.minimum((0.5 * (levels[1:] + levels[:-1]) * n).astype(np.int64), n - 1)
        first, second = 0.0, 0.0
        for share, weight in zip(*_unit_rule(), strict=True):
            away = np.abs(x[token] - self.lines[frame](self.law.quantile(levels[:-1] + share * width)))
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


def sliced(x: Array, y: Array) -> float:
    """Return the sliced W_2 of tokens and points, over the same directions each time; in one dimension it is W_2."""
    if x.shape[1] == 1:
        return exact(x, y, 2.0)
    return float(fp.wasserstein(x, y, method="sliced", projections=_PROJECTIONS))  # type: ignore[arg-type]
