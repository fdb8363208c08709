"""Runs on the ranks of MPI: the files of one process, and an end for all when one rank ends."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from edits import changed
from results import result

import fastpde
from fastpde import config, observe
from fastpde.config.memory_estimate import Ranks, of_ranks
from fastpde.errors import InputError
from fastpde.meanfield import token_axis
from fastpde.parallel.spread import Cut, Tokens
from fastpde.run import attempt, checkpoint, directory, inspect, launch, lock, mpi_facts, runner, signals
from fastpde.run.checkpoint import Checkpoint, Damaged
from fastpde.run.frames import Frames
from fastpde.run.observables import token_moments
from fastpde.run.trajectory import read_trajectory

ROOT = Path(fastpde.__file__).parents[1]
# Beside the interpreter where it came with mpich's wheel; the site's otherwise.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
ONE = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SECONDS = 600.0  # for what may have to be compiled first
PATIENCE = 120.0  # seconds for all ranks to end, on a machine that others use

SIZE = ("n = 30", "n = 301")
DOPRI = ('method = "rk4"\nstep = 0.05', 'method = "dopri5"\nrtol = 1e-4')
SINKHORN = ('"softmax"', '"sinkhorn"\nK = { scale = -1.0 }\neps = 2.0\ntol = 1e-5')
MASKED = ('kind = "softmax"', 'kind = "softmax"\nmasked = true')
NOISE = ('method = "rk4"\nstep = 0.05', 'method = "heun"\nstep = 0.2\nnoise = 0.3')
SYSTEMS = ("d = 2", "d = 2\nsystems = 5")
OWN = ("every = 0.25", 'every = 0.25\nobservables = ["widths:width", "widths:later"]')
SOME = ("every = 0.25", "every = 0.25\nmax_tokens = 100\nclusters = 0.1")
UNIFORM = ("d = 2", 'd = 2\npositions = "uniform"')
HEADS = ('kind = "softmax"\nV = { scale = -1.0 }', 'kind = "multihead"\n' + 2 * '[[attention.heads]]\nkind = "l2"\n')
CASES = {
    "softmax": (SIZE, DOPRI, OWN, SOME),
    "sinkhorn": (SIZE, DOPRI, SINKHORN),
    "masked": (SIZE, DOPRI, MASKED),
    "positions": (SIZE, DOPRI, SOME, MASKED, UNIFORM),
    "stopped positions": (SIZE, DOPRI, SOME, MASKED, UNIFORM),
    "systems with positions": (DOPRI, SYSTEMS, MASKED, ("systems = 5", 'systems = 5\npositions = "p.csv"')),
    "heads": (SIZE, DOPRI, HEADS),
    "noise": (SIZE, NOISE),
    "systems": (DOPRI, OWN, SYSTEMS),
    "stopped": (SIZE, DOPRI, SINKHORN, OWN),
    "stopped rk4": (SIZE, ("t_end = 1.0", "t_end = 0.3")),
    "going on": (SIZE, DOPRI, SINKHORN),
}
# In O(n), to a tolerance of 1e-8: both sides may use it up in every velocity.
FAST, NEAR = "stopped fast", 1e-6
CASES[FAST] = (("n = 30", "n = 1000"), DOPRI, ("[output]", '[backend]\nkind = "fast"\n[output]'))


def start(count: int, *arguments: str, mpi: bool = True) -> subprocess.Popen[str]:
    """Start Python on ranks."""
    pytest.importorskip("mpi4py")
    if MPIEXEC is None:
        pytest.skip("no mpiexec")
    command = [MPIEXEC, "-n", str(count), sys.executable, *(["-m", "mpi4py"] if mpi else []), *arguments]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=os.environ | ONE | {"PYTHONPATH": paths}, **pipes)


def task(count: int, folder: Path, *words: str) -> subprocess.Popen[str]:
    return start(count, str(Path(__file__).with_name("ranks.py")), str(folder), *words)


def made(small: Path, name: str) -> Path:
    """The configuration of a case."""
    path = small.with_name(f"{name}.toml")
    path.write_text(small.read_text())
    return changed(path, *CASES[name])


def stopping_after(monkeypatch, count):
    """Have runs of this process stop after so many steps."""
    step = Frames.step

    def stopping(self, t, stats):
        step(self, t, stats)
        if self.writer.steps == count:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Frames, "step", stopping)


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.soak) for count in (1, 2, 4))])
def test_the_files_are_those_of_one_process(small, monkeypatch, count):
    """To the bit where sums are direct, also where one goes on with what the others have begun."""
    folder = small.parent
    shutil.copy(ROOT / "tests" / "outside" / "widths.py", folder)
    (folder / "p.csv").write_text("".join(f"{7 * i % 30}\n" for i in range(30)))
    problems = {name: config.load(made(small, name), code=True) for name in CASES}
    with monkeypatch.context() as patch:
        stopping_after(patch, 3)
        stopped = runner.run(problems["going on"], folder / "going on.ranks", quiet=True)
        assert stopped.code == runner.STOPPED
    done = task(count, folder, "runs", *CASES)
    out, err = done.communicate(timeout=SECONDS)
    assert done.returncode == 0, err
    codes = json.loads(out.splitlines()[-1])
    assert codes == {name: runner.STOPPED if name.startswith("stopped") else 0 for name in CASES}
    for name, problem in problems.items():
        if name.startswith("stopped"):
            assert runner.run(problem, folder / f"{name}.ranks", quiet=True).code == 0
        assert runner.run(problem, folder / name, quiet=True).code == 0
        if name == FAST:
            near = [read_trajectory(folder / end / "trajectory.h5").value for end in (name, f"{name}.ranks")]
            gap = np.abs(near[0] - near[1]).max()
            assert gap < NEAR * np.abs(near[0]).max() and (gap > 0.0) == (count > 1)  # several add up grids
            continue
        ours, theirs = result(folder / name), result(folder / f"{name}.ranks")
        assert [key for key in ours | theirs if ours.get(key) != theirs.get(key)] == [], name


def lasting(small, count, what="lasting"):
    """A run on ranks that lasts, once it has begun, and the processes of its ranks."""
    changed(small, SIZE, ("t_end = 1.0", "t_end = 100.0"), ("every = 0.25", "every = 0.25\ncheckpoint = 0.1"))
    process, until = task(count, small.parent, what, "small"), time.monotonic() + SECONDS
    while not (small.parent / "out" / "checkpoint.1").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return process, [int(path.suffix[1:]) for path in small.parent.glob("pid.*")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ended(process, pids):
    """Its standard error, once all have ended."""
    _, err = process.communicate(timeout=PATIENCE)
    until = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        assert time.monotonic() < until, err
        time.sleep(0.05)
    return err


@pytest.mark.parametrize("how", ["SIGTERM", "one killed", "one fails"])
def test_all_end_with_one(small, monkeypatch, how):
    note = small.with_name("note")
    note.touch()
    monkeypatch.setenv(attempt.VARIABLE, str(note))
    process, pids = lasting(small, 2, "raising" if how == "one fails" else "lasting")
    if how == "SIGTERM":
        process.terminate()
    elif how == "one killed":
        os.kill(pids[-1], signal.SIGKILL)
    err = ended(process, pids)
    out = small.parent / "out"
    last, wrong = checkpoint.newest(out)
    assert last is not None and wrong == []
    if how == "SIGTERM":
        assert process.returncode == runner.STOPPED and err.count("stopped by SIGTERM") == 1
        status = json.loads((out / "status.json").read_text())
        assert status["state"] == "stopped" and last.facts["state"]["step"] == status["step"] > 0
        assert note.read_text().count("begun") == 2 and "further" in note.read_text()
    else:
        assert process.returncode != 0
    if how == "one fails":
        assert "this rank has failed" in err and "on rank 1 of 2" in err


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_kills_at_random_moments(small, kills):
    """Of one rank, or of all and what has started them: the run goes on, to the bits of one process."""
    changed(small, SIZE, ("t_end = 1.0", "t_end = 4.0"), ("every = 0.25", "every = 0.1\ncheckpoint = 0.1"))
    folder, out, killed, source = small.parent, small.parent / "out", 0, random.Random(kills)
    assert runner.run(config.load(small), folder / "whole", quiet=True).code == 0
    whole = result(folder / "whole")
    while killed < kills:
        for path in folder.glob("pid.*"):
            path.unlink()
        process, until = task(2, folder, "lasting", "small"), time.monotonic() + SECONDS
        while process.poll() is None and not lock.held(out):
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(source.uniform(0.0, 2.0))
        pids = sorted(int(path.suffix[1:]) for path in folder.glob("pid.*"))
        for pid in source.choice([pids[:1], pids[1:], [*pids, process.pid]]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended(process, pids)
        killed += process.returncode != 0
        if not out.exists():
            continue
        assert inspect.verify(out)[1] == []
        if directory.read_status(out)["state"] == directory.FINISHED:
            assert result(out) == whole
            shutil.rmtree(out)
    assert runner.run(config.load(small), out, quiet=True).code == 0
    assert result(out) == whole


def test_what_is_wrong_is_said_once(small):
    """A configuration, a directory that cannot be made, copies that do not know of each other: all ranks end alike."""
    changed(small, SIZE)
    bad = small.with_name("bad.toml")
    bad.write_text(small.read_text().replace("t_end = 1.0", "t_end = -1.0"))
    here = ["run", str(small), "--quiet", "--out"]
    asked = {
        "time.t_end": (2, ["run", str(bad)], True),
        "/proc/none": (5, [*here, "/proc/none"], True),
        "started together": (2, [*here, str(small.parent / "never")], False),
        "processes of fastpde sweep": (2, ["sweep", str(small)], True),
    }
    for words, (code, arguments, mpi) in asked.items():
        process = start(2, "-m", "fastpde", *arguments, mpi=mpi)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out, err.count("fastpde: error:"), err.count(words)) == (code, "", 1, 1), err
    assert not (small.parent / "never").exists()


def test_a_process_alone_knows_nothing_of_mpi(small):
    code = "import sys; from fastpde.cli import main; main(sys.argv[1:]); print('mpi4py' in sys.modules)"
    command = [sys.executable, "-c", code, "run", str(small), "--out", str(small.parent / "out"), "--quiet"]
    done = subprocess.run(command, env=os.environ | ONE | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_what_launchers_say():
    """A batch script and the tasks of a job array are one process each; a step started by srun is not."""
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_ARRAY_TASK_ID": "3"}
    step = batch | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}
    assert launch.launch({}) == launch.launch(batch) == (1, 0)
    assert launch.launch(step) == (8, 5)
    # mpiexec in a job starts its daemons, one per node, by srun.
    assert launch.launch(step | {"PMI_SIZE": "1", "PMI_RANK": "0"}) == (1, 0)
    assert launch.launch({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "PMI_SIZE": "1"}) == (4, 2)
    assert launch.launch({"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}) == (2, 1)
    assert launch.launch({"PMI_SIZE": "many", "PMI_RANK": "-1"}) == (1, 0)


def test_copies_are_refused(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    launch.refuse_copies(4)
    launch.refuse_copies(8)  # the launcher's number may be that of one machine
    for known in (1, 2):
        with pytest.raises(InputError, match=r"4 processes started together, \d known to each"):
            launch.refuse_copies(known)
    with pytest.raises(InputError, match="4 processes of fastpde study"):
        launch.refuse_many("study", 1)


def test_a_part_of_a_checkpoint(tmp_path):
    """Of named arrays the tokens asked for, of others all; what is left out is looked at unless it is known."""
    rng = np.random.default_rng(0)
    arrays = {
        "y": rng.normal(size=(9, 2)),
        "stages": rng.normal(size=(3, 9, 2)),
        "memory.1.window.dr": rng.normal(size=(1, 4, 9)),
        "memory.samples": rng.normal(size=(1, 9)),
    }
    checkpoint.write(tmp_path, Checkpoint(0, {}, arrays))

    def part(name):
        axis = token_axis(name)
        return None if axis is None else Cut(axis, slice(2, 7))

    path = tmp_path / checkpoint.NAMES[0]
    for checked in (False, True):
        found = checkpoint.read(path, part, checked=checked).arrays
        assert np.array_equal(found["y"], arrays["y"][2:7])
        assert np.array_equal(found["stages"], arrays["stages"][:, 2:7])
        assert np.array_equal(found["memory.1.window.dr"], arrays["memory.1.window.dr"][:, :, 2:7])
        assert np.array_equal(found["memory.samples"], arrays["memory.samples"])
    data = bytearray(path.read_bytes())
    data[-40] ^= 1  # of an array's last number
    path.write_bytes(data)
    with pytest.raises(Damaged, match="digest"):
        checkpoint.read(path, part)
    with pytest.raises(Damaged, match="shape"):
        checkpoint.read(path, lambda name: Cut(0, slice(0, 10)), checked=True)


def test_observables_in_blocks(monkeypatch):
    """Several blocks against the moments of all tokens at once: another order of the same sums."""
    x = np.random.default_rng(0).standard_normal((1000, 3)) + 1.0
    monkeypatch.setattr(token_moments, "BLOCK", 64)
    row = token_moments.of_one(0.0, Tokens.alone(x))
    found = dict(zip(token_moments.columns(3), row, strict=True))
    cov = observe.covariance(x)
    assert [found[f"mean_{i}"] for i in range(3)] == pytest.approx(observe.mean(x), rel=1e-13)
    assert found["trace"] == pytest.approx(np.trace(cov), rel=1e-13)
    assert found["radius"] == pytest.approx(observe.radius(x), rel=1e-15)
    x[999, 1] = np.nan
    assert np.isnan(token_moments.of_one(0.0, Tokens.alone(x))).sum() >= 4


@pytest.mark.parametrize("come", [False, True])
def test_ranks_that_do_not_come_to_a_stop_are_late(come):
    """The handler of the signal need not run for it: here it does nothing."""
    called, there = threading.Event(), set(threading.enumerate())
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with signals.Late(60.0 if come else 0.2, called.set) as late:
            (waiting,) = set(threading.enumerate()) - there
            os.kill(os.getpid(), signal.SIGTERM)
            if come:
                late.come()
            else:
                assert called.wait(PATIENCE)
        waiting.join(PATIENCE)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called.is_set() != come and not waiting.is_alive()


def test_memory_of_ranks(small):
    """Ranks of one machine share out the tokens; direct sums bring them together on each."""
    problem = config.load(changed(small, ("[output]", '[backend]\nkind = "fast"\n[output]')))
    n = 10**7

    def needed(*ranks):
        return of_ranks(problem.config, 1, n, 2, Ranks(*ranks))

    assert needed(1, 1) < needed(2, 2) < 1.1 * needed(1, 1) + 2**29  # the libraries twice
    assert needed(4, 1) < 0.3 * needed(1, 1) + 2**29
    direct = config.load(changed(small, ('"fast"', '"direct"'))).config
    assert of_ranks(direct, 1, n, 2, Ranks(4, 1)) > of_ranks(direct, 1, n, 2, Ranks()) / 4 + 16 * n


def test_asking_what_there_is_of_mpi_starts_nothing():
    """`doctor` loads MPI without starting it; a run of the same process is then one without ranks."""
    pytest.importorskip("mpi4py")
    code = "from fastpde.run import mpi_facts, ranks; assert 'mpi library' in mpi_facts.facts(); "
    code += "print(ranks.communicator().size)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


MPICH, OPEN_MPI = "MPICH Version:      5.0.2", "Open MPI v4.1.4, package: Debian OpenMPI"
HYDRA, OPEN_RTE = "HYDRA build details:\n    Version: 5.0.2", "mpiexec (OpenRTE) 4.1.4"


@pytest.mark.parametrize(
    "library, beside, typed, command, wrong",
    [
        (MPICH, HYDRA, HYDRA, "beside", None),
        (MPICH, None, HYDRA, "typed", None),
        (OPEN_MPI, None, OPEN_RTE, "typed", None),
        (MPICH, HYDRA, OPEN_RTE, "beside", "use {beside}, or set MPI4PY_LIBMPI=the path of its libmpi.so.40 (where"),
        (MPICH, None, OPEN_RTE, "typed", "Remedy: set MPI4PY_LIBMPI=the path of its libmpi.so.40 (where"),
        (OPEN_MPI, HYDRA, HYDRA, "beside", "MPI4PY_MPIABI=mpich is enough"),
        (OPEN_MPI, HYDRA, OPEN_RTE, "typed", None),
        (MPICH, None, "a launcher of a site", "typed", None),
        (MPICH, None, None, "mpiexec (not found", None),
    ],
)
def test_an_mpiexec_of_another_mpi_is_told(tmp_path, library, beside, typed, command, wrong):
    """`doctor` says what to set before ranks abort in MPI_Init, where nothing can be said any more."""
    paths = {}
    for name, version in (("beside", beside), ("typed", typed)):
        paths[name] = None if version is None else str(tmp_path / name)
        if version is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{version}\nEND\n")
            (tmp_path / name).chmod(0o755)
    said = mpi_facts._launchers(library, 1, paths["beside"], paths["typed"])
    assert f"a run on P: {paths.get(command) or command}" in said["mpi ranks"]
    assert (wrong is None) == ("mpi mismatch" not in said)
    assert wrong is None or wrong.format(**paths) in said["mpi mismatch"]


def test_too_few_tokens_for_the_ranks_are_one_line(small):
    """32 tokens stay together: the third rank would have none of 40."""
    changed(small, ("n = 30", "n = 40"))
    process = task(3, small.parent, "command", "run", str(small), "--out", str(small.parent / "out"), "--quiet")
    _, errors = process.communicate(timeout=SECONDS)
    ours = [line for line in errors.splitlines() if "fastpde" in line or "Traceback" in line]
    assert process.returncode == 2 and len(ours) == 1, errors
    assert ours[0].startswith("fastpde: error: n: got 40 tokens; need more than 64, 32 for each of 3 processes")
    assert not (small.parent / "out").exists()
