"""The direct sum: for every target, sum_j weight(score(target, source j)) [values_j, 1], tile by tile.

    score = <target, key_j> + bias_j        (natural units; targets are multiplied by 1/log 2 here, so a weight is 2^t)

One thread owns a group of target tiles and reads all sources in order, chunk by chunk: a chunk's partial sum is made
in the working precision in registers, and added to a float64 total. So a row's bits depend on the sources and on the
targets of its tile, and not on the number of threads.

Two modes, chosen per tile from |target| max |key|: narrow (no score can leave the range of 2^t: no shift, no clamp) and
wide (raw scores first; for a weight that allows it a running maximum, rounded up to an integer, is subtracted, and the
sums are rescaled by exact powers of two when it grows; then a clamp).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import (
    apply_shifted,
    apply_weight,
    fused,
    mask_rows,
    power_of_two,
    raise_tops,
    score_panel,
    shiftable,
    value_panel,
)
from ..simd.pool import launch, threads
from ..simd.vectors import CHUNK, TILES
from ..weights import Linear
from .layout import Layout
from .pack import LOG2E

_FLUSH = -1000  # sums that shrink by more than 2^1000 are zero, not subnormal
_LEAST = 10**6  # work in a portion, some 20 microseconds: one thread does it before others have begun
_ALL_GONE = 20000.0  # any sum times 2^20000 is inf, times 2^-20000 is 0


class Workspace(NamedTuple):
    """Per-thread workspace of a direct sum, with one row per thread."""

    targets: np.ndarray  # (threads, TILES * k * width) working precision
    weights: np.ndarray  # (threads, CHUNK * width) the weights P of one tile and chunk
    tops: np.ndarray  # (threads, TILES * width) running maxima of raw scores
    shifts: np.ndarray  # (threads, TILES * width) the shifts in use: whole numbers
    limits: np.ndarray  # (threads, TILES * width) int32 beside float32, int64 beside float64
    sums: np.ndarray  # (threads, TILES * total * width) float64
    tiles: np.ndarray  # (threads, 3, TILES) int64: smallest limit, largest limit, whether wide


def allocate(threads: int, layout: Layout, dtype, workspace) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array."""
    tile = TILES * layout.width
    return Workspace(
        workspace("targets", (threads, tile * layout.k), dtype),
        workspace("weights", (threads, CHUNK * layout.width), dtype),
        workspace("tops", (threads, tile), dtype),
        workspace("shifts", (threads, tile), dtype),
        workspace("limits", (threads, tile), np.int64 if np.dtype(dtype).itemsize == 8 else np.int32),
        workspace("sums", (threads, tile * layout.total), np.float64),
        workspace("tiles", (threads, 3, TILES), np.int64),
    )


def division(targets: np.ndarray, masked: bool, layout: Layout) -> tuple[int, int]:
    """Return the targets of a group, and how many work items a thread takes at a time, for `attend`.

    A group has up to TILES tiles, and fewer where that makes the number of work items a multiple of the threads. A work
    item is one group; in masked sums two, an early and a late one. Threads take an eighth of their work items at a
    time, but not too little work.
    """
    systems, m = targets.shape[:2]
    each, workers = 2 if masked else 1, threads()
    tiles, together = systems * -(-m // layout.width), each * workers
    rounds = max(1, -(-tiles // (TILES * together)))
    size = max(1, -(-tiles // (rounds * together))) * layout.width
    items = -(-systems * -(-m // size) // each)
    work = size * each * layout.rows * (4 + layout.k + layout.total)  # of an item
    return size, max(1, items // (8 * workers), _LEAST // work)


@jit(inline=True)
def load_tile(layout, z, limits, first, tile, zt, ends):
    """Write the targets `first` .. of one tile into `zt` as [k][lane], in units of log 2, and their limits into `ends`.

    Lanes beyond the last target repeat it. Returns (largest |target|, smallest limit, largest limit).
    """
    width = layout.width
    largest, low, high = 0.0, layout.n, 0
    for lane in range(width):
        i = min(first + lane, z.shape[0] - 1)
        square = 0.0
        for r in range(layout.k):
            value = z[i, r] * LOG2E
            zt[(tile * layout.k + r) * width + lane] = value
            square += value * value
        largest = max(largest, square)
        end = limits[i] if limits.shape[0] else layout.n
        ends[tile * width + lane] = end
        low, high = min(low, end), max(high, end)
    return math.sqrt(largest), low, high


@jit(inline=True)
def grow_shift(layout, tops, shifts, first, sums, sums_at):
    """Raise the shifts of a tile to its running maxima, rounded up, and rescale its sums by exact powers of two."""
    for lane in range(layout.width):
        shift = np.ceil(tops[first + lane])
        drop = float(shifts[first + lane]) - float(shift)
        if drop < 0.0:
            shifts[first + lane] = shift
            factor = power_of_two(int(drop)) if drop >= _FLUSH else 0.0
            for c in range(layout.total):
                sums[sums_at + c * layout.width + lane] *= factor


@jit(inline=True)
def add_values(layout, P, rows, values, chunk, chunk_rows, skipped, sums, sums_at):
    """Add P times the values of `rows` sources to the sums of one tile, part by part.

    The sources follow the first `skipped` of the chunk that begins at row `chunk` and has `chunk_rows` rows.
    """
    for low in range(0, layout.total, layout.columns):
        columns = min(layout.columns, layout.total - low)
        at = chunk * layout.total + chunk_rows * low + skipped * columns
        value_panel(columns, P, rows, values, at, sums, sums_at + low * layout.width)


@jit(inline=True)
def write_row(layout, factor, exponent, shift, total, sums, at, row):
    """Write the result of one target into `row` (c,) from its sums, which begin at `at`.

    If factor < 0 (normalised), the sums are divided by `total`; otherwise they are multiplied by `factor` and the shift
    is undone. `exponent` is the power of two that was taken out of the values.
    """
    normalised = factor < 0.0
    lift = exponent + (0.0 if normalised else shift)
    whole = int(min(max(lift, -_ALL_GONE), _ALL_GONE))
    power = power_of_two(min(max(whole, _FLUSH), -_FLUSH))
    for c in range(row.shape[0]):
        value = sums[at + c * layout.width]
        value = value / total if normalised else value * factor
        # ldexp is a library call: it is used only where one multiplication does not suffice.
        row[c] = value * power if _FLUSH <= whole <= -_FLUSH else math.ldexp(value, whole)


@jit(inline=True)
def write_tile(layout, factor, exponents, shifts, first, sums, sums_at, rows, out, log_total):
    """Write the results of `rows` targets of one tile into `out`, and the logs of their total weights into `log_total`.

    The column of weights is the total of `write_row`. A `log_total` of shape (0, 0) is not written.
    """
    dv = out.shape[1]
    for lane in range(rows):
        at = sums_at + lane
        total = sums[at + dv * layout.width]
        shift = float(shifts[first + lane]) + exponents[1]
        if log_total.shape[0]:
            log_total[0, lane] = (shift + math.log2(total * abs(factor))) / LOG2E
        write_row(layout, factor, exponents[0], shift, total, sums, at, out[lane])


@jit(inline=True)
def begin_tiles(weight, layout, packed, b, z, limits, memory):
    """Load up to TILES tiles of targets z (m, k) of system b, and find which of them are wide; return how many."""
    zt, P, tops, shifts, ends, sums, tiles = memory
    width = layout.width
    count = -(-z.shape[0] // width)
    lowest = -1.0e307 if P.itemsize == 8 else -1.0e37
    for c in range(count * layout.total * width):
        sums[c] = 0.0
    for tile in range(count):
        largest, low, high = load_tile(layout, z, limits, tile * width, tile, zt, ends)
        bound = 1.000001 * largest * packed.bounds[b, 0]
        wide = not (bound + packed.bounds[b, 1] <= layout.reach)
        tiles[0, tile] = low if limits.shape[0] else layout.rows
        tiles[1, tile] = high
        tiles[2, tile] = wide
        for lane in range(width):
            tops[tile * width + lane] = lowest if wide and shiftable(weight) else 0.0
            shifts[tile * width + lane] = tops[tile * width + lane]
    return count


@jit(inline=True)
def grow_tile(weight, layout, P, rows, start, tile, memory):
    """Raise the shifts of a wide tile to the scores P of `rows` sources; `start` is the first one."""
    _, _, tops, shifts, ends, sums, tiles = memory
    at = tile * layout.width
    if tiles[2, tile] != 0 and shiftable(weight):
        raise_tops(P, rows, ends, at, start, tops, at)
        grow_shift(layout, tops, shifts, at, sums, at * layout.total)


@jit(inline=True)
def score_tile(weight, layout, packed, base, start, groups, tile, memory):
    """Write what one tile sees of `groups` groups of sources into P: their weights if the tile is narrow, else scores.

    A weight that panels do not apply leaves scores, too. base: the first row of the system's sources.
    """
    zt, P, tiles = memory[0], memory[1], memory[6]
    wide = tiles[2, tile] != 0
    for g in range(groups):
        j, at = start + g * layout.group, g * layout.group * layout.width
        if wide or not fused(weight):
            score_panel(
                Linear(), P, at, zt, tile * layout.width * layout.k, packed.keys, (base + j) * layout.k, packed.bias,
                base + j, layout.k,
            )  # fmt: skip
        else:
            score_panel(
                weight, P, at, zt, tile * layout.width * layout.k, packed.keys, (base + j) * layout.k, packed.bias,
                base + j, layout.k,
            )  # fmt: skip


@jit(inline=True)
def weigh_tile(weight, layout, rows, start, tile, memory):
    """Make weights of what `score_tile` has left of `rows` sources, 0 for those that a target does not see."""
    _, P, _, shifts, ends, _, tiles = memory
    at = tile * layout.width
    if tiles[2, tile] != 0:
        apply_shifted(weight, P, rows, shifts, at)
    elif not fused(weight):
        apply_weight(weight, P, rows)
    if tiles[0, tile] < start + rows:
        mask_rows(P, max(0, tiles[0, tile] - start), rows, ends, at, start)


@jit(borrowed=True)
def _sum_group(weight, factor, layout, packed, b, z, limits, memory, out, log_total):
    """Sum over all sources of system b for up to TILES tiles of its targets z (m, k), into out (m, dv)."""
    P, shifts, sums, tiles = memory[1], memory[3], memory[5], memory[6]
    width, base = layout.width, b * layout.rows
    count = begin_tiles(weight, layout, packed, b, z, limits, memory)
    for start in range(0, layout.rows, CHUNK):
        chunk_rows = min(CHUNK, layout.rows - start)
        for tile in range(count):
            if tiles[1, tile] <= start:
                continue
            groups = min(chunk_rows // layout.group, -(-(tiles[1, tile] - start) // layout.group))
            rows = groups * layout.group
            score_tile(weight, layout, packed, base, start, groups, tile, memory)
            grow_tile(weight, layout, P, rows, start, tile, memory)
            weigh_tile(weight, layout, rows, start, tile, memory)
            at = tile * layout.total * width
            add_values(layout, P, rows, packed.values, base + start, chunk_rows, 0, sums, at)
    for tile in range(count):
        rows, first = min(width, z.shape[0] - tile * width), tile * width
        write_tile(
            layout, factor, packed.exponents[b], shifts, first, sums, first * layout.total, rows,
            out[first:], log_total[:, first:],
        )  # fmt: skip


@jit(borrowed=True)
def _sum_item(index, thread, weight, factor, layout, size, packed, targets, limits, scratch, out, log_total):
    """Make a work item of `attend`: one group of targets, or in masked sums two."""
    systems, m = targets.shape[0], targets.shape[1]
    groups = -(-m // size)
    items = systems * groups
    late = items - 1 - index if limits.shape[1] > 0 else index
    memory = (
        scratch.targets[thread], scratch.weights[thread], scratch.tops[thread], scratch.shifts[thread],
        scratch.limits[thread], scratch.sums[thread], scratch.tiles[thread],
    )  # fmt: skip
    for item in range(index, late + 1, max(1, late - index)):
        b, first = item // groups, (item % groups) * size
        last = min(m, first + size)
        _sum_group(
            weight, factor, layout, packed, b, targets[b, first:last], limits[b % limits.shape[0], first:last],
            memory, out[b, first:last], log_total[b : b + 1, first:last],
        )  # fmt: skip


@jit
def attend(weight, factor, layout, size, portion, packed, targets, limits, scratch, out, log_total):
    """Write the sums over packed sources for targets (B, m, k) into out (B, m, dv).

    The logs of the total weights go into log_total (B, m), unless its shape is (0, 0). `limits` (1 or B, m) is the
    number of leading sources that each target sees; with the shape (1, 0), all targets see all. If factor < 0, the
    result is the weighted mean sum w v / sum w; otherwise it is factor sum w v. The log is of |factor| sum w. A work
    item is a group of `size` targets; in masked sums an early and a late one, so that items are equal. `portion` of
    them are taken at a time, see `division`.
    """
    groups = targets.shape[0] * -(-targets.shape[1] // size)
    items = (groups + 1) // 2 if limits.shape[1] > 0 else groups
    arguments = (weight, factor, layout, size, packed, targets, limits, scratch, out, log_total)
    launch(scratch.targets.shape[0], items, portion, _sum_item, arguments)
