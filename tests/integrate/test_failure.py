"""Fields that cannot compute their velocity and say why: smaller steps are tried, then the run ends with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.errors import FieldError
from fastpde.integrate import Status, integrate


class Fragile:
    """y' = 1; fails where `bad(t, y)`, and beyond what numbers can hold it is infinite without a failure."""

    def __init__(self, bad):
        self.bad, self.reason, self.calls = bad, None, 0

    def __call__(self, t, y, out):
        self.calls += 1
        out[...] = 1.0
        self.reason = FieldError(f"stuck at {t:.3f}.") if self.bad(t, y) else None
        if self.reason:
            out[...] = np.nan

    def failure(self):
        return self.reason


@pytest.mark.parametrize("method", ["euler", "rk4", "bosh3", "dopri5", "tsit5"])
def test_the_reason_is_in_the_message_and_earlier_states_are_kept(method):
    field, times = Fragile(lambda t, y: t >= 0.5), np.linspace(0.0, 1.0, 11)
    step = 0.05 if method in ("euler", "rk4") else None
    sol = integrate(field, np.zeros(2), (0.0, 1.0), method=method, step=step, t_eval=times)
    assert sol.status is Status.NOT_CONVERGED and not sol.success
    assert sol.cause is field.reason and sol.message.startswith("stuck at 0.5")
    assert sol.t_final <= 0.5 and sol.t.tolist() == times[times <= sol.t_final].tolist()
    assert sol.t_final > 0.4
    np.testing.assert_allclose(sol.x[:, 0], sol.t, rtol=0, atol=1e-14)
    np.testing.assert_allclose(sol.x_final, sol.t_final, rtol=0, atol=1e-14)


def test_smaller_steps_can_help():
    """Each call more than 0.01 after the last good one fails: the first step of 1 is tried again, and again."""
    last = [0.0]

    def bad(t, y):
        far = t - last[0] > 0.01
        last[0] = last[0] if far else max(t, last[0])
        return far

    sol = integrate(Fragile(bad), np.zeros(2), (0.0, 0.05), step=0.05)
    assert sol.success and sol.cause is None and sol.stats["rejected"] > 0


def test_the_attempts_are_few():
    """At the second evaluation of every step: five trials, of two evaluations at most before all are nan."""
    field = Fragile(lambda t, y: t > 0.0)
    sol = integrate(field, np.zeros(2), (0.0, 1.0), step=0.1)
    assert sol.status is Status.NOT_CONVERGED and (sol.stats["rejected"], sol.t_final) == (5, 0.0)
    assert sol.t.tolist() == [0.0] and not sol.x.any()


def test_the_span_bounds_how_near_steps_go():
    """Towards t = 0.5 steps shrink to a millionth of the span, not to the spacing of numbers."""
    sol = integrate(Fragile(lambda t, y: t > 0.5), np.zeros(2), (0.0, 1.0))
    assert 1e-8 < 0.5 - sol.t_final < 1e-4 and sol.stats["rejected"] < 30


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_at_the_start_it_is_a_status_too(method):
    sol = integrate(Fragile(lambda t, y: True), np.ones(2), (0.0, 1.0), method=method, step=0.1)
    assert sol.status is Status.NOT_CONVERGED and sol.stats["steps"] == 0
    np.testing.assert_array_equal(sol.x, np.ones((1, 2)))


def test_other_ends_have_no_cause():
    assert integrate(Fragile(lambda t, y: False), np.ones(2), (0.0, 1.0)).cause is None
    blows = integrate(lambda t, y, out: np.square(y, out=out), np.ones(2), (0.0, 2.0), method="rk4", step=0.1)
    assert blows.status is Status.NOT_FINITE and blows.cause is None
