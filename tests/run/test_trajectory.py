"""The trajectory file: its H5MD layout through plain h5py, and what is left of it when the writer is killed
anywhere.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.run import trajectory

RNG = np.random.default_rng(0)


def frames(count, n=5, d=3, dtype=np.float64):
    return RNG.normal(size=(count, n, d)).astype(dtype)


def written(path, values, ids=None, expected=None, close=True):
    ids = np.arange(values.shape[1]) if ids is None else ids
    writer = trajectory.TrajectoryWriter(path, ids, values[0], frames=expected or len(values), version="1.2")
    for i, x in enumerate(values):
        writer.store(0.5 * i, x[ids])
    if close:
        writer.close()
    return writer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("expected", [1, 7, 20])
def test_h5md_layout(tmp_path, dtype, expected):
    values = frames(7, dtype=dtype)
    written(tmp_path / "a.h5", values, expected=expected)
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        assert file["h5md/author"].attrs["name"] and file["h5md/creator"].attrs["name"] == "fastpde"
        assert file["h5md/creator"].attrs["version"] == "1.2"
        tokens = file["particles/tokens"]
        assert tokens["box"].attrs["dimension"] == 3
        assert list(tokens["box"].attrs["boundary"]) == ["none"] * 3
        position = tokens["position"]
        assert position["value"].dtype == dtype and position["value"].maxshape == (None, 5, 3)
        assert (position["value"][:] == values).all()  # stored, not computed: to the bit
        assert position["step"][:].tolist() == list(range(7))
        assert position["time"][:].tolist() == [0.5 * i for i in range(7)]
        assert tokens["id"][:].tolist() == list(range(5))


def test_subset_of_tokens(tmp_path):
    values = frames(3, n=9)
    ids = np.array([1, 4, 8])
    written(tmp_path / "a.h5", values, ids)
    found = trajectory.read_trajectory(tmp_path / "a.h5", frames=[0, 2], max_tokens=2)
    assert found.ids.tolist() == [1, 8] and found.time.tolist() == [0.0, 1.0]
    assert (found.value == values[[0, 2]][:, [1, 8]]).all()


def test_large_frames_have_chunks_of_their_own_and_cost_what_they_hold(tmp_path):
    values = frames(10, n=20_000, d=2)
    written(tmp_path / "a.h5", values, expected=500, close=False)
    used = (tmp_path / "a.h5").stat().st_blocks * 512
    assert used < 2 * values.nbytes  # 500 frames are laid out, 10 take room
    assert (trajectory.read_trajectory(tmp_path / "a.h5").value == values).all()


class Recorder:
    """A file for HDF5 that remembers every write, so that a kill after any of them can be replayed."""

    def __init__(self, path: Path) -> None:
        self.file, self.log = path.open("w+b"), []
        self.seek, self.tell, self.read, self.readinto = (
            self.file.seek,
            self.file.tell,
            self.file.read,
            self.file.readinto,
        )

    def write(self, data):
        self.log.append((self.file.tell(), bytes(data)))
        return self.file.write(data)

    def truncate(self, size=None):
        self.log.append((size, None))
        return self.file.truncate(size)

    def flush(self):
        self.file.flush()


def states(log):
    """Yield the content of the file after every write of the log."""
    content = bytearray()
    for place, data in log:
        size = place if data is None else max(len(content), place + len(data))
        del content[size:]
        content.extend(bytes(size - len(content)))
        if data is not None:
            content[place : place + len(data)] = data
        yield bytes(content)


@pytest.mark.parametrize("n", [3, 11_000])  # many frames in a chunk, and one
def test_a_kill_after_any_write_leaves_every_flushed_frame(tmp_path, monkeypatch, n):
    count = 80 if n == 3 else 6  # HDF5 splits an index node at 64 chunks: laid out before, whatever the count
    values = frames(count, n=n)
    plain = h5py.File
    recorders = []

    def recording(path, mode="r", **options):
        recorders.append(Recorder(Path(path)))
        return plain(recorders[-1], "w")

    monkeypatch.setattr(trajectory.h5py, "File", recording)
    ids = np.arange(n)
    writer = trajectory.TrajectoryWriter(tmp_path / "a.h5", ids, values[0], frames=100, version="1")
    log, marks = recorders[0].log, [len(recorders[0].log)]
    for i, x in enumerate(values):
        writer.store(float(i), x)
        marks.append(len(log))
    monkeypatch.setattr(trajectory.h5py, "File", plain)
    checked = 0
    for k, content in enumerate(states(log), start=1):
        if k < marks[0]:
            continue  # the directory has no name yet
        flushed = sum(mark <= k for mark in marks[1:])
        (tmp_path / "b.h5").write_bytes(content)
        found = trajectory.read_trajectory(tmp_path / "b.h5")
        assert flushed <= len(found.time) <= flushed + 1
        assert (found.value == values[: len(found.time)]).all()
        checked += 1
    assert checked >= 2 * count  # a value and a time at least per frame
    writer.close()
    for recorder in recorders:
        recorder.file.close()


def test_what_is_no_trajectory_is_refused(tmp_path):
    (tmp_path / "a.h5").write_text("text")
    with pytest.raises(InputError, match="HDF5"):
        trajectory.read_times(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["particles"] = 1
    with pytest.raises(InputError, match="H5MD"):
        trajectory.read_times(tmp_path / "b.h5")
