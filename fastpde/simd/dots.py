"""Primitives of sums over a grid, as explicit vectors along the points.

  dot_panel      out[i, q] += sum_j left[i, j] right[q, j]     DOT_ROWS rows of the left with DOT_COLUMNS of the right
  sum_products   out[j] = sum_i left[i, j] right[i, j]         for one panel of points
  exponentials   x[j] = 2^{x[j]}, clamped, in place

Arguments are flat float64 arrays, offsets, and distances between rows. Counts of points are rounded up to whole vectors
(`exponentials`) or must be whole vectors (`dot_panel`).
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from .._jit import intrinsic
from .emitters import CLAMP, emit_clamp, emit_exp2
from .panels import pointers, void
from .vectors import I32, I64, VECTORS, fma, lanes_of, load, store

DOT_ROWS = 3
LANES = lanes_of(64)
LANE_COUNT = LANES.count
DOT_COLUMNS = max(4, LANES.count)  # with 16 registers 3 x 4 sums, 3 rows and a temporary are all of them


def _add_across(builder, vectors):
    """Return one vector with the sums over the lanes of each of `vectors`, in order; halves are folded in turn."""
    block = len(vectors)
    if block == 1:
        return vectors[0]
    count, half, folded = LANES.count, block // 2, []
    for first, second in zip(vectors[:half], vectors[half:], strict=True):
        parts = []
        for skip in (0, half):
            lanes = [start + skip + lane for start in range(0, count, block) for lane in range(half)]
            index = [lane + side for at in range(0, len(lanes), half) for side in (0, count)
                     for lane in lanes[at : at + half]]  # fmt: skip
            mask = ir.Constant(ir.VectorType(I32, count), index)
            parts.append(builder.shuffle_vector(first, second, mask))
        folded.append(builder.fadd(*parts))
    return _add_across(builder, folded)


@intrinsic
def dot_panel(typingctx, left, l_at, l_step, right, r_at, r_step, count, out, o_at, o_step):
    """Add sum_{j < count} left[l_at + i l_step + j] right[r_at + q r_step + j] to out[o_at + i o_step + q]."""
    size = LANES.count

    def codegen(context, builder, signature, args):
        left, l0, l_step, right, r0, r_step, count, out, o0, o_step = pointers(context, builder, signature, args)
        zero = LANES.constant(0.0)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(DOT_COLUMNS)] for _ in range(DOT_ROWS)]
        for row in sums:
            for cell in row:
                builder.store(zero, cell)
        with cgutils.for_range_slice(builder, I64(0), count, I64(size)) as (j, _):
            rows = [
                load(builder, LANES.type, left, builder.add(builder.add(l0, builder.mul(I64(i), l_step)), j))
                for i in range(DOT_ROWS)
            ]
            for q in range(DOT_COLUMNS):
                column = load(builder, LANES.type, right, builder.add(builder.add(r0, builder.mul(I64(q), r_step)), j))
                for i in range(DOT_ROWS):
                    cell = sums[i][q]
                    builder.store(fma(builder, LANES, rows[i], column, builder.load(cell)), cell)
        for i in range(DOT_ROWS):
            found = [builder.load(cell) for cell in sums[i]]
            for q in range(0, DOT_COLUMNS, size):
                at = builder.add(builder.add(o0, builder.mul(I64(i), o_step)), I64(q))
                total = _add_across(builder, found[q : q + size])
                store(builder, builder.fadd(load(builder, LANES.type, out, at), total), out, at)
        return void(context, builder, signature)

    i = types.int64
    return types.void(left, i, i, right, i, i, i, out, i, i), codegen


@intrinsic
def sum_products(typingctx, left, l_at, l_step, right, r_at, r_step, rows, out, o_at):
    """Write sum_{i < rows} left[l_at + i l_step + j] right[r_at + i r_step + j] into out[o_at + j].

    The points j are those of one panel.
    """
    size = LANES.count

    def codegen(context, builder, signature, args):
        left, l0, l_step, right, r0, r_step, rows, out, o0 = pointers(context, builder, signature, args)
        zero = LANES.constant(0.0)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)]
        for cell in sums:
            builder.store(zero, cell)
        with cgutils.for_range(builder, rows) as loop:
            a0 = builder.add(l0, builder.mul(loop.index, l_step))
            b0 = builder.add(r0, builder.mul(loop.index, r_step))
            for v, cell in enumerate(sums):
                a = load(builder, LANES.type, left, builder.add(a0, I64(v * size)))
                b = load(builder, LANES.type, right, builder.add(b0, I64(v * size)))
                builder.store(fma(builder, LANES, a, b, builder.load(cell)), cell)
        for v, cell in enumerate(sums):
            store(builder, builder.load(cell), out, builder.add(o0, I64(v * size)))
        return void(context, builder, signature)

    i = types.int64
    return types.void(left, i, i, right, i, i, i, out, i), codegen


@intrinsic
def exponentials(typingctx, values, count):
    """Replace values[j] by 2^{values[j]} for j < count, rounded up to whole vectors."""
    lanes = lanes_of(values.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        values, count = pointers(context, builder, signature, args)
        with cgutils.for_range_slice(builder, I64(0), count, I64(lanes.count)) as (j, _):
            t = emit_clamp(builder, lanes, load(builder, lanes.type, values, j), CLAMP[lanes.bits])
            store(builder, emit_exp2(builder, lanes, t), values, j)
        return void(context, builder, signature)

    return types.void(values, types.int64), codegen
