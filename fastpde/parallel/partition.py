"""The part of all tokens that one process holds, and its access to the others: `Partition`.

A backend may distribute tokens over several processes, each with a block of them, in order. What belongs to one token
alone is computed where the token is. Sums, largest values and rows of other processes come from a `Partition`, and
every process gets the same bits: the order of a sum depends on the number of all tokens alone. `Undivided` is that of a
process which holds them all, `communicator.Block` communicates. Methods are collective: all processes must call them in
the same order. The first axis of their arguments is that of the systems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 16384  # numbers that are summed at once: what one operation touches stays in the second-level cache


class Tally(ABC):
    """The sum of one long vector for each system, whose numbers are handed in block by block, in their order.

    Attributes:
        first: the place of this process's first number in a system's vector.
    """

    first: int

    @abstractmethod
    def add(self, system: int, numbers: Array) -> None:
        """Add the next numbers (rows, m) of systems `system`, `system` + 1, ...: one block, or the part of it here."""

    @abstractmethod
    def sums(self) -> Array:
        """Return the sums (systems,). No other call may follow."""


class Partition(ABC):
    """The tokens that a process holds, and how it learns of the others.

    Attributes:
        first: the index of the first token that is here.
        here: the number of tokens that are here.
        n: the number of all tokens.
    """

    first: int
    here: int
    n: int

    @property
    def whole(self) -> bool:
        """True if this process holds all tokens."""
        return self.here == self.n

    @abstractmethod
    def sum(self, values: Array) -> Array:
        """Return the sums (B,) over all tokens of values (B, here)."""

    @abstractmethod
    def sums(self, several: Iterable[Array]) -> list[Array]:
        """Return `sum` of each of several arrays, which the iterable makes one after the other."""

    @abstractmethod
    def tiles(self, rows: Array, size: int, workspace: Any) -> Array:
        """Return the rows (B, m, ...) of the tiles of `size` tokens that begin here, from the rows (B, here, ...).

        The first tile has the tokens 0 .. size - 1, the last one may be shorter; workspace(shape, dtype) has memory.
        """

    @abstractmethod
    def sum_of_tiles(self, values: Array, size: int) -> Array:
        """Return the sums (q,) over all tiles of values (q, tiles that begin here)."""

    @abstractmethod
    def tally(self, systems: int, width: int, block: int) -> Tally:
        """Return a tally of `systems` vectors with `width` numbers per token, in blocks of `block` numbers."""

    @abstractmethod
    def largest(self, values: Array) -> Array:
        """Return the elementwise largest of the arrays of all processes; nan where one is nan."""

    @abstractmethod
    def added(self, values: Array) -> Array:
        """Return the sum of the arrays of all processes, in their order; its bits depend on how many they are."""

    @abstractmethod
    def add_up(self, values: Array) -> None:
        """Replace `values` by the sum that `added` returns, in place: for large arrays."""

    @abstractmethod
    def joined(self, rows: Array) -> tuple[Array, slice]:
        """Return the rows (B, m, ...) of all processes, any number from each, and the slice of them from this one."""

    @abstractmethod
    def gathered(self, rows: Array) -> Array:
        """Return the rows of all tokens (B, n, ...), from those that are here (B, here, ...)."""

    @abstractmethod
    def every(self, rows: Array, stride: int) -> Array:
        """Return the rows (B, q, ...) of tokens 0, stride, 2 stride, ..., from those that are here (B, here, ...)."""

    @abstractmethod
    def ordered(self, rows: Array, order: Array, out: Array) -> Array:
        """Move row order[s] of all tokens to place s; write the part of this process into `out` and return it.

        rows and out (B, here, ...) are parts of all rows (B, n, ...), order (n,) is for all of them.
        """

    @abstractmethod
    def placed(self, rows: Array, order: Array, out: Array) -> Array:
        """Move row s of all tokens to place order[s], as the inverse of `ordered`; write into `out` and return it."""


class UndividedTally(Tally):
    """A tally of numbers that this process has alone."""

    first = 0

    def __init__(self, systems: int) -> None:
        self._sums = np.zeros(systems)

    def add(self, system: int, numbers: Array) -> None:
        self._sums[system : system + len(numbers)] += np.add.reduce(numbers, axis=1)

    def sums(self) -> Array:
        return self._sums


class Undivided(Partition):
    """All tokens, held by this process."""

    def __init__(self, n: int) -> None:
        self.first, self.here, self.n = 0, n, n

    def sum(self, values: Array) -> Array:
        total: Array = values.sum(axis=1)
        return total

    def sums(self, several: Iterable[Array]) -> list[Array]:
        return [self.sum(values) for values in several]

    def tiles(self, rows: Array, size: int, workspace: Any) -> Array:
        return rows

    def sum_of_tiles(self, values: Array, size: int) -> Array:
        return self.sum(values)

    def tally(self, systems: int, width: int, block: int) -> Tally:
        return UndividedTally(systems)

    def largest(self, values: Array) -> Array:
        return values

    def added(self, values: Array) -> Array:
        return values

    def add_up(self, values: Array) -> None:
        pass

    def joined(self, rows: Array) -> tuple[Array, slice]:
        return rows, slice(0, rows.shape[1])

    def gathered(self, rows: Array) -> Array:
        return rows

    def every(self, rows: Array, stride: int) -> Array:
        return rows[:, ::stride]

    def ordered(self, rows: Array, order: Array, out: Array) -> Array:
        return np.take(rows, order, axis=1, out=out, mode="clip")

    def placed(self, rows: Array, order: Array, out: Array) -> Array:
        out[:, order] = rows
        return out
