"""Tokens as points, and tokens that cannot be told apart as one disc, of which the area is their number."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastpde.theory.clusters import clusters

Array = np.ndarray[Any, Any]
WHOLE = 900.0  # area of the disc of all tokens, in square points
_TOGETHER, _LEAST, _MOST = 6000.0, 3.0, 30.0  # area of all tokens apart, and the limits of that of one
_FAINT = 0.2  # the area of a token of little weight, that it is seen at all
_CLOSE = 0.004  # of the width of a panel: tokens nearer to each other cannot be told apart
_BROAD = 2.5  # in units of that: a group of such tokens that is larger has a shape of its own
_CLEAR = 2.0  # areas of one token: no smaller disc is drawn
_PANEL = 190.0  # points: about the width of a panel
_NEAR = 0.25  # of the diameter of a token's point: tokens nearer to each other cannot be told apart, either
_COVERED = 2.0  # the mass under a disc and a point's width around it, over its own


class Discs(NamedTuple):
    """What is drawn of a cloud: places (k, c), areas (k,) in square points, colours (k, 4), and which of them stand for
    several tokens (k,).
    """

    places: Array
    areas: Array
    colours: Array
    several: Array


def discs(points: Array, colours: Array, width: float, weights: Array | None = None) -> Discs:
    """Return what is drawn of a cloud (m, c) with colours (m, 4) in a panel of a width; areas by weights (m,), if any.

    A small group of tokens that lie together is one disc at their mean, in the mean of their colours, if they are so
    many that it is clearly larger than the point of one token, and if it does not hide others of more mass.
    """
    count = len(points)
    usual = float(np.clip(_TOGETHER / count, _LEAST, _MOST))
    single = np.full(count, usual) if weights is None else np.clip(usual * count * weights, _FAINT, WHOLE)
    apart = Discs(points, single, colours, np.zeros(count, dtype=bool))
    if count == 1 or not np.isfinite(points).all():
        return apart
    point = float(np.sqrt(4.0 * usual / np.pi)) / _PANEL
    near, broad = max(_CLOSE, _NEAR * point) * width, max(_BROAD * _CLOSE, point) * width
    found = clusters(points, near, weights=weights)
    order = np.argsort(found.labels, kind="stable")
    starts = np.cumsum(found.sizes) - found.sizes
    high, low = (reduced.reduceat(points[order], starts) for reduced in (np.maximum, np.minimum))
    merged = (found.sizes > 1) & (WHOLE * found.masses > _CLEAR * usual) & ((high - low).max(axis=1) <= broad)
    for group in np.flatnonzero(merged):  # in the middle of a cloud a disc would hide more than it shows
        radius = (float(np.sqrt(WHOLE * found.masses[group] / np.pi)) / _PANEL + point) * width
        covered = np.linalg.norm(found.positions - found.positions[group], axis=1) < radius
        merged[group] = found.masses[covered].sum() <= _COVERED * found.masses[group]
    if not merged.any():
        return apart
    alone = np.flatnonzero(~merged[found.labels])
    means = np.add.reduceat(colours[order], starts) / found.sizes[:, None]
    return Discs(
        np.concatenate([points[alone], found.positions[merged]]),
        np.concatenate([single[alone], WHOLE * found.masses[merged]]),
        np.concatenate([colours[alone], means[merged]]),
        np.repeat([False, True], [len(alone), merged.sum()]),
    )
