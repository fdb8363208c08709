"""An observable of one's own, in a file of its own, through everything that runs do with observables."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde import cli, config
from fastpde.observable import Observable
from fastpde.parallel.spread import Tokens
from fastpde.run import inspect, runner
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory
from fastpde.run.trajectory_ensemble import read_ensemble

HERE = Path(__file__).parent
CONFIG = """
seed = 3
[tokens]
kind = "gaussian"
n = 40
d = 2
[attention]
kind = "softmax"
[time]
t_end = 1.0
method = "rk4"
step = 0.05
[output]
every = 0.25
observables = ["widths:width", "widths:later"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copy(HERE / "widths.py", tmp_path)
    (tmp_path / "run.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_of_one_system(folder, capsys):
    assert cli.main(["estimate", "run.toml", "--allow-code"]) == 0
    assert cli.main(["run", "run.toml", "--quiet", "--allow-code"]) == 0, capsys.readouterr().err
    out = folder / "run.run"
    stored, table = read_trajectory(out / "trajectory.h5"), read_observables(out / "observables.csv")
    assert list(table)[-4:] == ["width_0", "width_1", "age", "far"]
    for i, x in enumerate(stored.value):
        assert [table["width_0"][i], table["width_1"][i]] == np.ptp(x, axis=0).tolist()
        assert (table["age"][i], table["far"][i]) == (2.0 * stored.time[i], np.abs(x).max())
    assert (out / "observables.png").stat().st_size > 5000
    assert "--allow-code" in (out / "log.txt").read_text()
    assert json.loads((out / "status.json").read_text())["own_code"] == ["widths:width", "widths:later"]
    assert cli.main(["report", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "width_0" in page and "observables.png" in page
    assert inspect.verify(out)[1] == []
    text = (out / "observables.csv").read_text()
    (out / "observables.csv").write_text(text.replace(repr(float(table["far"][0])), "1.0", 1))
    assert inspect.verify(out)[1] != []


def test_of_many_systems(folder):
    (folder / "run.toml").write_text(CONFIG.replace("n = 40", "n = 10\nsystems = 4"))
    assert cli.main(["run", "run.toml", "--quiet", "--allow-code"]) == 0
    data = read_ensemble(folder / "run.run" / "ensemble.h5")
    sol = fp.solve(
        fp.Softmax(np.eye(2), np.eye(2), np.eye(2)), config.load(folder / "run.toml", code=True).tokens(), (0.0, 1.0),
        method="rk4", step=0.05, t_eval=data.time,
    )  # fmt: skip
    np.testing.assert_allclose(data.observables["width_1"], np.ptp(sol.x[..., 1], axis=2), rtol=1e-12)
    assert (data.observables["age"] == 2.0 * data.time[:, None]).all()
    means = read_observables(folder / "run.run" / "observables.csv")
    np.testing.assert_allclose(means["width_1"], data.observables["width_1"].mean(axis=1), rtol=1e-12)
    assert (folder / "run.run" / "observables.png").stat().st_size > 5000


def test_over_a_restart(folder, monkeypatch):
    problem = config.load(folder / "run.toml", code=True)
    assert runner.run(problem, folder / "whole", quiet=True).code == 0
    calls = []

    def check(signals):
        calls.append(1)
        if len(calls) == 50 and not signals._held:
            raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", check)
        assert runner.run(problem, folder / "parts", quiet=True).code == 75
    (folder / "widths.py").write_text((HERE / "widths.py").read_text() + "\n# edited\n")
    with pytest.raises(fp.InputError, match=r"another widths\.py"):
        runner.run(config.load(folder / "run.toml", code=True), folder / "parts", quiet=True)
    shutil.copy(HERE / "widths.py", folder)
    assert runner.run(config.load(folder / "run.toml", code=True), folder / "parts", quiet=True).code == 0
    tables = [(folder / name / "observables.csv").read_bytes() for name in ("whole", "parts")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ('["widths:wrong"]', "observable wrong"),
        ('["widths:taken"]', "'trace'"),
        ('["widths:steps"]', "'steps'"),
        ('["widths:table"]', "'observables'"),
        ('["widths:function"]', "an fp.Observable called function"),
        ('["widths:missing"]', "an fp.Observable called missing"),
        ('["nowhere:width"]', "a module nowhere"),
        ('["widths:width", "widths:width"]', "each name once"),
        ('["width"]', r"output.observables\[0\]"),
        ('"widths:width"', "a list of names"),
    ],
)
def test_what_is_refused(folder, capsys, names, said):
    (folder / "run.toml").write_text(CONFIG.replace('["widths:width", "widths:later"]', names))
    assert cli.main(["run", "run.toml", "--quiet", "--allow-code"]) == 2
    error = capsys.readouterr().err
    assert said.replace("\\", "") in error and len(error.splitlines()) == 1
    assert not (folder / "run.run").exists()


def test_code_is_run_where_it_is_allowed_only(folder, capsys):
    assert cli.main(["run", "run.toml", "--quiet"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    (folder / "run.toml").write_text(CONFIG.replace('["widths:width", "widths:later"]', "[]"))
    assert cli.main(["run", "run.toml", "--quiet"]) == 0
    assert list(read_observables(folder / "run.run" / "observables.csv"))[-1] == "dissipation"


def test_a_column_without_a_number_is_not_drawn(folder):
    (folder / "run.toml").write_text(CONFIG.replace("widths:later", "widths:lost") + "energy = false\n")
    assert cli.main(["run", "run.toml", "--quiet", "--allow-code"]) == 0
    table = read_observables(folder / "run.run" / "observables.csv")
    assert np.isnan(table["nothing"]).all() and "energy" not in table


@pytest.mark.parametrize(
    "arguments",
    [
        ("a b", ["x"], len), ("a", ["x y"], len), ("a", [], len), ("a", ["x", "x"], len), ("a", "x", len),
        ("a", ["x"], 1.0), ("a", [3], len),
    ],
)  # fmt: skip
def test_names_that_no_table_can_have(arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)):
        Observable(*arguments)


def test_a_function_that_returns_something_else():
    for found in ("text", [1.0, 2.0], None, {"a": 1}):
        with pytest.raises(fp.InputError, match="observable a"):
            Observable("a", ["x"], lambda t, x, found=found: found).of_one(0.0, Tokens.alone(np.zeros((3, 2))))


@pytest.mark.parametrize("systems", ["", "\nsystems = 4"])
def test_one_that_raises(folder, capsys, systems):
    text = CONFIG.replace('"widths:width", "widths:later"', '"widths:broken"').replace("n = 40", f"n = 10{systems}")
    (folder / "run.toml").write_text(text)
    assert cli.main(["run", "run.toml", "--quiet", "--allow-code"]) == 2
    error = capsys.readouterr().err
    assert "observable broken: got IndexError" in error and "widths.py, line 14" in error and error.count("\n") == 1
    if not systems:
        assert "observable broken: got IndexError" in (folder / "run.run" / "log.txt").read_text()
