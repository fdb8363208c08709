"""The tokens that one process holds, of all: what is taken over all tokens goes through its `Share`.

A backend may share tokens out to several processes, each with a block of them, in order. What belongs to one token
alone is computed where the token is. Sums, largest values and rows of other processes come from a `Share`, and every
process gets the same bits: the order of a sum depends on the number of all tokens alone. `Share` itself is that of a
process which holds them all; all processes must call its methods in the same order, with systems in the first axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Tally:
    """Sums of a long vector per system, made block by block: numbers that are handed in are added in order.

    Attributes:
        first: the place of this process's first number in a system's vector.
    """

    first = 0

    def __init__(self, systems: int) -> None:
        self._sums = np.zeros(systems)

    def add(self, system: int, numbers: Array) -> None:
        """The next numbers (rows, m) of systems `system`, `system` + 1, ...: one block, or what is here of it."""
        self._sums[system : system + len(numbers)] += np.add.reduce(numbers, axis=1)

    def spoil(self) -> None:
        """Makes all sums infinite, whatever else is handed in."""
        self._sums[:] = np.inf

    def sums(self) -> Array:
        """The sums (systems,). The last call."""
        return self._sums


class Share:
    """All tokens.

    Attributes:
        first: the index of the first token that is here.
        here: how many are here.
        n: how many there are in all.
    """

    def __init__(self, n: int) -> None:
        self.first, self.here, self.n = 0, n, n

    @property
    def whole(self) -> bool:
        """Whether this process holds all tokens."""
        return self.here == self.n

    def sum(self, values: Array) -> Array:
        """The sum over all tokens of values (B, here), (B,)."""
        total: Array = values.sum(axis=1)
        return total

    def sums(self, several: Iterable[Array]) -> list[Array]:
        """`sum` of several arrays, made one after the other."""
        return [self.sum(values) for values in several]

    def tiles(self, rows: Array, size: int, take: Any) -> Array:
        """The rows (B, m, ...) of the tiles of `size` tokens that begin here, from those that are here (B, here, ...).

        The tokens 0 .. size - 1 are the first tile, the last one may be shorter; take(shape, dtype) provides memory."""
        return rows

    def sum_of_tiles(self, values: Array, size: int) -> Array:
        """The sums (q,) over all tiles, of values (q, tiles that begin here)."""
        return self.sum(values)

    def tally(self, systems: int, width: int, block: int) -> Tally:
        """For sums of vectors of `width` numbers per token, in blocks of `block` numbers."""
        return Tally(systems)

    def largest(self, values: Array) -> Array:
        """The largest of the values that the processes bring, each for itself; nan if one is nan."""
        return values

    def added(self, values: Array) -> Array:
        """The sum of what the processes bring, in their order: bits depend on their number."""
        return values

    def add_up(self, values: Array) -> None:
        """The same in place, for large arrays."""

    def joined(self, rows: Array) -> tuple[Array, slice]:
        """The rows (B, m, ...) of all processes, any number of each, and which of them are of this one."""
        return rows, slice(0, rows.shape[1])

    def gathered(self, rows: Array) -> Array:
        """The rows of all tokens (B, n, ...), from those that are here (B, here, ...)."""
        return rows

    def every(self, rows: Array, stride: int) -> Array:
        """The rows of the tokens 0, stride, 2 stride, ... (B, q, ...), from those that are here (B, here, ...)."""
        return rows[:, ::stride]

    def ordered(self, rows: Array, order: Array, out: Array) -> Array:
        """out (B, here, ...) <- the rows at the places here, if all rows stood as order (n,) has them; returns out."""
        return np.take(rows, order, axis=1, out=out, mode="clip")

    def placed(self, rows: Array, order: Array, out: Array) -> Array:
        """The same backwards: out[order[s]] <- row s; returns out."""
        out[:, order] = rows
        return out
