"""The checks of values in a configuration: each takes the full key and the value; it returns or refuses the value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NoReturn

from fastpde.errors import InputError, closest
from fastpde.own_code import is_own

Check = Callable[[str, object], Any]
_LONGEST = 60  # characters of a wrong value that a message shows


def show(value: object) -> str:
    """Return a value as TOML would write it, shortened; None, which TOML does not have, is a key that is missing."""
    if value is None:
        text = "nothing"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, dict):
        text = f"a table with {', '.join(map(str, value)) or 'no keys'}"
    else:
        try:
            text = str(value)
        except ValueError:  # Python writes no whole numbers of thousands of digits
            text = "a whole number of thousands of digits"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def refuse(name: str, value: object, need: str, remedy: str = "") -> NoReturn:
    """Raise the InputError for a wrong value."""
    raise InputError(name, show(value), need, remedy)


def known(prefix: str, word: str, value: object, words: Iterable[str]) -> None:
    """Raise InputError unless a key, `prefix` + `word` with its value, is one of some words."""
    words = list(words)
    if word not in words:
        raise InputError(prefix + word, show(value), f"one of the keys {', '.join(words)}", closest(word, words))


def integer(minimum: int, maximum: int = 2**53) -> Check:
    """Return the check of a whole number in [minimum, maximum]; 2.0 and true are none.

    Whole numbers up to 2^53 stay exact in a float.
    """
    top = "2^53" if maximum == 2**53 else str(maximum)

    def check(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            refuse(name, value, f"a whole number from {minimum} to {top}")
        return value

    return check


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def number(*, minimum: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> Check:
    """Return the check of a finite number with minimum <= value, above < value < below; whole numbers are accepted."""
    need = "a finite number"
    if minimum > -math.inf:
        need += f" of at least {minimum:g}"
    if above > -math.inf:
        need += f" above {above:g}"
    if below < math.inf:
        need += f" and below {below:g}"

    def check(name: str, value: object) -> float:
        found = _finite(value)
        if found is None or found < minimum or found <= above or found >= below:
            refuse(name, value, need)
        return found

    return check


def boolean(name: str, value: object) -> bool:
    """Check true or false."""
    if not isinstance(value, bool):
        refuse(name, value, "true or false")
    return value


def automatic(name: str, value: object) -> bool | None:
    """Check true, false and "auto"; return None for "auto"."""
    if value == "auto":
        return None
    if not isinstance(value, bool):
        refuse(name, value, 'true, false or "auto"')
    return value


def choice(*words: str) -> Check:
    """Return the check of one of some words."""

    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in words:
            need = ", ".join(f'"{word}"' for word in words)
            refuse(name, value, f"one of {need}", closest(value, words) if isinstance(value, str) else "")
        return value

    return check


def text(name: str, value: object) -> str:
    """Check a string that is not empty and has no NUL (no file has one in its name)."""
    if not isinstance(value, str) or not value or "\0" in value:
        refuse(name, value, "text in quotes")
    return value


def vector(name: str, value: object) -> tuple[float, ...]:
    """Check a list of at least one finite number, and return it as a tuple."""
    if not isinstance(value, list) or not value:
        refuse(name, value, "a list of finite numbers")
    numbers = []
    for i, entry in enumerate(value):
        found = _finite(entry)
        if found is None:
            refuse(f"{name}[{i}]", entry, "a finite number")
        numbers.append(found)
    return tuple(numbers)


def rows(name: str, value: object) -> tuple[tuple[float, ...], ...]:
    """Check a matrix, a list of rows of equally many finite numbers, and return it as a tuple of tuples."""
    if not isinstance(value, list) or not value:
        refuse(name, value, "a list of rows, each a list of finite numbers")
    matrix = tuple(vector(f"{name}[{i}]", row) for i, row in enumerate(value))
    for i, row in enumerate(matrix):
        if len(row) != len(matrix[0]):
            raise InputError(f"{name}[{i}]", f"{len(row)} numbers", f"{len(matrix[0])} numbers, as in row 0")
    return matrix


def times(name: str, value: object) -> tuple[Any, ...]:
    """Check times that rise, or { first, count }, which becomes ("spread", first, count)."""
    if isinstance(value, dict):
        for word in value:
            known(f"{name}.", word, value[word], ("first", "count"))
        for word in ("first", "count"):
            if word not in value:
                raise InputError(f"{name}.{word}", "nothing", "a value")
        return "spread", number(above=0.0)(f"{name}.first", value["first"]), integer(2)(f"{name}.count", value["count"])
    if not isinstance(value, list) or not value:
        refuse(name, value, "a list of times, or { first = 0.01, count = 20 }")
    found = tuple(float(number()(f"{name}[{i}]", entry)) for i, entry in enumerate(value))
    for i, (before, after) in enumerate(pairwise(found)):
        if not before < after:
            refuse(f"{name}[{i + 1}]", after, f"a time after {before:g}")
    return found


def spread(name: str, found: tuple[Any, ...], start: float, end: float) -> tuple[float, ...]:
    """Return the times of the check `times` within an interval. Raises InputError for others."""
    if found[0] == "spread":
        first, count = found[1:]
        length = end - start
        if not first < length:
            refuse(f"{name}.first", first, f"a time below the length {length:g} of the interval")
        return *(start + first * (length / first) ** (i / (count - 1)) for i in range(count - 1)), end
    for i, t in enumerate(found):
        if not start <= t <= end:
            refuse(f"{name}[{i}]", t, f"a time from {start:g} to {end:g}")
    return found


def own_names(name: str, value: object) -> tuple[str, ...] | None:
    """Check a list of names "module:name" of code of the user's own; return None for an empty one."""
    if not isinstance(value, list):
        refuse(name, value, 'a list of names "module:name"')
    for i, entry in enumerate(value):
        if not isinstance(entry, str) or not is_own(entry):
            refuse(f"{name}[{i}]", entry, 'a name "module:name" of your own')
        if entry in value[:i]:
            refuse(f"{name}[{i}]", entry, "each name once")
    return tuple(value) or None
