"""The five primitives of the direct sum, written as explicit vectors. Lanes are targets; one tile is VECTORS vectors.

  score_panel   P[j, lane] = law(bias[j] + sum_r targets[r, lane] sources[r, j])     for one group of sources
  raw_panel     the same scores without the law, and their running lane-wise maximum (only sources a lane may see)
  apply_law     P <- law(P - shift), clamped, for a chunk of raw scores
  mask_rows     P[j, lane] <- 0 for the sources j a lane may not see
  value_panel   sums[c, lane] += sum_j P[j, lane] values[j, c]                       for up to `most_columns` columns

Arguments are flat arrays and offsets in elements. P, targets, sources, bias and values have the working precision;
`sums` is float64. `limits[lane]` is the number of leading sources a lane may see (int32 beside float32, int64 beside
float64).
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_untracked
from numba.np.arrayobj import make_array

from .._jit import intrinsic
from ..laws import SHIFTABLE, emit_clamp, emit_weight
from .vectors import I64, VECTORS, fma, group_size, lanes_of, load, maximum, most_columns, splat, store


def _pointer(context, builder, kind, value):
    return make_array(kind)(context, builder, value).data


def _pointers(context, builder, signature, args):
    """The arguments with every array replaced by its data pointer."""
    return [
        _pointer(context, builder, kind, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _void(context, builder, signature):
    return impl_ret_untracked(context, builder, signature.return_type, context.get_dummy_value())


def _scores(builder, lanes, targets, z_at, sources, y_at, bias, b_at, k):
    """The VECTORS x group accumulators of one score panel, as [vector][source] lists of LLVM values."""
    group = group_size(lanes.bits)
    step = VECTORS * lanes.count
    cells = [[cgutils.alloca_once(builder, lanes.type) for _ in range(group)] for _ in range(VECTORS)]
    for q in range(group):
        start = splat(builder, lanes, builder.load(builder.gep(bias, [builder.add(b_at, I64(q))])))
        for v in range(VECTORS):
            builder.store(start, cells[v][q])
    with cgutils.for_range(builder, k) as loop:
        z_row = builder.add(z_at, builder.mul(loop.index, I64(step)))
        y_row = builder.add(y_at, builder.mul(loop.index, I64(group)))
        z = [load(builder, lanes.type, targets, builder.add(z_row, I64(v * lanes.count))) for v in range(VECTORS)]
        for q in range(group):
            y = splat(builder, lanes, builder.load(builder.gep(sources, [builder.add(y_row, I64(q))])))
            for v in range(VECTORS):
                builder.store(fma(builder, lanes, z[v], y, builder.load(cells[v][q])), cells[v][q])
    return [[builder.load(cell) for cell in row] for row in cells]


@intrinsic
def score_panel(typingctx, law, P, p_at, targets, z_at, sources, y_at, bias, b_at, k):
    """P[j, :] = law(bias[j] + <target, source j>) for one group of sources."""
    lanes = lanes_of(P.dtype.bitwidth)
    kind = law.instance_class

    def codegen(context, builder, signature, args):
        _, p, p0, *rest = _pointers(context, builder, signature, args)
        scores = _scores(builder, lanes, *rest)
        for q in range(group_size(lanes.bits)):
            for v in range(VECTORS):
                weight = emit_weight(kind, builder, lanes, scores[v][q])
                store(builder, weight, p, builder.add(p0, I64((q * VECTORS + v) * lanes.count)))
        return _void(context, builder, signature)

    return types.void(
        law, P, types.int64, targets, types.int64, sources, types.int64, bias, types.int64, types.int64
    ), codegen


@intrinsic
def raw_panel(typingctx, P, p_at, targets, z_at, sources, y_at, bias, b_at, k, top, top_at, limits, l_at, first):
    """P[j, :] = bias[j] + <target, source j>; top = max(top, P[j, :]) over the sources first + j < limits."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        p, p0, *rest, tops, t0, ends, l0, j0 = _pointers(context, builder, signature, args)
        scores = _scores(builder, lanes, *rest)
        narrow = ir.IntType(lanes.bits)
        j0 = builder.trunc(j0, narrow) if lanes.bits == 32 else j0
        for v in range(VECTORS):
            at = builder.add(t0, I64(v * lanes.count))
            best = load(builder, lanes.type, tops, at)
            end = load(builder, lanes.integer, ends, builder.add(l0, I64(v * lanes.count)))
            for q in range(group_size(lanes.bits)):
                store(builder, scores[v][q], p, builder.add(p0, I64((q * VECTORS + v) * lanes.count)))
                seen = builder.icmp_signed("<", splat(builder, lanes, builder.add(j0, narrow(q))), end)
                best = builder.select(seen, maximum(builder, scores[v][q], best), best)
            store(builder, best, tops, at)
        return _void(context, builder, signature)

    i = types.int64
    return types.void(P, i, targets, i, sources, i, bias, i, i, top, i, limits, i, i), codegen


@intrinsic
def apply_law(typingctx, law, P, rows, shift, s_at):
    """P[j, :] <- law(max(P[j, :] - shift, clamp)) for j < rows."""
    lanes = lanes_of(P.dtype.bitwidth)
    kind = law.instance_class

    def codegen(context, builder, signature, args):
        _, p, count, shifts, s0 = _pointers(context, builder, signature, args)
        shift_of = [load(builder, lanes.type, shifts, builder.add(s0, I64(v * lanes.count))) for v in range(VECTORS)]
        with cgutils.for_range(builder, count) as loop:
            for v in range(VECTORS):
                at = builder.add(builder.mul(loop.index, I64(VECTORS * lanes.count)), I64(v * lanes.count))
                t = builder.fsub(load(builder, lanes.type, p, at), shift_of[v])
                store(builder, emit_weight(kind, builder, lanes, emit_clamp(builder, lanes, t)), p, at)
        return _void(context, builder, signature)

    return types.void(law, P, types.int64, shift, types.int64), codegen


@intrinsic
def mask_rows(typingctx, P, start, stop, limits, l_at, first):
    """P[j, lane] <- 0 where first + j >= limits[lane], for start <= j < stop."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        p, low, high, ends, l0, j0 = _pointers(context, builder, signature, args)
        narrow = ir.IntType(lanes.bits)
        with cgutils.for_range_slice(builder, low, high, I64(1)) as (index, _):
            j = builder.add(index, j0)
            j = splat(builder, lanes, builder.trunc(j, narrow) if lanes.bits == 32 else j)
            for v in range(VECTORS):
                at = builder.add(builder.mul(index, I64(VECTORS * lanes.count)), I64(v * lanes.count))
                end = load(builder, lanes.integer, ends, builder.add(l0, I64(v * lanes.count)))
                seen = builder.icmp_signed("<", j, end)
                store(builder, builder.select(seen, load(builder, lanes.type, p, at), lanes.constant(0.0)), p, at)
        return _void(context, builder, signature)

    i = types.int64
    return types.void(P, i, i, limits, i, i), codegen


def _unroll(columns: int) -> int:
    """Rows per pass, so that enough independent sums hide the latency of an FMA (group sizes are even)."""
    return 2 if columns <= 3 else 1


def _emit_value_panel(builder, lanes, count, pointers):
    """The value panel for `count` columns: all its sums stay in registers until the last row."""
    p, stop, values, v0, out, s0 = pointers
    unroll, zero = _unroll(count), lanes.constant(0.0)
    cells = [
        [[cgutils.alloca_once_value(builder, zero) for _ in range(count)] for _ in range(VECTORS)]
        for _ in range(unroll)
    ]
    with cgutils.for_range_slice(builder, I64(0), stop, I64(unroll)) as (index, _):
        for u in range(unroll):
            j = builder.add(index, I64(u))
            p_row = builder.mul(j, I64(VECTORS * lanes.count))
            v_row = builder.add(v0, builder.mul(j, I64(count)))
            weights = [load(builder, lanes.type, p, builder.add(p_row, I64(v * lanes.count))) for v in range(VECTORS)]
            for c in range(count):
                value = splat(builder, lanes, builder.load(builder.gep(values, [builder.add(v_row, I64(c))])))
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


@intrinsic
def value_panel(typingctx, columns, P, rows, values, v_at, sums, s_at):
    """sums[c, :] += sum over j < rows of P[j, :] values[j, c], for c < columns <= most_columns(); rows is even."""
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        count, *pointers = _pointers(context, builder, signature, args)
        done = builder.append_basic_block("value_panel.done")
        switch = builder.switch(count, done)
        for case in range(1, most_columns() + 1):
            block = builder.append_basic_block(f"value_panel.{case}")
            switch.add_case(I64(case), block)
            builder.position_at_end(block)
            _emit_value_panel(builder, lanes, case, pointers)
            builder.branch(done)
        builder.position_at_end(done)
        return _void(context, builder, signature)

    i = types.int64
    return types.void(i, P, i, values, i, sums, i), codegen


@intrinsic
def power_of_two(typingctx, exponent):
    """2.0 ** exponent for an int64 exponent in [-1022, 1023], from the bits."""

    def codegen(context, builder, signature, args):
        bits = builder.shl(builder.add(args[0], I64(1023)), I64(52))
        return builder.bitcast(bits, ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def shiftable(typingctx, law):
    """Whether weights of this law may be computed relative to a running maximum: a constant of the law's type."""
    answer = law.instance_class in SHIFTABLE

    def codegen(context, builder, signature, args):
        return context.get_constant(types.boolean, answer)

    return types.boolean(law), codegen
