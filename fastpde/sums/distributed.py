"""Sums over tokens that several processes hold, each a block of them, through MPI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .._types import Array
from ..errors import InputError
from ..parallel.communicator import Block, Communicator, starts_of
from ..parallel.partition import Partition
from ..weights import Linear
from . import resolve
from .backend import Backend
from .direct import Direct
from .pair_sum import PairSum, SecondScore


class Mpi(Backend):
    """A backend for tokens that are distributed over the processes of a communicator.

    Each process sums for its own tokens by the backend `inner`. All processes call the same functions in the same
    order, with their own block of tokens (and weights, positions):

        backend = fp.Mpi()
        mine = backend.rows(n)
        sol = fp.solve(attention, x0[mine], (0.0, 1.0), backend=backend)

    Times, steps, status and events are those of the whole cloud, the same on all processes; arrays of tokens are those
    of the block. Of systems (B, n, d) each process has a block of every system. An event that is a function gets all
    tokens; observers get the block.

    Direct sums, and all that depends on them, have the same bits for any number of processes: those of one process
    without MPI.

    Sums in O(n) of exponential weights on one grid send its moments: their number depends on the box of the tokens, not
    on how many there are. Linear attention sends sums of its moments. All other sums first bring all sources together
    on every process: direct sums, masked and bounded ones, and those that a tree might make faster (large scores, most
    of all in three coordinates). This needs O(n) bytes, less than a thousandth of the time of a direct sum, and the
    memory of the whole cloud. Targets of masked sums are redistributed where `inner` is `fp.Direct`, so that all
    processes have the same amount of work.

    `stats` counts those sums that brought sources together, and the bytes that this process has sent for evaluations:
    sol.stats["bytes_sent"] / sol.stats["evaluations"] are those of one velocity.
    """

    def __init__(self, inner: Any = "auto", comm: Any = None, *, before: Callable[[], object] | None = None) -> None:
        """Make a backend of the communicator `comm`, with a backend of each process, `inner`.

        inner: a name or a backend, not an `Mpi`; comm: an mpi4py communicator, default MPI.COMM_WORLD; before: called
        before each sum, on all processes, and may raise there. Then the state of a run has nothing of the processes in
        it: any number of them can go on with it.

        Raises InputError, InputTypeError: for another inner, or without mpi4py.
        """
        super().__init__()
        self._inner = resolve(inner)
        if isinstance(self._inner, Mpi):
            raise InputError("inner", repr(inner), 'another kind of backend: "auto", "direct" or "fast"')
        self._communicator = Communicator(_world() if comm is None else comm)
        self._gathered_sums, self._before = 0.0, before

    def __repr__(self) -> str:
        return f"Mpi({self._inner!r})"

    @property
    def rank(self) -> int:
        """The number of this process."""
        return int(self._communicator.rank)

    @property
    def size(self) -> int:
        """The number of processes."""
        return int(self._communicator.size)

    @property
    def processes(self) -> int:
        return self.size

    @property
    def tol(self) -> float:
        """The relative error that the sums may have; 0: exact."""
        return float(getattr(self._inner, "tol", 0.0))

    def rows(self, n: int) -> slice:
        """Return which of n tokens belong to this process. Raises InputError where some process would have none."""
        starts = starts_of(n, self.size)
        return slice(int(starts[self.rank]), int(starts[self.rank + 1]))

    @property
    def sums_in_one_call(self) -> bool:
        return self._inner.sums_in_one_call

    def count(self, sums: int) -> None:
        self._inner.count(sums)

    def partition(self, here: int) -> Partition:
        return self._communicator.partition(here)

    def stats(self) -> dict[str, float]:
        own = {"ranks": self.size, "bytes_sent": self._communicator.sent, "gathered_sums": self._gathered_sums}
        return self._inner.stats() | own

    def state(self) -> Array | None:
        inner = self._inner.state()
        if self._before is not None:
            return inner
        return np.append([self._communicator.sent, self._gathered_sums], [] if inner is None else inner)

    def restore(self, state: Array | None) -> None:
        if self._before is not None:
            self._inner.restore(state)
            return
        self._communicator.sent, self._gathered_sums = (0.0, 0.0) if state is None else state[:2].tolist()
        self._inner.restore(None if state is None or len(state) == 2 else state[2:])

    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        if self._before is not None:
            self._before()
        partition = self.partition(pair.keys.shape[1])
        if partition.whole:
            self._inner.attend(pair, out, log_total)
            return
        if self._inner.attend_together(pair, partition, out, log_total):
            return
        self._gathered_sums += len(pair.keys)
        whole = self._gathered(pair, partition)
        if self._deals(pair, partition):
            self._attend_dealt(whole, partition, out, log_total)
        else:
            self._inner.attend(whole, out, log_total)
        if pair.history is not None:  # each process has checked its own targets
            pair.history[:] = partition.largest(pair.history)

    def attend_second(
        self, pair: PairSum, second: SecondScore, out: Array, out_second: Array, log_total: Array | None = None
    ) -> None:
        if self._before is not None:
            self._before()
        partition = self.partition(pair.keys.shape[1])
        if partition.whole:
            self._inner.attend_second(pair, second, out, out_second, log_total)
            return
        self._gathered_sums += len(pair.keys)
        keys, values = self._all_of("keys", second.keys, partition), self._all_of("values", second.values, partition)
        others = SecondScore(second.targets, keys.copy(), values.copy())
        self._inner.attend_second(self._gathered(pair, partition), others, out, out_second, log_total)
        if pair.history is not None:
            pair.history[:] = partition.largest(pair.history)

    def products_pay(self, pair: PairSum) -> bool:
        return self.partition(pair.keys.shape[1]).whole and self._inner.products_pay(pair)

    def _deals(self, pair: PairSum, partition: Partition) -> bool:
        """Return whether targets are redistributed: the later a target of a masked direct sum, the more work it is."""
        if pair.limits is None or not isinstance(self._inner, Direct) or isinstance(pair.weight, Linear):
            return False
        others = np.array([float(pair.targets.shape[1] != partition.here)])
        return not partition.largest(others).any()

    def _attend_dealt(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> None:
        """Sum as `attend` with the targets of all processes redistributed; send the sums back to their processes."""
        assert isinstance(partition, Block), "some tokens are elsewhere"

        def dealt(name: str, rows: Array) -> Array:
            return partition.ordered(rows, partition.dealt, self.workspace(f"dealt_{name}", rows.shape, rows.dtype))

        targets, limits = dealt("targets", pair.targets), dealt("limits", np.atleast_2d(np.asarray(pair.limits)))
        found = self.workspace("dealt_sums", out.shape, out.dtype)
        logs = None if log_total is None else self.workspace("dealt_logs", log_total.shape, np.float64)
        self._inner.attend(replace(pair, targets=targets, limits=limits), found, logs)
        partition.placed(found, partition.dealt, out)
        if log_total is not None and logs is not None:
            partition.placed(logs, partition.dealt, log_total)

    def _gathered(self, pair: PairSum, partition: Partition) -> PairSum:
        """Return the same sum with the sources of all processes."""

        def all_of(name: str, rows: Array | None) -> Array | None:
            return None if rows is None else self._all_of(name, rows, partition)

        keys = self._all_of("keys", pair.keys, partition)
        values = all_of("values", pair.values)
        return replace(
            pair, keys=keys, values=values, bias=all_of("bias", pair.bias), masses=all_of("weights", pair.masses)
        )

    def _all_of(self, name: str, rows: Array, partition: Partition) -> Array:
        """Return the rows (B, n, ...) of all processes, in the workspace."""
        assert isinstance(partition, Block), "some tokens are elsewhere"
        out = self.workspace(f"all_{name}", (len(rows), partition.n, *rows.shape[2:]), rows.dtype)
        return partition.gathered_into(rows, out)

    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        self._inner.project(x, matrix, out, origin, shift)

    def outer(self, u: Array, v: Array, partition: Partition | None = None) -> Array:
        return self._inner.outer(u, v, self.partition(u.shape[1]))

    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        return self._inner.centre(x, self.partition(x.shape[1]))


def _world() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise InputError(
            "backend", f"fp.Mpi without mpi4py: {error}", "mpi4py", "Install it: pip install mpi4py."
        ) from error
    return MPI.COMM_WORLD
