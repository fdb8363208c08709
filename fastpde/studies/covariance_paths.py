"""Paths of Gaussian laws in the cone of 2 x 2 covariances, and their outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import fastpde as fp
from fastpde._numbers import whole, within
from fastpde.attention.base import as_attention
from fastpde.errors import explained
from fastpde.integrate.reporting import counting

from . import random_laws
from .table import Array, Column, Study, read_csv, write_csv

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

PATHS = "paths.csv"
_SCALES = 1e-4  # fraction of the span at which the first time after the start is recorded
_ENTRIES = ("S11", "S12", "S22")
_SHAPE = ("shape11", "shape12", "shape22")
_PLACES = ((0, 0), (0, 1), (1, 1))


@dataclass(frozen=True, eq=False, repr=False)
class CovariancePaths(Study):
    """The table of `covariance_paths`, one row per law, with t (m,) and cov (m, B, 2, 2), nan after a law's end."""

    t: Array
    cov: Array
    name: ClassVar[str] = "covariance-paths"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "law": Column("whole", "", "number of the law"),
            **{name: Column("number", "length^2", f"{name} at the start") for name in _ENTRIES},
            "outcome": Column("text", "", "how the law ends"),
            "rank": Column("whole", "", "of the limit; -1 if there is none"),
            "blowup_time": Column("number", "time", "nan unless the law blows up"),
            "rate": Column("number", "1/time", "of exponential growth or approach, or of going round; else nan"),
            **{name: Column("number", "", f"S{name[5:]} / tr S in the end") for name in _SHAPE},
            "t_final": Column("number", "time", "how far the path was followed"),
            "reason": Column("text", "", "how the outcome was decided"),
        }

    def summary(self) -> str:
        """Return how many laws have each outcome."""
        from fastpde.plot import covariances

        return f"{len(self)} laws: {covariances.tally(self['outcome'].tolist())}"

    def figure(self) -> Figure:
        """Draw the paths in the cone, and the shapes S / tr S at their starts and ends in the disc."""
        from fastpde.plot import covariances

        text = (
            f"{self.parameters['attention']}, t from {self.t[0]:g} to {self.t[-1]:g}. {self.summary()}. "
            "On the cone and on the circle: rank one; on the axis and in the centre: multiples of the identity."
        )
        ends = _symmetric(*(self[name] for name in _SHAPE))
        return covariances.cone_and_disc(self.cov, ends, self["outcome"].tolist(), caption=text)

    def _save_more(self, folder: Path) -> None:
        m, count = self.cov.shape[:2]
        columns = {"law": np.tile(np.arange(count), m), "t [time]": np.repeat(self.t, count)}
        for name, (i, j) in zip(_ENTRIES, _PLACES, strict=True):
            columns[f"{name} [length^2]"] = self.cov[:, :, i, j].ravel()
        write_csv(folder / PATHS, columns)

    @classmethod
    def read(cls, folder: Path, parameters: Mapping[str, Any]) -> CovariancePaths:
        """Return the study that `save` wrote. Raises OSError, ValueError."""
        columns = cls.read_columns(folder, parameters)
        count = len(columns["law"])
        _, t, *entries = (np.array(values, dtype=np.float64).reshape(-1, count) for values in
                          read_csv(folder / PATHS).values())  # fmt: skip
        return cls(parameters, columns, t[:, 0], _symmetric(*entries))


def _symmetric(a: Array, b: Array, c: Array) -> Array:
    """Return [[a, b], [b, c]] (..., 2, 2)."""
    return np.stack([np.stack([a, b], axis=-1), np.stack([b, c], axis=-1)], axis=-2)


def grid(n: int = 10, limit: float = 0.5) -> Array:
    """Return covariances (B, 2, 2) of trace one whose shapes are on a grid.

    The points (S11 - S22, 2 S12) are those of an n x n grid of [-limit, limit]^2 that are inside the unit disc.

    Raises InputError, InputTypeError. Source: Theory 10.
    """
    n = whole("n", n, 1)
    limit = within("limit", limit, 0.0, 1.0)
    line = np.linspace(-limit, limit, n) if n > 1 else np.zeros(1)
    u, w = (values.ravel() for values in np.meshgrid(line, line, indexing="ij"))
    inside = u * u + w * w < 1
    if not inside.any():
        raise fp.InputError("limit", repr(limit), f"a smaller number: none of the {n} x {n} points is in the disc")
    u, w = u[inside], w[inside]
    return _symmetric((1 + u) / 2, w / 2, (1 - u) / 2)


@explained
def covariance_paths(
    attention: fp.Attention,
    starts: Any = None,
    t_span: tuple[float, float] = (0.0, 1e3),
    *,
    frames: int = 160,
    rtol: float = 1e-8,
    progress: Any = False,
) -> CovariancePaths:
    """Follow centred Gaussian laws of the plane from many covariances, and find the outcome of each.

    Paths are those of `fp.solve` over t_span; outcomes are those of `fp.limit`, as t goes to infinity.

    Args:
        attention: with constant parameters and d = 2, one for all laws.
        starts: covariances (B, 2, 2); default `grid()`.
        t_span: start and end; the times between them are spaced evenly in log(t - start) over four decades.
        frames: number of times that are recorded, besides the start.
        rtol: relative tolerance of the paths.
        progress: True for a bar, or a function of (number of laws that are done, {"systems": number of laws}).

    Raises:
        InputError, InputTypeError: naming the argument.
        NoGaussianClosure: for an attention that does not keep Gaussians Gaussian.

    Source: Theory 3, 10, 11.
    """
    if as_attention(attention).masked:
        raise fp.InputError("attention", repr(attention), "one without a mask: a mask has a law per position")
    if not all(p.constant and p.systems(0.0) == 1 for p in attention.parameters()):
        raise fp.InputError("attention", repr(attention), "parameters constant in time, one value for all laws")
    whole("frames", frames, 1)
    law = fp.Gaussian(0.0, grid() if starts is None else starts)
    if law.cov.ndim != 3 or law.cov.shape[1:] != (2, 2) or not len(law.cov):
        raise fp.InputError("starts", f"shape {law.cov.shape}", "covariances of shape (B, 2, 2)")
    t0, t1 = _interval(t_span)
    times = np.concatenate([[t0], t0 + (t1 - t0) * np.geomspace(_SCALES, 1.0, frames)])
    times[-1] = t1
    with counting(progress, len(law.cov)) as report:
        paths: Any = fp.solve(attention, law, (t0, t1), t_eval=times, rtol=rtol, atol=1e-6 * rtol)
        found = random_laws.fit(lambda rows: attention, law.cov, report)
    matrices = {p.name: p(0.0).tolist() for p in attention.parameters()}
    told = {"attention": repr(attention), "matrices": matrices, "t_span": [t0, t1], "frames": frames, "rtol": rtol}
    columns = {"law": np.arange(len(law.cov)), "t_final": paths.t_final}
    for name, (i, j) in zip(_ENTRIES, _PLACES, strict=True):
        columns[name] = law.cov[:, i, j]
    for name, (i, j) in zip(_SHAPE, _PLACES, strict=True):
        columns[name] = found["shape"][:, i, j]
    columns |= {name: found[name] for name in ("outcome", "rank", "blowup_time", "rate", "reason")}
    return CovariancePaths(told, columns, paths.t, paths.cov)


def _interval(t_span: Any) -> tuple[float, float]:
    """Return start and end of a time span, finite and in this order. Raises InputError, InputTypeError."""
    try:
        t0, t1 = (float(t) for t in t_span)
    except (TypeError, ValueError):
        raise fp.InputTypeError("t_span", repr(t_span), "two numbers (start, end)") from None
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 < t1):
        raise fp.InputError("t_span", repr(t_span), "a finite start before a finite end")
    return t0, t1
