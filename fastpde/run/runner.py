"""One run, from a checked problem to a finished directory and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpde.config import Problem
from fastpde.errors import ConvergenceError
from fastpde.run import directory, progress
from fastpde.run.directory import OutputError
from fastpde.run.recorder import Recorder
from fastpde.run.signals import Stopped, StopSignals

DONE, BAD, NOT_FINITE, UNWRITABLE = 0, 2, 3, 5
# Outcomes that are results, theory's blow-up among them; the others end a run before its time.
_RESULTS = ("COMPLETED", "EVENT", "STEADY_STATE", "BLOW_UP", "COLLAPSED")
_CODES = {"NOT_FINITE": NOT_FINITE, "STEP_TOO_SMALL": NOT_FINITE, "MAX_STEPS": BAD}
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
    recorder = Recorder(problem, target, _energy(problem, attention))
    times = problem.config.time
    shown = progress.choose(times.t_start, times.t_end, sys.stderr, quiet=quiet)
    with StopSignals(_say) as signals:

        def step(t: float, stats: dict[str, Any]) -> None:
            recorder.step(t, stats)
            shown.update(t, int(stats.get("steps", 0)))
            signals.check()

        try:
            solution = _solve(problem, attention, tokens, recorder, step)
            return _ended(recorder, solution)
        except Stopped as stop:
            return _stopped(recorder, stop)
        except ConvergenceError as error:
            message = f"attention.max_iter: {error}"
            recorder.finish(directory.FAILED, message)
            return Outcome(BAD, f"{message} {_kept(recorder)}", recorder.path)
        except OutputError as error:
            recorder.abandon(str(error))
            return Outcome(UNWRITABLE, f"{error}. {_kept(recorder)}", recorder.path)
        except BaseException as error:
            recorder.abandon(f"{type(error).__name__}: {error}")
            raise
        finally:
            shown.close()


def _say(text: str) -> None:
    # The signal may have come in the middle of another write to this stream, which must not be entered twice.
    os.write(2, text.encode())


def _energy(problem: Problem, attention: Any) -> Callable[[float, Any], float] | None:
    if not problem.config.output.energy:
        return None
    import fastpde as fp

    backend = problem.config.backend.kind
    energy: Any = fp.sinkhorn_energy if isinstance(attention, fp.Sinkhorn) else fp.interaction_energy
    return lambda t, x: float(energy(attention, x, t=t, backend=backend))


def _solve(problem: Problem, attention: Any, tokens: Any, recorder: Recorder, step: Callable[..., None]) -> Any:
    import fastpde as fp

    times, output = problem.config.time, problem.config.output
    recorder.log(f"{problem.n} tokens of dimension {problem.d}, t from {times.t_start:g} to {times.t_end:g}")
    return fp.solve(
        attention,
        tokens,
        (times.t_start, times.t_end),
        method=times.method,
        step=times.step,
        rtol=times.rtol,
        atol=times.atol,
        max_steps=times.max_steps,
        manifold=problem.manifold(),
        noise=times.noise,
        seed=problem.config.seed,
        backend=problem.config.backend.kind,
        observers=(fp.Observer(recorder.frame, time=output.every),),
        progress=step,
    )


def _kept(recorder: Recorder) -> str:
    if recorder.path is None:
        return "Nothing was written."
    return f"{recorder.frames} frames up to t = {recorder.time:.6g} are kept in {recorder.path}."


def _ended(recorder: Recorder, solution: Any) -> Outcome:
    status = solution.status.name
    if status == "INTERRUPTED":
        recorder.finish(directory.STOPPED, solution.message)
        return Outcome(130, f"{solution.message} {_kept(recorder)}", recorder.path)
    if status in _RESULTS:
        recorder.finish(directory.FINISHED, solution.message)
        return Outcome(DONE, solution.message, recorder.path)
    message = _KEYS.get(status, "") + solution.message
    recorder.finish(directory.FAILED, message)
    return Outcome(_CODES.get(status, NOT_FINITE), f"{message} {_kept(recorder)}", recorder.path)


def _stopped(recorder: Recorder, stop: Stopped) -> Outcome:
    try:
        recorder.finish(directory.STOPPED, str(stop))
    except OutputError as error:
        return Outcome(UNWRITABLE, f"{error}. {_kept(recorder)}", recorder.path)
    return Outcome(stop.code, f"{stop}. {_kept(recorder)}", recorder.path)
