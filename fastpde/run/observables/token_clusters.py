"""Clusters of a run: two columns of observables.csv, and clusters.csv with the largest of every frame.

The clusters of a frame are those of `fastpde.clusters`. Their length is a given fraction of the largest distance of a
token from the mean token, so a cloud that grows or shrinks as a whole keeps its clusters. Counted are those that hold
at least 1 % of the tokens, and two of them: one token alone is none, however few there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fastpde as fp
from fastpde import observe
from fastpde.config import Problem
from fastpde.observable import Line, Observable

Array = np.ndarray[Any, Any]
LEAST, FEWEST = 0.01, 2  # of all tokens, and tokens: smaller clusters, and tokens that are alone, are not counted
SAID = f"≥ {100 * LEAST:g} % of tokens, ≥ {FEWEST} tokens"  # the same in words
MOST, LARGEST = 16, 16  # clusters of a frame, and components of their positions, that are written
COUNTED = ("clusters", "clustered")  # how many are counted, and the fraction of tokens in them


def observable(problem: Problem, attention: Any, backend: Any, positions: Any) -> Observable | None:
    """Return the clusters; None if they are not recorded."""
    share = problem.config.output.clusters
    if share is None:
        return None

    def compute(t: float, x: Array) -> tuple[list[float], list[Line]]:
        found = of(x, share)
        return counted(found), rows(t, found)

    return Observable("clusters", COUNTED, compute, details=columns(problem.d))


def columns(d: int) -> list[str]:
    """Return the names of the columns of clusters.csv."""
    return ["t", "cluster", "size", *(f"position_{i}" for i in range(min(d, LARGEST)))]


def of(x: Array, share: float) -> fp.Clusters | None:
    """Return the clusters of tokens (n, d), with the length `share` times the largest distance of a token from the mean
    token; None if tokens are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of huge tokens
        width = observe.radius(x - observe.mean(x))
    if not np.isfinite(width):
        return None
    return fp.clusters(x, share * width if width > 0.0 else 1.0)


def counted(found: fp.Clusters | None) -> list[float]:
    """Return the numbers of `COUNTED`, nan if there are no clusters."""
    if found is None:
        return [np.nan, np.nan]
    count = min(found.count(LEAST), int((found.sizes >= FEWEST).sum()))  # both have the largest first
    return [float(count), float(found.sizes[:count].sum() / len(found.labels))]


def rows(t: float, found: fp.Clusters | None) -> list[Line]:
    """Return the rows of clusters.csv of one frame, the largest cluster first."""
    if found is None:
        return []
    sizes, places = found.sizes[:MOST].tolist(), found.positions[:MOST, :LARGEST].tolist()
    return [[t, str(i), str(size), *place] for i, (size, place) in enumerate(zip(sizes, places, strict=True))]
