"""One Runge-Kutta step of one small system, by the rules that `step_rules` has for every stepper.

Tokens are rows of lanes as in `systems`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import step_rules
from .._jit import jit
from ..parallel import pairwise
from ..parallel.partition import BLOCK
from ..simd.row_panels import largest
from ..step_rules import NOT_FINITE, RUNNING, STEP_TOO_SMALL

# What is counted of a run: columns of `Runs.counts`.
COUNTS = STATUS, PHASE, FRESH, ACCEPTED, REJECTED, RETRIES, EVALUATIONS, RECORDED, LEAPS = range(9)
# The numbers of a run: time, proposed step, error of the last accepted step, its start and size, end and size of the
# step that is tried, the largest entry (of steps of fixed size; nan before the first). Columns of `Runs.numbers`.
NUMBERS = T, H, ERROR, FROM, SIZE, AIM, AIM_SIZE, LARGEST = range(8)


class Method(NamedTuple):
    """A Runge-Kutta method by its tableau of S stages, as in `fastpde.integrate.tableau`."""

    a: np.ndarray  # (S, S)
    b_error: np.ndarray  # (S,) or (0,)
    dense: np.ndarray  # (S, degree)
    adaptive: bool
    dense_needs_last: bool


class Control(NamedTuple):
    """The time span, and the step sizes of a method."""

    start: float
    end: float
    direction: float
    step: float  # fixed steps: signed size
    count: int  # fixed steps: how many
    last: float  # fixed steps: signed size of the last
    rule: step_rules.PIRule  # not read for fixed steps
    max_steps: int


class Workspace(NamedTuple):
    """Workspace of the steps, with one row per thread."""

    stages: np.ndarray  # (threads, S, rows * lanes)
    states: np.ndarray  # (threads, 3, d * lanes) the state, the one that is tried or the one before, and one in between
    squares: np.ndarray  # (threads, lanes) working precision
    wide: np.ndarray  # (threads, lanes) float64
    coefficients: np.ndarray  # (threads, S + 2) working precision
    weights: np.ndarray  # (threads, S) float64
    found: np.ndarray  # (threads, E) times of the events of one step
    errors: np.ndarray  # (threads, n * d) float64: squared errors of the entries of tokens
    sums: np.ndarray  # (threads, q) float64: of the leaves of `pairwise.schedule`, of which the rest is
    leaves: np.ndarray  # (q + 1,)
    merges: np.ndarray  # (q - 1, 2)


def allocate(threads: int, shape, method: Method, events: int, dtype, workspace) -> Workspace:
    """Allocate the workspace of `threads` threads; `workspace(name, shape, dtype)` returns each array."""
    stages, lanes, size = len(method.a), shape.lanes, shape.n * shape.d
    leaves, merges = pairwise.schedule(size, BLOCK)
    return Workspace(
        workspace("stages", (threads, stages, shape.rows * lanes), dtype),
        workspace("states", (threads, 3, shape.d * lanes), dtype),
        workspace("step_squares", (threads, lanes), dtype),
        workspace("step_wide", (threads, lanes), np.float64),
        workspace("coefficients", (threads, stages + 2), dtype),
        workspace("dense_weights", (threads, stages), np.float64),
        workspace("found", (threads, events), np.float64),
        workspace("errors", (threads, size), np.float64),
        workspace("sums", (threads, len(leaves) - 1), np.float64),
        leaves,
        merges,
    )


_smallest_step, _factor, _shrink, _remember, _aim, _is_hopeless, _leaps = (
    jit(inline=True)(rule)
    for rule in (
        step_rules.smallest_step, step_rules.factor, step_rules.shrink, step_rules.remember, step_rules.target,
        step_rules.is_hopeless, step_rules.leaps,
    )
)  # fmt: skip


@jit(inline=True)
def copy(source, target):
    """Copy `source` into `target`, entry by entry: an assignment of arrays would also compile its error messages."""
    for i in range(source.shape[0]):
        target[i] = source[i]


@jit(inline=True)
def _target(control, adaptive, t, accepted, h):
    """Return the time at which the next step ends, and its size."""
    if not adaptive:
        if accepted + 1 < control.count:
            return control.start + (accepted + 1) * control.step, control.step
        return control.end, control.last
    return _aim(control.rule, t, h, control.end)


@jit(borrowed=True)
def combine(shape, y, h, coefs, local, out):
    """Write y + h sum_s coefs[s] stages[s] into `out`; on the sphere, every token is divided by its norm."""
    stages, squares, coefficients = local[0], local[2], local[4]
    lanes, size, started = shape.lanes, shape.d * shape.lanes, False
    target, source = out[:size], y[:size]
    for s in range(coefs.shape[0]):
        if coefs[s] == 0.0:
            continue
        coefficients[s] = h * coefs[s]  # rounded to the working precision
        c, stage = coefficients[s], stages[s, :size]
        if started:
            for i in range(size):
                target[i] += c * stage[i]
        else:
            for i in range(size):
                target[i] = c * stage[i]
        started = True
    if not started:
        copy(source, target)
        return
    for i in range(size):
        target[i] += source[i]
    if shape.sphere:
        squares[:] = 0.0
        for r in range(shape.d):
            row = target[r * lanes : (r + 1) * lanes]
            for i in range(lanes):
                squares[i] += row[i] * row[i]
        for i in range(lanes):
            # x / inf = 0 would pass for a good token.
            squares[i] = 1.0 / math.sqrt(squares[i]) if squares[i] < math.inf else math.nan
        for r in range(shape.d):
            row = target[r * lanes : (r + 1) * lanes]
            for i in range(lanes):
                row[i] *= squares[i]


@jit(borrowed=True)
def _error_norm(shape, control, coefs, h, y0, y1, local):
    """Return the root mean square of h sum_s coefs[s] stages[s] / (atol + rtol max(|y0|, |y1|)).

    The result is inf or nan if an entry is not finite. Every operation is that of `VectorSpace.error_norms`, in the
    same precision and order, so that a system has the same bits wherever it is moved.
    """
    stages, wide, coefficients, errors = local[0], local[3], local[4], local[7]
    count, n = coefs.shape[0], shape.n
    for s in range(count):
        coefficients[s] = h * coefs[s]  # rounded to the working precision, as the next two
    coefficients[count], coefficients[count + 1] = control.rule.rtol, control.rule.atol
    rtol, atol = coefficients[count], coefficients[count + 1]
    for r in range(shape.d):
        first, last = r * shape.lanes, r * shape.lanes + n
        wide[:n] = 0.0
        for s in range(count):
            if coefs[s] != 0.0:
                c, row = coefficients[s], stages[s, first:last]
                for i in range(n):
                    wide[i] += float(c * row[i])
        old, new = y0[first:last], y1[first:last]
        for i in range(n):
            scale = max(abs(old[i]), abs(new[i]))
            if not (scale < math.inf):
                return math.inf
            error = wide[i] / float(scale * rtol + atol)
            errors[i * shape.d + r] = error * error
    return math.sqrt(_sum_as_numpy(errors, local[8], local[9], local[10]) / shape.entries)


@jit(borrowed=True)
def _sum_as_numpy(values, sums, leaves, merges):
    """Return the sum of values by `pairwise.schedule`: that of NumPy, to the bit."""
    for leaf in range(sums.shape[0]):
        first, last = leaves[leaf], leaves[leaf + 1]
        total, rest = 0.0, first
        if last - first >= 8:
            s0, s1, s2, s3 = values[first], values[first + 1], values[first + 2], values[first + 3]
            s4, s5, s6, s7 = values[first + 4], values[first + 5], values[first + 6], values[first + 7]
            rest = first + 8
            while rest + 8 <= last:
                s0 += values[rest]
                s1 += values[rest + 1]
                s2 += values[rest + 2]
                s3 += values[rest + 3]
                s4 += values[rest + 4]
                s5 += values[rest + 5]
                s6 += values[rest + 6]
                s7 += values[rest + 7]
                rest += 8
            total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
        for place in range(rest, last):
            total += values[place]
        sums[leaf] = total
    for k in range(merges.shape[0]):
        sums[merges[k, 0]] += sums[merges[k, 1]]
    return sums[0]


@jit(inline=True)
def all_finite(row):
    # 0 times an entry that is not finite is nan, and so is the sum; 0 times a finite entry is 0.
    total = 0.0
    for i in range(row.shape[0]):
        total += row[i] * 0.0
    return total == 0.0


@jit(borrowed=True)
def largest_entry(shape, x, largest_of):
    """Return the largest |entry| of the finite state x, in float64; `largest_of` (lanes,) is workspace."""
    largest_of[:] = 0.0
    for r in range(shape.d):
        row = x[r * shape.lanes : (r + 1) * shape.lanes]
        for i in range(shape.lanes):
            largest_of[i] = max(largest_of[i], abs(float(row[i])))
    return float(largest(largest_of))


@jit(borrowed=True)
def between(shape, method, theta, h, before, local, out):
    """Write the continuous extension of the step of size h from `before`, at the fraction theta of it, into `out`."""
    weights = local[5]
    for s in range(weights.shape[0]):
        weight = 0.0
        for power in range(method.dense.shape[1]):
            weight = (weight + method.dense[s, method.dense.shape[1] - 1 - power]) * theta
        weights[s] = weight
    combine(shape, before, h, weights, local, out)


@jit(borrowed=True)
def begin_step(shape, method, control, state, counts, local):
    """Set the end and the size of the next step; return RUNNING, or the status that says why there is none."""
    stages, size = local[0], local[1][0].shape[0]
    copy(stages[stages.shape[0] - 1, :size], stages[0])
    t, h = _target(control, method.adaptive, state[T], counts[ACCEPTED], state[H])
    if method.adaptive and t != control.end and abs(state[H]) < _smallest_step(state[T]):
        return STEP_TOO_SMALL
    state[AIM], state[AIM_SIZE] = t, h
    return RUNNING


@jit(borrowed=True)
def end_step(shape, method, control, state, counts, local):
    """Accept the state that was tried, or shrink the step; return a status.

    An accepted state changes places with the old one.
    """
    stages, (y, trial) = local[0], (local[1][0], local[1][1])
    t, h, error = state[AIM], state[AIM_SIZE], 0.0
    if method.adaptive:
        error = _error_norm(shape, control, method.b_error, h, y, trial, local)
    elif all_finite(trial):
        before = state[LARGEST]
        if not (before >= 0.0):
            before = largest_entry(shape, y, local[3])
        state[LARGEST] = largest_entry(shape, trial, local[3])
        if _leaps(before, state[LARGEST]):
            counts[LEAPS] += 1
    else:
        error = math.nan
    if error <= 1.0:  # False for nan
        if method.adaptive:
            state[H] = h * _factor(control.rule, error, state[ERROR], counts[RETRIES])
            state[ERROR] = _remember(control.rule, error)
        state[FROM], state[SIZE], state[T] = state[T], h, t
        for i in range(y.shape[0]):
            y[i], trial[i] = trial[i], y[i]
        counts[FRESH] = 1 if method.adaptive else 0
        counts[ACCEPTED] += 1
        counts[RETRIES] = 0
        return RUNNING
    if not method.adaptive:
        return NOT_FINITE
    # The last stage held the velocity of the rejected state; the next attempt begins with that of the old one.
    copy(stages[0][: y.shape[0]], stages[stages.shape[0] - 1])
    state[H] = h * _shrink(control.rule, error)
    counts[REJECTED] += 1
    counts[RETRIES] += 1
    if not _is_hopeless(state[H], _smallest_step(state[T]), counts[RETRIES]):
        return RUNNING
    return STEP_TOO_SMALL if math.isfinite(error) else NOT_FINITE
