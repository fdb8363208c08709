"""Random Gaussian laws: their random streams, their attention, and their limits, found in blocks with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastpde as fp
from fastpde.attention.variants import named
from fastpde.ensemble import reporting
from fastpde.errors import closest
from fastpde.integrate.reporting import check_progress
from fastpde.own_code import is_own

Array = np.ndarray[Any, Any]
_BLOCK = 32  # laws between two reports of progress


def draw(seed: int, dimension: int, count: int, *shapes: tuple[int, int]) -> list[Array]:
    """Return independent N(0, 1) matrices (count, *shape), one array per shape.

    Draw b comes from `np.random.default_rng([seed, dimension, b])` alone, so that fewer draws are the first of more.
    """
    found: list[list[Array]] = []
    for b in range(count):
        stream = np.random.default_rng([seed, dimension, b])
        found.append([stream.standard_normal(shape) for shape in shapes])
    return [np.array(matrices) for matrices in zip(*found, strict=True)]


def code_of(names: Sequence[str]) -> dict[str, Any]:
    """Return the parameter "code" of a study, the digests of the user's own variants, if there are some."""
    found = {name: named(name).digest for name in names if is_own(name)}
    return {"code": found} if found else {}


def square(G: Array) -> Array:
    """Return G G^T (B, d, d) of matrices G (B, d, d)."""
    return np.asarray(G @ np.swapaxes(G, -1, -2))


def fit(attention: Callable[[Any], fp.Attention], starts: Array, report: Callable[[int], Any]) -> dict[str, Array]:
    """Return the fields of `fp.GaussianLimit`, (B, ...) each, of centred laws with covariances starts (B, d, d).

    attention(rows) returns the attention of the laws in a slice `rows`. Limits are found by integration, never from
    closed forms: a study that used the answer of a theorem could not test it. report(done) is called after every block
    of laws.
    """
    found: dict[str, list[Array]] = {}
    for first in range(0, len(starts), _BLOCK):
        rows = slice(first, first + _BLOCK)
        limit = fp.limit(attention(rows), fp.Gaussian(0.0, starts[rows]), closed_forms=False)
        for name, values in vars(limit).items():
            found.setdefault(name, []).append(np.asarray(values))
        report(min(first + _BLOCK, len(starts)))
    columns = {name: np.concatenate(blocks) for name, blocks in found.items()}
    return columns | {"outcome": np.array([outcome.value for outcome in columns["outcome"]])}


@contextmanager
def told(progress: Any, total: int) -> Iterator[Callable[[int], None]]:
    """Yield report(done), which shows a bar, calls progress(done, stats), or does nothing. Raises InputTypeError."""
    with reporting(check_progress(progress), total) as report:
        yield report


def whole(name: str, value: Any, least: int, most: int = 2**53) -> int:
    """Return a whole number from `least` to `most`, or raise InputError or InputTypeError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise fp.InputTypeError(name, repr(value), "a whole number")
    if not least <= value <= most:
        raise fp.InputError(name, repr(value), f"at least {least}" + (f" and at most {most}" if most < 2**53 else ""))
    return int(value)


def one_of(name: str, value: Any, words: Any) -> str:
    """Return a word that is among `words`, or raise InputError."""
    if not isinstance(value, str) or value not in words:
        need = " or ".join(repr(word) for word in words)
        raise fp.InputError(name, repr(value), need, closest(value, words) if isinstance(value, str) else "")
    return value


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


def positive(name: str, value: Any) -> float:
    """Return a finite number > 0, or raise InputError or InputTypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise fp.InputTypeError(name, repr(value), "a number")
    if not (np.isfinite(value) and value > 0):
        raise fp.InputError(name, repr(value), "a finite number > 0")
    return float(value)
