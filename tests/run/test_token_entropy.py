"""The entropy along runs: that of the density which tokens carry, to the bit however the run is cut."""

from __future__ import annotations

import numpy as np
import pytest
from edits import changed
from scipy.interpolate import CubicSpline
from test_restart import DOPRI, OFTEN, SINKHORN, Cuts, run

import fastpde as fp
from fastpde import config
from fastpde.errors import InputError
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory

ASKED = ("[output]", "[output]\nentropy = true\ndivergence = true")


def columns(small, out):
    assert run(small, out).code == 0
    return read_observables(small.parent / out / "observables.csv")


@pytest.mark.parametrize("case", ["plane", "sphere", "layers", "single"])
def test_it_is_minus_the_mean_log_density(small, case):
    """It begins at that of the law of the tokens, and `fp.solve` has the same from there on, to rounding."""
    changed(small, ASKED)
    options, tol = {"method": "rk4", "step": 0.05}, 1e-12
    changed(small, ("every = 0.25", "every = 0.05"))
    if case == "sphere":
        changed(small, ("[time]", '[time]\nmanifold = "sphere"'), ('kind = "gaussian"', 'kind = "sphere"'))
        options["manifold"] = fp.Sphere()
    elif case == "layers":
        changed(small, ('"rk4"', '"euler"'))
        options["method"] = "euler"
    elif case == "single":
        changed(small, ("[output]", '[backend]\ndtype = "float32"\n[output]'))
        tol = 1e-6  # of tokens in float32
    table = columns(small, "out")
    problem = config.load(small)
    x = read_trajectory(small.parent / "out" / "trajectory.h5").value
    d = x.shape[2]
    law = fp.Gaussian(0.0, problem.config.tokens.std**2 * np.eye(d)) if case != "sphere" else None
    area = {2: 2 * np.pi, 3: 4 * np.pi}[d]
    start = np.full(len(x[0]), -np.log(area)) if law is None else law.log_density(x[0])
    sol = fp.solve(problem.attention(), x[0], (0.0, 1.0), t_eval=table["t"], log_density=start, **options)
    np.testing.assert_allclose(table["entropy"], -sol.log_density.mean(axis=1), rtol=0, atol=tol)
    assert np.ptp(table["entropy"]) > 0.01
    if case == "plane":  # the balance, by a spline through 21 frames
        gained = CubicSpline(table["t"], table["divergence"]).integrate(0.0, 1.0)
        assert table["entropy"][-1] - table["entropy"][0] == pytest.approx(gained, rel=1e-5)


@pytest.mark.parametrize("case", [[], [DOPRI], [DOPRI, SINKHORN]])
def test_any_cuts_give_the_same_bits(small, monkeypatch, case):
    """A run that goes on has the density and the scalings of the checkpoint."""
    changed(small, ASKED, OFTEN, *case)
    cuts = Cuts(monkeypatch)
    assert run(small, "whole").code == 0
    total, parts = cuts.count, 0
    while True:
        cuts.count, cuts.at = 0, max(3, total // 3)
        code = run(small, "cut").code
        parts += 1
        if code == 0:
            break
        assert code == 75 and parts < 50
    assert parts > 2
    whole, cut = ((small.parent / name / "observables.csv").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_an_event_ends_it_too(small):
    changed(small, ASKED, ("step = 0.05", "step = 0.05\n[events]\nsteady_state = 0.9\n"))
    table = columns(small, "out")
    assert table["t"][-1] < 1.0 and np.isfinite(table["entropy"]).all()


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([("n = 30", "n = 30\nsystems = 3")], "true, for 3 systems; need one"),
        ([('"rk4"', '"heun"'), ("[time]", "[time]\nnoise = 0.1")], "true, in a run with noise"),
        ([('kind = "gaussian"\nn = 30\nd = 2', 'kind = "file"\npath = "x.npy"')], "true, for tokens from a file"),
        ([('kind = "gaussian"', 'kind = "sphere"')], r"true, for tokens of Sphere.*; need a law with a density"),
    ],
)
def test_what_is_refused(small, edits, message):
    changed(small, ASKED, *edits)
    np.save(small.parent / "x.npy", np.eye(2))
    with pytest.raises(InputError, match=f"output.entropy: got {message}"):
        run(small, "out")
    assert not (small.parent / "out").exists()
