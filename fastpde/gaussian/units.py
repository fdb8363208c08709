"""Units of length and time in which a law and its rates are near one, so that no square leaves the range of floats."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, cast

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.parameters import Parameter


def size(matrix: Array) -> Array:
    """Return the Frobenius norm of matrices (..., p, q), whose entries may have squares outside the range of floats."""
    largest = np.abs(matrix).max(axis=(-2, -1), initial=0.0)
    unit = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
    return unit * np.linalg.norm(matrix / unit[..., None, None], axis=(-2, -1))


def power_of_two(size: Array) -> Array:
    """Return the power of two nearest to each positive number, by its logarithm; 1 for 0, inf and nan.

    A change of units by a power of two rounds nothing.
    """
    fit = np.isfinite(size) & (size > 0.0)
    return np.ldexp(1.0, np.round(np.log2(np.where(fit, size, 1.0))).astype(int))


def in_units(attention: Attention, length: Array, time: Array, scores: float | Array = 1.0) -> Attention:
    """Return the attention that does to x / length in t / time what this one does to x in t.

    `length` and `time` are units (B,) of B systems. Scores are of degree two in x, the field is of degree one in V:
    Q, K -> length Q, length K and V -> time V. Where the field is of degree one in the scores too, these may have a
    unit scores^2 of their own.
    """
    size = length / scores
    return cast(Attention, _in_units(attention, "", {"Q": size, "K": size, "V": time * scores**2}))


def _in_units(value: Any, name: str, units: dict[str, Array]) -> Any:
    """Return a parameter, an attention or a tuple of them in other units; anything else as it is."""
    if isinstance(value, Parameter):
        return replace(value, source=value(0.0) * units[name][:, None, None]) if name in units else value
    if isinstance(value, tuple):
        return tuple(_in_units(item, name, units) for item in value)
    if isinstance(value, Attention):
        one = copy(value)
        vars(one).update({own: _in_units(item, own.lstrip("_"), units) for own, item in one.__getstate__().items()})
        return one
    return value
