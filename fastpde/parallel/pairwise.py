"""NumPy's pairwise sum of a long row, computed from pieces of the row to the same bits.

NumPy adds up to 128 neighbours in one way, and halves longer rows, the first half a multiple of 8 long. So the sum of a
row is a binary tree that depends on the length of the row alone. Each piece contributes the sums of the largest
subtrees that it contains whole, and the single numbers of the leaves that it shares with other pieces; the rest of the
tree is computed from these.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from .partition import Array

_LEAF = 128


def _half(size: int) -> int:
    return size // 2 - size // 2 % 8


def nodes(size: int, low: int, high: int, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, last, whole) for the parts of a tree that the numbers low .. high - 1 make up, in order.

    The tree is that of a row of `size` numbers, of which the first is number `start`. A part is a whole subtree, the
    largest possible, or a part of a leaf.
    """
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
    """Return what a piece contributes to the sums of rows of `size` numbers: (rows, q) numbers.

    The piece are the numbers low, low + 1, ... of each row, `numbers` (rows, m).
    """
    found = [
        np.add.reduce(numbers[:, first - low : last - low], axis=1, keepdims=True)
        if whole
        else numbers[:, first - low : last - low]
        for first, last, whole in nodes(size, low, low + numbers.shape[1])
    ]
    return np.concatenate([numbers[:, :0], *found], axis=1)


@lru_cache(maxsize=256)
def count(size: int, low: int, high: int) -> int:
    """Return how many numbers q `parts` makes of the piece low .. high - 1 of a row."""
    return sum(1 if whole else last - first for first, last, whole in nodes(size, low, high))


def total(size: int, cuts: tuple[int, ...], given: Array, at: int = 0, start: int = 0) -> tuple[Array, int]:
    """Return the sums (rows,) of rows of `size` numbers, and the place behind the last number of `given` that was read.

    The rows are cut at the places `cuts`. given (rows, q) is what the pieces contribute, from `parts`, and is read from
    place `at` on; `start` is the place of the first number of the rows.
    """
    if not any(start < cut < start + size for cut in cuts):
        return given[:, at], at + 1
    if size <= _LEAF:
        return np.add.reduce(np.ascontiguousarray(given[:, at : at + size]), axis=1), at + size
    half = _half(size)
    left, at = total(half, cuts, given, at, start)
    right, at = total(size - half, cuts, given, at, start + half)
    return left + right, at


def schedule(size: int, block: int) -> tuple[Array, Array]:
    """Return how a row of `size` numbers is summed block by block, the blocks one after the other.

    leaves (q + 1,): leaf l has the numbers leaves[l] .. leaves[l + 1] - 1, see `_LEAF`; merges (q - 1, 2): in this
    order, the sum of the second leaf is added to that of the first, which then stands for both.
    """
    leaves, merges = [0], []

    def tree(start: int, count: int) -> int:
        if count <= _LEAF:
            leaves.append(start + count)
            return len(leaves) - 2
        half = _half(count)
        first, second = tree(start, half), tree(start + half, count - half)
        merges.append((first, second))
        return first

    for start in range(0, size, block):
        if (leaf := tree(start, min(block, size - start))) > 0:
            merges.append((0, leaf))
    return np.array(leaves), np.array(merges, np.int64).reshape(-1, 2)
