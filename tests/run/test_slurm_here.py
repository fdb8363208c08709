"""Jobs of a real SLURM on this machine, see scripts/slurm_here.sh: they go on by themselves, to the bits of local runs.

The tests take an hour, need root, and are skipped where SLURM is not installed. They share one node, which some take
away: run them one at a time (`-n 1`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import start
from edits import changed
from results import result

import fastpde
from fastpde.run import lock, sweep_folder

ROOT = Path(fastpde.__file__).parents[1]
HERE, FOLDER = str(ROOT / "scripts" / "slurm_here.sh"), Path(tempfile.gettempdir()) / "fastpde-slurm"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [name for name in NEEDED if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") is None]
PATIENCE = 3600.0  # seconds for all jobs of a test, on a machine that others use
PART = 60.0  # seconds of a job: the shortest time limit of SLURM
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec.mpich")
OPEN_MPI = shutil.which("mpiexec.openmpi")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(MISSING) or os.getuid() != 0, reason=f"needs root, and {', '.join(NEEDED)}"),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Callable[..., str]]:
    """Start SLURM, or use the one that is at work, and return a function that calls its commands.

    The last process that uses it stops it, if a test has started it.
    """
    mark = FOLDER / "of-tests"
    with open(FOLDER.with_suffix(".lock"), "w") as one, open(FOLDER.with_suffix(".users"), "w") as users:
        fcntl.flock(one, fcntl.LOCK_EX)
        done = subprocess.run([HERE, "start"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        if "at work already" not in done.stdout:
            mark.touch()
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(one, fcntl.LOCK_UN)
        yield command
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if mark.exists():
            subprocess.run([HERE, "stop"], check=True, timeout=120)


def environment(**more: str) -> dict[str, str]:
    """The variables of jobs: this package, this interpreter and one thread."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = {"SLURM_CONF": str(FOLDER / "slurm.conf"), "PYTHONPATH": str(ROOT), "PATH": path, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **ours, **more}


def command(*words: str, folder: Path | None = None, **more: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(words, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def is_over(job: str) -> bool:
    """Return whether no task of a job waits or runs."""
    return job not in command("squeue", "-h", "-a", "-o", "%F").split()


def ended(job: str) -> None:
    """Wait until no task of a job waits or runs."""
    wait(lambda: is_over(job), f"job {job} to end")


def wait(ready: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < until, f"waited for {what}"
        time.sleep(0.2)


def local(*arguments: str, folder: Path) -> float:
    """Run the command line here, and return the seconds that it took."""
    began = time.monotonic()
    process = start([*arguments, "--quiet"], folder)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return time.monotonic() - began


def per_step(small: Path) -> float:
    """Return the seconds of a step of rk4, of 400 tokens, from the shortest of several runs: others may be at work."""
    changed(small, ("n = 30", "n = 400"), ("step = 0.05", "step = 0.05\nmax_steps = 1000000000"))
    short, long = small.with_name("short.toml"), small.with_name("long.toml")
    for path, step in ((short, "1e-2"), (long, "5e-4")):
        path.write_text(small.read_text())
        changed(path, ("step = 0.05", f"step = {step}"))
    local("run", "short.toml", "--out", "compiled.run", folder=small.parent)
    first, second = (
        min(local("run", path.name, "--out", f"{path.stem}{k}.run", folder=small.parent) for k in range(3))
        for path in (short, long)
    )
    return max(second - first, 0.01) / 1900


def planned(small: Path, cells: int, seconds: float, tasks: int) -> Path:
    """Make a sweep of cells of some seconds of work each, and its script; return its folder."""
    step = per_step(small) / seconds
    changed(small, ("every = 0.25", "every = 0.25\ncheckpoint = 1.0"))
    plan = f'config = "small.toml"\n[vary]\nseed = {{ from = 1, to = {cells} }}\ntime.step = [{step:.1e}]\n'
    (small.parent / "plan.toml").write_text(plan)
    words = ("--slurm", "--tasks", str(tasks), "--max-walltime", "1m", "--threads", "1")
    local("sweep", "plan.toml", *words, folder=small.parent)
    return small.parent / "plan.sweep"


def same(folder: Path, small: Path) -> None:
    """Check that all cells are, to the bit, those of a sweep without SLURM."""
    cells = sweep_folder.load(folder)
    assert "finished" in command(sys.executable, "-m", "fastpde", "status", str(folder))
    local("sweep", "plan.toml", "--out", "local.sweep", "--threads", "1", folder=small.parent)
    for i, name in enumerate(cells.cells):
        assert result(cells.cell(i)) == result(small.parent / "local.sweep" / "cells" / name)


def logs(folder: Path, job: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob(f"slurm-{job}_*.log"))}


def submitted(slurm: Callable[..., str], folder: Path) -> str:
    return slurm("sbatch", "--parsable", "sweep.sbatch", folder=folder)


def at_work(folder: Path, tasks: int) -> list[int]:
    """Wait until each of so many tasks has a checkpoint of a cell at work; return the processes of these cells."""
    found: list[int] = []

    def ready() -> bool:
        paths = [path.parent for path in folder.glob("cells/*/checkpoint.1")]
        found[:] = [pid for path in paths if (pid := lock.held(path).get("pid"))]
        return len(found) >= tasks

    wait(ready, f"{tasks} cells at work")
    return found


def test_a_sweep_of_five_times_its_walltime(slurm, small):
    """It goes on by itself: nobody does anything after sbatch."""
    cores = min(len(os.sched_getaffinity(0)), 4)
    folder = planned(small, 12, 5 * PART * cores / 12, 4)
    job = submitted(slurm, folder)
    ended(job)
    texts = logs(folder, job)
    again = [text.count("is in the queue again") for text in texts.values()]
    print(f"queued again: {again}")
    assert len(again) == 4 and min(again) >= 3
    assert not any("TIME LIMIT" in text for text in texts.values())
    same(folder, small)


def test_a_cancelled_sweep_stays_so_and_goes_on_when_submitted(slurm, small):
    folder = planned(small, 4, 20.0, 2)
    job = submitted(slurm, folder)
    at_work(folder, 2)
    slurm("scancel", job)
    ended(job)
    assert all("was cancelled" in text for text in logs(folder, job).values())
    cells = sorted(folder.glob("cells/*"))
    assert cells and all((cell / "checkpoint.0").exists() and not lock.held(cell) for cell in cells)
    ended(submitted(slurm, folder))
    same(folder, small)


@pytest.mark.parametrize("state", ["drain", "down"])
def test_a_node_that_leaves(slurm, small, state):
    """A drained node ends no job, but takes none; jobs of a node that is down are put into the queue by SLURM."""
    folder = planned(small, 4, 20.0, 2)
    node = slurm("sinfo", "-h", "-o", "%n")
    job = submitted(slurm, folder)
    at_work(folder, 2)
    slurm("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
    try:
        if state == "drain":
            slurm("scancel", "--batch", "--signal=USR1", job)
        waits = ["PENDING", "PENDING"]
        wait(lambda: slurm("squeue", "-h", "-r", "-j", job, "-o", "%T").split() == waits, "both tasks in the queue")
    finally:
        if "idle" not in slurm("sinfo", "-h", "-o", "%T"):  # one that is down comes back by itself
            slurm("scontrol", "update", f"nodename={node}", "state=resume")
    ended(job)
    assert len(list(folder.glob("cells/*"))) == 4
    same(folder, small)


def test_a_task_that_is_killed(slurm, small):
    """Its process is, and takes the job with it; a second submission goes on."""
    folder = planned(small, 4, 20.0, 2)
    job = submitted(slurm, folder)
    worker = at_work(folder, 2)[0]
    status = Path(f"/proc/{worker}/status").read_text()
    found = re.search(r"PPid:\s*(\d+)", status)
    assert found is not None
    os.kill(int(found[1]), 9)
    ended(job)
    assert "finished" not in str(logs(folder, job)) or len(list(folder.glob("cells/*"))) < 4
    ended(submitted(slurm, folder))
    same(folder, small)


def program(folder: Path) -> str:
    """Make the command `fastpde` of this package, and return a PATH on which it is."""
    (folder / "bin").mkdir()
    file = folder / "bin" / "fastpde"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fastpde "$@"\n')
    file.chmod(0o755)
    return os.pathsep.join([str(file.parent), environment()["PATH"]])


def queued(slurm: Callable[..., str], small: Path, *words: str, **variables: str) -> str:
    """Submit scripts/run.sbatch with the options `words` of sbatch; return the number of the job."""
    words = ("--parsable", "--cpus-per-task=1", "--time=1", "--output=job.log", *words)
    script = str(ROOT / "scripts" / "run.sbatch")
    return slurm("sbatch", *words, script, "small.toml", folder=small.parent, **variables)


def worth(small: Path, parts: float) -> None:
    """Make the configuration a run of so many of the shortest time limits of SLURM."""
    step = per_step(small) / (parts * PART)
    changed(small, ("step = 0.05", f"step = {step:.1e}"), ("every = 0.25", "every = 0.25\ncheckpoint = 1.0"))


@pytest.mark.parametrize("known", [True, False])
def test_a_run(slurm, small, known):
    """scripts/run.sbatch; also where the run does not know its end and is not warned, so the time limit ends it.

    SLURM ends a job up to half a minute after its limit, and the machine may have been busy when the step was chosen.
    """
    worth(small, 2.5)
    variables = {"PATH": program(small.parent)} | ({} if known else {"SLURM_JOB_END_TIME": "9" * 10})
    warning = "--signal=B:USR1@5" if known else "--signal=B:CONT@5"  # in place of the script's; it does nothing
    ended(queued(slurm, small, warning, **variables))
    text = (small.parent / "job.log").read_text()
    print(f"queued again {text.count('is in the queue again')} times")
    assert text.count("is in the queue again") >= 1 and ("TIME LIMIT" in text) != known, text
    assert not list(small.parent.glob(".fastpde-job-*"))
    local("run", "small.toml", "--out", "alone.run", folder=small.parent)
    assert result(small.parent / "small.run") == result(small.parent / "alone.run")


def test_a_cancelled_run_stays_so_and_goes_on_when_submitted(slurm, small):
    worth(small, 0.5)
    words, path, run = ("--signal=B:USR1@5", "--time=10"), program(small.parent), small.parent / "small.run"
    job = queued(slurm, small, *words, PATH=path)
    wait(lambda: (run / "checkpoint.1").exists(), "a checkpoint")
    slurm("scancel", job)
    ended(job)
    text, status = (small.parent / "job.log").read_text(), json.loads((run / "status.json").read_text())
    assert "was cancelled" in text and "in the queue again" not in text, text
    assert status["state"] == "stopped" and not lock.held(run)
    ended(queued(slurm, small, *words, PATH=path))
    local("run", "small.toml", "--out", "alone.run", folder=small.parent)
    assert result(run) == result(small.parent / "alone.run")


@pytest.mark.parametrize("warned", [True, False])
def test_a_run_whose_time_does_not_suffice_is_not_queued_for_ever(slurm, small, warned):
    """Neither for its first velocity, nor, by the script's own warning, for its beginning: it comes with the job."""
    changed(small, ("n = 30", "n = 1000000"), ("[output]", '[backend]\nkind = "direct"\n[output]'))
    job = queued(slurm, small, *([] if warned else ["--signal=B:USR1@5"]), PATH=program(small.parent))
    ended(job)
    text = (small.parent / "job.log").read_text()
    assert text.count("is in the queue again") == 1 and text.count("--time of sbatch: got too little") == 1, text
    assert not list(small.parent.glob(".fastpde-job-*"))


LAUNCHERS = {
    "mpich": (MPIEXEC, {}),
    "srun": (MPIEXEC and "srun --mpi=pmi2", {}),
    "openmpi": (
        OPEN_MPI and f"{OPEN_MPI} --oversubscribe",
        {"MPI4PY_LIBMPI": "libmpi.so.40", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
    ),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_ranks(slurm, small, name):
    """scripts/mpi_run.sbatch, stopped by its time and by a signal, has the bits of one process."""
    pytest.importorskip("mpi4py")
    launch, variables = LAUNCHERS[name]
    if launch is None:
        pytest.skip(f"no {name}")
    worth(small, 0.6)  # of one process: ranks of few tokens wait for each other
    words = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=1", "--signal=B:USR1@5")
    script, log, run = str(ROOT / "scripts" / "mpi_run.sbatch"), small.parent / "job.log", small.parent / "ranks.run"
    job = slurm(
        *("sbatch", "--parsable", *words, "--output=job.log", script, "small.toml", "ranks.run"),
        folder=small.parent,
        LAUNCH=f"{launch} -n 2",
        **variables,
    )
    wait(lambda: (run / "checkpoint.1").exists(), "a checkpoint")
    slurm("scancel", "--batch", "--signal=USR1", job)
    wait(lambda: is_over(job) or log.read_text().count("is in the queue again") >= 3, "three stops, or the end")
    if not (by_itself := is_over(job)):
        slurm("scancel", job)
        ended(job)
    text = log.read_text()
    print(f"{name}: queued again {text.count('is in the queue again')} times, finished by itself: {by_itself}")
    assert text.count("is in the queue again") >= 2 and "TIME LIMIT" not in text, text
    assert json.loads((run / "status.json").read_text())["backend"]["ranks"] == 2
    for out in ("ranks.run", "alone.run"):  # on a busy machine one process goes on with what the ranks have begun
        local("run", "small.toml", "--out", out, folder=small.parent)
    assert result(run) == result(small.parent / "alone.run")
