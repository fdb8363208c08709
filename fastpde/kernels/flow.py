"""Many small systems moving in time, each with a step, events and an end of its own: one thread owns a system.

`_drive` is the loop of `fastpde.integrate` (integrator, stepper, tracker) turned inside out: it goes on until it needs
a velocity, returns which one, and is called again with it. So the field is compiled once, in one place, and the loop
without it. All that a system needs to go on is in `Runs`: a long run is cut into short calls, and how it is cut changes
no bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .. import step_rules
from .._jit import jit
from ..simd.pool import launch
from ..simd.row_panels import largest
from ..step_rules import COMPLETED, EVENT, MAX_STEPS, RUNNING
from .field import memory_of, velocity
from .motion import (
    ACCEPTED,
    AIM_SIZE,
    EVALUATIONS,
    FRESH,
    FROM,
    PHASE,
    RECORDED,
    REJECTED,
    SIZE,
    STATUS,
    T,
    all_finite,
    begin_step,
    between,
    combine,
    copy,
    end_step,
)
from .systems import mean_of

STEADY_STATE, BLOW_UP, COLLAPSED = 0, 1, 2  # kinds of events
# What a run does next: handle events and output at its start, or at the end of a step; begin a step; or (s >= 1) go on
# from stage s.
START, _LOOK, _STEP = -2, -1, 0


class Watched(NamedTuple):
    """The events that are watched, in the order given."""

    kinds: np.ndarray  # (E,) int64
    levels: np.ndarray  # (E,) tolerances and radii
    directions: np.ndarray  # (E,) -1 or +1
    terminal: np.ndarray  # (E,) bool


class Runs(NamedTuple):
    """The state of B runs and their results so far. Tokens are rows of lanes as in `systems`."""

    y: np.ndarray  # (B, d * lanes)
    f: np.ndarray  # (B, d * lanes) the velocity at y, if fresh
    numbers: np.ndarray  # (B, 8) float64: see `motion.T` and the others
    counts: np.ndarray  # (B, 9) int64: see `motion.STATUS` and the others
    values: np.ndarray  # (B, E) the events' values at t
    hits: np.ndarray  # (B, E) first time of each event; nan if it has not occurred
    finals: np.ndarray  # (B,) final time
    x_final: np.ndarray  # (B, n, d) the tokens at that time
    x: np.ndarray  # (m, B, n, d) the tokens at the times of the output


@jit(borrowed=True)
def _largest_norm(shape, x, centred, wide):
    """Return max_i |x_i|, or max_i |x_i - mean of all tokens| if `centred`, in float64."""
    lanes, unit = shape.lanes, 1.0
    for attempt in range(2):
        wide[:] = 0.0
        for r in range(shape.d):
            row = x[r * lanes : (r + 1) * lanes]
            mean = mean_of(row, shape.n) if centred else 0.0
            for i in range(lanes):
                wide[i] += ((row[i] - mean) * unit) ** 2
        square = float(largest(wide))
        if attempt == 1 or 1e-280 < square < 1e280:
            break
        top = 0.0
        for i in range(shape.d * lanes):
            top = max(top, abs(float(x[i])))
        if top == 0.0 or not (top < math.inf):
            break
        unit = 1.0 / top  # squares overflow or vanish: once more, in units of the largest entry
    return math.sqrt(square) / unit


_meeting = jit(inline=True)(step_rules.meeting)


@jit(borrowed=True)
def _event_value(shape, watched, e, x, f, wide):
    """Return the number whose change of sign is the event e, at state x with velocity f."""
    kind, level = watched.kinds[e], watched.levels[e]
    centred = kind == COLLAPSED
    if kind == STEADY_STATE:
        rate = _largest_norm(shape, f, centred, wide) / max(1.0, _largest_norm(shape, x, centred, wide))
        return rate - level if math.isfinite(rate) else math.inf
    size = _largest_norm(shape, x, centred, wide)
    if centred and size <= level:
        return _meeting(size, _largest_norm(shape, x, False, wide), 2.0**-52 if x.itemsize == 8 else 2.0**-23, level)
    return size / level - 1.0


@jit(borrowed=True)
def _locate(shape, method, watched, e, ends, h, before, local):
    """Return the time in a step at which the value of event e crosses zero, by bisection to 4 spacings of t.

    `ends` is (t0, value at t0, t1, value at t1). It is t1 where states within the step are not finite.
    """
    wide, middle = local[3], local[1][2]
    t0, v0, t1, v1 = ends
    if v1 == 0.0:
        return t1
    low, high = t0, t1
    while abs(high - low) > 4.0 * np.spacing(max(abs(low), abs(high))):
        t = 0.5 * (low + high)
        between(shape, method, (t - t0) / h, h, before, local, middle)
        if (_event_value(shape, watched, e, middle, middle, wide) < 0.0) == (v0 < 0.0):
            low = t
        else:
            high = t
    t = 0.5 * (low + high)
    between(shape, method, (t - t0) / h, h, before, local, middle)
    return t if all_finite(middle) else t1


_crosses = jit(inline=True)(step_rules.crosses)


@jit(inline=True)
def _write(shape, y, out):
    """Write the rows of lanes y into `out` as tokens (n, d)."""
    for r in range(shape.d):
        for i in range(shape.n):
            out[i, r] = y[r * shape.lanes + i]


@jit(borrowed=True)
def _keep_hits(control, watched, found, hits):
    """Record the first times of the events found in a step, up to the first terminal one; return its index, or -1."""
    last = -1
    for e in range(found.shape[0]):
        earlier = last < 0 or control.direction * (found[last] - found[e]) > 0.0
        if watched.terminal[e] and not math.isnan(found[e]) and earlier:
            last = e
    for e in range(found.shape[0]):
        if math.isnan(found[e]) or not math.isnan(hits[e]):
            continue
        if last < 0 or control.direction * (found[last] - found[e]) >= 0.0:
            hits[e] = found[e]
    return last


@jit(borrowed=True)
def _evaluate(shape, method, t, state, local, out):
    """Write the state at time t of the last step into `out`."""
    if t == state[T]:
        copy(local[1][0], out)
    else:
        between(shape, method, (t - state[FROM]) / state[SIZE], state[SIZE], local[1][1], local, out)


@jit(borrowed=True)
def _wants_velocity(shape, method, control, watched, times, values, state, counts, local):
    """Return whether the events or the output of the last step need the velocity at its end."""
    due = counts[RECORDED] < times.shape[0] and control.direction * (state[T] - times[counts[RECORDED]]) > 0.0
    wanted = due and method.dense_needs_last
    for e in range(watched.kinds.shape[0]):
        if watched.kinds[e] == STEADY_STATE:
            wanted = True
        elif method.dense_needs_last and counts[PHASE] == _LOOK:
            value = _event_value(shape, watched, e, local[1][0], local[1][0], local[3])
            wanted = wanted or _crosses(watched.directions[e], values[e], value)
    return wanted


@jit(borrowed=True)
def _look(shape, method, control, watched, times, b, runs, local):
    """Handle the events and the output of the last step (or of the start); return the status of the run after it."""
    stages, states, wide, found = local[0], local[1], local[3], local[6]
    y, middle, state, counts, values = states[0], states[2], runs.numbers[b], runs.counts[b], runs.values[b]
    t, f = state[T], stages[stages.shape[0] - 1]
    for e in range(found.shape[0]):
        value = _event_value(shape, watched, e, y, f, wide)
        found[e] = math.nan
        if counts[PHASE] == START:
            found[e] = t if watched.directions[e] * value >= 0.0 else math.nan
        elif _crosses(watched.directions[e], values[e], value):
            found[e] = t
            if watched.kinds[e] != STEADY_STATE:
                ends = (state[FROM], values[e], t, value)
                found[e] = _locate(shape, method, watched, e, ends, state[SIZE], states[1], local)
        values[e] = value
    last = _keep_hits(control, watched, found, runs.hits[b])
    until = t if last < 0 else found[last]
    while counts[RECORDED] < times.shape[0] and control.direction * (until - times[counts[RECORDED]]) >= 0.0:
        _evaluate(shape, method, times[counts[RECORDED]], state, local, middle)
        _write(shape, middle, runs.x[counts[RECORDED], b])
        counts[RECORDED] += 1
    if last < 0 and t != control.end:
        return RUNNING
    _evaluate(shape, method, until, state, local, middle)
    _write(shape, middle, runs.x_final[b])
    runs.finals[b] = until
    return COMPLETED if last < 0 else EVENT + last


@jit(borrowed=True)
def _stop(shape, status, b, runs, y):
    """End a run that has failed, with its last good state as the final one."""
    runs.counts[b, STATUS] = status
    runs.finals[b] = runs.numbers[b, T]
    _write(shape, y, runs.x_final[b])


@jit(borrowed=True)
def _drive(shape, method, control, watched, times, b, last_attempt, runs, local):
    """Go on until a velocity is needed, and return the number of its stage.

    0 asks for the velocity of states[0], to be written into the last stage, and s >= 1 for that of states[1] in stage
    s. -1 means that the run has ended, or that it pauses after `last_attempt` attempted steps.
    """
    stages, states = local[0], local[1]
    state, counts, count = runs.numbers[b], runs.counts[b], stages.shape[0]
    while True:
        phase = counts[PHASE]
        if phase < _STEP:
            wanted = _wants_velocity(shape, method, control, watched, times, runs.values[b], state, counts, local)
            if wanted and counts[FRESH] == 0:
                counts[FRESH] = 1
                return 0
            counts[STATUS] = _look(shape, method, control, watched, times, b, runs, local)
            counts[PHASE] = _STEP
            if counts[STATUS] != RUNNING:
                return -1
        elif phase == _STEP:
            if counts[ACCEPTED] + counts[REJECTED] >= control.max_steps:
                _stop(shape, MAX_STEPS, b, runs, states[0])
                return -1
            if counts[FRESH] == 0:
                counts[FRESH] = 1
                return 0
            if counts[ACCEPTED] + counts[REJECTED] >= last_attempt:
                return -1
            status = begin_step(shape, method, control, state, counts, local)
            if status != RUNNING:
                _stop(shape, status, b, runs, states[0])
                return -1
            counts[PHASE] = 1
        else:
            # Stage by stage; the last is the state tried itself, whose velocity only an error estimate needs.
            for s in range(phase, count):
                combine(shape, states[0], state[AIM_SIZE], method.a[s], local, states[1])
                if s < count - 1 or method.adaptive:
                    counts[PHASE] = s + 1
                    return s
            before = counts[ACCEPTED]
            status = end_step(shape, method, control, state, counts, local)
            counts[PHASE] = _LOOK if counts[ACCEPTED] > before else _STEP
            if status != RUNNING:
                _stop(shape, status, b, runs, states[0])
                return -1


@jit(borrowed=True)
def _advance_some(
    index, thread, weight, shape, forms, method, control, watched, times, part, size, attempts, runs, scratch, steps
):
    """Advance the systems of a work item, `size` of those of `part`."""
    local = (
        steps.stages[thread], steps.states[thread], steps.squares[thread], steps.wide[thread],
        steps.coefficients[thread], steps.weights[thread], steps.found[thread], steps.errors[thread],
        steps.sums[thread], steps.leaves, steps.merges,
    )  # fmt: skip
    memory = memory_of(scratch, thread)
    stages, states = local[0], local[1]
    last, entries = stages.shape[0] - 1, states.shape[1]
    for b in range(part[0] + index * size, min(part[0] + (index + 1) * size, part[1])):
        counts = runs.counts[b]
        if counts[STATUS] != RUNNING:
            continue
        copy(runs.y[b], states[0])
        copy(runs.f[b], stages[last])
        until = counts[ACCEPTED] + counts[REJECTED] + attempts
        while True:
            s = _drive(shape, method, control, watched, times, b, until, runs, local)
            if s < 0:
                break
            velocity(weight, shape, forms, b, states[min(s, 1)], memory, stages[s if s > 0 else last])
            counts[EVALUATIONS] += 1
        copy(states[0], runs.y[b])
        copy(stages[last, :entries], runs.f[b])


@jit
def advance(weight, shape, forms, method, control, watched, times, part, size, attempts, runs, scratch, steps):
    """Move the running systems among part[0] .. part[1] - 1 on by up to `attempts` attempted steps each.

    With attempts = 0 a run is begun: its start is recorded, its events are evaluated, and `f` becomes its velocity. A
    thread takes `size` systems at a time.
    """
    items = -(-(part[1] - part[0]) // size)
    arguments = (weight, shape, forms, method, control, watched, times, part, size, attempts, runs, scratch, steps)
    launch(steps.stages.shape[0], items, 1, _advance_some, arguments)
