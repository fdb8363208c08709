"""One step: its formula, its memory, its record."""

import tracemalloc

import numpy as np
import pytest

from fastpde.integrate.controller import FixedStep, PIController, Span
from fastpde.integrate.methods import METHODS, TABLEAUX
from fastpde.integrate.space import VectorSpace
from fastpde.integrate.state import State
from fastpde.integrate.status import Status
from fastpde.integrate.stepper import Stepper
from tests.problems_ode import Counted, Decay, Layers, Spiral


def stepper(problem, name, step=0.01, t1=10.0, tol=1e-6):
    tableau, span = TABLEAUX[name], Span(0.0, t1)
    control = PIController(tol, tol, tableau.embedded_order + 1) if tableau.adaptive else FixedStep(step, span)
    y0 = np.asarray(problem.y0)
    return Stepper(problem.field, tableau, control, VectorSpace(y0.shape, y0.dtype), span, State.initial(0.0, y0, step))


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_its_formula(name):
    problem, tableau, h = Spiral(), TABLEAUX[name], 0.01
    run = stepper(problem, name, h, tol=1e-3)
    assert run.attempt() == {}
    k = np.zeros((tableau.stages, *problem.y0.shape))
    for s in range(tableau.stages):
        problem.field(tableau.c[s] * h, problem.y0 + h * np.tensordot(tableau.a[s], k, 1), k[s])
    middle = np.empty_like(problem.y0)
    run.evaluate(0.3 * h, middle)
    # The same sums in another order: a few roundings of numbers of size one.
    np.testing.assert_allclose(run.state.y, problem.y0 + h * np.tensordot(tableau.b, k, 1), rtol=0, atol=2e-15)
    np.testing.assert_allclose(middle, problem.y0 + h * np.tensordot(tableau.weights_at(0.3), k, 1), rtol=0, atol=2e-15)
    np.testing.assert_allclose(run.refresh(), k[-1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_step_allocates_nothing_of_the_size_of_a_state(name, dtype):
    problem = Decay(np.ones((20_000, 2), dtype))
    run = stepper(problem, name, t1=1e4)
    out = np.empty_like(problem.y0)
    run.attempt()
    tracemalloc.start()
    try:
        for _ in range(50):
            run.attempt()
            run.evaluate(run.state.t - 1e-4, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Small objects (tuples, views) come to some kilobytes, the casts of NumPy's reductions to 64: far from
    # the 160 or 320 kilobytes of one state.
    assert run.state.step == 51
    assert peak < problem.y0.nbytes


def test_the_memory_test_can_fail():
    def greedy(t, y, out):
        out[...] = -(y + 0.0)

    problem = Decay(np.ones((20_000, 2)))
    problem.field = greedy
    run = stepper(problem, "rk4")
    tracemalloc.start()
    try:
        run.attempt()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak >= problem.y0.nbytes


def test_stage_at_the_end_of_a_step_is_at_the_time_of_the_next_step():
    # 3 * 0.1 is not 0.2 + 0.1 in floating point: the last stage must see the grid's time, where a layer
    # changes.
    problem = Layers((0.0,))
    run = stepper(problem, "rk4", step=0.1)
    for _ in range(3):
        run.attempt()
    assert problem.times[8:12] == [0.2, 0.2 + 0.5 * 0.1, 0.2 + 0.5 * 0.1, 3 * 0.1]


def test_rejection_keeps_the_state_and_shrinks_the_step():
    problem = Decay(np.ones((2, 2)), rate=50.0)
    run = stepper(problem, "dopri5", step=1.0)
    assert run.attempt() == {}
    state = run.state
    assert (state.step, state.clock.rejected, state.clock.retries, state.t) == (0, 1, 1, 0.0)
    assert 0.0 < state.clock.h < 1.0
    assert state.y.tobytes() == problem.y0.tobytes()
    np.testing.assert_array_equal(state.f, -50.0 * problem.y0)


def test_an_exception_from_the_field_leaves_the_last_good_state():
    problem = Spiral()
    run = stepper(problem, "dopri5")
    run.attempt()
    before, good = run.state.copy(), run.field

    def broken(t, y, out):
        out.fill(7.0)
        raise RuntimeError("lost the node")

    run.field = broken
    with pytest.raises(RuntimeError, match="lost the node"):
        run.attempt()
    run.field = good
    assert run.state.y.tobytes() == before.y.tobytes()
    assert run.state.f.tobytes() == before.f.tobytes()
    run.attempt()
    other = Stepper(good, run.tableau, run.controller, run.space, run.span, before)
    other.attempt()
    assert run.state.y.tobytes() == other.state.y.tobytes()


@pytest.mark.parametrize("name", ["rk4", "dopri5"])
def test_not_finite(name):
    def field(t, y, out):
        out.fill(0.0)
        if t > 0.05:
            out[1, 1] = np.nan

    problem = Decay(np.ones((3, 2)))
    problem.field = field
    run = stepper(problem, name, step=0.02)
    for _ in range(200):
        if lost := run.attempt():
            break
    assert lost[0][0] is Status.NOT_FINITE
    assert run.first_bad() == (1, 1)
    assert np.isfinite(run.state.y).all()
    assert run.state.t <= 0.05 + 1e-15  # the last good time is before the trouble, up to the rounding of 0.05


def test_a_field_that_forgets_to_write_is_found():
    problem = Decay(np.ones((3, 2)))
    problem.field = lambda t, y, out: None
    assert stepper(problem, "rk4").attempt()[0][0] is Status.NOT_FINITE
    assert stepper(problem, "dopri5", step=0.0).prepare()[0][0] is Status.NOT_FINITE


@pytest.mark.parametrize(
    ("name", "calls"), [("euler", 1), ("heun", 2), ("rk4", 4), ("bosh3", 3), ("dopri5", 6), ("tsit5", 6)]
)
def test_evaluations_per_step(name, calls):
    problem = Spiral()
    counted = Counted(problem.field)
    problem.field = counted
    run = stepper(problem, name, step=0.001)
    while run.state.step < 10:
        run.attempt()
    first = 1 if run.tableau.adaptive else 0  # f(t0, y0), which fixed-step methods count within their first step
    assert run.state.clock.rejected == 0
    assert counted.calls == run.state.clock.evaluations == 10 * calls + first


def test_state_copies_share_nothing():
    state = State.initial(0.0, np.ones((2, 2)))
    copy = state.copy()
    copy.y[...] = 5.0
    copy.f[...] = 5.0
    assert (state.y == 1.0).all()
    assert np.isnan(state.f).all()
