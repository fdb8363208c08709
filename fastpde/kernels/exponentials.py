"""Exponentials alone: what a sum could reach if its weights were all that it had to compute."""

from __future__ import annotations

from .._jit import jit
from ..simd.dots import exponentials
from ..simd.pool import launch

SIZE, TIMES = 2048, 512  # numbers of one thread, which stay in its cache, and how often each is replaced


@jit(borrowed=True)
def _replace_item(index, thread, values):
    for _ in range(TIMES):
        exponentials(values[index], values.shape[1])


@jit
def replace(values):
    """Replace values (threads, SIZE) by powers of two of them, `TIMES` times."""
    launch(values.shape[0], values.shape[0], 1, _replace_item, (values,))
