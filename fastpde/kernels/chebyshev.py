"""Cells of a grid and their Chebyshev polynomials: sizes, memory, and the polynomials of a block of points.

A tensor has one axis per coordinate, [slab * order + degree], padded to whole vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.dots import DOT_COLUMNS, DOT_ROWS, LANE_COUNT
from ..simd.vectors import VECTORS

WIDTH = VECTORS * LANE_COUNT  # lanes of a panel
BLOCK = 128  # points at a time


def padded(size: int) -> int:
    """Return `size` rounded up to a multiple of the width of a panel."""
    return -(-size // WIDTH) * WIDTH


class Sides(NamedTuple):
    """Sizes of one side, sources or targets, of a grid of cells."""

    orders: np.ndarray  # (r,) int64: polynomials per axis
    counts: np.ndarray  # (r,) int64: slabs per axis
    sizes: np.ndarray  # (r,) int64: padded lengths of the tensor's axes
    degrees: int  # sum of the orders
    lead: int  # products of polynomials on all axes but the last (r = 1: on it)
    lanes: int  # the same, padded to panels
    rows: int  # the same, padded to dot panels
    columns: int  # polynomials on the last axis (r = 1: one), padded to dot panels


def sides(orders, counts) -> Sides:
    """Return the sizes for the polynomial orders (r,) and the numbers of slabs (r,)."""
    r = len(orders)
    lead = int(np.prod(orders[:-1])) if r > 1 else int(orders[0])
    last = int(orders[-1]) if r > 1 else 1
    sizes = np.array([padded(int(p * n)) for p, n in zip(orders, counts, strict=True)])
    rows, columns = -(-lead // DOT_ROWS) * DOT_ROWS, -(-last // DOT_COLUMNS) * DOT_COLUMNS
    return Sides(np.asarray(orders), np.asarray(counts), sizes, int(np.sum(orders)), lead, padded(lead), rows, columns)


class Workspace(NamedTuple):
    """Per-thread workspace of sums on a grid, with one row per thread."""

    local: np.ndarray  # (threads, r * BLOCK) coordinates of a block of points
    weight: np.ndarray  # (threads, BLOCK)
    scaled: np.ndarray  # (threads, BLOCK)
    basis: np.ndarray  # (threads, 2 * sum of orders * BLOCK) polynomials, then their derivatives
    left: np.ndarray  # (threads, rows * BLOCK)
    right: np.ndarray  # (threads, columns * BLOCK)
    total: np.ndarray  # (threads, sums * rows * columns)
    coefficients: np.ndarray  # (threads, sums * last order * lanes)
    product: np.ndarray  # (threads, 2 * lanes * BLOCK)
    partial: np.ndarray  # (threads, 3 * lead / last order but one * BLOCK) of three axes or more
    found: np.ndarray  # (threads, (1 + r) * BLOCK)
    inverse: np.ndarray  # (threads, BLOCK)
    results: np.ndarray  # (threads, width * BLOCK)
    corner: np.ndarray  # (threads, r) int64
    zeros: np.ndarray  # (WIDTH,)


def allocate(threads: int, side: Sides, workspace, sums: int = 1, width: int = 0) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array.

    sums: the number of tensors at a time; width: that of results, for an expansion.
    """
    r, degrees = len(side.orders), side.degrees
    sizes = {
        "local": r * BLOCK,
        "weight": BLOCK,
        "scaled": BLOCK,
        "basis": (2 * degrees + DOT_ROWS) * BLOCK,
        "left": side.rows * BLOCK if r > 2 else 0,
        "right": side.columns * BLOCK,
        "total": sums * side.rows * side.columns,
        "coefficients": sums * int(side.orders[-1]) * side.lanes,
        "product": 2 * side.lanes * BLOCK,
        "partial": 3 * side.lead // int(side.orders[-2]) * BLOCK if r > 2 else 0,
        "found": (1 + r) * BLOCK,
        "inverse": BLOCK,
        "results": width * BLOCK,
    }
    named = {name: workspace(f"grid_{name}", (threads, size), np.float64) for name, size in sizes.items()}
    return Workspace(**named, corner=np.zeros((threads, r), np.int64), zeros=np.zeros(WIDTH))


@jit(inline=True)
def _polynomials(local, order, m, basis, at):
    """Write T_a(local[j]) into basis[at + a * BLOCK + j] for a < order, j < m."""
    one, two, u = basis[at : at + m], basis[at + BLOCK : at + BLOCK + m], local[:m]
    for j in range(m):
        one[j] = 1.0
    if order > 1:
        for j in range(m):
            two[j] = u[j]
    for a in range(2, order):
        start = at + a * BLOCK
        now, before, old = (
            basis[start : start + m],
            basis[start - BLOCK : start - BLOCK + m],
            basis[start - 2 * BLOCK : start - 2 * BLOCK + m],
        )
        for j in range(m):
            now[j] = 2.0 * u[j] * before[j] - old[j]


@jit(inline=True)
def _derivatives(local, order, m, basis, at, to):
    """Write T_a'(local[j]) into basis[to + a * BLOCK + j], computed from the polynomials at `at`."""
    u = local[:m]
    for a in range(order):
        start = to + a * BLOCK
        now = basis[start : start + m]
        for j in range(m):
            now[j] = 0.0 if a == 0 else 1.0
        if a > 1:
            value = basis[at + (a - 1) * BLOCK : at + (a - 1) * BLOCK + m]
            before, old = basis[start - BLOCK : start - BLOCK + m], basis[start - 2 * BLOCK : start - 2 * BLOCK + m]
            for j in range(m):
                now[j] = 2.0 * (value[j] + u[j] * before[j]) - old[j]


@jit(borrowed=True)
def prepare(side, points, start, m, local, basis):
    """Write the coordinates of the points start .. start + m - 1 into `local`, and their polynomials into `basis`.

    The coordinates are padded with zeros to whole vectors; returns their number with the zeros.
    """
    whole, at = -(-m // LANE_COUNT) * LANE_COUNT, 0
    for k in range(side.orders.shape[0]):
        u, row = local[k * BLOCK : (k + 1) * BLOCK], points[k, start : start + m]
        for j in range(m):
            u[j] = row[j]
        for j in range(m, whole):
            u[j] = 0.0
        _polynomials(u, side.orders[k], whole, basis, at)
        at += side.orders[k] * BLOCK
    return whole


@jit(inline=True)
def derive(side, whole, local, basis):
    """Write the derivatives of the polynomials that `prepare` made behind them in `basis`."""
    at = 0
    for k in range(side.orders.shape[0]):
        u = local[k * BLOCK : (k + 1) * BLOCK]
        _derivatives(u, side.orders[k], whole, basis, at, side.degrees * BLOCK + at)
        at += side.orders[k] * BLOCK


@jit(inline=True)
def level_of(side, corner, levels):
    """Return the sum of levels[k, slab] over the axes k, for the slabs of the cell at `corner`."""
    total = 0.0
    for k in range(corner.shape[0]):
        total += levels[k, corner[k] // side.orders[k]]
    return total


@jit(inline=True)
def corner_of(side, cell, corner):
    """Write the first index of a cell on each axis of the tensor into corner (r,)."""
    for k in range(side.counts.shape[0] - 1, -1, -1):
        corner[k] = cell % side.counts[k] * side.orders[k]
        cell //= side.counts[k]


@jit(inline=True)
def outer_index(side, corner, a):
    """Return the flat index, over all axes of the tensor but the last two, of a product of polynomials of a cell.

    The product is number `a` of those on these axes, the cell is the one at `corner`.
    """
    at, stride = 0, 1
    for k in range(corner.shape[0] - 3, -1, -1):
        at += (corner[k] + a % side.orders[k]) * stride
        stride *= side.sizes[k]
        a //= side.orders[k]
    return at
