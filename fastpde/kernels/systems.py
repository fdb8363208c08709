"""The velocity of one small system, whole: maps, scores, weights and sums without leaving the first-level cache.

Tokens are rows of lanes, [coordinate][token], padded to whole tiles by copies of the last token. With c their mean
(0 for sums that are not normalised), and for each of some heads,

    score_ij = <A (x_i - c) + E c, x_j - c> - <x_j - c, D (x_j - c)> + bias,    weight_ij = weight(score_ij),
    v_i = V (c + sum_j w_j weight_ij (x_j - c) / sum_j w_j weight_ij)    or    sum_j w_j weight_ij V x_j,

summed over the heads; on the sphere, v_i - <v_i, x_i> x_i. All sums run over the sources in their order: a system's
bits depend on the system alone. Narrow and wide tiles are those of `attend`; the sources are few enough to be scored
at once, so a wide tile knows its maximum before the first weight.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import apply_shifted, apply_weight, fused, mask_rows, power_of_two, raise_tops, shiftable
from ..simd.row_panels import ROW_GROUP, largest, row_panel, value_rows
from ..simd.vectors import CHUNK, VECTORS, lanes_of, most_columns
from ..weights import Linear
from .layout import reach_of

_LINES = 256  # bytes: threads that write closer to each other wait for each other's cache lines
_FARTHEST = 20000.0  # any finite sum times 2^20000 is inf, times 2^-20000 is 0


class Shape(NamedTuple):
    """Sizes that all systems share, as plain integers."""

    n: int  # tokens
    d: int
    entries: int  # entries of a state, over which its squared errors are averaged
    heads: int
    width: int  # tokens in a tile
    lanes: int  # tokens after padding to whole tiles
    rows: int  # coordinates after padding to whole groups: what a map writes
    columns: int  # value rows in a panel
    normalised: int
    tilted: int  # whether there is a D
    plain: int  # whether values are the tokens: normalised and not weighted
    sphere: int
    factor: float  # of sums that are not normalised: 1/n without weights
    reach: float  # largest |score| (units of log 2) for which no shift and no clamp are needed


class Forms(NamedTuple):
    """Parameters of 1 or B systems, in units of log 2 where they make scores; matrices transposed, rows padded."""

    A: np.ndarray  # (1 or B, heads * d * rows)
    E: np.ndarray  # as A
    D: np.ndarray  # as A, or (1, 0)
    V: np.ndarray  # as A
    bias: np.ndarray  # (1 or B, heads)
    norms: np.ndarray  # (1 or B, 2 * heads) float64: bounds of |A| and |D|
    mantissas: np.ndarray  # (1 or B, lanes): weights divided by the powers of two
    exponents: np.ndarray  # (1 or B, lanes): powers of two taken out of the weights; in unused lanes those of the last
    limits: np.ndarray  # (lanes,) leading sources each token sees; int32 beside float32, int64 beside float64


class Workspace(NamedTuple):
    """Per-thread workspace, with one row per thread."""

    keys: np.ndarray  # (threads, (d + 1) * lanes) tokens minus their mean, and a row of ones
    values: np.ndarray  # (threads, (rows + 1) * lanes)
    targets: np.ndarray  # (threads, rows * lanes)
    means: np.ndarray  # (threads, heads * d * lanes)
    weights: np.ndarray  # (threads, (lanes + 2) * width)
    bias: np.ndarray  # (threads, lanes)
    squares: np.ndarray  # (threads, lanes)
    shift: np.ndarray  # (threads, >= rows)
    tops: np.ndarray  # (threads, width)
    sums: np.ndarray  # (threads, (d + 1) * width) float64
    centre: np.ndarray  # (threads, >= d) float64
    wide_shift: np.ndarray  # (threads, >= rows) float64


def padded_rows(d: int) -> int:
    """Return the number of coordinates that a map writes: whole groups."""
    return -(-d // ROW_GROUP) * ROW_GROUP


def shape_for(n: int, d: int, heads: int, dtype, *, normalised: bool, tilted: bool, weighted: bool, sphere: bool):
    """Return the sizes of systems of n tokens in R^d."""
    bits = 8 * np.dtype(dtype).itemsize
    width, columns = VECTORS * lanes_of(bits).count, d + normalised
    return Shape(
        n=n,
        d=d,
        entries=n * d,
        heads=heads,
        width=width,
        lanes=-(-n // width) * width,
        rows=padded_rows(d),
        columns=-(-columns // -(-columns // most_columns())),
        normalised=int(normalised),
        tilted=int(tilted),
        plain=int(normalised and not weighted),
        sphere=int(sphere),
        factor=1.0 if weighted else 1.0 / n,
        reach=reach_of(bits),
    )


def _apart(size: int, dtype) -> int:
    """Return a size from `size` on with which rows of different threads lie in different cache lines."""
    line = _LINES // np.dtype(dtype).itemsize
    return -(-size // line) * line


def allocate(threads: int, shape: Shape, dtype, workspace) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array."""
    lanes, rows, d, width = shape.lanes, shape.rows, shape.d, shape.width
    sizes = {
        "keys": (d + 1) * lanes,
        "values": (rows + 1) * lanes,
        "targets": rows * lanes,
        "means": shape.heads * d * lanes,
        "weights": (lanes + 2) * width,
        "bias": lanes,
        "squares": lanes,
        "shift": _apart(rows, dtype),
        "tops": width,
    }
    wide = {"sums": (d + 1) * width, "centre": _apart(d, np.float64), "wide_shift": _apart(rows, np.float64)}
    return Workspace(
        **{name: workspace(name, (threads, size), dtype) for name, size in sizes.items()},
        **{name: workspace(name, (threads, size), np.float64) for name, size in wide.items()},
    )


@jit(inline=True)
def mean_of(row, n):
    """Return the mean of row[:n] in float64, by four sums: a single one would wait for each addition."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = n - n % 4
    for i in range(0, whole, 4):
        s0 += row[i]
        s1 += row[i + 1]
        s2 += row[i + 2]
        s3 += row[i + 3]
    for i in range(whole, n):
        s0 += row[i]
    return ((s0 + s1) + (s2 + s3)) / n


@jit(inline=True)
def _centre(shape, x, keys, centre, squares):
    """Write x - c and a row of ones into `keys`, and c into `centre`; return the largest |x - c|."""
    lanes = shape.lanes
    squares[:] = 0.0
    for r in range(shape.d):
        row, key = x[r * lanes : (r + 1) * lanes], keys[r * lanes : (r + 1) * lanes]
        mean = mean_of(row, shape.n) if shape.normalised else 0.0
        centre[r] = mean
        for i in range(lanes):
            key[i] = row[i] - mean
        for i in range(lanes):
            squares[i] += key[i] * key[i]
    keys[shape.d * lanes :] = 1.0
    return math.sqrt(float(largest(squares)))


@jit(inline=True)
def _add_image(shape, matrix, centre, total):
    """Add M c to `total`, where `matrix` is M transposed and c is `centre`."""
    for r in range(shape.d):
        column, c = matrix[r * shape.rows : (r + 1) * shape.rows], centre[r]
        for q in range(shape.rows):
            total[q] += c * column[q]


@jit(borrowed=True)
def _map(shape, matrix, x, k, shift, begin, end, out):
    """Write shift[q] + sum_r matrix[r, q] x[r] into out[q], for lanes begin .. end - 1 of k rows of x."""
    for first in range(begin, end, shape.width):
        for q in range(0, shape.rows, ROW_GROUP):
            row_panel(
                Linear(), out, q * shape.lanes + first, shape.lanes, x, first, shape.lanes,
                matrix, q, shape.rows, shift, q, k,
            )  # fmt: skip


@jit(inline=True)
def _norm(vector):
    total = 0.0
    for q in range(vector.shape[0]):
        total += vector[q] * vector[q]
    return math.sqrt(total)


@jit(inline=True)
def _fill_values(shape, V, keys, mantissas, shift, values):
    """Write w x into `values` for a normalised sum, otherwise w V x, and a last row of w; w are the mantissas."""
    lanes, d = shape.lanes, shape.d
    if not shape.normalised:
        _map(shape, V, keys, d, shift, 0, lanes, values)
    for r in range(d):
        row = values[r * lanes : (r + 1) * lanes]
        source = keys[r * lanes : (r + 1) * lanes] if shape.normalised else row
        for i in range(lanes):
            row[i] = source[i] * mantissas[i]
    for i in range(lanes):
        values[d * lanes + i] = mantissas[i]


@jit(inline=True)
def _fill_bias(shape, D, keys, exponents, constant, zeros, moved, bias, sizes):
    """Write exponent + constant - <x - c, D (x - c)> into `bias`; return the largest |exponent + constant|."""
    lanes = shape.lanes
    for i in range(lanes):
        bias[i] = exponents[i] + constant
        sizes[i] = abs(bias[i])
    top = float(largest(sizes))
    if shape.tilted:
        _map(shape, D, keys, shape.d, zeros, 0, lanes, moved)
        for r in range(shape.d):
            key, image = keys[r * lanes : (r + 1) * lanes], moved[r * lanes : (r + 1) * lanes]
            for i in range(lanes):
                bias[i] -= key[i] * image[i]
    return top


@jit(inline=True)
def _tile(weight, shape, first, wide, limits, keys, values, targets, bias, P, tops, sums):
    """Sum over the sources for one tile of targets, into sums (columns, width) in float64; `tops` become the shifts."""
    lanes, width = shape.lanes, shape.width
    low, seen = limits[first], limits[first + width - 1]
    even = seen + seen % 2
    for j in range(0, seen, ROW_GROUP):
        if wide or not fused(weight):
            row_panel(Linear(), P, j * width, width, targets, first, lanes, keys, j, lanes, bias, j, shape.d)
        else:
            row_panel(weight, P, j * width, width, targets, first, lanes, keys, j, lanes, bias, j, shape.d)
    tops[:] = 0.0
    if wide:
        if shiftable(weight):
            tops[:] = -1.0e307 if P.itemsize == 8 else -1.0e37
            raise_tops(P, seen, limits, first, 0, tops, 0)
            for lane in range(width):
                tops[lane] = np.ceil(tops[lane])
        apply_shifted(weight, P, seen, tops, 0)
    elif not fused(weight):
        apply_weight(weight, P, seen)
    if low < seen:
        mask_rows(P, low, seen, limits, first, 0)
    if seen < even:
        P[seen * width : even * width] = 0.0
    columns = shape.d + shape.normalised
    sums[: columns * width] = 0.0
    for start in range(0, even, CHUNK):
        for column in range(0, columns, shape.columns):
            value_rows(
                min(shape.columns, columns - column), P[start * width :], min(CHUNK, even - start), values,
                column * lanes + start, lanes, sums, column * width,
            )  # fmt: skip


@jit(inline=True)
def _write_means(shape, sums, first, means):
    """Write sums[c] / sums[d] of one tile into means[c], for c < d."""
    width, d = shape.width, shape.d
    totals = sums[d * width : (d + 1) * width]
    for lane in range(width):
        totals[lane] = 1.0 / totals[lane]
    for c in range(d):
        at = c * shape.lanes + first
        row, source = means[at : at + width], sums[c * width : (c + 1) * width]
        for lane in range(width):
            row[lane] = source[lane] * totals[lane]


@jit(inline=True)
def _add_sums(shape, sums, tops, first, out):
    """Add factor sums[c] 2^shift of one tile to out[c], for c < d; the shifts are `tops`."""
    width = shape.width
    for c in range(shape.d):
        for lane in range(width):
            exponent = int(min(max(float(tops[lane]), -_FARTHEST), _FARTHEST))
            value = sums[c * width + lane] * shape.factor
            # ldexp is a library call: it is used only where one multiplication does not suffice.
            exact = value * power_of_two(exponent) if -1000 <= exponent <= 1000 else math.ldexp(value, exponent)
            out[c * shape.lanes + first + lane] += exact


@jit(inline=True)
def _to_tangent(shape, x, out, squares):
    """Subtract <out, x> x from `out`, token by token."""
    lanes = shape.lanes
    squares[:] = 0.0
    for r in range(shape.d):
        row, place = out[r * lanes : (r + 1) * lanes], x[r * lanes : (r + 1) * lanes]
        for i in range(lanes):
            squares[i] += row[i] * place[i]
    for r in range(shape.d):
        row, place = out[r * lanes : (r + 1) * lanes], x[r * lanes : (r + 1) * lanes]
        for i in range(lanes):
            row[i] -= squares[i] * place[i]


@jit(inline=True)
def part_sums(weight, shape, forms, b, x, memory, low, high, begin, end, means, out):
    """Sum over the sources of system b at x for heads low .. high - 1, at the tokens in lanes begin .. end - 1.

    The lanes are those of whole tiles; x has d * lanes entries at least, out rows * lanes. Means go into `means` (heads
    * d * lanes,); sums that are not normalised are velocities when they have been added up in `out`, which takes all
    heads. No bit depends on how heads and lanes are divided.
    """
    keys, other, targets, _, P, bias, squares, shift, tops, sums, centre, wide_shift = memory
    d, lanes, size = shape.d, shape.lanes, shape.d * shape.rows
    p, w = b % forms.A.shape[0], b % forms.mantissas.shape[0]
    mantissas, exponents = forms.mantissas[w], forms.exponents[w]
    radius = _centre(shape, x, keys, centre, squares)
    values = keys if shape.plain else other
    if not shape.normalised:
        for r in range(d):
            out[r * lanes + begin : r * lanes + end] = 0.0
    for h in range(low, high):
        at = h * size
        shift[:] = 0.0
        if not shape.plain:
            _fill_values(shape, forms.V[p, at : at + size], keys, mantissas, shift, values)
        top = _fill_bias(
            shape, forms.D[p, at : at + size], keys, exponents, forms.bias[p, h], shift, targets, bias, squares
        )
        wide_shift[:] = 0.0
        _add_image(shape, forms.E[p, at : at + size], centre, wide_shift)
        if shape.tilted:
            for q in range(shape.rows):
                shift[q] = wide_shift[q]
        # Without a D, A (x - c) + E c is A x: zero at x = 0, however large c is.
        _map(shape, forms.A[p, at : at + size], keys if shape.tilted else x, d, shift, begin, end, targets)
        reach = (forms.norms[p, 2 * h] + forms.norms[p, 2 * h + 1]) * radius + _norm(wide_shift)
        wide = not (1.000001 * reach * radius + top <= shape.reach)
        for first in range(begin, end, shape.width):
            _tile(weight, shape, first, wide, forms.limits, keys, values, targets, bias, P, tops, sums)
            if shape.normalised:
                _write_means(shape, sums, first, means[h * d * lanes :])
            else:
                _add_sums(shape, sums, tops, first, out)


@jit(inline=True)
def map_means(shape, forms, b, memory, means, out):
    """Write sum_h V_h (c + mean of head h), c the centre of system b, which `memory` has, into `out`."""
    shift, centre, wide_shift = memory[7], memory[10], memory[11]
    p, size = b % forms.A.shape[0], shape.d * shape.rows
    wide_shift[:] = 0.0
    for h in range(shape.heads):
        _add_image(shape, forms.V[p, h * size : (h + 1) * size], centre, wide_shift)
    for q in range(shape.rows):
        shift[q] = wide_shift[q]
    _map(shape, forms.V[p], means, shape.heads * shape.d, shift, 0, shape.lanes, out)


@jit(inline=True)
def velocity_of_parts(shape, forms, b, x, memory, means, out):
    """Write the velocities of system b at x into `out`, once `part_sums` has been called for all heads and tokens."""
    if shape.normalised:
        _centre(shape, x, memory[0], memory[10], memory[6])
        map_means(shape, forms, b, memory, means, out)


@jit(inline=True)
def velocity(weight, shape, forms, b, x, memory, out):
    """Write the velocities of system b at x into `out`; both (>= d * lanes,), out with room for rows * lanes."""
    part_sums(weight, shape, forms, b, x, memory, 0, shape.heads, 0, shape.lanes, memory[3], out)
    if shape.normalised:
        map_means(shape, forms, b, memory, memory[3], out)
    if shape.sphere:
        _to_tangent(shape, x, out, memory[6])
