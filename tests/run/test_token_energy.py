"""The energy of a run: recorded, watched, told, and the same after any restart."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from edits import changed
from scipy.interpolate import CubicSpline
from test_restart import Cuts, result

import fastpde as fp
from fastpde import config
from fastpde.errors import InputError
from fastpde.run import inspect, runner
from fastpde.run.observables.token_energy import Watch
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory
from fastpde.theory.dissipation import EnergyRow

# V = -Q^T K descends; steps of 2 are far too large for it.
WILD = [('method = "rk4"\nstep = 0.05', 'method = "euler"\nstep = 2.0'), ("t_end = 1.0", "t_end = 12.0")]


def run(small, out="out"):
    return runner.run(config.load(small), small.parent / out, quiet=True)


def status(path):
    return json.loads((path / "status.json").read_text())


def test_energy_and_dissipation_are_those_of_the_tokens(small):
    outcome = run(small)
    assert outcome.code == 0 and "energy" not in outcome.message
    table, x = read_observables(outcome.path / "observables.csv"), read_trajectory(outcome.path / "trajectory.h5").value
    attention = config.load(small).attention()
    for i, tokens in enumerate(x):
        assert table["energy"][i] == pytest.approx(fp.interaction_energy(attention, tokens), rel=1e-12)  # rounding
        assert table["dissipation"][i] == pytest.approx(fp.dissipation(attention, tokens), rel=1e-12)
    assert (np.diff(table["energy"]) < 0).all() and (table["dissipation"] < 0).all()
    assert status(outcome.path)["energy"] == {"expected": "falls", "intervals": 4, "violations": 0}


def test_on_the_sphere_the_column_is_the_rate_of_the_energies(small):
    changed(small, ("[time]", '[time]\nmanifold = "sphere"'), ('kind = "gaussian"', 'kind = "sphere"'))
    changed(small, ("every = 0.25", "every = 0.05"))
    outcome = run(small)
    table = read_observables(outcome.path / "observables.csv")
    t, energy = table["t"], table["energy"]
    slope = CubicSpline(t, energy).derivative()(t)
    # Between the ends a spline through 21 points is off by about h^3 = 1e-4 of the fourth derivative, of size one.
    np.testing.assert_allclose(table["dissipation"][3:-3], slope[3:-3], rtol=0, atol=3e-4 * np.abs(slope).max())
    assert "energy" not in status(outcome.path) and outcome.code == 0


def test_a_violation_is_in_status_log_and_message(small):
    changed(small, *WILD, ("every = 0.25", "every = 2.0"), ("n = 30", "n = 200"))
    outcome = run(small)
    table, found = read_observables(outcome.path / "observables.csv"), status(outcome.path)["energy"]
    wrong = np.flatnonzero(np.diff(table["energy"]) > 1e-9)  # far above what rounding explains
    assert len(wrong) > 0 and found["violations"] == len(wrong) and found["intervals"] == 6
    assert found["first_violation_t"] == table["t"][wrong[0] + 1]
    sentence = f"The energy must fall and did not in {len(wrong)} of 6 intervals"
    assert outcome.code == 0 and sentence in outcome.message
    assert sentence in (outcome.path / "log.txt").read_text() and sentence in status(outcome.path)["message"]
    assert run(small).code == 0  # finished is finished


def test_any_cuts_see_the_same_violations(small, monkeypatch):
    changed(small, *WILD, ("every = 0.25", "every = 2.0\nclusters = 0.3"), ("n = 30", "n = 200"))
    cuts = Cuts(monkeypatch)
    assert run(small, "whole").code == 0
    whole, total, want = result(small.parent / "whole"), cuts.count, status(small.parent / "whole")["energy"]
    clusters = (small.parent / "whole" / "clusters.csv").read_bytes()
    assert want["violations"] > 0
    random.seed(2)
    parts, out = 0, small.parent / "cut"
    while True:
        cuts.count, cuts.at = 0, random.randint(2, max(3, total // 3))
        outcome = run(small, "cut")
        parts += 1
        if outcome.code == 0:
            break
        assert outcome.code == 75 and inspect.verify(out)[1] == [] and parts < 3 * total
    assert parts > 2 and result(out) == whole and status(out)["energy"] == want
    assert (out / "clusters.csv").read_bytes() == clusters


def test_a_watch_goes_on_as_if_it_had_not_stopped():
    rng = np.random.default_rng(0)
    rows = [EnergyRow(float(e), 0.0, 0.1) for e in rng.normal(size=40)]
    rows[7], rows[20] = EnergyRow(math.inf, math.nan, math.nan), EnergyRow(math.nan, math.nan, math.nan)
    whole, firsts = Watch(1), []
    for i, row in enumerate(rows):
        whole.see(float(i), row)
        firsts.append(bool(whole.news()))
    known = np.array([row.energy for row in rows])
    with np.errstate(invalid="ignore"):
        steps = np.diff(known)
    assert whole.count == (steps[np.isfinite(steps)] < -0.1).sum() and whole.rows == np.isfinite(steps).sum()
    assert sum(firsts) == 1 and whole.first == firsts.index(True)
    for cut in range(40):
        part = Watch(1)
        for i in range(cut):
            part.see(float(i), rows[i])
        mark, part = json.loads(json.dumps(part.mark(), allow_nan=False)), Watch(1)
        part.go_on(mark)
        for i in range(cut, 40):
            part.see(float(i), rows[i])
        assert part.mark() == whole.mark()


@pytest.mark.parametrize(
    "edits",
    [
        [('"softmax"', '"l2"')],  # no energy falls or rises
        [('kind = "softmax"', 'kind = "softmax"\nmasked = true')],
        [('kind = "softmax"', 'kind = "softmax"\nQ = [[1, 2], [0, 1]]')],
        [('method = "rk4"', 'method = "heun"\nnoise = 0.5')],
    ],
)
def test_where_theory_says_nothing_nothing_is_flagged(small, edits):
    changed(small, *edits, ("every = 0.25", "every = 0.25\nenergy = true"))
    outcome = run(small)
    assert outcome.code == 0 and "energy" not in status(outcome.path) and "energy" not in outcome.message
    table = read_observables(outcome.path / "observables.csv")
    assert np.isfinite(table["energy"]).all()
    assert np.isfinite(table["dissipation"]).all() == ("noise" in edits[0][1])


def test_where_the_energy_is_on_by_default(small):
    """Up to 20,000 tokens; up to 200,000 where sums may be in O(n)."""
    text = small.read_text()

    def energy(n, *edits):
        small.write_text(text)
        changed(small, ("n = 30", f"n = {n}"), *edits)
        return config.load(small).config.output.energy

    direct = ("[output]", '[backend]\nkind = "direct"\n[output]')
    assert energy(20_000, direct) and not energy(20_001, direct)
    assert energy(200_000) and not energy(200_001)
    assert not energy(20_001, ('"softmax"', '"sigmoid"')) and not energy(20_001, ("d = 2", "d = 4"))
    assert energy(300_000, ("[output]", "[output]\nenergy = true"))
    assert energy(100, ("[output]", '[output]\nenergy = "auto"'))
    assert not energy(100, ("[output]", "[output]\nenergy = false"))
    assert not energy(100, ('"softmax"', '"sinkhorn"'))
    for value in ('"yes"', "1"):
        with pytest.raises(InputError, match=r"output\.energy"):
            energy(100, ("[output]", f"[output]\nenergy = {value}"))
