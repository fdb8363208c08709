"""e^{z y} on a box as a separable sum of Chebyshev polynomials on cells, fitted in relative error.

With z in the target cell I (centre z_I, half width h_z) and y in the source cell J (y_J, h_y),

    e^{z y} = sum_ab T_a((z - z_I) / h_z) block_ab T_b((y - y_J) / h_y),    block = e^{z_I y_J} C(h_z y) G(z_I h_y).

Let c(a) be the coefficients of the polynomial in x that fits e^{a x}, and its slope, in relative error. The matrix C
has them for a = h_z y_m, with the points y_m of the source cell. The matrix G(a) gives the coefficients of the
polynomial that fits e^{a x} phi(x), again in relative error, from the values of phi at those points. All terms are
positive, so relative errors of one axis do not add up over sources, and stay relative errors in the product over axes.

Source: Theory 1.1 for what is summed; weighted least squares at Chebyshev points instead of interpolation.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import chebyshev

from .._types import Array
from ..kernels.chebyshev import WIDTH
from .planning import Grid
from .workspace import Workspace

_REACH = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0)  # largest exponents |a x| of the tables of fits


class Axis(NamedTuple):
    """One axis of a grid: e^{z y} for |z| <= reach_z, |y| <= reach_y, in cells of equal width; some may be left out."""

    reach_z: float
    reach_y: float
    slabs: int  # per side, before any are left out
    order_z: int
    order_y: int


@lru_cache(maxsize=256)
def _fits(order: int, reach: float, slopes: bool) -> tuple[Array, Array]:
    """Return (nodes x (M,), series (S, ...)): Chebyshev series in a / reach of the fit to e^{a x}.

    If slopes: series of its coefficients, (S, order), with the slope fitted too. Otherwise: series (order, S, M) of the
    matrix from the values of phi at the nodes to the coefficients of the fit to e^{a x} phi(x).
    """
    count = 2 * order + 6
    x = np.cos(np.pi * (np.arange(count) + 0.5) / count)
    T = chebyshev.chebvander(x, order - 1)
    D = np.stack([chebyshev.chebval(x, chebyshev.chebder(row)) for row in np.eye(order)], axis=1)
    terms = 24 + int(4 * reach)
    series = []
    for a in reach * np.cos(np.pi * (np.arange(terms) + 0.5) / terms):
        weight = np.exp(-a * x)[:, None]
        if slopes:
            rows = np.concatenate([weight * T, weight * D / order])
            series.append(
                np.linalg.lstsq(rows, np.concatenate([np.ones(count), np.full(count, a / order)]), rcond=None)[0]
            )
        else:
            series.append(np.linalg.pinv(weight * T))
    stacked = np.array(series)
    flat = chebyshev.chebvander(np.cos(np.pi * (np.arange(terms) + 0.5) / terms), terms - 1)
    scale = np.full(terms, 2.0 / terms)
    scale[0] = 1.0 / terms
    return x, (flat * scale).T @ (stacked if slopes else np.ascontiguousarray(stacked.swapaxes(0, 1)))


def _basis(a: Array, terms: int, reach: float) -> Array:
    """Return the Chebyshev polynomials in a / reach, (*a.shape, terms)."""
    return chebyshev.chebvander(a / reach, terms - 1)


def packed_cores(
    z_half: Array, y_half: Array, plan: Grid, kept_z: list[Array], kept_y: list[Array], sizes_y: Array, sizes_z: Array,
    workspace: Workspace,
) -> list[Array]:  # fmt: skip
    """Return the matrices of all axes (see `core`), tile by tile as `kernels.contraction.contract` reads them.

    They are padded to sizes_y[k] rows and sizes_z[k] columns. kept_z, kept_y: the slabs in use, for each axis;
    workspace: memory that is reused.
    """
    found = []
    for k, (half_z, half_y) in enumerate(zip(z_half, y_half, strict=True)):
        axis = Axis(float(half_z), float(half_y), int(plan.slabs[k]), int(plan.order_z[k]), int(plan.order_y[k]))
        rows, columns = int(sizes_y[k]), int(sizes_z[k])
        whole = workspace("core", (rows, columns), np.float64)
        matrix = core(axis, kept_z[k], kept_y[k], workspace)
        used = matrix.shape
        whole[: used[0], : used[1]], whole[used[0] :], whole[: used[0], used[1] :] = matrix, 0.0, 0.0
        tiles = workspace(f"core_tiles_{k}", (columns // WIDTH, rows, WIDTH), np.float64)
        tiles[:] = whole.reshape(rows, -1, WIDTH).swapaxes(0, 1)
        found.append(tiles.reshape(-1))
    return found


def core(axis: Axis, kept_z: Array, kept_y: Array, workspace: Workspace) -> Array:
    """Return the blocks of one axis as a matrix (kept_y * order_y, kept_z * order_z); kept: the slabs in use.

    The columns of target cell I are multiplied by e^{-|z_I| reach_y}, so that nothing overflows.
    """
    h_z, h_y = axis.reach_z / axis.slabs, axis.reach_y / axis.slabs
    z = h_z * (2.0 * kept_z + 1.0 - axis.slabs)
    y = h_y * (2.0 * kept_y + 1.0 - axis.slabs)
    top = max(h_z * axis.reach_y, h_y * axis.reach_z)
    reach = next((r for r in _REACH if top <= r), top)
    # Many small products instead of a few large ones, for which NumPy's linear algebra would start threads: such
    # threads occupy the processors for milliseconds in which the threads of the kernels need them.
    nodes, series = _fits(axis.order_y, reach, False)
    G = _basis(z * h_y, series.shape[1], reach) @ series  # (order_y, I, M)
    _, series = _fits(axis.order_z, reach, True)
    C = _basis(h_z * (y[:, None] + h_y * nodes), len(series), reach) @ series  # (J, M, order_z)
    blocks = workspace("core_blocks", (len(y), axis.order_y, len(z), axis.order_z), np.float64)
    np.matmul(G, C[:, None], out=blocks)
    scale = np.exp(z[:, None] * y - np.abs(z)[:, None] * axis.reach_y)
    blocks *= scale.T[:, None, :, None]
    return blocks.reshape(len(y) * axis.order_y, -1)
