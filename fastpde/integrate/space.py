"""The vector space of states: the only arithmetic that the stepper does on them.

A backend may pass its own object in place of `VectorSpace`. The contract is three methods. All arrays are C-contiguous,
of one shape and dtype, owned by the stepper; `out` never overlaps another argument; nothing of the size of a state is
allocated; results do not depend on the number of threads. `stages` is (S, *shape) and `coefs` a tuple of S Python
floats.

    combine(y, h, coefs, stages, out)
        Write y + h sum_s coefs[s] stages[s] into `out`; terms with coefs[s] == 0 are not read.
    error_norm(stages, coefs, h, y0, y1, rtol, atol) -> float
        Return the scaled size of h sum_s coefs[s] stages[s]; inf or nan if that, y0 or y1 is not finite.
    max_norm(y) -> float
        Return max |y|; inf or nan if anything is not finite.

A space may have one more, by which a method like rk4 needs fewer arrays, with the same bits:

    gather(total, weight, stage, first)
        Add weight * stage to `total`, or, if `first`, write it there; `combine` sums its increments so.

A space of batches (B, ...), whose systems make steps of their own, has these, too:

    h and coefs of `combine` may be arrays (k,), one number for each of the k systems of y
    error_norms, max_norms: the norms of the systems, arrays (B,); h may be an array (B,)

A state may be the part that one process holds of a larger one (`parallel.partition`): its norms are those of the whole.

Every state that the stepper makes (stage arguments, results, continuous extension) is the result of `combine`: a space
whose `combine` also retracts to a manifold keeps all of them on the manifold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from fastpde.parallel.partition import BLOCK, Partition, Undivided


class VectorSpace:
    """NumPy arithmetic on states of one shape and dtype, blockwise and in place.

    Args:
        shape: the shape of a state: (n, d), (B, n, d) or any other. For three axes the first one counts independent
            systems.
        dtype: float64 or float32. The norms accumulate in float64.
        partition: which of all tokens a state (n, d) or (B, n, d) holds; None: all.
        retract: moves a state, in place, to a manifold, after each combination; None: there is none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        partition: Partition | None = None,
        retract: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        self.retract = retract
        size = math.prod(shape)
        self._systems = shape[0] if len(shape) == 3 else 1
        self._here = size // self._systems if self._systems else 0
        self.partition = Undivided(self._here) if partition is None else partition
        self._width = self._here // self.partition.here if self._here else 1
        self._length = self.partition.n * self._width
        block = max(1, min(size, BLOCK))
        self._term = np.empty(block, dtype)
        self._scale = np.empty(block, dtype)
        self._squares = np.empty(block, np.float64)

    def of_systems(self, count: int) -> VectorSpace:
        """Return the space of batches of so many systems, of at most those of this space; they share work arrays."""
        other = copy(self)
        other._systems = count
        return other

    def combine(self, y: np.ndarray, h: Any, coefs: Sequence[Any], stages: np.ndarray, out: np.ndarray) -> None:
        """Write y + h sum_s coefs[s] stages[s], summed in the order of s, into `out`.

        On a manifold it is retracted; without terms `out` becomes y to the bit, which is there.
        """
        weights, each = _weighted(h, coefs, y.dtype)
        shape = (len(y), -1) if each else (-1,)
        flat, source, target = stages.reshape(len(stages), *shape), y.reshape(shape), out.reshape(shape)
        for part in _blocks(target.shape):
            # The increments are summed before y is added: one rounding at the size of y instead of S.
            self._increment(flat, weights, part, target[part])
            target[part] += source[part]
        if weights and self.retract is not None:
            self.retract(out)

    def gather(self, total: np.ndarray, weight: float, stage: np.ndarray, first: bool) -> None:
        """Add weight * stage to `total`, or write it there if it is the first of a sum."""
        flat, target = stage.reshape(1, -1), total.reshape(-1)
        for part in _blocks(target.shape):
            self._add_terms(flat, [(0, weight)], part, target[part], first)

    def error_norm(
        self,
        stages: np.ndarray,
        coefs: Sequence[float],
        h: float,
        y0: np.ndarray,
        y1: np.ndarray,
        rtol: float,
        atol: float,
    ) -> float:
        """Return the root mean square of e / (atol + rtol max(|y0|, |y1|)), e = h sum_s coefs[s] stages[s].

        For states (B, n, d) it is the largest of the values of the B systems, so that the accuracy of a system does not
        depend on the others. Source: Hairer, Norsett, Wanner (1993) II.4 (4.11).
        """
        return float(np.maximum.reduce(self.error_norms(stages, coefs, h, y0, y1, rtol, atol)))

    def error_norms(
        self,
        stages: np.ndarray,
        coefs: Sequence[float],
        h: Any,
        y0: np.ndarray,
        y1: np.ndarray,
        rtol: float,
        atol: float,
    ) -> np.ndarray:
        """Return the norms of `error_norm` of each system (B,), with a step h for all or one for each (B,)."""
        flat = stages.reshape(len(stages), -1)
        old, new = y0.reshape(-1), y1.reshape(-1)
        weights, each = _weighted(h, coefs, y0.dtype)
        tally = self.partition.tally(self._systems, self._width, BLOCK)
        for first, rows, part in self._parts(tally.first):
            size = part.stop - part.start
            error, scale, squares = self._term[:size], self._scale[:size], self._squares[:size]
            np.abs(old[part], out=error)
            np.abs(new[part], out=scale)
            np.maximum(error, scale, out=scale)
            # inf in y would give e / inf = 0: the one way a bad state could pass for a good one.
            bad = None if math.isfinite(np.maximum.reduce(scale)) else ~np.isfinite(scale)
            scale *= rtol
            scale += atol
            own = [(s, weight[first : first + rows]) for s, weight in weights] if each else weights
            self._scaled_squares(flat, own, part, error, scale, squares, rows)
            if bad is not None:
                squares[bad] = np.inf
            tally.add(first, squares.reshape(rows, -1))
        norms: np.ndarray = np.sqrt(tally.sums() / self._length)
        return norms

    def max_norm(self, y: np.ndarray) -> float:
        """Return max |y| over all entries; inf or nan if one is not finite."""
        flat, worst = y.reshape(-1), 0.0
        for (part,) in _blocks(flat.shape):
            block = flat[part]
            largest = float(np.maximum.reduce(np.abs(block, out=self._term[: block.size])))
            if not math.isfinite(largest):
                worst = largest
                break
            worst = max(worst, largest)
        return worst if self.partition.whole else float(self.partition.largest(np.array([worst]))[0])

    def max_norms(self, y: np.ndarray) -> np.ndarray:
        """Return max |y| of each system (B,); inf or nan for one with an entry that is not finite."""
        flat, worst = y.reshape(-1), np.zeros(self._systems)
        for first, rows, part in self._parts(0):
            own, term = worst[first : first + rows], self._term[: part.stop - part.start]
            np.abs(flat[part], out=term)
            # NumPy reduces the slices of a vector in half the time that the short rows of a matrix take.
            found = np.maximum.reduceat(term, np.arange(0, term.size, term.size // rows)) if term.size else 0.0
            np.maximum(own, found, out=own)
        return self.partition.largest(worst)

    def _increment(self, flat: np.ndarray, weights: list, part: tuple[slice, ...], out: np.ndarray) -> None:
        """Write the sum of weight * flat[s, part] over (s, weight) in `weights` into `out`."""
        if not weights:
            out.fill(0.0)
            return
        self._add_terms(flat, weights, part, out, True)

    def _add_terms(
        self, flat: np.ndarray, weights: list, part: tuple[slice, ...], out: np.ndarray, first: bool
    ) -> None:
        """Add every weight * flat[s, part] to `out` in turn; with `first` the first of them is written instead."""
        term = self._term[: out.size].reshape(out.shape)
        for s, weight in weights:
            # One weight, or one for each row.
            one = weight[part[0]] if isinstance(weight, np.ndarray) else weight
            np.multiply(flat[(s, *part)], one, out=out if first else term)
            if not first:
                out += term
            first = False

    def _scaled_squares(self, flat, weights, part, term, scale, out, rows) -> None:
        """Write (sum of weight * flat[s, part] / scale)^2 into `out`, with the sum in float64.

        A weight is a number, or an array (rows, 1) for rows of equal length.
        """
        out.fill(0.0)
        for s, weight in weights:
            np.multiply(flat[s, part].reshape(rows, -1), weight, out=term.reshape(rows, -1))
            out += term
        out /= scale
        np.square(out, out=out)

    def _parts(self, place: int) -> Iterator[tuple[int, int, slice]]:
        """Yield (first system, number of systems, slice of the flat state) so that each slice is within one block.

        A slice holds many short systems, or a part of a long one; either way a system is summed in an order that
        depends on its own length alone. `place` is the index, in its system, of the first number that this process
        holds.
        """
        length = self._here
        if self._length > BLOCK or not self.partition.whole:
            for system in range(self._systems):
                start, offset = 0, system * length
                while start < length:
                    stop = min(start + BLOCK - (place + start) % BLOCK, length)
                    yield system, 1, slice(offset + start, offset + stop)
                    start = stop
            return
        together = max(1, BLOCK // length)
        for first in range(0, self._systems, together):
            rows = min(together, self._systems - first)
            yield first, rows, slice(first * length, (first + rows) * length)


def _weighted(h: Any, coefs: Sequence[Any], dtype: np.dtype) -> tuple[list[tuple[int, Any]], bool]:
    """Return (s, h * coefs[s]) of the coefficients that are not zero, and whether systems have weights of their own.

    Those are arrays (k, 1) of a state's dtype, to which NumPy rounds single numbers by itself.
    """
    if not (isinstance(h, np.ndarray) or isinstance(coefs[0], np.ndarray)):
        return [(s, h * coef) for s, coef in enumerate(coefs) if coef], False
    # np.any of a number takes 5 us.
    there = (coef.any() if isinstance(coef, np.ndarray) else coef for coef in coefs)
    kept = [(s, h * coef) for s, (coef, some) in enumerate(zip(coefs, there, strict=True)) if some]
    return [(s, weight.astype(dtype)[:, None]) for s, weight in kept], True


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the index of each block of an array, of so many numbers or so many rows."""
    if len(shape) == 1:
        return [(slice(start, start + BLOCK),) for start in range(0, shape[0], BLOCK)]
    rows, columns = max(1, BLOCK // max(1, shape[1])), range(0, shape[1], BLOCK)
    firsts = range(0, shape[0], rows)
    return [(slice(first, first + rows), slice(start, start + BLOCK)) for first in firsts for start in columns]
