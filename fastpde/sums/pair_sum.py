"""The description of a pair sum: the one contract between attention and the backends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array

FLOATS = (np.float64, np.float32)  # the precisions of tokens


@dataclass(frozen=True)
class PairSum:
    """A pair sum: sum_j m_j w(<z, y_j> + b_j) v_j for every target z, divided by the sum of m_j w if normalised.

    Scores are in natural units. Arrays have one dtype, float64 or float32, where no other is stated.
    """

    weight: Any  # the function w of the score, see `weights`
    normalised: bool
    targets: Array  # (B, m, k)
    keys: Array  # (B, n, k)
    values: Array  # (B, n, c); c = 0 asks for the sum of the weights alone
    bias: Array | None = None  # (B, n)
    masses: Array | None = None  # (1, n) or (B, n) float64, sum 1; None: 1/n
    # (m,) or (B, m) int64, not decreasing: target i sees the first limits[i] >= 1 sources; None: all.
    limits: Array | None = None
    tol: float = math.inf  # the relative error it may have, where that is less than the `tol` of the backend
    # (B, 2) float64, updated by the backend, for a sum that a run repeats: how often the sum of each system has been
    # made, and how many checks in a row it must yet pass before checks are rare. None: a single sum, always checked.
    history: Array | None = None
