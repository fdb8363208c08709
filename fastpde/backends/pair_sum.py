"""What is summed: the one contract between attention and the ways to sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._types import Array

FLOATS = (np.float64, np.float32)  # the precisions there are


@dataclass(frozen=True)
class PairSum:
    """What is summed: for every target z, sum_j m_j w(<z, y_j> + b_j) v_j, divided by the weights' sum if normalised.

    Scores are in natural units. Arrays have one dtype, float64 or float32.
    """

    weight: Any  # of the score, see `weights`
    normalised: bool
    targets: Array  # (B, m, k)
    keys: Array  # (B, n, k)
    values: Array  # (B, n, c); c = 0 asks for the sum of the weights alone
    bias: Array | None = None  # (B, n)
    masses: Array | None = None  # (1, n) or (B, n) float64, sum 1; None: 1/n
    # (m,) or (B, m) int64, not decreasing: target i sees the first limits[i] >= 1 sources; None: all.
    limits: Array | None = None
    tol: float = math.inf  # the relative error it may have, if that is less than a backend's own
    # (B, 2) float64, counted up by the backend, of a sum that a run makes again and again: how often each system's has
    # been made, and how many checks it must yet pass before they are few. None: a sum of its own, always checked.
    history: Array | None = None
