"""Points sorted into a tree of boxes, each with a slope of its log-weights, for the bounds of `pruned`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit

_BALANCED = 1024  # nodes of more points are cut at the middle of their box, others at the median of their points
_EDGE = 16  # each part of a node has at least 1 / 16 of its points
_STEEPEST = 1e7  # largest |slope coordinate|: rounding makes steeper slopes useless, and they become zero


class Tree(NamedTuple):
    """Sorted points and the nodes of their tree in preorder: the children of node i are i + 1 and right[i]."""

    points: np.ndarray  # (r or r + 1, n) sorted; row r, if there is one, has the log-weights
    order: np.ndarray  # (n,) int64: their indices before sorting
    ends: np.ndarray  # (nodes, 2) int64: first and last point + 1
    right: np.ndarray  # (nodes,) int64; -1: a leaf
    skip: np.ndarray  # (nodes,) int64: the next node outside of this one
    low: np.ndarray  # (nodes, r) corners of the box
    high: np.ndarray  # (nodes, r)
    mean: np.ndarray  # (nodes, r) mean of the points, weighted by e^{res_j} (see `pruned`)
    slope: np.ndarray  # (nodes, r) g, the slope of the log-weights
    weight: np.ndarray  # (nodes,) log W
    part: np.ndarray  # (nodes,) log of the fraction of all points that it has


@jit(inline=True)
def _swap(points, order, i, j):
    for k in range(points.shape[0]):
        points[k, i], points[k, j] = points[k, j], points[k, i]
    order[i], order[j] = order[j], order[i]


@jit(inline=True)
def _select(points, order, k, first, last, at, pivot):
    """Reorder the points first .. last - 1 so that, along axis k, none before `at` is greater than one from there on.

    This is quickselect; `pivot` is a first guess of the dividing value, in the range of the points.
    """
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


@jit(inline=True)
def _halve(tree, scale, unit, node):
    """Divide the points of a node across the axis with the largest scale * width; return where the second part begins.

    The first part has a whole multiple of `unit` points.
    """
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


@jit(inline=True)
def _survey(tree, node):
    """Compute the corners of the box of a node's points."""
    for k in range(tree.low.shape[1]):
        low, high = math.inf, -math.inf
        for i in range(tree.ends[node, 0], tree.ends[node, 1]):
            value = tree.points[k, i]
            low, high = min(low, value), max(high, value)
        tree.low[node, k], tree.high[node, k] = low, high


@jit(inline=True)
def _regress(tree, node, normal):
    """Fit the log-weights of a node's points by a linear function of the coordinates; write its slope into slope[node].

    The fit is by least squares; normal (r + 1, r + 1) is workspace.
    """
    r = tree.low.shape[1]
    first, last = tree.ends[node, 0], tree.ends[node, 1]
    for a in range(r + 1):
        for b in range(r + 1):
            normal[a, b] = 0.0
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


@jit(inline=True)
def _weigh(tree, node, normal):
    """Compute the mean, slope, log-weight and fraction of a node of sources; normal (r + 1, r + 1) is workspace."""
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
    """Sort the points and make all nodes of their tree; return the number of nodes.

    A node of more than `unit` points is divided in two; scale (r,) are the factors of the widths of boxes by which the
    axis is chosen. Means, slopes and weights are computed if the points are `sources`.
    """
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
