"""The velocity of Gaussian laws in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.composite import kinds


class LawField(ABC):
    """A field f(t, y, out) of Gaussian laws under an attention; a state has a mean and the columns of a factor L."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention

    @property
    def breaks(self) -> tuple[float, ...]:
        """The times at which the field jumps."""
        return self.attention.breaks

    @property
    def settings(self) -> dict[str, str]:
        """The classes of which the attention is made, "Masked, Linear"."""
        return {"attention": ", ".join(kinds(self.attention))}

    @abstractmethod
    def __call__(self, t: float, y: Array, out: Array) -> None:
        """Write f(t, y) into `out`."""

    def slope(self, t: float, y: Array) -> Array:
        """Return f(t, y), a new array."""
        out = np.empty_like(y)
        self(t, y, out)
        return out


class Field(LawField):
    """The field of states (..., d, 1 + r), the mean and the columns of L: y' = M y + [c, 0] (Theory 2)."""

    def __call__(self, t: float, y: Array, out: Array) -> None:
        M, c = self.attention._closure(y[..., 0], y[..., 1:], t)
        np.matmul(M, y, out=out)
        out[..., 0] += c
