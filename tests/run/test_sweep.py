"""Sweeps: every cell is the run that its configuration makes, whatever is killed, stopped, edited or broken."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import fastpde
from fastpde import cli, config
from fastpde.run import attempt, checkpoint, lock, runner, sweep, sweep_folder, sweep_pool, sweep_table
from fastpde.run.lock import RunLock
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory

PLAN = 'config = "small.toml"\n[vary]\ntokens.n = [20, 30]\nseed = [1, 2]\n'
# Cells that take half a minute where a test has seconds: they are there to be interrupted.
LONG = 'config = "small.toml"\n[vary]\nseed = [1, 2]\n[[cases]]\ntime.step = 1e-5\noutput.checkpoint = 0.05\n'
# Cells of a second or so, with many checkpoints.
SECOND = LONG.replace("1e-5", '2e-3\ntime.method = "euler"')


@pytest.fixture
def folder(small, monkeypatch):
    """Return the folder of a plan, as the current one; processes of a sweep get the package that is tested."""
    monkeypatch.chdir(small.parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastpde.__file__).parents[1]))
    Path("plan.toml").write_text(PLAN)
    return small.parent


def call(capsys, *arguments):
    """Return exit code, standard output and standard error of the command in this process."""
    code = cli.main([*arguments])
    return code, *capsys.readouterr()


def stamps(path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def result(path):
    """All that a finished run has found, to the bit."""
    last, wrong = checkpoint.newest(path)
    stored = read_trajectory(path / "trajectory.h5")
    arrays = {name: array.tobytes() for name, array in last.arrays.items()}
    table = (path / "observables.csv").read_bytes()
    return wrong, last.facts["state"], stored.time.tolist(), stored.value.tobytes(), table, arrays


def same_as_runs(out):
    """Whether every cell is, to the bit, what `fastpde run` makes of its configuration; nothing else is there."""
    cells = sweep_folder.load(out)
    assert sorted(os.listdir(out / "cells")) == sorted(cells.cells)
    for i in range(len(cells.cells)):
        alone = out.parent / "alone" / cells.cells[i]
        if not alone.exists():
            assert runner.run(config.load(cells.cell(i) / "config.toml"), alone, quiet=True).code == 0
        assert result(cells.cell(i)) == result(alone)


def rows(out):
    with (out / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("count", "words"), [(1, "1 cell: 1 waiting"), (2, "2 cells: 2 waiting")])
def test_one_cell_is_no_cells(folder, capsys, count, words):
    Path("plan.toml").write_text(f'config = "small.toml"\n[vary]\nseed = {[*range(count)]}\n')
    planned = sweep_folder.planned(config.load_sweep(Path("plan.toml")))
    made, held = sweep_folder.make(Path("a.sweep"), planned)
    held.release()
    assert sweep_table.Table(made).summary() == words
    out = call(capsys, "status", "a.sweep")[1]
    assert f"cells  {count} waiting\n" in out and f"of     {words.split(':')[0]}\n" in out


def test_a_sweep_is_its_runs_and_a_table(folder, capsys):
    code, out, errors = call(capsys, "sweep", "plan.toml", "--local", "2", "--quiet")
    assert (code, out) == (0, "4 cells: 4 finished: plan.sweep/cells.csv\n"), errors
    target = folder / "plan.sweep"
    same_as_runs(target)
    assert [(row["tokens.n"], row["seed"]) for row in rows(target)] == [
        ("20", "1"),
        ("20", "2"),
        ("30", "1"),
        ("30", "2"),
    ]
    for row in rows(target):
        last = read_observables(target / "cells" / row["cell"] / "observables.csv")
        assert {name: float(row[name]) for name in last if name != "energy"} == {
            name: values[-1] for name, values in last.items() if name != "energy"
        }
        assert (row["state"], row["status"], row["steps"]) == ("finished", "completed", "20")

    before = stamps(target / "cells")
    assert call(capsys, "sweep", "plan.toml")[0] == 0 and call(capsys, "sweep", "plan.sweep")[0] == 0
    assert stamps(target / "cells") == before
    assert "4 finished" in call(capsys, "status", "plan.sweep")[1]
    assert call(capsys, "verify", "plan.sweep")[1] == "good   4 of 4 cells are there and whole\n"

    Path("plan.toml").write_text(PLAN.replace("[20, 30]", "[30, 25]").replace("[1, 2]", "[2]"))
    assert call(capsys, "sweep", "plan.toml", "--quiet")[0] == 0
    after = stamps(target / "cells")
    assert {file: after[file] for file in before} == before and len(after) > len(before)
    assert [(row["tokens.n"], row["seed"]) for row in rows(target)] == [("30", "2"), ("25", "2")]
    assert "3 cells of earlier plans" in call(capsys, "status", "plan.sweep")[1]

    victim = target / "cells" / rows(target)[1]["cell"] / "observables.csv"
    victim.write_text(victim.read_text().replace("1", "2"))
    code, out, _ = call(capsys, "verify", "plan.sweep")
    assert code == 1 and "1 of 2 cells" in out and "WRONG  cell 1, " in out


def test_a_cell_that_fails_stops_no_other(folder, capsys):
    np.save("bad.npy", np.full((2, 2), np.nan))
    cases = '[[cases]]\ntime.max_steps = 3\n[[cases]]\ntokens.std = 0.5\n[[cases]]\nattention.Q = "bad.npy"\n'
    Path("plan.toml").write_text(f'config = "small.toml"\n{cases}')
    code, out, errors = call(capsys, "sweep", "plan.toml", "--quiet", "--local", "1")
    assert (code, out) == (3, "") and "1 finished, 1 failed, 1 waiting" in errors
    assert "cell 0 (time.max_steps = 3): time.max_steps: " in errors
    assert 'cell 2 (attention.Q = "bad.npy"): attention.Q: ' in errors
    assert [row["state"] for row in rows(folder / "plan.sweep")] == ["failed", "finished", "waiting"]
    assert "failed (time.max_steps = 3)" in call(capsys, "status", "plan.sweep")[1]
    np.save("bad.npy", np.eye(2))
    code, _, errors = call(capsys, "sweep", "plan.sweep", "--quiet")
    assert code == 3 and "files that were changed since the plan was read" in errors
    code, _, errors = call(capsys, "sweep", "plan.toml", "--quiet")
    assert code == 3 and "2 finished, 1 failed" in errors and "cell 2" not in errors


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def at_work(process, out, count=1):
    """Wait until so many cells are there, and return the processes of the sweep."""
    until = time.monotonic() + 60.0
    while len(list(out.glob("cells/[0-9a-f]*/status.json"))) < count:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    return children(process)


def new_at_work(process, out, seen):
    """Wait for a process of the sweep that is not one of `seen` to take the long first cell, and return it."""
    until = time.monotonic() + 60.0
    while True:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
        if (out / "sweep.json").exists():
            pid = lock.held(sweep_folder.load(out).cell(0)).get("pid")
            if pid in children(process) and pid not in seen:
                return pid


def start(launch, folder, *more):
    return launch(["sweep", "plan.toml", "--quiet", "--out", "out", *more], folder)


def killed_and_again(launch, folder, moments):
    """Kill the sweep, or its processes, with -9 at these moments, then let it end; return how it ended. What it has
    made then must be what single runs make."""
    Path("plan.toml").write_text(SECOND)
    out, done = folder / "out", {}
    for after, whom in moments:
        process = start(launch, folder, "--local", "2")
        workers = at_work(process, out)
        time.sleep(after)
        for pid in {"sweep": [process.pid], "worker": workers[:1], "all": [process.pid, *workers]}[whom]:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
        if whom == "worker":
            assert process.wait(60) == 0, process.communicate()
        process.wait(60)
        assert all(file.stat().st_mtime_ns == stamp for file, stamp in done.items())  # finished ones are left alone
        found = sweep_folder.load(out)
        finished = [i for i in range(2) if sweep_table.look(found.cell(i)).state == sweep_table.FINISHED]
        done = {file: stamp for i in finished for file, stamp in stamps(found.cell(i)).items()}
    for path in out.glob("cells/.*.tmp"):  # of a process killed while it made a directory: to be removed when old
        os.utime(path, (0, 0))
    code = start(launch, folder).wait(60)
    same_as_runs(out)
    return code


def test_what_is_killed_goes_on_to_the_same_bits(folder, launch):
    assert killed_and_again(launch, folder, [(0.2, "sweep"), (0.1, "worker")]) == 0


@pytest.mark.soak
def test_kills_at_many_moments(folder, launch):
    random = np.random.default_rng(1)
    for _ in range(20):
        whom = random.choice(["sweep", "all", "worker"], 3)
        assert killed_and_again(launch, folder, list(zip(random.uniform(0.0, 1.5, 3), whom, strict=True))) == 0
        subprocess.run(["rm", "-r", "out"], check=True)


def test_a_process_that_dies_twice_costs_its_cell_alone(folder, launch):
    Path("plan.toml").write_text(LONG.replace("seed = [1, 2]", "time.t_end = [1.0, 0.3e-3]"))
    process, out, seen = start(launch, folder, "--local", "1"), folder / "out", set()
    for _ in range(2):
        seen.add(victim := new_at_work(process, out, seen))
        os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3 and "its process was ended by SIGKILL, 2 times" in errors, errors
    assert "1 finished, 1 stopped" in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_with_checkpoints(folder, launch, capsys, monkeypatch, number):
    Path("plan.toml").write_text(LONG)
    Path("note").touch()
    monkeypatch.setenv(attempt.VARIABLE, str(folder / "note"))
    process, out = start(launch, folder, "--local", "2"), folder / "out"
    there, until = [process.pid, *at_work(process, out, 2)], time.monotonic() + 60.0
    while "further" not in Path("note").read_text():  # a checkpoint that is later than the first one
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    for pid in there:
        os.kill(pid, number)  # as a terminal does, and a batch system: each process gets it
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "The same command goes on." in errors, errors
    assert "2 stopped" in errors
    for cell in out.glob("cells/*"):
        status = json.loads((cell / "status.json").read_text())
        assert status["state"] == "stopped" and checkpoint.newest(cell)[0].facts["state"]["step"] == status["step"]
    assert call(capsys, "verify", "out")[0] == 0


def test_the_walltime_stops_all(folder, launch):
    Path("plan.toml").write_text(LONG)
    process = start(launch, folder, "--local", "2", "--max-walltime", "12s")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "before the walltime is over" in errors, errors


def test_one_sweep_at_a_time_writes_to_a_directory(folder, capsys):
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0
    held = RunLock(folder / "plan.sweep")
    for name in ("plan.toml", "plan.sweep"):
        code, _, errors = call(capsys, "sweep", name)
        assert code == 2 and f"process {os.getpid()}" in errors
    held.release()
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0


def test_a_cell_where_another_process_is_at_work_is_left_to_it(folder, capsys, monkeypatch):
    Path("plan.toml").write_text(PLAN.replace("[20, 30]", "[20]"))
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0
    taken = sweep_folder.load(Path("plan.sweep")).cell(0)
    taken.mkdir()
    held = RunLock(taken)
    monkeypatch.setattr(sweep, "_WAIT", 2.0)  # two tries
    Path("note").touch()
    monkeypatch.setenv(attempt.VARIABLE, str(folder / "note"))
    code, _, errors = call(capsys, "sweep", "plan.toml", "--quiet", "--local", "1")
    assert code == 75 and "1 finished" in errors and "other processes are at work" in errors
    assert "further" in Path("note").read_text()  # the others get there
    held.release()
    assert call(capsys, "sweep", "plan.toml", "--quiet")[0] == 0


def test_output_that_cannot_be_written_is_exit_5(folder, capsys):
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0
    (folder / "plan.sweep" / "cells").rmdir()
    (folder / "plan.sweep" / "cells").write_text("in the way")
    code, out, errors = call(capsys, "sweep", "plan.toml", "--quiet")
    assert (code, out) == (5, "") and "could not be written" in errors


def test_directories_that_are_no_sweep_are_left_alone(folder, capsys):
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("x")
    for name in ("full", "small.toml"):
        code, _, errors = call(capsys, "sweep", "plan.toml", "--out", name)
        assert code == 2 and errors.startswith("fastpde: error: --out: got ")
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0
    Path("plan.sweep/manifest").write_text("0 0123\n")
    code, _, errors = call(capsys, "sweep", "plan.sweep")
    assert code == 2 and "not those of one plan" in errors
    assert call(capsys, "sweep", "plan.toml", "--slurm")[0] == 0  # the plan itself puts it right
    assert len(sweep_folder.load(Path("plan.sweep")).cells) == 4


def test_processes_share_cores_and_memory(folder, capsys, monkeypatch):
    planned = sweep_folder.planned(config.load_sweep(Path("plan.toml")))
    made, held = sweep_folder.make(folder / "out", planned)
    held.release()
    monkeypatch.setattr(sweep.machine, "cores", lambda: 8)
    monkeypatch.setattr(sweep.machine, "memory", lambda: 10 * planned.memory)
    assert sweep.share(made, 100, None, None) == sweep.Share(8, 1)
    assert sweep.share(made, 3, None, None) == sweep.Share(3, 1)  # small runs have one thread
    assert sweep.share(made, 100, None, 4) == sweep.Share(2, 4)
    assert sweep.share(made, 100, 5, 2) == sweep.Share(5, 2)
    large = sweep_folder.Folder(made.path, made.sweep, made.cells, {**made.facts, "tokens": 10**6})
    assert sweep.share(large, 2, None, None) == sweep.Share(2, 4)
    monkeypatch.setattr(sweep.machine, "memory", lambda: 3 * planned.memory)  # 80 % of it are two processes
    assert sweep.share(made, 100, None, None) == sweep.Share(2, 1)
    with pytest.raises(fastpde.InputError, match="--local"):
        sweep.share(made, 100, 3, None)


def test_processes_that_do_not_start_are_an_error(folder, capsys, monkeypatch):
    monkeypatch.setattr(sweep_pool.sweep_worker, "BOOTSTRAP", "raise SystemExit(7)")
    code, _, errors = call(capsys, "sweep", "plan.toml", "--quiet")
    assert code == 2 and "exit code 7" in errors


def test_processes_that_come_too_late_are_not_missed(folder, capsys, monkeypatch):
    wait = "import os, time\ntry: os.close(os.open('first', os.O_CREAT | os.O_EXCL))\nexcept OSError: time.sleep(600)\n"
    monkeypatch.setattr(sweep_pool.sweep_worker, "BOOTSTRAP", wait + sweep_pool.sweep_worker.BOOTSTRAP)
    code, out, errors = call(capsys, "sweep", "plan.toml", "--quiet", "--local", "4")
    assert (code, errors) == (0, "") and "4 finished" in out


def test_the_script_of_a_job_array(folder, capsys, monkeypatch):
    """It is run by bash as SLURM would run it, with names that a shell would make files of."""
    hostile = folder / "a $(touch stray) \"; touch stray; 'b"
    hostile.mkdir()
    os.rename("small.toml", hostile / "$(touch stray).toml")
    plan = hostile / "plan;touch stray\n.toml"
    plan.write_text(PLAN.replace("small.toml", "$(touch stray).toml"))
    out = hostile / "out `touch stray` \n"
    arguments = ("--tasks", "2", "--local", "1", "--threads", "1", "--max-walltime", "10m")
    code, said, errors = call(capsys, "sweep", str(plan), "--out", str(out), "--slurm", *arguments)
    assert code == 0 and "sbatch sweep.sbatch" in said, errors
    text = (out / "sweep.sbatch").read_text()
    assert "stray" not in text and "#SBATCH --array=0-1\n" in text and "#SBATCH --time=10\n" in text
    assert "#SBATCH --signal=B:USR1@50\n" in text and "--max-walltime 570s" in text  # half a minute to queue it again
    assert list((out / "cells").iterdir()) == []  # nothing was run
    for task in range(2):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(100 + task)}
        done = subprocess.run(["bash", "sweep.sbatch"], cwd=out, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "2 cells: 2 finished\n"
    assert "4 finished" in call(capsys, "status", str(out))[1]
    assert len(rows(out)) == 4 and not list(folder.rglob("stray"))
    same_as_runs(out)
    edited = plan.read_text().replace("[1, 2]", "[2, 3]")
    plan.write_text(edited)
    assert call(capsys, "sweep", str(plan), "--out", str(out), "--slurm")[0] == 0
    (out / "sweep.sbatch").write_text(text)  # one that waits in a queue
    done = subprocess.run(["bash", "sweep.sbatch"], cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "another plan" in done.stderr
