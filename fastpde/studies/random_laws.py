"""Random Gaussian laws: their random streams, and their limits, found in blocks with progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastpde as fp

Array = np.ndarray[Any, Any]
_BLOCK = 32  # laws between two reports of progress


def draw(seed: int, dimension: int, count: int, *shapes: tuple[int, int]) -> list[Array]:
    """Return independent N(0, 1) matrices (count, *shape), one array per shape.

    Draw b comes from `np.random.default_rng([seed, dimension, b])` alone, so that fewer draws are the first of more.
    """
    found: list[list[Array]] = []
    for b in range(count):
        stream = np.random.default_rng([seed, dimension, b])
        found.append([stream.standard_normal(shape) for shape in shapes])
    return [np.array(matrices) for matrices in zip(*found, strict=True)]


def square(G: Array) -> Array:
    """Return G G^T (B, d, d) of matrices G (B, d, d)."""
    return np.asarray(G @ np.swapaxes(G, -1, -2))


def fit(attention: Callable[[Any], fp.Attention], starts: Array, report: Callable[[int], Any]) -> dict[str, Array]:
    """Return the fields of `fp.GaussianLimit`, (B, ...) each, of centred laws with covariances starts (B, d, d).

    attention(rows) returns the attention of the laws in a slice `rows`. Limits are found by integration, never from
    closed forms: a study that used the answer of a theorem could not test it. report(done) is called after every block
    of laws.
    """
    found: dict[str, list[Array]] = {}
    for first in range(0, len(starts), _BLOCK):
        rows = slice(first, first + _BLOCK)
        limit = fp.limit(attention(rows), fp.Gaussian(0.0, starts[rows]), closed_forms=False)
        for name, values in vars(limit).items():
            found.setdefault(name, []).append(np.asarray(values))
        report(min(first + _BLOCK, len(starts)))
    columns = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return columns | {"outcome": np.array([outcome.value for outcome in columns["outcome"]])}
