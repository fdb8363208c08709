"""Sums over the sources that matter: a tree of boxes says which do, and the panels of the direct sum add them up.

A node is a run of sorted points with their box. Of the sources of a node with log-weights b_j = <g, y_j> + res_j, any
target z gets the total weight

    W e^{<z + g, mean>} <= sum_j e^{b_j + <z, y_j>} <= W e^{max over the box of <z + g, y>},    W = sum_j e^{res_j},

with the mean weighted by e^{res_j}, by convexity; g is the slope of the log-weights in the node. Both sides are taken
relative to a source y0, over a box of targets with centre z_c and half widths H: <z, y - y0> is within H |y - y0| of
<z_c, y - y0>. A node is dropped if its upper bound is a small enough fraction of the sum of the lower bounds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import apply_shifted, raise_tops, score_panel
from ..simd.pool import launch
from ..simd.vectors import CHUNK
from ..weights import Exp, Linear
from .attend import add_values, grow_shift, load_tile, write_tile

SOURCES, TARGETS = 24, 16  # most points in a leaf: whole groups of sources, whole tiles of targets
_BETTER = 3.0  # a source becomes the new y0 if its log-weight is larger by at least so much
_ATTEMPTS = 3  # choices of y0, at most
_NO_END = 2**62


@jit(inline=True)
def _below(tree, node, centre, half, origin):
    """Return a lower bound of the log of a node's total weight, relative to a source at `origin`."""
    value = tree.weight[node]
    for k in range(centre.shape[0]):
        away = tree.mean[node, k] - origin[k]
        value += centre[k] * away + tree.slope[node, k] * tree.mean[node, k] - half[k] * abs(away)
    return value


@jit(inline=True)
def _above(tree, node, centre, half, origin):
    """Return an upper bound of the log of a node's total weight, relative to a source at `origin`."""
    value = tree.weight[node]
    for k in range(centre.shape[0]):
        g, low, high = tree.slope[node, k], tree.low[node, k], tree.high[node, k]
        left = centre[k] * (low - origin[k]) + g * low + half[k] * abs(low - origin[k])
        right = centre[k] * (high - origin[k]) + g * high + half[k] * abs(high - origin[k])
        value += max(left, right)
    return value


@jit(inline=True)
def _collect(tree, centre, half, origin, share, small, known, kept, excess):
    """Collect the leaves of sources that may matter to a box of targets.

    A leaf is kept if the upper bound of its weight exceeds e^share times its fraction of the sources times the current
    lower bound of the total, e^known at first. kept[: count] are the leaves, excess by how much they exceed. Returns
    (count, log of the lower bound of the total, the heaviest leaf).
    """
    node, count = 0, 0
    top, total, least, heaviest = -math.inf, 0.0, known, -1
    while node < tree.right.shape[0]:
        over = _above(tree, node, centre, half, origin) - share - tree.part[node]
        if over < least:
            node = tree.skip[node]
            continue
        whole = tree.right[node] < 0 or tree.ends[node, 1] - tree.ends[node, 0] <= small
        if whole:
            value = _below(tree, node, centre, half, origin)
            if value > top:
                total = total * math.exp(top - value) + 1.0
                top, heaviest = value, node
            else:
                total += math.exp(value - top)
            least = max(known, top + math.log(total))
            kept[count], excess[count] = node, over
            count += 1
        node = tree.skip[node] if whole else node + 1
    return count, least, heaviest


@jit(inline=True)
def _place(tree, node, origin):
    for k in range(origin.shape[0]):
        origin[k] = tree.mean[node, k]


@jit(borrowed=True)
def surviving(tree, centre, half, share, small, origin, kept, excess):
    """Collect, in order, the leaves of sources that matter to targets in a box, kept[: count]; return count.

    The leaves that are left out weigh together at most e^share times the total weight of any target in the box. Nodes
    of at most `small` sources count as leaves. origin (r,) and excess are workspace.
    """
    node = 0
    _place(tree, node, origin)
    while tree.right[node] >= 0:
        left, right = node + 1, tree.right[node]
        node = left if _below(tree, left, centre, half, origin) > _below(tree, right, centre, half, origin) else right
        _place(tree, node, origin)
    here = 0.0
    count, least, better = 0, 0.0, node
    for _ in range(_ATTEMPTS):
        here = _below(tree, node, centre, half, origin)
        count, least, better = _collect(tree, centre, half, origin, share, small, here, kept, excess)
        if better == node or not _below(tree, better, centre, half, origin) > here + _BETTER:
            break
        node = better
        _place(tree, node, origin)
    found = 0
    for i in range(count):
        if excess[i] >= least:
            kept[found] = kept[i]
            found += 1
    return found


@jit(inline=True)
def _box(tree, node, centre, half):
    for k in range(centre.shape[0]):
        centre[k] = 0.5 * (tree.low[node, k] + tree.high[node, k])
        half[k] = 0.5 * (tree.high[node, k] - tree.low[node, k])


class Workspace(NamedTuple):
    """Per-thread workspace, with one row per thread."""

    box: np.ndarray  # (threads, 3, r)
    kept: np.ndarray  # (threads, leaves) int64
    excess: np.ndarray  # (threads, leaves)


@jit(borrowed=True)
def _near_node(sources, targets, node, share, small, search, thread, low, high):
    """Return how many sources matter to a node of the targets; write the corners of their box into low and high (r,).

    Nodes of at most `small` sources count as leaves.
    """
    centre, half, kept = search.box[thread, 0], search.box[thread, 1], search.kept[thread]
    _box(targets, node, centre, half)
    found = surviving(sources, centre, half, share, small, search.box[thread, 2], kept, search.excess[thread])
    count = 0
    for k in range(centre.shape[0]):
        low[k], high[k] = math.inf, -math.inf
    for i in range(found):
        leaf = kept[i]
        count += sources.ends[leaf, 1] - sources.ends[leaf, 0]
        for k in range(centre.shape[0]):
            low[k] = min(low[k], sources.low[leaf, k])
            high[k] = max(high[k], sources.high[leaf, k])
    return count


@jit(borrowed=True)
def _near_item(i, thread, sources, targets, nodes, share, small, search, counts, low, high):
    counts[i] = _near_node(sources, targets, nodes[i], share, small, search, thread, low[i], high[i])


@jit
def near(sources, targets, nodes, share, small, search, counts, low, high):
    """Write how many sources matter to nodes[i] of the targets into counts[i], and the corners of their box.

    The box goes into low[i], high[i]; counts (k,), low and high (k, r) for k nodes.
    """
    arguments = (sources, targets, nodes, share, small, search, counts, low, high)
    launch(search.box.shape[0], nodes.shape[0], 1, _near_item, arguments)


@jit
def indices(sources, targets, node, share, search, out):
    """Write the indices of the sorted sources that matter to a node of the targets into `out`; return their number."""
    centre, half, kept, count = search.box[0, 0], search.box[0, 1], search.kept[0], 0
    _box(targets, node, centre, half)
    for i in range(surviving(sources, centre, half, share, 0.0, search.box[0, 2], kept, search.excess[0])):
        for j in range(sources.ends[kept[i], 0], sources.ends[kept[i], 1]):
            out[count] = j
            count += 1
    return count


@jit(inline=True)
def _add_run(layout, packed, start, rows, count, zt, ends, P, tops, shifts, sums):
    """Add `rows` sources from `start` on, all of one chunk, to the sums of `count` tiles."""
    width = layout.width
    chunk = start // CHUNK * CHUNK
    chunk_rows = min(CHUNK, layout.rows - chunk)
    for tile in range(count):
        at, sums_at = tile * width, tile * layout.total * width
        for g in range(0, rows, layout.group):
            score_panel(
                Linear(), P, g * width, zt, at * layout.k, packed.keys, (start + g) * layout.k,
                packed.bias, start + g, layout.k,
            )  # fmt: skip
        raise_tops(P, rows, ends, at, 0, tops, at)
        grow_shift(layout, tops, shifts, at, sums, sums_at)
        apply_shifted(Exp(), P, rows, shifts, at)
        add_values(layout, P, rows, packed.values, chunk, chunk_rows, start - chunk, sums, sums_at)


@jit(borrowed=True)
def _attend_leaf(
    index, thread, sources, targets, leaves, share, layout, packed, points, search, scratch, out, log_total
):
    """Sum for the targets of one leaf of `attend`."""
    leaf = leaves[index]
    zt, P, tops, shifts = (
        scratch.targets[thread], scratch.weights[thread], scratch.tops[thread], scratch.shifts[thread],
    )  # fmt: skip
    ends, sums, kept = scratch.limits[thread], scratch.sums[thread], search.kept[thread]
    centre, half, width = search.box[thread, 0], search.box[thread, 1], layout.width
    first, last = targets.ends[leaf, 0], targets.ends[leaf, 1]
    _box(targets, leaf, centre, half)
    found = surviving(sources, centre, half, share, 0.0, search.box[thread, 2], kept, search.excess[thread])
    count = -(-(last - first) // width)
    for tile in range(count):
        load_tile(layout, points[first:last], ends[:0], tile * width, tile, zt, ends)
    for lane in range(ends.shape[0]):
        ends[lane] = _NO_END
    for lane in range(count * width):
        tops[lane], shifts[lane] = -1.0e307, -1.0e307
    for entry in range(count * width * layout.total):
        sums[entry] = 0.0
    i = 0
    while i < found:
        start, end = sources.ends[kept[i], 0], sources.ends[kept[i], 1]
        i += 1
        while i < found and sources.ends[kept[i], 0] == end:
            end = sources.ends[kept[i], 1]
            i += 1
        end = -(-end // layout.group) * layout.group
        while start < end:
            rows = min(end, start // CHUNK * CHUNK + CHUNK) - start
            _add_run(layout, packed, start, rows, count, zt, ends, P, tops, shifts, sums)
            start += rows
    for tile in range(count):
        at, rows = first + tile * width, min(width, last - first - tile * width)
        write_tile(
            layout, -1.0, packed.exponents[0], shifts, tile * width, sums,
            tile * width * layout.total, rows, out[at:], log_total[:, at:],
        )  # fmt: skip


@jit
def attend(sources, targets, leaves, share, layout, packed, points, search, scratch, out, log_total):
    """Write weighted means into out (m, c) and logs of total weights into log_total (1, m), for some leaves of targets.

    points (m, r) are the sorted targets as rows; `out` and `log_total` have their order.
    """
    arguments = (sources, targets, leaves, share, layout, packed, points, search, scratch, out, log_total)
    launch(scratch.targets.shape[0], leaves.shape[0], 1, _attend_leaf, arguments)
