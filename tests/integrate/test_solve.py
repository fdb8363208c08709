"""`integrate` end to end: accuracy, output, outcomes, restart, refusals."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from fastpde.errors import InputError, InputTypeError
from fastpde.integrate import METHODS, BlowUp, Integrator, Observer, Problem, State, Status, integrate
from fastpde.integrate.options import Options
from tests.problems_ode import Counted, Decay, Layers, Riccati, Spiral

SPIRAL = Spiral()
RUN = (SPIRAL.field, SPIRAL.y0, (0.0, 3.0))
ADAPTIVE = ("bosh3", "dopri5", "tsit5")


def bits(sol):
    """Return everything of the final state that must not depend on output."""
    return sol.x_final.tobytes(), sol.t_final, sol.stats["accepted"], sol.stats["rejected"]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_error_is_proportional_to_the_tolerance(name):
    # Error per step control makes the global error a power of the tolerance near one (order p with p-th order
    # estimates); over six decades the fitted exponent of a healthy controller lies between 0.8 and 1.2.
    tols = 10.0 ** -np.arange(3, 10)
    errors = [
        np.abs(integrate(*RUN, method=name, rtol=tol, atol=tol).x_final - SPIRAL.exact(3.0)).max() for tol in tols
    ]
    assert 0.8 < np.polyfit(np.log(tols), np.log(errors), 1)[0] < 1.2
    # No tolerance is missed by more than the growth of errors along the orbit, measured as below 20.
    assert max(errors / tols) < 20.0


def test_as_accurate_as_scipy_for_the_same_work():
    # The same pair with another controller: the product of error and evaluations^5, which the pair fixes,
    # within a factor 10.
    tol = 1e-8
    ours = integrate(*RUN, rtol=tol, atol=tol)

    def flat(t, y):
        out = np.empty_like(SPIRAL.y0)
        SPIRAL.field(t, y.reshape(out.shape), out)
        return out.ravel()

    theirs = solve_ivp(flat, (0.0, 3.0), SPIRAL.y0.ravel(), method="RK45", rtol=tol, atol=tol)
    exact = SPIRAL.exact(3.0)
    our_cost = np.abs(ours.x_final - exact).max() * ours.stats["evaluations"] ** 5.0
    their_cost = np.abs(theirs.y[:, -1] - exact.ravel()).max() * float(theirs.nfev) ** 5
    assert our_cost < 10.0 * their_cost


@pytest.mark.parametrize("name", METHODS)
def test_t_eval_is_accurate_and_changes_nothing(name):
    times = np.linspace(0.0, 3.0, 37)
    plain = integrate(*RUN, method=name, step=0.01, rtol=1e-8, atol=1e-8)
    dense = integrate(*RUN, method=name, step=0.01, rtol=1e-8, atol=1e-8, t_eval=times)
    assert bits(plain) == bits(dense)
    np.testing.assert_array_equal(dense.t, times)
    assert dense.x[0].tobytes() == SPIRAL.y0.tobytes()
    assert dense.x[-1].tobytes() == plain.x_final.tobytes()
    np.testing.assert_array_equal(plain.t, [0.0, 3.0])
    errors = np.abs(dense.x - np.stack([SPIRAL.exact(t) for t in times])).max(axis=(1, 2))
    # Euler: h times |y''| / 2 = 0.01 * 5; Heun: h^2 times |y'''| / 6 = 1e-4 * 5; the others: 10 times the tolerance,
    # or the error of rk4 at this step, below 1e-7.
    assert errors.max() < {"euler": 0.05, "heun": 5e-4}.get(name, 1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_no_output_changes_the_bits(name):
    rng = np.random.default_rng(1)
    plain = integrate(*RUN, method=name, step=0.013)
    seen = []
    observers = [
        Observer(lambda t, x: seen.append(t), time=0.0371),
        Observer(lambda t, x: seen.append(t), steps=3),
    ]
    observers.append(Observer(lambda t, x: seen.append(t), walltime=1e-6))
    busy = integrate(
        *RUN,
        method=name,
        step=0.013,
        t_eval=np.unique(rng.uniform(0.0, 3.0, 100)),
        observers=observers,
        events=[BlowUp(50.0)],
        progress=lambda t, stats: seen.append(t),
    )
    assert bits(plain) == bits(busy)
    assert len(seen) > 100


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cut", [1, 4, 17])
def test_restart_from_the_record_is_exact(name, cut):
    problem = Problem.checked(*RUN, Options(method=name, step=0.05, rtol=1e-9, atol=1e-9, t_eval=[0.03, 1.0, 2.0]))
    whole = Integrator(problem)
    while whole.step() is None:
        pass
    first = Integrator(problem)
    for _ in range(cut):
        assert first.step() is None
    saved = first.state.copy()
    first.step()  # the record must be a copy: going on does not touch it
    second = Integrator(problem, state=saved)
    while second.step() is None:
        pass
    assert second.status is Status.COMPLETED
    assert second.state.y.tobytes() == whole.state.y.tobytes()
    for key in ("t", "step", "h", "error", "rejected", "evaluations", "fresh"):
        assert getattr(second.state.clock, key) == getattr(whole.state.clock, key)
    late = [t > saved.t for t in (0.03, 1.0, 2.0)]
    assert second.solution().x.tobytes() == whole.solution().x[late].tobytes()


def test_restart_right_after_a_rejection():
    problem = Problem.checked(Decay(np.ones((2, 2)), 50.0).field, np.ones((2, 2)), (0.0, 1.0), Options(step=1.0))
    whole, cut = Integrator(problem), Integrator(problem)
    cut._stepper.attempt()
    assert cut.state.clock.retries == 1
    rest = Integrator(problem, state=cut.state.copy())
    for run in (whole, rest):
        while run.step() is None:
            pass
    assert rest.state.y.tobytes() == whole.state.y.tobytes()
    assert rest.state.clock.rejected == whole.state.clock.rejected


def test_the_solution_of_an_unfinished_run():
    run = Integrator(Problem.checked(*RUN, Options()))
    run.step()
    found = run.solution()
    assert found.status is Status.INTERRUPTED and not found.success
    assert found.t_final == run.state.t > 0.0


def test_a_restart_at_the_end_is_complete():
    problem = Problem.checked(*RUN, Options())
    end = State.initial(3.0, SPIRAL.exact(3.0))
    end.clock.step = 7
    assert Integrator(problem, state=end).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("name", "calls"), [("euler", 6), ("heun", 12), ("rk4", 24), ("bosh3", 3), ("dopri5", 6), ("tsit5", 6)]
)
def test_number_of_evaluations(name, calls):
    counted = Counted(SPIRAL.field)
    sol = integrate(counted, SPIRAL.y0, (0.0, 0.6), method=name, step=0.1)
    tries = sol.stats["accepted"] + sol.stats["rejected"]
    # Fixed: six steps. Adaptive: so many per attempted step and f(t0, y0) once; without `step` one more to
    # choose it.
    need = calls if name not in ADAPTIVE else calls * tries + 1
    assert counted.calls == sol.stats["evaluations"] == need
    if name in ADAPTIVE:
        chosen = integrate(SPIRAL.field, SPIRAL.y0, (0.0, 0.6), method=name).stats
        assert chosen["evaluations"] == calls * (chosen["accepted"] + chosen["rejected"]) + 2


def test_euler_is_a_residual_network():
    layers = Layers((0.5, -0.25, 1.0, 2.0, -0.5, 0.125))
    sol = integrate(layers.field, layers.y0, (0.0, 6.0), method="euler", step=1.0)
    # All slopes are sums of powers of two: no rounding, equal bits.
    np.testing.assert_array_equal(sol.x_final, layers.network())
    assert layers.times == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    half = integrate(layers.field, layers.y0, (0.0, 6.0), method="euler", step=1.0, t_eval=[0.5])
    np.testing.assert_array_equal(half.x[0], 1.25 * layers.y0)  # the line within a layer
    assert half.stats["evaluations"] == 6


def test_euler_with_hundreds_of_layers_hits_each_once():
    # Accumulated times would drift off the grid: 0.1 * i for 600 steps.
    layers = Layers((0.0,))
    integrate(layers.field, layers.y0, (0.0, 60.0), method="euler", step=0.1)
    assert layers.times == [i * 0.1 for i in range(600)]


@pytest.mark.parametrize("name", METHODS)
def test_backward(name):
    run = {"method": name, "step": 0.01, "rtol": 1e-9, "atol": 1e-9}
    start = SPIRAL.exact(1.0)
    sol = integrate(SPIRAL.field, start, (1.0, 0.0), t_eval=[1.0, 0.5, 0.0], **run)
    exact = np.stack([SPIRAL.exact(t) for t in (1.0, 0.5, 0.0)])
    # Backwards errors grow like exp(3): 20 times what they are forwards; Euler 0.01 * 5 * 20, Heun 1e-4 * 5 * 20,
    # the others 1e-9 * 100.
    assert np.abs(sol.x - exact).max() < {"euler": 1.0, "heun": 1e-2}.get(name, 1e-6)
    assert sol.stats["last_step"] < 0.0


@pytest.mark.parametrize("name", METHODS)
def test_float32_stays_float32(name):
    types = set()

    def field(t, y, out):
        types.update((y.dtype, out.dtype, type(t)))
        SPIRAL.field(t, y, out)

    y0 = SPIRAL.y0.astype(np.float32)
    sol = integrate(field, y0, (0.0, 1.0), method=name, step=0.01, rtol=1e-5, atol=1e-6, t_eval=[0.5, 1.0])
    assert types == {np.dtype(np.float32), float}
    assert sol.x.dtype == sol.x_final.dtype == np.float32
    # 100 roundings of 6e-8 and the tolerance 1e-5 a few times over; Euler and Heun as above.
    assert np.abs(sol.x_final - SPIRAL.exact(1.0)).max() < {"euler": 0.05, "heun": 5e-4}.get(name, 1e-4)


@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (2, 4, 3), (2, 2, 2, 2)])
@pytest.mark.parametrize("name", METHODS)
def test_any_shape(shape, name):
    problem = Decay(np.full(shape, 2.0))
    events = [BlowUp(1e3)]
    sol = integrate(problem.field, problem.y0, (0.0, 1.0), method=name, step=0.01, t_eval=[0.5, 1.0], events=events)
    assert sol.x.shape == (2, *shape)
    np.testing.assert_allclose(sol.x_final, problem.exact(1.0), rtol={"euler": 0.01, "heun": 1e-4}.get(name, 1e-5))
    assert sol.x_events[0].shape == (0, *shape)


def test_y0_is_neither_changed_nor_kept():
    y0 = np.asfortranarray(SPIRAL.y0.copy())
    y0.flags.writeable = False
    problem = Problem.checked(SPIRAL.field, y0, (0.0, 1.0), Options())
    assert not np.shares_memory(problem.y0, y0)
    sol = integrate(SPIRAL.field, y0, (0.0, 0.0))
    assert not np.shares_memory(sol.x, y0)
    assert y0.tobytes(order="C") == SPIRAL.y0.tobytes()


def test_empty_span():
    sol = integrate(SPIRAL.field, SPIRAL.y0, (1.0, 1.0), method="rk4", step=0.1)
    assert (sol.status, sol.t.tolist(), sol.stats["evaluations"]) == (Status.COMPLETED, [1.0], 0)
    assert integrate(SPIRAL.field, SPIRAL.y0, (1.0, 1.0), t_eval=[1.0]).x.tobytes() == SPIRAL.y0.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_blow_up_without_an_event_ends_with_a_clear_status(name):
    sol = integrate(Riccati().field, Riccati.y0, (0.0, 2.0), method=name, step=0.01, max_steps=5000)
    assert np.isfinite(sol.x_final).all()
    if name in ADAPTIVE:
        assert sol.status is Status.STEP_TOO_SMALL
        assert "BlowUp" in sol.message
        # The numerical solution blows up where the accumulated relative error, some 1e-6 per step, puts it.
        assert sol.t_final == pytest.approx(1.0, abs=1e-4)
    else:
        # Fixed steps run over the singularity and overflow within a few steps; Euler lags by steps * log.
        assert sol.status is Status.NOT_FINITE
        assert 0.9 < sol.t_final < 1.3
        assert "first bad entry of the step tried: (0, 0)" in sol.message


@pytest.mark.parametrize("name", METHODS)
def test_max_steps(name):
    sol = integrate(*RUN, method=name, step=0.001, max_steps=4, t_eval=[0.0, 3.0])
    assert sol.status is Status.MAX_STEPS
    assert sol.stats["accepted"] + sol.stats["rejected"] == 4
    assert sol.t.tolist() == [0.0]
    assert 0.0 < sol.t_final < 3.0
    assert "Raise max_steps" in sol.message


def test_batch_errors_are_per_system():
    # One rough system among many quiet ones sets the step: its error must not be averaged away.
    rough = np.full((1, 4, 2), 1.0)
    batch = np.concatenate([rough, np.zeros((400, 4, 2))])

    def field(t, y, out):
        np.multiply(y, 10.0 * np.cos(10.0 * t), out=out)

    run = {"rtol": 1e-6, "atol": 1e-9}
    alone = integrate(field, rough, (0.0, 2.0), step=0.01, **run)
    together = integrate(field, batch, (0.0, 2.0), step=0.01, **run)
    assert together.x_final[0].tobytes() == alone.x_final[0].tobytes()


def test_keyboard_interrupt_is_not_swallowed():
    def field(t, y, out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        integrate(field, SPIRAL.y0, (0.0, 1.0))


def test_progress(capsys):
    calls = []
    sol = integrate(*RUN, progress=lambda t, stats: calls.append((t, stats["steps"])))
    assert [steps for _, steps in calls] == list(range(1, sol.stats["steps"] + 1))
    assert calls[-1][0] == 3.0
    integrate(*RUN, progress=False)
    assert capsys.readouterr() == ("", "")
    integrate(*RUN, progress=True)
    captured = capsys.readouterr()
    assert "t = 3 of 3" in captured.err
    assert "100%" in captured.err
    assert captured.out == ""


def test_import_is_light():
    code = (
        "import sys; before = set(sys.modules); import fastpde.integrate;"
        "print([m for m in ('scipy', 'tqdm', 'numba') if m in set(sys.modules) - before])"
    )
    # The package itself may import more one day; time stepping alone must not be the reason.
    code = (
        "import types, sys; sys.modules['fastpde'] = p = types.ModuleType('fastpde');p.__path__ = ['fastpde'];" + code
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


BAD = [
    (
        {"method": "rk5"},
        InputError,
        r"method: got 'rk5'; need one of 'euler', 'heun', 'rk4', 'bosh3', 'dopri5', 'tsit5'",
    ),
    ({"method": 4}, InputTypeError, "method: got 4"),
    ({"method": "rk4"}, InputError, "step: got None; need a number > 0, because rk4"),
    ({"step": 0.0}, InputError, "step: got 0.0"),
    ({"step": True}, InputTypeError, "step: got True"),
    ({"method": "rk4", "step": 1e-400}, InputError, "step: got 0.0"),
    (
        {"method": "rk4", "step": 1e-320},
        InputError,
        r"step: got 1e-320; need at least 1.11e-16: no more than",
    ),
    ({"method": "rk4", "step": 1e-17}, InputError, "step: got 1e-17; need at least 1.11e-16"),
    ({"step": 10**400}, InputError, "step: got 1000.*; need a finite number"),
    ({"rtol": -1e-6}, InputError, "rtol: got -1e-06"),
    ({"rtol": "1e-6"}, InputTypeError, "rtol: got '1e-6'"),
    ({"atol": 0}, InputError, "atol: got 0"),
    ({"atol": np.inf}, InputError, "atol: got inf"),
    ({"max_steps": 0}, InputError, "max_steps: got 0"),
    ({"max_steps": 10.0}, InputTypeError, "max_steps: got 10.0"),
    ({"max_steps": True}, InputTypeError, "max_steps: got True"),
    ({"t_span": (0.0, np.nan)}, InputError, r"t_span\[1\]: got nan"),
    ({"t_span": (0.0, "1")}, InputTypeError, r"t_span\[1\]: got '1'"),
    ({"t_span": (0.0, 1.0, 2.0)}, InputError, "t_span: got 3 values"),
    ({"t_span": 1.0}, InputTypeError, "t_span: got 1.0"),
    ({"t_eval": [0.5, 0.2]}, InputError, "t_eval: got 0.5 followed by 0.2"),
    ({"t_eval": [0.5, 0.5]}, InputError, "t_eval: got 0.5 followed by 0.5"),
    ({"t_eval": [0.5, 1.5]}, InputError, "t_eval: got 1.5; need times within t_span"),
    ({"t_eval": [0.5, np.nan]}, InputError, "t_eval: got nan"),
    ({"t_eval": []}, InputError, "t_eval: got shape"),
    ({"t_eval": "now"}, InputTypeError, "t_eval: got 'now'"),
    ({"y0": np.array([[1, 2]])}, InputTypeError, r"y0: got dtype int64.*astype\(float\)"),
    ({"y0": np.array([[1.0, np.nan]])}, InputError, r"y0: got nan at index \(0, 1\)"),
    ({"y0": np.ones((1, 2), complex)}, InputTypeError, "y0: got dtype complex128"),
    ({"y0": np.empty((0, 2))}, InputError, r"y0: got shape \(0, 2\)"),
    ({"y0": [[1.0], [1.0, 2.0]]}, InputError, "y0: got"),
    ({"y0": np.ma.masked_array([1.0, 2.0])}, InputTypeError, "y0: got a masked array"),
    ({"field": None}, InputTypeError, "field: got None"),
    ({"events": BlowUp(1.0)}, InputTypeError, r"events: got .* A single one is written events=\(item,\)"),
    ({"observers": [print]}, InputTypeError, r"observers\[0\]: got .*Wrap it: Observer"),
    ({"observers": [Observer(print, time=1e-30)]}, InputError, r"observers\[0\].time"),
    ({"progress": "yes"}, InputTypeError, "progress: got 'yes'"),
    ({"space": object()}, InputTypeError, "space: got .* without combine, error_norm, max_norm"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_bad_arguments_are_named_before_any_work(change, error, text):
    counted = Counted(SPIRAL.field)
    arguments = {"field": counted, "y0": SPIRAL.y0, "t_span": (0.0, 1.0), **change}
    with pytest.raises(error, match=text):
        integrate(**arguments)
    assert counted.calls == 0


class Remembering:
    """y' = -y (1 + 1e-3 times the number of calls so far): a field whose results depend on its memory."""

    def __init__(self):
        self.memory = {}

    def __call__(self, t, y, out):
        calls = self.memory.get("calls", np.zeros(1))
        self.memory["calls"] = calls + 1.0
        out[...] = -y * (1.0 + 1e-3 * calls)

    def stats(self):
        return {"calls": float(self.memory["calls"][0])}


def test_the_memory_of_a_field_is_part_of_the_state():
    def fresh():
        return Problem.checked(Remembering(), np.ones((2, 2)), (0.0, 1.0), Options(method="dopri5"))

    whole, part = Integrator(fresh()), Integrator(fresh())
    while whole.status is None:
        whole.step()
    for _ in range(3):
        part.step()
    saved = part.state.copy()
    part.step()  # must not reach into what was saved
    resumed = Integrator(fresh(), state=saved)
    while resumed.status is None:
        resumed.step()
    np.testing.assert_array_equal(resumed.solution().x_final, whole.solution().x_final)
    assert resumed.stats()["calls"] == whole.stats()["calls"] == whole.stats()["evaluations"]


def test_growth_beyond_the_largest_number_advises_no_adaptive_method_to_one():
    """x' = x reaches the largest number at t = 710 without a blow-up before it."""

    def grows(t, y, out):
        np.copyto(out, y)

    sol = integrate(grows, np.ones((2, 2)), (0.0, 2000.0))
    assert sol.status is Status.NOT_FINITE and "BlowUp" in sol.message and "adaptive" not in sol.message
    assert "adaptive" in integrate(grows, np.ones((2, 2)), (0.0, 2000.0), method="euler", step=1.0).message


def test_a_velocity_that_is_never_finite_is_said():
    sol = integrate(lambda t, y, out: np.copyto(out, np.nan), np.ones(2), (0.0, 1.0))
    assert sol.status is Status.NOT_FINITE and "velocity of the initial state" in sol.message


def test_steps_that_are_too_large_are_said():
    """Euler's steps of 100 on y' = -y multiply y by -99: the run ends, and says that it is none of the flow."""

    def falls(t, y, out):
        np.negative(y, out=out)

    options = {"method": "euler", "step": 100.0}
    sol = integrate(falls, np.ones((2, 2)), (0.0, 500.0), **options)
    assert sol.success and "In 5 steps the largest entry grew more than tenfold" in sol.message
    problem = Problem.checked(falls, np.ones((2, 2)), (0.0, 500.0), Options(**options))
    run = Integrator(problem)
    for _ in range(2):
        run.step()
    rest = Integrator(problem, State.of(*run.state.copy().parts()))
    while rest.status is None:
        rest.step()
    assert rest.ending().message == sol.message
    assert "tenfold" not in integrate(falls, np.ones((2, 2)), (0.0, 5.0), method="euler", step=0.5).message
    assert "tenfold" not in integrate(falls, np.zeros((2, 2)), (0.0, 500.0), **options).message


class Coarse(Counted):
    """A field whose values have a relative error of 1e-6."""

    def resolution(self):
        return 1e-6


def test_a_tolerance_below_the_error_of_the_field_is_warned_of_once(recwarn):
    field = Coarse(SPIRAL.field)
    assert integrate(field, *RUN[1:], rtol=1e-6).success and not recwarn.list
    with pytest.warns(RuntimeWarning, match="rtol = 1e-09 is below 1e-06") as found:
        sol = integrate(field, *RUN[1:], rtol=1e-9)
    assert len(found) == 1 and "rtol = 1e-09 is below" in sol.message
    assert integrate(field, *RUN[1:], method="rk4", step=0.1).success
