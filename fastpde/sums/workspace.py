"""Memory that is reused between evaluations, so that nothing large is allocated in a time step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._types import Array

_LINE = 64  # bytes of a cache line: a vector that straddles two lines costs up to 7 %


class Workspace:
    """Named arrays, each as large as it ever had to be.

    Calling it returns an array with the numbers it was left with, at first zeros. It is valid until one of the same
    name and dtype is requested again.
    """

    def __init__(self) -> None:
        self._prefix = ""
        self._held: dict[str, Array] = {}
        self._kept: dict[str, tuple[object, Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        size, key = math.prod(shape), f"{self._prefix}{name}.{np.dtype(dtype).char}"
        held = self._held.get(key)
        if held is None or held.size < size:
            self._held.pop(key, None)  # before the larger one is made, so that both never exist
            bytes_ = size * np.dtype(dtype).itemsize
            # Zeros: kernels compute with lanes that nobody reads, and take many times as long for denormal numbers, as
            # which small integers appear that were there before (grids: twice the time in one process of two).
            raw = np.zeros(bytes_ + _LINE, np.uint8)
            start = -raw.ctypes.data % _LINE
            held = self._held[key] = raw[start : start + bytes_].view(dtype)
        return held[:size].reshape(shape)

    def kept(self, name: str, key: object, make: Callable[[Workspace], Any]) -> Any:
        """Return make(self), or what it was when it was last asked for by this name, if the key is the same."""
        name = f"{self._prefix}{name}"
        before, found = self._kept.get(name, (None, None))
        if before != key:
            found = make(self)
            self._kept[name] = key, found
        return found

    def part(self, name: str) -> Workspace:
        """Return a part of the workspace, whose arrays have names of their own."""
        one = Workspace.__new__(Workspace)
        vars(one).update(vars(self), _prefix=f"{self._prefix}{name}.")
        return one
