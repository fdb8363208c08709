"""Brownian motion: whose numbers are whose, their law, and noisy runs through `fp.solve`."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.integrate import quad

import fastpde as fp
from fastpde import initial
from fastpde.integrate import Integrator, Problem
from fastpde.integrate.methods import NOISY
from fastpde.integrate.options import Options
from fastpde.meanfield import bind
from fastpde.noise import Brownian
from fastpde.simd import pool

from . import problems
from .problems import DTYPES, digest

SPHERE, I2, I3 = fp.Sphere(), np.eye(2), np.eye(3)
STILL = fp.Linear(I3, I3, np.zeros((3, 3)))
each_noisy = pytest.mark.parametrize("method", NOISY)


@pytest.fixture(autouse=True)
def one_thread():
    """Clouds this small are one thread's work; waiting for others costs far more where the cores are shared."""
    before = pool.threads()
    pool.set_threads(1)
    yield
    pool.set_threads(before)


def draw(shape, *, step=0, h=1.0, dtype=np.float64, noise=1.0, seed=0, **options):
    out = np.full(shape, np.nan, dtype)
    Brownian(noise, seed, **options)(step, h, np.zeros(shape, dtype), out)
    return out


# ---- whose numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 7, 385])
def test_a_token_does_not_depend_on_its_company(d):
    n = initial.BLOCK + 5
    many = draw((n, d))
    for m in (1, 7, initial.BLOCK - 1, initial.BLOCK, initial.BLOCK + 1):
        assert (draw((m, d)) == many[:m]).all()  # to the bit: they are the same draws
    batch = draw((3, 50, d))
    assert (batch[0] == many[:50]).all()
    assert (draw((2, 20, d), first_system=1) == batch[1:, :20]).all()
    assert (draw((20, d), first_system=2) == batch[2, :20]).all()


def test_no_two_share_their_numbers():
    """Steps, systems, blocks and seeds, in every combination, and the tokens of the same seed."""
    found = [fp.Gaussian(0.0, np.eye(1)).sample(2 * initial.BLOCK, 0)]
    for seed in (0, 1, 2**70):
        for step in (0, 1, 2**40):
            found.append(draw((2, initial.BLOCK + 9, 1), step=step, seed=seed, first_system=step))
    values = np.concatenate([x.ravel() for x in found])
    assert len(np.unique(values)) == len(values)


def test_a_step_can_be_drawn_again():
    noise, out = Brownian(0.3, 5), [np.empty((9, 2)) for _ in range(3)]
    for step, x in zip((4, 2, 4), out, strict=True):
        noise(step, 0.1, x, x)
    assert (out[0] == out[2]).all() and (out[0] != out[1]).all()


def test_float32_is_the_rounded_float64():
    assert (draw((50, 3), dtype=np.float32) == draw((50, 3)).astype(np.float32)).all()


def test_the_law():
    """Standard normals, independent between steps; five standard errors of each moment."""
    n, h, noise = 50_000, 0.04, 0.7
    z, w = (draw((n, 2), h=h, noise=noise, step=step) * np.sqrt(h) / noise for step in (0, 1))
    error = 5 / np.sqrt(2 * n)
    assert abs(z.mean()) < error and abs((z**2).mean() - 1) < np.sqrt(2) * error
    assert abs((z**3).mean()) < np.sqrt(15) * error and abs((z**4).mean() - 3) < np.sqrt(96) * error
    assert abs((z * w).mean()) < error and abs((z[:-1] * z[1:]).mean()) < error
    assert abs((z[:, 0] * z[:, 1]).mean()) < 5 / np.sqrt(n)


def test_noise_on_the_sphere_is_the_tangent_part():
    x, out = fp.laws.Sphere(3).sample(30, 0), np.empty((30, 3))
    Brownian(1.0, 0, project=SPHERE.project)(0, 1.0, x, out)
    free = draw((30, 3))
    np.testing.assert_allclose(out, free - (free * x).sum(axis=1, keepdims=True) * x, rtol=0, atol=1e-15)


def test_drawing_allocates_nothing_large():
    noise, x = Brownian(1.0), np.empty((20_000, 2))
    noise(0, 0.1, x, x)
    tracemalloc.start()
    try:
        noise(1, 0.1, x, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 10


WRONG = [
    ("noise", {"noise": -0.1}, fp.InputError),
    ("noise", {"noise": np.nan}, fp.InputError),
    ("noise", {"noise": np.inf}, fp.InputError),
    ("noise", {"noise": "0.1"}, fp.InputTypeError),
    ("noise", {"noise": True}, fp.InputTypeError),
    ("seed", {"seed": 1.0}, fp.InputTypeError),
    ("seed", {"seed": -1}, fp.InputError),
    ("seed", {"seed": None}, fp.InputTypeError),
    ("first_system", {"first_system": -1}, fp.InputError),
    ("method", {"noise": 0.1, "method": "rk4"}, fp.InputError),
    ("method", {"noise": 0.1, "method": "dopri5"}, fp.InputError),
    ("step", {"noise": 0.1, "step": None}, fp.InputError),
    ("t_span", {"noise": 0.1, "t_span": (1.0, 0.0)}, fp.InputError),
]


@pytest.mark.parametrize(("name", "change", "kind"), WRONG, ids=str)
def test_wrong_arguments_are_named(name, change, kind):
    run = {"t_span": (0.0, 1.0), "method": "euler", "step": 0.1} | change
    with pytest.raises(kind) as caught:
        fp.solve(fp.Softmax(I2, I2, I2), np.ones((3, 2)), **run)
    assert caught.value.name == name


def test_numbers_of_numpy_are_numbers():
    run = {"t_span": (0.0, 0.2), "method": "euler", "step": 0.1}
    ends = [
        fp.solve(STILL, np.ones((3, 3)), noise=noise, seed=seed, **run).x_final
        for noise, seed in ((0.5, 3), (np.float32(0.5), np.int64(3)))
    ]
    assert (ends[0] == ends[1]).all()


# ---- the same bits ---------------------------------------------------------------------------------------------------


def noisy(method="heun", dtype="float64", n=700, **options):
    """A noisy run on the sphere in which every thread has work."""
    x0 = fp.laws.Sphere(3).sample(n, 1, dtype=dtype)
    run = {"method": method, "step": 0.05, "noise": 0.4, "seed": 9, "manifold": SPHERE}
    return fp.solve(fp.Softmax(I3, I3, I3, scale=3.0), x0, (0.0, 0.5), **run | options)


def noisy_digests():
    """The end of each noisy run as a digest, for another process."""
    return {f"{method} {dtype}": digest(noisy(method, dtype).x_final) for method in NOISY for dtype in DTYPES}


def test_bits_do_not_depend_on_threads():
    """One and two threads of Numba, each in a process of its own, and one within this process."""
    code = "import json; from tests.test_noise import noisy_digests; print(json.dumps(noisy_digests()))"
    one, two = (problems.run(code, NUMBA_NUM_THREADS=count)[0] for count in (1, 2))
    assert one == two == noisy_digests()
    assert len(set(one.values())) == 4


def test_bits_do_not_depend_on_output():
    seen = []
    observers = [fp.Observer(lambda t, x: seen.append(t), time=0.013)]
    events = [fp.Collapsed(1e-9), fp.SteadyState(1e-9)]
    busy = noisy(n=40, t_eval=np.linspace(0, 0.5, 23), observers=observers, events=events)
    assert busy.x_final.tobytes() == noisy(n=40).x_final.tobytes() and len(seen) > 30
    # Chords of the sphere, retracted.
    assert np.abs(np.linalg.norm(busy.x, axis=-1) - 1).max() < 1e-15


@each_noisy
@pytest.mark.parametrize("manifold", [fp.Euclidean(), SPHERE], ids=str)
def test_a_system_can_be_run_alone(method, manifold):
    x0 = np.stack([fp.laws.Sphere(3).sample(20, s) for s in range(3)])
    run = {"t_span": (0, 0.3), "method": method, "step": 0.1, "noise": 0.4, "seed": 2, "manifold": manifold}
    together = fp.solve(fp.Softmax(I3, -I3, I3), x0, **run).x_final
    for b, alone in enumerate(x0):
        assert (
            fp.solve(fp.Softmax(I3, -I3, I3), alone, first_system=b, **run).x_final.tobytes() == together[b].tobytes()
        )
    assert (together[0] != fp.solve(fp.Softmax(I3, -I3, I3), x0[0], first_system=1, **run).x_final).all()


@each_noisy
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_restart_on_the_sphere_goes_on_bit_for_bit(method, dtype):
    """Everything new after the cut, the source of noise included: only the `State` is kept."""
    x0 = SPHERE.start(fp.laws.Sphere(3).sample(30, 1, dtype=dtype))

    def fresh():
        options = Options(
            method=method,
            step=0.05,
            space=SPHERE.space(x0.shape, x0.dtype),
            noise=Brownian(0.4, 9, project=SPHERE.project),
        )
        return Problem.checked(bind(fp.Softmax(I3, I3, I3, scale=3.0), x0, manifold=SPHERE), x0, (0.0, 0.5), options)

    first = Integrator(fresh())
    for _ in range(4):
        first.step()
    second = Integrator(fresh(), state=first.state.copy())
    while second.step() is None:
        pass
    assert second.solution().x_final.tobytes() == noisy(method, dtype, n=30).x_final.tobytes()


def test_no_noise_is_no_noise():
    x0 = fp.laws.Sphere(3).sample(10, 1)
    runs = [fp.solve(fp.Softmax(I3, I3, I3), x0, (0, 1), **noise) for noise in ({}, {"noise": 0.0, "seed": 5})]
    assert runs[0].x_final.tobytes() == runs[1].x_final.tobytes()


# ---- laws ------------------------------------------------------------------------------------------------------------


@each_noisy
def test_pure_noise_has_its_variance(method):
    """V = 0: x(t) - x0 is N(0, noise^2 t I) whatever the steps, a shorter last one included; five standard errors."""
    n, t, noise = 20_000, 0.35, 0.6
    sol = fp.solve(STILL, np.ones((n, 3)), (0.0, t), method=method, step=0.1, noise=noise)
    z = (sol.x_final - 1) / (noise * np.sqrt(t))
    assert sol.stats["steps"] == 4
    assert abs(z.mean()) < 5 / np.sqrt(3 * n) and abs((z**2).mean() - 1) < 5 * np.sqrt(2 / (3 * n))


@each_noisy
def test_ornstein_uhlenbeck(method):
    """Systems of one token are x' = V x + noise: dx = -x dt + noise dW, whose steps are exactly known Gaussians.

    Euler: x -> (1 - h) x + N. Heun: x -> (1 - h + h^2/2) x + (1 - h/2) N. The steps are long, so that the two, and the
    exact variance noise^2 (1 - e^{-2t}) / 2, lie far more than ten standard errors from each other.
    """
    n, h, steps, noise = 3000, 0.8, 3, 0.8
    shrink, gain = {"euler": (1 - h, 1.0), "heun": (1 - h + h * h / 2, 1 - h / 2)}[method]
    mean, variance = 2.0, 0.0
    for _ in range(steps):
        mean, variance = shrink * mean, shrink**2 * variance + gain**2 * noise**2 * h
    sol = fp.solve(
        fp.Softmax(I3, I3, -I3), np.full((n, 1, 3), 2.0), (0.0, h * steps), method=method, step=h, noise=noise
    )
    x = sol.x_final
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / (3 * n))
    assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / (3 * n))
    other = noise**2 * (1 - np.exp(-2 * h * steps)) / 2
    assert abs(x.var() / other - 1) > 5 * np.sqrt(2 / (3 * n))


@each_noisy
def test_spherical_brownian_motion(method):
    """V = 0: the mean of <x(t), x0> is e^{-noise^2 (d-1) t / 2} (<x, x0> is an eigenfunction of the Laplacian).

    Exactly for the scheme: each step turns by an angle whose cosine has the mean E (1 + noise^2 h chi^2_{d-1})^{-1/2},
    which differs by noise^4 (d-1)(d+2) h t / 4 of the whole: weak order one. Five standard errors.
    """
    n, d, h, t, noise = 20_000, 3, 0.02, 1.0, 0.8
    x0 = fp.laws.Sphere(d).sample(n, 3)
    sol = fp.solve(STILL, x0, (0.0, t), method=method, step=h, noise=noise, manifold=SPHERE)
    cosines = (sol.x_final * x0).sum(axis=1)
    error = 5 * cosines.std() / np.sqrt(n)
    one, _ = quad(lambda c: np.exp(-c / 2) / 2 / np.sqrt(1 + noise**2 * h * c), 0, np.inf)  # chi^2 of two degrees
    assert abs(cosines.mean() - one ** round(t / h)) < error
    limit = np.exp(-(noise**2) * (d - 1) * t / 2)
    bias = limit * noise**4 * (d - 1) * (d + 2) * h * t / 4
    assert abs(one ** round(t / h) - limit - bias) < bias / 4  # what is left is of order h^2
    assert abs(cosines.mean() - limit) < error + 1.25 * bias


def test_a_block_of_the_tokens_gets_its_own_numbers():
    """As a process of many that holds tokens 4000 to 9999."""
    whole, part = np.empty((10_000, 3)), np.empty((6000, 3))
    Brownian(0.5, 3)(7, 0.1, whole, whole)
    Brownian(0.5, 3, first_token=4000)(7, 0.1, part, part)
    assert (part == whole[4000:]).all()
