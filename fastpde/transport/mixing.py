"""Anderson's mixing: a slow fixed-point iteration made fast by combining its last steps, with a safeguard.

For x -> x + r(x), whose residual r vanishes at the solution, the last differences (dx_i, dr_i) say how r changes. The
next x is x + r - sum_i c_i (dx_i + dr_i) with c minimising |r - sum_i c_i dr_i|: for a linear r what GMRES does, so a
few slow directions cost a few steps, whatever the rate of the plain iteration. A merit that never falls in a plain
step and is largest at the solution guards it: a combination that lowers the merit is dropped with the window, and a
plain step is taken from the best x so far. So far from the solution this converges as the plain iteration does.

Source: Anderson (1965); Walker and Ni, SIAM J. Numer. Anal. 49 (2011).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._types import Array

# Differences that are combined: six need a third more steps where the plain rate is 0.99, twelve gain little.
_SIZE = 10
# Relative to the squared sizes of the differences: below it their directions are rounding.
_RIDGE = 1e-10
# How far rounding may lower the merit, relative to its size.
_SLACK = 1e-11


class Window(NamedTuple):
    """The last differences of B systems of n numbers, zero where there is none."""

    dr: Array  # (_SIZE, B, n)
    du: Array  # (_SIZE, B, n): dx + dr
    gram: Array  # (B, _SIZE, _SIZE): products of the dr
    taken: Array  # () how many there have been

    @staticmethod
    def empty(shape: tuple[int, ...]) -> Window:
        """A window without differences for x of shape (B, n)."""
        both = np.zeros((2, _SIZE, *shape))
        return Window(both[0], both[1], np.zeros((shape[0], _SIZE, _SIZE)), np.array(0))

    def copy(self) -> Window:
        return Window(*(array.copy() for array in self))


class Mixing:
    """Mixing of B systems x (B, n), each on its own, in L2(weights).

    `window` (copied) holds differences of an earlier, similar problem, whose slow directions are likely to be these.
    """

    def __init__(self, weights: Array, shape: tuple[int, ...], window: Window | None = None) -> None:
        self.window = Window.empty(shape) if window is None else window.copy()
        self._weights = weights
        self._last: tuple[Array, Array] | None = None
        self._merit = np.full(shape[0], -np.inf)
        self._best = np.zeros(shape), np.zeros(shape)  # x and r of the best merit

    def step(self, x: Array, r: Array, merit: Array, moving: Array) -> None:
        """Moves the `moving` (B,) systems on from x, in place; r (B, n), changed too, and merit (B,) belong to x."""
        if self._last is not None:
            self._take_in(x - self._last[0], r - self._last[1])
        fallen = ~(merit >= self._merit - _SLACK * (1.0 + np.abs(merit)))
        if fallen.any():
            self._forget(fallen)
        better = merit >= self._merit
        self._merit[better] = merit[better]
        for now, best in zip((x, r), self._best, strict=True):
            np.copyto(best, now, where=better[:, None])
            np.copyto(now, best, where=fallen[:, None])
        self._last = x.copy(), r
        np.add(x, r - self._correction(r), out=x, where=moving[:, None])

    def _take_in(self, dx: Array, dr: Array) -> None:
        window = self.window
        slot = int(window.taken) % _SIZE
        window.taken[...] += 1
        window.dr[slot] = dr
        np.add(dx, dr, out=window.du[slot])
        dr *= self._weights
        for i in range(_SIZE):
            window.gram[:, slot, i] = window.gram[:, i, slot] = (dr * window.dr[i]).sum(axis=1)

    def _forget(self, systems: Array) -> None:
        self.window.dr[:, systems] = 0.0
        self.window.du[:, systems] = 0.0
        self.window.gram[systems] = 0.0

    def _correction(self, r: Array) -> Array:
        """sum_i c_i (dx_i + dr_i)."""
        weighted, total = self._weights * r, np.zeros_like(r)
        right = np.stack([(weighted * dr).sum(axis=1) for dr in self.window.dr], axis=1)
        for c, du in zip(coefficients(self.window.gram, right).T, self.window.du, strict=True):
            total += c[:, None] * du
        return total


def coefficients(gram: Array, right: Array) -> Array:
    """c (B, m) that minimises |y - sum_i c_i v_i|, from gram_ij = <v_i, v_j> (B, m, m) and right_i = <v_i, y> (B, m).

    Directions that differ by rounding only get no weight; a zero vector gets the coefficient zero.
    """
    size = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    size = np.where(size > 0.0, size, 1.0)
    scaled = gram / (size[:, :, None] * size[:, None, :]) + _RIDGE * np.eye(size.shape[1])
    found: Array = np.linalg.solve(scaled, (right / size)[:, :, None])[:, :, 0] / size
    return found
