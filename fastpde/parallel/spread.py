"""Arrays of tokens of which each rank holds a part: sent to rank 0 in pieces, and cut into blocks.

Neither what arrives (`Spread`) nor the blocks (`Blocks`) depend on the number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
PIECE = 2**25  # bytes that travel at a time


@dataclass(frozen=True)
class Cut:
    """The part `rows` of the tokens along the axis `axis` of an array."""

    axis: int
    rows: slice


class Spread:
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

    A sum over blocks in their order has the same bits for any number of ranks. Tokens (B, n, d) of B systems are one
    block: what is summed then has a leading axis B.

    Attributes:
        n, d: the number of all tokens, and their dimension.
    """

    def __init__(self, here: list[Array], n: int, d: int, comm: Any = None) -> None:
        self.n, self.d = n, d
        self._here, self._comm = here, comm

    @staticmethod
    def alone(x: Array, length: int) -> Blocks:
        """Return the blocks of the tokens x (n, d) or (B, n, d) of a process that holds them all."""
        n, d = x.shape[-2:]
        here = [x] if x.ndim == 3 else [x[start : start + length] for start in range(0, n, length)]
        return Blocks(here, n, d)

    @staticmethod
    def of(comm: Any, x: Array, starts: Array, length: int) -> Blocks:
        """Return the blocks of tokens on ranks: x (m, d) here, each rank holds those from starts[rank] to starts[rank +
        1].

        The tokens of a rank before its first block are sent to the rank on which their block begins. Collective.
        """
        rank, n, d = comm.Get_rank(), int(starts[-1]), x.shape[1]
        first, last = starts[rank : rank + 2].tolist()
        own = -(-first // length) * length  # where the first block of this rank begins, if it has one
        if own > first:
            owner = int(np.searchsorted(starts, own - length, side="right")) - 1
            comm.Send(np.ascontiguousarray(x[: own - first]), owner)
        if own >= last:
            return Blocks([], n, d, comm)
        here = [x[start - first : start - first + length] for start in range(own, last, length)]
        end, parts = min(-(-last // length) * length, n), [here[-1]]
        for source in range(rank + 1, comm.Get_size()):
            count = min(end, int(starts[source + 1])) - int(starts[source])
            if count <= 0:
                break
            parts.append(np.empty((count, d), x.dtype))
            comm.Recv(parts[-1], source)
        here[-1] = np.concatenate(parts) if len(parts) > 1 else here[-1]
        return Blocks(here, n, d, comm)

    def sum(self, part: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
        """Return the sum over all blocks of part(block), an array of the given shape for each system. Collective."""
        return np.asarray(np.sum(self._every(part, shape), axis=0))

    def largest(self, part: Callable[[Array], Array]) -> Array:
        """Return the largest part(block), a number for each system; nan if one is nan. Collective."""
        return np.asarray(np.max(self._every(part, ()), axis=0))

    def _every(self, part: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
        """Return part(block) of the blocks of all ranks, (blocks, *shape), in their order."""
        if self._comm is None:
            return np.array([part(block) for block in self._here], np.float64)
        parts = np.array([part(block) for block in self._here], np.float64).reshape(-1, *shape)
        counts = np.empty(self._comm.Get_size(), np.int64)
        self._comm.Allgather(np.array([parts.size]), counts)
        every = np.empty(int(counts.sum()))
        self._comm.Allgatherv(np.ascontiguousarray(parts), [every, (counts, np.cumsum(counts) - counts)])
        return every.reshape(-1, *shape)


class Tokens:
    """The tokens of one system at a time of a run: those of this rank, and on request those of all.

    Attributes:
        here: (m, d), the tokens of this rank.
    """

    def __init__(self, here: Array, blocks: Callable[[Array, int], Blocks], whole: Callable[[Array], Array | None]):
        self.here = here
        self._blocks, self._whole = blocks, whole
        self._found: tuple[Array | None] | None = None

    @staticmethod
    def alone(x: Array) -> Tokens:
        """Return the tokens x (n, d) of a process that holds them all."""
        return Tokens(x, Blocks.alone, lambda x: x)

    def blocks(self, length: int) -> Blocks:
        """Return the tokens in blocks of `length`. Collective."""
        return self._blocks(self.here, length)

    def whole(self) -> Array | None:
        """Return all tokens (n, d) on rank 0, None on the others. Collective; they travel once."""
        if self._found is None:
            self._found = (self._whole(self.here),)
        return self._found[0]
