"""A trial run: the beginning of a run itself, into a folder that is removed, to see how long the whole will take."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpde.config import Problem
from fastpde.run import directory, runner
from fastpde.run.signals import Stopped

_LEAST = 0.01  # of a run: what has come through less says too little
_SHORT, _ATTEMPTS = 1.0, 3  # runs of so many seconds at most are made so often


@dataclass(frozen=True)
class Trial:
    """What a trial has seen.

    Attributes:
        seconds: predicted for the whole run, without start and pictures.
        share: the fraction of it that was run.
        evaluations: the number of velocities in the whole run, 0 for ensembles.
        systems: how many systems were run, 0 for a run of one.
        bytes: of the files that the whole run will leave, without pictures.
    """

    seconds: float
    share: float
    evaluations: float
    systems: int
    bytes: float


def trial(problem: Problem, patience: float) -> Trial | None:
    """Run a problem for so many seconds at most; return None if it has not come far enough to tell.

    A first run has the kernels loaded, so that this is not counted. A run that ends within a second is made three
    times, and the shortest counts, since other processes of the machine only make it longer.

    Raises InputError as a run does, Stopped on a signal.
    """
    with tempfile.TemporaryDirectory(prefix="fastpde-") as folder:
        outcome = _begin(problem, Path(folder) / "first", 3.0)
        status: dict[str, Any] = {}
        seconds, written = math.inf, 0
        for attempt in range(_ATTEMPTS):
            target = Path(folder) / str(attempt)
            outcome = _begin(problem, target, patience)
            if not directory.is_there(target):
                return None
            status = directory.read_status(target)
            seconds = min(seconds, status["elapsed_s"])
            written = sum(file.stat().st_blocks * 512 for file in target.iterdir())
            if outcome.code == runner.STOPPED or seconds > _SHORT:
                break
    if "systems_done" in status:
        share = status["systems_done"] / status["systems"]
    else:
        span = problem.config.time
        share = (status["t"] - span.t_start) / (span.t_end - span.t_start)
    share = 1.0 if outcome.code != runner.STOPPED else share  # an event, or a failure, may end it before
    if share < _LEAST:
        return None
    evaluations = float(status["backend"].get("evaluations", 0)) / share
    return Trial(seconds / share, share, evaluations, status.get("systems_done", 0), written / share)


def _begin(problem: Problem, target: Path, seconds: float) -> runner.Outcome:
    """Run the problem for so many seconds at most. Raises Stopped on a signal."""
    outcome = runner.run(problem, target, quiet=True, deadline=time.monotonic() + seconds)
    if outcome.signal:
        raise Stopped(outcome.signal)
    return outcome
