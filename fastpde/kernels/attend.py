"""The direct sum: for every target, sum_j law(score(target, source j)) [values_j, 1], tile by tile.

    score = <target, key_j> + bias_j        (natural units; targets are multiplied by 1/log 2 here, so a law is 2^t)

One thread owns a group of target tiles and reads all sources in order, chunk by chunk: a chunk's partial sum is made
in the working precision in registers, and added to a float64 total. So a row's bits depend on nothing but the row.

Two modes, chosen per tile from |target| max |key|: narrow (no score can leave the range of 2^t: no shift, no clamp) and
wide (raw scores first, a running maximum rounded up to an integer, sums rescaled by exact powers of two when it grows).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .._jit import jit
from .pack import LOG2E, rows_per_group
from .panels import apply_law, mask_rows, power_of_two, raw_panel, score_panel, shiftable, value_panel
from .vectors import CHUNK, TILES, VECTORS, lanes_of

# Half-width of the score range (units of log 2) in which 2^t and its sums are safe without shift or clamp.
NARROW_32, NARROW_64 = 100.0, 1000.0
_LANES_32, _LANES_64 = VECTORS * lanes_of(32).count, VECTORS * lanes_of(64).count
_FLUSH = -1000


class Scratch(NamedTuple):
    """Per-thread memory: one row per thread."""

    targets: np.ndarray  # (threads, TILES * k * W) working precision
    weights: np.ndarray  # (threads, CHUNK * W) the weights P of one tile and chunk
    tops: np.ndarray  # (threads, 2 * TILES * W) running maxima, then the shifts in use
    limits: np.ndarray  # (threads, TILES * W) int32 | int64
    sums: np.ndarray  # (threads, TILES * columns * W) float64


def tile_width(dtype) -> int:
    """Targets in a tile."""
    return _LANES_64 if np.dtype(dtype).itemsize == 8 else _LANES_32


def allocate(threads: int, k: int, columns: int, dtype, take) -> Scratch:
    """Scratch for `threads` threads; `columns` counts all padded value columns."""
    dtype = np.dtype(dtype)
    width = tile_width(dtype)
    integer = np.int64 if dtype.itemsize == 8 else np.int32
    return Scratch(
        take("targets", (threads, TILES * k * width), dtype),
        take("weights", (threads, CHUNK * width), dtype),
        take("tops", (threads, 2 * TILES * width), dtype),
        take("limits", (threads, TILES * width), integer),
        take("sums", (threads, TILES * columns * width), np.float64),
    )


@jit(inline=True)
def _width(array):
    return _LANES_64 if array.itemsize == 8 else _LANES_32


@jit(inline=True)
def _load_tile(z, limits, first, tile, sources, zt, ends):
    """Targets first.. of one tile as [k][lane], scaled; returns (largest |target|, smallest and largest limit)."""
    width, k = _width(zt), z.shape[1]
    largest, low, high = 0.0, sources, 0
    for lane in range(width):
        i = min(first + lane, z.shape[0] - 1)
        square = 0.0
        for r in range(k):
            value = z[i, r] * LOG2E
            zt[(tile * k + r) * width + lane] = value
            square += value * value
        largest = max(largest, square)
        end = limits[i] if limits.shape[0] else sources
        ends[tile * width + lane] = end
        low, high = min(low, end), max(high, end)
    return math.sqrt(largest), low, high


@jit(inline=True)
def _grow_shift(tops, tile, sums, columns):
    """Moves the shift of a tile up to its running maximum and rescales its sums: exact powers of two."""
    width = _width(tops)
    shifts = TILES * width
    for lane in range(width):
        at = tile * width + lane
        shift = math.ceil(tops[at])
        old = tops[shifts + at]
        if shift > old:
            tops[shifts + at] = shift
            drop = float(old) - float(shift)
            factor = power_of_two(int(drop)) if drop >= _FLUSH else 0.0
            for c in range(columns):
                sums[(tile * columns + c) * width + lane] *= factor


@jit(inline=True)
def _weigh_chunk(law, wide, packed, start, rows, k, tile, low, memory):
    """Fills P with the weights of `rows` sources from `start` for one tile; sources beyond a lane's limit weigh 0."""
    P, zt, ends, tops, sums, columns, base = memory
    width, group = _width(P), rows_per_group(P)
    for g in range(rows // group):
        y_at = (base + start + g * group) * k
        b_at = base + start + g * group
        if wide:
            raw_panel(
                P, g * group * width, zt, tile * k * width, packed.keys, y_at, packed.bias, b_at, k,
                tops, tile * width, ends, tile * width, start + g * group,
            )  # fmt: skip
        else:
            score_panel(law, P, g * group * width, zt, tile * k * width, packed.keys, y_at, packed.bias, b_at, k)
    if wide:
        _grow_shift(tops, tile, sums, columns)
        apply_law(law, P, rows, tops, (TILES + tile) * width)
    if low < start + rows:
        mask_rows(P, max(0, low - start), rows, ends, tile * width, start)


@jit(inline=True)
def _write_rows(normalised, packed, b, memory, first, tile, rows, out, log_total):
    """Divides by the last column (normalised) or undoes the shift, and writes the rows of one tile."""
    _, zt, _, tops, sums, columns, _ = memory
    width, dv = _width(zt), out.shape[1]
    for lane in range(min(width, rows - first)):
        i = first + lane
        at = tile * columns * width + lane
        total = sums[at + dv * width]
        shift = int(min(max(tops[TILES * width + tile * width + lane], -4.0e15), 4.0e15)) + packed.exponents[b, 1]
        if log_total.shape[0]:
            log_total[0, i] = (shift + math.log2(total)) / LOG2E
        exponent = packed.exponents[b, 0] + (0 if normalised else shift)
        exponent = min(max(exponent, -20000), 20000)
        for c in range(dv):
            value = sums[at + c * width]
            out[i, c] = math.ldexp(value / total if normalised else value, exponent)


@jit(inline=True)
def _sum_group(law, normalised, packed, columns, b, z, limits, n, memory, out, log_total, group_at):
    """One group of up to TILES tiles of targets of system b against all its sources."""
    P, zt, ends, tops, sums, total_columns, base = memory
    width, k = _width(zt), z.shape[1]
    rows = base_rows(n, P)
    first = group_at * TILES * width
    tiles = min(TILES, -(-(z.shape[0] - first) // width))
    lows, highs, wides = np.empty(TILES, np.int64), np.empty(TILES, np.int64), np.empty(TILES, np.bool_)
    limit = (NARROW_64 if P.itemsize == 8 else NARROW_32) - math.log2(n)
    sums[: tiles * total_columns * width] = 0.0
    for tile in range(tiles):
        largest, low, high = _load_tile(z, limits, first + tile * width, tile, n, zt, ends)
        reach = 1.000001 * largest * packed.bounds[b, 0]
        wides[tile] = shiftable(law) and not (reach <= limit and reach - packed.bounds[b, 1] <= limit)
        lows[tile] = low if limits.shape[0] else rows
        highs[tile] = high
        start = -1.0e37 if wides[tile] else 0.0
        for lane in range(width):
            tops[tile * width + lane] = start
            tops[(TILES + tile) * width + lane] = start
    for start in range(0, rows, CHUNK):
        chunk_rows = min(CHUNK, rows - start)
        for tile in range(tiles):
            if highs[tile] <= start:
                continue
            used = min(chunk_rows, base_rows(highs[tile] - start, P))
            _weigh_chunk(law, wides[tile], packed, start, used, k, tile, lows[tile], memory)
            values = (base + start) * total_columns
            for g in range(columns.groups):
                value_panel(
                    columns.width, P, used, packed.values, values + g * chunk_rows * columns.width,
                    sums, (tile * total_columns + g * columns.width) * width,
                )  # fmt: skip
    for tile in range(tiles):
        _write_rows(normalised, packed, b, memory, first + tile * width, tile, z.shape[0], out, log_total)


@jit(inline=True)
def base_rows(n, P):
    """n rounded up to whole groups of sources."""
    group = rows_per_group(P)
    return -(-n // group) * group


@jit(parallel=True)
def attend(law, normalised, packed, columns, n, targets, limits, scratch, out, log_total):
    """Sums over packed sources for targets (B, m, k) into out (B, m, dv); log of the weight total into log_total (B, m).

    `limits` (m,) is the number of leading sources each target sees (empty: all). `log_total` (0, 0) is not written.
    normalised: out = sum w v / sum w; otherwise out = sum w v. Work items pair an early with a late group, so that
    masked sums are shared evenly between threads.
    """
    systems, m = targets.shape[0], targets.shape[1]
    width = _width(targets)
    groups = -(-m // (TILES * width))
    items = systems * groups
    total_columns = columns.groups * columns.width
    for index in prange((items + 1) // 2):
        pair = np.int64(index)
        thread = numba.get_thread_id()
        for side in range(2):
            item = pair if side == 0 else items - 1 - pair
            if side == 1 and item == pair:
                continue
            b = item // groups
            memory = (
                scratch.weights[thread], scratch.targets[thread], scratch.limits[thread], scratch.tops[thread],
                scratch.sums[thread], total_columns, b * base_rows(n, targets),
            )  # fmt: skip
            totals = log_total[b : b + 1]
            _sum_group(law, normalised, packed, columns, b, targets[b], limits, n, memory, out[b], totals, item % groups)
