"""The velocities of many small systems, or of one that threads share, by the kernel of `systems`; and steps of the one.

An item is a system, or a part of one: some of its tiles, for some of its heads. No bit depends on that.
"""

from __future__ import annotations

from .._jit import jit
from ..simd.pool import launch
from .field import memory_of
from .motion import all_finite, combine, copy, largest_entry
from .sphere import to_sphere, to_tangent
from .systems import map_means, part_sums, velocity_of_parts


@jit(inline=True)
def _read(shape, x, b, tokens):
    """Write the tokens of system b of x (B, n, d), flat, into rows of lanes."""
    n, d, lanes = shape.n, shape.d, shape.lanes
    at, after = b * n * d, (b + 1) * n * d
    for r in range(d):
        row, source = tokens[r * lanes : (r + 1) * lanes], x[at + r : after]
        for i in range(n):
            row[i] = source[i * d]
        for i in range(n, lanes):
            row[i] = row[n - 1]


@jit(inline=True)
def _write(shape, rows, b, out):
    """Write rows of lanes into system b of out (B, n, d), flat."""
    n, d, lanes = shape.n, shape.d, shape.lanes
    at, after = b * n * d, (b + 1) * n * d
    for r in range(d):
        row, target = rows[r * lanes : (r + 1) * lanes], out[at + r : after]
        for i in range(n):
            target[i * d] = row[i]


@jit(borrowed=True)
def _some(index, thread, weight, shape, forms, first, last, size, cuts, shared, x, scratch, rows, means, out):
    """Sum for `size` parts of systems.

    A system that is not shared is one part: then its tokens are read from x, and its velocities written into `out`.
    """
    memory, pieces, tiles = memory_of(scratch, thread), cuts[0] * cuts[1], shape.lanes // shape.width
    place = rows.shape[0] - 1 if shared else thread
    tokens, found, all_means = rows[place, 0], rows[place, 1], means if shared else memory[3]
    for item in range(first + index * size, min(first + (index + 1) * size, last)):
        b, part, share = item // pieces, item % pieces // cuts[1], item % cuts[1]
        begin, end = part * tiles // cuts[0] * shape.width, (part + 1) * tiles // cuts[0] * shape.width
        low, high = share * shape.heads // cuts[1], (share + 1) * shape.heads // cuts[1]
        if not shared:
            _read(shape, x, b, tokens)
        part_sums(weight, shape, forms, b, tokens, memory, low, high, begin, end, all_means, found)
        if not shared:
            if shape.normalised:
                map_means(shape, forms, b, memory, all_means, found)
            _write(shape, found, b, out)


@jit
def velocities(weight, shape, forms, first, last, size, cuts, shared, x, scratch, rows, means, out):
    """Write the velocities of systems x (B, n, d) into `out`, both flat: items first .. last - 1 of all parts of all.

    cuts: into how many parts tokens and heads of a system are divided, 1 and 1 unless threads share it; without
    averages heads stay together. A thread takes `size` systems at a time, or one part. rows (threads + 1, 2, rows *
    lanes) are for tokens and velocities, the last ones and means (heads * d * lanes,) for those that are shared.
    """
    threads, pieces = rows.shape[0] - 1, cuts[0] * cuts[1]
    if not shared:
        arguments = (weight, shape, forms, first, last, size, cuts, shared, x, scratch, rows, means, out)
        launch(threads, -(-(last - first) // size), 1, _some, arguments)
        return
    for b in range(first // pieces, -(-last // pieces)):
        _read(shape, x, b, rows[threads, 0])
        low, high = max(first, b * pieces), min(last, (b + 1) * pieces)
        arguments = (weight, shape, forms, low, high, 1, cuts, shared, x, scratch, rows, means, out)
        launch(threads, high - low, 1, _some, arguments)
        if high == (b + 1) * pieces:
            velocity_of_parts(shape, forms, b, rows[threads, 0], memory_of(scratch, 0), means, rows[threads, 1])
            _write(shape, rows[threads, 1], b, out)


@jit
def march(weight, shape, forms, sphere, cuts, places, sizes, a, x, scratch, rows, means, steps, largest):
    """Move the tokens x (n, d), flat, by steps of fixed sizes (k,) with the stage coefficients a (S, S).

    Stage s of step i sees the field of system places[i, s] of the forms. It ends before a step whose result is not
    finite; returns the number of steps made. largest (k + 1,) becomes the largest |entries| at the beginning and after
    each of them. Every operation is that of `VectorSpace.combine` and of a manifold, in the same order.
    """
    threads, pieces, d, lanes = rows.shape[0] - 1, cuts[0] * cuts[1], shape.d, shape.lanes
    local = (steps.stages[0], steps.states[0], steps.squares[0], steps.wide[0], steps.coefficients[0])
    (stages, states), wide, last = local[:2], local[3], a.shape[0] - 1
    y, tokens, found = states[0], rows[threads, 0], rows[threads, 1]
    trial = tokens[: y.shape[0]]
    _read(shape, x, 0, y)
    largest[0] = largest_entry(shape, y, wide)
    made = 0
    while made < sizes.shape[0]:
        copy(y, trial)
        for s in range(last + 1):
            if s > 0:
                combine(shape, y, sizes[made], a[s], local, trial)
                if sphere:
                    to_sphere(trial, lanes, d, 1, lanes)
            if s < last:
                b = places[made, s]
                arguments = (
                    weight, shape, forms, b * pieces, (b + 1) * pieces, 1, cuts, True, x, scratch, rows, means, x
                )  # fmt: skip
                launch(threads, pieces, 1, _some, arguments)
                velocity_of_parts(shape, forms, b, tokens, memory_of(scratch, 0), means, found)
                if sphere:
                    to_tangent(trial, found, lanes, d, 1, lanes)
                copy(found, stages[s])
        if not all_finite(trial):
            break
        made += 1
        largest[made] = largest_entry(shape, trial, wide)
        copy(trial, y)
    _write(shape, y, 0, x)
    return made
