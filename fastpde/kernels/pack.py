"""Sources packed in the order in which the panels read them, with the bounds that the sums need.

One system lies after the other; in each, groups of sources [group][k][source], biases [source], and values
[chunk][part][source][column]. Rows are padded to whole groups by repeating the last source with values zero. The last
value column is the weight itself, so the total weight is one more column.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .._jit import jit
from ..simd.panels import power_of_two
from ..simd.pool import available, launch
from ..simd.vectors import CHUNK
from .layout import Layout

LOG2E = 1.4426950408889634
_LARGEST_EXPONENT = 1000
_FEW = 20_000  # numbers in a portion: one thread packs them before others have begun


class Packed(NamedTuple):
    """Packed sources of B systems."""

    keys: np.ndarray  # (B * rows * k,)
    bias: np.ndarray  # (B * rows,) in units of log 2, minus exponents[:, 1] (0 if the weight is not shiftable)
    values: np.ndarray  # (B * rows * total,) scaled by 2^-value_exponent
    bounds: np.ndarray  # (B, 2) largest |key|, largest |bias|
    exponents: np.ndarray  # (B, 2) powers of two taken out of the values, and out of the weights (see _lift)
    survey: np.ndarray  # (B, chunks, 8) what each chunk contributes to bounds and exponents


def allocate(systems: int, layout: Layout, dtype, workspace) -> Packed:
    """Allocate the arrays of the packed sources; `workspace(name, shape, dtype)` returns each array."""
    rows = systems * layout.rows
    return Packed(
        workspace("packed_keys", (rows * layout.k,), dtype),
        workspace("packed_bias", (rows,), dtype),
        workspace("packed_values", (rows * layout.total,), dtype),
        workspace("packed_bounds", (systems, 2), np.float64),
        workspace("packed_exponents", (systems, 2), np.float64),
        workspace("packed_survey", (systems, -(-layout.rows // CHUNK), 8), np.float64),
    )


@jit(inline=True)
def _lift(low, high, reach):
    """Return the whole number that is subtracted from biases in [low, high].

    It is their middle if biases can then be added without a shift, so that most tiles are narrow; otherwise it is the
    largest bias, next to which float32 keeps the digits of the largest weights.
    """
    half = 0.5 * (high - low)
    return np.ceil(high - half if half <= reach else high)


@jit(borrowed=True)
def _survey(keys, bias, weights, values, shiftable, layout, b, chunk, found):
    """Write what a chunk of the sources of system b contributes to its bounds into `found` (8,).

    These are the largest |key|^2 and |value|, the least and largest bias, without and with the exponents of weights,
    and the largest exponent, of the sources that every target sees and of all.
    """
    w = b % max(weights.shape[0], 1)
    largest, top = 0.0, 0.0
    low, high = math.inf, -math.inf
    least, most = math.inf, -math.inf
    seen, heaviest = -math.inf, -math.inf
    for j in range(chunk * CHUNK, min((chunk + 1) * CHUNK, layout.n)):
        largest = max(largest, _square(keys[b, j]))
        top = max(top, _greatest(values[b, j]))
        offset = bias[b, j] * LOG2E if bias.shape[0] else 0.0
        exponent = float(math.frexp(weights[w, j])[1]) if shiftable and weights.shape[0] else 0.0
        low, high = min(low, offset), max(high, offset)
        least, most = min(least, offset + exponent), max(most, offset + exponent)
        heaviest = max(heaviest, exponent)
        if j < layout.seen:
            seen = heaviest
    found[0], found[1], found[2], found[3] = largest, top, low, high
    found[4], found[5], found[6], found[7] = least, most, seen, heaviest


@jit(inline=True)
def _square(row):
    """Return the sum of the squares of a row, in four sums that need not wait for each other."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = len(row) // 4 * 4
    for r in range(0, whole, 4):
        p, q, s, t = float(row[r]), float(row[r + 1]), float(row[r + 2]), float(row[r + 3])
        a, b, c, d = a + p * p, b + q * q, c + s * s, d + t * t
    for r in range(whole, len(row)):
        a += float(row[r]) * float(row[r])
    return (a + b) + (c + d)


@jit(inline=True)
def _greatest(row):
    """Return the largest absolute value of a row."""
    a, b = 0.0, 0.0
    whole = len(row) // 2 * 2
    for c in range(0, whole, 2):
        a, b = max(a, abs(float(row[c]))), max(b, abs(float(row[c + 1])))
    return max(a, b, abs(float(row[-1]))) if len(row) else 0.0


@jit(borrowed=True)
def _bound(shiftable, layout, b, packed):
    """Write the bounds and exponents of system b, from the survey of its chunks.

    The heaviest sources must be near bias 0: a score loses the digits that its bias needs. In masked sums, the middle
    between the first source, which every target sees, and the heaviest of all is at bias 0. So weights are not centred
    at their middle: sums of float32 over more than 30 decades, of float64 over 270, are shifted ones, which are slower.
    """
    survey = packed.survey[b]
    low, high, least, most = math.inf, -math.inf, math.inf, -math.inf
    largest, top, seen, heaviest = 0.0, 0.0, -math.inf, -math.inf
    for chunk in range(survey.shape[0]):
        largest, top = max(largest, survey[chunk, 0]), max(top, survey[chunk, 1])
        low, high = min(low, survey[chunk, 2]), max(high, survey[chunk, 3])
        least, most = min(least, survey[chunk, 4]), max(most, survey[chunk, 5])
        seen, heaviest = max(seen, survey[chunk, 6]), max(heaviest, survey[chunk, 7])
    lift = _lift(low, high, layout.reach) + np.ceil(0.5 * (seen + heaviest)) if shiftable else 0.0
    packed.bounds[b, 0] = math.sqrt(largest)
    packed.bounds[b, 1] = max(abs(least - lift), abs(most - lift))
    exponent = math.frexp(top)[1] if 0.0 < top < math.inf else 0
    packed.exponents[b, 0] = min(max(exponent, -_LARGEST_EXPONENT), _LARGEST_EXPONENT)
    packed.exponents[b, 1] = lift


@jit(inline=True)
def _pack_keys(keys, bias, weights, shiftable, layout, b, first, end, packed):
    """Pack the keys and biases of the sources first .. end - 1 of system b, group by group."""
    w = b % max(weights.shape[0], 1)
    for start in range(first, end, layout.group):
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
def _pack_values(weights, values, shiftable, layout, b, first, end, packed):
    """Pack the weights, and the values times the weights, of the chunk first .. end - 1 of system b, part by part."""
    dv = values.shape[2]
    w = b % max(weights.shape[0], 1)
    scale = power_of_two(-int(packed.exponents[b, 0]))
    at = (b * layout.rows + first) * layout.total
    for low in range(0, layout.total, layout.columns):
        high = min(low + layout.columns, dv)
        for j in range(first, end):
            weight = 1.0 if j < layout.n else 0.0
            if weights.shape[0] and j < layout.n:
                weight = math.frexp(weights[w, j])[0] if shiftable else weights[w, j]
            row = min(j, layout.n - 1)
            for c in range(low, high):
                packed.values[at + c - low] = weight * (values[b, row, c] * scale)
            if low + layout.columns > dv:  # the last part: its last column is the weight
                packed.values[at + dv - low] = weight
            at += min(layout.columns, layout.total - low)


@jit(borrowed=True)
def _survey_item(index, thread, keys, bias, weights, values, shiftable, layout, packed):
    b, chunk = index // packed.survey.shape[1], index % packed.survey.shape[1]
    _survey(keys, bias, weights, values, shiftable, layout, b, chunk, packed.survey[b, chunk])


@jit(borrowed=True)
def _pack_item(index, thread, keys, bias, weights, values, shiftable, layout, packed):
    """Pack the sources of one chunk of one system."""
    b, chunk = index // packed.survey.shape[1], index % packed.survey.shape[1]
    first, end = chunk * CHUNK, min((chunk + 1) * CHUNK, layout.rows)
    _pack_keys(keys, bias, weights, shiftable, layout, b, first, end, packed)
    _pack_values(weights, values, shiftable, layout, b, first, end, packed)


@jit
def pack_sources(keys, bias, weights, values, shiftable, layout, packed):
    """Pack keys (B, n, k), bias (B, n) or (0, 0), weights (B or 1, n) or (0, 0), values (B, n, dv) into `packed`.

    With a shiftable weight the exponent of a source's weight goes into the bias (exactly) and its mantissa into the
    values, so that weights of any size keep full precision; otherwise the whole weight goes into the values.
    """
    systems, chunks = packed.survey.shape[:2]
    items = systems * chunks
    portion = max(1, _FEW * items // (layout.n * systems * (layout.k + layout.total)))
    arguments = (keys, bias, weights, values, shiftable, layout, packed)
    launch(available(), items, portion, _survey_item, arguments)
    for b in range(systems):
        _bound(shiftable, layout, b, packed)
    launch(available(), items, portion, _pack_item, arguments)
