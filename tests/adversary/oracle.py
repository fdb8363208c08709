"""What a pair sum should be, by sums over all pairs in extended precision, and what `Fast` may be off by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastpde.laws import SigmoidLaw

WIDE = np.longdouble
_BLOCK = 400_000  # pairs at a time
_BEYOND = 9000.0  # e^9000 times any double is beyond the range of doubles, and within that of extended precision
_NOTHING = -60.0  # logits below the largest: all of them together weigh less than 1e-22
# Roundings of a score, in units of its last digit: those of its product, of the bias, of the coordinates that a
# reduction makes of targets and of sources (a rotation of up to six numbers each). A direct sum was seen to need half.
_ROUNDINGS = 16.0
_CHUNK = 96  # roundings of a sum of 192 numbers, in order, that may all go the same way; beyond, they walk at random


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


def exact(pair) -> Exact:
    """The truth for a pair sum of one system."""
    z, y, v = (wide(x[0]) for x in (pair.targets, pair.keys, pair.values))
    n, m = len(y), len(z)
    w = np.full(n, 1 / WIDE(n)) if pair.weights is None else wide(pair.weights[0])
    bias = np.zeros(n, WIDE) if pair.bias is None else wide(pair.bias[0])
    size = np.abs(z) @ np.abs(y).max(axis=0) + np.abs(bias).max()
    info = np.finfo(pair.keys.dtype)
    eps, added = info.eps, _ROUNDINGS + min(_CHUNK, n) + np.sqrt(n)
    digits, largest = eps * (added + _ROUNDINGS * size), np.abs(v).max(initial=0.0)
    last = eps * added * largest
    parts = [slice(i, i + max(1, _BLOCK // n)) for i in range(0, m, max(1, _BLOCK // n))]
    if isinstance(pair.law, SigmoidLaw):
        found = [_bounded(z[part], y, v, bias, w, _seen(pair, part, n)) for part in parts]
        sums, masses = (np.concatenate(rows) for rows in zip(*found, strict=True))
        unit = np.full((m, 1), largest * masses.mean())
        return Exact(sums, np.zeros(m), unit, (largest * (digits * masses + info.tiny))[:, None], digits)
    found = [_exponential(z[part], y, v, bias + np.log(w), _seen(pair, part, n)) for part in parts]
    means, logs = (np.concatenate(rows) for rows in zip(*found, strict=True))
    if pair.weights is not None:  # of them the logs are taken
        digits = digits + eps * np.abs(np.log(w)).max()
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


def ratio(pair, truth: Exact, out, logs, tol: float) -> float:
    """The largest error of a target over tol and rounding; inf for what is not a number, or infinite and should not."""
    info = np.finfo(out.dtype)
    allowed = tol * truth.unit + truth.rounding
    error = np.abs(np.where(np.isfinite(out), wide(out), 0) - truth.sums)
    beyond = np.abs(truth.sums) + allowed > info.max  # such a sum may leave the range of numbers
    certainly = np.abs(truth.sums) - allowed > info.max
    with np.errstate(invalid="ignore"):
        # Of a sum that is smaller than what it may be off by, the sign is not known.
        overflowed = np.isinf(out) & ((np.sign(out) == np.sign(truth.sums)) | (np.abs(truth.sums) < allowed))
        # Below the normal range numbers have an absolute spacing.
        ratios = _over(error - 4 * info.smallest_subnormal, allowed)
    ratios = np.where(beyond & overflowed, 0.0, np.where(certainly | ~np.isfinite(out), np.inf, ratios))
    worst = float(ratios.max(initial=0.0))
    if logs is not None:
        with np.errstate(invalid="ignore"):
            off = _over(np.abs(wide(logs) - truth.logs), tol + truth.log_rounding)
        worst = max(worst, float(np.where(np.isfinite(logs), off, np.inf).max()))
    return worst


def _over(error, allowed):
    """error / allowed, 0 / 0 = 0."""
    return np.where(error <= 0, 0, error / np.where(allowed > 0, allowed, np.finfo(WIDE).tiny))
