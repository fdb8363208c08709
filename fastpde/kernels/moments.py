"""Linear attention without pairs: sum_j w_j <z, y_j> v_j = C z with the moment C = sum_j w_j v_j y_j^T."""

from __future__ import annotations

import numpy as np

from .._jit import jit
from ..simd.pool import available, launch

TILE = 1024  # tokens per partial moment: the order of summation depends on n alone
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


@jit(borrowed=True)
def _tile_item(index, thread, keys, values, weights, each, partial):
    b, t = index // partial.shape[1], index % partial.shape[1]
    first, last, C = t * TILE, min(keys.shape[1], (t + 1) * TILE), partial[b, t]
    C[:, :] = 0.0
    _add(C, keys[b, first:last], values[b, first:last], _weights(weights, b, first, last, each))


@jit
def of_tiles(keys, values, weights, weight, partial):
    """Write the moment (dv, k) of tile t of the sources of system b into partial[b, t].

    keys (B, n, k), values (B, n, dv); weights (1 or B, n), or (0, 0): each is `weight`; partial (B, tiles, dv, k).
    """
    work = min(keys.shape[1], TILE) * keys.shape[2] * values.shape[2]
    arguments = (keys, values, weights, np.full(1, weight), partial)
    launch(available(), partial.shape[0] * partial.shape[1], _FEW // work, _tile_item, arguments)


@jit(borrowed=True)
def _apply_item(index, thread, C, targets, out):
    parts = -(-targets.shape[1] // TILE)
    b, first = index // parts, (index % parts) * TILE
    last = min(targets.shape[1], first + TILE)
    _apply(C[b], targets[b, first:last], out[b, first:last])


@jit
def apply(C, targets, out):
    """Write C[b] targets[b, i] into out[b, i], for C (B, dv, k), targets (B, m, k), out (B, m, dv)."""
    items, work = targets.shape[0] * -(-targets.shape[1] // TILE), min(targets.shape[1], TILE) * C.shape[1] * C.shape[2]
    launch(available(), items, _FEW // work, _apply_item, (C, targets, out))


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
