"""One run, from a checked problem to a finished directory and an exit code."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpde.config import Problem
from fastpde.config.shapes import each_head
from fastpde.errors import ConvergenceError
from fastpde.run import blocks, directory, progress
from fastpde.run.directory import OutputError
from fastpde.run.record import Record
from fastpde.run.recorder import Recorder
from fastpde.run.signals import Stopped, StopSignals
from fastpde.run.systems import SystemsRecorder

DONE, BAD, NOT_FINITE, UNWRITABLE = 0, 2, 3, 5
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


def run(problem: Problem, target: Path, *, quiet: bool = False) -> Outcome:
    """Run a problem into the directory `target`; a finished run of the same configuration is left as it is.

    Raises InputError for a directory that cannot be used and for files that hold unusable numbers, before
    anything is made.
    """
    if directory.is_finished(target, problem.config):
        return Outcome(DONE, "already finished", target)
    tokens, attention = problem.tokens(), problem.attention()
    one, energy = problem.systems == 1, _energy(problem, attention)
    recorder = Recorder(problem, target, energy) if one else SystemsRecorder(problem, target, energy)
    start, _, end = recorder.span()
    name, piece = (progress.TIME, "this step") if one else (progress.SYSTEMS, "this block of systems")
    shown = progress.choose(start, end, sys.stderr, quiet=quiet, name=name)
    with StopSignals(_say, piece) as signals:
        try:
            if isinstance(recorder, Recorder):
                return _solve_one(recorder, attention, tokens, shown, signals)
            return _solve_systems(recorder, attention, tokens, shown, signals)
        except Stopped as stop:
            return _stopped(recorder, stop)
        except OutputError as error:
            recorder.abandon(str(error))
            return Outcome(UNWRITABLE, f"{error}. {recorder.kept()}", recorder.path)
        except BaseException as error:
            recorder.abandon(f"{type(error).__name__}: {error}")
            raise
        finally:
            shown.close()


def _say(text: str) -> None:
    # The signal may have come in the middle of another write to this stream, which must not be entered twice.
    os.write(2, text.encode())


def _energy(problem: Problem, attention: Any) -> Callable[[float, Any], Any] | None:
    """Return the energy of tokens (n, d) or (B, n, d), nan where its scaling does not converge.

    Whether the run goes on is for its velocities to say: they start warm and may converge where an energy does not.
    """
    if not problem.config.output.energy:
        return None
    import fastpde as fp

    backend = problem.backend()
    function: Any = fp.sinkhorn_energy if isinstance(attention, fp.Sinkhorn) else fp.interaction_energy

    def energy(t: float, x: Any) -> Any:
        try:
            return function(attention, x, t=t, backend=backend)
        except ConvergenceError:
            return math.nan if x.ndim == 2 else [energy(t, one) for one in x]

    return energy


def _arguments(problem: Problem) -> dict[str, Any]:
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
    return _arguments(problem)


def _solve_one(
    recorder: Recorder, attention: Any, tokens: Any, shown: progress.Progress, signals: StopSignals
) -> Outcome:
    import fastpde as fp

    def step(t: float, stats: dict[str, Any]) -> None:
        recorder.step(t, stats)
        shown.update(t, int(stats.get("steps", 0)))
        signals.check()

    arguments = _begin(recorder, f"{recorder.problem.n} tokens")
    observer = fp.Observer(recorder.frame, time=recorder.problem.config.output.every)
    solution: Any = fp.solve(attention, tokens, **arguments, observers=(observer,), progress=step)
    recorder.ended(solution.status.value, solution.t_final)
    name = solution.status.name
    key = _max_iter(recorder.problem, solution.cause) if name == "NOT_CONVERGED" else _KEYS.get(name, "")
    return _ended(recorder, [solution.status], key + solution.message)


def _solve_systems(
    recorder: SystemsRecorder, attention: Any, tokens: Any, shown: progress.Progress, signals: StopSignals
) -> Outcome:
    arguments = _begin(recorder, f"{recorder.problem.systems} systems of {recorder.problem.n} tokens")
    blocks.run(recorder, attention, tokens, arguments, lambda done: shown.update(done, recorder.steps), signals.check)
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


def _ended(recorder: Record, ends: list[Any], message: str) -> Outcome:
    """Return the outcome of a run whose systems came to these ends."""
    codes = [_CODES.get(end.name, NOT_FINITE) for end in ends if not end.success]
    if not codes:
        recorder.finish(directory.FINISHED, message)
        return Outcome(DONE, message, recorder.path)
    recorder.finish(directory.FAILED, message)
    return Outcome(max(codes), f"{message} {recorder.kept()}", recorder.path)


def _stopped(recorder: Record, stop: Stopped) -> Outcome:
    try:
        recorder.finish(directory.STOPPED, str(stop))
    except OutputError as error:
        return Outcome(UNWRITABLE, f"{error}. {recorder.kept()}", recorder.path)
    return Outcome(stop.code, f"{stop}. {recorder.kept()}", recorder.path)
