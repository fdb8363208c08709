"""The statistics of paired times: how much slower, how sure, when to stop, and what may be said of many cases at once.

Two processes are timed in turn, within windows so short that a change of the machine's speed meets both; the logarithm
of the ratio of a window is one number. Their trimmed mean does not follow the windows in which something else was at
work, and its interval comes from the bootstrap, which knows no distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import trim_mean

TRIMMED = 0.2  # of the windows, at each end
LEAST, MOST = 12, 60  # windows
_RESAMPLES = 10_000
_LEVEL = 0.99  # of the interval
ALPHA = 0.01  # chance that one of all cases is called slower when none is

SLOWER, FASTER, SAME, UNDECIDED = "slower", "faster", "no slower", "undecided"


@dataclass(frozen=True)
class Estimate:
    """The relative slowdown by a sample of windows: 0.1 is ten per cent slower.

    Attributes:
        slowdown: the trimmed mean.
        low, high: the ends of its interval.
        windows: how many there were.
        chance_slower, chance_faster: the chance of such a sample if the slowdown was the threshold, or minus it.
    """

    slowdown: float
    low: float
    high: float
    windows: int
    chance_slower: float
    chance_faster: float

    @property
    def width(self) -> float:
        """The width of the interval."""
        return self.high - self.low


def estimate(logs: Sequence[float], threshold: float) -> Estimate:
    """Estimate the slowdown from the logarithms of the ratios of some windows, at least three; the same for the same.

    Source: Efron, Tibshirani, An Introduction to the Bootstrap (1993), 13 and 16.4.
    """
    sample = np.asarray(logs)
    picks = np.random.default_rng(0).integers(0, len(sample), (_RESAMPLES, len(sample)))
    means = trim_mean(sample[picks], TRIMMED, axis=1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    limit = math.log1p(threshold)
    return Estimate(
        math.expm1(trim_mean(sample, TRIMMED)),
        math.expm1(low),
        math.expm1(high),
        len(sample),
        (1 + np.count_nonzero(means <= limit)) / (1 + _RESAMPLES),
        (1 + np.count_nonzero(means >= -limit)) / (1 + _RESAMPLES),
    )


def is_enough(found: Estimate, threshold: float) -> bool:
    """Return whether more windows would not help: the interval is narrower than the threshold, or there are `MOST`."""
    return found.windows >= MOST or (found.windows >= LEAST and found.width < threshold)


def verdicts(found: Mapping[str, Estimate], thresholds: Mapping[str, float]) -> dict[str, str]:
    """Return what may be said of each case, with a chance of `ALPHA` of one false "slower" among all.

    "slower" and "faster": by more than the threshold, certain after Holm's correction for the number of cases.
    "no slower": the whole interval is below the threshold. All else is "undecided", wide intervals as well as a
    slowdown near the threshold: that is never a pass. Source: Holm (1979), Scand. J. Statist. 6, 65-70.
    """
    slower = _rejected({name: one.chance_slower for name, one in found.items()})
    faster = _rejected({name: one.chance_faster for name, one in found.items()})
    said = {}
    for name, one in found.items():
        if name in slower:
            said[name] = SLOWER
        elif name in faster:
            said[name] = FASTER
        else:
            said[name] = SAME if one.high < thresholds[name] else UNDECIDED
    return said


def _rejected(chances: Mapping[str, float]) -> set[str]:
    """Return the hypotheses that Holm's procedure rejects."""
    gone: set[str] = set()
    for name in sorted(chances, key=chances.__getitem__):
        if chances[name] > ALPHA / (len(chances) - len(gone)):
            break
        gone.add(name)
    return gone
