"""Break points: steps end where the field jumps, and no step sees both sides."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from fastpde import InputError, InputTypeError
from fastpde.integrate import Integrator, Observer, Problem, State, SteadyState, integrate
from fastpde.integrate.breaks import Breaks
from fastpde.integrate.controller import FixedStep, Span
from fastpde.integrate.methods import METHODS, TABLEAUX
from fastpde.integrate.options import Options
from tests.integrate.test_interrupted import Forgetful, Stop, ended
from tests.problems_ode import Twist, fitted_slope

FIXED = tuple(name for name in METHODS if not TABLEAUX[name].adaptive)
ADAPTIVE = tuple(name for name in METHODS if TABLEAUX[name].adaptive)


class Jumping(Twist):
    """`Twist` at a speed that is multiplied by another factor from each break point on; it remembers its times."""

    def __init__(self, breaks=(0.2, 0.4, 0.7), factors=(1.0, -2.0, 3.0, 0.5)) -> None:
        super().__init__()
        self.breaks, self._factors, self.times = breaks, factors, []

    def __call__(self, t, y, out):
        self.times.append(float(t))
        self.field(t, y, out)
        out *= self._factors[sum(t >= b for b in self.breaks)]

    def exact(self, t):
        """The angle is int factor(s) (1 + cos(s) / 2) ds r^2."""
        if not hasattr(self, "breaks"):  # in __init__, at t = 0
            return super().exact(t)
        ends = [0.0, *(b for b in self.breaks if b < t), t]
        pieces = zip(self._factors, ends[:-1], ends[1:], strict=False)
        angle = sum(f * (b - a + 0.5 * (math.sin(b) - math.sin(a))) for f, a, b in pieces) * self.square
        return np.sqrt(self.square)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("base", [0.1, 1 / 7])
@pytest.mark.parametrize("name", FIXED)
def test_order_across_jumps(name, base, backward):
    """The order of the method at the end and of its extension in between, with break points on its grid or inside of
    steps."""
    steps, span, times = [base / 2**k for k in range(1, 5)], (0.0, 1.0), [0.05, 0.39, 0.55, 0.999]
    span, times = (span[::-1], times[::-1]) if backward else (span, times)
    errors, between = [], []
    for step in steps:
        problem = Jumping()
        sol = integrate(problem, problem.exact(span[0]), span, method=name, step=step, t_eval=[*times, span[1]])
        errors.append(np.abs(sol.x_final - problem.exact(span[1])).max())
        between.append(max(np.abs(x - problem.exact(t)).max() for t, x in zip(times, sol.x, strict=False)))
    order = TABLEAUX[name].order
    # Steps of unequal sizes make the error constants change a little with the step; a wrong side gives order one.
    assert fitted_slope(steps, errors) > order - 0.25
    assert fitted_slope(steps, between) > min(order, TABLEAUX[name].dense_order + 1) - 0.4


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_no_step_sees_both_sides(name, backward):
    """Every break point ends a step, and a step asks for the field strictly between them; restated from the calls."""
    problem, ends = Jumping(), []
    span = (1.0, 0.0) if backward else (0.0, 1.0)
    observer = Observer(lambda t, x: ends.append((t, len(problem.times))), steps=1)
    sol = integrate(
        problem, problem.exact(span[0]), span, method=name, step=0.03, rtol=1e-7, observers=[observer], t_eval=[0.33]
    )
    assert sol.success and set(problem.breaks) <= {t for t, _ in ends}
    edges = [-1.0, *problem.breaks, 2.0]
    # Calls between two ends are those of the step, but for rk4 the last stage of its extension, wanted once.
    for (t0, first), (t1, last) in pairwise(ends):
        pieces = {sum(t > edge for edge in edges) for t in problem.times[first:last]}
        middle = sum(0.5 * (t0 + t1) > edge for edge in edges)
        assert pieces == {middle} and not set(problem.times[first:last]) & set(problem.breaks)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations(name):
    """One more at each break point for methods that have the last stage of a step for the next one or for output."""
    counts = []
    for times in (None, [0.1, 0.39, 0.41]):
        problem = Jumping()
        sol = integrate(problem, problem.y0, (0.0, 1.0), method=name, step=0.1, rtol=1e-7, t_eval=times)
        counts.append((sol.stats["evaluations"], sol.x_final.tobytes()))
        assert len(problem.times) == sol.stats["evaluations"]
    tableau, tries = TABLEAUX[name], sol.stats["accepted"] + sol.stats["rejected"]
    calls = (tableau.stages - 1) * tries + len(problem.breaks) * tableau.dense_needs_last + tableau.adaptive
    # Output inside of steps may evaluate what the next step begins with, and makes no step another.
    assert counts == [(calls, sol.x_final.tobytes())] * 2


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_methods_step_onto_jumps(name):
    """They find none by rejection, and keep their size after a step that was cut short."""
    told = Jumping()
    found = integrate(told, told.y0, (0.0, 1.0), method=name, rtol=1e-9, atol=1e-9)
    hidden = integrate(lambda t, y, out: told(t, y, out), told.y0, (0.0, 1.0), method=name, rtol=1e-9, atol=1e-9)
    # Local errors of 1e-9, some hundred of them at most.
    assert np.abs(found.x_final - told.exact(1.0)).max() < 1e-7
    assert found.stats["rejected"] <= 2 * len(told.breaks) < hidden.stats["rejected"]
    assert found.stats["evaluations"] < hidden.stats["evaluations"]


class Halting(Forgetful):
    """`Forgetful`, three times as fast from t = 0.55 on and half as fast from 1.3 on."""

    breaks = (0.55, 1.3)

    def __call__(self, t, y, out):
        super().__call__(t, y, out)
        out *= 1.0 if t < 0.55 else 3.0 if t < 1.3 else 0.5


def halting(method, seen, field, tol=0.2):
    options = Options(
        method=method,
        step=0.1 if method in FIXED else None,
        rtol=1e-4,
        events=(SteadyState(tol),),
        observers=(Observer(lambda t, y: seen.append((t, y.tobytes())), time=0.07),),
    )
    return Problem.checked(field, np.array([[1.0, 2.0], [0.5, -1.0]]), (0.0, 2.0), options)


@pytest.mark.parametrize("method", METHODS)
def test_stopped_at_every_evaluation(method):
    """A run over break points goes on from its snapshot with the same bits, outputs and evaluations."""
    seen = []
    whole = ended(Integrator(halting(method, seen, Halting())))
    # From 1.3 on it is slow: what ends the run is the velocity after that break point.
    assert whole.status.value == "steady_state" and whole.state.t == 1.3
    for at in range(1, whole.state.clock.evaluations + 1):
        parts, field = [], Halting()
        first = Integrator(halting(method, parts, field), undo=True)
        field.left = at
        with pytest.raises(Stop):
            ended(first)
        second = Integrator(halting(method, parts, Halting()), State.of(*first.snapshot().parts()))
        ended(second)
        assert second.status is whole.status and second.state.t == whole.state.t
        assert second.state.y.tobytes() == whole.state.y.tobytes()
        assert second.state.clock.evaluations == whole.state.clock.evaluations
        assert parts == seen


@pytest.mark.parametrize("method", METHODS)
def test_cut_after_every_step(method):
    """Also of a run to the end of the span."""
    whole = Integrator(halting(method, [], Halting(), tol=1e-9))
    run, parts = whole, []
    while run.status is None:
        run.step()
        parts.append(run.snapshot().parts())
    for numbers, arrays in parts[:-1]:
        rest = ended(Integrator(halting(method, [], Halting(), tol=1e-9), State.of(numbers, arrays)))
        assert rest.state.y.tobytes() == whole.state.y.tobytes()
        assert rest.state.clock.evaluations == whole.state.clock.evaluations


@pytest.mark.parametrize("name", METHODS)
def test_break_points_that_do_not_matter_change_no_bit(name):
    """None, those outside of the span, and one at its end where nothing jumps but beyond."""
    plain = Jumping(breaks=())
    run = {"method": name, "step": 0.1, "t_eval": [0.05, 0.4, 1.0]}
    want = integrate(lambda t, y, out: plain(t, y, out), plain.y0, (0.0, 1.0), **run)
    for breaks in ((), (-3.0, 1.5), (2.0,)):
        problem = Jumping(breaks=breaks, factors=(1.0,) * 3)
        assert integrate(problem, plain.y0, (0.0, 1.0), **run).x.tobytes() == want.x.tobytes()


def test_jumps_at_the_ends():
    """A run begins with what comes after its start and ends with what was before its end, in either direction."""
    for span, factor in (((0.2, 0.4), -2.0), ((0.4, 0.2), -2.0), ((0.0, 0.2), 1.0), ((1.0, 0.7), 0.5)):
        for name in METHODS:
            problem = Jumping()
            integrate(problem, problem.exact(span[0]), span, method=name, step=0.05, t_eval=[0.5 * sum(span), span[1]])
            assert {problem._factors[sum(t >= b for b in problem.breaks)] for t in problem.times} == {factor}


@pytest.mark.parametrize(
    ("step", "breaks", "want"),
    [
        (0.1, (0.2, 0.1 * 3), [0.1, 0.2, 0.1 * 3, 0.4, 0.5]),
        (0.2, (0.1, 0.3, 0.35), [0.1, 0.2, 0.3, 0.35, 0.4, 0.5]),
        (1.0, (0.1, 0.2), [0.1, 0.2, 0.5]),
        (0.25, (0.25 + 1e-12,), [0.25 + 1e-12, 0.5]),
        (0.25, (0.25 - 1e-6,), [0.25 - 1e-6, 0.25, 0.5]),
        (0.25, (0.25 - 2e-12, 0.25 - 1e-12, 0.25 + 1e-12), [0.25 - 2e-12, 0.25 - 1e-12, 0.25 + 1e-12, 0.5]),
        (0.1, (0.45,), [0.1, 0.2, 0.1 * 3, 0.4, 0.45, 0.5]),
    ],
)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_fixed_step_grid(step, breaks, want, direction):
    """Break points divide steps, or take the place of a point of the grid next to them; sizes sum to the span."""
    control = FixedStep(step, Span(0.0, direction * 0.5), tuple(direction * b for b in breaks))
    found = [control.target(i) for i in range(control.count)]
    assert [t for t, _ in found] == [direction * t for t in want]
    # Each size is right to the rounding of its two times.
    np.testing.assert_allclose([h for _, h in found], np.diff([0.0, *(t for t, _ in found)]), rtol=0, atol=1e-16)


def test_break_points_that_differ_by_rounding_are_one():
    near = math.nextafter(0.3, 1.0)
    for span in (Span(0.0, 1.0), Span(1.0, 0.0)):
        assert Breaks((0.3, near, 0.5), span).inner == ((0.3, 0.5) if span.end else (0.5, 0.3))
        # Next to an end of the span it is that end.
        assert Breaks((math.nextafter(1.0, 0.0), 1e-300), span).inner == (1e-300,) and not Breaks((5.0,), span).inner
    both = Breaks((0.3, near, 0.3 + 1e-9), Span(0.0, 1.0))
    # A rounding inside, on either side of both, and not beyond the next one.
    assert both.ends(0.3) < 0.3 < near < both.begins(0.3) < 0.3 + 1e-9
    assert 0.3 - both.ends(0.3) < 1e-12 and both.begins(0.3) - 0.3 < 1e-12
    assert both.begins(0.25) == both.ends(0.25) == 0.25


def test_break_points_are_checked():
    for breaks, error in (((math.nan,), InputError), (("1",), InputTypeError), (0.5, InputTypeError)):
        with pytest.raises(error, match=r"field\.breaks"):
            integrate(Jumping(breaks=breaks), np.ones((3, 2)), (0.0, 1.0))
