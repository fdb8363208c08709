"""The contract between attention and the backends: a pair sum goes in, one vector per target comes out.

A backend also owns the workspace of repeated evaluations.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np

from .._types import Array
from ..errors import Explained, InputError
from ..parallel.partition import Partition, Undivided
from ..simd import pool
from .pair_sum import PairSum, SecondScore
from .workspace import Workspace

_COLUMNS = 256  # of one sum: more are made in several


def _distinct(columns: Array) -> tuple[list[int], list[int]]:
    """Return which columns (B, n, c) differ from all before them, and for each the place of its equal among these."""
    kept: list[int] = []
    places = []
    few = columns[:, :8]
    for c in range(columns.shape[2]):
        same = [i for i, k in enumerate(kept) if np.array_equal(few[:, :, k], few[:, :, c])]
        same = [i for i in same if np.array_equal(columns[:, :, kept[i]], columns[:, :, c])]
        if not same:
            kept.append(c)
        places.append(same[0] if same else len(kept) - 1)
    return kept, places


class Evaluation:
    """The context of an evaluation by a backend: it is of one thread at a time, see `Backend.evaluation`."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._thread, self._depth = backend, threading.RLock(), 0

    def __enter__(self) -> int:
        if not self._thread.acquire(blocking=False):
            remedy = 'A name, as backend="auto", makes one for each call.'
            raise InputError(
                "backend", f"{self._backend!r}, at work in another thread", "an object for each thread", remedy
            )
        self._depth += 1
        pool.start()
        return self._depth

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._thread.release()


class Backend(Explained, ABC):
    """A way to compute pair sums.

    One object serves one computation at a time; results do not depend on the number of threads.
    """

    def __init__(self) -> None:
        self._own()

    def _own(self) -> None:
        """Create what copies of the object must not have in common: an empty workspace and a lock."""
        self.workspace = Workspace()
        self._evaluation = Evaluation(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("workspace", "_evaluation")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._own()

    def evaluation(self) -> Evaluation:
        """Return a context in which workspace and counters belong to the calling thread.

        Its value is the number of contexts that are open. Raises InputError while another thread is in one.
        """
        return self._evaluation

    @abstractmethod
    def attend(self, pair: PairSum, out: Array, log_total: Array | None = None) -> None:
        """Write the sums into `out` (B, m, c), and the logs of the total weights into `log_total` (B, m) float64."""

    def attend_second(
        self, pair: PairSum, second: SecondScore, out: Array, out_second: Array, log_total: Array | None = None
    ) -> None:
        """Write the sums as `attend` does, and those with a second score into `out_second` (B, m, c + 1).

        Here they are made of sums of the products of columns of `second`, to the tolerance of `attend`.
        """
        (systems, n, q), first = second.keys.shape, pair.carried
        values = np.concatenate([second.values, np.ones((systems, n, 1))], axis=2)
        each = max(1, _COLUMNS // q)
        for start in range(0, values.shape[2], each):
            products = np.einsum("bnc,bnq->bncq", values[:, :, start : start + each], second.keys)
            columns = np.concatenate([first, products.reshape(systems, n, -1)], axis=2)
            kept, places = _distinct(columns)
            sums = np.empty((*pair.targets.shape[:2], len(kept)))
            self.attend(replace(pair, values=columns[:, :, kept]), sums, log_total)
            if first.shape[2]:
                out[...] = sums[:, :, places[: first.shape[2]]]
            sums = sums[:, :, places[first.shape[2] :]].reshape(systems, sums.shape[1], -1, q)
            np.einsum("bmcq,bmq->bmc", sums, second.targets, out=out_second[:, :, start : start + each])
            first, log_total = first[:, :, :0], None

    def products_pay(self, pair: PairSum) -> bool:
        """Return whether products of a few values with keys (`PairSum.products`) are better than a second score."""
        return False

    @abstractmethod
    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        """Write matrix[b] (x[b, i] - origin[b]) + shift[b] into out[b, i] for tokens x (B, n, d).

        The matrix is (q, d) or (B, q, d), None: the identity; origin (B, d) and shift (B, q) default to zero.
        """

    @abstractmethod
    def outer(self, u: Array, v: Array, partition: Partition | None = None) -> Array:
        """Return the matrices sum_i u[b, i] v[b, i]^T (B, p, q) of rows u (B, n, p) and v (B, n, q) of tokens.

        partition: as of `centre`.
        """

    @abstractmethod
    def centre(self, x: Array, partition: Partition | None = None) -> Array:
        """Return the unweighted mean (B, d) of each system's tokens in float64.

        partition: which of all tokens x are; None: all of them.
        """

    def attend_together(self, pair: PairSum, partition: Partition, out: Array, log_total: Array | None) -> bool:
        """Sum as `attend` does where other processes have other sources, see `partition`.

        Return False, with nothing summed, if the sum needs all sources in one process.
        """
        return False

    def partition(self, here: int) -> Partition:
        """Return which of all tokens the `here` tokens of this process are."""
        return Undivided(here)

    @property
    def processes(self) -> int:
        """The number of processes that share the tokens."""
        return 1

    @property
    def fusable(self) -> bool:
        """Whether small systems may be summed by the compiled loop that moves them, instead of by this backend."""
        return False

    @property
    def sums_in_one_call(self) -> bool:
        """Whether small systems may be summed by one compiled call for all heads, exactly, instead of by `attend`."""
        return self.fusable

    def count(self, sums: int) -> None:
        """Count sums that were made by such a call."""

    def stats(self) -> dict[str, float]:
        """Return the counters and error estimates of all evaluations so far, for `sol.stats`."""
        return {}

    def state(self) -> Array | None:
        """Return, as numbers, all that later results and `stats` depend on beside their arguments; None: nothing."""
        return None

    def restore(self, state: Array | None) -> None:
        """Continue from a `state`; None: as if there had been no evaluation yet."""
