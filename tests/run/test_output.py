"""Output that fills up, vanishes or may not be written: exit 5, and what is there is good to go on with."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from edits import changed
from results import result

import fastpde
from fastpde import config
from fastpde.errors import InputError
from fastpde.run import checkpoint, inspect, runner
from fastpde.run.frames import Frames

ROOM = (
    ("n = 30", "n = 2000"),
    ('"softmax"', '"linear"'),
    ("every = 0.25", "every = 0.05\nenergy = false\ncheckpoint = 1e-9"),
)
PROGRAM = (sys.executable, str(Path(__file__).with_name("full.py")))
SHELL = "mount -t tmpfs -o size=100m none disk || exit 77; exec '{}' '{}' disk small.toml"


def options(small: Path) -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": str(Path(fastpde.__file__).parents[1])}
    return {"capture_output": True, "text": True, "timeout": 600, "cwd": small.parent, "env": environment}


def run(small: Path, out: str = "out") -> runner.Outcome:
    return runner.run(config.load(small), small.parent / out, quiet=True)


@pytest.mark.parametrize("systems", [1, 30])
def test_a_disk_of_twenty_sizes(small, systems):
    """From one that takes nothing to one that takes all: of 0.9 MB, 0.6 are frames and 0.2 checkpoints; of systems 3.3
    are frames.
    """
    changed(small, *ROOM)
    if systems > 1:
        changed(small, ("n = 2000", f"n = 300\nsystems = {systems}"))
    (small.parent / "disk").mkdir()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", SHELL.format(*PROGRAM)], **options(small))
    if done.returncode == 77:
        pytest.skip("no private mounts here")
    assert (done.returncode, done.stderr) == (0, "")  # nothing aborts at the end of the process either
    codes = done.stdout.split()
    assert len(codes) == 20 and set(codes) <= {"5", "0"} and codes.count("5") >= 10 and codes[-1] == "0"


@pytest.fixture
def during(monkeypatch):
    """Do something before the third frame of the next run is stored."""
    append = Frames._add

    def set_up(action) -> None:
        frames = []

        def appended(self, *arguments):
            frames.append(1)
            if len(frames) == 3:
                action(self.writer.path)
            append(self, *arguments)

        monkeypatch.setattr(Frames, "_add", appended)

    yield set_up


def test_files_that_may_not_grow(small):
    """Where no file system can be mounted: files become limited in the middle of the run."""
    changed(small, *ROOM)
    assert run(small, "whole").code == 0
    want = result(small.parent / "whole")
    done = subprocess.run([*PROGRAM, "limit", "small.toml"], **options(small))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["5"] * 20
    for out in small.parent.glob("out*"):
        assert inspect.verify(out)[1] == []
        assert run(small, out.name).code == 0
        assert result(out) == want


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    os.replace(path.with_name("copy"), path)


VANISHED = {  # and whether the same command goes on: it begins again where nothing is left
    "the directory": (shutil.rmtree, "No such file", 0),
    "its place": (lambda path: path.rename(path.with_name("moved")), "No such file", 0),
    "a file": (lambda path: (shutil.rmtree(path), path.write_text("")), "Not a directory", None),
    "the trajectory": (lambda path: (path / "trajectory.h5").unlink(), "trajectory.h5: No such file", None),
    "another trajectory": (lambda path: replaced(path / "trajectory.h5"), "trajectory.h5 was replaced", 0),
    "the observables": (lambda path: (path / "observables.csv").unlink(), "observables.csv: No such file", None),
    "another table": (lambda path: replaced(path / "observables.csv"), "observables.csv was replaced", 0),
    "checkpoints": (lambda path: [(path / name).unlink() for name in checkpoint.NAMES], "", 0),
}


@pytest.mark.parametrize("case", VANISHED)
def test_what_vanishes_while_it_is_written_to(small, during, case):
    """Checkpoints that vanish are written again; whatever else does ends the run with exit 5."""
    action, words, again = VANISHED[case]
    changed(small, *ROOM)
    during(action)
    outcome = run(small)
    assert outcome.code == (5 if words else 0) and words in outcome.message
    if words.startswith("No such"):
        assert "kept" not in outcome.message
    if again is None:
        with pytest.raises(InputError):
            run(small)
    else:
        assert run(small).code == again


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_directory_that_may_no_longer_be_written(small, during, mode):
    changed(small, *ROOM)
    during(lambda path: path.chmod(mode))
    outcome = run(small)
    (small.parent / "out").chmod(0o700)
    assert outcome.code == 5 and "Permission denied" in outcome.message
    assert inspect.verify(small.parent / "out")[1] == [] and run(small).code == 0


def test_a_file_system_that_may_not_be_written(small, during, monkeypatch):
    """As one that the system has taken back to read only: no new file, no new name."""

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    changed(small, *ROOM)
    with monkeypatch.context() as context:
        during(lambda _: [context.setattr(os, name, read_only) for name in ("open", "replace", "unlink", "ftruncate")])
        outcome = run(small)
    assert outcome.code == 5 and "Read-only file system" in outcome.message
    assert inspect.verify(small.parent / "out")[1] == [] and run(small).code == 0


@pytest.mark.parametrize("name", ["log.txt", "lock", "status.json.tmp"])
def test_nothing_is_written_through_a_symbolic_link(small, during, name):
    """Where an unfinished run goes on: what the link points to is not the run's. Without the link it goes on."""
    changed(small, *ROOM)
    during(lambda path: shutil.rmtree(path / "nothing"))
    with pytest.raises(FileNotFoundError):
        run(small)
    victim, link = small.with_name("victim"), small.parent / "out" / name
    victim.write_text("mine")
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    if name == "lock":
        outcome = run(small)
        assert outcome.code == 5 and "lock: it is a symbolic link" in outcome.message
    else:
        with pytest.raises(InputError, match=f"in which {name} is a symbolic link"):
            run(small)
    assert victim.read_text() == "mine"
    link.unlink()
    assert run(small).code == 0 and inspect.verify(small.parent / "out")[1] == []


VERSIONS = {"older": (0, "its version is 0"), "newer": (2, "version 2 of the format")}


@pytest.mark.parametrize("case", [*VERSIONS, "foreign"])
def test_checkpoints_of_others_are_refused_and_left_alone(small, during, case):
    changed(small, *ROOM)
    during(lambda path: shutil.rmtree(path / "nothing"))
    with pytest.raises(FileNotFoundError):
        run(small)
    out = small.parent / "out"
    for name in checkpoint.NAMES:
        data = bytearray((out / name).read_bytes())
        if case == "foreign":
            data[:16] = b"SQLite format 3\0"
        else:
            data[16:20] = struct.pack("<I", VERSIONS[case][0])
            data[-32:] = checkpoint.hashlib.blake2b(data[:-32], digest_size=32).digest()
        (out / name).write_bytes(data)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(InputError, match=VERSIONS.get(case, (0, "does not begin as a checkpoint"))[1]):
        run(small)
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}
