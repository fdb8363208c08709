"""Error bounds and cost estimates of grids, and the search for the cheapest one.

Axis k carries logits up to L_k = (half width of the targets' box) (half width of the sources' box) either way. It is
cut into q slabs per side, so that a cell against the other box has the exponent theta = L / q, and two cells
c = L / q^2. The relative error of the fitted exponential (`cores`), of an axis with p polynomials, is

    sources  d_s = 2 e^c (I_p(theta) + I_{p-1}(theta) / q)      targets  d_t = 6 (p / theta) I_p(theta)

They include the error of the slopes of which means are made, for which rounding adds 4 u p^2 / theta to d_t; I_p
is a modified Bessel function. The forms are Chebyshev tails of e^{a x}; the constants were measured on extreme cell
pairs, that of rounding on points in the corners of cells. The factors of the axes multiply, so small errors add.
Rounding also adds u (2 e^{2 r theta} + r / 2 e^{4 theta}): all the mass in one corner of a cell, the target in the
opposite one. A mean's error is measured in units of the sources' spread, so the slopes' errors of the axes add like the
sides of a box.
"""

from __future__ import annotations

import math

from .._jit import jit

MOST_LOGITS = 250.0  # largest sum of L: e^{2 sum L} is within the range of numbers
MOST_ORDER = 24
CORE = 1e-8  # seconds per entry of an axis' matrix (`backends.cores`), which is made on one thread
_LEAST_ORDER = 3
_UNIT = 1.1e-16
_SOURCES, _TARGETS, _ROUNDING = 0.25, 0.55, 0.2  # fractions of the tolerance
_MOST_NODES = 6e8  # most entries of a tensor: 5 GB


@jit(inline=True)
def bessels(x, out):
    """Write the modified Bessel functions I_p(x), 0 <= x <= 6, into out[p]: Miller's recurrence, to rounding."""
    above, here, total = 0.0, 1e-300, 0.0
    for p in range(MOST_ORDER + 30, -1, -1):
        if p < out.shape[0]:
            out[p] = here
        total += here if p == 0 else 2.0 * here
        above, here = here, above + 2.0 * p / x * here if p > 0 else 0.0
        if here > 1e250:
            above, here, total = above * 1e-250, here * 1e-250, total * 1e-250
            for q in range(p, out.shape[0]):
                out[q] *= 1e-250
    scale = math.exp(x) / total  # e^x = I_0 + 2 I_1 + 2 I_2 + ...
    for p in range(out.shape[0]):
        out[p] *= scale


@jit(inline=True)
def source_error(order, theta, slabs, bessel):
    """Return the error d_s of an axis; bessel: I_0, I_1, ... at theta."""
    return 2.0 * math.exp(theta / slabs) * (bessel[order] + bessel[order - 1] / slabs)


@jit(inline=True)
def target_error(order, theta, bessel):
    """Return the error d_t of an axis; bessel: I_0, I_1, ... at theta."""
    return 6.0 * order / theta * bessel[order] + 4.0 * _UNIT * order * order / theta


@jit(inline=True)
def rounding_error(theta, axes):
    """Return the bound of the rounding error in cells of exponent theta."""
    return _UNIT * (2.0 * math.exp(2.0 * axes * theta) + axes / 2.0 * math.exp(4.0 * theta))


@jit(inline=True)
def _seconds(sizes, sources, targets, channels):
    """Estimate the seconds of one evaluation on one thread: sorting and moments, cores, evaluation.

    `sizes` is as in `_fill`. Source: docs/sums/fast.md, 4.2.
    """
    r = sizes.shape[1]
    flops, numbers, cells, P_z, P_y = 0.0, 0.0, 1.0, 1.0, 1.0
    for k in range(r):
        numbers += float(sizes[0, k]) ** 2 * sizes[1, k] * sizes[2, k]
        step = 2.0
        for i in range(r):
            step *= sizes[0, i] * (sizes[1, i] if i <= k else sizes[2, i])
        flops += step * sizes[0, k] * sizes[2, k]
        cells *= sizes[0, k]
        P_z *= sizes[1, k]
        P_y *= sizes[2, k]
    points = sources * (30e-9 * r + 0.2e-9 * P_y * channels) + targets * (60e-9 * r + 0.25e-9 * P_z * channels)
    occupied = min(cells, sources) * P_y + min(cells, targets) * P_z
    return 1e-3 + CORE * numbers + points + channels * flops / 12e9 + 3e-9 * occupied


@jit(inline=True)
def _fill(L, theta, sources, targets, tol, channels, sizes, bessel):
    """Find the slabs and orders of a grid whose cells have exponents up to theta; return (error, seconds).

    The rows of sizes (3, r) become the slabs, the orders of targets and the orders of sources. Both results are inf if
    there is no such grid.
    """
    r = L.shape[0]
    widest, nodes_z, nodes_y, near, far = 0.0, 1.0, 1.0, 0.0, 0.0
    for k in range(r):
        sizes[0, k] = max(1, math.ceil(L[k] / theta))
        widest = max(widest, L[k] / sizes[0, k])
    rounding = rounding_error(widest, r)
    if rounding > _ROUNDING * tol:
        return math.inf, math.inf
    for k in range(r):
        slabs, p_z, p_y = sizes[0, k], _LEAST_ORDER, _LEAST_ORDER
        exact = L[k] / slabs
        bessels(exact, bessel)
        while p_y <= MOST_ORDER and source_error(p_y, exact, slabs, bessel) > _SOURCES * tol / r:
            p_y += 1
        while p_z <= MOST_ORDER and target_error(p_z, exact, bessel) > _TARGETS * tol / math.sqrt(r):
            p_z += 1
        if max(p_y, p_z) > MOST_ORDER:
            return math.inf, math.inf
        sizes[1, k], sizes[2, k] = p_z, p_y
        near += source_error(p_y, exact, slabs, bessel)
        far += target_error(p_z, exact, bessel) ** 2
        nodes_z *= slabs * p_z
        nodes_y *= slabs * p_y
    if max(nodes_z, nodes_y) > _MOST_NODES:
        return math.inf, math.inf
    return rounding + near + math.sqrt(far), _seconds(sizes, sources, targets, channels)


@jit
def best(L, thetas, sources, targets, tol, channels, sizes, trial, bessel):
    """Write the sizes (3, r) of the cheapest grid into `sizes`; return its (error, seconds).

    The cells of a grid have exponents up to one of `thetas`. `trial` (3, r) and `bessel` are workspace. Both results
    are inf if there is no such grid.
    """
    error, seconds = math.inf, math.inf
    if L.sum() > MOST_LOGITS:
        return error, seconds
    for theta in thetas:
        found, cost = _fill(L, theta, sources, targets, tol, channels, trial, bessel)
        if cost < seconds:
            error, seconds = found, cost
            for i in range(sizes.size):  # a slice would compile an error message about shapes, which takes seconds
                sizes.flat[i] = trial.flat[i]
    return error, seconds


@jit
def prices(L, thetas, sources, targets, tol, channels, sizes, trial, bessel, out):
    """Write the seconds of the cheapest grid for the logits L[i] into out[i]."""
    for i in range(L.shape[0]):
        out[i] = best(L[i], thetas, sources[i], targets[i], tol, channels, sizes, trial, bessel)[1]
