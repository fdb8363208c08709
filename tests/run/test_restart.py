"""Runs that are cut and go on: anywhere, by any means, in any number of parts, to the bits of the whole run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from edits import changed
from results import result

import fastpde
from fastpde import compiling, config
from fastpde.errors import InputError
from fastpde.run import checkpoint, inspect, lock, runner, sweep_table
from fastpde.run.frames import Frames
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory

OFTEN = ("every = 0.25", "every = 0.25\ncheckpoint = 1e-9")  # after every step
DOPRI = ('method = "rk4"\nstep = 0.05', 'method = "dopri5"\nrtol = 1e-5')
SINKHORN = ('"softmax"', '"sinkhorn"\nK = { scale = -1.0 }\neps = 2.0\ntol = 1e-6')
CASES = {
    "rk4": [],
    "dopri5": [DOPRI],
    "sinkhorn": [DOPRI, SINKHORN],
    "float32": [DOPRI, ("[output]", '[backend]\ndtype = "float32"\n[output]')],
    "event": [("step = 0.05", "step = 0.05\n[events]\nsteady_state = 0.9\n")],
    "noise": [('method = "rk4"\nstep = 0.05', 'method = "heun"\nstep = 0.03\nnoise = 0.3')],
}


def run(small: Path, out: str):
    return runner.run(config.load(small), small.parent / out, quiet=True)


class Cuts:
    """Stands in for the walltime: the run is asked to stop at chosen ones of its checks."""

    def __init__(self, monkeypatch) -> None:
        self.count, self.at = 0, -1
        monkeypatch.setattr(StopSignals, "check", lambda signals: self.check(signals))

    def check(self, signals: StopSignals) -> None:
        if signals._held:
            return
        self.count += 1
        if self.count == self.at:
            raise Stopped(signal.SIGTERM)


def test_times_count_all_parts_of_a_run(small, monkeypatch):
    """Of the integration and of compilation; the first part is slow, and compiles for 7 seconds of its clock."""
    cuts, compiled, store = Cuts(monkeypatch), [0.0], Frames.frame

    @contextmanager
    def shown(*_, **__):
        yield lambda: compiled[0]

    def frame(self, t, x):
        store(self, t, x)
        if t in (0.0, 1.0):
            compiled[0] += 7.0 - 6.0 * t
        if t == 0.0:
            time.sleep(0.3)

    monkeypatch.setattr(Frames, "frame", frame)
    monkeypatch.setattr(compiling, "shown", shown)
    cuts.at = 20
    assert run(small, "a").code == 75
    assert checkpoint.newest(small.parent / "a")[0].facts["wall_time"] > 0.3
    cuts.at = -1
    assert run(small, "a").code == 0
    status = json.loads((small.parent / "a" / "status.json").read_text())
    assert status["elapsed_s"] > status["backend"]["wall_time"] > 0.3 and status["compile_s"] == 8.0
    cell = sweep_table.look(small.parent / "a")
    assert sweep_table.elapsed(replace(cell, facts=cell.facts | {"elapsed_s": 9.0})) == 1.0
    assert sweep_table.elapsed(sweep_table.Cell("finished", {"elapsed_s": 9.0})) == 9.0  # of an earlier version


@pytest.mark.parametrize("case", CASES)
def test_any_cuts_give_the_same_bits(small, monkeypatch, case):
    """Checks are between steps and before every sum: most cuts are inside of a step, some in its output."""
    changed(small, *CASES[case])
    cuts = Cuts(monkeypatch)
    assert run(small, "whole").code == 0
    whole, total = result(small.parent / "whole"), cuts.count
    assert total > 20
    random.seed(1)
    # A scaling is not cut: it is the sums of one evaluation that a part must have time for.
    for trial, most in enumerate([total // 2, total // 3] if case == "sinkhorn" else [total // 3, 2]):
        out, parts = small.parent / f"cut{trial}", 0
        while True:
            cuts.count, cuts.at = 0, random.randint(2, most)
            outcome = run(small, out.name)
            parts += 1
            if outcome.code == 0:
                break
            assert outcome.code == 75 and "The same command goes on." in outcome.message
            assert inspect.verify(out)[1] == []
            assert parts < 3 * total
        assert result(out) == whole and parts > 2
        log = (out / "log.txt").read_text()
        assert log.count("goes on from checkpoint") == parts - 1


def test_a_crash_at_any_write(small, monkeypatch):
    """What a kill would leave before each call that writes: the run goes on from there, or begins again."""
    changed(small, OFTEN, ("t_end = 1.0", "t_end = 0.3"), ("every = 0.25", "every = 0.1"))
    assert run(small, "whole").code == 0
    whole, left, out = result(small.parent / "whole"), [], small.parent / "out"

    def spy(owner, name):
        plain = getattr(owner, name)

        def call(*arguments, **options):
            if out.exists():
                left.append(small.parent / f"left{len(left)}")
                shutil.copytree(out, left[-1])
            return plain(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    with monkeypatch.context() as monkeypatch:
        for name in ("write", "fsync", "replace", "unlink"):
            spy(os, name)
        spy(h5py.File, "flush")
        spy(h5py.File, "close")
        assert run(small, "out").code == 0
    assert result(out) == whole and len(left) > 50
    for path in left[:: max(1, len(left) // 40)]:
        frames = len(read_trajectory(path / "trajectory.h5").time)  # readable at any moment
        last, _ = checkpoint.newest(path)
        assert last.facts["marks"]["trajectory"]["frames"] <= frames
        assert run(small, path.name).code == 0
        assert result(path) == whole
        assert not list(path.glob(".*")) and not lock.held(path)


def test_a_damaged_checkpoint_costs_one_generation(small, monkeypatch):
    changed(small, OFTEN)
    cuts = Cuts(monkeypatch)
    assert run(small, "whole").code == 0
    whole, cuts.count, cuts.at = result(small.parent / "whole"), 0, 60
    assert run(small, "out").code == 75
    cuts.at, out = -1, small.parent / "out"
    last, _ = checkpoint.newest(out)
    path = out / checkpoint.NAMES[last.number % 2]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert any(path.name in text for text in inspect.verify(out)[1])
    assert run(small, "out").code == 0
    assert result(out) == whole and "left aside" in (out / "log.txt").read_text()


def stopped(small: Path, monkeypatch, at: int = 40) -> Path:
    with monkeypatch.context() as context:
        Cuts(context).at = at
        assert run(small, "out").code == 75
    return small.parent / "out"


def content(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def edit_frame(out: Path) -> None:
    with h5py.File(out / "trajectory.h5", "r+") as file:
        file["particles/tokens/position/value"][0, 0, 0] += 1e-15


def edit_row(out: Path) -> None:
    table = out / "observables.csv"
    table.write_bytes(table.read_bytes().replace(b"0.0,", b"0.1,", 1))


def both_damaged(out: Path) -> None:
    for name in checkpoint.NAMES:
        (out / name).write_bytes(b"x")


SPOILED = {
    "edited trajectory": (edit_frame, "trajectory.h5.*changed"),
    "no trajectory": (lambda out: (out / "trajectory.h5").unlink(), "trajectory"),
    "edited observables": (edit_row, "observables.csv.*changed"),
    "no checkpoint": (both_damaged, "without a checkpoint.*checkpoint.0: it is too short"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_directory_is_refused_and_left_alone(small, monkeypatch, case):
    spoil, words = SPOILED[case]
    out = stopped(small, monkeypatch)
    spoil(out)
    assert inspect.verify(out)[1] != []
    before = content(out)
    with pytest.raises(InputError, match=f"(?s){words}"):
        run(small, "out")
    assert content(out) == before


def test_a_status_that_a_crash_has_taken_is_written_again(small, monkeypatch):
    out = stopped(small, monkeypatch)
    (out / "status.json").write_text("")
    assert run(small, "out").code == 0 and result(out)


def test_another_configuration_or_other_files_are_refused(small, monkeypatch):
    np.save(small.parent / "V.npy", -np.eye(2))
    changed(small, ("V = { scale = -1.0 }", 'V = "V.npy"'))
    stopped(small, monkeypatch)
    np.save(small.parent / "V.npy", -1.1 * np.eye(2))
    with pytest.raises(InputError, match=r"another V\.npy"):
        run(small, "out")
    np.save(small.parent / "V.npy", -np.eye(2))
    changed(small, ("every = 0.25", "every = 0.25\ncheckpoint = 5.0"))  # may change
    assert run(small, "out").code == 0
    changed(small, ("seed = 3", "seed = 4"))
    with pytest.raises(InputError, match="another configuration"):
        run(small, "out")


def test_a_run_that_has_failed_by_its_numbers_says_so_again(small):
    changed(small, ('"softmax"', '"linear"'), ("V = { scale = -1.0 }", ""), ("t_end = 1.0", "t_end = 100.0"))
    first = run(small, "out")
    before = content(small.parent / "out")
    again = run(small, "out")
    assert first.code == again.code == 3 and "ended so before" in again.message
    assert content(small.parent / "out") == before
    last, _ = checkpoint.newest(small.parent / "out")
    assert np.isfinite(last.arrays["y"]).all()  # the last good one


ENDLESS = (
    ("t_end = 1.0", "t_end = 1e5"),
    ("every = 0.25", "every = 0.2\ncheckpoint = 0.2"),
    ("step = 0.05", "step = 0.2"),
)


def wait_for_rows(out: Path, count: int, process) -> None:
    deadline = time.monotonic() + 120  # a first run compiles
    table = out / "observables.csv"
    while not (table.exists() and table.read_text().count("\n") > count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_writer_three_signals_and_going_on(small, launch):
    """A real process: a second one is refused while it lives, signals are exit 75, and the parts make one run."""
    changed(small, *ENDLESS)
    process, out = launch(["run", "small.toml", "--quiet"], small.parent), small.parent / "small.run"
    wait_for_rows(out, 5, process)
    with pytest.raises(InputError, match=f"process {process.pid} on .* is at work"):
        run(small, "small.run")
    assert inspect.status(out)["process"].startswith(str(process.pid))
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "The same command goes on." in errors and "Traceback" not in errors
    assert inspect.status(out)["state"].startswith("stopped") and inspect.verify(out)[1] == []
    rows, began = read_observables(out / "observables.csv")["t"], time.monotonic()
    process = launch(["run", "small.toml", "--quiet"], small.parent)
    wait_for_rows(out, len(rows) + 5, process)
    walltime = round(5.0 + 5.0 * (time.monotonic() - began))  # the start of a process takes its time
    process.kill()
    process.wait()
    assert inspect.status(out)["state"].startswith("killed")
    # The lock of a dead process holds nobody up.
    stored = read_trajectory(out / "trajectory.h5")
    assert stored.time[: len(rows)].tolist() == rows.tolist()
    end = stored.time[-1]
    process = launch(["run", "small.toml", "--quiet", "--max-walltime", f"{walltime}s"], small.parent)
    _, errors = process.communicate(timeout=walltime + 120)
    assert process.returncode == 75 and "walltime" in errors
    stored = read_trajectory(out / "trajectory.h5")
    assert stored.time[-1] > end and (np.diff(stored.time) > 0).all()
    assert inspect.verify(out)[1] == []


FULL = """
mount -t tmpfs -o size=3m none disk || exit 77
run="'{python}' -m fastpde run small.toml --quiet --out disk/out"
eval $run --threads 1; echo first $?
'{python}' -m fastpde verify disk/out; echo verify $?
mount -o remount,size=100m disk
eval $run; echo second $?
cp -r disk/out out
"""


def test_a_full_disk_is_exit_5_and_goes_on_when_there_is_room(small):
    """A file system of 3 MB of its own: 20 frames of 160 kB and two checkpoints of 320 kB do not fit."""
    changed(small, ("n = 30", "n = 10000"), ("every = 0.25", "every = 0.05\nenergy = false\ncheckpoint = 1e-9"))
    changed(small, ('"softmax"', '"linear"'))
    (small.parent / "disk").mkdir()
    path = str(Path(fastpde.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_NUM_THREADS": "2"}
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL.format(python=sys.executable)]
    if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=small.parent, env=environment)
    if done.returncode == 77:
        pytest.skip("no private mounts here")
    assert "first 5" in done.stdout and "verify 0" in done.stdout and "second 0" in done.stdout, done
    assert "No space left" in done.stderr and "Traceback" not in done.stderr and "Abort" not in done.stderr
    assert run(small, "whole").code == 0  # with another number of threads
    assert result(small.parent / "out") == result(small.parent / "whole")
