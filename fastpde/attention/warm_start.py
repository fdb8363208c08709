"""Warm starts: where a scaling inside a run begins, from what was found for the last clouds."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..parallel.partition import Partition, Undivided
from ..transport.anderson import Window, coefficients
from .memory import Memory

# Evaluations that are remembered: a step of dopri5 makes six. Five need a sixteenth more half-iterations.
_DEPTH = 7
# Numbers of a cloud that are compared: the few coefficients wanted are the same for all tokens.
_NUMBERS = 4096
# Relative to the squared sizes of the moves: below it their directions are rounding.
_RIDGE = 1e-13
# The axis of the tokens in what is remembered.
_AXES = {"potentials": 2, "window.dr": 2, "window.du": 2}


def token_axis(name: str) -> int | None:
    """Return the axis of the tokens in an array of a `Memory`, by its name with the numbers of its heads; or None."""
    return _AXES.get(".".join(word for word in name.split(".") if not word.isdigit()))


class WarmStart:
    """Potentials g (B, n) of the next cloud from those of the last ones, and the window of the last scaling.

    The tokens and their squares are fitted as one affine combination of the remembered ones, by least squares over a
    sample of the tokens, and g is the same combination of theirs: extrapolation along the trajectory, of the order that
    the motion shows. The squares make it curved where all tokens move along one line, as when a cloud contracts. Times
    play no part, so stages at equal times and steps that are tried again need no care. Systems are independent.

    What is remembered of each system, O(n): the last `_DEPTH` samples and potentials, how many there have been, and the
    window.
    """

    def __init__(self, memory: Memory, x: Array, partition: Partition | None = None, unit: Array | None = None) -> None:
        """Take up what a run remembers.

        x: tokens (B, n, d) about the centre of their sums, in units (B, d), None: 1; partition: which of all tokens
        they are, None: all.
        """
        systems, n, d = x.shape
        partition = Undivided(n) if partition is None else partition
        self._memory = memory
        sample = partition.every(x, -(-partition.n * d // _NUMBERS))
        self._sample = (sample if unit is None else sample * unit[:, None]).reshape(systems, -1)
        self._samples = self._array("samples", (systems, _DEPTH, self._sample.shape[1]))
        self._potentials = self._array("potentials", (systems, _DEPTH, n))
        self._count = self._array("count", (systems,), np.int64)

    def start(self) -> Array:
        """Return the potentials (B, n) to start from; zeros where nothing is remembered."""
        systems = np.arange(len(self._count))
        newest = (self._count - 1) % _DEPTH
        origin = self._samples[systems, newest][:, None, :]
        largest = np.abs(origin).max(axis=2, keepdims=True)
        largest = np.where(largest > 0.0, largest, 1.0)  # of tokens whose squares are no numbers, too
        size = np.sqrt(((origin / largest) ** 2).mean(axis=2, keepdims=True))
        unit = np.where(size > 0.0, size * largest, 1.0)
        moves = _moves(self._samples, origin, unit)
        moves[np.arange(_DEPTH) >= self._count[:, None]] = 0.0
        gram = np.einsum("biq,bjq->bij", moves, moves)
        with np.errstate(over="ignore", invalid="ignore"):
            right = np.einsum("biq,bq->bi", moves, _moves(self._sample[:, None, :], origin, unit)[:, 0])
        # Of a system that is no numbers, or out of all proportion to what is remembered, nothing is extrapolated.
        right[~np.isfinite(right).all(axis=1)] = 0.0
        c = coefficients(gram, right, _RIDGE)
        c[systems, newest] = 1.0 - c.sum(axis=1)
        found: Array = np.einsum("bi,bin->bn", c, self._potentials)
        return found

    def window(self) -> Window:
        """Return the Anderson window of the last scaling, for the next one to go on with in place."""
        held = [self._memory.get(f"window.{name}") for name in Window._fields]
        if all(array is not None for array in held):
            return Window(*held)  # type: ignore[arg-type]
        systems, _, n = self._potentials.shape
        window = Window.empty((systems, n))
        for name, array in window._asdict().items():
            self._memory.put(f"window.{name}", array)
        return window

    def keep(self, g: Array, systems: Array) -> None:
        """Remember the potentials g (B, n) of the cloud in `systems`, a mask (B,)."""
        chosen = np.flatnonzero(systems)
        slots = self._count[chosen] % _DEPTH
        self._samples[chosen, slots] = self._sample[chosen]
        self._potentials[chosen, slots] = g[chosen]
        self._count[chosen] += 1

    def _array(self, name: str, shape: tuple[int, ...], dtype: type = np.float64) -> Array:
        held = self._memory.get(name)
        if held is None:
            held = np.zeros(shape, dtype)
            self._memory.put(name, held)
        return held


def _moves(x: Array, origin: Array, unit: Array) -> Array:
    """Return numbers (B, m, q) and their squares, less those of the origin, in units of it: (B, m, 2q)."""
    moves = (x - origin) / unit
    return np.concatenate([moves, moves * ((x + origin) / unit)], axis=2)
