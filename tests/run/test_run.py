"""Whole runs: what is in the directory at the end, after a kill, after a signal, on a full disk."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from edits import changed

import fastpde
from fastpde import config
from fastpde.run import directory, runner
from fastpde.run.frames import Frames
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory

ENDLESS = ("t_end = 1.0", "t_end = 1e5"), ("every = 0.25", "every = 0.2"), ("step = 0.05", "step = 0.2")


def test_a_finished_run_holds_everything(small):
    problem = config.load(small)
    out = small.parent / "out"
    outcome = runner.run(problem, out, quiet=True)
    assert (outcome.code, outcome.path) == (0, out)
    names = {"config.toml", "trajectory.h5", "observables.csv", "status.json", "log.txt"}
    names |= {"checkpoint.0", "checkpoint.1"}
    assert {file.name for file in out.iterdir()} == names
    assert {file.name for file in small.parent.iterdir()} == {"small.toml", "out"}
    stored = read_trajectory(out / "trajectory.h5")
    assert stored.time.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert (stored.value[0] == fastpde.Gaussian(0.0, np.eye(2)).sample(30, 3)).all()
    table = read_observables(out / "observables.csv")
    assert table["t"].tolist() == stored.time.tolist()
    assert np.isfinite(table["energy"]).all()
    # V = -I draws every token to the origin side of the cloud: the radius falls in every interval.
    assert (np.diff(table["radius"]) < 0).all()
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["t"], status["frames"]) == ("finished", 1.0, 5)
    assert config.load(out / "config.toml").config == problem.config
    assert "finished" in (out / "log.txt").read_text()


def test_a_run_is_reproducible_and_a_subset_is_a_subset(small):
    whole = runner.run(config.load(small), small.parent / "a", quiet=True)
    changed(small, ("every = 0.25", "every = 0.25\nmax_tokens = 7"))
    part = runner.run(config.load(small), small.parent / "b", quiet=True)
    a, b = (read_trajectory(outcome.path / "trajectory.h5") for outcome in (whole, part))
    assert b.value.shape[1] == 7 and (a.value[:, b.ids] == b.value).all()
    tables = [read_observables(outcome.path / "observables.csv") for outcome in (whole, part)]
    assert all((tables[0][name] == tables[1][name]).all() for name in tables[0])  # moments are of all tokens


SPHERE = ('kind = "gaussian"', 'kind = "sphere"'), ("V = { scale = -1.0 }", "scale = 3.0")
SPHERE_TIME = ('method = "rk4"', 'method = "heun"\nmanifold = "sphere"')


def test_a_run_on_the_sphere(small):
    changed(small, *SPHERE, SPHERE_TIME, ("t_end = 1.0", "t_end = 5.0"))
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 0
    stored = read_trajectory(outcome.path / "trajectory.h5")
    assert np.abs(np.linalg.norm(stored.value, axis=-1) - 1).max() < 1e-14
    energy = read_observables(outcome.path / "observables.csv")["energy"]
    assert (np.diff(energy) > 0).all()  # Q = K = V = I: tokens attract each other (Theory 7)
    assert 'manifold = "sphere"' in (outcome.path / "config.toml").read_text()


def test_a_noisy_run_depends_on_its_seed_alone(small):
    changed(small, *SPHERE, SPHERE_TIME, ("t_end = 1.0", "t_end = 1.0\nnoise = 0.5"))
    runs = [runner.run(config.load(small), small.parent / name, quiet=True) for name in "ab"]
    changed(small, ("every = 0.25", "every = 0.5"))
    runs.append(runner.run(config.load(small), small.parent / "c", quiet=True))
    changed(small, ("noise = 0.5", "noise = 0.0"))
    runs.append(runner.run(config.load(small), small.parent / "d", quiet=True))
    a, b, c, d = (read_trajectory(outcome.path / "trajectory.h5").value for outcome in runs)
    assert a.tobytes() == b.tobytes() and a[-1].tobytes() == c[-1].tobytes() and a[0].tobytes() == d[0].tobytes()
    assert np.abs(a[-1] - d[-1]).max() > 0.1  # noise of 0.5 moves tokens by about that much
    assert np.abs(np.linalg.norm(a, axis=-1) - 1).max() < 1e-14


def test_overflow_is_exit_3_and_keeps_what_was_finite(small):
    # Linear attention with V = I blows up; rk4 with a fixed step runs into infinity and says so.
    changed(small, ('"softmax"', '"linear"'), ("V = { scale = -1.0 }", ""), ("t_end = 1.0", "t_end = 100.0"))
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 3 and "finite" in outcome.message
    assert np.isfinite(read_trajectory(outcome.path / "trajectory.h5").value).all()
    assert json.loads((outcome.path / "status.json").read_text())["state"] == "failed"


def test_too_few_steps_is_exit_2_naming_the_key(small):
    changed(small, ("step = 0.05", "step = 0.05\nmax_steps = 3"))
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 2 and outcome.message.startswith("time.max_steps")


def test_sinkhorn_with_its_energy(small):
    """V = -Q^T K with Q = K: the energy rises (Theory 7)."""
    keys = '"sinkhorn"\neps = 2.0\ntol = 1e-8'
    changed(small, ('"softmax"', keys), ("[output]", "[output]\nenergy = true"))
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 0
    energy = read_observables(small.parent / "out" / "observables.csv")["energy"]
    assert len(energy) > 2 and (np.diff(energy) > 0).all()


@pytest.mark.parametrize("energy", [False, True])
def test_a_scaling_that_does_not_converge_is_exit_3_naming_the_key(small, energy):
    """The energy of a frame whose scaling does not converge either is nan; the frame is kept."""
    keys = '"sinkhorn"\neps = 0.1\nmax_iter = 5'
    changed(small, ('"softmax"', keys), ("[output]", f"[output]\nenergy = {str(energy).lower()}"))
    out = small.parent / "out"
    outcome = runner.run(config.load(small), out, quiet=True)
    assert outcome.code == 3 and outcome.message.startswith("attention.max_iter: ")
    assert "marginal error" in outcome.message and "after 5 half-iterations" in outcome.message
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["status"], status["frames"]) == ("failed", "not_converged", 1)
    assert status["message"].startswith("attention.max_iter: ")
    table = read_observables(out / "observables.csv")
    assert np.isnan(table["energy"]).all() if energy else "energy" not in table


def test_a_scaling_that_rounding_keeps_from_its_tolerance_names_that_key(small):
    changed(small, ('"softmax"', '"sinkhorn"\neps = 0.01\ntol = 1e-18'))
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 3 and outcome.message.startswith("attention.tol: ") and "rounding" in outcome.message


@pytest.mark.parametrize("systems", [1, 3])
def test_the_head_that_does_not_converge_is_named(small, systems):
    """The first block has two heads: the third head is the second block's."""
    text = small.read_text().replace("d = 2", f"d = 2\nsystems = {systems}", 1)
    a, b = text.index("[attention]"), text.index("[time]")
    block = "[[attention.heads]]\nkind = "
    heads = f"{block}'softmax'\ncount = 2\n{block}'sinkhorn'\neps = 0.1\nmax_iter = 5\n"
    small.write_text(f"{text[:a]}[attention]\nkind = 'multihead'\n{heads}{text[b:]}")
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 3 and "attention.heads[1].max_iter: " in outcome.message
    assert ("of heads[2] at t = 0.0" if systems == 1 else "3 not_converged") in outcome.message


def test_output_below_a_file_is_exit_5_and_leaves_nothing(small):
    (small.parent / "file").write_text("x")
    outcome = runner.run(config.load(small), small.parent / "file" / "out", quiet=True)
    assert outcome.code == 5 and "could not be written" in outcome.message
    assert {file.name for file in small.parent.iterdir()} == {"small.toml", "file"}


@pytest.mark.parametrize("good", [0, 2])
def test_a_write_that_fails_is_exit_5_and_keeps_earlier_frames(small, monkeypatch, good):
    append = Frames._add
    calls = []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) > good:
            with directory.writing("the trajectory", Path("x")):
                raise OSError(28, "No space left on device")
        append(self, *arguments)

    monkeypatch.setattr(Frames, "_add", failing)
    outcome = runner.run(config.load(small), small.parent / "out", quiet=True)
    assert outcome.code == 5 and "No space left" in outcome.message
    if good == 0:
        assert {file.name for file in small.parent.iterdir()} == {"small.toml"}
    else:
        assert len(read_trajectory(small.parent / "out" / "trajectory.h5").time) == good


def wait_for_frames(out: Path, count: int, process) -> None:
    deadline = time.monotonic() + 120  # a first run compiles
    table = out / "observables.csv"
    while not (table.exists() and table.read_text().count("\n") > count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 200])
def test_kill_9_leaves_every_flushed_frame(small, launch, count):
    changed(small, *ENDLESS)
    process = launch(["run", "small.toml", "--quiet"], small.parent)
    out = small.parent / "small.run"
    wait_for_frames(out, count, process)
    process.kill()
    process.wait()
    rows = read_observables(out / "observables.csv")["t"]  # a row follows its flushed frame
    with h5py.File(out / "trajectory.h5", "r") as file:
        position = file["particles/tokens/position"]
        assert position["time"][: len(rows)].tolist() == rows.tolist()
        assert np.isfinite(position["value"][: len(rows)]).all()
        assert len(np.unique(position["value"][: len(rows), 0, 0])) > min(len(rows), 100) // 2  # tokens move


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_step(small, launch, number):
    changed(small, *ENDLESS)
    process = launch(["run", "small.toml", "--quiet"], small.parent)
    out = small.parent / "small.run"
    wait_for_frames(out, 3, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "kept in small.run" in errors and "Traceback" not in errors
    assert json.loads((out / "status.json").read_text())["state"] == "stopped"
    stored = read_trajectory(out / "trajectory.h5")
    assert stored.time.tolist() == read_observables(out / "observables.csv")["t"].tolist()


def test_a_file_that_may_not_be_so_large_is_exit_5(small, launch):
    changed(small, *ENDLESS, ("n = 30", "n = 20000"), ("every = 0.2", "every = 0.2\nenergy = false"))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = launch(["run", "small.toml", "--quiet"], small.parent, preexec_fn=limited)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 5, errors
    assert "could not be written" in errors and "Traceback" not in errors
    assert not [file for file in small.parent.iterdir() if file.name.startswith(".")]


FULL = """
import sys
import numpy as np
from pathlib import Path
from fastpde.run import directory, trajectory
path = Path("a.h5")
x = np.ones((20_000, 2))
writer = trajectory.TrajectoryWriter(path, np.arange(len(x)), x, frames=50, version="1")
for i in range(50):
    try:
        writer.store(float(i), x * (i + 1))
    except directory.OutputError as error:
        assert "No space" in str(error), error
        break
writer.close()
stored = trajectory.read_trajectory(path)
assert stored.time.tolist() == list(map(float, range(i))), (i, stored.time)
assert all((frame == k + 1).all() for k, frame in enumerate(stored.value))
print("kept", i)
"""


def test_a_full_disk_keeps_every_frame_and_crashes_nothing(tmp_path):
    """A file system of 3 MB of its own; 50 frames of 320 kB do not fit."""
    disk, script = tmp_path / "disk", tmp_path / "full.py"
    disk.mkdir()
    script.write_text(FULL)
    root = Path(fastpde.__file__).parents[1]
    run = f"PYTHONPATH='{root}' exec '{sys.executable}' '{script}'"
    shell = f"mount -t tmpfs -o size=3m none '{disk}' || exit 77; cd '{disk}'; {run}"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", shell]
    if shutil.which("unshare") is None or subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("no private mounts here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("no private mounts here")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.split()[1]) >= 5


LAYERED = """
[tokens]
kind = "file"
path = "x.npy"
[attention]
kind = "multihead"
[[attention.heads]]
count = 2
Q = "Q.npy[layer, head]"
K = "K.npy[layer, head]"
V = "V.npy[layer, head]"
W = "W.npy[layer, head]"
scale = "1/sqrt(k)"
[[attention.heads]]
kind = "linear"
K = { scale = -1.0 }
[time]
method = "euler"
step = 1.0
t_end = 3.0
[output]
every = 1.0
"""


def test_layers_and_heads_of_files_are_a_residual_transformer(tmp_path):
    rng = np.random.default_rng(0)
    layers, heads, k, dv, d = 3, 2, 3, 5, 4
    shapes = {"Q": (k, d), "K": (k, d), "V": (dv, d), "W": (d, dv)}
    stored = {name: rng.normal(size=(layers, heads, *shape)) / 2 for name, shape in shapes.items()}
    x = rng.normal(size=(20, d))
    for name, array in {**stored, "x": x}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "a.toml").write_text(LAYERED)
    outcome = runner.run(config.load(tmp_path / "a.toml"), tmp_path / "out", quiet=True)
    found = read_trajectory(outcome.path / "trajectory.h5").value
    for layer in range(layers):
        field = -(x @ x.T) @ x / len(x)
        for h in range(heads):
            q, key, v, w = (stored[name][layer, h] for name in "QKVW")
            weight = np.exp((x @ q.T) @ (x @ key.T).T / np.sqrt(k))
            field += (weight / weight.sum(axis=1, keepdims=True)) @ x @ v.T @ w.T
        x = x + field
        # Rounding of about 1e-16, amplified by three layers that grow the tokens tenfold each.
        np.testing.assert_allclose(found[layer + 1], x, rtol=0, atol=1e-11 * np.abs(x).max())
