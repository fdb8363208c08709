"""What `verify` finds: every number of every file of a run, altered one at a time."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from edits import changed
from results import result
from test_restart import Cuts

import fastpde
from fastpde import cli, config
from fastpde.errors import InputError
from fastpde.run import inspect, runner, sweep_folder, sweep_inspect, system_blocks

KINDS = {
    "one": [("every = 0.25", "every = 0.25\nmax_tokens = 20\nclusters = 0.3")],
    "many": [
        ("n = 30", "n = 8\nsystems = 5"),
        ('method = "rk4"\nstep = 0.05', 'method = "dopri5"\n[events]\nsteady_state = 0.5'),
        ("every = 0.25", "every = 0.25\nenergy = true"),
    ],
}
DIGIT = re.compile(r"(?<![\w.])-?\d[\d.e+-]*")


@pytest.fixture(params=KINDS)
def whole(request, small) -> Path:
    """Return a finished run."""
    out = small.parent / "whole"
    assert runner.run(config.load(changed(small, *KINDS[request.param])), out, quiet=True).code == 0
    assert inspect.verify(out)[1] == []
    return out


def text(path: Path, rng: random.Random) -> str:
    """Change a digit of a number, not in a comment; return what was changed."""
    lines = path.read_text().split("\n")
    places = [
        (i, match.start() + k)
        for i, line in enumerate(lines)
        for match in DIGIT.finditer(line)
        for k, c in enumerate(match.group())
        if c.isdigit() and not line.startswith("#")
    ]
    i, k = rng.choice(places)
    old = "\n".join(lines)
    lines[i] = lines[i][:k] + rng.choice([c for c in "123456789" if c != lines[i][k]]) + lines[i][k + 1 :]
    new = "\n".join(lines)
    if path.suffix == ".json" and json.loads(new) == json.loads(old):  # a digit beyond those of a float
        return text(path, rng)
    path.write_text(new)
    return f"line {i}, column {k}"


def numbers(path: Path, rng: random.Random) -> str:
    """Change a number of a data set."""
    names = []
    with h5py.File(path, "r+") as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        # Dimension scales without values, which take no room, name axes.
        some = [one for one in names if file[one].id.get_storage_size() and file[one].dtype.kind in "fiu"]
        name = rng.choice(some)
        data = file[name][...]
        flat = data.reshape(-1)
        i = rng.randrange(flat.size)
        old = flat[i]
        if data.dtype.kind == "f":
            flat[i] = 1.0 if np.isnan(old) else np.nextafter(old, np.inf) if rng.random() < 0.5 else -old - 1.0
        else:
            flat[i] = 1 if old != 1 else 2
        file[name][...] = data
    return f"{name}[{i}]: {old} -> {flat[i]}"


def test_other_names_of_observables_are_found(small):
    out = small.parent / "whole"
    assert runner.run(config.load(changed(small, *KINDS["many"])), out, quiet=True).code == 0
    with h5py.File(out / "ensemble.h5", "r+") as file:
        file["observable"][1] = "another"
    assert any("the names of the observables" in text for text in inspect.verify(out)[1])


def test_a_removed_checkpoint_is_found(whole):
    """Of a run that has only begun, whose status is kept, there is no second one."""
    for name in ("checkpoint.0", "checkpoint.1"):
        copy = Path(shutil.copytree(whole, whole.parent / name))
        (copy / name).unlink()
        assert inspect.verify(copy)[1] == [f"{name} is missing"]


def test_a_run_that_has_only_begun_has_one_checkpoint(small):
    out = small.parent / "begun"
    problem = config.load(changed(small, ("step = 0.05", "step = 0.05\nmax_steps = 3")))
    assert runner.run(problem, out, quiet=True).code == 2
    assert not (out / "checkpoint.1").exists() and inspect.verify(out)[1] == []


def test_verify_names_the_file_and_no_option(whole):
    name = next(path for path in whole.iterdir() if path.suffix == ".h5")
    with h5py.File(name, "r+") as file:
        del file["particles/tokens/position/value" if name.stem == "trajectory" else "position"]
    wrong = inspect.verify(whole)[1]
    assert len(wrong) == 1 and "--out" not in wrong[0] and wrong[0].startswith(name.stem), wrong


def byte(path: Path, rng: random.Random) -> str:
    """Change a byte."""
    data = bytearray(path.read_bytes())
    i = rng.randrange(len(data))
    data[i] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"byte {i}"


WAYS = {".csv": text, ".json": text, ".toml": text, ".h5": numbers, ".0": byte, ".1": byte}


def test_altered_numbers_are_found(whole, request):
    """A resume must refuse what `verify` would: of the files that it goes on with, in the test below."""
    rng, missed, count = random.Random(1), [], 50 if request.config.getoption("--soak") else 6
    files = sorted(path for path in whole.iterdir() if path.suffix in WAYS)
    assert len(files) >= 6
    for path in files:
        for _ in range(count):
            copy = Path(shutil.copytree(whole, whole.parent / "copy"))
            what = WAYS[path.suffix](copy / path.name, rng)
            try:
                wrong = inspect.verify(copy)[1]
            except InputError as error:
                wrong = [str(error)]
            if not wrong:
                missed.append(f"{path.name}, {what}")
            shutil.rmtree(copy)
    assert missed == []


@pytest.mark.soak
def test_altered_bytes_are_found_or_change_no_result(whole):
    """The rest are of the layout of HDF5: names of the author, unused room, versions of what is not read."""
    rng, found, same = random.Random(2), 0, 0
    (path,) = whole.glob("*.h5")
    want = result(whole)
    for _ in range(200):
        copy = Path(shutil.copytree(whole, whole.parent / "copy"))
        byte(copy / path.name, rng)
        try:
            wrong = inspect.verify(copy)[1]
        except (InputError, OSError, RuntimeError) as error:
            wrong = [str(error)]
        found += bool(wrong)
        if not wrong:
            assert result(copy) == want
            same += 1
        shutil.rmtree(copy)
    assert found > 0 and found + same == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_refuses_what_verify_finds(small, monkeypatch, request, kind):
    """It refuses and leaves the directory as it is, or what was altered is made anew, to the bits of the whole run."""
    changed(small, *KINDS[kind])
    problem, out = config.load(small), small.parent / "out"
    assert runner.run(problem, small.parent / "whole", quiet=True).code == 0
    want = result(small.parent / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(system_blocks, "_FIRST", 2)
        cuts, at = Cuts(patch), 1
        while not out.exists() or len(read(out)) < 2:
            shutil.rmtree(out, ignore_errors=True)
            cuts.count, cuts.at, at = 0, at, at + 1
            assert runner.run(problem, out, quiet=True).code == 75
    assert inspect.verify(out)[1] == []
    rng, refused, count = random.Random(3), 0, 40 if request.config.getoption("--soak") else 6
    for path in sorted(path for path in out.iterdir() if path.suffix in (".csv", ".toml", ".h5")):
        for _ in range(count):
            copy = Path(shutil.copytree(out, small.parent / "copy"))
            what = WAYS[path.suffix](copy / path.name, rng)
            wrong, before = inspect.verify(copy)[1], (copy / path.name).read_bytes()
            try:
                assert runner.run(problem, copy, quiet=True).code == 0
                assert result(copy) == want, (path.name, what, wrong)
            except InputError:
                refused += 1
                assert wrong and (copy / path.name).read_bytes() == before, (path.name, what)
            shutil.rmtree(copy)
    assert refused > count


def read(out: Path) -> list[str]:
    """The lines of the table to which a run appends, without the first."""
    path = out / "systems.csv"
    return (path if path.exists() else out / "observables.csv").read_text().split("\n")[1:-1]


def test_cells_of_a_sweep(small, monkeypatch, capsys):
    """Numbers of cells.csv are those of the cells; a cell whose configuration was edited is not finished."""
    monkeypatch.chdir(small.parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastpde.__file__).parents[1]))
    Path("plan.toml").write_text('config = "small.toml"\n[vary]\nseed = [1, 2]\n')
    assert cli.main(["sweep", "plan.toml", "--local", "1", "--quiet"]) == 0
    out, rng = Path("plan.sweep"), random.Random(4)
    assert sweep_inspect.verify(out)[1] == []
    for _ in range(20):
        before = (out / "cells.csv").read_text()
        what = text(out / "cells.csv", rng)
        assert sweep_inspect.verify(out)[1] != [], what
        (out / "cells.csv").write_text(before)
    cell = sweep_folder.load(out).cell(1)
    before = (cell / "config.toml").read_text()
    (cell / "config.toml").write_text(before.replace("seed = 2", "seed = 3"))
    capsys.readouterr()
    assert cli.main(["status", str(out)]) == 0
    assert "1 failed" in capsys.readouterr().out
    assert cli.main(["sweep", "plan.toml", "--quiet"]) == 3
    assert "config.toml was edited" in capsys.readouterr().err
    (cell / "config.toml").write_text(before)
    assert cli.main(["sweep", "plan.toml", "--quiet"]) == 0
