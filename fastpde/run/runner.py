"""One run, from a checked problem to a finished directory and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from fastpde import backends
from fastpde.config import Problem
from fastpde.config.shapes import each_head
from fastpde.errors import InputError
from fastpde.run import blocks, checkpoint, directory, energies, progress
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.directory import OutputError
from fastpde.run.lock import RunLock
from fastpde.run.record import Record
from fastpde.run.recorder import Recorder
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.systems import SystemsRecorder

DONE, BAD, NOT_FINITE, UNWRITABLE, STOPPED = 0, 2, 3, 5, 75
# Outcomes that are results, theory's blow-up among them, have no code here; the others end a run before its time.
# NOT_FINITE stands for a scaling that did not converge, too.
_CODES = {"NOT_FINITE": NOT_FINITE, "STEP_TOO_SMALL": NOT_FINITE, "NOT_CONVERGED": NOT_FINITE, "MAX_STEPS": BAD}
_KEYS = {"MAX_STEPS": "time.max_steps: ", "STEP_TOO_SMALL": "time.rtol: "}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code, what to say, and where its directory is, if it has one."""

    code: int
    message: str
    path: Path | None


def run(
    problem: Problem,
    target: Path,
    *,
    quiet: bool = False,
    deadline: float | None = None,
    say: Callable[[str], object] | None = None,
) -> Outcome:
    """Run a problem into the directory `target`, or go on with it; a finished run is left as it is.

    `deadline`: when the process must have ended, on `time.monotonic`; `say` is told what a signal will do. Raises
    InputError for a directory that cannot be used and for files that hold unusable numbers, before anything is made.
    """
    if directory.is_finished(target, problem.config):
        return Outcome(DONE, "already finished", target)
    if (ended := _ended_badly(target)) is not None:
        return ended
    # BLAS is asked for moments and small matrices only; its threads would wait busily for more on the kernels' cores.
    with threadpool_limits(1, "blas"), StopSignals(say or _say, "the sum at work", deadline) as signals:
        try:
            return _run(problem, target, quiet, signals)
        except OutputError as error:  # what is there cannot be gone on with, and was left as it is
            return Outcome(UNWRITABLE, str(error), target)
        except Stopped as stop:  # a second signal, outside of the run itself
            return Outcome(
                STOPPED, f"{stop}. The same command goes on.", target if directory.is_there(target) else None
            )


def _ended_badly(target: Path) -> Outcome | None:
    """How an earlier run ended, if the same would happen again."""
    status = directory.status_of(target) if directory.is_there(target) else {}
    if status.get("state") != directory.FAILED or not isinstance(code := status.get("code"), int):
        return None
    return Outcome(code, f"{status.get('message')} It ended so before; remove {target} to run it again.", target)


def _run(problem: Problem, target: Path, quiet: bool, signals: StopSignals) -> Outcome:
    if problem.is_large:
        backends.compile_ahead()
    problem = problem.calibrated(directory.config_of(target) if directory.is_there(target) else None)
    tokens, attention = problem.tokens(), problem.attention()
    one, recorder = problem.systems == 1, _recorder(problem, attention, target)
    found = _continued(recorder, target)
    if found is not None and found.facts["end"] is not None:
        recorder.finish(directory.FINISHED, found.facts["end"]["message"])
        return Outcome(DONE, found.facts["end"]["message"], target)
    start, _, end = recorder.span()
    shown = progress.choose(start, end, sys.stderr, quiet=quiet, name=progress.TIME if one else progress.SYSTEMS)
    with backends.checking(signals.check):
        try:
            if isinstance(recorder, Recorder):
                return _solve_one(recorder, attention, tokens, shown, signals, found)
            return _solve_systems(recorder, attention, tokens, shown, signals)
        except Stopped as stop:
            return _stopped(recorder, stop)
        except OutputError as error:
            return _unwritable(recorder, error)
        except BaseException as error:
            recorder.abandon(f"{type(error).__name__}: {error}")
            raise
        finally:
            shown.close()


def _continued(recorder: Recorder | SystemsRecorder, target: Path) -> Checkpoint | None:
    """Let the recorder go on with a directory that is there; return its checkpoint.

    Raises InputError if another process is at work there, if no checkpoint is whole, or its files were changed.
    """
    if not directory.is_there(target):
        return None
    lock = RunLock(target)
    try:
        found, wrong = checkpoint.newest(target)
        if found is None:
            why = f" ({'; '.join(wrong)})" if wrong else ""
            came = f"{target}, an unfinished run without a checkpoint{why}"
            raise InputError("--out", came, "a new directory, or a run with a checkpoint", directory.REMEDY)
        recorder.go_on(target, lock, found)
        for text in wrong:
            recorder.log(f"left aside: {text}")
    except BaseException:
        lock.release()
        raise
    return found


def _say(text: str) -> None:
    # The signal may have come in the middle of another write to this stream, which must not be entered twice.
    os.write(2, text.encode())


def _recorder(problem: Problem, attention: Any, target: Path) -> Recorder | SystemsRecorder:
    backend = problem.backend()
    if problem.systems > 1:
        return SystemsRecorder(problem, target, energies.of_systems(problem, attention, backend))
    row, watch = energies.of_one(problem, attention, backend), energies.Watch(energies.trend(problem, attention))
    return Recorder(problem, target, row, watch)


def arguments(problem: Problem) -> dict[str, Any]:
    """Return what `fastpde.solve` is told by the configuration, for one system or several."""
    times = problem.config.time
    return {
        "t_span": (times.t_start, times.t_end),
        "method": times.method,
        "step": times.step,
        "rtol": times.rtol,
        "atol": times.atol,
        "max_steps": times.max_steps,
        "manifold": problem.manifold(),
        "noise": times.noise,
        "seed": problem.config.seed,
        "events": problem.events(),
        "backend": problem.backend(),
    }


def _begin(recorder: Record, what: str) -> dict[str, Any]:
    problem = recorder.problem
    times = problem.config.time
    recorder.log(f"{what} of dimension {problem.d}, t from {times.t_start:g} to {times.t_end:g}")
    return arguments(problem)


def _solve_one(
    recorder: Recorder,
    attention: Any,
    tokens: Any,
    shown: progress.Progress,
    signals: StopSignals,
    found: Checkpoint | None,
) -> Outcome:
    from fastpde.integrate import Integrator, Observer, State
    from fastpde.meanfield import prepare

    def frame(t: float, x: Any) -> None:
        with signals.held():
            recorder.frame(t, x)

    asked = _begin(recorder, f"{recorder.problem.n} tokens")
    observer = Observer(frame, time=recorder.problem.config.output.every)
    problem = prepare(attention, tokens, **asked, observers=(observer,))
    state = None if found is None else State.of(found.facts["state"], found.arrays)
    run = Integrator(problem, state, undo=True)
    recorder.snapshot = run.snapshot
    while run.step() is None:
        recorder.step(run.state.t, run.stats())
        shown.update(run.state.t, run.state.step)
        signals.check()  # not after the last step: what has ended is not to go on
        recorder.beat()
        if recorder.due():
            recorder.save_state()
        signals.saving = recorder.saving
    recorder.step(run.state.t, run.stats())
    solution = run.solution()
    recorder.ended(solution.status.value, solution.t_final)
    name = solution.status.name
    key = _max_iter(recorder.problem, solution.cause) if name == "NOT_CONVERGED" else _KEYS.get(name, "")
    return _ended(recorder, [solution.status], key + solution.message)


def _solve_systems(
    recorder: SystemsRecorder, attention: Any, tokens: Any, shown: progress.Progress, signals: StopSignals
) -> Outcome:
    asked = _begin(recorder, f"{recorder.problem.systems} systems of {recorder.problem.n} tokens")
    blocks.run(recorder, attention, tokens, asked, lambda done: shown.update(done, recorder.steps), signals)
    ends = recorder.counts.most_common()
    counts = ", ".join(f"{count} {status.value}" for status, count in ends)
    keys = _KEYS | {"NOT_CONVERGED": _max_iter(recorder.problem)}
    remedies = "".join(f" {keys.get(end.name, '')}{end.message}" for end, _ in ends if not end.success)
    return _ended(recorder, [end for end, _ in ends], f"{recorder.done} systems: {counts}.{remedies}")


def _max_iter(problem: Problem, cause: Any = None) -> str:
    """Return the key of the head whose scaling did not converge, or of all that it may be."""
    heads = list(each_head(problem.config))
    if cause is not None and cause.heads:
        heads = [heads[cause.heads[0]]]
    names = dict.fromkeys(f"{name}.max_iter" for name, block, _ in heads if block.kind == "sinkhorn")
    return f"{', '.join(names)}: "


def _ended(recorder: Recorder | SystemsRecorder, ends: list[Any], message: str) -> Outcome:
    """Return the outcome of a run whose systems came to these ends."""
    codes = [_CODES.get(end.name, NOT_FINITE) for end in ends if not end.success]
    message = " ".join(filter(None, [message, recorder.remarks()]))
    if not codes:
        recorder.save_state({"message": message})
        recorder.finish(directory.FINISHED, message)
        return Outcome(DONE, message, recorder.path)
    recorder.finish(directory.FAILED, message, max(codes))
    return Outcome(max(codes), f"{message} {recorder.kept()}", recorder.path)


def _unwritable(recorder: Recorder | SystemsRecorder, error: OutputError) -> Outcome:
    """Leave what has been written."""
    recorder.abandon(str(error))
    gone = recorder.path is not None and not directory.is_there(recorder.path)
    return Outcome(UNWRITABLE, str(error) if gone else f"{error}. {recorder.kept()}", recorder.path)


def _stopped(recorder: Recorder | SystemsRecorder, stop: Stopped) -> Outcome:
    """Write a checkpoint, if the state is whole, and close everything: the same command goes on."""
    try:
        if not stop.at_once:
            recorder.save_state()
        recorder.finish(directory.STOPPED, str(stop))
    except Stopped:
        recorder.abandon(str(stop))
    except OutputError as error:
        return _unwritable(recorder, error)
    again = "" if recorder.path is None else " The same command goes on."
    return Outcome(STOPPED, f"{stop}. {recorder.kept()}{again}", recorder.path)
