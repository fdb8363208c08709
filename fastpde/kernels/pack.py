"""Sources packed in the order in which the panels read them, with the bounds that the sums need.

One system lies after the other; in each, groups of sources [group][k][source], biases [source], and values
[chunk][part][source][column]. Rows are padded to whole groups by repeating the last source with values zero. The last
value column is the weight itself, so the total weight is one more column.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import prange

from .._jit import jit
from ..simd.panels import power_of_two
from ..simd.vectors import CHUNK
from .layout import Layout

LOG2E = 1.4426950408889634
_LARGEST_EXPONENT = 1000


class Packed(NamedTuple):
    """Packed sources of B systems."""

    keys: np.ndarray  # (B * rows * k,)
    bias: np.ndarray  # (B * rows,) in units of log 2, minus exponents[:, 1] (0 if the weight is not shiftable)
    values: np.ndarray  # (B * rows * parts * columns,) scaled by 2^-value_exponent
    bounds: np.ndarray  # (B, 2) largest |key|, largest |bias|
    exponents: np.ndarray  # (B, 2) powers of two taken out of the values, and out of the weights (see _lift)


def allocate(systems: int, layout: Layout, dtype, take) -> Packed:
    """Allocate the arrays of the packed sources; `take(name, shape, dtype)` returns each array."""
    rows = systems * layout.rows
    return Packed(
        take("packed_keys", (rows * layout.k,), dtype),
        take("packed_bias", (rows,), dtype),
        take("packed_values", (rows * layout.parts * layout.columns,), dtype),
        take("packed_bounds", (systems, 2), np.float64),
        take("packed_exponents", (systems, 2), np.float64),
    )


@jit(inline=True)
def _lift(low, high, reach):
    """Return the whole number that is subtracted from biases in [low, high].

    It is their middle if biases can then be added without a shift, so that most tiles are narrow; otherwise it is the
    largest bias, next to which float32 keeps the digits of the largest weights.
    """
    half = 0.5 * (high - low)
    return np.ceil(high - half if half <= reach else high)


@jit(inline=True)
def _survey(keys, bias, weights, values, shiftable, layout, b, packed):
    """Compute the bounds of one system: largest |key|, range of biases and weights, exponent of the largest value.

    The heaviest sources must be near bias 0: a score loses the digits that its bias needs. In masked sums, the middle
    between the first source, which every target sees, and the heaviest of all is at bias 0. So weights are not centred
    at their middle: sums of float32 over more than 30 decades, of float64 over 270, are shifted ones, which are slower.
    """
    n, k = keys.shape[1], keys.shape[2]
    w = b % max(weights.shape[0], 1)
    largest, top = 0.0, 0.0
    low, high = math.inf, -math.inf  # of biases
    least, most = math.inf, -math.inf  # of biases with the exponents of weights
    seen, heaviest = -math.inf, -math.inf  # exponents
    for j in range(n):
        square = 0.0
        for r in range(k):
            square += float(keys[b, j, r]) * float(keys[b, j, r])
        largest = max(largest, square)
        offset = bias[b, j] * LOG2E if bias.shape[0] else 0.0
        exponent = float(math.frexp(weights[w, j])[1]) if shiftable and weights.shape[0] else 0.0
        low, high = min(low, offset), max(high, offset)
        least, most = min(least, offset + exponent), max(most, offset + exponent)
        heaviest = max(heaviest, exponent)
        if j < layout.seen:
            seen = heaviest
        for c in range(values.shape[2]):
            top = max(top, abs(float(values[b, j, c])))
    lift = _lift(low, high, layout.reach) + np.ceil(0.5 * (seen + heaviest)) if shiftable else 0.0
    packed.bounds[b, 0] = math.sqrt(largest)
    packed.bounds[b, 1] = max(abs(least - lift), abs(most - lift))
    exponent = math.frexp(top)[1] if 0.0 < top < math.inf else 0
    packed.exponents[b, 0] = min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    packed.exponents[b, 1] = lift


@jit(inline=True)
def _pack_keys(keys, bias, weights, shiftable, layout, b, packed):
    """Pack the keys and biases of one system, group by group."""
    w = b % max(weights.shape[0], 1)
    for start in range(0, layout.rows, layout.group):
        at = (b * layout.rows + start) * layout.k
        for q in range(layout.group):
            j = min(start + q, layout.n - 1)
            for r in range(layout.k):
                packed.keys[at + r * layout.group + q] = keys[b, j, r]
            offset = (bias[b, j] * LOG2E if bias.shape[0] else 0.0) - packed.exponents[b, 1]
            if shiftable and weights.shape[0]:
                offset += math.frexp(weights[w, j])[1]
            packed.bias[b * layout.rows + start + q] = offset


@jit(inline=True)
def _pack_values(weights, values, shiftable, layout, b, packed):
    """Pack the weights, and the values times the weights, of one system, chunk by chunk and part by part."""
    dv = values.shape[2]
    w = b % max(weights.shape[0], 1)
    scale = power_of_two(-int(packed.exponents[b, 0]))
    at = b * layout.rows * layout.parts * layout.columns
    for chunk in range(0, layout.rows, CHUNK):
        end = min(chunk + CHUNK, layout.rows)
        for part in range(layout.parts):
            for j in range(chunk, end):
                weight = 1.0 if j < layout.n else 0.0
                if weights.shape[0] and j < layout.n:
                    weight = math.frexp(weights[w, j])[0] if shiftable else weights[w, j]
                for c in range(part * layout.columns, (part + 1) * layout.columns):
                    if c < dv and j < layout.n:
                        packed.values[at] = weight * (values[b, j, c] * scale)
                    else:
                        packed.values[at] = weight if c == dv else 0.0
                    at += 1


@jit
def _pack_system(keys, bias, weights, values, shiftable, layout, b, packed):
    _survey(keys, bias, weights, values, shiftable, layout, b, packed)
    _pack_keys(keys, bias, weights, shiftable, layout, b, packed)
    _pack_values(weights, values, shiftable, layout, b, packed)


@jit(parallel=True)
def pack_sources(keys, bias, weights, values, shiftable, layout, packed):
    """Pack keys (B, n, k), bias (B, n) or (0, 0), weights (B or 1, n) or (0, 0), values (B, n, dv) into `packed`.

    With a shiftable weight the exponent of a source's weight goes into the bias (exactly) and its mantissa into the
    values, so that weights of any size keep full precision; otherwise the whole weight goes into the values.
    """
    for index in prange(keys.shape[0]):
        _pack_system(keys, bias, weights, values, shiftable, layout, np.int64(index), packed)
