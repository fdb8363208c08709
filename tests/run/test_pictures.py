"""Pictures of runs that go on: they are drawn again when there is more to show."""

from __future__ import annotations

import numpy as np
import pytest
from edits import changed
from test_restart import Cuts

from fastpde import cli, config, plot, report
from fastpde.initial import some_of
from fastpde.plot import canvas
from fastpde.run import runner
from fastpde.run.trajectory import read_trajectory


@pytest.mark.parametrize("systems", [1, 5])
def test_pictures_of_a_part_are_drawn_again(small, monkeypatch, systems):
    if systems > 1:
        changed(small, ("n = 30", f"n = 8\nsystems = {systems}"), ("every = 0.25", "every = 0.25\nenergy = false"))
        monkeypatch.setattr(runner.system_blocks, "_FIRST", 2)
    monkeypatch.chdir(small.parent)
    with monkeypatch.context() as patch:
        cuts, at = Cuts(patch), 12
        while not (small.parent / "small.run").exists():
            cuts.count, cuts.at, at = 0, at, at + 1
            assert runner.run(config.load(small), small.parent / "small.run", quiet=True).code == 75
    out = small.parent / "small.run"
    plot.plot_run(out)
    first = plot.first_picture(out)
    before, page = canvas.made_of(first), report.write(out).read_text()
    assert before and plot.are_current(out)
    assert cli.main(["run", "small.toml", "--quiet"]) == 0
    assert canvas.made_of(first) != before and plot.are_current(out)
    stamp = first.stat().st_mtime_ns
    assert cli.main(["run", "small.toml", "--quiet"]) == 0 and first.stat().st_mtime_ns == stamp
    assert report.write(out).read_text() != page and first.stat().st_mtime_ns == stamp


def test_a_report_draws_what_is_old(small):
    out = small.parent / "out"
    assert runner.run(config.load(small), out, quiet=True).code == 0
    first = plot.first_picture(out)
    canvas.save(canvas.figure(1.0, 1.0), first)  # without a note
    assert not plot.are_current(out)
    report.write(out)
    assert plot.are_current(out)


def test_no_cluster_of_an_order_is_hidden(small):
    """Every tenth token of a file is of another cluster: a tenth of those that are drawn is."""
    x = np.zeros((1000, 2))
    x[::10] = 1.0
    np.save(small.parent / "x.npy", x)
    changed(small, ('"gaussian"\nn = 30\nd = 2', '"file"\npath = "x.npy"'), ("t_end = 1.0", "t_end = 0.05"))
    out = small.parent / "out"
    assert runner.run(config.load(small), out, quiet=True).code == 0
    shown = read_trajectory(out / "trajectory.h5", frames=[0], max_tokens=100)
    assert shown.value.shape == (1, 100, 2) and (np.diff(shown.ids) > 0).all()
    assert 2 < (shown.value[0, :, 0] == 1.0).sum() < 25  # 10 expected, within five standard deviations
    assert len(some_of(7, 100)) == 7 and len(set(some_of(1000, 100))) == 100
