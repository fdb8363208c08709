"""The contract between attention and the sums over many small systems: the same few matrices for every variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._types import Array


@dataclass(frozen=True)
class ReducedForm:
    """The field of an attention whose scores are a quadratic form, with parameters constant in time.

    With c the mean token if normalised, else 0, and for each of H heads

        score(x, y) = <A (x - c) + E c, y - c> - <y - c, D (y - c)> + bias,
        Gamma(x) = V (c + int (y - c) w(score) dmu(y) / int w(score) dmu(y))    or    int V y w(score) dmu(y),

    summed over the heads. A = E, D = 0 is the plain score <A x, y>; the general form is that of Theory 1.1, where E = A
    - 2 D is given separately, since computing the difference would lose digits. Each array has one value for all
    systems or one for each: matrices are (1 or B, H, d, d), bias is (1 or B, H), all float64.
    """

    weight: Any  # see `weights`
    normalised: bool
    A: Array
    E: Array
    V: Array
    bias: Array
    D: Array | None = None  # None: zero
