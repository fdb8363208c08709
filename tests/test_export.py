"""Exports: other readers find the numbers that were stored, to the bit; nothing half written is left."""

from __future__ import annotations

import errno
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde import cli, cli_reading, config, export
from fastpde.run import labelled, runner
from fastpde.run.directory import OutputError

OLD = Path(__file__).parent / "run" / "kept" / "v0"
ONE, MANY = OLD / "one.run", OLD / "many.run"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Return a run in five dimensions, in float32."""
    folder = tmp_path_factory.mktemp("wide")
    text = (OLD / "one.toml").read_text().replace("d = 2", "d = 5").replace("max_tokens = 8\n", "")
    (folder / "wide.toml").write_text(f'{text}[backend]\ndtype = "float32"\n')
    assert runner.run(config.load(folder / "wide.toml"), folder / "wide.run", quiet=True).code == 0
    return folder / "wide.run"


def frames_of(path: Path) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Parse extended XYZ as its description says: (time, positions, ids) of each frame."""
    lines, found = path.read_text().splitlines(), []
    while lines:
        count, comment = int(lines[0]), lines[1]
        assert "Properties=species:S:1:pos:R:3:id:I:1 " in comment and 'pbc="F F F"' in comment
        rows = [line.split() for line in lines[2 : 2 + count]]
        assert {row[0] for row in rows} == {"X"} and {len(row) for row in rows} == {5}
        x, ids = np.array([row[1:4] for row in rows], float), np.array([int(row[4]) for row in rows])
        found.append((float(re.search(r"Time=(\S+)", comment)[1]), x, ids))
        lines = lines[2 + count :]
    return found


def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 3 - x.shape[1])])


def test_xyz_to_the_bit():
    run = fp.open_run(ONE)
    assert export.write(ONE, "xyz") == ["5 frames of 8 tokens: one.xyz"]
    found = frames_of(Path("one.xyz"))
    assert [t for t, *_ in found] == run.t.tolist()
    for i, (_, x, ids) in enumerate(found):
        assert (x == padded(run.x[i])).all() and (ids == run.ids).all()
    assert [file.name for file in Path().iterdir()] == ["one.xyz"]


def test_vtk_to_the_bit():
    meshio = pytest.importorskip("meshio")
    run = fp.open_run(ONE)
    assert export.write(ONE, "vtk", Path("deep/a")) == ["5 frames of 8 tokens: deep/a/tokens.pvd"]
    sets = ET.parse("deep/a/tokens.pvd").getroot().findall("./Collection/DataSet")
    assert [float(entry.get("timestep")) for entry in sets] == run.t.tolist()
    for i, entry in enumerate(sets):
        mesh = meshio.read(Path("deep/a") / entry.get("file"))
        assert mesh.points.dtype == run.x.dtype and (mesh.points == padded(run.x[i])).all()
        assert (mesh.point_data["id"] == run.ids).all()
        (cells,) = mesh.cells
        assert cells.type == "vertex" and cells.data.ravel().tolist() == list(range(8))


def test_more_than_three_dimensions_are_projected_and_it_is_said(wide):
    run = fp.open_run(wide)
    said, done = export.write(wide, "xyz")
    assert said.startswith("Positions are not coordinates but projections; d = 5: the three principal components")
    assert done == "5 frames of 12 tokens: wide.xyz"
    *_, (_, last, _) = frames_of(Path("wide.xyz"))
    x = run.x[-1].astype(float)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    assert np.allclose(np.linalg.norm(last, axis=0), values[:3], rtol=1e-10)
    share = float(re.search(r"\((\d+) % of its variance\)", said)[1])
    assert share == pytest.approx(100 * (values[:3] ** 2).sum() / (values**2).sum(), abs=0.5)


def test_npz_has_everything(wide):
    run = fp.open_run(wide)
    assert export.write(wide, "npz") == ["5 frames of 12 tokens: wide.npz"]
    with np.load("wide.npz") as found:
        assert found["x"].dtype == np.float32 and found["x"].tobytes() == np.asarray(run.x).tobytes()
        assert (found["t"] == run.t).all() and (found["ids"] == run.ids).all()
        for name, column in run.observables.items():
            assert np.array_equal(found[f"observables/{name}"], column, equal_nan=True)
        assert (found["clusters/size"] == run.clusters["size"]).all()
        assert config.parse(str(found["config"])) == run.config
        assert json.loads(str(found["status_json"])) == run.status


def test_npz_of_an_ensemble():
    run = fp.open_run(MANY)
    assert export.write(MANY, "npz", every=2) == ["3 frames of 5 systems: many.npz"]
    with np.load("many.npz") as found:
        assert found["x"].tobytes() == run.x[::2].tobytes() and found["t"].tolist() == run.t[::2].tolist()
        assert found["x_final"].tobytes() == np.asarray(run.systems.x_final).tobytes()
        assert found["end"].tolist() == list(run.systems.status) and found["steps"].sum() == run.systems.steps.sum()
        assert found["observables/trace"].shape == (3, 5) and found["means/running"].shape == (3,)
        assert found["t_events/steady_state"].shape == found["final/trace"].shape == (5,)


def test_one_system_of_an_ensemble_up_to_its_end():
    """An event may end a system between two frames: its last state is the last frame."""
    run = fp.open_run(MANY)
    b = run.systems.status.index("steady_state")
    export.write(MANY, "xyz", system=b)
    found = frames_of(Path(f"many.{b}.xyz"))
    assert found[-1][0] == run.systems.t_final[b] and (found[-1][1] == padded(run.systems.x_final[b])).all()
    assert all((x == padded(run.x[i, b])).all() for i, (_, x, _) in enumerate(found[:-1])) and len(found) < 6
    whole = run.systems.status.index("completed")
    export.write(MANY, "xyz", system=whole, every=3)
    assert [t for t, *_ in frames_of(Path(f"many.{whole}.xyz"))] == [0.0, 0.75]


def test_parquet_of_one_system(wide, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(export, "_ROWS", 24)  # two frames in a group
    run = fp.open_run(wide)
    export.write(wide, "parquet")
    table = parquet.read_table("wide.tables/tokens.parquet").to_pydict()
    assert list(table) == ["t", "token", *(f"x_{i}" for i in range(5))]
    assert parquet.ParquetFile("wide.tables/tokens.parquet").num_row_groups == 3
    assert table["t"] == np.repeat(run.t, 12).tolist() and table["token"] == np.tile(run.ids, 5).tolist()
    assert table["x_3"] == np.asarray(run.x)[:, :, 3].ravel().tolist()
    rows = parquet.read_table("wide.tables/observables.parquet").to_pydict()
    assert rows["trace"] == run.observables["trace"].tolist()
    assert parquet.read_table("wide.tables/clusters.parquet").num_rows == len(run.clusters["t"])


def test_parquet_of_an_ensemble():
    parquet = pytest.importorskip("pyarrow.parquet")
    run = fp.open_run(MANY)
    export.write(MANY, "parquet", Path("a"), every=2)
    table = parquet.read_table("a/tokens.parquet").to_pydict()
    there = np.isfinite(run.observables["t"][::2])
    assert len(table["t"]) == 8 * there.sum() and set(table["t"]) == set(run.t[::2].tolist())
    assert table["system"] == np.repeat(np.nonzero(there)[1], 8).tolist()
    assert table["x_1"] == run.x[::2][there][:, :, 1].ravel().tolist()
    assert parquet.read_table("a/observables.parquet").num_rows == there.sum()
    ends, last = (parquet.read_table(f"a/{name}.parquet").to_pydict() for name in ("systems", "last_tokens"))
    assert ends["status"] == list(run.systems.status) and last["t"] == np.repeat(run.systems.t_final, 8).tolist()
    assert last["x_0"] == np.asarray(run.systems.x_final)[:, :, 0].ravel().tolist()


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    (tmp_path / "there").write_text("mine")
    for arguments, said in {
        (ONE, "--to", "xyz", "--out", "there"): "--out: got there, which exists; need a name that is free",
        (ONE, "--to", "xyz", "--system", "0"): "--system: got 0; need none: the run is of one system",
        (MANY, "--to", "vtk"): "--system: got none; need a number from 0 to 4: the run is of 5 systems",
        (MANY, "--to", "xyz", "--system", "5"): "--system: got 5; need a number from 0 to 4",
        (MANY, "--to", "npz", "--system", "1"): "--system: got 1; need none: --to npz has all systems",
        (ONE, "--to", "xyz", "--every", "0"): "--every: got '0'; need a whole number from 1",
        (OLD / "plan.sweep", "--to", "npz"): "the directory of a sweep",
        (OLD / "mean-field.study", "--to", "npz"): "the directory of a study",
        (tmp_path / "none", "--to", "npz"): "which does not exist",
    }.items():
        assert cli.main(["export", *map(str, arguments)]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(ONE), "--to", "csv"])
    assert stopped.value.code == 2 and "vtk" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["there"] and (tmp_path / "there").read_text() == "mine"


def test_the_command(capsys):
    assert cli_reading._KINDS == export.KINDS
    assert cli.main(["export", str(ONE), "--to", "xyz", "--every", "2"]) == 0
    found = capsys.readouterr()
    assert found.out == "3 frames of 8 tokens: one.xyz\n" and found.err == ""


@pytest.mark.parametrize("kind", ["vtk", "xyz", "npz", "parquet"])
def test_a_failed_write_is_exit_5_and_leaves_nothing(tmp_path, monkeypatch, capsys, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")

    def full(frames):
        yield frames[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_shown", full)
    assert cli.main(["export", str(ONE), "--to", kind]) == 5
    assert "the export could not be written to one." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_was_made_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    plain = export._write_npz

    def slow(*arguments):
        plain(*arguments)
        (tmp_path / "one.npz").write_text("mine")

    monkeypatch.setattr(export, "_write_npz", slow)
    with pytest.raises(OutputError, match="made by someone else"):
        export.write(ONE, "npz")
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"] and Path("one.npz").read_text() == "mine"


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(frames):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_shown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export.write(ONE, "vtk")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named_before_anything_is_made(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(labelled, "import_module", missing)
    with pytest.raises(fp.InputError, match=r"--to parquet: got a Python without pyarrow; .* pip install pyarrow"):
        export.write(ONE, "parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_frames_is_refused(tmp_path):
    import shutil

    from fastpde.run.trajectory import TrajectoryWriter

    out = Path(shutil.copytree(ONE, tmp_path / "a.run"))
    (out / "trajectory.h5").unlink()
    TrajectoryWriter(out / "trajectory.h5", np.arange(3), np.ones((3, 2)), frames=2, version="1").close()
    with pytest.raises(fp.InputError, match="with no whole frame"):
        export.write(out, "npz")
