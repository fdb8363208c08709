"""Directories that earlier versions wrote, kept in `kept`: each is read, verified, gone on with, or left as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fastpde import cli, config, studies
from fastpde.run import checkpoint, inspect, runner, sweep_folder
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory
from fastpde.run.trajectory_ensemble import read_ensemble

KEPT = Path(__file__).parent / "kept"
VERSIONS = sorted(path.name for path in KEPT.iterdir() if path.is_dir() and path.name.startswith("v"))
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}  # another machine may sum in another order; runs are short and contract


@pytest.fixture(params=VERSIONS)
def old(request, tmp_path) -> Path:
    """Return a copy of the directories of one version, all of which `verify` finds in order."""
    folder = Path(shutil.copytree(KEPT / request.param, tmp_path / "old"))
    for path in [*folder.glob("*.run"), *folder.glob("*.sweep/cells/*")]:
        good, wrong = inspect.verify(path)
        assert good and not wrong, (path, wrong)
        assert inspect.status(path)["state"].startswith(
            "stopped" if "stopped" in path.name else ("finished", "stopped")
        )
    return folder


def run(old: Path, name: str, out: str) -> Path:
    assert runner.run(config.load(old / f"{name}.toml"), old / out, quiet=True).code == 0
    return old / out


def same_one(out: Path, fresh: Path, atol: float = 1e-12) -> None:
    close = ROUNDING | {"atol": atol}
    one, two = (read_trajectory(path / "trajectory.h5") for path in (out, fresh))
    assert (one.ids == two.ids).all() and len(one.time) == 5
    np.testing.assert_allclose(one.value, two.value, **close)
    tables = [read_observables(path / "observables.csv") for path in (out, fresh)]
    assert list(tables[0]) == list(tables[1])
    for column, values in tables[0].items():
        if column not in ("clusters", "clustered"):  # v0 joined by cells what single linkage does not
            np.testing.assert_allclose(values, tables[1][column], err_msg=column, **close)
    clusters = [read_observables(path / "clusters.csv") for path in (out, fresh)]
    assert list(clusters[0]) == list(clusters[1]) and set(clusters[0]["t"]) == set(one.time)


def bits(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", ["one", "sinkhorn"])
def test_a_stopped_run_goes_on(old, name):
    out = old / f"{name}-stopped.run"
    before, _ = checkpoint.newest(out)
    assert before.facts["end"] is None and before.facts["state"]["step"] > 0
    within = before.facts["state"].get("summed") if name == "one" else "memory.potentials" in before.arrays
    assert within
    run(old, name, out.name)
    # Rounding decides whether a scaling makes one more iteration: with another Numba states differed by 3e-10.
    same_one(out, run(old, name, "fresh"), 1e-8 if name == "sinkhorn" else 1e-12)
    assert "goes on from checkpoint" in (out / "log.txt").read_text()


def test_a_stopped_ensemble_goes_on(old):
    assert 0 < len(read_ensemble(old / "many-stopped.run" / "ensemble.h5").status) < 5
    out, fresh = run(old, "many", "many-stopped.run"), run(old, "many", "fresh")
    one, two = (read_ensemble(path / "ensemble.h5") for path in (out, fresh))
    assert one.status == two.status and len(one.status) == one.asked == 5
    # This event is at the end of a step, and the version of `old` summed the errors, which decide of steps, in another
    # order; states at given times do not notice.
    for got, want in ((one.t_final, two.t_final), (one.events["steady_state"], two.events["steady_state"])):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)
    assert list(one.observables) == list(two.observables)
    for column, values in one.observables.items():
        np.testing.assert_allclose(values, two.observables[column], err_msg=column, **ROUNDING)
    tables = [read_observables(path / "observables.csv") for path in (out, fresh)]
    for column, values in tables[0].items():
        np.testing.assert_allclose(values, tables[1][column], err_msg=column, **ROUNDING)


def test_a_finished_run_is_left_as_it_is(old):
    for name in ("one", "many"):
        before = bits(old / f"{name}.run")
        assert (
            runner.run(config.load(old / f"{name}.toml"), old / f"{name}.run", quiet=True).message == "already finished"
        )
        assert bits(old / f"{name}.run") == before


def test_a_sweep_goes_on_with_its_cells(old, monkeypatch, capsys):
    """Its cells are found by their digests, which no later key of the configuration may change."""
    monkeypatch.chdir(old)
    for name in ("plan", "plan-stopped"):
        out = old / f"{name}.sweep"
        cells = sweep_folder.load(out)
        finished = bits(cells.cell(0))
        arguments = ["sweep", "plan.toml", "--out", str(out), "--local", "1", "--quiet"]
        assert cli.main(arguments) == 0, capsys.readouterr().err
        after = sweep_folder.load(out)
        assert after.cells == cells.cells and bits(cells.cell(0)) == finished
        assert "goes on" in (cells.cell(1) / "log.txt").read_text() or name == "plan"
        same_one(cells.cell(1), old / "plan.sweep" / "cells" / cells.cells[1])
        assert "2 finished" in capsys.readouterr().out


def test_a_study_is_read_and_left_as_it_is(old, monkeypatch, capsys):
    monkeypatch.chdir(old)
    study = studies.load("mean-field.study")
    assert len(study["n"]) and study.summary().startswith("velocity error ~ n^p")
    before = bits(old / "mean-field.study")
    # The version of `old` started from one law only: the same command now asks for another study.
    assert cli.main(["study", "mean-field", "mean-field.toml", "--quiet"]) == 2
    assert "--out: got mean-field.study, another study or run" in capsys.readouterr().err
    assert {path: before.get(path) for path in bits(old / "mean-field.study")} == bits(old / "mean-field.study")


@pytest.mark.parametrize("name", ["one.run", "many.run", "one-stopped.run", "mean-field.study"])
def test_pictures_and_reports(old, name, capsys):
    assert cli.main(["plot", str(old / name)]) == 0, capsys.readouterr().err
    assert cli.main(["report", str(old / name)]) == 0, capsys.readouterr().err
