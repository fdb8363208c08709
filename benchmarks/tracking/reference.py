"""Units of time that a machine brings along: a frozen kernel, and a matrix product.

They are timed in the same window as what is judged, so that figures of different days and machines can be compared.
FROZEN: an edit of `reference_kernel` makes all earlier figures worthless; a test compares its text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]
KERNEL_UNIT, GEMM_UNIT = "reference kernel", "matrix product"
_SIZE = 512


@numba.njit(error_model="numpy", fastmath=True)
def reference_kernel(x, y, out):
    """Sum, for every x, a polynomial of degree 8 in x y over all y: like a pair sum, and never changed."""
    for i in range(x.shape[0]):
        total = 0.0
        for j in range(y.shape[0]):
            t = x[i] * y[j]
            p = 1.0 + t * (0.125 + t * (0.0625 + t * (0.03125 + t * (0.015625 + t * 0.0078125))))
            total += p + t * p * p
        out[i] = total


def units() -> dict[str, Callable[[], object]]:
    """Return a call for each unit, about two milliseconds each; the kernel is compiled."""
    grid, out = np.linspace(-1.0, 1.0, 2048), np.empty(2048)
    a, product = np.ones((_SIZE, _SIZE)), np.empty((_SIZE, _SIZE))
    reference_kernel(grid, grid, out)
    return {
        KERNEL_UNIT: lambda: reference_kernel(grid, grid, out),
        GEMM_UNIT: lambda: np.matmul(a, a, out=product),
    }
