"""NumPy's pairwise sum of a long row, made from pieces of it to the last bit.

NumPy adds up to 128 neighbours in one way, and halves longer rows, the first half a multiple of 8 long. So a row's sum
is a tree that depends on its length alone. Of each piece of the row the sums of the largest whole subtrees are taken,
and the numbers of leaves that pieces share; the rest of the tree is made of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from .._types import Array

_LEAF = 128


def _half(size: int) -> int:
    return size // 2 - size // 2 % 8


def nodes(size: int, low: int, high: int, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """(first, last, whole) of what the numbers low .. high - 1 are of a row of `size` from `start`, in order: whole
    subtrees, and parts of leaves."""
    stop = start + size
    if start >= high or stop <= low:
        return
    if low <= start and stop <= high:
        yield start, stop, True
    elif size <= _LEAF:
        yield max(start, low), min(stop, high), False
    else:
        half = _half(size)
        yield from nodes(half, low, high, start)
        yield from nodes(size - half, low, high, start + half)


def parts(numbers: Array, size: int, low: int) -> Array:
    """What a piece gives to the sum: (rows, q) of the numbers low, low + 1, ... (rows, m) of rows of `size`."""
    found = [
        np.add.reduce(numbers[:, first - low : last - low], axis=1, keepdims=True)
        if whole
        else numbers[:, first - low : last - low]
        for first, last, whole in nodes(size, low, low + numbers.shape[1])
    ]
    return np.concatenate([numbers[:, :0], *found], axis=1)


@lru_cache(maxsize=256)
def count(size: int, low: int, high: int) -> int:
    """How many numbers `parts` gives for the piece low .. high - 1."""
    return sum(1 if whole else last - first for first, last, whole in nodes(size, low, high))


def total(size: int, cuts: tuple[int, ...], given: Array, at: int = 0, start: int = 0) -> tuple[Array, int]:
    """The sum (rows,) of a row of `size`, cut at the places `cuts`, from what its pieces give (rows, q), beginning at
    number `at` of that; and where it ends."""
    if not any(start < cut < start + size for cut in cuts):
        return given[:, at], at + 1
    if size <= _LEAF:
        return np.add.reduce(np.ascontiguousarray(given[:, at : at + size]), axis=1), at + size
    half = _half(size)
    left, at = total(half, cuts, given, at, start)
    right, at = total(size - half, cuts, given, at, start + half)
    return left + right, at
