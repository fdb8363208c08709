"""The arguments of distances: clouds with weights and Gaussian laws; and the limit of memory for a matrix of costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .._numbers import real, show
from .._types import Array, as_tokens, as_weights
from ..errors import InputError


@runtime_checkable
class Normal(Protocol):
    """A Gaussian law as `fp.Gaussian` is one: N(mean, factor factor^T), with leading axes for batches."""

    mean: Array
    cov: Array
    factor: Array


@dataclass(frozen=True)
class Weighted:
    """The measure sum_i w_i delta_{x_i}: x (n, d) float64, w (n,) or None for 1/n."""

    x: Array
    w: Array | None = None

    @property
    def masses(self) -> Array:
        """The weights (n,), 1/n if there are none."""
        return np.full(len(self.x), 1.0 / len(self.x)) if self.w is None else self.w

    def moved(self, origin: Array, unit: float) -> Weighted:
        """Return the measure of the tokens (x - origin) / unit."""
        return Weighted((self.x - origin) / unit, self.w)


def as_cloud(name: str, x: Any, weights: Any = None) -> Weighted:
    """Check tokens (n, d) and weights (n,), and scale the weights to sum 1.

    Raises InputError, InputTypeError naming the argument.
    """
    tokens = as_tokens(name, x)
    if tokens.ndim != 2:
        need = "one cloud, shape (n, d)"
        raise InputError(name, f"shape {tokens.shape}", need, "Take the systems of a batch one by one.")
    w = as_weights(weights, tokens.shape, f"{name}_weights")
    if w is not None:
        # Weights that are all the same are dropped: cheaper methods apply without weights.
        w = None if np.ptp(w[0]) == 0.0 else w[0] / w[0].sum()
    return Weighted(np.asarray(tokens, dtype=np.float64), w)


def as_power(p: Any) -> float:
    """Return p >= 1 as a float. Raises InputError, InputTypeError."""
    power = real("p", p)
    if power < 1.0:
        raise InputError("p", show(p), "a number >= 1")
    return power


def same_dimension(x: Weighted, y: Weighted) -> None:
    """Check that both clouds are in the same space. Raises InputError."""
    if x.x.shape[1] != y.x.shape[1]:
        raise InputError("y", f"dimension {y.x.shape[1]}", f"dimension {x.x.shape[1]}, as x")


def common_unit(x: Weighted, y: Weighted) -> tuple[Weighted, Weighted, float]:
    """Move both clouds by one vector and divide them by one length; return them and that length.

    So powers of distances neither vanish nor overflow.
    """
    low = np.minimum(x.x.min(axis=0), y.x.min(axis=0))
    high = np.maximum(x.x.max(axis=0), y.x.max(axis=0))
    origin = 0.5 * low + 0.5 * high
    unit = float(np.max(0.5 * high - 0.5 * low)) or 1.0
    return x.moved(origin, unit), y.moved(origin, unit), unit


def refuse_if_large(rows: int, columns: int, bytes_each: int) -> None:
    """Check that a problem of rows x columns costs fits the memory that is free. Raises InputError."""
    need, free = rows * columns * bytes_each, free_memory()
    if need > 0.9 * free:
        raise InputError(
            "x, y",
            f"{rows} and {columns} tokens, whose exact distance takes {need / 2**30:.3g} GiB",
            f"at most 90 % of the {free / 2**30:.3g} GiB that are free",
            'Take method="sliced" or "sinkhorn", or fewer tokens.',
        )


def free_memory() -> int:
    """Return the bytes that can be had without swapping; where the system does not say, all there are."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
