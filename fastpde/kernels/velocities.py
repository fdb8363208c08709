"""The velocities of many small systems, or of one, by the kernel of `systems`: an item is some tokens of a system."""

from __future__ import annotations

from .._jit import jit
from ..simd.pool import launch
from .field import memory_of
from .systems import part_velocity


@jit(borrowed=True)
def _some(index, thread, weight, shape, forms, first, last, size, parts, x, scratch, rows, out):
    """Write the velocities of `size` parts of systems into `out`."""
    memory = memory_of(scratch, thread)
    tokens, found, lanes, d = rows[thread, 0], rows[thread, 1], shape.lanes, shape.d
    tiles = lanes // shape.width
    for item in range(first + index * size, min(first + (index + 1) * size, last)):
        b, part = item // parts, item % parts
        begin, end = part * tiles // parts * shape.width, (part + 1) * tiles // parts * shape.width
        at, after = b * shape.n * d, (b + 1) * shape.n * d
        for r in range(d):
            row, source = tokens[r * lanes : (r + 1) * lanes], x[at + r : after]
            for i in range(shape.n):
                row[i] = source[i * d]
            for i in range(shape.n, lanes):
                row[i] = row[shape.n - 1]
        part_velocity(weight, shape, forms, b, tokens, memory, begin, end, found)
        for r in range(d):
            row, target = found[r * lanes : (r + 1) * lanes], out[at + r : after]
            for i in range(begin, min(end, shape.n)):
                target[i * d] = row[i]


@jit
def velocities(weight, shape, forms, first, last, size, parts, x, scratch, rows, out):
    """Write the velocities of systems x (B, n, d) into `out`, both flat: items first .. last - 1 of B times `parts`.

    An item is a part of a system's tokens, whole tiles; a thread takes `size` of them at a time, and no bit depends on
    either. rows (threads, 2, rows * lanes) is for the tokens and velocities of a system.
    """
    arguments = (weight, shape, forms, first, last, size, parts, x, scratch, rows, out)
    launch(rows.shape[0], -(-(last - first) // size), 1, _some, arguments)
