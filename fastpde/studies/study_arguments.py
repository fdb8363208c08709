"""The checks of the arguments of studies that others do not have: counts with bounds, lists of different values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastpde as fp
from fastpde._numbers import positive
from fastpde.attention.variants import named
from fastpde.own_code import is_own


def several(name: str, values: Any) -> list[Any]:
    """Return a list of one or more values, all different, or raise InputError or InputTypeError."""
    if isinstance(values, str):
        raise fp.InputTypeError(name, repr(values), "a list")
    try:
        found = list(values)
    except TypeError:
        raise fp.InputTypeError(name, repr(values), "a list") from None
    if not found or len({repr(value) for value in found}) < len(found):
        raise fp.InputError(name, repr(values), "one value or more, each once")
    return found


def increasing(name: str, values: Any) -> list[float]:
    """Return increasing numbers > 0. Raises InputError, InputTypeError."""
    found = [positive(name, value) for value in several(name, values)]
    if sorted(found) != found:
        raise fp.InputError(name, repr(values), "increasing numbers")
    return found


def code_of(names: Sequence[str]) -> dict[str, Any]:
    """Return the parameter "code" of a study, the digests of the user's own variants, if there are some."""
    found = {name: named(name).digest for name in names if is_own(name)}
    return {"code": found} if found else {}
