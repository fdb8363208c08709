"""Sums over the sources that matter: a tree of boxes says which do, and the panels of the direct sum add them up.

A node is a run of sorted points with their box. Of the sources of a node with log-weights b_j = <g, y_j> + res_j, any
target z gets the total weight

    W e^{<z + g, mean>} <= sum_j e^{b_j + <z, y_j>} <= W e^{max over the box of <z + g, y>},    W = sum_j e^{res_j},

with the mean weighted by e^{res_j}, by convexity; g is the slope of the log-weights in the node. Both sides are taken
relative to a source y0, over a box of targets with centre z_c and half widths H: <z, y - y0> is within
H |y - y0| of <z_c, y - y0>. A node is dropped if its upper bound is a small enough share of the lower bounds' sum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .._jit import jit
from ..laws import ExpLaw, LinearLaw
from .attend import grow_shift, load_tile, write_tile
from .panels import apply_shifted, raise_tops, score_panel, value_panel
from .vectors import CHUNK

SOURCES, TARGETS = 24, 16  # points in a leaf, at least: whole groups of sources, whole tiles of targets
_BALANCED = 1024  # points from which boxes are halved rather than their points
_EDGE = 16  # a part has at least one in so many points
_BETTER = 3.0  # logits: sources that weigh that much more are a better y0
_ATTEMPTS = 3
_STEEPEST = 1e7  # slopes beyond are not worth their rounding
_NO_END = 2**62


class Tree(NamedTuple):
    """Sorted points, and their boxes in preorder: the first part of node i is node i + 1, the other is right[i]."""

    points: np.ndarray  # (r or r + 1, n) sorted; the last row, if there is one more, log-weights
    order: np.ndarray  # (n,) int64: where they were
    ends: np.ndarray  # (nodes, 2) int64: first and last point + 1
    right: np.ndarray  # (nodes,) int64; -1: a leaf
    skip: np.ndarray  # (nodes,) int64: the next node that is no part of this one
    low: np.ndarray  # (nodes, r) corners of the box
    high: np.ndarray  # (nodes, r)
    mean: np.ndarray  # (nodes, r)
    slope: np.ndarray  # (nodes, r) g
    weight: np.ndarray  # (nodes,) log W
    part: np.ndarray  # (nodes,) log of its part of all points


@jit(inline=True)
def _swap(points, order, i, j):
    for k in range(points.shape[0]):
        points[k, i], points[k, j] = points[k, j], points[k, i]
    order[i], order[j] = order[j], order[i]


@jit
def _select(points, order, k, first, last, at, pivot):
    """Moves points first .. last - 1 so that along axis k none before `at` is beyond one from there on (quickselect);
    `pivot` is a first guess of what divides them, in their range."""
    while first < last - 1:
        i, j = first, last - 1
        while i <= j:
            while points[k, i] < pivot:
                i += 1
            while points[k, j] > pivot:
                j -= 1
            if i <= j:
                _swap(points, order, i, j)
                i, j = i + 1, j - 1
        if at <= j:
            last = j + 1
        elif at >= i:
            first = i
        else:
            return
        a, b, c = points[k, first], points[k, (first + last) // 2], points[k, last - 1]
        pivot = max(min(a, b), min(max(a, b), c))


@jit
def _halve(tree, scale, unit, node):
    """Divides the points of a node in two, across the axis with the largest scale * width; returns where."""
    first, last = tree.ends[node, 0], tree.ends[node, 1]
    k, widest, count = 0, -1.0, last - first
    for axis in range(tree.low.shape[1]):
        width = scale[axis] * (tree.high[node, axis] - tree.low[node, axis])
        if width > widest:
            k, widest = axis, width
    low, high = tree.low[node, k], tree.high[node, k]
    middle = min(max(low + 0.5 * (high - low), low), high)
    rank = count // 2
    if count > _BALANCED:
        rank = 0
        for i in range(first, last):
            rank += tree.points[k, i] < middle
        rank = min(max(rank, count // _EDGE), count - count // _EDGE)
    whole = -(-count // unit)
    at = first + unit * min(max((rank + unit // 2) // unit, 1), whole - 1)
    _select(tree.points, tree.order, k, first, last, at, middle)
    return at


@jit
def _survey(tree, node):
    """The box of a node's points."""
    for k in range(tree.low.shape[1]):
        low, high = math.inf, -math.inf
        for i in range(tree.ends[node, 0], tree.ends[node, 1]):
            value = tree.points[k, i]
            low, high = min(low, value), max(high, value)
        tree.low[node, k], tree.high[node, k] = low, high


@jit
def _regress(tree, node, normal):
    """slope[node] <- that of the log-weights in the coordinates, by least squares; normal (r + 1, r + 1) is memory."""
    r = tree.low.shape[1]
    first, last = tree.ends[node, 0], tree.ends[node, 1]
    normal[:, :] = 0.0
    for i in range(first, last):
        for a in range(r + 1):
            left = tree.points[a, i] - tree.points[a, first]
            normal[a, r] += left  # sums; the products with log-weights are row r
            for b in range(min(a + 1, r)):
                normal[a, b] += left * (tree.points[b, i] - tree.points[b, first])
    for a in range(r + 1):
        for b in range(min(a + 1, r)):
            normal[a, b] -= normal[a, r] * normal[b, r] / (last - first)
    for a in range(r):
        for b in range(a):
            normal[b, a] = normal[a, b]
        normal[a, a] += 1e-9 * normal[a, a] + 1e-300
    for a in range(r):  # elimination; the right side is row r
        for b in range(a + 1, r):
            factor = normal[b, a] / normal[a, a]
            for c in range(a, r):
                normal[b, c] -= factor * normal[a, c]
            normal[r, b] -= factor * normal[r, a]
    for a in range(r - 1, -1, -1):
        value = normal[r, a]
        for b in range(a + 1, r):
            value -= normal[a, b] * tree.slope[node, b]
        value /= normal[a, a]
        reach = max(abs(tree.low[node, a]), abs(tree.high[node, a]))
        tree.slope[node, a] = value if abs(value) * reach < _STEEPEST else 0.0


@jit
def _weigh(tree, node, normal):
    """mean, slope and weight of a node."""
    r = tree.low.shape[1]
    first, last = tree.ends[node, 0], tree.ends[node, 1]
    tree.slope[node], tree.mean[node] = 0.0, 0.0
    biased = tree.points.shape[0] > r
    top = 0.0
    if biased:
        _regress(tree, node, normal)
        top = -math.inf
        for i in range(first, last):
            top = max(top, _remainder(tree, node, i))
    total = 0.0
    for i in range(first, last):
        weight = math.exp(_remainder(tree, node, i) - top) if biased else 1.0
        total += weight
        for k in range(r):
            tree.mean[node, k] += weight * (tree.points[k, i] - tree.points[k, first])
    for k in range(r):
        tree.mean[node, k] = tree.points[k, first] + tree.mean[node, k] / total
    tree.weight[node] = top + math.log(total)
    tree.part[node] = math.log((last - first) / tree.points.shape[1])


@jit(inline=True)
def _remainder(tree, node, i):
    r = tree.low.shape[1]
    value = tree.points[r, i]
    for k in range(r):
        value -= tree.slope[node, k] * tree.points[k, i]
    return value


@jit
def grow(tree, scale, unit, sources):
    """Sorts the points, makes all nodes, of at most `unit` points or two halves; returns how many there are."""
    r, n = tree.low.shape[1], tree.points.shape[1]
    waiting, normal = np.empty((128 * _EDGE, 3), np.int64), np.empty((r + 1, r + 1))
    waiting[0, 0], waiting[0, 1], waiting[0, 2] = 0, n, -1
    depth, node = 1, 0
    while depth:
        depth -= 1
        first, last, parent = waiting[depth, 0], waiting[depth, 1], waiting[depth, 2]
        if parent >= 0:
            tree.right[parent] = node
        tree.ends[node, 0], tree.ends[node, 1], tree.right[node] = first, last, -1
        _survey(tree, node)
        if sources:
            _weigh(tree, node, normal)
        if last - first > unit:
            at = _halve(tree, scale, unit, node)
            waiting[depth, 0], waiting[depth, 1], waiting[depth, 2] = at, last, node
            waiting[depth + 1, 0], waiting[depth + 1, 1], waiting[depth + 1, 2] = first, at, -1
            depth += 2
        node += 1
    for i in range(node - 1, -1, -1):
        tree.skip[i] = i + 1 if tree.right[i] < 0 else tree.skip[tree.right[i]]
    return node


@jit(inline=True)
def _below(tree, node, centre, half, origin):
    """A bound from below of a node's total weight, relative to a source at `origin`."""
    value = tree.weight[node]
    for k in range(centre.shape[0]):
        away = tree.mean[node, k] - origin[k]
        value += centre[k] * away + tree.slope[node, k] * tree.mean[node, k] - half[k] * abs(away)
    return value


@jit(inline=True)
def _above(tree, node, centre, half, origin):
    """The same from above."""
    value = tree.weight[node]
    for k in range(centre.shape[0]):
        g, low, high = tree.slope[node, k], tree.low[node, k], tree.high[node, k]
        left = centre[k] * (low - origin[k]) + g * low + half[k] * abs(low - origin[k])
        right = centre[k] * (high - origin[k]) + g * high + half[k] * abs(high - origin[k])
        value += max(left, right)
    return value


@jit
def _collect(tree, centre, half, origin, share, small, known, kept, excess):
    """kept[: count] <- the leaves above `share` per source of what is known of the total so far, excess <- how far
    above; returns (count, log of the lower bound of the total, the leaf that weighs most). known: such a bound."""
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


@jit
def surviving(tree, centre, half, share, small, origin, kept, excess):
    """kept[: count] <- the leaves, in order, that matter to targets in a box; what is left out has together at most
    e^share of the total weight of any target there. Nodes of at most `small` sources pass for leaves. Returns count;
    origin (r,) and excess are memory."""
    node = 0
    origin[:] = tree.mean[0]
    while tree.right[node] >= 0:
        left, right = node + 1, tree.right[node]
        node = left if _below(tree, left, centre, half, origin) > _below(tree, right, centre, half, origin) else right
        origin[:] = tree.mean[node]
    here = 0.0
    count, least, better = 0, 0.0, node
    for _ in range(_ATTEMPTS):
        here = _below(tree, node, centre, half, origin)
        count, least, better = _collect(tree, centre, half, origin, share, small, here, kept, excess)
        if better == node or not _below(tree, better, centre, half, origin) > here + _BETTER:
            break
        node = better
        origin[:] = tree.mean[node]
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


class Desk(NamedTuple):
    """Per-thread memory: one row per thread."""

    box: np.ndarray  # (threads, 3, r)
    kept: np.ndarray  # (threads, leaves) int64
    excess: np.ndarray  # (threads, leaves)


@jit(parallel=True)
def near(sources, targets, nodes, share, small, desk, counts, low, high):
    """counts[i], low[i], high[i] <- how many sources matter to node i of the targets, and their box."""
    for index in prange(nodes.shape[0]):
        thread = numba.get_thread_id()
        centre, half, kept = desk.box[thread, 0], desk.box[thread, 1], desk.kept[thread]
        _box(targets, nodes[index], centre, half)
        found = surviving(sources, centre, half, share, small, desk.box[thread, 2], kept, desk.excess[thread])
        counts[index], low[index], high[index] = 0, math.inf, -math.inf
        for i in range(found):
            leaf = kept[i]
            counts[index] += sources.ends[leaf, 1] - sources.ends[leaf, 0]
            for k in range(centre.shape[0]):
                low[index, k] = min(low[index, k], sources.low[leaf, k])
                high[index, k] = max(high[index, k], sources.high[leaf, k])


@jit
def indices(sources, targets, node, share, desk, out):
    """out[: count] <- the places of the sorted sources that matter to a node of the targets; returns count."""
    centre, half, kept, count = desk.box[0, 0], desk.box[0, 1], desk.kept[0], 0
    _box(targets, node, centre, half)
    for i in range(surviving(sources, centre, half, share, 0, desk.box[0, 2], kept, desk.excess[0])):
        for j in range(sources.ends[kept[i], 0], sources.ends[kept[i], 1]):
            out[count] = j
            count += 1
    return count


@jit(inline=True)
def _add_run(layout, packed, start, rows, count, zt, ends, P, tops, shifts, sums):
    """Adds `rows` sources from `start`, of one chunk, to the sums of `count` tiles."""
    width, columns = layout.width, layout.columns
    chunk = start // CHUNK * CHUNK
    chunk_rows = min(CHUNK, layout.rows - chunk)
    for tile in range(count):
        at, sums_at = tile * width, tile * layout.parts * columns * width
        for g in range(0, rows, layout.group):
            score_panel(
                LinearLaw(), P, g * width, zt, at * layout.k, packed.keys, (start + g) * layout.k,
                packed.bias, start + g, layout.k,
            )  # fmt: skip
        raise_tops(P, rows, ends, at, 0, tops, at)
        grow_shift(layout, tops, shifts, at, sums, sums_at)
        apply_shifted(ExpLaw(), P, rows, shifts, at)
        for part in range(layout.parts):
            place = chunk * layout.parts * columns + (part * chunk_rows + start - chunk) * columns
            value_panel(columns, P, rows, packed.values, place, sums, sums_at + part * columns * width)


@jit(parallel=True)
def attend(sources, targets, leaves, share, layout, packed, points, desk, scratch, out, log_total):
    """out (m, c), log_total (m,) <- weighted means and logs of total weights at the targets of some leaves; points
    (m, r) are the sorted targets as rows."""
    for index in prange(leaves.shape[0]):
        thread = numba.get_thread_id()
        zt, P, tops, shifts = (
            scratch.targets[thread], scratch.weights[thread], scratch.tops[thread], scratch.shifts[thread],
        )  # fmt: skip
        ends, sums, kept = scratch.limits[thread], scratch.sums[thread], desk.kept[thread]
        centre, half, width = desk.box[thread, 0], desk.box[thread, 1], layout.width
        leaf = leaves[index]
        first, last = targets.ends[leaf, 0], targets.ends[leaf, 1]
        _box(targets, leaf, centre, half)
        found = surviving(sources, centre, half, share, 0, desk.box[thread, 2], kept, desk.excess[thread])
        count = -(-(last - first) // width)
        for tile in range(count):
            load_tile(layout, points[first:last], ends[:0], tile * width, tile, zt, ends)
        ends[:] = _NO_END
        tops[: count * width], shifts[: count * width] = -1.0e307, -1.0e307
        sums[: count * width * layout.parts * layout.columns] = 0.0
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
                tile * width * layout.parts * layout.columns, rows, out[at:], log_total[:, at:],
            )  # fmt: skip
