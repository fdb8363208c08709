"""The shape of one direct sum: sizes that the panels fix, and sizes of the problem, as plain integers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..simd.vectors import VECTORS, group_size, lanes_of, most_columns

# Largest |score| (units of log 2) that needs no shift and no clamp: a chunk's sum of 192 float32 terms, and the whole
# sum of up to 2^30 float64 terms, do not overflow, and the smallest weights times values of 1e-3 do not underflow.
_REACH = {32: 115.0, 64: 990.0}


class Layout(NamedTuple):
    """Sizes of a sum over n sources with keys in R^k, shared by packing and summing."""

    n: int  # sources
    rows: int  # sources after padding to whole groups
    k: int  # key dimension
    group: int  # sources in a score panel
    width: int  # targets in a tile
    total: int  # value columns; the last is the weight
    columns: int  # value columns in a part; the last part may have fewer
    reach: float  # largest |score| for which no shift and no clamp are needed
    seen: int  # leading sources that every target sees


def reach_of(bits: int) -> float:
    """Return the largest |score|, in units of log 2, for which floats of `bits` bits need no shift and no clamp."""
    return _REACH[bits]


def layout_for(n: int, k: int, value_count: int, dtype: np.dtype) -> Layout:
    """Return the layout of a sum with keys (n, k) and values (n, value_count)."""
    bits = 8 * np.dtype(dtype).itemsize
    group = group_size(bits)
    total = value_count + 1
    return Layout(
        n=n,
        rows=-(-n // group) * group,
        k=k,
        group=group,
        width=VECTORS * lanes_of(bits).count,
        total=total,
        columns=-(-total // -(-total // most_columns())),
        reach=reach_of(bits),
        seen=n,
    )
