"""Linear attention without pairs: sum_j w_j <z, y_j> v_j = C z with the moment C = sum_j w_j v_j y_j^T."""

from __future__ import annotations

import numpy as np

from .._jit import jit
from ..simd.dots import DOT_COLUMNS, DOT_ROWS, LANE_COUNT, dot_panel
from ..simd.pool import available, launch

TILE = 1024  # tokens per partial moment: the order of summation depends on n alone
_BLOCK = 256  # tokens of a tile whose products are made together: whole vectors
_ROWS = 32  # tokens that are transposed together: a cache line of each stays in the first cache
_LINE = _BLOCK + 8  # numbers between transposed rows, which are not a power of two apart: they share no cache set
_FEW = 20_000  # multiplications in a portion: one thread makes them before others have begun


@jit(borrowed=True)
def _add(C, keys, values, weights):
    """Add sum_j w_j v_j y_j^T to C (dv, k), for keys (n, k), values (n, dv) and weights (n,), or (1,): one for all."""
    n, k, dv = keys.shape[0], keys.shape[1], values.shape[1]
    for j in range(n):
        w = weights[j % weights.shape[0]]
        for c in range(dv):
            value = w * float(values[j, c])
            for r in range(k):
                C[c, r] += value * float(keys[j, r])


@jit(borrowed=True)
def _apply(C, targets, out):
    """Write C targets[i] into out[i] for targets (m, k), C (dv, k), out (m, dv)."""
    for i in range(targets.shape[0]):
        for c in range(out.shape[1]):
            total = 0.0
            for r in range(targets.shape[1]):
                total += C[c, r] * float(targets[i, r])
            out[i, c] = total


@jit(inline=True)
def _weights(weights, b, first, last, each):
    """Return the weights of the sources first .. last - 1 of system b: those given, or `each` (1,) for all."""
    return weights[b % weights.shape[0], first:last] if weights.shape[0] else each


@jit(borrowed=True)
def _masked(C, targets, keys, values, weights, each, limits, b, out):
    C[:, :] = 0.0
    seen = 0
    for i in range(targets.shape[1]):
        if limits[i] > seen:
            _add(C, keys[b, seen : limits[i]], values[b, seen : limits[i]], _weights(weights, b, seen, limits[i], each))
            seen = limits[i]
        _apply(C, targets[b, i : i + 1], out[b, i : i + 1])


def allocate(threads, columns, k, workspace):
    """Return the workspace of `of_tiles` for values of so many columns and keys (n, k), one row per thread each."""
    rows, k = -(-columns // DOT_ROWS) * DOT_ROWS, -(-k // DOT_COLUMNS) * DOT_COLUMNS
    sizes = {"left": rows * _LINE, "right": k * _LINE, "products": rows * k}
    return tuple(workspace(f"moments_{name}", (threads, size), np.float64) for name, size in sizes.items())


@jit(borrowed=True)
def _clear(rows, d, whole):
    """Write zeros into the first `whole` numbers of all rows but the first d."""
    for r in range(d, rows.shape[0] // _LINE):
        rows[r * _LINE : r * _LINE + whole] = 0.0


@jit(borrowed=True)
def _transpose(tokens, whole, out):
    """Write tokens[j, r] into out[r * _LINE + j] for tokens (m, d), and zeros for m <= j < whole."""
    m, d = tokens.shape
    for first in range(0, m, _ROWS):
        last = min(first + _ROWS, m)
        for r in range(d):
            row, column = out[r * _LINE + first : r * _LINE + last], tokens[first:last, r]
            for j in range(last - first):
                row[j] = float(column[j])
    for r in range(d):
        out[r * _LINE + m : r * _LINE + whole] = 0.0


@jit(borrowed=True)
def _scale(rows, d, m, whole, weights, out):
    """Write weights[j] rows[r * _LINE + j] into out for r < d, j < m, and zeros for m <= j < whole.

    weights (m,), or (1,): one for all.
    """
    for r in range(d):
        row, scaled = rows[r * _LINE : r * _LINE + m], out[r * _LINE : r * _LINE + whole]
        if weights.shape[0] == m:
            for j in range(m):
                scaled[j] = row[j] * weights[j]
        else:
            for j in range(m):
                scaled[j] = row[j] * weights[0]
        scaled[m:] = 0.0


@jit(borrowed=True)
def _tile_item(index, thread, keys, values, same, weights, each, memory, partial):
    b, t = index // partial.shape[1], index % partial.shape[1]
    left, right, products, C = memory[0][thread], memory[1][thread], memory[2][thread], partial[b, t]
    dv, k = C.shape
    width, start, end = right.shape[0] // _LINE, t * TILE, min(keys.shape[1], (t + 1) * TILE)
    _clear(left, dv, min(end - start + LANE_COUNT, _BLOCK))
    _clear(right, k, min(end - start + LANE_COUNT, _BLOCK))
    products[:] = 0.0
    # The moment of tokens with themselves is symmetric: panels that lie below its diagonal are left out.
    for first in range(start, end, _BLOCK):
        m = min(_BLOCK, end - first)
        whole = -(-m // LANE_COUNT) * LANE_COUNT
        _transpose(keys[b, first : first + m], whole, right)
        if not same:
            _transpose(values[b, first : first + m], whole, left)
        _scale(right if same else left, dv, m, whole, _weights(weights, b, first, first + m, each), left)
        for r in range(0, k, DOT_COLUMNS):  # the keys of a panel stay in the first cache
            for c in range(0, min(dv, r + DOT_COLUMNS) if same else dv, DOT_ROWS):
                dot_panel(left, c * _LINE, _LINE, right, r * _LINE, _LINE, whole, products, c * width + r, width)
    for c in range(dv):
        for r in range(k):
            C[c, r] = products[(min(c, r) * width + max(c, r)) if same else c * width + r]


@jit
def of_tiles(keys, values, weights, weight, memory, partial):
    """Write the moment (dv, k) of tile t of the sources of system b into partial[b, t].

    keys (B, n, k), values (B, n, dv); weights (1 or B, n), or (0, 0): each is `weight`; partial (B, tiles, dv, k);
    `memory`: see `allocate`.
    """
    work = min(keys.shape[1], TILE) * keys.shape[2] * values.shape[2]
    same = keys.ctypes.data == values.ctypes.data and keys.shape == values.shape
    arguments = (keys, values, same, weights, np.full(1, weight), memory, partial)
    items = partial.shape[0] * partial.shape[1]
    launch(memory[0].shape[0], items, _FEW // work, _tile_item, arguments)


@jit(borrowed=True)
def _masked_item(index, thread, targets, keys, values, weights, each, limits, partial, out):
    _masked(partial[index, 0], targets, keys, values, weights, each, limits[index % limits.shape[0]], index, out)


@jit
def attend_masked(targets, keys, values, weights, limits, partial, out):
    """Write C targets[b, i] into out[b, i], where C is the moment of the first limits[i] sources of system b.

    `limits` (1 or B, m) must not decrease along a row. There is one pass per system; partial (B, 1, dv, k) is
    workspace.
    """
    arguments = (targets, keys, values, weights, np.full(1, 1.0 / keys.shape[1]), limits, partial, out)
    work = (keys.shape[1] + targets.shape[1]) * keys.shape[2] * values.shape[2]
    launch(available(), keys.shape[0], _FEW // work, _masked_item, arguments)
