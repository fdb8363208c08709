"""The memory of stages: what rk4 keeps of them, and that a step has the same bits however they are kept."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fastpde.integrate import Integrator, Observer, Problem, State
from fastpde.integrate.methods import TABLEAUX
from fastpde.integrate.options import Options
from fastpde.integrate.space import VectorSpace

LARGE = np.linspace(0.5, 1.5, 2_000_000).reshape(-1, 2)
SMALL = np.array([[1.0, 2.0], [0.5, -1.0]])


class Stop(Exception):
    pass


class Turning:
    """y' = -y sin(t + y), block by block, without large arrays; it raises at the evaluation with the number `stop`."""

    def __init__(self, stop: int = -1) -> None:
        self.calls, self.stop = 0, stop

    def __call__(self, t, y, out):
        self.calls += 1
        for start in range(0, len(y), 1000):
            part = slice(start, start + 1000)
            out[part] = -y[part] * np.sin(t + y[part])
        if self.calls == self.stop:
            out[...] = 7.0
            raise Stop


class Plain:
    """A space of three methods: a stepper keeps all stages."""

    def __init__(self, y):
        own = VectorSpace(y.shape, y.dtype)
        self.combine, self.error_norm, self.max_norm = own.combine, own.error_norm, own.max_norm


def problem(y0=SMALL, field=None, method="rk4", space=None, **asked):
    options = Options(method=method, step=0.1, space=space, **asked)
    return Problem.checked(field or Turning(), y0, (0.0, 1.0), options)


def ended(run):
    while run.step() is None:
        pass
    return run


def arrays_of_a_run(method, dense, **asked):
    """Return the largest memory of a run after its first step, in arrays of the size of a state."""
    tracemalloc.start()
    try:
        run = Integrator(problem(LARGE, method=method, **asked), undo=dense)
        run.step()
        tracemalloc.reset_peak()
        ended(run).solution()
        return tracemalloc.get_traced_memory()[1] / LARGE.nbytes
    finally:
        tracemalloc.stop()


# The state, the one being tried, and of the stages: of euler k; of heun two; of rk4 the last one and the sum. With an
# extension also f at the beginning and, of euler and heun, at the end; and three arrays at the end, for the solution.
@pytest.mark.parametrize(
    ("method", "lean", "dense"), [("euler", 3, 4), ("heun", 4, 5), ("rk4", 4, 5), ("dopri5", 9, 9)]
)
def test_arrays_of_a_run(method, lean, dense):
    assert arrays_of_a_run(method, False) == pytest.approx(lean, abs=0.2)
    # The two states of the solution come in the end, to what the steps have needed.
    assert arrays_of_a_run(method, True) == pytest.approx(dense + 2, abs=0.2)


def test_all_stages_are_more():
    """The count above can fail."""
    assert arrays_of_a_run("rk4", True, space=Plain(LARGE)) == pytest.approx(9, abs=0.2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "dopri5"])
def test_output_and_memory_change_no_bit(method, dtype):
    y0 = SMALL.astype(dtype)
    plain = ended(Integrator(problem(y0, method=method))).solution()
    frames = []
    seen = Observer(lambda t, y: frames.append(y.copy()), time=0.07)
    for asked in (
        {"t_eval": [0.5, 0.77, 1.0]},
        {"observers": [seen]},
        {"space": Plain(y0)},
        {"space": Plain(y0), "t_eval": [0.5, 1.0]},
    ):
        found = ended(Integrator(problem(y0, method=method, **asked))).solution()
        assert found.x_final.tobytes() == plain.x_final.tobytes()
    assert len(frames) == 16


def test_frames_between_steps_are_those_of_all_stages():
    """The extension by the sum of the stages is the same polynomial, summed in another order."""
    times = [0.03, 0.18, 0.5, 0.999]
    one, other = (ended(Integrator(problem(t_eval=times, space=space))).solution().x for space in (None, Plain(SMALL)))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-15)
    assert one[2].tobytes() == other[2].tobytes()


@pytest.mark.parametrize("stop", range(1, 9))
@pytest.mark.parametrize("lean", [False, True])
def test_a_step_goes_on_where_an_exception_has_cut_it(stop, lean):
    whole = ended(Integrator(problem()))
    run = Integrator(problem(field=Turning(stop)), undo=not lean)
    with pytest.raises(Stop):
        ended(run)
    assert run.state.summed == (stop - 1) % 4 and run.state.under_way == (stop % 4 != 1)
    if not lean:
        run = Integrator(problem(), State.of(*run.snapshot().parts()))
    ended(run)
    assert run.state.y.tobytes() == whole.state.y.tobytes()
    assert run.state.clock.evaluations == whole.state.clock.evaluations


@pytest.mark.parametrize("stop", range(1, 9))
def test_stages_of_an_earlier_version_are_gone_on_with(stop):
    """A checkpoint of a step under way had all of its stages."""
    whole = ended(Integrator(problem()))
    run = Integrator(problem(field=Turning(stop), space=Plain(SMALL)), undo=True)
    with pytest.raises(Stop):
        ended(run)
    numbers, arrays = run.snapshot().parts()
    assert len(arrays.get("stages", ())) == max((stop - 1) % 4 - 1, 0) and "summed" not in numbers
    again = ended(Integrator(problem(), State.of(numbers, arrays)))
    assert again.state.y.tobytes() == whole.state.y.tobytes()
    assert again.state.clock.evaluations == whole.state.clock.evaluations


def test_a_sum_without_the_first_stage_is_made_again_for_an_extension():
    run = Integrator(problem(field=Turning(3)))
    with pytest.raises(Stop):
        ended(run)
    again = ended(Integrator(problem(t_eval=[0.05, 1.0]), State.of(*run.state.parts()))).solution()
    whole = ended(Integrator(problem(t_eval=[0.05, 1.0]))).solution()
    assert again.x.tobytes() == whole.x.tobytes()


def test_which_methods_have_a_sum():
    assert [name for name, tableau in TABLEAUX.items() if tableau.by_sum] == ["rk4"]
    assert TABLEAUX["rk4"].by_sum == ((1.0, -2.0, 1.0), (0.0, 3.0, -2.0), (0.0, -1.0, 1.0))
    weights = TABLEAUX["rk4"].weights_by_sum(1.0)
    assert weights == (0.0, 1.0, 0.0)
