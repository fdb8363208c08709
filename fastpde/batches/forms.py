"""The parameters, weights and limits of small systems, in the layout that the kernels of `systems` read."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array
from ..kernels import systems
from ..kernels.pack import LOG2E
from ..weights import is_exponential
from .reduced_form import ReducedForm

_MATRICES = systems.Forms._fields.index("mantissas")  # the number of fields that belong to the attention


class Parameters:
    """The matrices of a reduced form, in the precision of the tokens.

    Attributes:
        form: the field.
        arrays: the fields of `systems.Forms` that belong to it.
    """

    def __init__(self, form: ReducedForm, dtype: np.dtype[Any]) -> None:
        heads, d = form.A.shape[1:3]
        rows = systems.padded_rows(d)
        D = np.zeros((1, heads, 0, 0)) if form.D is None else LOG2E * form.D
        each = [LOG2E * form.A, LOG2E * form.E, D, form.V, LOG2E * form.bias]
        count = max(map(len, each))
        A, E, D, V, bias = (np.broadcast_to(value, (count, *value.shape[1:])) for value in each)
        norms = np.stack([_norm_bound(A), np.zeros((count, heads)) if form.D is None else _norm_bound(D)], axis=-1)
        self.form = form
        self.arrays = {name: _transposed(M, rows, dtype) for name, M in zip("AEDV", (A, E, D, V), strict=True)}
        self.arrays |= {"bias": bias.astype(dtype), "norms": norms.reshape(count, -1)}


def forms_of(
    shape: systems.Shape, parameters: Parameters, weights: Array | None, limits: Array | None
) -> systems.Forms:
    """Return parameters with the weights (1 or B, n) of tokens, and the limits (n,) of what they see."""
    dtype = parameters.arrays["A"].dtype
    spread = (1, shape.lanes) if weights is None else (len(weights), shape.lanes)
    mantissas, exponents = np.ones(spread, dtype), np.zeros(spread, dtype)
    if weights is not None:
        split = is_exponential(parameters.form.weight)
        parts = np.frexp(weights) if split else (weights, np.zeros_like(weights))
        for target, part in zip((mantissas, exponents), parts, strict=True):
            target[:, : shape.n], target[:, shape.n :] = part, part[:, -1:]
    seen = np.full(shape.lanes, shape.n, np.int64 if dtype.itemsize == 8 else np.int32)
    if limits is not None:
        seen[:] = limits[np.minimum(np.arange(shape.lanes), shape.n - 1)]
    return systems.Forms(mantissas=mantissas, exponents=exponents, limits=seen, **parameters.arrays)


def of_one(forms: systems.Forms, place: int) -> systems.Forms:
    """Return the parameters of one of the systems, for all of them; weights and limits stay."""
    A, E, D, V, bias, norms = (rows[place : place + 1] if len(rows) > 1 else rows for rows in forms[:_MATRICES])
    return systems.Forms(A, E, D, V, bias, norms, *forms[_MATRICES:])


def _transposed(matrices: Array, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return matrices (P, H, d, d) as (P, H * d * rows): transposed, with the rows of the matrix padded to `rows`."""
    count, heads, d, columns = matrices.shape
    padded = np.zeros((count, heads, columns, rows), dtype)
    padded[..., :d] = matrices.swapaxes(-1, -2)
    return padded.reshape(count, -1)


def _norm_bound(matrices: Array) -> Array:
    """Return an upper bound of the Euclidean operator norm: min(|M|_F, sqrt(|M|_1 |M|_inf)).

    Up to the margin for rounding it is exact for multiples of the identity.
    """
    sizes = np.abs(matrices)
    sums = sizes.sum(axis=-1).max(axis=-1) * sizes.sum(axis=-2).max(axis=-1)
    return np.minimum(np.sqrt(np.square(sizes).sum(axis=(-1, -2))), np.sqrt(sums)) * (1 + 1e-6)
