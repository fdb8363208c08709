"""The contract between attention and the backends: a pair sum goes in, one vector per target comes out.

A backend also owns the workspace of repeated evaluations.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

from .._types import Array
from ..errors import InputError
from ..parallel.partition import Partition, Undivided
from ..simd import pool
from .pair_sum import PairSum
from .workspace import Workspace


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


class Backend(ABC):
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

    @abstractmethod
    def project(
        self, x: Array, matrix: Array | None, out: Array, origin: Array | None = None, shift: Array | None = None
    ) -> None:
        """Write matrix[b] (x[b, i] - origin[b]) + shift[b] into out[b, i] for tokens x (B, n, d).

        The matrix is (q, d) or (B, q, d), None: the identity; origin (B, d) and shift (B, q) default to zero.
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

    def count(self, sums: int) -> None:  # noqa: B027  (most have nothing to do)
        """Count sums that were made by such a call."""

    def stats(self) -> dict[str, float]:
        """Return the counters and error estimates of all evaluations so far, for `sol.stats`."""
        return {}

    def state(self) -> Array | None:
        """Return, as numbers, all that later results and `stats` depend on beside their arguments; None: nothing."""
        return None

    def restore(self, state: Array | None) -> None:  # noqa: B027  (most have nothing to do)
        """Continue from a `state`; None: as if there had been no evaluation yet."""
