"""The exact sum over all pairs: O(m n) time, O(m + n) memory, in the explicit vectors of `kernels`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numba
import numpy as np

from .._types import Array
from ..kernels import attend, moments, pack, project
from ..kernels.layout import Layout, layout_for
from ..laws import LAWS, SHIFTABLE, LinearLaw
from .base import FLOATS, Backend, PairSum
from .slices import Slices, check

# Numba's simplest threading layer must not be entered from two Python threads at once.
_LOCK = threading.Lock()
_NONE = np.empty((0, 0))
_ALL = np.empty((1, 0), np.int64)


class Direct(Backend):
    """Direct sums, exact to rounding. A row's bits depend on the data alone, not on the number of threads."""

    def __repr__(self) -> str:
        return "Direct()"

    def __init__(self) -> None:
        super().__init__()
        self._slices = Slices()

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        if isinstance(pair.law, LinearLaw):
            check()
            self._attend_linear(pair, out)
            return
        systems, n, k = pair.keys.shape
        dtype = pair.keys.dtype
        layout = layout_for(n, k, pair.values.shape[2], dtype)
        packed = pack.allocate(systems, layout, dtype, self.take)
        scratch = attend.allocate(numba.get_num_threads(), layout, dtype, self.take)
        none = _NONE.astype(dtype)
        bias = none if pair.bias is None else pair.bias
        weights = _NONE if pair.weights is None else pair.weights
        factor = (-1.0 if pair.normalised else 1.0) / (n if pair.weights is None else 1)
        limits = _ALL if pair.limits is None else np.atleast_2d(pair.limits)
        logs = _NONE if log_total is None else log_total
        with _LOCK:
            pack.pack_sources(pair.keys, bias, weights, pair.values, type(pair.law) in SHIFTABLE, layout, packed)
        for part in self._parts(pair, layout):
            targets = pair.targets[:, part]
            # Threads take portions of the work in turn: one that was held up does not hold up the sum.
            with _LOCK, numba.parallel_chunksize(attend.chunk_size(targets, layout)):
                attend.attend(
                    pair.law, factor, layout, packed, targets, limits[:, part], scratch, out[:, part], logs[:, part]
                )

    def _parts(self, pair: PairSum, layout: Layout) -> Iterator[slice]:
        """Slices of the targets; of several systems all at once: their slices would be arrays of another kind."""
        (systems, m, k), (n, c) = pair.targets.shape, pair.values.shape[1:]
        if systems > 1:
            check()
            return iter([slice(0, m)])
        return self._slices.of(m, attend.TILES * layout.width, n * (4.0 + k + c))

    def _attend_linear(self, pair: PairSum, out: Array) -> None:
        systems, n, k = pair.keys.shape
        weights = _NONE if pair.weights is None else pair.weights
        blocks = moments.blocks_for(n) if pair.limits is None else 1
        partial = self.take("moments", (systems, blocks, pair.values.shape[2], k), np.float64)
        with _LOCK:
            if pair.limits is None:
                moments.attend_all(pair.targets, pair.keys, pair.values, weights, partial, out)
            else:
                moments.attend_masked(
                    pair.targets, pair.keys, pair.values, weights, np.atleast_2d(pair.limits), partial, out
                )

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        d = x.shape[2]
        if matrix is None or matrix.shape[-2:] == (1, 1):  # on a line a map is a number
            np.subtract(x, 0.0 if origin is None else origin[:, None, :].astype(x.dtype), out=out, dtype=x.dtype)
            if matrix is not None:
                out *= matrix.reshape(-1, 1, 1).astype(out.dtype)
            if shift is not None:
                out += shift[:, None, :].astype(out.dtype)
            return
        stack = matrix.reshape(-1, *matrix.shape[-2:])
        linear = project.prepare(stack, shift, x.dtype, numba.get_num_threads(), self.take)
        with _LOCK:
            project.project(x, np.zeros((1, d)) if origin is None else origin, linear, out)

    def centre(self, x: Array) -> Array:
        out = np.zeros((x.shape[0], x.shape[2]))
        project.accumulate(x, out)
        out /= x.shape[1]
        return out

    @staticmethod
    def warmup(report: Callable[[str], None], dtypes: Sequence[Any] = FLOATS, laws: Sequence[Any] = LAWS) -> None:
        """Compiles every kernel by one tiny evaluation each."""
        for dtype in dtypes:
            x = np.ones((1, 2, 1), dtype)
            backend, out, limits = Direct(), np.empty_like(x), np.array([1, 2])
            report(f"{np.dtype(dtype).name} maps")
            backend.project(x, np.eye(1), out, origin=backend.centre(x))
            for law in laws:
                report(f"{np.dtype(dtype).name} {type(law).__name__}")
                for seen in (None, limits):
                    backend.attend(PairSum(law, False, x, x, x, limits=seen), out)
