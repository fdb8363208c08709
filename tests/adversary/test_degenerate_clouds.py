"""Energies, dissipation, observables, clusters and bounds of degenerate clouds: right or nan, and never a warning.

Warnings are errors in the whole suite, so a call that warns fails here.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import observe

RNG = np.random.default_rng(5)
SOME = RNG.standard_normal((20, 2))
I2 = np.eye(2)
CLOUDS = {
    "equal": np.ones((20, 2)),
    "zero": np.zeros((20, 2)),
    "one": SOME[:1],
    "within 1e-300": 1e-300 * SOME,
    "within 1e-300 of a point": 1.0 + 1e-300 * SOME,
    "denormal": 5e-324 * np.round(3.0 * SOME),
    "weights below the range": np.full((20, 2), np.sqrt(745.3 / 2.0)),  # e^{-745.3} is 0, and 19.3 times it is not
    "logits of a million": 1e3 * SOME,
    "squares overflow": 1e160 * SOME,
    "equal, squares overflow": np.full((20, 2), 1e160),
    "sums overflow": np.full((20, 2), 1.7e308),
    "all sizes": SOME * 10.0 ** np.linspace(-300.0, 150.0, 20)[:, None],
}
ATTENTIONS = {
    "attracting": fp.Softmax(I2, I2, I2),
    "repelling": fp.Softmax(I2, -I2, I2),
    "L2": fp.L2(I2, I2, I2),
    "sigmoid": fp.Sigmoid(I2, I2, I2),
    "exponential": fp.Exponential(I2, -I2, I2),
    "linear": fp.Linear(I2, I2, I2),
    "sinkhorn": fp.Sinkhorn(I2, I2, I2, max_iter=50),
    "masked": fp.Masked(fp.Softmax(I2, I2, I2)),
    "heads": fp.MultiHead([fp.Softmax(I2, I2, I2), fp.Exponential(I2, -I2, I2)]),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("backend", ["direct", "fast"])
def test_energies_and_bounds(attention, cloud, backend):
    """What they answer is a number, nan or inf, or a documented error; radii below the range of squares have bounds."""
    field, x = ATTENTIONS[attention], CLOUDS[cloud]
    energies = [fp.sinkhorn_energy] if attention == "sinkhorn" else [fp.interaction_energy, logarithm]
    for function in (*energies, fp.dissipation, recorded):
        try:
            assert isinstance(function(field, x, backend=backend), float)
        except fp.ConvergenceError:
            assert attention == "sinkhorn"
        except fp.InputError as error:
            assert function in (fp.dissipation, recorded) and error.name == "attention"
    if backend == "direct" and 0.0 < (size := observe.radius(x)) < np.inf:
        radius = float(fp.support_bound(field, 1.0, size))
        assert not radius < size
        assert not fp.stability_bound(field, 1.0, size, 2.0) < 1.0
        assert not (fp.measured_stability_bound(field, [0.0, 1.0], [size, size]) < 1.0).any()


def logarithm(attention, x, **options):
    return fp.interaction_energy(attention, x, log=True, **options)


def recorded(attention, x, **options):
    record = fp.EnergyRecord(attention, **options)
    record(0.0, x)
    record(1.0, x)
    record.violations()
    return float(record.energy[0] + record.dissipation[0])


@pytest.mark.parametrize("score", [1.0, 30.0, 700.0, 744.0, 745.3, 746.0, 800.0])
@pytest.mark.parametrize("backend", ["direct", "fast"])
def test_a_collapsed_cloud_has_a_closed_form(score, backend):
    """E = e^s / 2 and dE/dt = <A x, V x> e^s for n equal tokens x, s = <x, A x>: to 1e-11, as s has a rounding error of
    800 eps, and near the smallest number to a few of those."""
    x = np.full((20, 2), np.sqrt(score / 2.0))
    for sign, V in ((1.0, np.diag([1.0, 3.0])), (-1.0, np.diag([2.0, -1.0]))):
        field, near = fp.Softmax(I2, sign * I2, V), {"rel": 1e-11, "abs": 2e-320}
        weight = np.exp(np.longdouble(sign * score))
        energy, rate = 0.5 * weight, sign * (x[0] @ V @ x[0]) * weight
        largest = np.finfo(float).max / len(x)  # of what is averaged
        if max(abs(energy), abs(rate)) < largest:
            assert fp.interaction_energy(field, x, backend=backend) == pytest.approx(float(energy), **near)
            assert fp.dissipation(field, x, backend=backend) == pytest.approx(float(rate), **near)
        logs = fp.interaction_energy(field, x, backend=backend, log=True)
        assert logs == pytest.approx(sign * score - np.log(2.0), rel=1e-12)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_observables_and_clusters(cloud):
    x = CLOUDS[cloud]
    cov = observe.covariance(x)
    for number in (observe.effective_rank(cov), observe.participation_ratio(cov)):
        assert np.isnan(number) or 0.0 <= number <= 2.0 + 1e-12
    assert observe.spectrum(cov).shape == (2,) and observe.mean(x).shape == (2,)
    for length in (1e-300, 0.1, 1e300):
        try:
            assert fp.clusters(x, length).sizes.sum() == len(x)
        except fp.InputError as error:
            assert error.name == "length" and length < 1.0
    if cloud != "one":
        assert -1.0 - 1e-12 <= observe.mean_cosine(x) <= 1.0 + 1e-12


@pytest.mark.parametrize("unit", [5e-324 * 2.0**52, 1e-300, 1e-200, 1e200, 1e300])
def test_cosines_do_not_depend_on_the_unit(unit):
    """Squares of such tokens are no numbers. Rounding of tokens near the smallest number is 2^-52 of them."""
    assert observe.mean_cosine(unit * SOME) == pytest.approx(observe.mean_cosine(SOME), rel=1e-12)


def test_bounds_of_small_balls_are_bounds():
    """R(t) of unnormalised attention grows by e^{b R^2}, which is 1 for them: e^{v t} R0."""
    for size in (1e-20, 1e-100, 1e-150):
        assert fp.support_bound(fp.Exponential(I2, I2, I2), 2.0, size) == pytest.approx(np.exp(2.0) * size, rel=1e-10)
    for size in (1e-160, 1e-300, 5e-324):
        assert fp.support_bound(fp.Exponential(I2, I2, I2), 2.0, size) >= np.exp(2.0) * size
