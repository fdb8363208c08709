"""Arrays of the tokens of a run on ranks, each of which holds a part: sent to rank 0 in pieces (`Rows`), and cut into
blocks that do not depend on the number of ranks (`Blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PIECE = 2**25  # bytes that travel at a time
# The axis of the tokens in the arrays of an integration's state; other arrays are the same on all ranks.
_AXES = {"y": 0, "f": 0, "stages": 1, "argument": 0, "total": 0}
_MEMORY, _REMEMBERED = "memory.", {"potentials": 2, "window.dr": 2, "window.du": 2}


def token_axis(name: str) -> int | None:
    """Return the axis of the tokens in an array of a checkpoint, None if it has none.

    The name of a remembered array follows the numbers of its heads, which are ignored.
    """
    if not name.startswith(_MEMORY):
        return _AXES.get(name)
    words = name.removeprefix(_MEMORY).split(".")
    return _REMEMBERED.get(".".join(word for word in words if not word.isdigit()))


@dataclass(frozen=True)
class Cut:
    """The part `rows` of the tokens along the axis `axis` of an array."""

    axis: int
    rows: slice


class Rows:
    """An array with the tokens along `axis`; each rank holds the part `here`, and counts (size,) are their lengths."""

    def __init__(self, comm: Any, here: Array, axis: int, counts: Array) -> None:
        self._comm, self._here, self._counts = comm, here, counts
        self._outer = math.prod(here.shape[:axis])
        self.dtype = here.dtype.newbyteorder("<")
        self.shape = (*here.shape[:axis], int(counts.sum()), *here.shape[axis + 1 :])
        self._width = math.prod(here.shape[axis + 1 :])  # numbers per token

    def pieces(self) -> Iterator[Array]:
        """Yield the array on rank 0, in its order, in flat pieces; the other ranks send their parts and yield nothing.

        Collective: all ranks iterate to the end.
        """
        if 0 in self.shape:
            return
        rank, width = self._comm.Get_rank(), self._width
        step = max(1, PIECE // (self._here.dtype.itemsize * width)) * width
        mine = np.ascontiguousarray(self._here).reshape(self._outer, -1)
        buffer = np.empty(min(step, int(self._counts.max()) * width), self._here.dtype) if rank == 0 else None
        for outer in range(self._outer):
            for source, count in enumerate(self._counts.tolist()):
                for start in range(0, count * width, step):
                    stop = min(start + step, count * width)
                    if source == 0 and buffer is not None:
                        yield mine[outer, start:stop]
                    elif buffer is not None:
                        self._comm.Recv(buffer[: stop - start], source)
                        yield buffer[: stop - start]
                    elif source == rank:
                        self._comm.Send(mine[outer, start:stop], 0)

    def lines(self) -> Iterator[Array]:
        """Yield pieces (k, d) of an array (n, d) on rank 0."""
        for piece in self.pieces():
            yield piece.reshape(-1, *self.shape[1:])

    def give(self) -> None:
        """Send this rank's rows to rank 0. Collective: every other rank calls it while rank 0 iterates `pieces`."""
        for _ in self.pieces():
            pass

    def whole(self) -> Array | None:
        """Return the array on rank 0, None on the others. Collective."""
        array, place = np.empty(self.shape, self.dtype) if self._comm.Get_rank() == 0 else None, 0
        for piece in self.pieces():
            array.reshape(-1)[place : place + piece.size] = piece  # type: ignore[union-attr]
            place += piece.size
        return array


class Blocks:
    """The tokens in blocks of a fixed length, counted from the first token; a rank holds those that begin on it.

    A sum over blocks in their order has the same bits for any number of ranks.
    """

    def __init__(self, here: list[Array], d: int, comm: Any = None) -> None:
        self._here, self.d, self._comm = here, d, comm
        self.n = int(self._every(np.array([float(sum(map(len, here)))])).sum())

    @staticmethod
    def alone(x: Array, length: int) -> Blocks:
        """Return the blocks of the tokens x (n, d) of a process that holds them all."""
        return Blocks([x[start : start + length] for start in range(0, len(x), length)], x.shape[1])

    @staticmethod
    def of(comm: Any, x: Array, starts: Array, length: int) -> Blocks:
        """Return the blocks of tokens on ranks: x (m, d) here, each rank holds those from starts[rank] to starts[rank +
        1].

        The tokens of a rank before its first block are sent to the rank on which their block begins. Collective.
        """
        rank, (first, last) = comm.Get_rank(), starts[comm.Get_rank() : comm.Get_rank() + 2].tolist()
        own = -(-first // length) * length  # where the first block of this rank begins, if it has one
        if own > first:
            owner = int(np.searchsorted(starts, own - length, side="right")) - 1
            comm.Send(np.ascontiguousarray(x[: own - first]), owner)
        if own >= last:
            return Blocks([], x.shape[1], comm)
        here = [x[start - first : start - first + length] for start in range(own, last, length)]
        end, parts = min(-(-last // length) * length, int(starts[-1])), [here[-1]]
        for source in range(rank + 1, comm.Get_size()):
            count = min(end, int(starts[source + 1])) - int(starts[source])
            if count <= 0:
                break
            parts.append(np.empty((count, x.shape[1]), x.dtype))
            comm.Recv(parts[-1], source)
        here[-1] = np.concatenate(parts) if len(parts) > 1 else here[-1]
        return Blocks(here, x.shape[1], comm)

    def sum(self, part: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
        """Return the sum of part(block), an array of the given shape, over all blocks. Collective."""
        parts = np.array([part(block) for block in self._here], np.float64).reshape(-1, *shape)
        return np.asarray(np.sum(self._every(parts), axis=0))

    def largest(self, part: Callable[[Array], float]) -> float:
        """Return the largest part(block), at least 0; nan if one is nan. Collective."""
        return float(self._every(np.array([max_or_nan([part(block) for block in self._here])])).max())

    def _every(self, parts: Array) -> Array:
        """Return the parts (k, ...) of all ranks, concatenated in the order of the ranks."""
        if self._comm is None:
            return parts
        counts = np.empty(self._comm.Get_size(), np.int64)
        self._comm.Allgather(np.array([parts.size]), counts)
        every = np.empty(int(counts.sum()))
        self._comm.Allgatherv(np.ascontiguousarray(parts, np.float64), [every, (counts, np.cumsum(counts) - counts)])
        return every.reshape(-1, *parts.shape[1:])


def max_or_nan(numbers: list[float]) -> float:
    """Return the largest of some numbers and 0; nan if one is nan."""
    return float(np.max([0.0, *numbers]))
