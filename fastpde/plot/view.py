"""Views of tokens of any dimension for drawing: as they are for d <= 3, else on two principal components; and the frame
that the panels of a picture share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastpde import observe

Array = np.ndarray[Any, Any]
MAX_FRAMES = 60  # of a movie
_ROUND = 1e-5  # tokens whose norms differ from 1 by less are on the unit sphere
_MARGIN = 1.12
_SPHERE = 1.2  # half the width of a panel with the unit sphere


@dataclass(frozen=True)
class View:
    """A projection x -> (x - centre) axes, axes (d, 1 to 3), with the names of its coordinates and a caption."""

    axes: Array
    centre: Array
    labels: tuple[str, ...]
    caption: str

    def __call__(self, x: Array) -> Array:
        """Return the coordinates (m, 1 to 3) of tokens (m, d)."""
        return (np.asarray(x, dtype=np.float64) - self.centre) @ self.axes


def of(last: Array, count: int = 2, *, sphere: bool = False) -> View:
    """Return the view that suits a trajectory whose last stored tokens are `last` (m, d): for d > 3 on their first
    `count` principal components, about their mean; of tokens on a sphere about its centre.
    """
    d = last.shape[1]
    if d <= 3:
        labels = tuple(f"$x_{i + 1}$" for i in range(d))
        return View(np.eye(d), np.zeros(d), labels, "")
    centre = np.zeros(d) if sphere else observe.mean(last)
    values, vectors = np.linalg.eigh(observe.covariance(last, mean=centre))
    vectors = vectors[:, ::-1][:, :count]
    # An eigenvector's sign is arbitrary: the largest entry is made positive, so that pictures can be compared.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    total = values.sum()
    share = 100 * values[::-1][:count].sum() / total if total > 0 else 0.0
    which = {2: "two", 3: "three"}[count]
    what = "second moments" if sphere else "variance"
    caption = f"d = {d}: the {which} principal components of the last frame ({share:.0f} % of its {what})"
    labels = tuple(f"component {i + 1}" for i in range(count))
    return View(vectors * np.where(largest < 0, -1.0, 1.0), centre, labels, caption)


def on_sphere(x: Array) -> bool:
    """Return whether clouds (..., n, d), n, d >= 2, lie on the unit sphere, up to rounding."""
    if x.shape[-1] < 2 or x.shape[-2] < 2:
        return False
    return bool(np.abs(np.linalg.norm(np.asarray(x, dtype=np.float64), axis=-1) - 1.0).max() < _ROUND)


class Frame(NamedTuple):
    """The limits of the axes of a panel, of equal lengths, and whether the unit sphere is drawn in it."""

    limits: list[tuple[float, float]]
    sphere: bool = False

    @property
    def width(self) -> float:
        """The length of an axis."""
        return self.limits[0][1] - self.limits[0][0]


def frame(points: Array, *, sphere: bool = False) -> Frame:
    """Return the frame of panels that hold points (..., c) together, with the unit sphere around them if asked for."""
    if sphere:
        return Frame([(-_SPHERE, _SPHERE)] * points.shape[-1], True)
    return Frame(limits(points.reshape(-1, points.shape[-1])))


def limits(points: Array) -> list[tuple[float, float]]:
    """Return limits of equal length per axis around points (m, c), a little wider than the cloud and never empty."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, float((high - low).max()) / 2
    # A cloud far smaller than its distance from the origin would need ticks of many digits: it is drawn as a dot.
    half = _MARGIN * max(half, 0.1 * float(np.abs(middle).max()), 1e-12)
    return [(float(m - half), float(m + half)) for m in middle]


def close(points: Array, width: float, few: float) -> Frame | None:
    """Return a frame around points (m, c) alone, if they fill less than 1/`few` of a panel of a width.

    None: they fill more, or differ by rounding.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    extent = float((high - low).max())
    rounding = 1e3 * float(np.finfo(np.float32).eps) * float(np.abs(points).max())
    if extent <= rounding or extent * few > width:
        return None
    half = _MARGIN * extent / 2
    return Frame([(float(m - half), float(m + half)) for m in (low + high) / 2])
