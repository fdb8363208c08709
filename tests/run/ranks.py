"""Run on every rank of `mpiexec`: runs of configurations in a folder, as asked; the first rank prints their exit codes.

mpiexec -n P python -m mpi4py tests/run/ranks.py FOLDER runs NAME... | lasting NAME | raising NAME | command ARGUMENT...

runs: NAME.toml to NAME.ranks; where the name begins with "stopped" a signal to the last rank alone stops it.
lasting, raising: by the command line, so slow that it lasts; the last rank fails in its third step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from fastpde import cli, config
from fastpde.run import ranks, runner
from fastpde.run.frames import Frames

STEP = Frames.step


def after(count: int, act) -> None:
    """Has act(recorder) called at the end of every step from number `count` on."""

    def step(self, t, stats):
        STEP(self, t, stats)
        if self.writer.steps >= count:
            act(self)

    Frames.step = step


def kill_last(one) -> None:
    if one._communicator.rank == one._communicator.size - 1:
        os.kill(os.getpid(), signal.SIGTERM)


def fail_last(one) -> None:
    if one._communicator.rank == one._communicator.size - 1:
        raise RuntimeError("this rank has failed")


def runs(folder: Path, names: list[str]) -> int:
    communicator, codes = ranks.communicator(), {}
    for name in names:
        after(3 if name.startswith("stopped") else 10**9, kill_last)
        problem = config.load(folder / f"{name}.toml", code=True)
        outcome = runner.run(problem, folder / f"{name}.ranks", quiet=True, communicator=communicator)
        codes[name] = outcome.code
    if communicator.leads:
        print(json.dumps(codes), flush=True)
    return 0


if __name__ == "__main__":
    folder, task, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if task == "runs":
        sys.exit(runs(folder, names))
    if task == "command":
        sys.exit(cli.main(names))
    (folder / f"pid.{os.getpid()}").touch()
    after(0 if task == "lasting" else 3, (lambda one: time.sleep(0.05)) if task == "lasting" else fail_last)
    sys.exit(cli.main(["run", str(folder / f"{names[0]}.toml"), "--out", str(folder / "out"), "--quiet"]))
