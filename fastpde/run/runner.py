"""One run, from a checked problem to a finished directory and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from fastpde import compiling, sums
from fastpde.config import Problem
from fastpde.errors import InputError
from fastpde.meanfield import token_axis
from fastpde.parallel.spread import Cut
from fastpde.run import checkpoint, directory, progress, remedies, system_blocks
from fastpde.run.checkpoint import Checkpoint
from fastpde.run.directory import OutputError
from fastpde.run.frames import Frames
from fastpde.run.lock import RunLock
from fastpde.run.observables import chosen
from fastpde.run.ranks import RunCommunicator, SingleProcess
from fastpde.run.signals import Late, Stopped, StopSignals, tell
from fastpde.run.system_blocks import Systems
from fastpde.run.writer import NullWriter, Writer

_LATE = 7.0  # seconds after a signal in which ranks must have come to a stop together
DONE, BAD, NOT_FINITE, UNWRITABLE, STOPPED = 0, 2, 3, 5, 75
# Outcomes that are results, theory's blow-up among them, have no code here; the others end a run before its time.
# NOT_FINITE stands for a scaling that did not converge, too.
_CODES = {"NOT_FINITE": NOT_FINITE, "STEP_TOO_SMALL": NOT_FINITE, "NOT_CONVERGED": NOT_FINITE, "MAX_STEPS": BAD}
AnyWriter = Writer | NullWriter


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: exit code, message, and the path of its directory, if it has one.

    alone: only this rank has ended so, and the others do not know. late: the number of the signal that came after the
    last step, 0 if none did; signal: that of the one that stopped the run, 0 for the walltime.
    """

    code: int
    message: str
    path: Path | None
    alone: bool = False
    late: int = 0
    signal: int = 0


def run(
    problem: Problem,
    target: Path,
    *,
    quiet: bool = False,
    deadline: float | None = None,
    say: Callable[[str], object] | None = None,
    communicator: RunCommunicator | None = None,
) -> Outcome:
    """Run a problem into the directory `target`, or go on with the run in it; a finished run is left as it is.

    `deadline` is the time on `time.monotonic` by which the process must have ended; `say` is called with a message that
    says what a signal will do; `communicator` has the ranks, if there are several. Raises InputError for a directory
    that cannot be used and for files that hold unusable numbers, before anything is made.
    """
    communicator = communicator or SingleProcess()
    if (ended := communicator.told(lambda: _ended(problem, target))) is not None:
        return Outcome(ended[0], ended[1], target)
    late = Late(_LATE, lambda: _late(communicator)) if communicator.size > 1 else nullcontext()
    say = say or (tell if communicator.leads else _nothing)
    stops = StopSignals(say, "the sum at work", deadline, communicator.largest)
    # BLAS is asked for moments and small matrices only; its threads would wait busily for more on the kernels' cores.
    shows = compiling.shown(sys.stderr, quiet=quiet or not communicator.leads)
    with threadpool_limits(1, "blas"), stops as signals, late as bell, shows as compiled:
        try:
            supervision = Supervision(communicator, signals, bell, compiled)
            return replace(_run(problem, target, quiet, supervision), late=signals.number)
        except OutputError as error:  # what is there cannot be gone on with, and was left as it is
            return Outcome(UNWRITABLE, str(error), target)
        except Stopped as stop:  # a second signal, outside of the run itself
            there = target if directory.is_there(target) else None
            return Outcome(STOPPED, f"{stop}. The same command goes on.", there, stop.at_once, signal=stop.number)


@dataclass(frozen=True)
class Supervision:
    """The ranks of a run, and what may stop them. `late`, None for one process, is told that they have stopped;
    `compiled` returns the seconds for which this process has compiled kernels.
    """

    communicator: RunCommunicator
    signals: StopSignals
    late: Late | None
    compiled: Callable[[], float]

    def in_sums(self, one: bool) -> Callable[[], object]:
        """Return the function that sums call between slices; `one` says whether the run has one system or several."""
        if self.communicator.size == 1:
            return self.signals.check
        # One system on ranks asks before each sum, all ranks at a time.
        return _nothing if one else self.signals.check_alone

    def stopped(self) -> None:
        """Note that all ranks have come to a stop."""
        if self.late is not None:
            self.late.come()


@dataclass(frozen=True)
class Start:
    """What a run begins with on this rank; `tokens` is a list of one array, which is freed when the run has begun."""

    tokens: list[Any]
    attention: Any
    positions: Any  # (n,) of the tokens, None: their order


def _late(communicator: RunCommunicator) -> None:
    tell(
        f"fastpde: rank {communicator.rank}: the ranks have not come to a stop in {_LATE:g} s, a sum takes longer: all "
        "end now. The same command goes on from the last checkpoint.\n"
    )
    communicator.abort(STOPPED)


def _ended(problem: Problem, target: Path) -> list[Any] | None:
    """Return exit code and message of a run that has ended and would end so again, else None. Raises InputError."""
    if directory.is_finished(target, problem.config):
        return [DONE, "already finished"]
    ended = _ended_badly(target)
    return None if ended is None else [ended.code, ended.message]


def _ended_badly(target: Path) -> Outcome | None:
    """Return the outcome of an earlier run that has failed and would fail again; None otherwise."""
    status = directory.status_of(target) if directory.is_there(target) else {}
    if status.get("state") != directory.FAILED or not isinstance(code := status.get("code"), int):
        return None
    return Outcome(code, f"{status.get('message')} It ended so before; remove {target} to run it again.", target)


def _run(problem: Problem, target: Path, quiet: bool, supervision: Supervision) -> Outcome:
    communicator, one = supervision.communicator, problem.systems == 1
    if problem.is_large and communicator.leads:
        sums.compile_ahead()
    problem = _calibrated(problem, target, communicator)
    rows = communicator.rows(problem.n) if one else None
    begin = communicator.together(lambda: Start([problem.tokens(rows)], problem.attention(), problem.positions(rows)))
    writer = _writer(problem, begin, target, supervision)
    found = _continued(writer, target, communicator)
    if found is not None and found.facts["end"] is not None:
        writer.finish(directory.FINISHED, found.facts["end"]["message"])
        return Outcome(DONE, found.facts["end"]["message"], target)
    start, _, end = writer.contents.span()
    quiet, name = quiet or not communicator.leads, progress.TIME if one else progress.SYSTEMS
    shown = progress.choose(start, end, sys.stderr, quiet=quiet, name=name)
    with sums.checking(supervision.in_sums(one)):
        try:
            if isinstance(writer.contents, Frames):
                return _solve_one(writer, begin, shown, supervision, found)
            return _solve_systems(writer, begin, shown, supervision)
        except Stopped as stop:
            supervision.stopped()
            return _stopped(writer, stop)
        except OutputError as error:
            return _unwritable(writer, error)
        except BaseException as error:
            writer.abandon(f"{type(error).__name__}: {error}")
            raise
        finally:
            shown.close()


def _calibrated(problem: Problem, target: Path, communicator: RunCommunicator) -> Problem:
    """Return the problem with the costs by which its sums are chosen, the same on all ranks."""

    def costs() -> dict[str, float] | None:
        recorded = directory.config_of(target) if directory.is_there(target) else None
        found = problem.calibrated(recorded).config.backend.costs
        return None if found is None else found.table()

    return problem.with_costs(communicator.told(costs))


def _continued(writer: AnyWriter, target: Path, communicator: RunCommunicator) -> Checkpoint | None:
    """Let the writer go on with a directory that is there; return its checkpoint, with the tokens of this rank.

    Raises InputError if another process writes there, if no checkpoint is whole, or if files were changed.
    """
    part = _part(writer.problem, communicator)
    found: list[Checkpoint | None] = []

    def lead() -> int | None:
        found.append(_taken(writer, target, part))
        return None if found[0] is None else found[0].number

    number = communicator.told(lead)
    if communicator.leads or number is None:
        return found[0] if found else None
    mine = checkpoint.read(target / checkpoint.NAMES[number % 2], part, checked=True)
    writer.go_on(target, None, mine)
    return mine


def _part(problem: Problem, communicator: RunCommunicator) -> checkpoint.Part:
    """Return the function that maps the name of an array of a checkpoint to the part that belongs to this rank."""
    if communicator.size == 1 or problem.systems > 1:
        return checkpoint.whole
    rows = communicator.rows(problem.n)

    def part(name: str) -> Cut | None:
        axis = token_axis(name)
        return None if axis is None else Cut(axis, rows)

    return part


def _taken(writer: AnyWriter, target: Path, part: checkpoint.Part) -> Checkpoint | None:
    """Lock the directory and let the writer go on from its newest whole checkpoint, which is returned; None if there
    is no directory.
    """
    if not directory.is_there(target):
        return None
    lock = RunLock(target)
    try:
        directory.refuse_links(target)
        found, wrong = checkpoint.newest(target, part)
        if found is None:
            why = f" ({'; '.join(wrong)})" if wrong else ""
            came = f"{target}, an unfinished run without a checkpoint{why}"
            raise InputError("--out", came, "a new directory, or a run with a checkpoint", directory.REMEDY)
        writer.go_on(target, lock, found)
        for text in wrong:
            writer.log(f"left aside: {text}")
    except BaseException:
        lock.release()
        raise
    return found


def _nothing(*_: Any) -> None:
    """Do nothing."""


def _writer(problem: Problem, begin: Start, target: Path, supervision: Supervision) -> AnyWriter:
    """Return the writer of this rank, with the contents of a run of one system or of several."""
    communicator, backend = supervision.communicator, problem.backend()
    if problem.systems == 1:
        backend = communicator.backend(backend, _nothing)
    observables = chosen(problem, begin.attention, backend, begin.positions)
    contents = (Systems if problem.systems > 1 else Frames)(problem, observables, communicator)
    kind = Writer if communicator.leads else NullWriter
    contents.writer = writer = kind(problem, target, contents, supervision.compiled)
    return writer


def arguments(problem: Problem) -> dict[str, Any]:
    """Return the keyword arguments of `fastpde.solve` that the configuration gives, for one system or several, but for
    positions, of which a rank has a part.
    """
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


def cadence(problem: Problem) -> dict[str, Any]:
    """Return the argument of `fastpde.Observer` that makes the frames of a run."""
    output = problem.config.output
    return {"time": output.every} if output.times is None else {"times": output.times}


def _begin(writer: AnyWriter, what: str) -> dict[str, Any]:
    problem = writer.problem
    times = problem.config.time
    writer.log(f"{what} of dimension {problem.d}, t from {times.t_start:g} to {times.t_end:g}")
    return arguments(problem)


def _solve_one(
    writer: AnyWriter,
    begin: Start,
    shown: progress.Progress,
    supervision: Supervision,
    found: Checkpoint | None,
) -> Outcome:
    from fastpde.integrate import Integrator, Observer, State
    from fastpde.meanfield import prepare

    communicator, signals, frames = supervision.communicator, supervision.signals, writer.contents
    assert isinstance(frames, Frames), "not those of several"

    def frame(t: float, x: Any) -> None:
        with signals.held():
            frames.frame(t, x)

    asked = _begin(writer, f"{writer.problem.n} tokens")
    asked["backend"] = communicator.backend(asked["backend"], signals.check)
    observer = Observer(frame, **cadence(writer.problem))
    asked |= {"positions": begin.positions, "observers": (observer,)}
    problem = prepare(begin.attention, begin.tokens.pop(), **asked)
    state = None if found is None else State.of(found.facts["state"], found.arrays)
    frames.begin(problem, state, {} if found is None else found.arrays)
    frames.run = run = Integrator(problem, state, undo=True)
    while run.step() is None:
        with signals.held():
            frames.step(run.state.t, run.stats())
        shown.update(run.state.t, run.state.step)
        signals.check()  # not after the last step: what has ended is not to go on
        writer.beat()
        if communicator.largest(writer.due()):
            writer.save()
        signals.saving = writer.saving
    with signals.held():
        frames.step(run.state.t, run.stats())
    end = run.ending()
    frames.ended(end.status.value, end.t_final)
    return _outcome(writer, [end.status], remedies.told(writer.problem, end.status.name, end.message, end.cause))


def _solve_systems(writer: AnyWriter, begin: Start, shown: progress.Progress, supervision: Supervision) -> Outcome:
    asked, systems = _begin(writer, f"{writer.problem.systems} systems of {writer.problem.n} tokens"), writer.contents
    assert isinstance(systems, Systems), "not those of one"

    asked["positions"] = begin.positions

    def report(done: int) -> None:
        shown.update(done, writer.steps)

    system_blocks.solve(
        systems, begin.attention, begin.tokens[0], asked, report, supervision.signals, supervision.communicator
    )
    if not supervision.communicator.leads:
        return Outcome(DONE, "", writer.path)
    ends = systems.counts.most_common()
    counts = ", ".join(f"{count} {status.value}" for status, count in ends)
    said = [remedies.told(writer.problem, end.name, end.message) for end, _ in ends if not end.success]
    return _outcome(writer, [end for end, _ in ends], " ".join([f"{systems.done} systems: {counts}.", *said]))


def _outcome(writer: AnyWriter, ends: list[Any], message: str) -> Outcome:
    """Finish the record of a run whose systems ended with the statuses `ends`; return its outcome."""
    codes = [_CODES.get(end.name, NOT_FINITE) for end in ends if not end.success]
    message = " ".join(filter(None, [message, writer.contents.remarks()]))
    if not codes:
        writer.save({"message": message})
        writer.finish(directory.FINISHED, message)
        return Outcome(DONE, message, writer.path)
    writer.finish(directory.FAILED, message, max(codes))
    return Outcome(max(codes), f"{message} {writer.kept()}", writer.path)


def _unwritable(writer: AnyWriter, error: OutputError) -> Outcome:
    """Return the outcome of a run whose output could not be written; what has been written is kept."""
    writer.abandon(str(error))
    gone = writer.path is not None and not directory.is_there(writer.path)
    return Outcome(UNWRITABLE, str(error) if gone else f"{error}. {writer.kept()}", writer.path, alone=True)


def _stopped(writer: AnyWriter, stop: Stopped) -> Outcome:
    """Write a checkpoint if the state is whole, close everything, and return the outcome: the same command goes on."""
    try:
        if not stop.at_once:
            writer.save()
        writer.finish(directory.STOPPED, str(stop))
    except Stopped:
        writer.abandon(str(stop))
    except OutputError as error:
        return _unwritable(writer, error)
    again = "" if writer.path is None else " The same command goes on."
    return Outcome(STOPPED, f"{stop}. {writer.kept()}{again}", writer.path, stop.at_once, signal=stop.number)
