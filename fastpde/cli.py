"""The `fastpde` command: arguments in, exit code out. Heavy packages are imported after arguments have been checked.

Exit codes: 0 done, 2 bad configuration or arguments, or a job whose time suffices for nothing (requeue), 3 the state
stopped being finite or a scaling did not converge, 5 output could not be written, 75 stopped early (a run with a
checkpoint, or a study with its finished cells, which the same command continues). If a signal stops anything else, the
code is 128 + its number.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fastpde import cli_reading
from fastpde.cli_arguments import BAD, CODE, REQUEUE, RUN, STUDY, SWEEP, THREADS, Parser, add_requeue, add_sweep
from fastpde.cli_machine import set_threads, threads_of, whole
from fastpde.errors import InputError, InputTypeError
from fastpde.run import attempt, launch, machine
from fastpde.run.signals import AtOnce, Stopped

STOPPED = 75
_GOES_ON = "The same command goes on."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(prog="fastpde", description="Tokens of a Transformer as interacting particles.")
    top.add_argument("--version", action="version", version=f"fastpde {machine.version()}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    top.set_defaults(call=lambda _: _print(top.format_help().rstrip()))

    run = commands.add_parser("run", help="run a configuration, or the built-in example", description=RUN)
    run.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a TOML file; default: an example")
    run.add_argument("--out", type=Path, metavar="DIR", help="the run directory; default: CONFIG's name + .run")
    run.add_argument("--threads", metavar="N", help=THREADS)
    run.add_argument("--data", type=Path, metavar="DIR", help="the folder of the .npy files; default: CONFIG's")
    run.add_argument(
        "--max-walltime", metavar="TIME", help="stop before: 90s, 15m, 2h; default: the end of a SLURM job"
    )
    run.add_argument("--quiet", action="store_true", help="show no progress")
    run.set_defaults(call=_run)

    study = commands.add_parser("study", help="a numerical study: a table and its picture", description=STUDY)
    study.add_argument("name", choices=_STUDIES, metavar="NAME", help=" | ".join(_STUDIES))
    study.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="a TOML file; default: all defaults")
    study.add_argument(
        "--out", type=Path, metavar="DIR", help="the directory to make; default: CONFIG's name, or NAME, + .study"
    )
    study.add_argument("--threads", metavar="N", help=THREADS)
    study.add_argument("--quiet", action="store_true", help="show no progress")
    study.set_defaults(call=_study)

    sweep = commands.add_parser("sweep", help="run many configurations: a plan", description=SWEEP)
    add_sweep(sweep)
    sweep.set_defaults(call=_sweep)
    requeue = commands.add_parser("requeue", help="run a command in a SLURM job that goes on", description=REQUEUE)
    add_requeue(requeue)
    requeue.set_defaults(call=_requeue)

    estimate = commands.add_parser("estimate", help="time, memory and disk of a run or a sweep, before anything runs")
    about = "a TOML file of a run, or the plan of a sweep; default: an example"
    estimate.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help=about)
    estimate.add_argument("--data", type=Path, metavar="DIR", help="the folder of the .npy files; default: CONFIG's")
    estimate.add_argument("--threads", metavar="N", help=THREADS)
    estimate.set_defaults(call=_estimate)
    cli_reading.add(commands)
    cli_reading.add_plot(commands).set_defaults(call=_plot)
    cli_reading.add_report(commands).set_defaults(call=_report)
    cli_reading.add_export(commands).set_defaults(call=_export)

    warmup = commands.add_parser("warmup", help="compile every kernel once, so that later runs start at once")
    warmup.set_defaults(call=_warmup)
    doctor = commands.add_parser("doctor", help="say what this machine will do and why")
    doctor.set_defaults(call=_doctor)
    for name in ("run", "study", "sweep", "estimate", "verify", "report"):
        commands.choices[name].add_argument("--allow-code", action="store_true", help=CODE)
    return top


_STUDIES = (
    "mean-field", "stability", "rank-collapse", "phase-diagram", "stationary-points", "covariance-paths",
    "sequence-task", "blow-up", "energy-convexity",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; argument errors raise SystemExit with the code 2."""
    with AtOnce() as signals:
        call = None
        try:
            call = (options := parser().parse_args(arguments)).call
            return _left(int(call(options)))
        except BaseException as error:
            signals.leaving = True
            match signals.cause(error):
                case InputError() | InputTypeError():
                    return _left(_fail(BAD, str(error)))
                case Stopped() as stop:
                    goes_on = call in (_run, _sweep)
                    code = _left(_fail(STOPPED, f"{stop}. {_GOES_ON}") if goes_on else _fail(stop.code, str(stop)))
                    return code if arguments is not None else _gone(code)
                case BrokenPipeError():  # the reader of our output left, as `head` does
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    return 0
            raise


def _left(code: int) -> int:
    """Return `code`, after leaving the MPI job together with the other ranks if this is one of several."""
    if "mpi4py" in sys.modules:
        from fastpde.run import ranks

        ranks.joined().leave(code)
    return code


def _gone(code: int) -> NoReturn:
    """End the process, whose files are closed: where a signal came between, the ends of libraries may fail."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _fail(code: int, message: str, *, alone: bool = False) -> int:
    """Write what went wrong, or what has stopped the command, to stderr, in one line, and return `code`.

    Characters that are not printable are escaped: names and files may hold some that a terminal would obey. The first
    of several ranks writes it for all; with `alone` the failure is this rank's own, and it writes it itself.
    """
    from fastpde.run import ranks

    communicator = ranks.joined()
    if rank := communicator.rank or launch.launch().rank:
        if not alone and communicator.met():
            return code
        message = f"rank {rank}: {message}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    error = "" if code == STOPPED or code > 128 else "error: "  # what is asked to stop has not failed
    sys.stderr.write(f"fastpde: {error}{text}\n")
    return code


def _run(options: argparse.Namespace) -> int:
    attempt.note_begin()
    from fastpde.run import directory, ranks, walltime

    communicator = ranks.communicator()
    threads = threads_of(options.threads, communicator.here)
    limit = None if options.max_walltime is None else walltime.seconds(options.max_walltime)
    left = communicator.told(lambda: walltime.left(limit))  # one rank asks SLURM for all
    deadline = None if left is None else time.monotonic() + left
    problem, stem = communicator.together(lambda: _problem(options, communicator))
    target = options.out or Path(f"{stem}.run")
    if communicator.told(lambda: directory.is_finished(target, problem.config)):
        return _finished(target, "already finished")
    set_threads(threads)
    from fastpde.run import runner

    try:
        outcome = runner.run(problem, target, quiet=options.quiet, deadline=deadline, communicator=communicator)
    except (InputError, InputTypeError):  # answers, no errors of the program
        raise
    except Exception as error:
        if communicator.size > 1:
            error.add_note(f"on rank {communicator.rank} of {communicator.size}")
            traceback.print_exc()
            communicator.abort(1)
        raise
    if outcome.code:
        code = _fail(outcome.code, outcome.message, alone=outcome.alone)
        if outcome.alone:
            communicator.abort(code)
        if outcome.code in (runner.UNWRITABLE, runner.STOPPED):
            _leave(_left(code))
        return code
    return _finished(target, outcome.message, outcome.late)


def _problem(options: argparse.Namespace, communicator: Any) -> tuple[Any, str]:
    """Return the problem to be run, and the stem of its directory's name."""
    from fastpde import config
    from fastpde.config.memory_estimate import Ranks

    ranks = Ranks(communicator.size, communicator.here)
    if options.config is not None:
        return config.load(options.config, options.data, ranks, code=options.allow_code), options.config.stem
    if options.data is not None:
        raise InputError("--data", str(options.data), "a CONFIG that names files: the example has none")
    return config.example(ranks), "example"


def _sweep(options: argparse.Namespace) -> int:
    launch.refuse_many("sweep", 1)
    attempt.note_begin()
    from fastpde import config
    from fastpde.run import sweep, sweep_folder, sweep_slurm, walltime
    from fastpde.run.directory import OutputError

    asked = whole("--local", options.local), None if options.threads is None else threads_of(options.threads)
    tasks, task = whole("--tasks", options.tasks), whole("--task", options.task, 0)
    seconds = None if options.max_walltime is None else walltime.seconds(options.max_walltime)
    show: dict[str, Any] = {"quiet": options.quiet, "deadline": walltime.deadline(seconds)}
    if tasks is not None and task is None and not options.slurm:
        raise InputError("--tasks", str(tasks), "--slurm with it: processes of this machine are --local")
    there = sweep_folder.is_sweep(options.plan)
    if there and (options.out or options.data):
        name = "--out" if options.out else "--data"
        raise InputError(name, "the directory of a sweep as PLAN", "a PLAN.toml with it")
    try:
        if task is not None:
            folder = sweep_folder.load(options.plan, options.allow_code)
            cells = sweep_slurm.partition_of(folder, task, tasks or 1, options.plan_digest)
            return _swept(sweep.run(folder, cells, asked, **show))
        if there:
            folder, held = sweep_folder.again(options.plan, options.allow_code)
        else:
            asked_for = config.load_sweep(options.plan, options.data, code=options.allow_code)
            plan = sweep_folder.planned(asked_for)
            folder, held = sweep_folder.make(options.out or Path(f"{options.plan.stem}.sweep"), plan)
        try:
            if options.slurm:
                share = sweep.Share(asked[0] or 1, asked[1] or 1)
                sys.stdout.writelines(f"{line}\n" for line in sweep_slurm.write(folder, tasks, share, seconds))
                return 0
            return _swept(sweep.run(folder, range(len(folder.cells)), asked, held=held, **show))
        finally:
            held.release()
    except OutputError as error:
        return _fail(5, str(error))


def _swept(outcome: Any) -> int:
    *before, last = outcome.lines
    sys.stderr.writelines(f"fastpde: {' '.join(line.split())}\n" for line in before)
    return _fail(outcome.code, last) if outcome.code else _print(last)


def _requeue(options: argparse.Namespace) -> int:
    from fastpde.run import slurm_job

    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise InputError("COMMAND", "no command", "the command to run, as fastpde run CONFIG.toml")
    return slurm_job.run_in_job(words)


def _print(line: str) -> int:
    sys.stdout.write(f"{line}\n")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    from fastpde import config

    threads = threads_of(options.threads)
    from fastpde import compiling

    if options.config is not None and config.is_plan(options.config):
        from fastpde.run import sweep_estimate

        sweep = config.load_sweep(options.config, options.data, code=options.allow_code)
        with compiling.shown(sys.stderr):
            lines = sweep_estimate.estimated(sweep, None if options.threads is None else threads).lines()
    else:
        from fastpde.run import estimate

        path = options.config
        problem = config.example() if path is None else config.load(path, options.data, code=options.allow_code)
        set_threads(threads)
        with compiling.shown(sys.stderr):
            lines = estimate.estimate(problem).lines()
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _study(options: argparse.Namespace) -> int:
    launch.refuse_many("study", 1)
    attempt.note_begin()
    from fastpde import config
    from fastpde.run import study
    from fastpde.run.directory import OutputError

    threads = threads_of(options.threads)
    plan = config.load_study(options.name, options.config, code=options.allow_code)
    target = options.out or Path(f"{options.config.stem if options.config else options.name}.study")
    if study.is_finished(target, plan):
        return _say("already finished", target, target / f"{options.name}.png")
    try:
        set_threads(threads)
        message, picture = study.run(plan, target, quiet=options.quiet)
    except Stopped as stop:
        return _fail(STOPPED if plan.resumable else stop.code, f"{stop}; {study.left(plan, target)}")
    except OutputError as error:
        return _fail(5, str(error))
    return _say(message, target, picture)


def _say(message: str, target: Path, picture: Path) -> int:
    return _print(f"{message.rstrip('.')}: {target}\n{picture}")


def _leave(code: int) -> NoReturn:
    """Exit without interpreter shutdown.

    A shutdown takes time that a walltime may not leave, and in it HDF5 tries once more to flush what it could not
    write, and may abort there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _finished(target: Path, message: str, late: int = 0) -> int:
    """Print where the pictures are, and return the exit code; draw them if they do not exist.

    `late` is the number of a signal that came too late to stop the run, or 0; after one no pictures are drawn.
    """
    from fastpde.run import ranks

    communicator = ranks.joined()
    communicator.leave(0)  # the others are done
    if not communicator.leads:
        return 0
    from fastpde import plot

    first = plot.first_picture(target)
    if not plot.are_current(target):
        try:
            if late:
                raise Stopped(late)
            first = plot.plot_run(target)[0]
        except Stopped as stop:
            return _fail(STOPPED, f"{message} {stop} before all pictures were drawn: {target}. {_GOES_ON}")
        except OSError as error:
            return _fail(5, f"the pictures could not be written to {target}: {error.strerror or error}")
    return _say(message, target, first)


def _plot(options: argparse.Namespace) -> int:
    try:
        return _print("\n".join(map(str, cli_reading.plot(options))))
    except OSError as error:
        return _fail(5, f"the pictures could not be written to {options.directory}: {error.strerror or error}")


def _export(options: argparse.Namespace) -> int:
    from fastpde.run.directory import OutputError

    try:
        return _print("\n".join(cli_reading.export(options)))
    except OutputError as error:
        return _fail(5, str(error))


def _report(options: argparse.Namespace) -> int:
    from fastpde import report

    try:
        return _print(str(report.write(options.directory, options.allow_code, sys.stderr)))
    except OSError as error:
        return _fail(5, f"the report could not be written to {options.directory}: {error.strerror or error}")


def _warmup(_: argparse.Namespace) -> int:
    launch.refuse_many("warmup", 1)
    from fastpde import cli_machine

    return cli_machine.warmup()


def _doctor(_: argparse.Namespace) -> int:
    from fastpde import cli_machine

    return cli_machine.doctor()
