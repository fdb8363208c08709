"""The velocities of many small systems, or of one, by the kernel of `systems`: an item is some tokens of a system."""

from __future__ import annotations

from .._jit import jit
from ..simd.pool import launch
from .field import memory_of
from .systems import part_velocity


@jit(borrowed=True)
def _item(index, thread, weight, shape, forms, first, parts, x, scratch, rows, out):
    """Write the velocities of one part of the tokens of a system, whole tiles of them, into `out`."""
    b, part, tiles = (first + index) // parts, (first + index) % parts, shape.lanes // shape.width
    begin, end = part * tiles // parts * shape.width, (part + 1) * tiles // parts * shape.width
    tokens, found, lanes = rows[thread, 0], rows[thread, 1], shape.lanes
    for i in range(shape.n):
        for r in range(shape.d):
            tokens[r * lanes + i] = x[b, i, r]
    for r in range(shape.d):
        tokens[r * lanes + shape.n : (r + 1) * lanes] = x[b, shape.n - 1, r]
    part_velocity(weight, shape, forms, b, tokens, memory_of(scratch, thread), begin, end, found)
    for i in range(begin, min(end, shape.n)):
        for r in range(shape.d):
            out[b, i, r] = found[r * lanes + i]


@jit
def velocities(weight, shape, forms, first, last, parts, portion, x, scratch, rows, out):
    """Write the velocities of systems x (B, n, d) into `out`: items first .. last - 1 of B times `parts`.

    An item is a part of a system's tokens, and `portion` of them are taken at a time: no bit depends on that. rows
    (threads, 2, rows * lanes) is for the tokens and velocities of a system.
    """
    arguments = (weight, shape, forms, first, parts, x, scratch, rows, out)
    launch(rows.shape[0], last - first, portion, _item, arguments)
