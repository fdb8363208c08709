"""Frames at given times, and at times in equal ratios."""

from __future__ import annotations

import numpy as np
import pytest
from edits import changed

from fastpde import cli, config
from fastpde.errors import InputError
from fastpde.run import estimate, inspect, runner
from fastpde.run.trajectory import read_times
from fastpde.run.trajectory_ensemble import read_axes

SPREAD = np.array([0.0, *np.geomspace(0.01, 1.0, 5)])


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ("[0.1, 0.25, 0.9]", np.array([0.0, 0.1, 0.25, 0.9, 1.0])),
        ("[0.0, 1.0]", np.array([0.0, 1.0])),
        ("{ first = 0.01, count = 5 }", SPREAD),
    ],
)
@pytest.mark.parametrize("systems", [1, 3])
def test_frames_at_times(small, times, want, systems):
    more = "" if systems == 1 else f"\nsystems = {systems}"
    changed(small, ("every = 0.25", f"times = {times}\nenergy = false"), ("d = 2", f"d = 2{more}"))
    problem, out = config.load(small), small.parent / "out"
    assert runner.run(problem, out, quiet=True).code == 0
    found = read_times(out / "trajectory.h5") if systems == 1 else read_axes(out / "ensemble.h5")[0]
    np.testing.assert_allclose(found, want, rtol=1e-14)  # of equal ratios by powers
    assert (found[0], found[-1]) == (0.0, 1.0) and inspect.verify(out)[1] == []
    assert config.parse(config.dumps(problem.config)) == problem.config
    assert runner.run(config.load(small), out, quiet=True).message == "already finished"
    assert estimate.estimate(problem).share == 1.0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("times = [0.5, 0.1]", r"output.times\[1\]"),
        ("times = [0.5, 0.5]", r"output.times\[1\]"),
        ("times = [2.0]", r"output.times\[0\]"),
        ("times = []", "output.times"),
        ("times = 0.5", "output.times"),
        ("times = ['a']", r"output.times\[0\]"),
        ("times = { first = 2.0, count = 3 }", "output.times.first"),
        ("times = { first = 0.1 }", "output.times.count"),
        ("times = { first = 0.1, count = 3, last = 1.0 }", "output.times.last"),
        ("times = { first = 0.1, count = 10_000_000 }", "output.times"),
        ("every = 0.1\ntimes = [0.5]", "output.times"),
    ],
)
def test_times_that_are_refused(small, text, name):
    with pytest.raises(InputError, match=name):
        config.load(changed(small, ("every = 0.25", text)))


def test_a_restart_has_the_same_frames(small, monkeypatch, capsys):
    from test_restart import Cuts

    changed(small, ("every = 0.25", "times = { first = 0.01, count = 9 }"))
    problem = config.load(small)
    assert runner.run(problem, small.parent / "whole", quiet=True).code == 0
    with monkeypatch.context() as patch:
        Cuts(patch).at = 60
        assert runner.run(problem, small.parent / "out", quiet=True).code == 75
    assert cli.main(["run", str(small), "--out", str(small.parent / "out"), "--quiet"]) == 0
    texts = [(small.parent / name / "observables.csv").read_bytes() for name in ("whole", "out")]
    assert texts[0] == texts[1] and texts[0].count(b"\n") == 11
