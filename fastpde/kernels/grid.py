"""Sums over a grid of cells: moments of weights against products of Chebyshev polynomials, and polynomials at points.

    spread      M[c, cell, a] = sum over the cell's points j of w_cj T_a1(u_1j) ... T_ar(u_rj)
    contract    out[..., i] = sum_j in[j, ...] matrix[j, i]: the first axis of a tensor is mapped, and comes last
    evaluate    f_c = sum_a F[c, cell, a] T_a1(u_1) ... T_ar(u_r) at the cell's points; of f_0 the gradient too

All three are products of small dense matrices, made by the panels of the direct sum. A tensor has one axis per
coordinate, [slab * order + degree], padded to whole vectors; channels c come first. Bits do not depend on threads: a
cell, or a piece of one that is large, belongs to one thread, and pieces are added in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .._jit import jit
from ..laws import LinearLaw
from .rows import ROW_GROUP, row_panel
from .vectors import VECTORS, lanes_of

WIDTH = VECTORS * lanes_of(64).count  # lanes of a panel; a multiple of ROW_GROUP
STRIP = 64  # rows of a contraction that are made together


def padded(size: int) -> int:
    """The next multiple of the width of a panel."""
    return -(-size // WIDTH) * WIDTH


class Sides(NamedTuple):
    """Sizes of one side, sources or targets, of a grid of cells."""

    orders: np.ndarray  # (r,) int64: polynomials per axis
    counts: np.ndarray  # (r,) int64: slabs per axis
    sizes: np.ndarray  # (r,) int64: padded lengths of the tensor's axes
    lead: int  # products of polynomials on all axes but the last (r = 1: on it)
    lanes: int  # the same, padded
    rows: int  # polynomials on the last axis (r = 1: one), padded
    block: int  # points at a time


def sides(orders, counts) -> Sides:
    """The sizes for polynomial orders and slabs (r,)."""
    r = len(orders)
    lead = int(np.prod(orders[:-1])) if r > 1 else int(orders[0])
    last = int(orders[-1]) if r > 1 else 1
    sizes = np.array([padded(int(p * n)) for p, n in zip(orders, counts, strict=True)])
    block = 128 if r < 3 else 64
    return Sides(np.asarray(orders), np.asarray(counts), sizes, lead, padded(lead), padded(last), block)


class Bench(NamedTuple):
    """Per-thread memory: one row per thread."""

    basis: np.ndarray  # (threads, 2 * sum of orders * block) polynomials, then their derivatives
    left: np.ndarray  # (threads, block * lanes)
    right: np.ndarray  # (threads, block * rows)
    product: np.ndarray  # (threads, max(lanes * rows, 2 * lanes * block))
    total: np.ndarray  # (threads, max(lanes * rows, 3 * lead * block))
    zeros: np.ndarray  # (WIDTH,)


def allocate(threads: int, side: Sides, take) -> Bench:
    """Memory for `threads` threads; `take(name, shape, dtype)` provides the arrays."""
    wide = max(side.lanes * side.rows, 3 * side.lanes * side.block)
    sizes = {
        "basis": 2 * int(side.orders.sum()) * side.block,
        "left": side.block * side.lanes,
        "right": side.block * side.rows,
        "product": wide,
        "total": wide,
    }
    named = {name: take(f"grid_{name}", (threads, size), np.float64) for name, size in sizes.items()}
    return Bench(**named, zeros=np.zeros(WIDTH))


@jit(inline=True)
def _polynomials(u, order, block, basis, at):
    """basis[at + a * block + j] <- T_a(u[j])."""
    m = u.shape[0]
    one, two = basis[at : at + m], basis[at + block : at + block + m]
    for j in range(m):
        one[j] = 1.0
    if order > 1:
        for j in range(m):
            two[j] = u[j]
    for a in range(2, order):
        start = at + a * block
        now, before, old = (
            basis[start : start + m],
            basis[start - block : start - block + m],
            basis[start - 2 * block :],
        )
        for j in range(m):
            now[j] = 2.0 * u[j] * before[j] - old[j]


@jit(inline=True)
def _slopes(u, order, block, basis, at, slopes_at):
    """basis[slopes_at + a * block + j] <- T_a'(u[j]), from the polynomials at `at`."""
    m = u.shape[0]
    for a in range(order):
        start = slopes_at + a * block
        now = basis[start : start + m]
        for j in range(m):
            now[j] = 0.0 if a == 0 else 1.0
        if a > 1:
            value = basis[at + (a - 1) * block : at + (a - 1) * block + m]
            before, old = basis[start - block : start - block + m], basis[start - 2 * block :]
            for j in range(m):
                now[j] = 2.0 * (value[j] + u[j] * before[j]) - old[j]


@jit(borrowed=True)
def _spread_piece(side, local, weights, first, last, basis, left, right, product, total, zeros):
    """total[b * lanes + a] <- sum over points first .. last - 1 of weight T_a T_b, a of all axes but the last."""
    r, block, lanes, rows = side.orders.shape[0], side.block, side.lanes, side.rows
    total[: lanes * rows] = 0.0
    left[:] = 0.0
    right[:] = 0.0
    for start in range(first, last, block):
        m = min(block, last - start)
        at = 0
        for k in range(r):
            _polynomials(local[k, start : start + m], side.orders[k], block, basis, at)
            at += side.orders[k] * block
        p = side.orders[0]
        for j in range(m):
            for a in range(p):
                left[j * lanes + a] = basis[a * block + j]
        count, place = p, p * block
        for k in range(1, r - 1):
            q = side.orders[k]
            for j in range(m):
                for a in range(count - 1, -1, -1):
                    value = left[j * lanes + a]
                    for b in range(q):
                        left[j * lanes + a * q + b] = value * basis[place + b * block + j]
            count, place = count * q, place + q * block
        if r == 1:
            for j in range(m):
                right[j * rows] = weights[start + j]
        else:
            for j in range(m):
                for b in range(side.orders[r - 1]):
                    right[j * rows + b] = weights[start + j] * basis[place + b * block + j]
        used = side.orders[r - 1] if r > 1 else 1
        for b in range(0, used, ROW_GROUP):
            for a in range(0, lanes, WIDTH):
                row_panel(LinearLaw(), product, b * lanes + a, lanes, left, a, lanes, right, b, rows, zeros, 0, m)
        whole = (used + ROW_GROUP - 1) // ROW_GROUP * ROW_GROUP * lanes
        for i in range(whole):
            total[i] += product[i]


@jit(inline=True)
def _corner(side, cell, corner):
    """corner[k] <- the first index of a cell on each axis of the tensor."""
    for k in range(side.counts.shape[0] - 1, -1, -1):
        corner[k] = cell % side.counts[k] * side.orders[k]
        cell //= side.counts[k]


@jit(borrowed=True)
def _add_to_tensor(side, total, corner, tensor):
    """tensor += total, at the cell that begins at `corner`; total[b * lanes + a]."""
    r = side.orders.shape[0]
    if r == 1:
        for a in range(side.orders[0]):
            tensor[corner[0] + a] += total[a]
    elif r == 2:
        for a in range(side.orders[0]):
            at = (corner[0] + a) * side.sizes[1] + corner[1]
            for b in range(side.orders[1]):
                tensor[at + b] += total[b * side.lanes + a]
    else:
        for a1 in range(side.orders[0]):
            for a2 in range(side.orders[1]):
                at = ((corner[0] + a1) * side.sizes[1] + corner[1] + a2) * side.sizes[2] + corner[2]
                a = a1 * side.orders[1] + a2
                for b in range(side.orders[2]):
                    tensor[at + b] += total[b * side.lanes + a]


@jit(parallel=True)
def spread(side, items, count, local, weights, memory, partial, corners, tensor):
    """tensor += the moments of all points, one channel. items (count, 3) are pieces of cells.

    A cell of one piece goes into the tensor at once; pieces of larger ones wait in `partial`, one row each, for
    `gather`. items[i, 3] is the row, or -1.
    """
    for index in prange(count):
        thread = numba.get_thread_id()
        cell, first, last, row = items[index, 0], items[index, 1], items[index, 2], items[index, 3]
        total = memory.total[thread]
        _spread_piece(
            side, local, weights, first, last, memory.basis[thread], memory.left[thread], memory.right[thread],
            memory.product[thread], total, memory.zeros,
        )  # fmt: skip
        if row < 0:
            corner = corners[thread]
            _corner(side, cell, corner)
            _add_to_tensor(side, total, corner, tensor)
        else:
            for i in range(side.lanes * side.rows):
                partial[row, i] = total[i]


@jit
def gather(side, items, count, partial, corner, tensor):
    """Adds the pieces that `spread` left in `partial`, in order."""
    for index in range(count):
        if items[index, 3] >= 0:
            _corner(side, items[index, 0], corner)
            _add_to_tensor(side, partial[items[index, 3]], corner, tensor)


@jit(borrowed=True)
def contract_strip(tensor, first, rest, start, matrix, lanes, pack, zeros, out):
    """The rows start .. start + STRIP - 1 of `contract`, by one thread; pack (>= first * STRIP,)."""
    columns = min(STRIP, rest - start)
    for j in range(first):
        row = tensor[j * rest + start : j * rest + start + columns]
        for q in range(columns):
            pack[j * STRIP + q] = row[q]
    for tile in range(lanes // WIDTH):
        for q in range(0, columns, ROW_GROUP):
            row_panel(
                LinearLaw(), out, (start + q) * lanes + tile * WIDTH, lanes, matrix, tile * first * WIDTH, WIDTH,
                pack, q, STRIP, zeros, 0, first,
            )  # fmt: skip


@jit(parallel=True)
def contract(tensor, first, rest, matrix, lanes, packs, zeros, out):
    """out[q, i] = sum_{j < first} tensor[j, q] matrix[j, i] for q < rest, i < lanes, both whole vectors.

    tensor (first, rest); matrix [tile][j][lane]; packs (threads, >= first * STRIP) is memory.
    """
    for index in prange((rest + STRIP - 1) // STRIP):
        pack = packs[numba.get_thread_id()]
        contract_strip(tensor, first, rest, index * STRIP, matrix, lanes, pack, zeros, out)


@jit(borrowed=True)
def _local_tensor(side, corner, tensor, right):
    """right[b * lanes + a] <- the cell's coefficients, a of all axes but the last."""
    r, lanes = side.orders.shape[0], side.lanes
    if r == 1:
        for b in range(side.orders[0]):
            for a in range(lanes):
                right[b * lanes + a] = 0.0
            right[b * lanes] = tensor[corner[0] + b]
    elif r == 2:
        for b in range(side.orders[1]):
            for a in range(side.orders[0]):
                right[b * lanes + a] = tensor[(corner[0] + a) * side.sizes[1] + corner[1] + b]
    else:
        for b in range(side.orders[2]):
            for a1 in range(side.orders[0]):
                for a2 in range(side.orders[1]):
                    at = ((corner[0] + a1) * side.sizes[1] + corner[1] + a2) * side.sizes[2] + corner[2] + b
                    right[b * lanes + a1 * side.orders[1] + a2] = tensor[at]


@jit(inline=True)
def _against(rows, count, basis, at, block, m, out):
    """out[j] <- sum_a rows[a * block + j] basis[at + a * block + j]."""
    for j in range(m):
        out[j] = 0.0
    for a in range(count):
        left, right = rows[a * block : a * block + m], basis[at + a * block : at + a * block + m]
        for j in range(m):
            out[j] += left[j] * right[j]


@jit(borrowed=True)
def _evaluate_piece(side, local, first, last, gradient, basis, coefficients, product, total, zeros, out):
    """out[0, first:last] <- f; with `gradient` also out[1 + k] <- df/du_k, k < r."""
    r, block, lanes = side.orders.shape[0], side.block, side.lanes
    degrees = 0
    for k in range(r):
        degrees += side.orders[k]
    last_order = side.orders[r - 1]
    lead = side.lead if r > 1 else 1
    for start in range(first, last, block):
        m = min(block, last - start)
        at = 0
        for k in range(r):
            u = local[k, start : start + m]
            _polynomials(u, side.orders[k], block, basis, at)
            if gradient:
                _slopes(u, side.orders[k], block, basis, at, degrees * block + at)
            at += side.orders[k] * block
        last_at = at - last_order * block
        for part in range(2 if gradient else 1):
            source, result = last_at + part * degrees * block, part * lanes * block
            for a in range(0, lead, ROW_GROUP):
                for lane in range(0, m, WIDTH):
                    row_panel(
                        LinearLaw(), product, result + a * block + lane, block, basis, source + lane, block,
                        coefficients, a, lanes, zeros, 0, last_order,
                    )  # fmt: skip
        plain, bent = product[: lanes * block], product[lanes * block :]
        if r == 1:
            for j in range(m):
                out[0, start + j] = plain[j]
            if gradient:
                for j in range(m):
                    out[1, start + j] = bent[j]
        elif r == 2:
            p = side.orders[0]
            _against(plain, p, basis, 0, block, m, out[0, start : start + m])
            if gradient:
                _against(plain, p, basis, degrees * block, block, m, out[1, start : start + m])
                _against(bent, p, basis, 0, block, m, out[2, start : start + m])
        else:
            p, q = side.orders[0], side.orders[1]
            second = p * block
            for a in range(p):
                row = plain[a * q * block :]
                _against(row, q, basis, second, block, m, total[a * block : a * block + m])
                if gradient:
                    slope = degrees * block + second
                    _against(row, q, basis, slope, block, m, total[(p + a) * block : (p + a) * block + m])
                    row = bent[a * q * block :]
                    _against(row, q, basis, second, block, m, total[(2 * p + a) * block : (2 * p + a) * block + m])
            _against(total, p, basis, 0, block, m, out[0, start : start + m])
            if gradient:
                _against(total, p, basis, degrees * block, block, m, out[1, start : start + m])
                _against(total[p * block :], p, basis, 0, block, m, out[2, start : start + m])
                _against(total[2 * p * block :], p, basis, 0, block, m, out[3, start : start + m])


@jit(parallel=True)
def evaluate(side, items, count, local, tensor, gradient, memory, corners, out):
    """out[0] <- f at the sorted points; with `gradient` also out[1 + k] <- df/du_k in local coordinates."""
    for index in prange(count):
        thread = numba.get_thread_id()
        corner, coefficients = corners[thread], memory.left[thread]
        _corner(side, items[index, 0], corner)
        _local_tensor(side, corner, tensor, coefficients)
        _evaluate_piece(
            side, local, items[index, 1], items[index, 2], gradient, memory.basis[thread], coefficients,
            memory.product[thread], memory.total[thread], memory.zeros, out,
        )  # fmt: skip
