"""The description of a pair sum: the one contract between attention and the ways to sum."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .._types import Array

FLOATS = (np.float64, np.float32)  # the precisions of tokens


@dataclass(frozen=True)
class SecondScore:
    """What a pair sum is asked for beside its own values: sum_j m_j w(s_ij) <a_i, b_j> [v_j, 1], in float64.

    Where the sum is normalised, these are divided by the same total.
    """

    targets: Array  # (B, m, q), the a_i
    keys: Array  # (B, n, q), the b_j
    values: Array  # (B, n, c), the v_j

    def system(self, b: int) -> SecondScore:
        """Return what is asked for of system b alone."""
        return SecondScore(*(a[b : b + 1] for a in (self.targets, self.keys, self.values)))


@dataclass(frozen=True)
class PairSum:
    """A pair sum: sum_j m_j w(<z, y_j> + b_j) v_j for every target z, divided by the sum of m_j w if normalised.

    Scores are in natural units. Arrays have one dtype, float64 or float32, where no other is stated. Targets of
    linear weights may be float64 beside float32 keys: then results are float64.
    """

    weight: Any  # the function w of the score, see `weights`
    normalised: bool
    targets: Array  # (B, m, k)
    keys: Array  # (B, n, k)
    values: Array | None = None  # (B, n, c); c = 0 asks for the sum of the weights alone; None: the keys
    bias: Array | None = None  # (B, n)
    masses: Array | None = None  # (1, n) or (B, n) float64, sum 1; None: 1/n
    # (m,) or (B, m) int64, not decreasing: target i sees the first limits[i] >= 1 sources; None: all.
    limits: Array | None = None
    tol: float = math.inf  # the relative error it may have, where that is less than the `tol` of the backend
    # (B, 2) float64, updated by the backend, for a sum that a run repeats: how often the sum of each system has been
    # made, and how many checks in a row it must yet pass before checks are rare. None: a single sum, always checked.
    history: Array | None = None
    products: bool = False  # whether the products of each value with all coordinates of the key are summed, too

    @property
    def own(self) -> Array:
        """The values (B, n, c), which may be the keys."""
        return self.keys if self.values is None else self.values

    @cached_property
    def carried(self) -> Array:
        """The rows (B, n, width) that are summed: the values, and behind them their products with the keys, if wanted.

        The products of a value with the k coordinates of the key are side by side, in the order of the values.
        """
        if not self.products:
            return self.own
        products = self.own[:, :, :, None] * self.keys[:, :, None]
        return np.concatenate([self.own, products.reshape(*self.keys.shape[:2], -1)], axis=2)

    @property
    def width(self) -> int:
        """The number of sums of a target."""
        return self.own.shape[2] * (1 + (self.keys.shape[2] if self.products else 0))

    @property
    def columns(self) -> int:
        """The number of columns of the keys and of what is summed, together."""
        return self.keys.shape[2] + self.width

    @property
    def pairs(self) -> int:
        """The number of pairs of a target and a source that it sees, in one system."""
        m, n = self.targets.shape[1], self.keys.shape[1]
        return m * n if self.limits is None else int(np.atleast_2d(self.limits)[0].sum())

    @property
    def made(self) -> int:
        """How often the sum of the first system has been made."""
        return 0 if self.history is None else int(self.history[0, 0])

    def system(self, b: int) -> PairSum:
        """Return the pair sum of system b alone; without limits, if every target sees all sources."""
        masses, limits = self.masses, self.limits
        if limits is not None:
            limits = limits[b % len(limits)] if limits.ndim == 2 else limits
            limits = None if limits[0] >= self.keys.shape[1] else limits
        return replace(
            self,
            targets=self.targets[b : b + 1],
            keys=self.keys[b : b + 1],
            values=None if self.values is None else self.values[b : b + 1],
            bias=None if self.bias is None else self.bias[b : b + 1],
            masses=None if masses is None else masses[b % len(masses)][None],
            limits=limits,
            history=None if self.history is None else self.history[b : b + 1],
        )

    def at(self, rows: Array) -> PairSum:
        """Return the sum of one system for the targets `rows` alone."""
        limits = None if self.limits is None else self.limits[rows]
        return replace(self, targets=np.ascontiguousarray(self.targets[:, rows]), limits=limits)
