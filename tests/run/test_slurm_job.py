"""Jobs of SLURM that put themselves into the queue again, with commands that answer in SLURM's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edits import changed

import fastpde
from fastpde import config
from fastpde.run import attempt, directory, runner, slurm_job, system_blocks, walltime
from fastpde.run.frames import Frames
from fastpde.run.system_blocks import Systems

VARIABLES = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_END_TIME")
ARRAY = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function that sets the variables of a job and what each of SLURM's commands does, lines of sh.

    The commands write their arguments into the file `calls`.
    """
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm_job, "_PAUSE", 0.0)
    monkeypatch.chdir(tmp_path)

    def job(variables: dict[str, str], **commands: str) -> Path:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for name, lines in {"squeue": "exit 1", "scontrol": "exit 1", **commands}.items():
            file = tmp_path / "bin" / name
            file.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/calls"\n{lines}\n')
            file.chmod(0o755)
        return tmp_path / "calls"

    return job


@pytest.mark.parametrize(
    "variables, name",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        (ARRAY, "7_3"),
        ({"SLURM_JOB_ID": "12; touch stray"}, None),
        ({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "-h"}, "12"),
    ],
)
def test_names(variables, name):
    """A task of an array is never named by the number of the array, which one of its tasks has, too."""
    assert slurm_job.name(variables) == name


SHOWN = "echo JobId=7 RunTime=00:00:30 TimeLimit=1-00:02:00 EndTime=2030-01-01T00:00:00"


@pytest.mark.parametrize(
    "squeue, scontrol, seconds",
    [
        ("echo 3:00", "exit 1", 180),
        ("echo 1:02:03", "exit 1", 3723),
        ("echo 2-00:00:01", "exit 1", 172801),
        ("echo UNLIMITED", "exit 1", None),
        ("echo INVALID", "exit 1", None),
        ("exit 1", SHOWN, 86490),
        ("exit 1", SHOWN.replace("1-00:02:00", "UNLIMITED"), None),
        ("exit 1", "exit 1", None),
        ("echo; echo; exit 0", "echo slurm_load_jobs error", None),
    ],
)
def test_the_end_of_a_job_is_asked_for(slurm, squeue, scontrol, seconds):
    """Where no variable says it, as before SLURM 23.02."""
    calls = slurm(ARRAY, squeue=squeue, scontrol=scontrol)
    assert slurm_job.seconds_left() == seconds
    assert "squeue -h -j 7_3 -o %L" in calls.read_text()
    found = walltime.left(None)
    assert found is None if seconds is None else found == seconds - min(30.0, seconds / 4)


def test_nobody_is_asked_without_need(slurm, monkeypatch):
    calls = slurm({})
    assert slurm_job.seconds_left() is None and walltime.left(None) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 400))
    assert walltime.left(None) == pytest.approx(370, abs=2)
    assert not calls.exists()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert walltime.left(None) is None  # no such commands here


def requeue(*words: str) -> subprocess.Popen[str]:
    """Start `fastpde requeue` in a process of its own."""
    command = [sys.executable, "-m", "fastpde", "requeue", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(fastpde.__file__).parents[1])}, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_only_what_stops_early_goes_on(slurm):
    calls = slurm(ARRAY, scontrol="exit 0")
    for code in (0, 3, 75):
        assert ended(requeue("--", "sh", "-c", f"exit {code}"))[0] == code
        assert calls.exists() == (code == 75)
    assert calls.read_text() == "scontrol requeue 7_3\n"


def test_outside_of_a_job_nothing_is_asked(slurm):
    calls = slurm({}, scontrol="exit 0")
    assert ended(requeue("sh", "-c", "exit 75"))[0] == 75
    assert not calls.exists()
    code, errors = ended(requeue("no-such-program"))
    assert code == 2 and errors.startswith("fastpde: error: COMMAND: ") and errors.count("\n") == 1
    assert ended(requeue())[0] == 2


def test_a_queue_that_does_not_take_it_is_said(slurm, monkeypatch, capsys):
    calls = slurm(ARRAY, scontrol="echo 'Requested operation is presently disabled' >&2; exit 1")
    monkeypatch.setattr(slurm_job.signal, "signal", lambda number, handler: None)
    assert slurm_job.run_in_job(["sh", "-c", "exit 75"]) == 75
    said = "job 7_3 is not in the queue again: Requested operation is presently disabled"
    assert said in capsys.readouterr().err
    assert calls.read_text().count("requeue") == 3


# A command that has 75 for SIGUSR1, and waits.
WAITS = 'trap "exit 75" USR1; touch "$0"; while :; do sleep 0.05; done'


def started(tmp_path: Path, command: str = WAITS) -> subprocess.Popen[str]:
    process, there = requeue("sh", "-c", command, str(tmp_path / "there")), time.monotonic() + 60
    while not (tmp_path / "there").exists():
        assert time.monotonic() < there
        time.sleep(0.02)
    return process


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_the_warning_is_passed_on(slurm, tmp_path):
    calls = slurm(ARRAY, scontrol="exit 0")
    process = started(tmp_path)
    process.send_signal(signal.SIGUSR1)
    code, errors = ended(process)
    assert code == 75 and "job 7_3 is in the queue again" in errors
    assert calls.read_text() == "scontrol requeue 7_3\n"


def test_what_the_warning_ends_goes_on_too(slurm, tmp_path):
    """A command that does not know the signal yet, as it has just begun."""
    calls = slurm(ARRAY, scontrol="exit 0")
    process = started(tmp_path, 'touch "$0"; exec sleep 60')
    process.send_signal(signal.SIGUSR1)
    assert ended(process)[0] == 75 and "requeue" in calls.read_text()


@pytest.mark.parametrize("reason, again", [("None", False), ("TimeLimit", True)])
def test_a_cancelled_job_stays_cancelled(slurm, tmp_path, reason, again):
    """The end of a job is told to all of its processes; that by the time limit is no wish of anybody."""
    calls = slurm(ARRAY, scontrol="exit 0", squeue=f"echo {reason}")
    process = started(tmp_path)
    process.send_signal(signal.SIGTERM)
    for pid in children(process):  # as SLURM does
        os.kill(pid, signal.SIGUSR1)
    code, errors = ended(process)
    assert code == 75 and ("requeue" in calls.read_text()) == again
    assert ("was cancelled" in errors) != again


def notes(*words: str) -> tuple[str, ...]:
    """A command that stops early, after it has noted so many words."""
    lines = "".join(f"attempt.note_{word}(); " for word in words)
    return sys.executable, "-c", f"from fastpde.run import attempt; {lines}raise SystemExit(75)"


KEPT = ".fastpde-job-7_3"


def test_a_job_that_gets_no_further_is_not_queued_again(slurm, tmp_path):
    """Two attempts in a row are the most; one that gets further begins the count anew."""
    calls = slurm(ARRAY, scontrol="exit 0")
    for words in (("begin",), ("begin", "progress"), ("begin",)):
        code, errors = ended(requeue("--", *notes(*words)))
        assert code == 75 and ("ended where it had begun" in errors) == (len(words) == 1)
    assert (tmp_path / KEPT).exists()  # what is kept from one attempt to the next
    code, errors = ended(requeue("--", *notes("begin")))
    assert code == 2 and errors.count("\n") == 1
    for said in ("--time of sbatch: got too little for job 7_3: 2 attempts", "need what loading", "not in the queue"):
        assert said in errors
    assert calls.read_text().count("requeue") == 3
    assert not (tmp_path / KEPT).exists()  # a new submission has its attempts


def test_programs_that_note_nothing_go_on(slurm, tmp_path):
    """They are none of fastpde; one of fastpde that its warning ends before it begins has got no further."""
    calls = slurm(ARRAY, scontrol="exit 0")
    for _ in range(4):
        assert ended(requeue("--", "sh", "-c", "exit 75"))[0] == 75
    dies, name = ("sh", "-c", "kill -USR1 $PPID; exec sleep 60"), "fastpde"
    assert [ended(requeue("--", *dies, name))[0] for _ in range(2)] == [75, 2]
    assert calls.read_text().count("requeue") == 5
    assert ended(requeue("--", "sh", "-c", "exit 3"))[0] == 3 and not (tmp_path / KEPT).exists()


def test_a_folder_that_cannot_be_written_is_said(slurm, tmp_path):
    calls = slurm(ARRAY, scontrol="exit 0")
    (tmp_path / KEPT).mkdir()
    for _ in range(3):
        code, errors = ended(requeue("--", *notes("begin")))
        assert code == 75 and "the attempts of job 7_3 are not counted" in errors
    assert calls.read_text().count("requeue") == 3


def test_no_file_is_made_by_a_note(tmp_path, monkeypatch):
    for path in (tmp_path / "none", tmp_path / "link"):
        monkeypatch.setenv(attempt.VARIABLE, str(path))
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "none")
        attempt.note_begin()
        attempt.note_progress()
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["run", "systems", "sweep"])
def test_a_time_too_short_for_anything(slurm, small, kind):
    """Commands whose time is over when they begin: they stop as soon as they ask for it."""
    calls = slurm(ARRAY, scontrol="exit 0")
    if kind == "systems":
        changed(small, ("d = 2", "d = 2\nsystems = 3"))
    (small.parent / "plan.toml").write_text('config = "small.toml"\n[vary]\nseed = [1, 2]\n')
    command = ["sweep", "plan.toml"] if kind == "sweep" else ["run", "small.toml"]
    words = [sys.executable, "-m", "fastpde", *command, "--quiet", "--max-walltime", "0.01s"]
    for code in (75, 2):
        found, errors = ended(requeue("--", *words))
        assert found == code, errors
        assert "before the walltime is over" in errors
    assert calls.read_text().count("requeue") == 1 and "ended where they had begun" in errors


@pytest.mark.parametrize("owner, name, counted", [(Frames, "step", "step"), (Systems, "block", "systems_done")])
def test_a_step_or_a_system_is_progress(tmp_path, small, monkeypatch, owner, name, counted):
    """The first one stops the run, and is kept; what goes on and stops at once has got no further."""
    if owner is Systems:
        changed(small, ("d = 2", "d = 2\nsystems = 3"))
    note, plain = tmp_path / "note", getattr(owner, name)
    monkeypatch.setenv(attempt.VARIABLE, str(note))
    monkeypatch.setattr(system_blocks, "_FIRST", 1)  # systems of the first block
    monkeypatch.setattr(system_blocks.machine, "cores", lambda: 0)  # no more than these

    def stopping(*arguments):
        plain(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(owner, name, stopping)
    for deadline, done in ((None, 1), (0.0, 1), (None, 2)):
        note.write_text("")
        outcome = runner.run(config.load(small), small.parent / "out", quiet=True, deadline=deadline)
        assert outcome.code == 75 and directory.read_status(small.parent / "out")[counted] == done
        assert ("further" in note.read_text()) == (deadline is None)
