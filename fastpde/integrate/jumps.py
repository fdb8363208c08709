"""Jumps: many steps of a fixed size in one call of the field, where nobody looks at the states between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastpde.integrate.controller import FixedStep
from fastpde.integrate.observers import Watch
from fastpde.integrate.problem import Problem
from fastpde.integrate.solution import Recorder
from fastpde.integrate.stepper import Stepper

_MOST = 1000  # steps of a jump: it lasts a moment
_SAME_STEP = 1e-9  # steps may be longer by this fraction


def can_jump(problem: Problem) -> bool:
    """Return whether the states between the steps of a problem need not be looked at, and its field may jump."""
    p = problem
    if p.tableau.adaptive or p.batch or p.events or p.noise is not None or not hasattr(p.field, "march"):
        return False
    closed = p.tableau.dense_needs_last and bool(p.breaks)  # steps to a break evaluate what a jump does not
    return not closed and all(observer.walltime is None for observer in p.observers)


def jump(problem: Problem, stepper: Stepper, recorder: Recorder, watches: Sequence[Watch]) -> None:
    """Make the steps that end before the next state that is looked at, which is that of the last step at the latest."""
    rule, clock = problem.controller, stepper.state.clock
    assert isinstance(rule, FixedStep)
    least = min([recorder.due, *(watch.due for watch in watches)], key=problem.span.direction.__mul__)
    until = abs(least - clock.t) / rule.step * (1.0 - _SAME_STEP)
    left = [
        rule.count - clock.step,
        problem.max_steps - clock.attempts,
        *(watch.steps_left(clock.step) for watch in watches),
    ]
    quiet = int(min(_MOST, min(left) - 1, until - 1))
    if quiet < 1 or stepper.state.under_way:
        return
    moves = rule.targets(clock.step, quiet)
    ends, sizes = (list(numbers) for numbers in zip(*moves, strict=True))
    inner, times, begin, breaks = problem.tableau.c[1:-1], [], clock.t, problem.breaks
    for end, h in moves:
        stages = (breaks.ends(end) if c == 1.0 else begin + c * h for c in inner)
        times.append([breaks.begins(begin), *stages])
        begin = end
    stepper.jump(times, ends, np.array(sizes))
