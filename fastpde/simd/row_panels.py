"""The panels for tokens stored as rows of lanes, [coordinate][token]: no packing between one use and the next.

  row_panel    out[q, lane] = weight(bias[q] + sum_r targets[r, lane] sources[r, q])    for ROW_GROUP columns q
  value_rows   sums[c, lane] += sum_j P[j, lane] values[c, j]                        for up to `most_columns` rows c
  largest      the largest entry

The rows of targets, sources, values and out have distances of their own, so that one array of tokens serves as targets,
as sources and as values, and a transposed matrix as sources of a linear map. Arguments are as in `panels`.
"""

from __future__ import annotations

from numba.core import cgutils, types
from numba.np.arrayobj import make_array

from .._jit import intrinsic
from .emitters import emit_weight
from .panels import each_vector, emit_scores, emit_value_panels, pointers, void
from .vectors import BITS, I32, I64, VECTORS, lanes_of, load, maximum, store

# Divides every tile width, so that rows padded to whole tiles are whole groups; 8 independent sums per vector are
# enough to hide the latency of an FMA, and 16 more registers allow twice as many.
ROW_GROUP = 8 if BITS == 512 else 4


@intrinsic
def row_panel(typingctx, weight, out, o_at, o_step, targets, z_at, z_step, sources, y_at, y_step, bias, b_at, k):
    """Write weight(bias[q] + <target, source q>) into out[q, :] for one group of ROW_GROUP sources q.

    `o_step`, `z_step` and `y_step` are the distances between the rows of out, targets and sources.
    """
    lanes = lanes_of(out.dtype.bitwidth)
    kind = weight.instance_class

    def codegen(context, builder, signature, args):
        _, result, o0, step, *rest = pointers(context, builder, signature, args)
        scores = emit_scores(builder, lanes, ROW_GROUP, *rest)
        for q in range(ROW_GROUP):
            row = builder.add(o0, builder.mul(I64(q), step))
            for v in range(VECTORS):
                weight = emit_weight(kind, builder, lanes, scores[v][q])
                store(builder, weight, result, builder.add(row, I64(v * lanes.count)))
        return void(context, builder, signature)

    i = types.int64
    return types.void(weight, out, i, i, targets, i, i, sources, i, i, bias, i, i), codegen


@intrinsic
def value_rows(typingctx, columns, P, rows, values, v_at, step, sums, s_at):
    """Add sum_{j < rows} P[j, :] values[c, j] to sums[c, :] for c < columns <= most_columns(); rows is even.

    `step` is the distance between the rows of values.
    """
    lanes = lanes_of(P.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        count, p, stop, source, v0, row, out, s0 = pointers(context, builder, signature, args)
        emit_value_panels(builder, lanes, count, lambda columns: (I64(1), row), (p, stop, source, v0, out, s0))
        return void(context, builder, signature)

    i = types.int64
    return types.void(i, P, i, values, i, i, sums, i), codegen


@intrinsic
def largest(typingctx, values):
    """Return the largest entry of an array of whole tiles; entries that are not a number may be passed over."""
    lanes = lanes_of(values.dtype.bitwidth)

    def codegen(context, builder, signature, args):
        array = make_array(signature.args[0])(context, builder, args[0])
        source, count = array.data, builder.sdiv(array.nitems, I64(VECTORS * lanes.count))
        best = [
            cgutils.alloca_once_value(builder, load(builder, lanes.type, source, I64(v * lanes.count)))
            for v in range(VECTORS)
        ]
        with each_vector(builder, lanes, I64(1), count) as (_, places):
            for v, at in enumerate(places):
                found = maximum(builder, load(builder, lanes.type, source, at), builder.load(best[v]))
                builder.store(found, best[v])
        both = maximum(builder, builder.load(best[0]), builder.load(best[1]))
        top = builder.extract_element(both, I32(0))
        for lane in range(1, lanes.count):
            top = maximum(builder, builder.extract_element(both, I32(lane)), top)
        return top

    return values.dtype(values), codegen
