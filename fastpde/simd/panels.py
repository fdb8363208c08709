"""The primitives of the direct sum, written as explicit vectors. Lanes are targets; one tile is VECTORS vectors.

  score_panel   P[j, lane] = weight(bias[j] + sum_r targets[r, lane] sources[r, j])     for one group of sources
  times_panel   P[j, lane] *= sum_r targets[r, lane] sources[r, j]                      for one group of sources
  apply_weight  P = weight(P) in place, for a chunk of scores
  raise_tops    top[lane] = max(top[lane], P[j, lane]) over the sources j that the lane may see
  apply_shifted P = weight(P - shift) in place, clamped
  mask_rows     P[j, lane] = 0 for the sources j that a lane may not see
  value_panel   sums[c, lane] += sum_j P[j, lane] values[j, c]                       for up to `most_columns` columns
  multiply_add  a b + c of three numbers, as the panels round it

Arguments are flat arrays and offsets in elements. P, targets, sources, bias and values have the working precision;
`sums` is float64. `limits[lane]` is the number of leading sources a lane may see (int32 beside float32, int64 beside
float64).
"""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_untracked
from numba.np.arrayobj import make_array

from .._jit import intrinsic
from ..weights import Called
from .emitters import SHIFTABLE, emit_any_weight, emit_weight
from .vectors import BITS, I64, VECTORS, Lanes, fma, group_size, lanes_of, load, maximum, most_columns, splat, store


def _pointer(context, builder, kind, value):
    return make_array(kind)(context, builder, value).data


def pointers(context, builder, signature, args):
    """Return the arguments, with every array replaced by its data pointer."""
    return [
        _pointer(context, builder, kind, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def void(context, builder, signature):
    return impl_ret_untracked(context, builder, signature.return_type, context.get_dummy_value())


def emit_scores(builder, lanes, group, targets, z_at, z_step, sources, y_at, y_step, bias, b_at, k):
    """Emit the VECTORS x group accumulators of one score panel; return [vector][source] lists of LLVM values.

    `z_step` and `y_step` are the distances between the rows, one per coordinate, of targets and sources. Without a bias
    (None) scores begin at 0.
    """
    cells = [[cgutils.alloca_once(builder, lanes.type) for _ in range(group)] for _ in range(VECTORS)]
    for q in range(group):
        start = lanes.constant(0.0)
        if bias is not None:
            start = splat(builder, lanes, builder.load(builder.gep(bias, [builder.add(b_at, I64(q))])))
        for v in range(VECTORS):
            builder.store(start, cells[v][q])
    with cgutils.for_range(builder, k) as loop:
        z_row = builder.add(z_at, builder.mul(loop.index, z_step))
        y_row = builder.add(y_at, builder.mul(loop.index, y_step))
        z = [load(builder, lanes.type, targets, builder.add(z_row, I64(v * lanes.count))) for v in range(VECTORS)]
        for q in range(group):
            y = splat(builder, lanes, builder.load(builder.gep(sources, [builder.add(y_row, I64(q))])))
            for v in range(VECTORS):
                builder.store(fma(builder, lanes, z[v], y, builder.load(cells[v][q])), cells[v][q])
    return [[builder.load(cell) for cell in row] for row in cells]


@intrinsic
def score_panel(typingctx, weight, P, p_at, targets, z_at, sources, y_at, bias, b_at, k):
    """Write weight(bias[j] + <target, source j>) into P[j, :] for one group of sources."""
    lanes = lanes_of(P.dtype.bitwidth)
    kind = weight.instance_class

    def codegen(context, builder, signature, args):
        _, p, p0, targets, z_at, sources, y_at, *rest = pointers(context, builder, signature, args)
        group, step = group_size(lanes.bits), I64(VECTORS * lanes.count)
        scores = emit_scores(builder, lanes, group, targets, z_at, step, sources, y_at, I64(group), *rest)
        for q in range(group):
            for v in range(VECTORS):
                weight = emit_weight(kind, builder, lanes, scores[v][q])
                store(builder, weight, p, builder.add(p0, I64((q * VECTORS + v) * lanes.count)))
        return void(context, builder, signature)

    return types.void(
        weight, P, types.int64, targets, types.int64, sources, types.int64, bias, types.int64, types.int64
    ), codegen


@intrinsic
def times_panel(typingctx, P, p_at, targets, z_at, sources, y_at, k):
    """Multiply P[j, :] by <target, source j> for one group of sources."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        p, p0, targets, z_at, sources, y_at, k = pointers(context, builder, signature, args)
        group, step = group_size(lanes.bits), I64(VECTORS * lanes.count)
        scores = emit_scores(builder, lanes, group, targets, z_at, step, sources, y_at, I64(group), None, None, k)
        for q in range(group):
            for v in range(VECTORS):
                at = builder.add(p0, I64((q * VECTORS + v) * lanes.count))
                store(builder, builder.fmul(load(builder, lanes.type, p, at), scores[v][q]), p, at)
        return void(context, builder, signature)

    i = types.int64
    return types.void(P, i, targets, i, sources, i, i), codegen


@intrinsic
def multiply_add(typingctx, a, b, c):
    """Return a b + c of three numbers, rounded as the panels round it: fused where the hardware can."""

    def codegen(context, builder, signature, args):
        return fma(builder, Lanes(a.bitwidth, 0), *args)

    return a(a, a, a), codegen


def _call(bits):
    """Return the code generator of P = function(P), which makes one call for a block of rows.

    P becomes nan if the function has raised an error.
    """
    lanes = lanes_of(bits)

    def codegen(context, builder, signature, args):
        addresses, p, rows = pointers(context, builder, signature, args)[:3]
        kind = ir.FunctionType(ir.IntType(64), [p.type, ir.IntType(64)])
        address = builder.extract_value(addresses, 0 if bits == 64 else 1)
        function = builder.inttoptr(address, kind.as_pointer())
        vectors = builder.mul(rows, I64(VECTORS))
        done = builder.call(function, [p, builder.mul(vectors, I64(lanes.count))])
        with (
            builder.if_then(builder.icmp_signed("==", done, I64(0)), likely=False),
            cgutils.for_range(builder, vectors) as loop,
        ):
            store(builder, lanes.constant(float("nan")), p, builder.mul(loop.index, I64(lanes.count)))
        return void(context, builder, signature)

    return codegen


@contextmanager
def each_vector(builder, lanes, start, stop):
    """Emit a loop over rows of P, and yield (row index, [offset of each vector]) for its body."""
    with cgutils.for_range_slice(builder, start, stop, I64(1)) as (index, _):
        row = builder.mul(index, I64(VECTORS * lanes.count))
        yield index, [builder.add(row, I64(v * lanes.count)) for v in range(VECTORS)]


def _load_tile(builder, kind, lanes, pointer, first):
    """Emit the loads of the VECTORS vectors that start at pointer[first]; return them."""
    return [load(builder, kind, pointer, builder.add(first, I64(v * lanes.count))) for v in range(VECTORS)]


@intrinsic
def fused(typingctx, weight):
    """Return whether score panels apply this weight in registers, a constant of the weight's type.

    With 32 registers the accumulators leave room for the weight's constants. With 16 a second pass over P is faster,
    which has the registers to itself. A user's function is never applied in registers.
    """
    answer = BITS == 512 and weight.instance_class is not Called

    def codegen(context, builder, signature, args):
        return context.get_constant(types.boolean, answer)

    return types.boolean(weight), codegen


@intrinsic
def apply_weight(typingctx, weight, P, rows):
    """Replace P[j, :] by weight(P[j, :]) for j < rows, whole groups; scores must lie in the weight's range.

    It treats three vectors at a time: enough independent polynomials for the scheduler, and registers for the constants
    (float64 20 % faster than two; more than four spill).
    """
    if weight.instance_class is Called:
        return types.void(weight, P, types.int64), _call(P.dtype.bitwidth)
    lanes = lanes_of(P.dtype.bitwidth)
    kind = weight.instance_class
    together = 3 if VECTORS * group_size(lanes.bits) % 3 == 0 else 2

    def codegen(context, builder, signature, args):
        _, p, count = pointers(context, builder, signature, args)
        vectors = builder.mul(count, I64(VECTORS))
        with cgutils.for_range_slice(builder, I64(0), vectors, I64(together)) as (index, _):
            places = [builder.mul(builder.add(index, I64(u)), I64(lanes.count)) for u in range(together)]
            scores = [load(builder, lanes.type, p, at) for at in places]
            for at, t in zip(places, scores, strict=True):
                store(builder, emit_weight(kind, builder, lanes, t), p, at)
        return void(context, builder, signature)

    return types.void(weight, P, types.int64), codegen


@intrinsic
def raise_tops(typingctx, P, rows, limits, l_at, first, tops, t_at):
    """Raise tops[lane] to the largest P[j, lane] over the sources j < rows with first + j < limits[lane]."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        p, count, ends, l0, j0, top, t0 = pointers(context, builder, signature, args)
        limit = _load_tile(builder, lanes.integer, lanes, ends, l0)
        best = [cgutils.alloca_once_value(builder, value) for value in _load_tile(builder, lanes.type, lanes, top, t0)]
        with each_vector(builder, lanes, I64(0), count) as (index, places):
            j = splat(builder, lanes, _narrow(builder, lanes, builder.add(index, j0)))
            for v, at in enumerate(places):
                old = builder.load(best[v])
                larger = maximum(builder, load(builder, lanes.type, p, at), old)
                builder.store(builder.select(builder.icmp_signed("<", j, limit[v]), larger, old), best[v])
        for v in range(VECTORS):
            store(builder, builder.load(best[v]), top, builder.add(t0, I64(v * lanes.count)))
        return void(context, builder, signature)

    i = types.int64
    return types.void(P, i, limits, i, i, tops, i), codegen


@intrinsic
def apply_shifted(typingctx, weight, P, rows, shifts, s_at):
    """Replace P[j, :] by weight(P[j, :] - shift) for j < rows; scores may have any size.

    For a user's function the shift must be 0.
    """
    if weight.instance_class is Called:
        return types.void(weight, P, types.int64, shifts, types.int64), _call(P.dtype.bitwidth)
    lanes = lanes_of(P.dtype.bitwidth)
    kind = weight.instance_class

    def codegen(context, builder, signature, args):
        _, p, count, shift, s0 = pointers(context, builder, signature, args)
        shift_of = _load_tile(builder, lanes.type, lanes, shift, s0)
        with each_vector(builder, lanes, I64(0), count) as (_, places):
            for v, at in enumerate(places):
                t = builder.fsub(load(builder, lanes.type, p, at), shift_of[v])
                store(builder, emit_any_weight(kind, builder, lanes, t), p, at)
        return void(context, builder, signature)

    return types.void(weight, P, types.int64, shifts, types.int64), codegen


def _narrow(builder, lanes, integer):
    """Emit an int64 as the integer of the width of the working precision."""
    return builder.trunc(integer, ir.IntType(lanes.bits)) if lanes.bits == 32 else integer


@intrinsic
def mask_rows(typingctx, P, start, stop, limits, l_at, first):
    """Set P[j, lane] to 0 where first + j >= limits[lane], for start <= j < stop."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        p, low, high, ends, l0, j0 = pointers(context, builder, signature, args)
        limit = _load_tile(builder, lanes.integer, lanes, ends, l0)
        with each_vector(builder, lanes, low, high) as (index, places):
            j = splat(builder, lanes, _narrow(builder, lanes, builder.add(index, j0)))
            for v, at in enumerate(places):
                seen = builder.icmp_signed("<", j, limit[v])
                store(builder, builder.select(seen, load(builder, lanes.type, p, at), lanes.constant(0.0)), p, at)
        return void(context, builder, signature)

    i = types.int64
    return types.void(P, i, i, limits, i, i), codegen


def _unroll(columns: int) -> int:
    """Return the rows per pass, so that enough independent sums hide the latency of an FMA (group sizes are even)."""
    return 2 if columns <= 3 else 1


def _emit_value_panel(builder, lanes, count, steps, places):
    """Emit the value panel for `count` columns: all its sums stay in registers until the last row.

    `steps` are the distances between the rows and between the columns of the values.
    """
    p, stop, values, v0, out, s0 = places
    row_step, column_step = steps
    unroll, zero = _unroll(count), lanes.constant(0.0)
    cells = [
        [[cgutils.alloca_once_value(builder, zero) for _ in range(count)] for _ in range(VECTORS)]
        for _ in range(unroll)
    ]
    with cgutils.for_range_slice(builder, I64(0), stop, I64(unroll)) as (index, _):
        for u in range(unroll):
            j = builder.add(index, I64(u))
            p_row = builder.mul(j, I64(VECTORS * lanes.count))
            v_row = builder.add(v0, builder.mul(j, row_step))
            weights = [load(builder, lanes.type, p, builder.add(p_row, I64(v * lanes.count))) for v in range(VECTORS)]
            for c in range(count):
                at = builder.add(v_row, builder.mul(I64(c), column_step))
                value = splat(builder, lanes, builder.load(builder.gep(values, [at])))
                for v in range(VECTORS):
                    cell = cells[u][v][c]
                    builder.store(fma(builder, lanes, weights[v], value, builder.load(cell)), cell)
    for c in range(count):
        for v in range(VECTORS):
            total = builder.load(cells[0][v][c])
            for u in range(1, unroll):
                total = builder.fadd(total, builder.load(cells[u][v][c]))
            if lanes.bits == 32:
                total = builder.fpext(total, lanes.wide.type)
            at = builder.add(s0, I64((c * VECTORS + v) * lanes.count))
            store(builder, builder.fadd(load(builder, lanes.wide.type, out, at), total), out, at)


def emit_value_panels(builder, lanes, count, steps_for, places):
    """Emit a switch over the number of columns; `steps_for(columns)` returns the steps of the value panel."""
    done = builder.append_basic_block("value_panel.done")
    switch = builder.switch(count, done)
    for case in range(1, most_columns() + 1):
        block = builder.append_basic_block(f"value_panel.{case}")
        switch.add_case(I64(case), block)
        builder.position_at_end(block)
        _emit_value_panel(builder, lanes, case, steps_for(case), places)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def value_panel(typingctx, columns, P, rows, values, v_at, sums, s_at):
    """Add sum_{j < rows} P[j, :] values[j, c] to sums[c, :] for c < columns <= most_columns(); rows is even."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        count, *places = pointers(context, builder, signature, args)
        emit_value_panels(builder, lanes, count, lambda columns: (I64(columns), I64(1)), places)
        return void(context, builder, signature)

    i = types.int64
    return types.void(i, P, i, values, i, sums, i), codegen


@intrinsic
def power_of_two(typingctx, exponent):
    """Return 2.0 ** exponent for an int64 exponent in [-1022, 1023], made from its bits."""

    def codegen(context, builder, signature, args):
        bits = builder.shl(builder.add(args[0], I64(1023)), I64(52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def shiftable(typingctx, weight):
    """Return whether this weight may be computed relative to a running maximum of scores.

    The answer is a constant of the weight's type.
    """
    answer = weight.instance_class in SHIFTABLE

    def codegen(context, builder, signature, args):
        return context.get_constant(types.boolean, answer)

    return types.boolean(weight), codegen
