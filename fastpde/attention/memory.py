"""What an attention may keep from one evaluation of a run to the next, to start the next one closer to its answer."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..errors import FieldError

_COUNTER = "counter."


class Memory:
    """Named arrays and counters of one run. `arrays` is all of it: a checkpoint saves it, a restart puts it back.

    The first axis of every array is that of the systems, except of counters. The evaluations of a run come in an order
    that depends on nothing but the run, so what is remembered, and with it the result, is the same to the bit however
    the run is cut or observed.

    Inside a run an evaluation that fails for some systems writes nan for them and says why by `fail`; the solver tries
    a smaller step or ends those systems.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.path: tuple[int, ...] = ()  # the head, and the head in it, that this part belongs to
        self._failures: dict[tuple[int, ...], tuple[Array, FieldError]] = {}

    def head(self, h: int) -> Memory:
        """Return the part that belongs to head h; counters are shared."""
        part = Memory()
        part.arrays, part.path, part._failures = self.arrays, (*self.path, h), self._failures
        return part

    def get(self, name: str) -> Array | None:
        """Return the array of a name, or None."""
        return self.arrays.get(self._name(name))

    def put(self, name: str, array: Array) -> None:
        """Keep `array` itself under a name."""
        self.arrays[self._name(name)] = array

    def history(self, kind: str, systems: int) -> Array:
        """Return the counts of a kind of sum (systems, 2), which backends change in place, see `PairSum.history`."""
        held = self.get(f"checks.{kind}")
        # A copy: what an evaluation changes is no part of a state that was saved before it.
        found = np.zeros((systems, 2)) if held is None else held.copy()
        self.put(f"checks.{kind}", found)
        return found

    def select(self, systems: Array) -> None:
        """Keep some systems only, a mask (B,) or indices."""
        for name, array in self.arrays.items():
            if not name.startswith(_COUNTER):
                self.arrays[name] = array[systems]
        for path, (failed, error) in self._failures.items():
            self._failures[path] = failed[systems], error

    def borrow(self, whole: Memory, which: Array) -> None:
        """Take what `whole` remembers of some systems, at the indices `which`, and its counters."""
        self.arrays.clear()
        for name, array in whole.arrays.items():
            self.arrays[name] = array if name.startswith(_COUNTER) else array[which]
        self._failures.clear()
        for path, (failed, error) in whole._failures.items():
            if failed[which].any():
                self._failures[path] = failed[which], error

    def give_back(self, part: Memory, which: Array, systems: int) -> None:
        """Remember of some of `systems` systems what `part` does; of the others what is remembered stays."""
        for name, array in part.arrays.items():
            if name.startswith(_COUNTER):
                self.arrays[name] = array
                continue
            if name not in self.arrays:
                self.arrays[name] = np.zeros((systems, *array.shape[1:]), array.dtype)
            self.arrays[name][which] = array
        for path in {*self._failures, *part._failures}:
            failed, error = self._failures.get(path, (np.zeros(systems, np.bool_), None))
            some, newer = part._failures.get(path, (np.zeros(len(which), np.bool_), None))
            failed[which] = some
            self._failures.pop(path, None)
            if failed.any() and (cause := newer or error) is not None:
                self._failures[path] = failed, cause

    def fail(self, systems: Array, error: FieldError) -> None:
        """Record that the evaluation failed for `systems`, a mask (B,) that is true somewhere."""
        failed, _ = self._failures.get(self.path, (systems, error))
        self._failures[self.path] = failed | systems, error

    def succeed(self, systems: Array) -> None:
        """Record that the evaluation succeeded for `systems`, a mask (B,); the others stay as they are."""
        if self.path in self._failures:
            failed, error = self._failures.pop(self.path)
            if (failed & ~systems).any():
                self._failures[self.path] = failed & ~systems, error

    def failed(self, systems: int) -> Array:
        """Return for which of `count` systems the last evaluation with finite tokens failed, (B,)."""
        found = np.zeros(systems, np.bool_)
        for failed, _ in self._failures.values():
            found |= failed
        return found

    def failure(self) -> FieldError | None:
        """Return the error of the first head that failed."""
        return next((error for _, error in self._failures.values()), None)

    def add(self, counter: str, value: float) -> None:
        """Add to a counter of the run."""
        self._count(counter, self.counters().get(counter, 0.0) + value)

    def raise_to(self, counter: str, value: float) -> None:
        """Raise a counter of the run to a value, if that is larger."""
        self._count(counter, max(self.counters().get(counter, -np.inf), value))

    def counters(self) -> dict[str, float]:
        """Return the counters of the run, for `sol.stats`."""
        named = ((key.removeprefix(_COUNTER), value) for key, value in self.arrays.items() if key.startswith(_COUNTER))
        return {key: float(value[0]) for key, value in named}

    def _count(self, counter: str, value: float) -> None:
        self.arrays[_COUNTER + counter] = np.array([value])

    def _name(self, name: str) -> str:
        return ".".join([*map(str, self.path), name])
