"""What peers share: sums in chunks of targets, and settings as loose as the error that is asked for allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .work import Array, Call, Work

ENTRIES = 2**20  # of the matrix of scores that a chunk of targets makes


@dataclass(frozen=True)
class Tuned:
    """A call, and the setting that it runs with, for tables."""

    run: Call
    setting: str

    def __call__(self) -> Array:
        """Return the result."""
        return self.run()


def chunk(n: int) -> int:
    """Return how many targets of n sources make a matrix of about `ENTRIES`."""
    return max(1, ENTRIES // n)


def in_chunks(x: Array, sums: Callable[[Array], Array]) -> Array:
    """Compute `sums` of the targets x (n, d), a chunk of them at a time."""
    out, size = np.empty_like(x), chunk(len(x))
    for start in range(0, len(x), size):
        out[start : start + size] = sums(x[start : start + size])
    return out


def tuned(work: Work, name: str, settings: Iterable[Any], make: Callable[[Any], Call], patience: float = 20.0) -> Tuned:
    """Return the call of the first setting with the error that is asked for, or else the one with the least error.

    Settings come from the loosest to the tightest; no more are tried once they have taken `patience` seconds.
    """
    best: Tuned | None = None
    least, end = math.inf, time.perf_counter() + patience
    for setting in settings:
        call = make(setting)
        error = work.error(call())
        if best is None or error < least:
            best, least = Tuned(call, f"{name} {setting:g}"), error
        if error <= work.asked or time.perf_counter() > end:
            break
    if best is None:
        raise ValueError(f"no {name} to try")
    return best
