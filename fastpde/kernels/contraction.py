"""The contraction of tensors of moments with matrices, axis by axis: the translation of a grid (M2L).

    out[..., i] = sum_j in[j, ...] matrix[j, i]: the first axis is mapped and becomes the last.

The products are made by panels of explicit vectors; bits do not depend on threads.
"""

from __future__ import annotations

from .._jit import jit
from ..simd.pool import launch
from ..simd.row_panels import ROW_GROUP, row_panel
from ..weights import Linear
from .chebyshev import WIDTH

STRIP = 64  # rows of a contraction that are computed together


@jit(borrowed=True)
def contract_strip(tensor, first, rest, start, matrix, lanes, pack, zeros, out):
    """Compute rows start .. start + STRIP - 1 of `contract` on one thread; pack (>= first * STRIP,) is workspace."""
    columns = min(STRIP, rest - start)
    for j in range(first):
        row = tensor[j * rest + start : j * rest + start + columns]
        for q in range(columns):
            pack[j * STRIP + q] = row[q]
    for tile in range(lanes // WIDTH):
        for q in range(0, columns, ROW_GROUP):
            row_panel(
                Linear(), out, (start + q) * lanes + tile * WIDTH, lanes, matrix, tile * first * WIDTH, WIDTH,
                pack, q, STRIP, zeros, 0, first,
            )  # fmt: skip


@jit(borrowed=True)
def _contract_item(index, thread, tensor, first, rest, matrix, lanes, packs, zeros, out):
    pack = packs[thread]
    contract_strip(tensor, first, rest, index * STRIP, matrix, lanes, pack, zeros, out)


@jit
def contract(tensor, first, rest, matrix, lanes, packs, zeros, out):
    """Contract the first axis of a tensor: out[q, i] = sum_{j < first} tensor[j, q] matrix[j, i].

    q < rest and i < lanes, both whole vectors. tensor (first, rest); matrix [tile][j][lane]; packs (threads, >= first *
    STRIP) is workspace.
    """
    arguments = (tensor, first, rest, matrix, lanes, packs, zeros, out)
    launch(packs.shape[0], -(-rest // STRIP), 1, _contract_item, arguments)
