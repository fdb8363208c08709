"""Views of tokens of any dimension for drawing: as they are for d <= 3, else on two principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpde import observe

Array = np.ndarray[Any, Any]
MAX_FRAMES = 60  # of a movie


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


def of(last: Array, count: int = 2) -> View:
    """Return the view that suits a trajectory whose last stored tokens are `last` (m, d): for d > 3 on their first
    `count` principal components.
    """
    d = last.shape[1]
    if d <= 3:
        labels = tuple(f"$x_{i + 1}$" for i in range(d))
        return View(np.eye(d), np.zeros(d), labels, "")
    centre = observe.mean(last)
    values, vectors = np.linalg.eigh(observe.covariance(last, mean=centre))
    vectors = vectors[:, ::-1][:, :count]
    # An eigenvector's sign is arbitrary: the largest entry is made positive, so that pictures can be compared.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    total = values.sum()
    share = 100 * values[::-1][:count].sum() / total if total > 0 else 0.0
    which = {2: "two", 3: "three"}[count]
    caption = f"d = {d}: the {which} principal components of the last frame ({share:.0f} % of its variance)"
    labels = tuple(f"component {i + 1}" for i in range(count))
    return View(vectors * np.where(largest < 0, -1.0, 1.0), centre, labels, caption)


def limits(points: Array) -> list[tuple[float, float]]:
    """Return limits of equal length per axis around points (m, c), a little wider than the cloud and never empty."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, half = (low + high) / 2, float((high - low).max()) / 2
    # A cloud far smaller than its distance from the origin would need ticks of many digits: it is drawn as a dot.
    half = 1.08 * max(half, 0.1 * float(np.abs(middle).max()), 1e-12)
    return [(float(m - half), float(m + half)) for m in middle]
