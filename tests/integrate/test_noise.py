"""Steps with noise: their formulas, their strong order, what lies between them, restarts, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.errors import InputError, InputTypeError
from fastpde.integrate import METHODS, Integrator, Problem, SteadyState, integrate
from fastpde.integrate.methods import NOISY
from fastpde.integrate.options import Options
from tests.problems_ode import fitted_slope

each_noisy = pytest.mark.parametrize("method", NOISY)
FINE = 1024  # steps of the finest Brownian path over [0, 1]


def pull(t, y, out):
    """A nonlinear drift, explicit in t."""
    np.sin(y, out=out)
    out *= -2.0
    out += np.cos(3.0 * t)


class Path:
    """A Brownian path on a grid of `FINE` steps, walked in steps of any multiple: the sum of the fine increments."""

    def __init__(self, shape, strength=0.7, seed=0):
        normals = np.random.default_rng(seed).standard_normal((FINE, *shape))
        self.increments = strength * normals / np.sqrt(FINE)

    def increment(self, step, h):
        many = round(h * FINE)
        return self.increments[step * many : (step + 1) * many].sum(axis=0)

    def __call__(self, step, h, y, out):
        out[...] = self.increment(step, h) / h


def by_hand(method, path, y, count):
    """Euler-Maruyama and stochastic Heun as the literature writes them."""
    h = 1.0 / count

    def f(t, y):
        out = np.empty_like(y)
        pull(t, y, out)
        return out

    for i in range(count):
        kick, slope = path.increment(i, h), f(i * h, y)
        if method == "heun":
            slope = (slope + f((i + 1) * h, y + h * slope + kick)) / 2
        y = y + h * slope + kick
    return y


@each_noisy
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_run_is_its_formula(method, dtype):
    y0, path = np.linspace(-1, 1, 6, dtype=dtype).reshape(3, 2), Path((3, 2))
    sol = integrate(pull, y0, (0.0, 1.0), method=method, step=1 / 64, noise=path)
    assert sol.x.dtype == dtype and sol.stats["evaluations"] == 64 * {"euler": 1, "heun": 2}[method]
    # 64 steps of a few roundings of numbers of size one.
    np.testing.assert_allclose(sol.x_final, by_hand(method, path, y0, 64), rtol=0, atol=64 * np.finfo(dtype).eps)


@each_noisy
def test_strong_order_one(method):
    """Additive noise: the root mean square distance to a fine run on the same path falls like h; 0.15 as for any fit.

    Two thousand paths: the mean square is known to some per cent. The fine run is 16 times finer than the finest here.
    """
    y0, path = np.zeros((2000, 1)), Path((2000, 1))
    fine = integrate(pull, y0, (0.0, 1.0), method="heun", step=1 / FINE, noise=path).x_final
    counts = (16, 32, 64)
    ends = [integrate(pull, y0, (0.0, 1.0), method=method, step=1 / count, noise=path).x_final for count in counts]
    errors = [np.sqrt(np.mean((end - fine) ** 2)) for end in ends]
    assert abs(fitted_slope([1 / count for count in counts], errors) - 1.0) < 0.15
    assert errors[-1] < 0.05


def test_another_path_has_no_order():
    """The fit above can fail: on a path of its own the fine run is at the distance of the noise, whatever the step."""
    y0 = np.zeros((500, 1))
    fine = integrate(pull, y0, (0.0, 1.0), method="heun", step=1 / FINE, noise=Path(y0.shape, seed=1)).x_final
    path, counts = Path(y0.shape), (16, 32, 64)
    ends = [integrate(pull, y0, (0.0, 1.0), method="euler", step=1 / count, noise=path).x_final for count in counts]
    errors = [np.sqrt(np.mean((end - fine) ** 2)) for end in ends]
    assert abs(fitted_slope([1 / count for count in counts], errors)) < 0.15


@each_noisy
def test_a_straight_line_between_the_ends_of_steps(method):
    y0, path, h = np.zeros((4, 2)), Path((4, 2)), 1 / 16
    times = np.arange(17) * h
    ends = integrate(pull, y0, (0.0, 1.0), method=method, step=h, noise=path, t_eval=times)
    inside = integrate(pull, y0, (0.0, 1.0), method=method, step=h, noise=path, t_eval=times[:-1] + 0.25 * h)
    np.testing.assert_allclose(inside.x, 0.75 * ends.x[:-1] + 0.25 * ends.x[1:], rtol=0, atol=1e-15)
    assert ends.x[-1].tobytes() == inside.x_final.tobytes()  # output changes nothing


def test_events_are_on_the_line():
    y0, path, level = np.zeros((1, 1)), Path((1, 1), strength=3.0), 0.4

    def passes(t, y):
        return y[0, 0] - level

    run = {"method": "euler", "step": 1 / 16, "noise": path}
    sol = integrate(pull, y0, (0.0, 1.0), events=[passes, SteadyState(1e-12, terminal=False)], **run)
    plain = integrate(pull, y0, (0.0, 1.0), t_eval=np.arange(17) / 16, **run)
    i = int(np.argmax(plain.x[:, 0, 0] >= level)) if (plain.x > level).any() else -1
    assert i > 0 and sol.status.value == "event"
    before, after = plain.x[i - 1, 0, 0], plain.x[i, 0, 0]
    assert sol.t_final == pytest.approx((i - 1 + (level - before) / (after - before)) / 16, abs=1e-14)
    assert sol.x_final[0, 0] == pytest.approx(level, abs=1e-14)


@each_noisy
@pytest.mark.parametrize("cut", [1, 5, 15])
def test_a_restart_goes_on_bit_for_bit(method, cut):
    problem = Problem.checked(
        pull, np.zeros((5, 2)), (0.0, 1.0), Options(method=method, step=1 / 16, noise=Path((5, 2)))
    )
    whole, first = Integrator(problem), Integrator(problem)
    for _ in range(cut):
        first.step()
    saved = first.state.copy()
    first.step()
    second = Integrator(problem, state=saved)
    for run in (whole, second):
        while run.step() is None:
            pass
    assert second.state.y.tobytes() == whole.state.y.tobytes()
    assert second.state.step == whole.state.step == 16


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NOISY])
def test_other_methods_refuse_noise(method):
    with pytest.raises(InputError, match="need 'euler' or 'heun', because there is noise") as caught:
        integrate(pull, np.zeros((2, 2)), (0.0, 1.0), method=method, step=0.1, noise=Path((2, 2)))
    assert caught.value.name == "method"


def test_noise_refuses_to_run_backwards_and_what_is_no_function():
    run = {"method": "euler", "step": 0.1}
    with pytest.raises(InputError, match="backwards") as caught:
        integrate(pull, np.zeros((2, 2)), (1.0, 0.0), noise=Path((2, 2)), **run)
    assert caught.value.name == "t_span"
    with pytest.raises(InputTypeError, match=r"noise: got 0\.1"):
        integrate(pull, np.zeros((2, 2)), (0.0, 1.0), noise=0.1, **run)


def test_a_noise_that_forgets_to_write_is_found():
    sol = integrate(pull, np.zeros((2, 2)), (0.0, 1.0), method="heun", step=0.1, noise=lambda step, h, y, out: None)
    assert sol.status.value == "not_finite"
