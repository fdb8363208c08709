"""The exact sum over all pairs: O(m n) time, O(m + n) memory, by kernels with explicit SIMD vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .._types import Array
from ..kernels import attend, moments, pack, project, second_score
from ..kernels.attend import Workspace as Threads
from ..kernels.layout import Layout, layout_for
from ..parallel.partition import Partition, Undivided
from ..simd import pool
from ..simd.called import kernel_of
from ..weights import WEIGHTS, Linear, Sigmoid, Weight, is_exponential
from .backend import Backend
from .costs import Estimate, pair_seconds
from .pair_sum import FLOATS, PairSum, SecondScore
from .slices import Slices, check
from .summation import Task
from .workspace import Workspace

# Seconds per token of a sum with linear weights: for each column, and for each product of a key with a value.
_COLUMN, _PRODUCT = 1.5e-9, 4e-11
_OTHER = 1.4  # time of a sum with another weight than the exponential: a division per pair
_REACH = {8: 680.0, 4: 80.0}  # |score|, by bytes of a number, from which a sum is wide
_TILE = 16  # targets that are wide together
_JUDGED = 1024  # targets by whose scores it is predicted how many are wide
_NONE = np.empty((0, 0))
_ALL = np.empty((1, 0), np.int64)


class Direct(Backend):
    """Direct sums, exact to rounding. A row's bits depend on the data alone, not on the number of threads."""

    def __repr__(self) -> str:
        return "Direct()"

    def __init__(self) -> None:
        super().__init__()
        self._slices = Slices()

    @property
    def sums_in_one_call(self) -> bool:
        return type(self) is Direct  # others may have an `attend` of their own

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        if isinstance(pair.weight, Linear):
            check()
            self._attend_linear(pair, Undivided(pair.keys.shape[1]), out)
            return
        layout, packed, scratch = self._packed(pair, self.workspace)
        limits, factor = _ALL if pair.limits is None else np.atleast_2d(pair.limits), _factor(pair)
        logs, weight = _NONE if log_total is None else log_total, kernel_of(pair.weight)
        for part in self._parts(pair, layout):
            targets = pair.targets[:, part]
            size, portion = attend.division(targets, pair.limits is not None, layout)
            # Threads fetch portions of the work in turn: a thread that was held up does not hold up the sum.
            attend.attend(
                weight, factor, layout, size, portion, packed, targets, limits[:, part], scratch, out[:, part],
                logs[:, part],
            )  # fmt: skip

    def attend_second(
        self, pair: PairSum, second: SecondScore, out: Array, out_second: Array, log_total: Array | None = None
    ) -> None:
        layout, packed, scratch = self._packed(pair, self.workspace)
        own = self.workspace.part("second")
        other, more, _ = self._packed(replace(pair, keys=second.keys, values=second.values, bias=None), own)
        kept = second_score.allocate(len(scratch.targets), other, own)
        limits, factor = _ALL if pair.limits is None else np.atleast_2d(pair.limits), _factor(pair)
        logs, weight = _NONE if log_total is None else log_total, kernel_of(pair.weight)
        for part in self._parts(pair, layout, other.k + other.total):
            targets = pair.targets[:, part]
            size, portion = attend.division(targets, pair.limits is not None, layout)
            second_score.attend(
                weight, factor, layout, other, size, portion, packed, more, targets, second.targets[:, part],
                limits[:, part], scratch, kept, out[:, part], out_second[:, part], logs[:, part],
            )  # fmt: skip

    def _packed(self, pair: PairSum, workspace: Workspace) -> tuple[Layout, pack.Packed, Threads]:
        """Pack the sources of a sum; return its layout with them, and the workspace of the threads."""
        systems, n, k = pair.keys.shape
        dtype = pair.keys.dtype
        # Every target of a masked sum sees the first source. No bit may depend on how many more all of them see.
        layout = layout_for(n, k, pair.carried.shape[2], dtype)._replace(seen=n if pair.limits is None else 1)
        packed = pack.allocate(systems, layout, dtype, workspace)
        scratch = attend.allocate(pool.threads(), layout, dtype, workspace)
        bias = _NONE.astype(dtype) if pair.bias is None else pair.bias
        weights = _NONE if pair.masses is None else pair.masses
        pack.pack_sources(pair.keys, bias, weights, pair.carried, is_exponential(pair.weight), layout, packed)
        return layout, packed, scratch

    def _parts(self, pair: PairSum, layout: Layout, more: int = 0) -> Iterator[slice]:
        """Return slices of the targets; for several systems, one slice of all.

        Slices of several systems would not be contiguous, and arrays of that kind need kernels of their own. `more`:
        columns beside those of the pair.
        """
        (systems, m, k), (n, c) = pair.targets.shape, pair.carried.shape[1:]
        if systems > 1:
            check()
            return iter([slice(0, m)])
        threads = pool.threads()
        groups = threads if pair.limits is None else 2 * threads  # every thread has the same number of them
        return self._slices.of(m, attend.TILES * layout.width * groups, n * (4.0 + k + c + more) / threads)

    def estimate(self, task: Task) -> Estimate:
        """Predict what the sum would take. How large scores are is known if the task has been reduced."""
        pair, columns = task.pair, task.pair.columns
        if isinstance(pair.weight, Linear):
            k, c = pair.keys.shape[2], pair.carried.shape[2]
            return Estimate(pairs=(task.sources + task.targets) * (_COLUMN * (k + c) + _PRODUCT * k * c))
        dtype, other = pair.keys.dtype, 1.0 if is_exponential(pair.weight) else _OTHER
        pairs = task.scale**2 * pair.pairs if task.partition is None else task.sources * task.targets
        return Estimate(pairs=other * pairs * pair_seconds(columns, dtype, _wide(task)))

    def attend_together(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> bool:
        if not isinstance(pair.weight, Linear) or pair.limits is not None:
            return False
        check()
        self._attend_linear(pair, partition, out)
        return True

    def _attend_linear(self, pair: PairSum, partition: Partition, out: Array) -> None:
        systems, (k, c) = len(pair.keys), (pair.keys.shape[2], pair.carried.shape[2])
        if pair.limits is not None:
            weights = _NONE if pair.masses is None else pair.masses
            moment, limits = self.workspace("moments", (systems, 1, c, k), np.float64), np.atleast_2d(pair.limits)
            moments.attend_masked(pair.targets, pair.keys, pair.carried, weights, limits, moment, out)
            return
        moment = self._moment(pair.keys, pair.carried, pair.masses, 1.0 / partition.n, partition)
        # In float64 in both precisions: what one moment loses would be lost for all tokens.
        linear = project.prepare(moment, None, np.float64, pool.threads(), self.workspace)
        project.project(pair.targets, np.zeros((1, pair.targets.shape[2])), linear, out)

    def _moment(self, keys: Array, values: Array, masses: Array | None, each: float, partition: Partition) -> Array:
        """Return sum_j m_j v_j y_j^T (B, c, k), m_j the masses or `each`, over the tokens of all processes."""
        systems, (c, k) = len(keys), (values.shape[2], keys.shape[2])
        y = self._tiles("keys", keys, partition)
        v = y if values is keys else self._tiles("values", values, partition)
        weights = _NONE if masses is None else self._tiles("weights", masses, partition)
        found = self.workspace("moments", (systems, -(-y.shape[1] // moments.TILE), c, k), np.float64)
        memory = moments.allocate(pool.threads(), c, k, self.workspace)
        moments.of_tiles(y, v, weights, each, memory, found)
        return _added(found.reshape(*found.shape[:2], c * k), partition).reshape(systems, c, k)

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        d = x.shape[2]
        if matrix is None or matrix.shape[-2:] == (1, 1):  # on a line a map is a number
            with np.errstate(over="ignore", invalid="ignore"):  # as in the kernel below
                np.subtract(x, 0.0 if origin is None else origin[:, None, :].astype(x.dtype), out=out, dtype=x.dtype)
                if matrix is not None:
                    out *= matrix.reshape(-1, 1, 1).astype(out.dtype)
                if shift is not None:
                    out += shift[:, None, :].astype(out.dtype)
            return
        stack = matrix.reshape(-1, *matrix.shape[-2:])
        linear = project.prepare(stack, shift, x.dtype, pool.threads(), self.workspace)
        project.project(x, np.zeros((1, d)) if origin is None else origin, linear, out)

    def outer(self, u: Array, v: Array, partition: Partition | None = None) -> Array:
        partition = Undivided(u.shape[1]) if partition is None else partition
        rows, columns = np.ascontiguousarray(u), np.ascontiguousarray(v)
        return self._moment(columns, rows, None, 1.0, partition).copy()

    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        partition = Undivided(x.shape[1]) if partition is None else partition
        x = self._tiles("tokens", x, partition)
        sums = np.empty((len(x), -(-x.shape[1] // moments.TILE), x.shape[2]))
        project.tile_sums(x, moments.TILE, sums)
        return _added(sums, partition) / partition.n

    def _tiles(self, name: str, rows: Array, partition: Partition) -> Array:
        return partition.tiles(rows, moments.TILE, partial(self.workspace, f"tiled_{name}"))

    @staticmethod
    def warmup(
        report: Callable[[str], None], dtypes: Sequence[Any] = FLOATS, weights: Sequence[Any] = (*WEIGHTS, Weight(abs))
    ) -> None:
        """Compile every kernel by one tiny evaluation each; `report` is called with a text for each step."""
        for dtype in dtypes:
            x = np.ones((1, 2, 1), dtype)
            backend, out, limits = Direct(), np.empty_like(x), np.array([1, 2])
            report(f"{np.dtype(dtype).name} maps")
            backend.project(x, np.eye(1), out, origin=backend.centre(x))
            for weight in weights:
                report(f"{np.dtype(dtype).name} {type(weight).__name__}")
                for seen in (None, limits):
                    backend.attend(PairSum(weight, False, x, x, x, limits=seen), out)
                # The derivatives of the others are a linear weight and a `Weight`.
                if dtype == np.float64 and not isinstance(weight, Linear | Sigmoid):
                    report(f"second score {type(weight).__name__}")
                    second = SecondScore(x, x, x)
                    backend.attend_second(PairSum(weight, False, x, x, x), second, out, np.empty((1, 2, 2)))


def _factor(pair: PairSum) -> float:
    """Return the factor of the kernels: negative if sums are divided by their totals."""
    return (-1.0 if pair.normalised else 1.0) / (pair.keys.shape[1] if pair.masses is None else 1)


def _wide(task: Task) -> float:
    """Return the fraction of pairs that need a shift of their scores, about: targets are summed in tiles."""
    of = vars(task).get("reduced")  # not computed for this
    if of is None:
        return 0.0
    # Reduced coordinates are not those of the direct sum, whose keys may be longer.
    some = of.z[:, :: -(-of.z.shape[1] // _JUDGED)]
    scores = np.sqrt(np.square(some).sum(axis=0)) * float(np.linalg.norm(np.ptp(of.y_ends, axis=0) / 2))
    far = float((scores > _REACH[task.pair.keys.dtype.itemsize]).mean())
    return float(1.0 - (1.0 - far) ** _TILE)


def _added(sums: Array, partition: Partition) -> Array:
    """Return the totals (B, q) over the tiles of all processes, from the sums (B, tiles, q) that begin here."""
    systems, tiles, q = sums.shape
    rows = np.ascontiguousarray(sums.swapaxes(1, 2)).reshape(systems * q, tiles)
    return partition.sum_of_tiles(rows, moments.TILE).reshape(systems, q)
