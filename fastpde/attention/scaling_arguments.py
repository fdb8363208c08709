"""The checks of the arguments of Sinkhorn attention."""

from __future__ import annotations

from .._numbers import whole
from .._types import Array
from ..errors import InputError


def all_positive(eps: Array) -> None:
    """Raise InputError unless all numbers are > 0."""
    if not (eps > 0.0).all():
        raise InputError("eps", str(eps.min()), "numbers > 0")


def odd(n_half: object) -> int | None:
    """Return an odd number of half-iterations, or None. Raises InputError, InputTypeError."""
    if n_half is None:
        return None
    steps = whole("n_half", n_half)
    if steps % 2 == 0:
        reason = "After an even number the columns are exact and the rows are not: no weighted average."
        raise InputError("n_half", repr(n_half), "an odd number of half-iterations, or None", reason)
    return steps
