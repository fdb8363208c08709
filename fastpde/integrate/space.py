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

A state may be the part that one process holds of a larger one (`parallel.partition`): its norms are those of the whole.

Every state that the stepper makes (stage arguments, results, continuous extension) is the result of `combine`: a space
whose `combine` also retracts to a manifold keeps all of them on the manifold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fastpde.parallel.partition import Partition, Undivided

# Elements per block: the handful of blocks that one operation touches stay in the second-level cache.
_BLOCK = 16384


class VectorSpace:
    """NumPy arithmetic on states of one shape and dtype, blockwise and in place.

    Args:
        shape: the shape of a state: (n, d), (B, n, d) or any other. For three axes the first one counts independent
            systems.
        dtype: float64 or float32. The norms accumulate in float64.
        partition: which of all tokens a state (n, d) or (B, n, d) holds; None: all.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type, partition: Partition | None = None) -> None:
        size = math.prod(shape)
        self._systems = shape[0] if len(shape) == 3 else 1
        self._here = size // self._systems if self._systems else 0
        self.partition = Undivided(self._here) if partition is None else partition
        self._width = self._here // self.partition.here if self._here else 1
        self._length = self.partition.n * self._width
        block = max(1, min(size, _BLOCK))
        self._term = np.empty(block, dtype)
        self._scale = np.empty(block, dtype)
        self._squares = np.empty(block, np.float64)

    def combine(self, y: np.ndarray, h: float, coefs: Sequence[float], stages: np.ndarray, out: np.ndarray) -> None:
        """Write y + h sum_s coefs[s] stages[s], summed in the order of s, into `out`."""
        flat, source, target = stages.reshape(len(stages), -1), y.reshape(-1), out.reshape(-1)
        weights = [(s, h * coef) for s, coef in enumerate(coefs) if coef]
        for start in range(0, target.size, _BLOCK):
            stop = min(start + _BLOCK, target.size)
            # The increments are summed before y is added: one rounding at the size of y instead of S.
            self._increment(flat, weights, slice(start, stop), target[start:stop])
            target[start:stop] += source[start:stop]

    def gather(self, total: np.ndarray, weight: float, stage: np.ndarray, first: bool) -> None:
        """Add weight * stage to `total`, or write it there if it is the first of a sum."""
        flat, target = stage.reshape(1, -1), total.reshape(-1)
        for start in range(0, target.size, _BLOCK):
            part = slice(start, min(start + _BLOCK, target.size))
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
        flat = stages.reshape(len(stages), -1)
        old, new = y0.reshape(-1), y1.reshape(-1)
        weights = [(s, h * coef) for s, coef in enumerate(coefs) if coef]
        tally = self.partition.tally(self._systems, self._width, _BLOCK)
        for first, rows, part in self._parts(tally.first):
            size = part.stop - part.start
            error, scale, squares = self._term[:size], self._scale[:size], self._squares[:size]
            np.abs(old[part], out=error)
            np.abs(new[part], out=scale)
            np.maximum(error, scale, out=scale)
            # inf in y would give e / inf = 0: the one way a bad state could pass for a good one.
            if not math.isfinite(np.maximum.reduce(scale)):
                tally.spoil()
                break
            scale *= rtol
            scale += atol
            self._scaled_squares(flat, weights, part, error, scale, squares)
            tally.add(first, squares.reshape(rows, -1))
        worst = float(np.maximum.reduce(tally.sums()))
        return math.sqrt(worst / self._length) if worst >= 0.0 else math.nan

    def max_norm(self, y: np.ndarray) -> float:
        """Return max |y| over all entries; nan if one is nan."""
        flat, worst = y.reshape(-1), 0.0
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            largest = float(np.maximum.reduce(np.abs(block, out=self._term[: block.size])))
            if not math.isfinite(largest):
                worst = largest
                break
            worst = max(worst, largest)
        return float(self.partition.largest(np.array([worst]))[0])

    def _increment(self, flat: np.ndarray, weights: list, part: slice, out: np.ndarray) -> None:
        """Write the sum of weight * flat[s, part] over (s, weight) in `weights` into `out`."""
        if not weights:
            out.fill(0.0)
            return
        self._add_terms(flat, weights, part, out, True)

    def _add_terms(self, flat: np.ndarray, weights: list, part: slice, out: np.ndarray, first: bool) -> None:
        """Add every weight * flat[s, part] to `out` in turn; with `first` the first of them is written instead."""
        term = self._term[: out.size]
        for s, weight in weights:
            np.multiply(flat[s, part], weight, out=out if first else term)
            if not first:
                out += term
            first = False

    def _scaled_squares(self, flat, weights, part, term, scale, out) -> None:
        """Write (sum of weight * flat[s, part] / scale)^2 into `out`, with the sum in float64."""
        out.fill(0.0)
        for s, weight in weights:
            np.multiply(flat[s, part], weight, out=term)
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
        if self._length > _BLOCK or not self.partition.whole:
            for system in range(self._systems):
                start, offset = 0, system * length
                while start < length:
                    stop = min(start + _BLOCK - (place + start) % _BLOCK, length)
                    yield system, 1, slice(offset + start, offset + stop)
                    start = stop
            return
        together = max(1, _BLOCK // length)
        for first in range(0, self._systems, together):
            rows = min(together, self._systems - first)
            yield first, rows, slice(first * length, (first + rows) * length)
