"""Events against closed forms."""

import math

import numpy as np
import pytest

from fastpde.errors import InputError, InputTypeError
from fastpde.integrate import BlowUp, Collapsed, Event, Status, SteadyState, integrate
from fastpde.step_rules import crosses
from tests.problems_ode import Decay, Riccati, Spiral

# Root finding is exact to rounding; what remains is the continuous extension, whose error at these tolerances
# is below 1e-11.
TIGHT = {"method": "dopri5", "rtol": 1e-12, "atol": 1e-13}
WITHIN = 1e-10


def circle(t, y, out):
    out[..., 0], out[..., 1] = -y[..., 1], y[..., 0]


START = np.array([[1.0, 0.0]])  # (cos t, sin t)


def event(function, **attributes):
    for key, value in attributes.items():
        setattr(function, key, value)
    return function


@pytest.mark.parametrize(("direction", "times"), [(0, [0.5, 1.5, 2.5]), (-1, [0.5, 2.5]), (1, [1.5])])
def test_location_and_direction(direction, times):
    cosine = event(lambda t, x: x[0, 0], terminal=False, direction=direction)
    sol = integrate(circle, START, (0.0, 9.0), events=[cosine], **TIGHT)
    np.testing.assert_allclose(sol.t_events[0], np.pi * np.array(times), rtol=0, atol=WITHIN)
    np.testing.assert_allclose(sol.x_events[0][:, 0, 0], 0.0, rtol=0, atol=WITHIN)
    assert sol.x_events[0].shape == (len(times), 1, 2)
    assert sol.status is Status.COMPLETED


def test_direction_backwards_in_time():
    # Directions are along the integration: from t = 0 to -9 the cosine falls first at -pi / 2.
    cosine = event(lambda t, x: x[0, 0], terminal=False, direction=-1)
    sol = integrate(circle, START, (0.0, -9.0), events=[cosine], **TIGHT)
    np.testing.assert_allclose(sol.t_events[0], [-np.pi / 2, -5 * np.pi / 2], rtol=0, atol=WITHIN)


def test_root_is_found_to_rounding():
    # The event depends on t alone, so the extension's error is out of it: 4 eps |t| is the documented
    # precision.
    sol = integrate(circle, START, (0.0, 9.0), events=[lambda t, x: math.exp(t) - 7.0])
    assert abs(sol.t_final - math.log(7.0)) <= 4 * 2.0**-52 * math.log(7.0)


def test_terminal_event_ends_the_run_there():
    sol = integrate(circle, START, (0.0, 9.0), t_eval=[0.5, 1.0, 2.0], events=[lambda t, x: x[0, 0]], **TIGHT)
    assert sol.status is Status.EVENT
    assert sol.success
    assert sol.t.tolist() == [0.5, 1.0]
    assert sol.t_final == sol.t_events[0][0] == pytest.approx(np.pi / 2, abs=WITHIN)
    np.testing.assert_array_equal(sol.x_final, sol.x_events[0][0])
    ends = integrate(circle, START, (0.0, 9.0), events=[lambda t, x: x[0, 0]], **TIGHT)
    np.testing.assert_array_equal(ends.t, [0.0, sol.t_final])


def test_events_after_the_terminal_one_do_not_happen():
    # One Euler step covers all roots; only those up to the terminal one at 0.5 count, in the order of time.
    def still(t, y, out):
        out.fill(0.0)

    at = [event(lambda t, x, c=c: t - c, terminal=c == 0.5) for c in (0.7, 0.5, 0.2)]
    sol = integrate(still, START, (0.0, 1.0), method="euler", step=1.0, events=at)
    assert [times.tolist() for times in sol.t_events] == [[], [0.5], [0.2]]


def test_already_satisfied_at_the_start():
    for name in ("euler", "dopri5"):
        sol = integrate(circle, START, (0.0, 9.0), method=name, step=0.1, events=[BlowUp(0.5)])
        assert (sol.status, sol.t_final, sol.t.tolist()) == (Status.BLOW_UP, 0.0, [0.0])
        assert sol.stats["evaluations"] == sol.stats["steps"] == 0
    assert integrate(circle, START, (0.0, 1.0), events=[lambda t, x: x[0, 1]]).t_final == 0.0
    # A ball that leaves the ground at t0 has not landed.
    land = event(lambda t, x: x[0, 1], direction=-1)
    assert integrate(circle, START, (0.0, 9.0), events=[land], **TIGHT).t_final == pytest.approx(np.pi, abs=WITHIN)
    # A function is a change of sign: the far side is no event.
    assert integrate(circle, START, (0.0, 1.0), events=[lambda t, x: x[0, 0] + 5.0]).status is Status.COMPLETED


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5"])
def test_blow_up_is_located(name):
    # y = 1 / (1 - t) reaches 1e3 at 1 - 1e-3. Near it a relative error of 1e-9 in y moves the time by 1e-12;
    # the accumulated one is amplified by y^2 (1 - t) / y0^2 = 1e3: 1e-8 is a safe bound.
    sol = integrate(Riccati().field, Riccati.y0, (0.0, 2.0), method=name, rtol=1e-10, atol=1e-10, events=[BlowUp(1e3)])
    assert sol.status is Status.BLOW_UP
    assert sol.success
    assert sol.t_final == pytest.approx(1.0 - 1e-3, abs=1e-8)
    assert sol.x_final[0, 0] == pytest.approx(1e3, rel=1e-12)  # the root is that of the extension itself


def test_collapsed_is_located():
    # Two tokens at distance 1 from their mean shrink as exp(-t); a batch waits for its slower system, at
    # distance 2.
    pair = np.array([[3.0, 1.0], [3.0, -1.0]])
    sol = integrate(Decay(pair).field, pair, (0.0, 9.0), events=[Collapsed(1e-2)], **TIGHT)
    assert sol.status is Status.COLLAPSED
    assert sol.t_final == pytest.approx(math.log(100.0), abs=WITHIN)
    batch = np.stack([pair, 2.0 * pair])
    sol = integrate(Decay(batch).field, batch, (0.0, 9.0), events=[Collapsed(1e-2)], **TIGHT)
    assert sol.t_final == pytest.approx(math.log(200.0), abs=WITHIN)


@pytest.mark.parametrize(("tol", "dtype"), [(1e-3, float), (1e-12, float), (1e-2, "f4")])
@pytest.mark.parametrize("batch", [False, True])
def test_tokens_that_run_away_have_met_only_where_positions_can_tell(tol, dtype, batch):
    # The mean grows as exp(t) and the spread falls as exp(-t): it is tol at log(1 / tol), where positions resolve
    # 4 eps / tol, which is 9e-13, 9e-4, and in float32 5e-5.
    def field(t, y, out):
        mean = y.astype(float).mean(axis=-2, keepdims=True)
        out[...] = 2.0 * mean - y

    pair = np.array([[1.0, 1.0], [1.0, -1.0]], dtype)
    y0 = np.stack([pair, pair]) if batch else pair
    events, options = [Collapsed(tol)], {"rtol": 1e-5, "atol": 1e-15} if dtype == "f4" else TIGHT
    sol = integrate(field, y0, (0.0, 30.0), events=events, **options)
    if tol == 1e-12:
        assert sol.status is Status.COMPLETED and len(sol.t_events[0]) == 0
        assert "Collapsed(1e-12) saw nothing in the end: coordinates up to 1.1e+13" in sol.message
    else:
        assert sol.status is Status.COLLAPSED and "saw nothing" not in sol.message
        assert sol.t_final == pytest.approx(math.log(1.0 / tol), abs=1e-3)


def test_steady_state_is_reported_at_the_end_of_the_step():
    # |v| = |x| = 2 exp(-t) <= 1e-2 max(1, |x|) from t = log 200 on; steps of 0.01, and it must be the first
    # one beyond.
    y0 = np.array([[2.0, 0.0], [0.0, 1.0]])
    sol = integrate(Decay(y0).field, y0, (0.0, 9.0), method="rk4", step=0.01, events=[SteadyState(1e-2)])
    assert sol.status is Status.STEADY_STATE
    assert 0.0 <= sol.t_final - math.log(200.0) <= 0.01 + 1e-9  # 1e-9: the error of rk4


def test_steady_state_is_relative_for_large_clouds():
    # |v| = 0.5 |x| at radius 1e6: a rate of one half, whatever the size.
    y0 = np.array([[1e6, 0.0]])
    run = {"t_span": (0.0, 0.1), "method": "rk4", "step": 0.1}
    assert integrate(Decay(y0, 0.5).field, y0, events=[SteadyState(0.51)], **run).t_final == 0.0
    assert integrate(Decay(y0, 0.5).field, y0, events=[SteadyState(0.49)], **run).status is Status.COMPLETED


def test_a_velocity_that_is_not_finite_is_not_steady():
    def field(t, y, out):
        out.fill(np.nan)

    assert integrate(field, START, (0.0, 1.0), events=[SteadyState(1.0)]).status is Status.NOT_FINITE


def test_norms_neither_overflow_nor_vanish():
    # 1e200 squared is infinite and 1e-200 squared is zero; the norm of (3, 4) scaled is 5 to two roundings.
    for scale in (1e200, 1e-200):
        value = BlowUp(scale).value(0.0, np.array([[3.0, 4.0]]) * scale, None)
        assert value == pytest.approx(4.0, rel=1e-15)
    assert BlowUp(2.0).value(0.0, np.array(2.0), None) == 0.0
    assert Collapsed(1.0).value(0.0, np.ones(3), None) == -1.0


def test_events_do_not_change_the_steps():
    problem = Spiral()
    many = [event(lambda t, x: x[0, 0] - 0.1, terminal=False), SteadyState(1e-3, terminal=False), BlowUp(9.0)]
    for name in ("rk4", "dopri5"):
        plain = integrate(problem.field, problem.y0, (0.0, 3.0), method=name, step=0.01)
        watched = integrate(problem.field, problem.y0, (0.0, 3.0), method=name, step=0.01, events=many)
        assert watched.x_final.tobytes() == plain.x_final.tobytes()


def test_own_event_class():
    class Speed(Event):
        direction = 1
        uses_velocity = True

        def value(self, t, y, velocity):
            assert not y.flags.writeable
            assert not velocity.flags.writeable
            return float(np.abs(velocity).max()) - 2.0

    sol = integrate(Riccati().field, Riccati.y0, (0.0, 0.9), method="rk4", step=0.01, events=[Speed()])
    assert sol.status is Status.EVENT
    assert 0.0 <= sol.t_final - (1.0 - 1.0 / math.sqrt(2.0)) <= 0.01  # y^2 = 2; the step is 0.01
    with pytest.raises(NotImplementedError):
        integrate(circle, START, (0.0, 1.0), events=[Event()])


@pytest.mark.parametrize(
    ("direction", "before", "after", "happens"),
    [
        (0, -1, 1, True),
        (0, 1, -1, True),
        (0, -1, 0, True),
        (0, 0, 1, False),
        (0, 1, 2, False),
        (1, -1, 1, True),
        (1, 1, -1, False),
        (-1, 1, 0, True),
        (-1, -1, 1, False),
    ],
)
def test_crosses(direction, before, after, happens):
    assert crosses(direction, before, after) is happens


@pytest.mark.parametrize("make", [SteadyState, BlowUp, Collapsed])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (0.0, InputError),
        (-1.0, InputError),
        (math.nan, InputError),
        (math.inf, InputError),
        ("1", InputTypeError),
        (True, InputTypeError),
        (None, InputTypeError),
    ],
)
def test_constructors_refuse(make, bad, error):
    with pytest.raises(error, match=f"{make.__name__}."):
        make(bad)
    with pytest.raises(InputTypeError, match="terminal"):
        make(1.0, terminal="no")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (lambda t, x: math.nan, InputError),
        (lambda t, x: "far", InputTypeError),
        (lambda t, x: None, InputTypeError),
        (3, InputTypeError),
        (BlowUp, InputTypeError),
        (event(lambda t, x: 1.0, direction=2), InputError),
    ],
)
def test_bad_functions_are_named(bad, error):
    with pytest.raises(error, match=r"events\[1\]"):
        integrate(circle, START, (0.0, 1.0), events=[BlowUp(9.0), bad])
