"""Powers of n: those that are fitted to errors, with intervals, and those of theory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
_RESAMPLED = 2000


class Rate(NamedTuple):
    """A fitted power law, error ~ factor n^power; the 95 % interval of the power is power -+ half_width."""

    power: float
    half_width: float
    factor: float

    def __str__(self) -> str:
        return f"{self.power:.3f} +- {self.half_width:.3f}"


def fournier_guillin(p: int, d: int) -> float:
    """Return the power of n in the bound of E W_p from n samples to their law in R^d, p = 1 or 2, without logarithms.

    For W_2 it is that of the root of E W_2^2. It holds for every law with enough moments; many laws do better. Source:
    Theory 8.3; Fournier and Guillin (2015).
    """
    return -min(0.5 / p, 1.0 / d)


def fit_rate(n: Array, draw: Array, error: Array) -> Rate:
    """Fit a line to log(root mean square of the errors of all draws) against log n, for two values of n or more.

    The interval is that of the bootstrap over draws, separately for every n: draws of different n are independent. All
    numbers are nan where errors are, or where there is only one n.
    """
    sizes = np.unique(n)
    squares = [np.square(error[n == size]) for size in sizes]
    if len(sizes) < 2 or not all(np.isfinite(values).all() and values.any() for values in squares):
        return Rate(np.nan, np.nan, np.nan)
    x = np.log(sizes.astype(float))
    centred = x - x.mean()
    stream = np.random.default_rng(0)
    logs = np.array([0.5 * np.log(values.mean()) for values in squares])
    drawn = np.array([
        0.5 * np.log(values[stream.integers(0, len(values), (_RESAMPLED, len(values)))].mean(axis=1))
        for values in squares
    ])  # fmt: skip
    slope = float(centred @ logs / (centred @ centred))
    slopes = centred @ drawn / (centred @ centred)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Rate(slope, float(high - low) / 2.0, float(np.exp(logs.mean() - slope * x.mean())))
