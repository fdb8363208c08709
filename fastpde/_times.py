"""Times at which functions of time jump, and times next to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

from .errors import InputError, InputTypeError


class Beside(float):
    """A time next to a break point, on the side that is meant: code that rounds times must not round it across.

    Its negative, and sums, differences, products and quotients with it, are of this class, too.
    """

    def __add__(self, other: float) -> float:
        return _beside(float.__add__(self, other))

    def __radd__(self, other: float) -> float:
        return _beside(float.__radd__(self, other))

    def __sub__(self, other: float) -> float:
        return _beside(float.__sub__(self, other))

    def __rsub__(self, other: float) -> float:
        return _beside(float.__rsub__(self, other))

    def __mul__(self, other: float) -> float:
        return _beside(float.__mul__(self, other))

    def __rmul__(self, other: float) -> float:
        return _beside(float.__rmul__(self, other))

    def __truediv__(self, other: float) -> float:
        return _beside(float.__truediv__(self, other))

    def __neg__(self) -> float:
        return Beside(float.__neg__(self))


def _beside(found: float) -> float:
    """Return the result of an operation of floats as `Beside`; NotImplemented leaves it to the other operand."""
    return found if found is NotImplemented else Beside(found)


def break_points(name: str, value: object) -> tuple[float, ...]:
    """Return the times of a sequence, in order. Raises InputError, InputTypeError for what is no finite number."""
    if isinstance(value, str | dict) or not isinstance(value, Iterable):
        raise InputTypeError(name, repr(value), "the times at which a function jumps, a sequence of numbers")
    times = list(value)
    for t in times:
        if isinstance(t, bool) or not isinstance(t, Real):
            raise InputTypeError(name, repr(t), "numbers")
        if not math.isfinite(t):
            raise InputError(name, repr(t), "finite numbers")
    return tuple(sorted(map(float, times)))
