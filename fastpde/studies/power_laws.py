"""Powers of n: those that are fitted to errors, with intervals, and those of theory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
_RESAMPLED = 2000
_FEWEST = 8  # draws in all, from which on a control is used


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


def fit_rate(n: Array, draw: Array, error: Array, control: Array | None = None, expected: Array | None = None) -> Rate:
    """Fit a line to log(root mean square of the errors of all draws) against log n, for two values of n or more.

    The interval is that of the bootstrap over draws, separately for every n: draws of different n are independent. All
    numbers are nan where errors are, or where there is only one n.

    control (m,) is another error of the same draws, whose mean squares are known to be `expected` (m,): mean squares of
    errors are multiplied by (expected / mean square of the control)^gamma, gamma the slope by which squares of errors
    follow those of the control. So what both have in common is no noise. With less than 8 draws in all it is not used.
    """
    sizes = np.unique(n)
    squares = [np.square(error[n == size]) for size in sizes]
    if len(sizes) < 2 or not all(np.isfinite(values).all() and values.any() for values in squares):
        return Rate(np.nan, np.nan, np.nan)
    x = np.log(sizes.astype(float))
    centred = x - x.mean()
    stream = np.random.default_rng(0)
    chosen = [stream.integers(0, len(values), (_RESAMPLED, len(values))) for values in squares]
    logs = np.array([0.5 * np.log(values.mean()) for values in squares])
    drawn = np.array([0.5 * np.log(v[rows].mean(axis=1)) for v, rows in zip(squares, chosen, strict=True)])
    if control is not None and expected is not None and len(n) >= _FEWEST:
        others = [np.square(control[n == size]) for size in sizes]
        gamma = _slope(squares, others)
        known = 0.5 * gamma * np.log([expected[n == size][0] for size in sizes])
        logs += known - 0.5 * gamma * np.log([v.mean() for v in others])
        again = np.array([np.log(v[rows].mean(axis=1)) for v, rows in zip(others, chosen, strict=True)])
        drawn += known[:, None] - 0.5 * gamma * again
    slope = float(centred @ logs / (centred @ centred))
    slopes = centred @ drawn / (centred @ centred)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Rate(slope, float(high - low) / 2.0, float(np.exp(logs.mean() - slope * x.mean())))


def _slope(squares: list[Array], others: list[Array]) -> float:
    """Return by how much squares change with those of a control, both relative to their means at each n."""
    y, z = (np.concatenate([values / values.mean() - 1.0 for values in both]) for both in (squares, others))
    return float(y @ z / (z @ z))
