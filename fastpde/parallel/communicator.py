"""The processes of a communicator, and the block of tokens on each of them. Only buffers are sent, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ..errors import InputError
from . import pairwise
from .partition import Array, Partition, Tally, Undivided

UNIT = 32  # tokens that stay together: a whole number of the tiles of targets of the kernels of direct sums


def starts_of(n: int, size: int) -> Array:
    """Return the first tokens (size + 1,) of the blocks of n tokens on `size` processes, and n at the end.

    The blocks are as equal as units allow. Raises InputError where a process would have none.
    """
    units = -(-n // UNIT)
    if units < size:
        need = f"more than {UNIT * (size - 1)}, {UNIT} for each of {size} processes"
        raise InputError("n", f"{n} tokens", need, "Start fewer processes.")
    return np.minimum(UNIT * (np.arange(size + 1) * units // size), n)


class Communicator:
    """A communicator. `sent` is the number of bytes that this process has sent.

    The methods are collective, except for `counted`.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.sent = 0.0
        self._blocks: dict[tuple[int, ...], Partition] = {}

    def partition(self, here: int) -> Partition:
        """Return which of all tokens the `here` tokens of this process are.

        Raises InputError, on all processes, unless blocks are those of `starts_of`.
        """
        if self.size == 1:
            return Undivided(here)
        counts = self.counts(here)
        key = tuple(counts.tolist())
        if key not in self._blocks:
            n = sum(key)
            need = np.diff(starts_of(n, self.size)).tolist()
            if need != list(key):
                remedy = "Give process r the tokens x[backend.rows(n)]."
                raise InputError("x", f"blocks of {_some(key)} tokens", f"blocks of {_some(need)}", remedy)
            self._blocks = {key: Block(self, counts)}
        return self._blocks[key]

    def counts(self, here: int) -> Array:
        """Return the numbers `here` (size,) of all processes."""
        return self._side_by_side(np.array([here]))[:, 0]

    def joined(self, rows: Array, counts: Array, out: Array | None = None) -> Array:
        """Return the rows (B, sum of counts, ...) of all processes in order, from (B, counts[rank], ...) here.

        They are written into `out`, if there is one.
        """
        systems, n, rest = rows.shape[0], int(counts.sum()), rows.shape[2:]
        width = systems * int(np.prod(rest))
        if width == 0:
            return np.empty((systems, n, *rest), rows.dtype)
        flat = np.empty(n * width, rows.dtype) if out is None or systems > 1 else out.reshape(-1)
        ends = np.cumsum(counts) * width
        self.comm.Allgatherv(self.counted(np.ascontiguousarray(rows)), [flat, (counts * width, ends - counts * width)])
        if systems == 1:
            return flat.reshape(1, n, *rest)
        parts = [part.reshape(systems, -1, *rest) for part in np.split(flat, ends[:-1])]
        return np.concatenate(parts, axis=1, out=out)

    def counted(self, buffer: Array) -> Array:
        """Count the bytes of a buffer that is about to be sent; return it."""
        self.sent += buffer.nbytes if self.size > 1 else 0
        return buffer

    def largest(self, values: Array) -> Array:
        """Return the largest of the values that the processes have, entry by entry; nan where one is nan."""
        found: Array = self._side_by_side(values).max(axis=0)
        return found

    def added(self, values: Array) -> Array:
        """Return the sum of small arrays over the processes, in their order."""
        total = np.zeros_like(values)
        for each in self._side_by_side(values):
            total += each
        return total

    def _side_by_side(self, values: Array) -> Array:
        """Return the arrays of all processes (size, ...), of one shape on each."""
        each = np.empty((self.size, *values.shape), values.dtype)
        self.comm.Allgather(self.counted(np.ascontiguousarray(values)), each)
        return each

    def add_up(self, values: Array) -> None:
        """Replace a large array by its sum over the processes, in their order; each process adds up a slice of it."""
        flat = values.reshape(-1)
        cuts = np.arange(self.size + 1) * len(flat) // self.size
        counts, mine = np.diff(cuts), int(cuts[self.rank + 1] - cuts[self.rank])
        pieces, total = np.empty((self.size, mine), values.dtype), np.zeros(mine, values.dtype)
        equal = np.full(self.size, mine)
        self.sent += flat.nbytes - total.nbytes
        self.comm.Alltoallv([flat, (counts, cuts[:-1])], [pieces, (equal, mine * np.arange(self.size))])
        for piece in pieces:
            total += piece
        self.comm.Allgatherv(self.counted(total), [flat, (counts, cuts[:-1])])


class Block(Partition):
    """The block of tokens of one process, among those of all."""

    def __init__(self, communicator: Communicator, counts: Array) -> None:
        self._communicator, self._counts = communicator, counts
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.first, self.here, self.n = (
            int(v) for v in (self._starts[communicator.rank], counts[communicator.rank], counts.sum())
        )
        self._moves: list[tuple[Array, Moves]] = []

    def sum(self, values: Array) -> Array:
        return self.sums([values])[0]

    def sums(self, several: Iterable[Array]) -> list[Array]:
        parts = [pairwise.parts(values, self.n, self.first) for values in several]
        return np.split(self._total(np.concatenate(parts), self._starts), len(parts))

    def _total(self, parts: Array, starts: Array) -> Array:
        """Return the sums of rows cut at `starts` (size + 1,), from what the piece on this process contributes."""
        n = int(starts[-1])
        given = self._communicator.joined(parts, np.array(_counts(tuple(starts.tolist()), n)))
        return pairwise.total(n, tuple(starts[1:-1].tolist()), given)[0]

    def tiles(self, rows: Array, size: int, workspace: Any) -> Array:
        before = np.minimum(-self._starts[:-1] % size, self._counts)  # tokens of tiles that begin on earlier processes
        first, stop = int(before[self._communicator.rank]), int(self._starts[self._communicator.rank + 1])
        heads, at = self._communicator.joined(rows[:, :first], before), int(before[: self._communicator.rank + 1].sum())
        if first == self.here:
            return rows[:, :0]
        missing = min(-stop % size, self.n - stop)
        out: Array = workspace((len(rows), self.here - first + missing, *rows.shape[2:]), rows.dtype)
        return np.concatenate([rows[:, first:], heads[:, at : at + missing]], axis=1, out=out)

    def sum_of_tiles(self, values: Array, size: int) -> Array:
        starts = -(-self._starts // size)
        parts = pairwise.parts(values, int(starts[-1]), int(starts[self._communicator.rank]))
        return self._total(parts, starts)

    def tally(self, systems: int, width: int, block: int) -> Tally:
        return BlockTally(self._communicator, self._starts * width, systems, block)

    def largest(self, values: Array) -> Array:
        return self._communicator.largest(values)

    def added(self, values: Array) -> Array:
        return self._communicator.added(values)

    def add_up(self, values: Array) -> None:
        self._communicator.add_up(values)

    def joined(self, rows: Array) -> tuple[Array, slice]:
        counts = self._communicator.counts(rows.shape[1])
        last = int(counts[: self._communicator.rank + 1].sum())
        return self._communicator.joined(rows, counts), slice(last - rows.shape[1], last)

    def gathered(self, rows: Array) -> Array:
        return self._communicator.joined(rows, self._counts)

    def gathered_into(self, rows: Array, out: Array) -> Array:
        """Write what `gathered` returns into an existing array; return it."""
        return self._communicator.joined(rows, self._counts, out)

    def every(self, rows: Array, stride: int) -> Array:
        counts = np.diff(-(-self._starts // stride))
        return self._communicator.joined(rows[:, -self.first % stride :: stride], counts)

    def ordered(self, rows: Array, order: Array, out: Array) -> Array:
        moves = self._moves_to(order)
        return moves.exchange(rows, out, moves.leaving, moves.arriving)

    def placed(self, rows: Array, order: Array, out: Array) -> Array:
        moves = self._moves_to(order)
        return moves.exchange(rows, out, moves.arriving, moves.leaving)

    @cached_property
    def dealt(self) -> Array:
        """An order (n,) of all tokens that gives every process units from the whole sequence, in order."""
        size, unit = self._communicator.size, np.arange(self.n) // UNIT
        # The last unit, which may not be full, stays the last: all others remain tiles of targets.
        order = np.argsort((unit - unit[-1] - 1) % size, kind="stable")
        return np.concatenate([np.sort(part) for part in np.split(order, self._starts[1:-1])])

    def _moves_to(self, order: Array) -> Moves:
        for known, moves in self._moves:
            if known is order:
                return moves
        moves = Moves(self._communicator, self._starts, order)
        self._moves = [(order, moves), *self._moves][:2]  # that of positions, and `dealt`
        return moves


class Moves:
    """An exchange of rows between processes that brings all rows into an order, or back.

    Attributes:
        leaving, arriving: (index, counts): the rows here, sorted by the process that they go to, or come from, and how
            many rows for each process; between two processes rows go in the order of their places.
    """

    def __init__(self, communicator: Communicator, starts: Array, order: Array) -> None:
        self._communicator = communicator
        here = slice(starts[communicator.rank], starts[communicator.rank + 1])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        leaving = np.argsort(place[here])
        owners = np.searchsorted(starts, order[here], side="right") - 1
        arriving = np.argsort(owners, kind="stable")
        to = np.searchsorted(starts, place[here], side="right") - 1
        self.leaving = leaving, np.bincount(to, minlength=communicator.size)
        self.arriving = arriving, np.bincount(owners, minlength=communicator.size)

    def exchange(self, rows: Array, out: Array, leaving: tuple[Array, Array], arriving: tuple[Array, Array]) -> Array:
        """Send rows (B, here, ...) where they belong; write arriving ones into `out` (B, here, ...); return `out`."""
        parcel = np.ascontiguousarray(rows[:, leaving[0]].swapaxes(0, 1))
        came = np.empty_like(parcel)
        width = parcel[0].size
        sides = [
            [buffer, (counts * width, (np.cumsum(counts) - counts) * width)]
            for buffer, (_, counts) in ((self._communicator.counted(parcel), leaving), (came, arriving))
        ]
        self._communicator.comm.Alltoallv(*sides)
        out[:, arriving[0]] = came.swapaxes(0, 1)
        return out


class BlockTally(Tally):
    """A tally of numbers that several processes add, with the same bits as if one process did."""

    def __init__(self, communicator: Communicator, starts: Array, systems: int, block: int) -> None:
        """Make a tally of `systems` sums, all zero.

        starts (size + 1,): the places of the processes' first numbers, and the end; block: see `Partition.tally`.
        """
        self._communicator, self._cuts, self._block = communicator, tuple(starts.tolist()), block
        self.first = self._cuts[communicator.rank]
        self._parts: list[list[Array]] = [[] for _ in range(systems)]
        self._at = [self.first] * systems

    def add(self, system: int, numbers: Array) -> None:
        at = self._at[system]
        start = at // self._block * self._block
        size = min(self._block, self._cuts[-1] - start)
        self._parts[system].append(pairwise.parts(numbers, size, at - start))
        self._at[system] += numbers.shape[1]

    def sums(self) -> Array:
        counts = _counts(self._cuts, self._block)
        given = np.concatenate([np.concatenate(parts, axis=1) for parts in self._parts])
        given, total, at = self._communicator.joined(given, np.array(counts)), np.zeros(len(given)), 0
        for start in range(0, self._cuts[-1], self._block):
            size = min(self._block, self._cuts[-1] - start)
            inside = tuple(cut - start for cut in self._cuts if 0 < cut - start < size)
            found, at = pairwise.total(size, inside, given, at)
            total += found
        return total


@lru_cache(maxsize=64)
def _counts(cuts: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Return how many numbers each process contributes to a tally."""

    def of(low: int, high: int) -> int:
        starts = range(low // block * block, high, block)
        sizes = [min(block, cuts[-1] - start) for start in starts]
        return sum(
            pairwise.count(size, max(low - start, 0), min(high - start, size))
            for start, size in zip(starts, sizes, strict=True)
        )

    return tuple(of(cuts[r], cuts[r + 1]) for r in range(len(cuts) - 1))


def _some(counts: Any) -> str:
    """Return the first few of many numbers, as text."""
    shown = ", ".join(map(str, list(counts)[:8]))
    return f"{shown}, ..." if len(counts) > 8 else shown
