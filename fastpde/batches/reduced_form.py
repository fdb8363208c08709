"""The contract between attention and the sums over many small systems: the same few matrices for every variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array

# From here on a sum over all cores is as fast as systems that have a core each (measured between 512 and 1024).
MOST_TOKENS, LARGEST_DIMENSION = 512, 128
SAFE = 0.75  # of the exponents of a precision: sums over coordinates, and small entries, have the rest


def is_small(n: int, d: int) -> bool:
    """Return whether systems of n tokens in R^d are summed by the kernel of small systems, in one call for all heads.

    It depends on nothing else: how many systems and threads there are changes no bit.
    """
    return n <= MOST_TOKENS and d <= LARGEST_DIMENSION


@dataclass(frozen=True)
class ReducedForm:
    """The field of an attention whose scores are a quadratic form, at one time.

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

    def fits(self, dtype: np.dtype[Any]) -> Array:
        """Return for each system, (B,) or (1,), whether its matrices are zero or far within the range of a precision.

        Tokens in tiny or huge units may have fields that are, and matrices that are not.
        """
        reach = SAFE * np.finfo(dtype).maxexp
        fits = np.ones(1, bool)
        for M in (self.A, self.V, self.D):
            if M is not None:
                sizes = np.abs(M).max(axis=(-1, -2))
                fits = fits & (np.isfinite(sizes) & (np.abs(np.frexp(sizes)[1]) <= reach)).all(axis=1)
        for sizes in (np.abs(self.E).max(axis=(-1, -2)), np.abs(self.bias)):  # added to what is not small
            fits = fits & (np.isfinite(sizes) & (np.frexp(sizes)[1] <= reach)).all(axis=1)
        return fits
