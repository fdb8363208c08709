"""The boxes of the sources and the targets of a sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..kernels import cells, reduce

_NARROW = 0.01  # least width of a box of sources, over that of all sources, lest the box of its targets be huge
_SAME = 0.01  # of tol: change of scores up to which targets may be sorted into cells as the sources are


@dataclass(frozen=True)
class Box:
    """The boxes of the sources and the targets of a sum, with thin axes widened: centres and half widths (r,).

    For several sums at once they are (..., r).
    """

    y_centre: Array
    y_half: Array
    z_centre: Array
    z_half: Array

    @staticmethod
    def around(y_ends: Array, z_ends: Array, span: Array, thinnest: float) -> Box:
        """Return the boxes with these corners (..., 2, r) of sources and targets, thin axes widened.

        span (r,) is the half width of the box of all sources, thinnest the least load that an axis gets.
        """
        y_half, z_half = (np.ptp(ends, axis=-2) * (0.5 + 1e-12) for ends in (y_ends, z_ends))
        y_half = np.maximum(y_half, _NARROW * span)
        z_half = np.maximum(z_half, thinnest / y_half)
        return Box(y_ends.mean(axis=-2), y_half, z_ends.mean(axis=-2), z_half)

    @property
    def loads(self) -> Array:
        """The loads L (..., r) of the axes."""
        return self.y_half * self.z_half

    def like(self, y: Array, z: Array, tol: float) -> bool:
        """Return whether the targets (r, m) are the sources (r, n) moved by a constant, and lie alike in their box."""
        if y.shape != z.shape or not np.allclose(self.y_half, self.z_half, rtol=1e-12, atol=0.0):
            return False
        ends = np.empty((cells.CHUNKS, 2, len(y)))
        reduce.apart(y, z, ends)
        gap = ends[:, 1].max(axis=0) - ends[:, 0].min(axis=0)
        return float((gap + 1e-15 * self.y_half) @ self.y_half) <= _SAME * tol


def picked(points: Array, index: Array | None) -> Array:
    """Return the points (r, n) with the indices `index`, as contiguous rows; None: all points, not copied."""
    if index is None:
        return points
    out = np.empty((len(points), len(index)))
    cells.pick(points, index, out)
    return out
