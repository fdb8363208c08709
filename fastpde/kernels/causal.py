"""Masked sums over a grid: moments grow source by source, window by window; a window's targets see those before it.

Points keep their order; slabs without points are kept. One thread owns a segment of windows, which begins with the
moments of all segments before it. How many segments there are depends on the data alone, so bits do not depend on
threads. Tensors are as in `grid`; here they are read and written point by point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from .._jit import jit
from .cells import slab_of
from .chebyshev import WIDTH
from .grid import STRIP, contract_strip


class Side(NamedTuple):
    """Cells and polynomials of one side."""

    low: np.ndarray  # (r,) lower corner of the box
    width: np.ndarray  # (r,) of a cell
    slabs: np.ndarray  # (r,) int64
    orders: np.ndarray  # (r,) int64
    sizes: np.ndarray  # (r,) int64: padded lengths of the tensor's axes


class Desk(NamedTuple):
    """Per-thread memory: one row per thread."""

    values: np.ndarray  # (threads, r * most orders) polynomials of a point
    slopes: np.ndarray  # (threads, r * most orders) their derivatives
    corner: np.ndarray  # (threads, r) int64
    sums: np.ndarray  # (threads, 3 * most orders)
    moving: np.ndarray  # (threads, 1 + e, size of the sources' tensor)
    mapped: np.ndarray  # (threads, 1 + e, size of the targets' tensor)
    between: np.ndarray  # (threads, 2, size of the largest tensor on the way)
    pack: np.ndarray  # (threads, longest axis * 64)
    found: np.ndarray  # (threads, 1 + r + e)


@jit(borrowed=True)
def _place(side, points, i, most, values, slopes, corner):
    """The cell of point i on the tensor, and its polynomials with their derivatives."""
    for k in range(side.orders.shape[0]):
        slab = slab_of(points[k, i], side.low[k], side.width[k], side.slabs[k])
        corner[k] = slab * side.orders[k]
        u = 2.0 * ((points[k, i] - side.low[k]) / side.width[k] - slab) - 1.0
        u = min(max(u, -1.0), 1.0)
        at = k * most
        values[at], slopes[at] = 1.0, 0.0
        if side.orders[k] > 1:
            values[at + 1], slopes[at + 1] = u, 1.0
        for a in range(2, side.orders[k]):
            values[at + a] = 2.0 * u * values[at + a - 1] - values[at + a - 2]
            slopes[at + a] = 2.0 * (values[at + a - 1] + u * slopes[at + a - 1]) - slopes[at + a - 2]


@jit(borrowed=True)
def _add(side, weight, most, values, corner, tensor):
    """tensor += weight times the products of a point's polynomials."""
    r = side.orders.shape[0]
    last, tail = side.orders[r - 1], (r - 1) * most
    row_size = side.sizes[r - 1]
    first = side.orders[0] if r > 1 else 1
    second = side.orders[1] if r > 2 else 1
    for a in range(first):
        outer = weight * (values[a] if r > 1 else 1.0)
        for b in range(second):
            scale = outer * (values[most + b] if r > 2 else 1.0)
            at = corner[r - 1]
            if r == 2:
                at += (corner[0] + a) * row_size
            elif r == 3:
                at += ((corner[0] + a) * side.sizes[1] + corner[1] + b) * row_size
            row = tensor[at : at + last]
            for c in range(last):
                row[c] += scale * values[tail + c]


@jit(borrowed=True)
def _read(side, most, values, slopes, corner, tensor, gradient, sums, found):
    """found[0] <- the polynomial of a cell at a point; with `gradient` found[1 + k] its derivatives."""
    r = side.orders.shape[0]
    last, tail = side.orders[r - 1], (r - 1) * most
    row_size = side.sizes[r - 1]
    first = side.orders[0] if r > 1 else 1
    second = side.orders[1] if r > 2 else 1
    plain, bent, turned = sums[:most], sums[most : 2 * most], sums[2 * most :]
    for c in range(last):
        plain[c], bent[c], turned[c] = 0.0, 0.0, 0.0
    for a in range(first):
        value1, slope1 = (values[a], slopes[a]) if r > 1 else (1.0, 0.0)
        for b in range(second):
            value2, slope2 = (values[most + b], slopes[most + b]) if r > 2 else (1.0, 0.0)
            at = corner[r - 1]
            if r == 2:
                at += (corner[0] + a) * row_size
            elif r == 3:
                at += ((corner[0] + a) * side.sizes[1] + corner[1] + b) * row_size
            row = tensor[at : at + last]
            both, left, right = value1 * value2, slope1 * value2, value1 * slope2
            for c in range(last):
                plain[c] += both * row[c]
                bent[c] += left * row[c]
                turned[c] += right * row[c]
    total, slope, first_slope, second_slope = 0.0, 0.0, 0.0, 0.0
    for c in range(last):
        total += plain[c] * values[tail + c]
        slope += plain[c] * slopes[tail + c]
        first_slope += bent[c] * values[tail + c]
        second_slope += turned[c] * values[tail + c]
    found[0] = total
    if gradient:
        found[r] = slope
        if r > 1:
            found[1] = first_slope
        if r > 2:
            found[2] = second_slope


@jit(borrowed=True)
def _map(of, to, matrices, tensor, between, pack, zeros, mapped):
    """mapped <- the tensor with the matrices (r, ...) applied to its axes."""
    r = of.sizes.shape[0]
    if r == 1:
        first = of.sizes[0]
        for tile in range(to.sizes[0] // WIDTH):
            for lane in range(WIDTH):
                mapped[tile * WIDTH + lane] = 0.0
            for j in range(first):
                at = (tile * first + j) * WIDTH
                for lane in range(WIDTH):
                    mapped[tile * WIDTH + lane] += tensor[j] * matrices[0, at + lane]
        return
    source = tensor
    for k in range(r):
        rest = 1
        for other in range(k + 1, r):
            rest *= of.sizes[other]
        for other in range(k):
            rest *= to.sizes[other]
        out = mapped if k == r - 1 else between[k % 2]
        for start in range(0, rest, STRIP):
            contract_strip(source, of.sizes[k], rest, start, matrices[k], to.sizes[k], pack, zeros, out)
        source = out


@jit(borrowed=True)
def _collect(side, points, weights, first, last, most, values, slopes, corner, tensors):
    for i in range(first, last):
        _place(side, points, i, most, values, slopes, corner)
        for e in range(tensors.shape[0]):
            _add(side, weights[e, i], most, values, corner, tensors[e])


@jit(parallel=True)
def collect(side, points, weights, window, bounds, most, desk, tensors):
    """tensors[g] (1 + e, size) <- the moments of the sources in the windows bounds[g] .. bounds[g + 1] - 1."""
    n = points.shape[1]
    for g in prange(tensors.shape[0]):
        thread = numba.get_thread_id()
        tensors[g, :, :] = 0.0
        _collect(
            side, points, weights, min(bounds[g] * window, n), min(bounds[g + 1] * window, n), most,
            desk.values[thread], desk.slopes[thread], desk.corner[thread], tensors[g],
        )  # fmt: skip


@jit
def accumulate(tensors):
    """tensors[g] <- the sum of those before g."""
    for e in range(tensors.shape[1]):
        for i in range(tensors.shape[2]):
            total = 0.0
            for g in range(tensors.shape[0]):
                own = tensors[g, e, i]
                tensors[g, e, i] = total
                total += own


@jit(borrowed=True)
def _window(of, to, z, first, last, gradient, matrices, frame, zeros, most, local, means, logs):
    """The far sums of the targets first .. last - 1 from the moments of all sources before their window."""
    values, slopes, corner, sums, moving, mapped, between, pack, found = local
    r, extra = z.shape[0], moving.shape[0] - 1
    for e in range(1 + extra):
        _map(of, to, matrices, moving[e], between, pack, zeros, mapped[e])
    y_centre, y_half, top = frame
    for i in range(first, last):
        _place(to, z, i, most, values, slopes, corner)
        for e in range(extra, -1, -1):
            _read(to, most, values, slopes, corner, mapped[e], gradient and e == 0, sums, found)
            if e > 0:
                found[r + e] = found[0]
        total = found[0]
        log = top + math.log(total)
        for k in range(r):
            middle = 0.5 * to.slabs[k] * to.width[k]
            slab = corner[k] // to.orders[k]
            log += abs((slab + 0.5) * to.width[k] - middle) * y_half[k]
            log += (z[k, i] - to.low[k] - middle) * y_centre[k]
            if gradient:
                means[k, i] = y_centre[k] + found[1 + k] * 2.0 / (to.width[k] * total)
        for e in range(extra):
            means[means.shape[0] - extra + e, i] = found[r + 1 + e] / total
        logs[i] = log


@jit(parallel=True)
def far(
    of, to, y, weights, z, firsts, window, bounds, gradient, matrices, frame, zeros, most, tensors, desk, means, logs
):
    """means and logs of every target from the sources before its window; those of the first window are left alone.

    firsts[w]: the first target of window w (windows + 1,). tensors: from `accumulate`.
    """
    n = y.shape[1]
    for g in prange(tensors.shape[0]):
        thread = numba.get_thread_id()
        local = (
            desk.values[thread], desk.slopes[thread], desk.corner[thread], desk.sums[thread], desk.moving[thread],
            desk.mapped[thread], desk.between[thread], desk.pack[thread], desk.found[thread],
        )  # fmt: skip
        moving = desk.moving[thread]
        for e in range(moving.shape[0]):
            for i in range(moving.shape[1]):
                moving[e, i] = tensors[g, e, i]
        for w in range(bounds[g], bounds[g + 1]):
            if w > 0 and firsts[w + 1] > firsts[w]:
                _window(
                    of, to, z, firsts[w], firsts[w + 1], gradient, matrices, frame, zeros, most, local, means, logs
                )  # fmt: skip
            _collect(
                of, y, weights, min(w * window, n), min((w + 1) * window, n), most, desk.values[thread],
                desk.slopes[thread], desk.corner[thread], moving,
            )  # fmt: skip


@jit(parallel=True)
def join(far_means, far_logs, means, logs, starts):
    """means, logs (q, m), (m,) <- both sums of every target from starts on together: log-weights logs and far_logs."""
    for i in prange(starts, logs.shape[0]):
        top = max(logs[i], far_logs[i])
        near, beyond = math.exp(logs[i] - top), math.exp(far_logs[i] - top)
        total = near + beyond
        for k in range(means.shape[0]):
            means[k, i] = (near * means[k, i] + beyond * far_means[k, i]) / total
        logs[i] = top + math.log(total)
