"""Where an iteration inside a run starts: from what it found for the last clouds."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..transport.mixing import Window, coefficients
from .memory import Memory

# Clouds that are remembered. A step of dopri5 makes six; three of them do nearly as well as eight.
_CLOUDS = 5


class Forecast:
    """Potentials g (B, n) of the next cloud from those of the last ones, and the window of the last scaling.

    The cloud is fitted as an affine combination of the remembered ones by least squares, and g is the same combination
    of theirs: constant, linear, ... extrapolation along the trajectory, of the order that the tokens' own motion shows.
    Times play no part, so stages at equal times and steps that are tried again need no care.
    """

    def __init__(self, memory: Memory, x: Array) -> None:
        self._memory, self._x = memory, x

    def start(self) -> Array:
        """The potentials foreseen for x; zeros in the first evaluation."""
        clouds, potentials = self._memory.get("clouds"), self._memory.get("potentials")
        if clouds is None or potentials is None:
            return np.zeros(self._x.shape[:2])
        if len(clouds) == 1:
            return potentials[0].copy()
        moves, move = clouds[1:] - clouds[0], self._x - clouds[0]
        gram = np.stack([(a * moves).sum(axis=(2, 3)) for a in moves]).transpose(2, 0, 1)
        right = (moves * move).sum(axis=(2, 3)).T
        start = potentials[0].copy()
        for c, g in zip(coefficients(gram, right).T, potentials[1:], strict=True):
            start += c[:, None] * (g - potentials[0])
        return start

    def window(self) -> Window | None:
        """The window of the last scaling."""
        arrays = [self._memory.get(f"window.{name}") for name in Window._fields]
        return None if any(array is None for array in arrays) else Window(*arrays)  # type: ignore[arg-type]

    def keep(self, g: Array, window: Window | None) -> None:
        """Remembers what x got."""
        for name, array in (("clouds", self._x), ("potentials", g)):
            held = self._memory.get(name)
            older = () if held is None else held[: _CLOUDS - 1]
            self._memory.put(name, np.stack([array, *older]))
        for name, array in ({} if window is None else window._asdict()).items():
            self._memory.put(f"window.{name}", array)
