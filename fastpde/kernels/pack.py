"""Sources in the order the panels read them, with what the sums need to know about their size.

One system after the other; in each, groups of sources [group][k][GROUP], biases [source], and values
[chunk][column group][source][columns]. Rows are padded to a multiple of the group size by repeating the last source
with values zero. The last column of the values is the weight itself, so the normaliser is one more column.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from .._jit import jit
from .panels import power_of_two
from .vectors import CHUNK, group_size, most_columns

LOG2E = 1.4426950408889634
_LARGEST_EXPONENT = 1000


class Packed(NamedTuple):
    """Packed sources of B systems of n tokens, `rows` each after padding."""

    keys: np.ndarray  # (B * rows * k,)
    bias: np.ndarray  # (B * rows,) units of log 2; at most 0 when the law is shiftable
    values: np.ndarray  # (B * rows * groups * columns,) scaled by 2^-value_exponent
    bounds: np.ndarray  # (B, 2) largest |key|, smallest bias
    exponents: np.ndarray  # (B, 2) of the values, and of the weights (taken out of the bias)


class Columns(NamedTuple):
    """Value columns (the weight included) in `groups` balanced groups of `width`."""

    groups: int
    width: int


def columns_for(count: int) -> Columns:
    """Groups for `count` columns."""
    groups = -(-count // most_columns())
    return Columns(groups, -(-count // groups))


def padded(n: int, bits: int) -> int:
    """n rounded up to whole groups of sources."""
    group = group_size(bits)
    return -(-n // group) * group


def allocate(keys: np.ndarray, value_count: int, take) -> Packed:
    """Room for packed sources; `take(name, shape, dtype)` provides the arrays."""
    systems, n, k = keys.shape
    dtype = keys.dtype
    rows = padded(n, 8 * dtype.itemsize)
    columns = columns_for(value_count + 1)
    return Packed(
        take("packed_keys", (systems * rows * k,), dtype),
        take("packed_bias", (systems * rows,), dtype),
        take("packed_values", (systems * rows * columns.groups * columns.width,), dtype),
        take("packed_bounds", (systems, 2), np.float64),
        take("packed_exponents", (systems, 2), np.int64),
    )


@jit(inline=True)
def _bias(bias, weights, shiftable, b, j):
    """Score offset of source j: the variant's own bias and the exponent of its weight, in units of log 2."""
    total = bias[b, j] * LOG2E if bias.shape[0] else 0.0
    if shiftable and weights.shape[0]:
        total += math.frexp(weights[b % weights.shape[0], j])[1]
    return total


@jit(inline=True)
def _survey(keys, bias, weights, values, shiftable, b, packed):
    """Bounds of one system: largest |key|, range of biases, exponent of the largest value."""
    n, k = keys.shape[1], keys.shape[2]
    largest, low, high, top = 0.0, math.inf, -math.inf, 0.0
    for j in range(n):
        square = 0.0
        for r in range(k):
            square += float(keys[b, j, r]) * float(keys[b, j, r])
        largest = max(largest, square)
        offset = _bias(bias, weights, shiftable, b, j)
        low, high = min(low, offset), max(high, offset)
        for c in range(values.shape[2]):
            top = max(top, abs(float(values[b, j, c])))
    lift = math.ceil(high) if shiftable else 0
    packed.bounds[b, 0] = math.sqrt(largest)
    packed.bounds[b, 1] = low - lift
    exponent = math.frexp(top)[1] if 0.0 < top < math.inf else 0
    packed.exponents[b, 0] = min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    packed.exponents[b, 1] = lift


@jit(inline=True)
def _pack_group(keys, bias, weights, values, shiftable, packed, at):
    """One group of sources of one system into keys, bias and values. `at` = (system, group, rows, columns, width)."""
    b, g, rows, groups, width = at
    n, k, dv = keys.shape[1], keys.shape[2], values.shape[2]
    group = rows_per_group(keys)
    scale = power_of_two(-packed.exponents[b, 0])
    chunk = (g * group) // CHUNK * CHUNK
    chunk_rows = min(CHUNK, rows - chunk)
    for q in range(group):
        row = g * group + q
        j = min(row, n - 1)
        for r in range(k):
            packed.keys[(b * rows + g * group) * k + r * group + q] = keys[b, j, r]
        packed.bias[b * rows + row] = _bias(bias, weights, shiftable, b, j) - packed.exponents[b, 1]
        weight = 1.0 if row < n else 0.0
        if weights.shape[0]:
            w = weights[b % weights.shape[0], j]
            weight *= math.frexp(w)[0] if shiftable else w
        base = (b * rows + chunk) * groups * width
        for c in range(groups * width):
            value = weight if c == dv else 0.0
            if c < dv:
                value = weight * (values[b, j, c] * scale)
            packed.values[base + ((c // width) * chunk_rows + row - chunk) * width + c % width] = value


@jit(inline=True)
def rows_per_group(array):
    """The group size for this array's precision (a constant once compiled)."""
    return _GROUP_64 if array.itemsize == 8 else _GROUP_32


_GROUP_32, _GROUP_64 = group_size(32), group_size(64)


@jit(parallel=True)
def pack_sources(keys, bias, weights, values, shiftable, columns, packed):
    """Packs keys (B, n, k), bias (B, n) or (0, 0), weights (B or 1, n) or (0, 0), values (B, n, dv) into `packed`.

    With a shiftable law the exponent of a weight goes into the bias (exactly) and its mantissa into the values, so
    that weights of any size keep full precision; otherwise the whole weight goes into the values.
    """
    systems, n = keys.shape[0], keys.shape[1]
    group = rows_per_group(keys)
    groups = -(-n // group)
    for b in prange(systems):
        _survey(keys, bias, weights, values, shiftable, np.int64(b), packed)
    for index in prange(systems * groups):
        item = np.int64(index)
        at = (item // groups, item % groups, groups * group, columns.groups, columns.width)
        _pack_group(keys, bias, weights, values, shiftable, packed, at)
