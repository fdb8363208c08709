"""Times at which functions of time jump, and times next to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

from .errors import InputError, InputTypeError


class Beside(float):
    """A time next to a break point, on the side that is meant: who rounds times must not round this one across."""


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
