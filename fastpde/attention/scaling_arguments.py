"""The checks of the arguments of Sinkhorn attention."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..errors import InputError, InputTypeError


def positive(eps: Array) -> None:
    """Raise InputError unless all numbers are > 0."""
    if not (eps > 0.0).all():
        raise InputError("eps", str(eps.min()), "numbers > 0")


def tolerance(tol: object) -> float:
    """Return a number > 0, or raise InputError or InputTypeError."""
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.floating | np.integer):
        raise InputTypeError("tol", repr(tol), "a number > 0")
    if not 0.0 < tol < np.inf:
        raise InputError("tol", repr(tol), "a number > 0")
    return float(tol)


def count(name: str, value: object, least: int) -> int:
    """Return a whole number of at least `least`, or raise InputError or InputTypeError."""
    need = f"a whole number >= {least}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(name, repr(value), need)
    if value < least:
        raise InputError(name, repr(value), need)
    return int(value)


def odd(n_half: object) -> int | None:
    """Return an odd number of half-iterations, or None. Raises InputError, InputTypeError."""
    if n_half is None:
        return None
    steps = count("n_half", n_half, 1)
    if steps % 2 == 0:
        reason = "After an even number the columns are exact and the rows are not: no weighted average."
        raise InputError("n_half", repr(n_half), "an odd number of half-iterations, or None", reason)
    return steps
