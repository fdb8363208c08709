"""What a pair sum should be, by sums over all pairs in extended precision, and what `Fast` may be off by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastpde.weights import Sigmoid

WIDE = np.longdouble
_BLOCK = 400_000  # pairs at a time
_BEYOND = 9000.0  # e^9000 times any double is beyond the range of doubles, and within that of extended precision
_NOTHING = -60.0  # logits below the largest: all of them together weigh less than 1e-22
# Roundings of a score, in units of its last digit: those of its product, of the bias, of the coordinates that a
# reduction makes of targets and of sources (a rotation of up to six numbers each).
ROUNDINGS = 16.0
# Terms just below half the last digit of a sum are lost one and all; sums are made in parts of at most so many.
_PART = 256


@dataclass(frozen=True)
class Exact:
    """The truth for every target, in extended precision.

    Attributes:
        sums: (m, c) as the pair asks for them.
        logs: (m,) of total weights.
        unit: (m, 1) what errors of the sums are relative to.
        rounding: (m, 1) absolute errors of the sums, (m,) of the logs, that rounding the data would make.
    """

    sums: np.ndarray
    logs: np.ndarray
    unit: np.ndarray
    rounding: np.ndarray
    log_rounding: np.ndarray


def wide(x):
    return np.asarray(x).astype(WIDE)


def added(n: int) -> float:
    """Last digits that a sum of n numbers may be off by."""
    return ROUNDINGS + 0.5 * min(n, _PART) + 0.5 * n / _PART


def exact(pair) -> Exact:
    """The truth for a pair sum of one system."""
    z, y, v = (wide(x[0]) for x in (pair.targets, pair.keys, pair.carried))
    n, m = len(y), len(z)
    w = np.full(n, 1 / WIDE(n)) if pair.masses is None else wide(pair.masses[0])
    bias = np.zeros(n, WIDE) if pair.bias is None else wide(pair.bias[0])
    size = np.abs(z) @ np.abs(y).max(axis=0) + np.abs(bias).max()
    eps, ends = np.finfo(pair.keys.dtype).eps, added(n)
    digits, largest = eps * (ends + ROUNDINGS * size), np.abs(v).max(initial=0.0)
    last = eps * ends * largest
    parts = [slice(i, i + max(1, _BLOCK // n)) for i in range(0, m, max(1, _BLOCK // n))]
    if isinstance(pair.weight, Sigmoid):
        found = [_bounded(z[part], y, v, bias, w, _seen(pair, part, n)) for part in parts]
        sums, masses = (np.concatenate(rows) for rows in zip(*found, strict=True))
        unit = np.full((m, 1), largest * masses.mean())
        flushed = np.finfo(pair.keys.dtype).tiny  # weights below the normal range may count as zero
        return Exact(sums, np.zeros(m), unit, (largest * (digits * masses + flushed))[:, None], digits)
    found = [_exponential(z[part], y, v, bias + np.log(w), _seen(pair, part, n)) for part in parts]
    means, logs = (np.concatenate(rows) for rows in zip(*found, strict=True))
    if pair.masses is not None:  # of them the logs are taken
        digits = digits + 4.0 * eps * np.abs(np.log(w)).max()
    middle = v.mean(axis=0)
    spread = np.maximum(v.max(axis=0) - middle, middle - v.min(axis=0)).max(initial=0.0)
    if pair.normalised:
        return Exact(means, logs, np.full((m, 1), spread), (digits * spread + last)[:, None], digits)
    totals = np.exp(np.clip(logs, -_BEYOND, _BEYOND))[:, None]
    unit = totals * max(spread, largest)
    return Exact(totals * means, logs, unit, unit * digits[:, None], digits)


def _seen(pair, part, n):
    """(rows, n) which sources some targets see; None: all."""
    return None if pair.limits is None else np.arange(n) < np.atleast_2d(pair.limits)[0, part, None]


def _scores(z, y, bias):
    s = np.repeat(bias[None], len(z), axis=0)
    for k in range(z.shape[1]):
        s += z[:, k, None] * y[:, k]
    return s


def _exponential(z, y, v, bias, seen):
    """(means, logs of total weights)."""
    s = _scores(z, y, bias)
    if seen is not None:
        s[~seen] = -np.inf
    top = s.max(axis=1)
    s -= top[:, None]
    p = np.exp(s, out=np.zeros_like(s), where=s > _NOTHING)
    total = p.sum(axis=1)
    return (p @ v) / total[:, None], top + np.log(total)


def _bounded(z, y, v, bias, w, seen):
    """(sums, weights)."""
    s = np.clip(_scores(z, y, bias), -_BEYOND, _BEYOND)
    p = w / (1 + np.exp(-s))
    if seen is not None:
        p[~seen] = 0
    return p @ v, p.sum(axis=1)


def ratio(truth: Exact, out, logs, tol: float) -> float:
    """The largest error of a target over tol and rounding; inf for what is not a number, or infinite and should not."""
    worst = float(of_sums(truth, out, tol).max(initial=0.0))
    return worst if logs is None else max(worst, float(of_logs(truth, logs, tol).max()))


def of_sums(truth: Exact, out, tol: float):
    """The same of each sum, (m, c)."""
    info, allowed = np.finfo(out.dtype), tol * truth.unit + truth.rounding
    finite, size = np.isfinite(out), np.abs(truth.sums)
    error = np.abs(np.where(finite, wide(out), 0) - truth.sums)
    # Below the normal range numbers have an absolute spacing.
    ratios = np.where(finite, _over(error - 4 * info.smallest_subnormal, allowed), np.inf)
    may_leave, must_leave = size + allowed > info.max, size - allowed > info.max  # the range of numbers
    # Of a sum that is smaller than what it may be off by, the sign is not known.
    overflowed = np.isinf(out) & ((np.sign(out) == np.sign(truth.sums)) | (size < allowed))
    return np.where(may_leave & overflowed, 0.0, np.where(must_leave, np.inf, ratios))


def of_logs(truth: Exact, logs, tol: float):
    """The same of each log of a total weight, (m,)."""
    finite = np.isfinite(logs)
    error = np.abs(np.where(finite, wide(logs), 0) - truth.logs)
    return np.where(finite, _over(error, tol + truth.log_rounding), np.inf)


def _over(error, allowed):
    """error / allowed, 0 / 0 = 0."""
    with np.errstate(over="ignore"):
        return np.where(error <= 0, 0, error / np.where(allowed > 0, allowed, np.finfo(WIDE).tiny))
