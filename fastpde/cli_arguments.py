"""What the command line says of its commands, and the arguments of those about many runs and batch jobs."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from fastpde.errors import closest
from fastpde.run import launch

BAD = 2  # the exit code of bad arguments
CODE = 'let attention.kind = "module:Class" and output.observables = ["module:name"] run modules of your own'
DATA = "the folder of the files that PLAN's configuration reads; default: that of the configuration"
THREADS = "threads to use; default and most: what affinity, cgroup and SLURM allow"
STUDY = "Run a study into a directory: rows.csv, the parameters, a picture. A finished study is not run again."
SWEEP = "Run all cells of a plan that are not done yet: a configuration with keys that vary. The same command goes on."
RUN = (
    "Run a configuration into a directory. A finished run of the same configuration is not run again. On the ranks of "
    "MPI: mpiexec -n P python -m mpi4py -m fastpde run CONFIG; any number of ranks goes on with what others have begun."
)
REQUEUE = (
    "Run a command in a batch job of SLURM, and put the job into the queue again if the command stops before its end "
    "(exit code 75). A signal of sbatch --signal=B:USR1@SECONDS is passed on to it. A cancelled job stays cancelled. "
    "One of fastpde that gets no further in two attempts in a row is not put into the queue again (exit code 2)."
)

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)$")  # of argparse


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, like every other error, and what is meant if that is close.

    The parser of a command refuses what it does not know, so that its own options are suggested.
    """

    def parse_known_args(self, *arguments: Any, **named: Any) -> Any:
        found, unknown = super().parse_known_args(*arguments, **named)
        if unknown:
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            close = closest(options[0], self._option_string_actions) if options else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{close and f'. {close}'}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if found := _CHOICE.search(message):
            close = closest(found[1], found[2].replace("'", "").split(", "))
            message = f"{message}. {close}" if close else message
        said = "" if launch.launch().rank else f"fastpde: error: {message} (see: {self.prog} --help)\n"
        self.exit(BAD, said)


def add_sweep(sweep: argparse.ArgumentParser) -> None:
    """Add the arguments of `fastpde sweep`."""
    sweep.add_argument("plan", type=Path, metavar="PLAN", help="a TOML file, or the directory of a sweep to go on with")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="the directory; default: PLAN's name + .sweep")
    sweep.add_argument("--data", type=Path, metavar="DIR", help=DATA)
    sweep.add_argument("--local", metavar="K", help="cells at a time, a process each; default: as the cores allow")
    sweep.add_argument("--threads", metavar="N", help="threads of each; default: 1 for small runs")
    sweep.add_argument("--max-walltime", metavar="TIME", help="stop before, as in run; of each task with --slurm")
    sweep.add_argument("--quiet", action="store_true", help="show no progress")
    sweep.add_argument("--slurm", action="store_true", help="write the script of a job array, and run nothing")
    sweep.add_argument("--tasks", metavar="T", help="tasks of the job array; default: one per cell, 1000 at most")
    sweep.add_argument("--task", metavar="I", help="run the share of one task (in the script)")
    sweep.add_argument("--plan-digest", metavar="HEX", help="of the plan that the script is for (in the script)")


def add_requeue(requeue: argparse.ArgumentParser) -> None:
    """Add the arguments of `fastpde requeue`."""
    requeue.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments")
