"""What a step is judged by: its scaled error, or, with steps of a fixed size, whether it is finite and how it grows."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpde.step_rules import leaps


class Judge:
    """The judge of the steps of one system, or of each of B systems of a batch, which have arrays (B,) of numbers.

    Args:
        space: the arithmetic, see `fastpde.integrate.space`.
        controller: `PIController` or `FixedStep`.
        batch: whether there are B systems.
    """

    def __init__(self, space: Any, controller: Any, *, batch: bool) -> None:
        self._space, self._controller, self._batch = space, controller, batch
        # The largest entries before and after the last step of a fixed size.
        self._sizes: tuple[Any, Any] | None = None

    def norms(self, stages: np.ndarray, coefs: Any, h: Any, y: np.ndarray, y1: np.ndarray) -> Any:
        """Return the scaled size of h sum_s coefs[s] k_s."""
        asked = stages, coefs, h, y, y1, self._controller.rtol, self._controller.atol
        return self._space.error_norms(*asked) if self._batch else self._space.error_norm(*asked)

    def finite(self, y: np.ndarray, y1: np.ndarray) -> Any:
        """Return 0 where the result y1 of a step from y is finite, else nan; remember the largest entries."""
        before = self._largest(y) if self._sizes is None else self._sizes[1]
        self._sizes = before, self._largest(y1)
        return self._sizes[1] * 0.0

    def leaps(self) -> bool:
        """Return whether the last step of a fixed size was too large for some system to follow."""
        return self._sizes is not None and holds_somewhere(leaps(*self._sizes))

    def count_leaps(self, largest: np.ndarray) -> int:
        """Return how many steps of a fixed size were too large, from the largest entries at their ends (k + 1,)."""
        self._sizes = tuple(largest[-2:].tolist())
        return int(np.count_nonzero(leaps(largest[:-1], largest[1:])))

    def each(self, numbers: Any) -> list[float]:
        """Return the number of every system as one of Python: those of NumPy would widen a float32 state."""
        return list(numbers.tolist()) if self._batch else [numbers]

    def _largest(self, y: np.ndarray) -> Any:
        """Return the largest |entry|; inf or nan where one is not finite."""
        return self._space.max_norms(y) if self._batch else self._space.max_norm(y)


def holds_somewhere(found: Any) -> bool:
    """Return a truth value, or whether one of several is true; `np.any` of one would take 5 us."""
    return bool(found.any() if isinstance(found, np.ndarray) else found)
