"""The SLURM job that this process belongs to: its name, its end, and its way back into the queue.

A command in a batch script is run by `run_in_job`, which puts the job into the queue again when the command stops
before its end, as long as it gets any further (see `attempt`). SLURM is asked by its own commands, as its versions
differ in the variables that they set.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import FrameType

from fastpde.errors import InputError
from fastpde.run import attempt

STOPPED = 75  # the exit code of a command that the same command goes on with
_PATIENCE = 20.0  # seconds for an answer of SLURM
_TRIES, _PAUSE = 3, 2.0  # how often to try to put a job into the queue, and seconds between them
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d\d)", re.ASCII)
_UNITS = (86400.0, 3600.0, 60.0, 1.0)
_TIME_LIMIT = "TimeLimit"  # the reason that SLURM gives for the end of a job


def name(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the name of the job for SLURM's commands, None if this process belongs to none.

    That of a task of an array is ARRAY_TASK: the number of one of the tasks is also that of the whole array, and would
    put all tasks into the queue again, the finished ones too.
    """
    environment = os.environ if environment is None else environment
    job, array, task = (environment.get(f"SLURM_{end}", "") for end in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"))
    if _whole(array) and _whole(task):
        return f"{array}_{task}"
    return job if _whole(job) else None


def seconds_left() -> float | None:
    """Return the seconds until the time limit of the job, as SLURM says; None without a job, a limit or an answer."""
    job = name()
    if job is None:
        return None
    left = [_seconds(line) for line in _said("squeue", "-h", "-j", job, "-o", "%L").split()]
    if not left:
        shown = dict(word.partition("=")[::2] for word in _said("scontrol", "-o", "show", "job", job).split())
        limit, ran = (_seconds(shown.get(key, "")) for key in ("TimeLimit", "RunTime"))
        left = [None if limit is None or ran is None else limit - ran]
    return min((found for found in left if found is not None), default=None)


def _seconds(clock: str) -> float | None:
    """Return the seconds of a time as SLURM writes it, [[days-]hours:]minutes:seconds; None for words."""
    found = _CLOCK.fullmatch(clock)
    return (
        None if found is None else sum(int(part or 0) * unit for part, unit in zip(found.groups(), _UNITS, strict=True))
    )


def _whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _said(*command: str) -> str:
    """Return what a command prints, nothing if it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


class _Relay:
    """What signals do while a command runs in a job.

    SLURM sends SIGUSR1 to this process alone, before the time is over (sbatch --signal=B:USR1@SECONDS): it is passed
    on. Other signals come from the end of the job, and to the command as well: they are noted, nothing more.
    """

    def __init__(self) -> None:
        self.warned = self.ended = False
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGUSR1, self._warn)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU):
            signal.signal(number, self._end)

    def _warn(self, _number: int, _frame: FrameType | None) -> None:
        self.warned = True
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.ended = True

    def run(self, command: Sequence[str]) -> int:
        """Run a command and return its exit code, 128 + number if a signal ended it."""
        self._process = subprocess.Popen(command)
        if self.warned:
            self._process.send_signal(signal.SIGUSR1)
        code = self._process.wait()
        return code if code >= 0 else 128 - code


def run_in_job(command: Sequence[str]) -> int:
    """Run a command; if it stops before its end, put the job into the queue again. Return the command's exit code.

    It has stopped before its end if it ended with code 75, or by the signal that was passed on to it. A job that was
    cancelled is left so, and one whose node has left is put into the queue by SLURM; one that was ended by its time
    limit is not, if it has not been warned in time.

    Raises InputError for a command that cannot be started, and for one of fastpde that has got no further in several
    attempts in a row: its job does not go on by itself.
    """
    relay, job = _Relay(), name()
    attempts = None if job is None else _begun(job)
    try:
        code = relay.run(command)
    except (OSError, ValueError) as error:
        raise InputError("COMMAND", f"{command[:1]} ({error})", "a program that can be started") from None
    warned_to_death = relay.warned and code == 128 + signal.SIGUSR1
    if job is None or not (code == STOPPED or warned_to_death):
        _forget(attempts)
        return code
    if relay.ended and _TIME_LIMIT not in _said("squeue", "-h", "-j", job, "-o", "%r").split():
        _tell(f"job {job} was cancelled, or its node left: nothing is done. Submitted again, it goes on.")
        _forget(attempts)
        return code
    _refuse_in_vain(job, attempts, died=warned_to_death and _names_fastpde(command))
    wrong = _requeued(job)
    if wrong is not None:
        _forget(attempts)
    _tell(f"job {job} is in the queue again" if wrong is None else f"job {job} is not in the queue again: {wrong}")
    return STOPPED


def _begun(job: str) -> attempt.Attempts | None:
    """Begin the next attempt of the job and return all of them; None where they cannot be counted."""
    try:
        attempts = attempt.Attempts(job)
        attempts.begin()
        return attempts
    except OSError as error:
        _tell(f"the attempts of job {job} are not counted: {error}")
        return None


def _forget(attempts: attempt.Attempts | None) -> None:
    if attempts is not None:
        attempts.forget()


def _refuse_in_vain(job: str, attempts: attempt.Attempts | None, *, died: bool) -> None:
    """Raise InputError if the job has made several attempts in a row that got no further; `died`: see `Attempts`."""
    try:
        count = 0 if attempts is None else attempts.in_vain(died)
    except OSError as error:
        _tell(f"the attempts of job {job} are not counted: {error}")
        return
    if count < attempt.MOST:
        if count:
            _tell("this attempt ended where it had begun: its time was too short for any progress")
        return
    _forget(attempts)
    came = f"too little for job {job}: {count} attempts in a row ended where they had begun"
    need = "what loading, compiling and one velocity take, of several systems the longest one from begin to end"
    remedy = (
        "Give a longer --time (and --max-walltime), more cores, or a configuration with less to do at a time: fewer "
        "tokens, larger tolerances or steps; fastpde estimate tells the times. The job is not in the queue again; "
        "submitted again, it goes on."
    )
    raise InputError("--time of sbatch", came, need, remedy)


def _names_fastpde(command: Sequence[str]) -> bool:
    """Return whether a command is one of fastpde, as `fastpde run` or `mpiexec python -m fastpde run`."""
    return any(PurePath(word).name == "fastpde" for word in command)


def _requeued(job: str) -> str | None:
    """Put the job into the queue again; return what SLURM says against it, None if it did so."""
    # SLURM ends a job that it puts into the queue again: that is not to end the command which asks for it.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    wrong = ""
    for k in range(_TRIES):
        if k:
            time.sleep(_PAUSE)
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            wrong = str(error)
            continue
        if done.returncode == 0:
            return None
        wrong = " ".join(done.stderr.split())
    return wrong


def _tell(text: str) -> None:
    sys.stderr.write(f"fastpde: {text}\n")
    sys.stderr.flush()
