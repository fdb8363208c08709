"""Arguments that are one number, one word or a bool, checked once on the way in; every check returns or raises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

import numpy as np

from .errors import InputError, InputTypeError, closest


def show(value: object) -> str:
    """Return a short text of a value, for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def wrong_type(name: str, value: object, need: str, remedy: str = "") -> InputTypeError:
    """Return the error of a value whose type is named beside it."""
    return InputTypeError(name, f"{show(value)} ({type(value).__name__})", need, remedy)


def real(name: str, value: object, need: str = "a number") -> float:
    """Return a finite float, or raise; text, booleans and arrays are not accepted as numbers."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise wrong_type(name, value, need)
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise InputError(name, show(value), "a finite number")
    return number


def positive(name: str, value: object) -> float:
    """Return a finite float above zero, or raise."""
    number = real(name, value)
    if number <= 0.0:
        raise InputError(name, show(value), "a number > 0")
    return number


def within(name: str, value: object, least: float, most: float) -> float:
    """Return a float from `least` to `most`, or raise."""
    need = f"a number from {least:g} to {most:g}"
    number = real(name, value, need)
    if not least <= number <= most:
        raise InputError(name, show(value), need)
    return number


def below_one(name: str, value: object) -> float:
    """Return a float above zero and below one, a relative accuracy, or raise."""
    number = positive(name, value)
    if number >= 1.0:
        raise InputError(name, show(value), "a number above 0 and below 1")
    return number


def whole(name: str, value: object, least: int = 1, most: float = math.inf) -> int:
    """Return an int from `least` to `most`, or raise; 10.0 is not an int."""
    need = f"a whole number of at least {least}" + (f" and at most {most}" if most < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise wrong_type(name, value, need)
    number = int(value)
    if not least <= number <= most:
        raise InputError(name, show(value), need)
    return number


def flag(name: str, value: object) -> bool:
    """Return a bool, or raise."""
    if not isinstance(value, bool | np.bool_):
        raise wrong_type(name, value, "True or False")
    return bool(value)


def one_of(name: str, value: object, choices: Iterable[str]) -> str:
    """Return a word that is among the choices, or raise an error that lists them."""
    need = f"one of {', '.join(map(repr, choices))}"
    if not isinstance(value, str):
        raise wrong_type(name, value, need)
    if value not in choices:
        raise InputError(name, show(value), need, closest(value, choices))
    return value
