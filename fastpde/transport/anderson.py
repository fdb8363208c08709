"""Anderson acceleration: a slow fixed-point iteration made fast by combining its last steps, with a safeguard.

For x -> x + r(x), whose residual r vanishes at the solution, the last differences (dx_i, dr_i) say how r changes. The
next x is x + r - sum_i c_i (dx_i + dr_i), where c minimises |r - sum_i c_i dr_i|. For a linear r this is what GMRES
does, so a few slow directions cost a few steps, whatever the rate of the plain iteration.

A merit guards the iteration: a number that never falls in a plain step and is largest at the solution. A combination
that lowers the merit is dropped with the window, and a plain step is made from the best x so far. So, far from the
solution, the method converges as the plain iteration does.

Source: Anderson (1965); Walker and Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._types import Array
from ..parallel.partition import Partition, Undivided

# Differences that are combined: six need a third more steps where the plain rate is 0.99, twelve gain little.
_SIZE = 10
# Relative to the squared sizes of the differences: below it their directions are rounding.
_RIDGE = 1e-10
# How far rounding may lower the merit, relative to its size.
_SLACK = 1e-11


class Window(NamedTuple):
    """The last differences of B systems of n numbers; those that do not exist yet are zero."""

    dr: Array  # (B, _SIZE, n)
    du: Array  # (B, _SIZE, n): dx + dr
    gram: Array  # (B, _SIZE, _SIZE): products of the dr
    taken: Array  # (B,) number of differences so far

    @staticmethod
    def empty(shape: tuple[int, int]) -> Window:
        """Return a window without differences for x of shape (B, n)."""
        systems, n = shape
        dr, du = np.zeros((2, systems, _SIZE, n))
        return Window(dr, du, np.zeros((systems, _SIZE, _SIZE)), np.zeros(systems, np.int64))

    def forget(self, systems: Array) -> None:
        """Drop the differences of `systems`, a mask (B,)."""
        self.dr[systems] = self.du[systems] = 0.0
        self.gram[systems] = 0.0


class Anderson:
    """Anderson acceleration of B systems x (B, n), each on its own, in L2(weights).

    The numbers of a system do not depend on the others. `window` holds differences of an earlier, similar problem,
    whose slow directions are likely to be the same; it is changed in place. `partition` says which of all n numbers
    this process has.
    """

    def __init__(
        self, weights: Array, shape: tuple[int, int], window: Window | None = None, partition: Partition | None = None
    ) -> None:
        self.window = Window.empty(shape) if window is None else window
        self._weights = weights
        self._partition = Undivided(shape[1]) if partition is None else partition
        self._last: tuple[Array, Array] | None = None
        self._merit = np.full(shape[0], -np.inf)
        self._best = np.zeros(shape), np.zeros(shape)  # x and r of the best merit

    def fallen(self, merit: Array) -> Array:
        """Return whether the last combination has lowered the merit by more than rounding does, (B,).

        The next step undoes such a combination.
        """
        lower: Array = ~(merit >= self._merit - _SLACK * (1.0 + np.abs(merit)))
        return lower

    def step(self, x: Array, r: Array, merit: Array, moving: Array) -> None:
        """Replace x by the next iterate, in place, for the systems of a mask `moving` (B,).

        r (B, n) and merit (B,) belong to x; r is changed too. A system that does not move now must not move again.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # products of huge differences are inf, and then no better
            self._step(x, r, merit, moving)

    def _step(self, x: Array, r: Array, merit: Array, moving: Array) -> None:
        if self._last is not None:
            self._take_in(np.flatnonzero(moving), x - self._last[0], r - self._last[1])
        fallen = self.fallen(merit) & moving
        if fallen.any():
            self.window.forget(fallen)
        better = merit >= self._merit
        self._merit[better] = merit[better]
        for now, best in zip((x, r), self._best, strict=True):
            np.copyto(best, now, where=better[:, None])
            np.copyto(now, best, where=fallen[:, None])
        self._last = x.copy(), r
        np.add(x, r - self._correction(r), out=x, where=moving[:, None])

    def _take_in(self, systems: Array, dx: Array, dr: Array) -> None:
        window = self.window
        slots = window.taken[systems] % _SIZE
        window.taken[systems] += 1
        window.dr[systems, slots] = dr[systems]
        np.add(dx, dr, out=dx)
        window.du[systems, slots] = dx[systems]
        dr *= self._weights
        for i, products in enumerate(self._partition.sums(dr * window.dr[:, i] for i in range(_SIZE))):
            window.gram[systems, slots, i] = window.gram[systems, i, slots] = products[systems]

    def _correction(self, r: Array) -> Array:
        """Return sum_i c_i (dx_i + dr_i), (B, n)."""
        weighted, total = self._weights * r, np.zeros_like(r)
        right = np.stack(self._partition.sums(weighted * self.window.dr[:, i] for i in range(_SIZE)), axis=1)
        for i, c in enumerate(coefficients(self.window.gram, right, _RIDGE).T):
            total += c[:, None] * self.window.du[:, i]
        return total


def coefficients(gram: Array, right: Array, ridge: float) -> Array:
    """Return the c (B, m) that minimise |y - sum_i c_i v_i|, given products of the vectors v_i and y.

    gram_ij = <v_i, v_j> (B, m, m) and right_i = <v_i, y> (B, m). Directions smaller than `ridge`, relative to the
    squared sizes of the v_i, get no weight: they are rounding. A zero vector gets the coefficient zero.
    """
    size = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    size = np.where(size > 0.0, size, 1.0)
    scaled = gram / (size[:, :, None] * size[:, None, :]) + ridge * np.eye(size.shape[1])
    found: Array = np.linalg.solve(scaled, (right / size)[:, :, None])[:, :, 0] / size
    return found
