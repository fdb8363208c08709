"""The sample by which a sum in O(n) is checked: which targets, and how large an error of values is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .._types import Array
from ..kernels import reduce
from ..parallel.partition import Partition
from .direct import Direct
from .pair_sum import PairSum
from .reduction import extremes

_PART = 2**14  # targets that are searched at a time: their temporary arrays stay in the second-level cache
_SOURCES = 2**15  # sources that are summed at a time: they stay in the second-level cache


def probes(z: Array, random: int, extreme: int, seed: int = 0) -> Array:
    """Return the indices of the targets to check, for z (r, m).

    They are some at random, those in corners of their box, and those farthest from its centre.
    """
    m = z.shape[1]
    some = np.random.default_rng([m, seed]).integers(0, m, random)
    if len(z) == 0 or m <= 3 * extreme:
        return np.unique(some)
    low, high = z.min(axis=1).astype(np.float64), z.max(axis=1).astype(np.float64)
    middle, half = (0.5 * (low + high))[:, None], np.maximum((high - low) / 2, 1e-300)[:, None]
    # Part by part: temporary arrays for all targets at once would need a lot of memory.
    found = [(np.empty(0), np.empty(0, np.int64))] * 2
    for start in range(0, m, _PART):
        away = np.abs(z[:, start : start + _PART] - middle)
        for i, sizes in enumerate(((away / half).sum(axis=0), np.square(away).sum(axis=0))):
            most, places = found[i]
            new = np.flatnonzero(sizes > most.min()) if len(most) == extreme else np.arange(len(sizes))
            most, places = np.concatenate([most, sizes[new]]), np.concatenate([places, start + new])
            kept = _largest(most, extreme)
            found[i] = most[kept], places[kept]
    return np.unique(np.concatenate([some, *(places for _, places in found)]))


def _largest(sizes: Array, count: int) -> Array:
    """Return the places of the `count` largest numbers."""
    return np.argpartition(sizes, -count)[-count:] if count < len(sizes) else np.arange(len(sizes))


def few_directly(pair: PairSum) -> tuple[Array, Array]:
    """Return the direct sums (m, c) of a few targets of one system, and the logs (m,) of their total weights.

    Weights are exponential. Sources are summed part by part: new memory for all of them would take longer than sums.
    """
    n, m, c = pair.keys.shape[1], pair.targets.shape[1], pair.width
    direct = Direct()  # memory of its own, not to be kept
    starts = range(0, n, _SOURCES) if pair.limits is None else [0]
    if len(starts) == 1:
        out, logs = np.empty((1, m, c), pair.keys.dtype), np.empty((1, m))
        direct.attend(pair, out, logs)
        return out[0], logs[0]
    means, logs = np.empty((len(starts), m, c)), np.empty((len(starts), m))
    for i, start in enumerate(starts):
        part = _sources(pair, slice(start, start + _SOURCES))
        out = np.empty((1, m, c), pair.keys.dtype)
        direct.attend(part, out, logs[i : i + 1])
        means[i] = out[0]
        if pair.masses is None:
            logs[i] += math.log(part.keys.shape[1] / n)
    top = logs.max(axis=0)
    each = np.exp(logs - top)
    total = each.sum(axis=0)
    means[each == 0.0] = 0.0  # where a part has no weight at all they are no numbers
    means, logs = (means * each[:, :, None]).sum(axis=0) / total[:, None], top + np.log(total)
    if not pair.normalised:
        reduce.lift(means, logs)
    with np.errstate(over="ignore"):
        return means.astype(pair.keys.dtype), logs


def _sources(pair: PairSum, part: slice) -> PairSum:
    """Return the averages over a part of the sources of one system."""

    def cut(array: Array | None) -> Array | None:
        return None if array is None else array[:, part]

    return replace(
        pair, normalised=True, keys=pair.keys[:, part], values=cut(pair.values), bias=cut(pair.bias),
        masses=cut(pair.masses), history=None,
    )  # fmt: skip


def error_of_values(
    values: Array, exact: Array, found: Array, logs: Array | None, partition: Partition
) -> tuple[float, float]:
    """Return the largest error of sums of values (n, c), and the largest |value|, both in units of their spread.

    logs: of the total weights, if the sums are not divided by them. What is beyond the range of numbers must be so in
    both `exact` and `found`.
    """
    mean, (low, high) = Direct().centre(values[None], partition)[0], extremes(values, partition)
    most = float(np.maximum(np.abs(low), np.abs(high)).max())
    # Values that are equal, but for rounding, have no spread.
    spread = max(float(np.maximum(high - mean, mean - low).max()), float(np.finfo(values.dtype).eps) * most, 1e-300)
    size = most / spread
    with np.errstate(all="ignore"):
        error = np.where(exact == found, 0.0, np.abs(exact - found) / spread)  # two infinities are equal
        if logs is not None:
            error *= np.exp(-0.5 * logs)[:, None] / max(1.0, size)
            error *= np.exp(-0.5 * logs)[:, None]
    return float(np.max(error, initial=0.0)), size
