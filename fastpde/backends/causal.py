"""Masked sums of exponential weights: the sources before a target's window on a grid, those in it directly.

With windows of B sources, n / B maps of moments and n B / 2 pairs are made: B = sqrt(2 t rate) balances them, t the
seconds of a map. Coarse cells with high orders make the grid small, and a map cheap.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .._types import Array
from ..kernels import causal, chebyshev, reduce
from ..kernels.cells import CHUNKS
from . import planning
from .cores import packed_cores
from .gridsum import Box
from .tree import Sum

_RATE = 0.7e9  # pairs per second of a direct sum on one thread
_FLOPS = 10e9  # of a map
_SEGMENTS = 16
_MEMORY = 2e9  # bytes of the moments of all segments
_NONE = np.empty(0, np.int64)


def attend(job: Sum, limits: Array, y_ends: Array, z_ends: Array) -> bool:
    """Writes the masked sums of a reduced pair sum; False where a direct sum is expected to be faster, or safer."""
    n, m = job.y.shape[1], job.z.shape[1]
    if len(job.y) == 0:
        return False
    box = Box.around(y_ends, z_ends)
    plans = [
        planning.plan(box.loads, n, m, job.tol, 1, planning.THETAS[i : i + 1]) for i in range(len(planning.THETAS))
    ]
    found = [plan for plan in plans if plan is not None]
    if box.loads.sum() > planning.MOST_LOGITS or not found:
        return False
    plan = min(found, key=_map_flops)
    seconds = _map_flops(plan) * (1 + len(job.channels)) / _FLOPS + 1e-5
    window = max(64, int(math.sqrt(2.0 * seconds * _RATE)) // 64 * 64)
    if window >= n // 4:
        return False
    largest = np.empty(CHUNKS)
    reduce.tops(job.y, job.bias, box.z_centre, largest)
    spread = np.abs(box.z_centre) @ box.y_half * 2 + (np.ptp(job.bias) if len(job.bias) else 0.0)
    if spread > 600.0:
        return False  # weights of early sources might underflow beside those of later ones
    _sum(job, limits, box, plan, window, float(largest.max()))
    job.report |= {"grids": 1.0, "error_bound": plan.error}
    return True


def _map_flops(plan: planning.Grid) -> float:
    sizes, flops = [chebyshev.padded(int(s)) for s in plan.slabs * plan.order_y], 0.0
    for k in range(len(sizes)):
        lanes = chebyshev.padded(int(plan.slabs[k] * plan.order_z[k]))
        flops += 2.0 * float(np.prod(sizes)) * lanes
        sizes = [*sizes[1:], lanes]
    return flops


def _sum(job: Sum, limits: Array, box: Box, plan: planning.Grid, window: int, top: float) -> None:
    (r, n), m, extra = job.y.shape, job.z.shape[1], len(job.channels)
    weights = job.take("weights", (1 + extra, n), np.float64)
    reduce.weigh(job.y, job.bias, box.z_centre, top, job.channels, np.arange(n, dtype=np.int32), weights)
    of = _side(box.y_centre - box.y_half, box.y_half, plan.slabs, plan.order_y)
    to = _side(box.z_centre - box.z_half, box.z_half, plan.slabs, plan.order_z)
    every = [np.arange(int(count)) for count in plan.slabs]
    cores = packed_cores(box.z_half, box.y_half, plan, every, every, of.sizes, to.sizes)
    matrices = np.zeros((r, max(map(len, cores))))
    for k, matrix in enumerate(cores):
        matrices[k, : len(matrix)] = matrix
    windows = -(-n // window)
    size = int(np.prod(of.sizes))
    segments = int(max(1, min(_SEGMENTS, windows, _MEMORY // (8 * size * (1 + extra)))))
    bounds = np.arange(segments + 1) * windows // segments
    most = int(max(plan.order_y.max(), plan.order_z.max()))
    desk = _desk(r, extra, most, of, to, job)
    tensors = job.take("segments", (segments, 1 + extra, size), np.float64)
    causal.collect(of, job.y, weights, window, bounds, most, desk, tensors)
    causal.accumulate(tensors)
    rows = (r if job.gradient else 0) + extra
    far_means, far_logs = job.take("far_means", (rows, m), np.float64), job.take("far_logs", (m,), np.float64)
    firsts = np.searchsorted(limits, np.arange(windows + 1) * window, side="right")
    causal.far(
        of, to, job.y, weights, job.z, firsts, window, bounds, job.gradient, matrices,
        (box.y_centre, box.y_half, top), np.zeros(chebyshev.WIDTH), most, tensors, desk, far_means, far_logs,
    )  # fmt: skip
    means, logs = _near(job, limits, window, firsts, rows)
    causal.join(far_means, far_logs, means, logs, int(firsts[1]))
    reduce.write(means, logs, _NONE, job.result)


def _side(low: Array, half: Array, slabs: Array, orders: Array) -> causal.Side:
    sizes = np.array([chebyshev.padded(int(size)) for size in slabs * orders])
    return causal.Side(low, 2.0 * half / slabs, slabs, orders, sizes)


def _desk(r: int, extra: int, most: int, of: causal.Side, to: causal.Side, job: Sum) -> causal.Desk:
    threads, ways, sizes = numba.get_num_threads(), [], list(of.sizes)
    for k in range(r):
        sizes = [*sizes[1:], to.sizes[k]]
        ways.append(int(np.prod(sizes)))
    shapes: dict[str, tuple[int, ...]] = {
        "values": (r * most,),
        "slopes": (r * most,),
        "sums": (3 * most,),
        "moving": (1 + extra, int(np.prod(of.sizes))),
        "mapped": (1 + extra, int(np.prod(to.sizes))),
        "between": (2, max(ways)),
        "pack": (int(max(of.sizes.max(), to.sizes.max())) * 64,),
        "found": (1 + r + extra,),
    }
    named = {name: job.take(f"desk_{name}", (threads, *shape), np.float64) for name, shape in shapes.items()}
    return causal.Desk(corner=np.zeros((threads, r), np.int64), **named)


def _near(job: Sum, limits: Array, window: int, firsts: Array, rows: int) -> tuple[Array, Array]:
    """Means (rows, m) and logs (m,) over the sources of each target's own window: small masked sums, side by side."""
    n, m = job.y.shape[1], job.z.shape[1]
    means, logs = job.take("near_means", (rows, m), np.float64), job.take("near_logs", (m,), np.float64)
    values = np.concatenate([job.y if job.gradient else job.y[:0], job.channels])
    parts = [(w, first) for w in range(len(firsts) - 1) for first in range(firsts[w], firsts[w + 1], window)]
    own = np.array([w for w, _ in parts])
    begin = np.array([first for _, first in parts])
    end = np.minimum(begin + window, firsts[own + 1])
    of = np.minimum(own[:, None] * window + np.arange(window), n - 1)
    to = np.minimum(begin[:, None] + np.arange(window), end[:, None] - 1)
    seen = limits[to] - own[:, None] * window
    part = max(1, int(4e6) // window)  # windows at a time: bounds the memory
    for at in range(0, len(parts), part):
        some = slice(at, at + part)
        bias = job.bias[of[some]] if len(job.bias) else None
        found, totals = job.exact(
            np.moveaxis(job.z[:, to[some]], 0, -1), np.moveaxis(job.y[:, of[some]], 0, -1),
            np.moveaxis(values[:, of[some]], 0, -1), bias, seen[some],
        )  # fmt: skip
        valid = np.arange(window) < (end - begin)[some, None]
        means[:, to[some][valid]] = found[valid].T
        logs[to[some][valid]] = totals[valid]
    return means, logs
