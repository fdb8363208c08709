"""The processes of one run: a `RunCommunicator` of one, or the ranks of an MPI job, each with a block of the tokens.

All of them call the methods of their communicator in the same order. Rank 0 writes the output and the messages. An
error that all ranks know of ends all in the same way; one that occurs on a rank alone ends the job by `abort`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np

from fastpde.errors import InputError, InputTypeError
from fastpde.parallel.communicator import starts_of
from fastpde.parallel.spread import Blocks, Spread, Tokens
from fastpde.run import launch
from fastpde.run.directory import OutputError

Array = np.ndarray[Any, Any]
T = TypeVar("T")
_MEETING = 3.0  # seconds that a rank which leaves waits for the others
_SPEECH = 0.2  # seconds for words on their way through mpiexec
_GRACE = 1.0  # seconds that the first rank has to close its files before another ends the job


class Refused(InputError):
    """An InputError of another rank, in its words."""

    def __init__(self, text: str) -> None:
        ValueError.__init__(self, text)
        self.name = ""


_KINDS: tuple[type[Exception], ...] = (Refused, OutputError)


class RunCommunicator(ABC):
    """The processes of a run, which speak with one another: one, or the ranks of an MPI job.

    Attributes:
        rank, size: the number of this process, and of all.
        here: the number of processes on this machine.
    """

    rank: int
    size: int
    here: int

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0

    @abstractmethod
    def together(self, work: Callable[[], T]) -> T:
        """Return what work() returns on this rank; raise the first InputError or OutputError of any rank on all."""

    @abstractmethod
    def told(self, work: Callable[[], T]) -> T:
        """Run work() on rank 0 alone and return its result, which JSON can hold, on all ranks. Raises as `together`."""

    @abstractmethod
    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the ranks pass."""

    @abstractmethod
    def rows(self, n: int) -> slice:
        """Return the slice of n tokens that belongs to this rank. Raises InputError where a rank would have none."""

    @abstractmethod
    def backend(self, inner: Any, check: Callable[[], object]) -> Any:
        """Return the backend of all ranks; before each sum all of them call `check`, which may raise on all."""

    @abstractmethod
    def spread(self, here: Array, axis: int = 0, counts: Array | None = None) -> Array | Spread:
        """Return the array of which each rank holds the part `here` along an axis; `counts` (size,) are the parts'
        lengths, gathered from the ranks if they are not given.
        """

    @abstractmethod
    def tokens(self, x: Array) -> Tokens:
        """Return the tokens of all ranks, from the tokens x (m, d) of this rank. Collective."""

    @abstractmethod
    def met(self) -> bool:
        """Return whether all ranks are about to exit."""

    @abstractmethod
    def leave(self, code: int) -> None:
        """End MPI together with the other ranks; if they do not come, end the job."""

    @abstractmethod
    def abort(self, code: int) -> None:
        """End all ranks at once; with several ranks the call does not return."""


class SingleProcess(RunCommunicator):
    """One process."""

    rank, size, here = 0, 1, 1

    def together(self, work: Callable[[], T]) -> T:
        return work()

    def told(self, work: Callable[[], T]) -> T:
        return work()

    def largest(self, number: int) -> int:
        return number

    def rows(self, n: int) -> slice:
        return slice(0, n)

    def backend(self, inner: Any, check: Callable[[], object]) -> Any:
        return inner

    def spread(self, here: Array, axis: int = 0, counts: Array | None = None) -> Array | Spread:
        return here

    def tokens(self, x: Array) -> Tokens:
        return Tokens.alone(x)

    def met(self) -> bool:
        return True

    def leave(self, code: int) -> None:
        pass

    def abort(self, code: int) -> None:
        pass


class MpiProcesses(RunCommunicator):
    """The ranks of an MPI communicator. They exchange buffers only, so nothing is unpickled."""

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        near = comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.here = near.Get_size()
        near.Free()
        self._met: bool | None = None
        self._left = False

    def _gathered(self, *numbers: int) -> Array:
        """Gather the numbers of all ranks, (size, k)."""
        every = np.empty((self.size, len(numbers)), np.int64)
        self._comm.Allgather(np.array(numbers, np.int64), every)
        return every

    def _from(self, root: int, data: bytes, length: int) -> bytes:
        """Broadcast the bytes `data` of the rank `root`, `length` of them, and return them."""
        buffer = np.frombuffer(data, np.uint8).copy() if self.rank == root else np.empty(length, np.uint8)
        self._comm.Bcast(buffer, root)
        return buffer.tobytes()

    def together(self, work: Callable[[], T]) -> T:
        found, error = _tried(work)
        text = b"" if error is None else str(error).encode()
        codes = self._gathered(_code(error), len(text))
        bad = np.flatnonzero(codes[:, 0])
        if not len(bad):
            return found  # type: ignore[return-value]
        first = int(bad[0])
        said = self._from(first, text, int(codes[first, 1])).decode()
        if error is not None and first == self.rank:
            raise error
        raise _KINDS[int(codes[first, 0]) - 1](said if first == 0 else f"rank {first}: {said}")

    def told(self, work: Callable[[], T]) -> T:
        answer = b""

        def lead() -> None:
            nonlocal answer
            answer = json.dumps(work()).encode()

        self.together(lead if self.leads else lambda: None)
        length = int(self._gathered(len(answer))[0, 0])
        return json.loads(self._from(0, answer, length))  # type: ignore[no-any-return]

    def largest(self, number: int) -> int:
        return int(self._gathered(number).max())

    def rows(self, n: int) -> slice:
        starts = self._starts(n)
        return slice(int(starts[self.rank]), int(starts[self.rank + 1]))

    def _starts(self, n: int) -> Array:
        starts: Array = starts_of(n, self.size)
        return starts

    def backend(self, inner: Any, check: Callable[[], object]) -> Any:
        from fastpde.sums.distributed import Mpi

        return Mpi(inner, self._comm, before=check)

    def spread(self, here: Array, axis: int = 0, counts: Array | None = None) -> Spread:
        counts = self._gathered(here.shape[axis])[:, 0] if counts is None else counts
        return Spread(self._comm, here, axis, counts)

    def tokens(self, x: Array) -> Tokens:
        starts = self._starts(int(self._gathered(len(x)).sum()))
        return Tokens(
            x,
            lambda here, length: Blocks.of(self._comm, here, starts, length),
            lambda here: Spread(self._comm, here, 0, np.diff(starts)).whole(),
        )

    def met(self) -> bool:
        if self._met is None:
            coming, until = self._comm.Ibarrier(), time.monotonic() + _MEETING
            while not (met := coming.Test()) and time.monotonic() < until:
                time.sleep(0.01)
            self._met = bool(met)
        return self._met

    def leave(self, code: int) -> None:
        if self._left:
            return
        if not self.met():
            self.abort(code)
        self._left = True
        self._mpi.Finalize()

    def abort(self, code: int) -> NoReturn:
        time.sleep(_SPEECH if self.leads else _GRACE)
        self._comm.Abort(code)
        os._exit(code)


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except (InputError, InputTypeError, OutputError) as error:
        return None, error


def _code(error: Exception | None) -> int:
    return 0 if error is None else 1 + isinstance(error, OutputError)


_communicator: RunCommunicator = SingleProcess()


def communicator() -> RunCommunicator:
    """Return the processes of this job: the ranks under `python -m mpi4py`, otherwise this process alone.

    Raises InputError for independent copies of one command.
    """
    global _communicator
    if "mpi4py" in sys.modules and _communicator.size == 1:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            remedy = "Set MPI4PY_LIBMPI to the path of its libmpi; fastpde doctor says what there is."
            raise InputError(
                "mpi4py", f"an MPI library that cannot be loaded ({error})", "that of mpiexec", remedy
            ) from None
        if MPI.Is_initialized() and MPI.COMM_WORLD.Get_size() > 1:  # not where `facts` has only asked for its name
            _communicator = MpiProcesses(MPI, MPI.COMM_WORLD)
    launch.refuse_copies(_communicator.size)
    return _communicator


def joined() -> RunCommunicator:
    """Return the communicator that the last call of `communicator` has found, this process alone before."""
    return _communicator
