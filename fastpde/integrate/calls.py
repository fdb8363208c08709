"""Calls of a field: with what it remembers, and for a batch one for all systems that need it at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


def remembered(field: Any, memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fill the field's own memory with copies of the arrays of a state and return it: they are one object then."""
    kept, own = copied(memory), getattr(field, "memory", {})
    own.clear()
    own.update(kept)
    return own


def call_or_undo(field: Any, memory: dict[str, np.ndarray], t: float, y: np.ndarray, out: np.ndarray) -> None:
    """Call a field; if that ends in an exception, its memory is what it was before."""
    kept = copied(memory)
    try:
        field(t, y, out)
    except BaseException:
        memory.clear()
        memory.update(kept)
        raise


def copied(memory: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in memory.items()}


class BatchField(Protocol):
    """A field f(t, x, out) of k independent systems, x and out (k, n, d).

    It may remember earlier calls, for example as warm starts.

    Attributes:
        constant: whether it does not depend on time.
    """

    constant: bool

    def __call__(self, t: float, x: np.ndarray, out: np.ndarray) -> None:
        """Write the velocities at x into `out`: nan or inf where a system has none, whatever the others have."""

    def systems(self, which: np.ndarray) -> BatchField:
        """Return the field of the systems at the places `which` (k,), without memory of earlier calls."""

    def select(self, which: np.ndarray) -> None:
        """Keep only the systems at the places `which` (k,), with what is remembered of them."""

    def call_some(self, which: np.ndarray, t: float, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write the velocities of the systems at the places `which` alone; return `failed` of these."""

    def failed(self) -> np.ndarray:
        """Return a mask (k,) of the systems without a velocity because it could not be computed.

        Systems whose tokens are too large for a finite velocity do not count.
        """


class Calls:
    """The calls of the field of a batch, of which some systems may have ended.

    Attributes:
        failed: (B,) the systems whose last velocity could not be computed.

    Args:
        field: the field of all B systems; it forgets those that have ended.
        systems: B.
    """

    def __init__(self, field: BatchField, systems: int) -> None:
        self._field, self._members = field, np.arange(systems)
        self.failed = np.zeros(systems, np.bool_)

    def keep(self, members: np.ndarray) -> None:
        """Drop all systems but `members`, which are some of those that are left."""
        if len(members) < len(self._members):
            self._field.select(np.searchsorted(self._members, members))
            self._members = members

    def __call__(self, which: np.ndarray, times: Sequence[float], y: np.ndarray, out: np.ndarray) -> None:
        """Write the velocities of the systems `which`, in increasing order, at their times and the states y (B, ...).

        One time may stand for all.
        """
        if self._field.constant or len(times) == 1:
            self._at(times[0], which, y, out)
            return
        groups: dict[float, list[int]] = {}
        for b, t in zip(which.tolist(), times, strict=True):
            groups.setdefault(t, []).append(b)
        for t, group in groups.items():
            self._at(t, np.array(group), y, out)

    def _at(self, t: float, some: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        whole = len(some) == len(y)
        x = y if whole else y[some]
        v = out if whole else np.full_like(x, np.nan)
        if len(some) == len(self._members):
            self._field(t, x, v)
            failed = self._field.failed()
        else:
            failed = self._field.call_some(np.searchsorted(self._members, some), t, x, v)
        self.failed[some] = failed
        if not whole:
            out[some] = v
