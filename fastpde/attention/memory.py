"""What an attention may keep from one evaluation of a run to the next, to start the next one closer to its answer."""

from __future__ import annotations

import numpy as np

from .._types import Array

_COUNTER = "counter."


class Memory:
    """Named arrays and counters of one run. `arrays` is all of it: a checkpoint saves it, a restart puts it back.

    The evaluations of a run come in an order that depends on nothing but the run, so what is remembered, and with it
    the result, is the same to the bit however the run is cut or observed.
    """

    def __init__(self, arrays: dict[str, Array] | None = None, prefix: str = "") -> None:
        self.arrays: dict[str, Array] = {} if arrays is None else arrays
        self._prefix = prefix

    def head(self, h: int) -> Memory:
        """The part that belongs to head h; counters are shared."""
        return Memory(self.arrays, f"{self._prefix}{h}.")

    def get(self, name: str) -> Array | None:
        """The array of that name, or None."""
        return self.arrays.get(self._prefix + name)

    def put(self, name: str, array: Array) -> None:
        """Keeps `array` itself under that name."""
        self.arrays[self._prefix + name] = array

    def add(self, counter: str, value: float) -> None:
        """Adds to a counter of the run."""
        self._count(counter, self.counters().get(counter, 0.0) + value)

    def raise_to(self, counter: str, value: float) -> None:
        """Makes a counter of the run the largest value seen."""
        self._count(counter, max(self.counters().get(counter, -np.inf), value))

    def counters(self) -> dict[str, float]:
        """The counters of the run, for `sol.stats`."""
        named = ((key.removeprefix(_COUNTER), value) for key, value in self.arrays.items() if key.startswith(_COUNTER))
        return {key: float(value[0]) for key, value in named}

    def _count(self, counter: str, value: float) -> None:
        self.arrays[_COUNTER + counter] = np.array([value])
