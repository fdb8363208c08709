"""Direct sums with a second score: for every target, sums of w u_j, and of w <a, b_j> [v_j, 1].

Here w = weight(<target, key_j> + bias_j) as in `attend`, a belongs to the target, and b_j, u_j, v_j to source j: what
derivatives of a sum are made of. Tiles, chunks, and shifts of wide tiles are those of `attend`; once the weights of a
tile have served the first values, they are multiplied by the second score in place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import power_of_two, shiftable, times_panel
from ..simd.pool import launch
from ..simd.vectors import CHUNK, TILES
from .attend import add_values, begin_tiles, grow_tile, score_tile, weigh_tile, write_row, write_tile
from .layout import Layout

_FLUSH = -1000.0  # as in `attend`


class Second(NamedTuple):
    """Workspace of the second score, beside that of `attend`: one row per thread."""

    targets: np.ndarray  # (threads, TILES * q * width)
    sums: np.ndarray  # (threads, TILES * total * width)
    shifts: np.ndarray  # (threads, TILES * width) those that are already in these sums


def allocate(threads: int, layout: Layout, workspace) -> Second:
    """Allocate the workspace of `threads` threads in float64; `workspace(name, shape, dtype)` returns each array."""
    tile = TILES * layout.width
    return Second(
        workspace("second_targets", (threads, tile * layout.k), np.float64),
        workspace("second_sums", (threads, tile * layout.total), np.float64),
        workspace("second_shifts", (threads, tile), np.float64),
    )


@jit(inline=True)
def _load(layout, a, count, memory):
    """Write the second targets a (m, q) of `count` tiles as [tile][q][lane]; clear the sums."""
    at, sums, _ = memory
    width = layout.width
    for tile in range(count):
        for lane in range(width):
            i = min(tile * width + lane, a.shape[0] - 1)
            for r in range(layout.k):
                at[(tile * layout.k + r) * width + lane] = a[i, r]
    for c in range(count * layout.total * width):
        sums[c] = 0.0


@jit(inline=True)
def _rescale(layout, shifts, tile, memory):
    """Bring the second sums of a tile to the shifts of the first."""
    _, sums, own = memory
    for lane in range(layout.width):
        at = tile * layout.width + lane
        drop = own[at] - shifts[at]
        if drop < 0.0:
            factor = power_of_two(int(drop)) if drop >= _FLUSH else 0.0
            for c in range(layout.total):
                sums[(tile * layout.total + c) * layout.width + lane] *= factor
        own[at] = shifts[at]


@jit(borrowed=True)
def _sum_group(weight, factor, layout, other, packed, more, b, z, a, limits, memory, second, out, out2, log_total):
    """Sum over all sources of system b for up to TILES tiles of its targets z (m, k) and a (m, q)."""
    P, shifts, sums, tiles = memory[1], memory[3], memory[5], memory[6]
    width, base = layout.width, b * layout.rows
    count = begin_tiles(weight, layout, packed, b, z, limits, memory)
    _load(other, a, count, second)
    for lane in range(count * width):
        second[2][lane] = shifts[lane]
    for start in range(0, layout.rows, CHUNK):
        chunk_rows = min(CHUNK, layout.rows - start)
        for tile in range(count):
            if tiles[1, tile] <= start:
                continue
            groups = min(chunk_rows // layout.group, -(-(tiles[1, tile] - start) // layout.group))
            rows = groups * layout.group
            score_tile(weight, layout, packed, base, start, groups, tile, memory)
            grow_tile(weight, layout, P, rows, start, tile, memory)
            if tiles[2, tile] != 0 and shiftable(weight):
                _rescale(other, shifts, tile, second)
            weigh_tile(weight, layout, rows, start, tile, memory)
            at = tile * width
            add_values(layout, P, rows, packed.values, base + start, chunk_rows, 0, sums, at * layout.total)
            for g in range(groups):
                j = base + start + g * layout.group
                times_panel(P, g * layout.group * width, second[0], at * other.k, more.keys, j * other.k, other.k)
            add_values(other, P, rows, more.values, base + start, chunk_rows, 0, second[1], at * other.total)
    for tile in range(count):
        rows, first = min(width, z.shape[0] - tile * width), tile * width
        write_tile(
            layout, factor, packed.exponents[b], shifts, first, sums, first * layout.total, rows,
            out[first:], log_total[:, first:],
        )  # fmt: skip
        for lane in range(rows):
            total = sums[first * layout.total + (layout.total - 1) * width + lane]
            shift, at, row = (
                shifts[first + lane] + packed.exponents[b, 1],
                first * other.total + lane,
                out2[first + lane],
            )
            values, weights = row[: other.total - 1], row[other.total - 1 :]
            write_row(other, factor, more.exponents[b, 0], shift, total, second[1], at, values)
            write_row(other, factor, 0.0, shift, total, second[1], at + (other.total - 1) * width, weights)


@jit(borrowed=True)
def _sum_item(
    index, thread, weight, factor, layout, other, size, packed, more, targets, second_targets, limits, scratch, second,
    out, out2, log_total,
):  # fmt: skip
    """Make a work item of `attend`: one group of targets, or in masked sums two."""
    systems, m = targets.shape[0], targets.shape[1]
    groups = -(-m // size)
    items = systems * groups
    late = items - 1 - index if limits.shape[1] > 0 else index
    memory = (
        scratch.targets[thread], scratch.weights[thread], scratch.tops[thread], scratch.shifts[thread],
        scratch.limits[thread], scratch.sums[thread], scratch.tiles[thread],
    )  # fmt: skip
    own = (second.targets[thread], second.sums[thread], second.shifts[thread])
    for item in range(index, late + 1, max(1, late - index)):
        b, first = item // groups, (item % groups) * size
        last = min(m, first + size)
        _sum_group(
            weight, factor, layout, other, packed, more, b, targets[b, first:last], second_targets[b, first:last],
            limits[b % limits.shape[0], first:last], memory, own, out[b, first:last], out2[b, first:last],
            log_total[b : b + 1, first:last],
        )  # fmt: skip


@jit
def attend(
    weight, factor, layout, other, size, portion, packed, more, targets, second_targets, limits, scratch, second, out,
    out2, log_total,
):  # fmt: skip
    """Write sums of w u into out (B, m, c), as `attend.attend` does, and of w <a, b> [v, 1] into out2 (B, m, c2 + 1).

    The second sums are divided by the sum of w, or multiplied by `factor`, as the first are. layout, packed, targets:
    of the first score with u; other, more, second_targets: of the second with v, packed without bias. float64.
    """
    groups = targets.shape[0] * -(-targets.shape[1] // size)
    items = (groups + 1) // 2 if limits.shape[1] > 0 else groups
    arguments = (
        weight, factor, layout, other, size, packed, more, targets, second_targets, limits, scratch, second, out, out2,
        log_total,
    )  # fmt: skip
    launch(scratch.targets.shape[0], items, portion, _sum_item, arguments)
