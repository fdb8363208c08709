"""`integrate`: the initial value problem y' = f(t, y) from one function call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from fastpde.integrate.integrator import Integrator
from fastpde.integrate.observers import Observer
from fastpde.integrate.options import Options
from fastpde.integrate.problem import Problem
from fastpde.integrate.reporting import Report, check_progress, reporting
from fastpde.integrate.solution import Solution
from fastpde.integrate.stepper import Field


def integrate(
    field: Field,
    y0: np.ndarray,
    t_span: tuple[float, float],
    *,
    method: str = "dopri5",
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 100_000,
    t_eval: Sequence[float] | np.ndarray | None = None,
    events: Sequence = (),
    observers: Sequence[Observer] = (),
    progress: bool | Report = False,
    space: object = None,
    noise: object = None,
) -> Solution:
    """Integrate y' = f(t, y), y(t0) = y0, from t0 to t1, which may be smaller than t0.

    Output never influences the steps: whatever t_eval, events, observers and progress are, a step gives the same bits.

    Args:
        field: field(t, y, out) writes f(t, y) into out and changes nothing else; y and out are valid during the call.
            If results depend on earlier calls, all that it keeps between calls is in field.memory, a dict of arrays
            that becomes part of the `State`. The times at which it jumps are in field.breaks, if there is one. Steps
            end there, and a step evaluates the field a rounding inside of its ends: two steps that meet at a jump see
            the field on either side. Numbers of field.stats(), if there is one, join the stats. A field that cannot
            compute a velocity writes nan; if field.failure() then returns a `FieldError`, not None, that is the reason:
            an adaptive method tries a few smaller steps, and the run ends as `Status.NOT_CONVERGED` and not as
            NOT_FINITE.
        y0: float64 or float32 array, (n, d), (B, n, d) or any other shape; never modified. The result has its dtype.
        t_span: (t0, t1).
        method: "euler", "heun", "rk4" (fixed step), "bosh3", "dopri5", "tsit5" (adaptive).
        step: the step size, required for a fixed-step method; the size of the first step for an adaptive one.
        rtol, atol: an adaptive step is accepted if the root mean square of its estimated error over atol + rtol |y| is
            at most 1, in every system of a batch (B, n, d).
        max_steps: bound on attempted steps, accepted or not.
        t_eval: times (m,) at which to keep the state, from t0 towards t1; None: the start and the end.
        events: `Event` objects or functions event(t, x) -> float whose sign change between the ends of a step is the
            event; a function may have the attributes `terminal` (default True) and `direction` (default 0).
        observers: `Observer` objects.
        progress: True for a bar on the standard error, or a function progress(t, stats) called after every accepted
            step.
        space: the vector arithmetic of a backend, see `fastpde.integrate.space`; None: NumPy.
        noise: noise(step, h, y, out) writes into out the random increment of a step, divided by h; for "euler" and
            "heun", forward in time. Between the ends of its steps a run with noise is a straight line.

    Returns:
        The `Solution`. A run that could not reach its end says so in `status` and `message` and holds the last good
        state.

    Raises:
        InputError, InputTypeError: an argument cannot be used; raised before any work.

    Warns (RuntimeWarning) of an rtol below field.resolution(), the relative error that velocities have, if known.

    Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.
    """
    options = Options(method, step, rtol, atol, max_steps, t_eval, events, observers, space, noise)
    check_progress(progress)
    return run(Problem.checked(field, y0, t_span, options), progress)


def run(
    problem: Problem, progress: bool | Report = False, follow: Callable[[Integrator], object] | None = None
) -> Solution:
    """Return the solution of a checked problem.

    follow: follow(integrator), called after every accepted step, with the run at the end of this step; all that it may
    change there is the size proposed for the next step.

    Raises InputTypeError for a progress of no use; warns as `integrate`.
    """
    check_progress(progress)
    integrator = Integrator(problem)
    with reporting(progress, problem.span) as report:
        while integrator.status is None:
            if follow is None and not callable(progress):
                integrator.jump()
            before = integrator.state.step
            integrator.step()
            if integrator.state.step == before:
                continue
            if follow is not None:
                follow(integrator)
            if report is not None:
                report(integrator.state.t, integrator.stats())
    if told := integrator.needless():
        warnings.warn(told, RuntimeWarning, stacklevel=4)
    return integrator.solution()
