"""The axes of the HDF5 files of a run have names, which xarray shows; files of earlier versions have none and go on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from fastpde.run.trajectory import TrajectoryWriter, read_trajectory
from fastpde.run.trajectory_ensemble import Block, EnsembleWriter

OLD = Path(__file__).parent / "kept" / "v0"
RNG = np.random.default_rng(0)


def trajectory(path: Path, close: bool = True) -> np.ndarray:
    x = RNG.normal(size=(3, 5, 2))
    writer = TrajectoryWriter(path, np.arange(0, 10, 2), x[0], frames=4, version="1")
    for i, frame in enumerate(x):
        writer.store(0.5 * i, frame)
    if close:
        writer.close()
    return x


def ensemble(path: Path) -> Block:
    """Store two of four systems of three tokens at two times."""
    options = {"systems": 4, "like": np.empty((1, 1, 2)), "events": {"collapsed": 1.0}, "columns": ["t", "trace"]}
    writer = EnsembleWriter(path, np.arange(3), np.array([0.0, 1.0]), version="1", **options)
    x, two = RNG.normal(size=(2, 2, 3, 2)), np.arange(2.0)
    block = Block(x, x[-1], two, ["completed"] * 2, two, two, {"collapsed": two}, RNG.normal(size=(2, 2, 2)))
    writer.append(block)
    writer.close()
    return block


def test_xarray_names_the_axes_of_a_trajectory(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    x = trajectory(tmp_path / "a.h5")
    with xarray.open_dataset(tmp_path / "a.h5", engine="h5netcdf", group="particles/tokens/position") as found:
        assert found["value"].dims == ("time", "token", "coordinate") and found["step"].dims == ("time",)
        assert (found["value"].values == x).all() and found["time"].values.tolist() == [0.0, 0.5, 1.0]
        assert (found["value"].sel(time=0.5).values == x[1]).all()
    with xarray.open_dataset(tmp_path / "a.h5", engine="h5netcdf", group="particles/tokens") as found:
        assert found["id"].dims == ("token",)


def test_xarray_names_the_axes_of_an_ensemble(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    block = ensemble(tmp_path / "a.h5")
    with xarray.open_dataset(tmp_path / "a.h5", engine="h5netcdf") as found:
        assert found["position"].dims == ("time", "system", "token", "coordinate")
        assert found["position_final"].dims == ("system", "token", "coordinate")
        assert found["observables"].dims == ("time", "system", "observable")
        assert {found[name].dims for name in ("t_final", "steps", "rejected", "status")} == {("system",)}
        assert found["token_id"].dims == ("token",) and (found["position"].values == block.x).all()
        assert (found["observables"].sel(observable="trace").values == block.observables[:, :, 1]).all()
    with xarray.open_dataset(tmp_path / "a.h5", engine="h5netcdf", group="event_time") as found:
        assert found["collapsed"].dims == ("system",) and len(found["collapsed"]) == 2


def test_names_take_no_room_and_a_file_that_was_not_closed_has_them(tmp_path):
    trajectory(tmp_path / "a.h5", close=False)
    with h5py.File(tmp_path / "a.h5", "r", locking=False) as file:
        value = file["particles/tokens/position/value"]
        assert [axis[0].name.rpartition("/")[2] for axis in value.dims] == ["time", "token", "coordinate"]
        assert all(file[f"particles/tokens/{name}"].id.get_storage_size() == 0 for name in ("token", "coordinate"))


def test_files_of_earlier_versions_have_no_names_and_can_be_read():
    with h5py.File(OLD / "one.run" / "trajectory.h5", "r", locking=False) as file:
        assert not any(len(axis) for axis in file["particles/tokens/position/value"].dims)
    assert len(read_trajectory(OLD / "one.run" / "trajectory.h5").time) == 5
