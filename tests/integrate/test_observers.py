"""Observers: when they are called, with what, and that they cannot interfere."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastpde.errors import InputError, InputTypeError
from fastpde.integrate import METHODS, Integrator, Observer, Problem, Status, integrate, observers
from fastpde.integrate.options import Options
from tests.problems_ode import Spiral

SPIRAL = Spiral()


def watch(t_span=(0.0, 1.0), events=(), **cadence):
    """Return (times, states) an observer saw during a run of dopri5, or of the method given."""
    run = {key: cadence.pop(key) for key in ("method", "step", "max_steps") if key in cadence}
    seen = []
    observer = Observer(lambda t, x: seen.append((t, x.copy())), **cadence)
    y0 = SPIRAL.exact(t_span[0])
    sol = integrate(SPIRAL.field, y0, t_span, observers=[observer], events=events, rtol=1e-8, atol=1e-8, **run)
    return [t for t, _ in seen], [x for _, x in seen], sol


@pytest.mark.parametrize("name", METHODS)
def test_time_cadence_is_a_grid_of_multiples(name):
    times, states, sol = watch(time=0.1, method=name, step=0.03)
    assert times == [0.1 * k for k in range(11)]
    assert states[-1].tobytes() == sol.x_final.tobytes()
    errors = [np.abs(x - SPIRAL.exact(t)).max() for t, x in zip(times, states, strict=True)]
    # Tolerance 1e-8; rk4 with this step has 1e-6; Euler 0.03 * |y''| / 2, Heun 0.03^2 * |y'''| / 6.
    assert max(errors) < {"euler": 0.1, "heun": 5e-3, "rk4": 1e-5}.get(name, 1e-6)


def test_time_cadence_that_does_not_divide_the_span():
    assert watch(time=0.4)[0] == [0.0, 0.4, 0.8, 1.0]
    assert watch(time=7.0)[0] == [0.0, 1.0]
    # 3 * 0.1 is above 0.3 by one rounding: still one call at the end, not none and not two.
    assert watch(t_span=(0.0, 0.3), time=0.1)[0] == [0.0, 0.1, 0.2, 0.3]


def test_time_cadence_backwards():
    assert watch(t_span=(1.0, 0.0), time=0.25)[0] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_steps_cadence():
    times, _, _ = watch(steps=3, method="rk4", step=0.125)
    assert times == [0.0, 0.375, 0.75, 1.0]
    assert watch(steps=4, method="rk4", step=0.125)[0] == [0.0, 0.5, 1.0]  # the last one is not doubled


def test_walltime_cadence(monkeypatch):
    calls, now = [], [0.0]
    monkeypatch.setattr(observers, "clock", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(t, y, out):
        now[0] += 0.002
        SPIRAL.field(t, y, out)

    run = {"method": "euler", "step": 0.02}
    integrate(slow, SPIRAL.y0, (0.0, 1.0), observers=[Observer(lambda t, x: calls.append(t), walltime=0.019)], **run)
    # Steps of 2 ms: every tenth one is the first after 19 ms, and the start.
    assert calls == pytest.approx([0.2 * k for k in range(6)])
    assert watch(walltime=1e3)[0] == [0.0, 1.0]


def test_a_terminal_event_is_the_end():
    times, states, sol = watch(time=0.1, events=[lambda t, x: t - 0.55])
    assert sol.status is Status.EVENT
    assert times == [*[0.1 * k for k in range(6)], sol.t_final]
    assert states[-1].tobytes() == sol.x_final.tobytes()


def test_a_failed_run_shows_its_last_good_state():
    times, states, sol = watch(steps=100, method="rk4", step=0.01, max_steps=7)
    assert sol.status is Status.MAX_STEPS
    assert times == [0.0, sol.t_final]
    assert states[-1].tobytes() == sol.x_final.tobytes()


def test_empty_span_is_one_call():
    assert watch(t_span=(1.0, 1.0), steps=1)[0] == [1.0]


def test_the_view_is_read_only():
    def vandal(t, x):
        x[...] = 0.0

    for cadence in ({"steps": 1}, {"time": 0.1}):
        with pytest.raises(ValueError, match="read-only"):
            integrate(SPIRAL.field, SPIRAL.y0, (0.0, 1.0), observers=[Observer(vandal, **cadence)])


@pytest.mark.parametrize(
    ("cadence", "error", "text"),
    [
        ({}, InputError, "no cadence; need exactly one"),
        ({"steps": 1, "time": 0.1}, InputError, "steps and time; need exactly one"),
        ({"steps": 0}, InputError, "steps"),
        ({"steps": 1.5}, InputTypeError, "steps"),
        ({"time": -0.1}, InputError, "time"),
        ({"time": "1"}, InputTypeError, "time"),
        ({"walltime": float("nan")}, InputError, "walltime"),
    ],
)
def test_constructor_refuses(cadence, error, text):
    with pytest.raises(error, match=text):
        Observer(print, **cadence)
    with pytest.raises(InputTypeError, match="callback"):
        Observer("print", steps=1)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
def test_given_times(span):
    """At the start, at the times within the span, and at the end; the same after a restart anywhere."""
    times, options, y0 = (7.0, 0.31, 0.05, 0.9, -1.0, 0.0, 0.31), {"method": "rk4", "step": 0.1}, SPIRAL.exact(span[0])
    want = sorted([0.0, 0.05, 0.31, 0.9, 1.0], reverse=span[0] > span[1])

    def seen(cut):
        calls = []
        observers = (Observer(lambda t, x: calls.append((t, x.copy())), times=times),)
        problem = Problem.checked(SPIRAL.field, y0, span, Options(**options, observers=observers))
        run, parts = Integrator(problem), 1
        while run.status is None:
            run.step()
            if run.state.step == cut and parts == 1:
                run, parts = Integrator(problem, run.state.copy()), 2
        assert run.status is Status.COMPLETED
        return calls

    whole = seen(None)
    assert [t for t, _ in whole] == want
    exact = integrate(SPIRAL.field, y0, span, **options, t_eval=want).x
    assert all((x == y).all() for (_, x), y in zip(whole, exact, strict=True))
    for cut in range(1, 10):
        assert [t for t, _ in seen(cut)] == want


def test_times_that_are_refused():
    for times in ("0.1", [0.1, "x"], [float("nan")], 3.0):
        with pytest.raises((InputError, InputTypeError), match=r"Observer\.times"):
            Observer(print, times=times)
    with pytest.raises(InputError, match="exactly one"):
        Observer(print, times=[1.0], steps=1)
