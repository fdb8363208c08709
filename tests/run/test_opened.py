"""Runs opened for reading: what is stored comes back to the bit, of earlier versions too; others are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde import config
from fastpde.run import labelled, runner
from fastpde.run.trajectory import TrajectoryWriter, read_trajectory
from fastpde.run.trajectory_ensemble import read_ensemble

OLD = Path(__file__).parent / "kept" / "v0"
RUNS = sorted(OLD.glob("*.run"))
SINGLE, MANY = OLD / "one.run", OLD / "many.run"


@pytest.fixture(scope="module")
def new(tmp_path_factory) -> Path:
    """Return the directory of a run of this version, of the configuration that the kept one has."""
    out = tmp_path_factory.mktemp("opened") / "one.run"
    assert runner.run(config.load(OLD / "one.toml"), out, quiet=True).code == 0
    return out


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_kept_directories_open(path):
    run = fp.open_run(path)
    assert run.path == path and run.config.tokens.d == 2 and run.finished == (run.status["state"] == "finished")
    assert run.x.shape[0] == len(run.t) and run.x.shape[-2:] == (len(run.ids), 2)
    assert np.asarray(run.x).shape == run.x.shape
    assert all(len(rows) == len(run.t) for rows in run.observables.values())
    assert path.name in repr(run) and "trace" in repr(run) and run.status["state"] in repr(run)


def test_one_system_to_the_bit(new):
    for path in (SINGLE, new):
        run, stored = fp.open_run(str(path)), read_trajectory(path / "trajectory.h5")
        assert run.x.dtype == stored.value.dtype and np.asarray(run.x).tobytes() == stored.value.tobytes()
        assert (run.t == stored.time).all() and (run.ids == stored.ids).all() and not run.is_ensemble
        assert run.observables["t"].tolist() == run.t.tolist() and run.observables["trace"].shape == (5,)
        assert run.systems is None and run.means is None and run.finished
        sizes = [run.clusters["size"][run.clusters["t"] == t].sum() for t in run.t]
        assert set(sizes) == {12.0}
        with pytest.raises(fp.InputError, match=r"systems_frame\(\): got a run of one system; need an ensemble"):
            run.systems_frame()


def test_an_ensemble_to_the_bit():
    run, stored = fp.open_run(MANY), read_ensemble(MANY / "ensemble.h5")
    ends = run.systems
    assert run.is_ensemble and run.x.shape == (5, 5, 8, 2) and len(ends) == 5
    assert ends.status == stored.status and (ends.t_final == stored.t_final).all()
    assert np.array_equal(ends.t_events["steady_state"], stored.events["steady_state"], equal_nan=True)
    assert ends.steps.sum() == run.status["step"] and ends.rejected.shape == (5,)
    done = ends.status.index("completed")
    assert ends.x_final[done].tobytes() == run.x[-1, done].tobytes()
    assert ends.observables["trace"][done] == run.observables["trace"][-1, done]
    assert np.isnan(run.observables["trace"][run.t[:, None] > ends.t_final]).all()
    assert run.means["running"].tolist() == np.isfinite(run.observables["t"]).sum(axis=1).tolist()
    assert "5 of 5 are done: 1 completed, 4 steady_state" in repr(run)
    assert repr(run.systems) == "Ends of 5 systems: 1 completed, 4 steady_state"


def test_an_ensemble_that_was_stopped_has_the_systems_that_are_done():
    run = fp.open_run(OLD / "many-stopped.run")
    assert run.x.shape[1] == len(run.systems) == run.observables["trace"].shape[1] == 2 and not run.finished
    assert "2 of 5 are done" in repr(run)


def test_frames_of_a_run_that_goes_on(tmp_path, new):
    """Frames laid out but not written are not there; a row that a kill kept from being written is nan."""
    out = Path(shutil.copytree(new, tmp_path / "a.run"))
    (out / "trajectory.h5").unlink()
    x = np.random.default_rng(0).normal(size=(3, 8, 2))
    writer = TrajectoryWriter(out / "trajectory.h5", np.arange(8), x[0], frames=50, version="1")
    for i, frame in enumerate(x):
        writer.store(0.25 * i, frame)
    table = (out / "observables.csv").read_text().splitlines(keepends=True)
    (out / "observables.csv").write_text("".join(table[:3]) + "0.5,1.")
    run = fp.open_run(out)
    writer.store(0.75, x[0])
    assert run.t.tolist() == [0.0, 0.25, 0.5] and (np.asarray(run.x) == x).all()
    assert np.isfinite(run.observables["trace"]).tolist() == [True, True, False]
    assert set(run.clusters["t"]) == {0.0, 0.25, 0.5}
    assert len(fp.open_run(out).t) == 4
    writer.close()


INDICES = [
    np.s_[0], np.s_[-1], np.s_[::-1], np.s_[[0, -1]], np.s_[[True, False, True, False, True]], np.s_[..., 0],
    np.s_[:, 1],
    np.s_[[0, 2], :, 0], np.s_[3:1], np.s_[1:4:2, ::-2, 0], np.s_[None], np.s_[:, [1, 0]], np.s_[[], 1],
    np.s_[0, 0, 0, 0],
    np.s_[()], np.s_[True], np.s_[np.array([0, 1]), 0], np.s_[[0, 1], ..., 0], np.s_[np.int64(2)], np.s_[:, :, 9:],
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_stored_arrays_take_the_indices_of_numpy(index):
    stored = fp.open_run(MANY).x
    found, want = stored[index], np.asarray(stored)[index]
    assert np.shape(found) == np.shape(want) and np.array_equal(found, want, equal_nan=True)


def test_stored_arrays_refuse_wrong_indices_and_lost_files(tmp_path):
    out = Path(shutil.copytree(SINGLE, tmp_path / "a.run"))
    stored = fp.open_run(out).x
    for index in (5, (0, 0, 0, 0), [7], (0, 0, 2)):
        with pytest.raises(IndexError):
            stored[index]
    assert len(list(stored)) == len(stored) == 5 and stored.nbytes == 5 * 8 * 2 * 8 and "(5, 8, 2)" in repr(stored)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(stored, copy=False)
    (out / "trajectory.h5").unlink()
    with pytest.raises(fp.InputError, match=r"trajectory\.h5"):
        stored[0]


def test_only_what_is_asked_for_is_read(monkeypatch):
    import h5py

    stored, read = fp.open_run(SINGLE).x, []
    plain = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, key, **more: read.append(key) or plain(self, key, **more)
    )
    assert stored[3].shape == (8, 2)
    assert read == [(3, slice(0, 8, 1), slice(0, 2, 1))]


def test_what_is_no_run_is_refused(tmp_path):
    cells = sorted((OLD / "plan.sweep" / "cells").iterdir())
    for path, said in {
        OLD / "plan.sweep": f"the directory of a sweep; need the directory of one run. Its cells are runs: "
        f"fastpde.open_run('{cells[0]}')",
        OLD / "mean-field.study": "A finished study is read by fastpde.studies.load",
        SINGLE / "trajectory.h5": f"which is a file; need the directory of one run. Give the directory: "
        f"fastpde.open_run('{SINGLE}')",
        tmp_path / "none": "which does not exist",
        tmp_path: "without config.toml",
    }.items():
        with pytest.raises(fp.InputError) as caught:
            fp.open_run(path)
        assert said in str(caught.value) and caught.value.name == "directory"
    with pytest.raises(fp.InputTypeError, match="int; need the path"):
        fp.open_run(3)
    for name in ("config.toml", "trajectory.h5", "status.json"):
        out = Path(shutil.copytree(SINGLE, tmp_path / f"without-{name}"))
        (out / name).unlink()
        if name == "status.json":  # lost in a crash of the machine, where the checkpoints are
            assert fp.open_run(out).status == {} and "unknown state" in repr(fp.open_run(out))
            continue
        with pytest.raises(fp.InputError, match="without"):
            fp.open_run(out)


def test_opening_a_run_is_what_brings_hdf5():
    code = """
import sys, json, fastpde as fp
before = "h5py" in sys.modules
fp.open_run
print(json.dumps([before, "h5py" in sys.modules, "xarray" in sys.modules, "pandas" in sys.modules]))
"""
    root = str(Path(fp.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True)
    assert json.loads(done.stdout) == [False, True, False, False], done.stderr


# -- xarray and pandas ------------------------------------------------------------------------------------------------


def test_dataset_of_one_system(new):
    pytest.importorskip("xarray")
    run = fp.open_run(new)
    found = run.dataset()
    assert found["position"].dims == ("time", "token", "coordinate") and found["trace"].dims == ("time",)
    assert found["position"].values.tobytes() == np.asarray(run.x).tobytes()
    assert found["token"].values.tolist() == run.ids.tolist() and found["time"].values.tolist() == run.t.tolist()
    assert "t" not in found and config.parse(found.attrs["config"]) == run.config
    assert float(found["trace"].sel(time=0.5)) == run.observables["trace"][2]


def test_dataset_of_an_ensemble(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    run = fp.open_run(MANY)
    found = run.dataset()
    assert found["position"].dims == ("time", "system", "token", "coordinate")
    assert found["position_final"].dims == ("system", "token", "coordinate") and found["radius"].dims == (
        "time",
        "system",
    )
    assert found["status"].values.tolist() == list(run.systems.status)
    assert np.array_equal(found["event_steady_state"].values, run.systems.t_events["steady_state"], equal_nan=True)
    found.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as again:
        xarray.testing.assert_identical(again.load(), found)


def test_columns_that_are_called_like_a_coordinate_keep_their_values(new, monkeypatch):
    pytest.importorskip("xarray")
    run = fp.open_run(new)
    run.observables["time"] = run.t + 1.0
    found = run.dataset()
    assert found["time_"].values.tolist() == (run.t + 1.0).tolist()


def test_frames_of_pandas(new):
    pytest.importorskip("pandas")
    run, many = fp.open_run(new), fp.open_run(MANY)
    table = run.frame()
    assert list(table.columns) == list(run.observables) and table["trace"].tolist() == run.observables["trace"].tolist()
    rows = many.frame()
    assert len(rows) == np.isfinite(many.observables["t"]).sum() and np.isfinite(rows["trace"]).all()
    of_one = rows[rows["system"] == 1]
    assert of_one["trace"].tolist() == many.observables["trace"][: len(of_one), 1].tolist()
    ends = many.systems_frame()
    assert (
        ends["status"].tolist() == list(many.systems.status)
        and ends["t_final"].tolist() == many.systems.t_final.tolist()
    )
    assert ends["trace"].tolist() == many.systems.observables["trace"].tolist() and len(ends) == 5


NEEDS = {"dataset": "xarray", "frame": "pandas", "systems_frame": "pandas"}


@pytest.mark.parametrize("method", NEEDS)
def test_a_missing_library_is_named(monkeypatch, method):
    library = NEEDS[method]

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(labelled, "import_module", missing)
    with pytest.raises(fp.InputError, match=rf"{method}\(\): got a Python without {library}; .* pip install {library}"):
        getattr(fp.open_run(MANY), method)()
