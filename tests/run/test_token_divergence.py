"""The mean divergence along runs: the rate of the entropy."""

from __future__ import annotations

import numpy as np
import pytest
from edits import changed
from scipy.interpolate import CubicSpline

import fastpde as fp
from fastpde import config
from fastpde.errors import InputError
from fastpde.plot import series
from fastpde.run import runner
from fastpde.run.observables import token_divergence
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory

ASKED = ("every = 0.25", "every = 0.05\ndivergence = true")


def run(small):
    found = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert found.code == 0
    return read_observables(found.path / "observables.csv"), found.path


@pytest.mark.parametrize("place", ["plane", "sphere", "mask"])
def test_the_column_is_the_rate_of_the_entropy(small, place):
    """Its integral, by a spline through 21 points, is the change of the mean log density: 1e-5 of h^4 is measured."""
    changed(small, ASKED)
    options = {}
    if place == "sphere":
        changed(small, ("[time]", '[time]\nmanifold = "sphere"'), ('kind = "gaussian"', 'kind = "sphere"'))
        options = {"manifold": fp.Sphere()}
    elif place == "mask":
        changed(small, ("[attention]", "[attention]\nmasked = true"))
    table, path = run(small)
    attention, x = config.load(small).attention(), read_trajectory(path / "trajectory.h5").value
    for i in (0, -1):
        J, v = attention.jacobian(x[i]), attention.velocity(x[i])
        want = np.trace(J, axis1=1, axis2=2)
        if place == "sphere":
            want = want - np.einsum("nij,ni,nj->n", J, x[i], x[i]) - (x.shape[2] - 1) * np.einsum("ni,ni->n", x[i], v)
        assert table["divergence"][i] == pytest.approx(want.mean(), rel=1e-12)  # rounding
    sol = fp.solve(attention, x[0], (0.0, 1.0), method="rk4", step=0.05, log_density=np.zeros(len(x[0])), **options)
    gained = CubicSpline(table["t"], table["divergence"]).integrate(0.0, 1.0)
    assert -sol.log_density_final.mean() == pytest.approx(gained, rel=1e-5)
    assert abs(gained) > 0.01 and "divergence" in series.names(table)


def test_of_an_ensemble_it_is_the_mean_over_systems(small):
    changed(small, ("every = 0.25", "every = 0.25\ndivergence = true"), ("n = 30", "n = 30\nsystems = 3"))
    table, _ = run(small)
    problem = config.load(small)
    x = problem.tokens()
    want = np.mean([problem.attention().divergence(one).mean() for one in x])
    assert table["divergence"][0] == pytest.approx(want, rel=1e-12)


def test_several_processes_are_refused(small):
    class Two:
        processes = 2

    problem = config.load(changed(small, ASKED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastpde.sums.resolve", lambda backend: backend)
        with pytest.raises(InputError, match=r"output.divergence: got true, for tokens on 2 processes"):
            token_divergence.observable(problem, problem.attention(), Two(), None)
