"""Whole runs of ensembles: what is in the directory, that blocks do not matter, and what a kill, a signal, a failing
system and a full disk leave.
"""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_restart import Cuts
from test_run import changed
from test_trajectory import Recorder, states

import fastpde as fp
from fastpde import config, initial
from fastpde.errors import InputError
from fastpde.initial import some_of
from fastpde.parallel.spread import Tokens
from fastpde.run import directory, inspect, runner, system_blocks
from fastpde.run.observables import token_moments
from fastpde.run.tables import read_observables
from fastpde.run.trajectory_ensemble import Block, EnsembleWriter, read_ends, read_ensemble

SMALL = """
seed = 3
[tokens]
kind = "gaussian"
n = 8
d = 2
systems = 5
[attention]
kind = "softmax"
K = { scale = -1.0 }
V = { scale = -1.0 }
[time]
t_end = 2.0
[output]
every = 0.5
"""
EVENTS = ("[output]", "[events]\nblow_up = 15.0\ncollapsed = 1e-3\n[output]")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def single_blocks(monkeypatch):
    """Every system is a block of its own."""
    monkeypatch.setattr(system_blocks, "_FIRST", 1)
    monkeypatch.setattr(system_blocks, "next_size", lambda *_: 1)


def run(path: Path, name: str = "out"):
    return runner.run(config.load(path), path.parent / name, quiet=True)


def stored(out: Path) -> dict[str, np.ndarray]:
    with h5py.File(out / "ensemble.h5", "r") as file:
        names = [name for name in file if isinstance(file[name], h5py.Dataset) and name != "observable"]  # words
        found = {name: file[name][:] for name in names}
        return found | {name: times[:] for name, times in file.get("event_time", {}).items()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_finished_run_holds_what_solve_gives(small):
    changed(small, EVENTS)
    problem, out = config.load(small), small.parent / "out"
    outcome = run(small)
    assert outcome.code == 0 and outcome.message.startswith("5 systems: ")
    names = {"config.toml", "ensemble.h5", "systems.csv", "observables.csv", "status.json", "log.txt"}
    names |= {"checkpoint.0", "checkpoint.1"}
    assert {file.name for file in out.iterdir()} == names
    assert config.load(out / "config.toml").config == problem.config

    law = fp.Gaussian(0.0, np.eye(2))
    x0 = np.array([law.sample(8, 3, system=b) for b in range(5)])
    assert (problem.tokens() == x0).all() and (x0[0] == law.sample(8, 3)).all()
    events = [fp.BlowUp(15.0), fp.Collapsed(1e-3)]
    sol = fp.solve(problem.attention(), x0, (0.0, 2.0), t_eval=[0, 0.5, 1, 1.5, 2], events=events)
    ends = [status.value for status in sol.status]
    assert {"completed", "blow_up"} == set(ends)  # or the rest of this test would say little
    found, data = stored(out), read_ensemble(out / "ensemble.h5")
    assert found["time"].tolist() == sol.t.tolist() and found["token_id"].tolist() == list(range(8))
    np.testing.assert_array_equal(found["position"], sol.x)  # the same bits, nan after an end
    assert (found["position_final"] == sol.x_final).all() and (found["t_final"] == sol.t_final).all()
    assert data.status == tuple(ends) and data.asked == 5
    np.testing.assert_array_equal(found["blow_up"], sol.t_events[0])
    assert np.isnan(found["collapsed"]).all()
    for name in ("steps", "rejected"):
        assert (found[name] == sol.stats[f"{name}_each"]).all()

    rows = table(out / "systems.csv")
    assert [row["status"] for row in rows] == ends and [int(row["system"]) for row in rows] == list(range(5))
    for b, row in enumerate(rows):
        moments = token_moments.of_one(sol.t_final[b], Tokens.alone(sol.x_final[b]))
        want = dict(zip(token_moments.columns(2), moments, strict=True))
        assert float(row["t_final"]) == sol.t_final[b] and int(row["steps"]) == sol.stats["steps_each"][b]
        for name in ("mean_0", "trace", "effective_rank", "radius"):
            assert float(row[name]) == pytest.approx(want[name], rel=1e-12)  # sums of 8 numbers in another order

    means = read_observables(out / "observables.csv")
    running = np.isfinite(sol.x[:, :, 0, 0])
    assert means["running"].tolist() == running.sum(axis=1).tolist() and means["t"].tolist() == sol.t.tolist()
    for j in range(5):
        radii = [np.linalg.norm(sol.x[j, b], axis=1).max() for b in range(5) if running[j, b]]
        assert means["radius"][j] == pytest.approx(np.mean(radii), rel=1e-12)

    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["systems"], status["systems_done"]) == ("finished", 5, 5)
    assert status["counts"] == {end: ends.count(end) for end in set(ends)}
    assert status["step"] == found["steps"].sum() and status["message"] == outcome.message
    assert run(small).message == "already finished"


NOISE = ("t_end = 2.0", 't_end = 2.0\nnoise = 0.3\nmethod = "heun"\nstep = 0.1')
KINDS = {
    "adaptive": EVENTS,
    "noise": NOISE,
    "float32": ("[output]", "[backend]\ndtype = 'float32'\n[output]"),
    "sinkhorn": ('"softmax"', '"sinkhorn"\nn_half = 3'),
}


@pytest.mark.parametrize("kind", KINDS)
def test_systems_do_not_depend_on_their_block(small, monkeypatch, kind):
    changed(small, KINDS[kind], ("systems = 5", "systems = 3"), ("t_end = 2.0", "t_end = 0.5"))
    assert run(small, "a").code == 0
    monkeypatch.setattr(system_blocks, "_FIRST", 1)
    monkeypatch.setattr(system_blocks, "next_size", lambda *_: 1)
    assert run(small, "b").code == 0
    a, b = (stored(small.parent / name) for name in "ab")
    assert a["position"].dtype == (np.float32 if kind == "float32" else np.float64)
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
    tables = [(small.parent / name / directory.OBSERVABLES).read_bytes() for name in "ab"]
    assert tables[0] == tables[1]  # means are sums over the systems in their order, whatever the blocks
    assert (small.parent / "b" / "log.txt").read_text().count("systems 2 to 2") == 1


def test_the_first_system_is_the_ordinary_run(small):
    """Its tokens and its noise have the same numbers."""
    changed(small, NOISE, ("systems = 5", "systems = 2"))
    run(small, "both")
    changed(small, ("systems = 2", "systems = 1"))
    alone = run(small, "alone")
    with h5py.File(alone.path / "trajectory.h5") as file:
        positions = file["particles/tokens/position/value"][:]
    assert (stored(small.parent / "both")["position"][:, 0] == positions).all()


def test_energy_and_a_subset(small):
    changed(small, ("every = 0.5", "every = 0.5\nenergy = true\nmax_tokens = 3"), EVENTS)
    outcome = run(small)
    found, data = stored(outcome.path), read_ensemble(outcome.path / "ensemble.h5")
    ids = found["token_id"]
    assert found["position"].shape == (5, 5, 3, 2) and ids.tolist() == initial.subset(8, 3, seed=3).tolist()
    problem = config.load(small)
    x = problem.tokens()
    assert (found["position"][0] == x[:, ids]).all()
    want = fp.interaction_energy(problem.attention(), x)
    np.testing.assert_allclose(data.observables["energy"][0], want, rtol=1e-13)
    np.testing.assert_allclose(data.observables["radius"][0], np.linalg.norm(x, axis=2).max(axis=1), rtol=1e-14)


@pytest.mark.parametrize(("event", "status"), [("blow_up = 10.0", "blow_up"), ("collapsed = 1e-3", "completed")])
def test_an_event_ends_a_run_of_one_system(small, event, status):
    changed(small, ("systems = 5\n", ""), ("[output]", f"[events]\n{event}\n[output]"))
    outcome = run(small)
    assert outcome.code == 0
    found = json.loads((outcome.path / "status.json").read_text())
    assert (found["state"], found["status"]) == ("finished", status)
    assert found["message"] == outcome.message and found["t"] <= 2.0
    assert event.replace("1e-3", "0.001") in (outcome.path / "config.toml").read_text()
    last = read_observables(outcome.path / "observables.csv")["t"][-1]
    assert last == found["t"] and (last < 2.0) == (status == "blow_up")


def test_tokens_that_run_away_are_said_not_to_have_met(small, single_blocks):
    """As in a single run: the remark names the largest coordinate of all systems, whichever block has it."""
    changed(small, ("V = { scale = -1.0 }", "V = { scale = 1.0 }"), ("t_end = 2.0", "t_end = 36.0"), EVENTS)
    changed(small, ("blow_up = 15.0\n", ""), ("every = 0.5", "every = 36.0"))
    problem = config.load(small)
    want = fp.solve(problem.attention(), problem.tokens(), (0.0, 36.0), events=[fp.Collapsed(1e-3)]).message
    _, remark = want.split(" Collapsed(", 1)
    assert run(small).message == f"5 systems: 5 completed. Collapsed({remark}"


def test_failed_systems_are_said_and_the_others_are_kept(small):
    """Exponential attention blows up after a time that depends on the cloud: four of these five before t = 0.02."""
    edits = ('"softmax"', '"exponential"'), ("K = { scale = -1.0 }\nV = { scale = -1.0 }\n", "")
    changed(small, *edits, ("t_end = 2.0", "t_end = 0.02"), ("every = 0.5", "every = 0.01"))
    outcome = run(small)
    data = read_ensemble(small.parent / "out" / "ensemble.h5")
    assert data.status.count("completed") == 1 and set(data.status) <= {"completed", "step_too_small", "not_finite"}
    assert outcome.code == 3 and "5 of 5 systems are kept" in outcome.message and "events.blow_up" in outcome.message
    assert json.loads((outcome.path / "status.json").read_text())["state"] == "failed"


def test_scalings_that_fail_lose_nothing(small):
    """Sixteen half-iterations are too few for some clouds, and cold, as for the energy, for later ones of others."""
    keys = '"sinkhorn"\neps = 0.5\nmax_iter = 16'
    changed(small, ('"softmax"', keys), ("every = 0.5", "every = 0.5\nenergy = true"))
    outcome = run(small)
    assert outcome.code == 3 and "attention.max_iter: " in outcome.message and "5 of 5" in outcome.message
    data, attention = read_ensemble(outcome.path / "ensemble.h5"), config.load(small).attention()
    position, energy = stored(outcome.path)["position"], data.observables["energy"]
    assert 0 < np.isfinite(energy[0]).sum() < 5 and (data.t_final > 0.0).sum() < 5
    for x, found, radius in zip(position.reshape(-1, 8, 2), energy.flat, data.observables["radius"].flat, strict=True):
        try:
            np.testing.assert_allclose(found, fp.sinkhorn_energy(attention, x), rtol=1e-7)
        except (fp.ConvergenceError, InputError):  # InputError: after its end a system is nan
            assert np.isnan(found) and np.isfinite(radius) == np.isfinite(x).all()


def test_too_few_steps_name_the_key(small):
    changed(small, ("t_end = 2.0", "t_end = 2.0\nmax_steps = 2"))
    outcome = run(small)
    assert outcome.code == 2 and outcome.message.startswith("5 systems: 5 max_steps. time.max_steps: ")


def test_wrong_tokens_leave_nothing(small):
    x = np.zeros((5, 8, 2))
    x[4, 1, 0] = np.inf
    np.save(small.parent / "x.npy", x)
    changed(small, ('"gaussian"\nn = 8\nd = 2\nsystems = 5', '"file"\npath = "x.npy"'))
    with pytest.raises(InputError, match="row 1, column 0 of system 4"):
        run(small)
    assert {file.name for file in small.parent.iterdir()} == {"small.toml", "x.npy"}


@pytest.mark.parametrize("good", [0, 2])
def test_a_write_that_fails_is_exit_5_and_keeps_earlier_blocks(small, monkeypatch, single_blocks, good):
    append, calls = system_blocks.Systems._append, []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) > good:
            with directory.writing("the trajectory", Path("x")):
                raise OSError(28, "No space left on device")
        append(self, *arguments)

    monkeypatch.setattr(system_blocks.Systems, "_append", failing)
    outcome = run(small)
    assert outcome.code == 5 and "No space left" in outcome.message
    if good == 0:
        assert {file.name for file in small.parent.iterdir()} == {"small.toml"}
    else:
        assert len(read_ensemble(small.parent / "out" / "ensemble.h5").status) == good
        assert len(table(small.parent / "out" / "systems.csv")) == good


# Blocks of a few hundred systems, about a second each.
LONG = (
    ("n = 8", "n = 16"),
    ("systems = 5", "systems = 5000"),
    ("t_end = 2.0", 't_end = 2\nmethod = "rk4"\nstep = 4e-3'),
)


def wait_for_block(out: Path, process) -> None:
    deadline = time.monotonic() + 120  # a first run compiles
    while not (out / "systems.csv").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_9_leaves_every_finished_block(small, launch):
    changed(small, *LONG)
    process = launch(["run", "small.toml", "--quiet"], small.parent)
    out = small.parent / "small.run"
    wait_for_block(out, process)
    process.kill()
    process.wait()
    data = read_ensemble(out / "ensemble.h5")
    assert 0 < len(data.status) < 5000 and set(data.status) == {"completed"} and data.asked == 5000
    assert np.isfinite(stored(out)["position"][:, : len(data.status)]).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_block(small, launch, number):
    changed(small, *LONG)
    process = launch(["run", "small.toml", "--quiet"], small.parent)
    out = small.parent / "small.run"
    wait_for_block(out, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Traceback" not in errors
    assert "systems are kept in small.run" in errors
    done = len(read_ensemble(out / "ensemble.h5").status)
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "stopped" and status["systems_done"] == done == len(table(out / "systems.csv"))
    assert 0 < done < 5000 and inspect.verify(out)[1] == []


CUT = {
    "fused": ("rtol", "rtol"),
    "batched": ('"softmax"', '"sinkhorn"\neps = 2.0\ntol = 1e-6'),
    "noisy": NOISE,
}


@pytest.mark.parametrize("kind", CUT)
def test_an_ensemble_that_is_cut_goes_on(small, monkeypatch, kind):
    """Stopped at one check after the other, most of them inside of a block; systems that are done stay as they are."""
    if kind != "fused":
        changed(small, CUT[kind])
    changed(small, ("systems = 5", "systems = 4"), ("t_end = 2.0", "t_end = 0.5"))
    monkeypatch.setattr(system_blocks, "_FIRST", 1)
    monkeypatch.setattr(system_blocks, "next_size", lambda *_: 1)
    assert run(small, "whole").code == 0
    cuts, code, parts = Cuts(monkeypatch), 75, 0
    while code == 75:
        # Parts get longer until they have time for a system.
        cuts.count, cuts.at, parts = 0, 4 + (25 if kind == "batched" else 3) * parts, parts + 1
        code = run(small).code
        assert not (small.parent / "out").exists() or inspect.verify(small.parent / "out")[1] == []
    assert code == 0 and parts > 1
    a, b = (stored(small.parent / name) for name in ("whole", "out"))
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
    for name in ("systems.csv", "observables.csv"):
        assert (small.parent / "whole" / name).read_bytes() == (small.parent / "out" / name).read_bytes()


def test_a_changed_ensemble_is_refused(small, monkeypatch):
    monkeypatch.setattr(system_blocks, "_FIRST", 1)
    with monkeypatch.context() as context:
        Cuts(context).at = 8
        assert run(small).code == 75
    with h5py.File(small.parent / "out" / "ensemble.h5", "r+") as file:
        file["position_final"][0, 0, 0] += 1e-15
    with pytest.raises(InputError, match="systems were changed"):
        run(small)


def block(rng, systems: int, k: int) -> Block:
    numbers = rng.normal(size=systems)
    words = ["completed", "collapsed", "blow_up"][:systems]
    x, counts = rng.normal(size=(4, systems, k, 3)), np.arange(systems)
    return Block(x, x[-1], numbers, words, counts, counts, {"collapsed": numbers}, rng.normal(size=(4, systems, 2)))


@pytest.mark.parametrize("k", [2, 3000])  # many systems in a chunk, and one
def test_a_kill_after_any_write_leaves_every_flushed_block(tmp_path, monkeypatch, k):
    rng, plain, recorders = np.random.default_rng(0), h5py.File, []
    written = [block(rng, size, k) for size in (3, 1, 2)]

    def recording(path, mode="r", **options):
        recorders.append(Recorder(Path(path)))
        return plain(recorders[-1], "w")

    monkeypatch.setattr(h5py, "File", recording)
    names = {"systems": 7, "like": written[0].x_final, "events": {"collapsed": 1.0}, "columns": ["a", "b"]}
    writer = EnsembleWriter(tmp_path / "a.h5", np.arange(k), np.arange(4.0), version="1", **names)
    log, marks = recorders[0].log, [len(recorders[0].log)]
    for one in written:
        writer.append(one)
        marks.append(len(log))
    monkeypatch.setattr(h5py, "File", plain)
    seen = set()
    for i, content in enumerate(states(log), start=1):
        if i < marks[0]:
            continue  # the directory has no name yet
        flushed = sum(one.x.shape[1] for one, mark in zip(written, marks[1:], strict=True) if mark <= i)
        (tmp_path / "b.h5").write_bytes(content)
        data = read_ensemble(tmp_path / "b.h5")
        count = len(data.status)
        assert count >= flushed and count in (0, 3, 4, 6)
        for name, want in (("x", "position"), ("observables", "observables")):
            whole = np.concatenate([getattr(one, name) for one in written], axis=1)
            with h5py.File(tmp_path / "b.h5", "r") as file:
                assert (file[want][:, :count] == whole[:, :count]).all()
        assert data.status == tuple(word for one in written for word in one.status)[:count]
        assert (data.t_final == np.concatenate([one.t_final for one in written])[:count]).all()
        seen.add(count)
    assert seen == {0, 3, 4, 6}
    first, last = read_ends(tmp_path / "b.h5", [3, 0], 2)
    some = some_of(k, 2)
    assert len(some) == 2 and (first[0] == written[1].x[0, 0, some]).all()
    assert (last[1] == written[0].x_final[0, some]).all()
    writer.close()
    recorders[0].file.close()


def test_what_is_no_ensemble_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["time"] = 1.0
    with pytest.raises(InputError, match=r"ensemble\.h5"):
        read_ensemble(tmp_path / "a.h5")


def test_blocks_follow_the_clock():
    assert system_blocks.next_size(100, 1.0, 4, 1000) == 200
    assert system_blocks.next_size(100, 1e-6, 4, 10_000) == 800  # a fast block says little
    assert system_blocks.next_size(100, 1e-6, 4, 300) == 300
    assert system_blocks.next_size(100, 1e4, 4, 1000) == 4
