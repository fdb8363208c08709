"""A run whose field raises, at any evaluation, goes on from its snapshot with the same bits and evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.integrate import Integrator, Observer, Problem, State, SteadyState
from fastpde.integrate.methods import METHODS
from fastpde.integrate.options import Options


class Stop(Exception):
    pass


class Forgetful:
    """y' = -y (1 + 1e-7 sin of how often it was asked): what it remembers matters, and is half changed by a stop."""

    def __init__(self) -> None:
        self.memory, self.left = {}, -1

    def __call__(self, t, y, out):
        count = self.memory.setdefault("count", np.zeros(1))
        count += 1.0
        self.left -= 1
        if self.left == 0:
            raise Stop
        np.multiply(y, -(1.0 + 1e-7 * np.sin(count[0])), out=out)


def problem(method, seen, field):
    options = Options(
        method=method,
        step=0.1 if method in ("euler", "heun", "rk4") else None,
        rtol=1e-4,
        events=(SteadyState(0.5),),
        observers=(Observer(lambda t, y: seen.append((t, y.tobytes())), time=0.07),),
    )
    return Problem.checked(field, np.array([[1.0, 2.0], [0.5, -1.0]]), (0.0, 2.0), options)


def ended(run):
    while run.step() is None:
        pass
    return run


@pytest.mark.parametrize("method", METHODS)
def test_stopped_at_every_evaluation(method):
    seen = []
    whole = ended(Integrator(problem(method, seen, Forgetful())))
    assert whole.status.value == "steady_state" and whole.state.step > 2
    for at in range(1, whole.state.clock.evaluations + 1):
        parts, field = [], Forgetful()
        first = Integrator(problem(method, parts, field), undo=True)
        field.left = at
        with pytest.raises(Stop):
            ended(first)
        numbers, arrays = first.snapshot().parts()
        field = Forgetful()
        second = Integrator(problem(method, parts, field), State.of(numbers, arrays))
        ended(second)
        assert second.status is whole.status and second.state.t == whole.state.t
        assert second.state.y.tobytes() == whole.state.y.tobytes()
        assert second.state.clock.evaluations == whole.state.clock.evaluations == field.memory["count"][0]
        assert parts == seen  # every output once


def test_without_undo_memory_is_as_the_stop_left_it():
    """The comparison above can fail."""
    field = Forgetful()
    run = Integrator(problem("rk4", [], field))
    field.left = 5
    with pytest.raises(Stop):
        ended(run)
    assert field.memory["count"][0] == run.state.clock.evaluations + 1
