"""Tokens on several processes by MPI; without mpi4py and an mpiexec that fits it, its benchmarks are skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fastpde as fp

from . import common

_ONE = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Velocity:
    """Seconds for the velocities of tokens in the plane on ranks of one thread each, the best of some, warm.

    `direct` sums exactly over 10,000 tokens, `fast` sums in O(n) over 500,000.
    """

    params = (("direct", "fast"), (1, 2))
    param_names = ("summation", "ranks")
    timeout = 300

    def setup(self, *_: object) -> None:
        if importlib.util.find_spec("mpi4py") is None or _mpiexec() is None:
            raise NotImplementedError("skipped: no mpi4py or no mpiexec")
        hello = "from mpi4py import MPI; print(MPI.COMM_WORLD.Get_size())"
        done = _run(2, "-c", hello)
        if done.stdout.count("2") != 2:
            raise NotImplementedError(f"skipped: mpiexec does not start ranks of mpi4py: {done.stderr.strip()[-200:]}")

    def track_seconds(self, summation: str, ranks: int) -> float:
        return self._found(summation, ranks)["seconds"]

    def track_error(self, summation: str, ranks: int) -> float:
        """Return the error at some rows of the first rank."""
        return self._found(summation, ranks)["error"]

    def track_bytes_sent(self, summation: str) -> float:
        """Return what two ranks send for one velocity."""
        return self._found(summation, 2)["bytes"]

    def track_speedup(self, summation: str) -> float:
        """Return how much faster two ranks are than one."""
        return self._found(summation, 1)["seconds"] / self._found(summation, 2)["seconds"]

    def _found(self, summation: str, ranks: int) -> dict[str, Any]:
        done = _run(ranks, "-m", "mpi4py", str(Path(__file__).with_name("rank_work.py")), summation)
        if done.returncode:
            raise RuntimeError(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def error_bound(self, summation: str, _: int) -> float:
        return common.ERROR_BOUND["float64"] if summation == "direct" else 1e-7

    track_seconds.unit = "seconds"
    track_error.unit = common.ERROR_UNIT
    track_bytes_sent.unit = "bytes"
    track_speedup.unit = "times faster on 2 ranks"
    track_speedup.params = track_bytes_sent.params = params[:1]
    track_speedup.param_names = track_bytes_sent.param_names = param_names[:1]


def _mpiexec() -> str | None:
    """Return the mpiexec beside the interpreter, where mpich's wheel puts it, or that of PATH."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def _run(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on ranks of one thread, which import the same fastpde as this process."""
    paths = os.pathsep.join([str(Path(fp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [str(_mpiexec()), "-n", str(ranks), sys.executable, *arguments]
    return subprocess.run(
        command, env={**os.environ, **_ONE, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=240
    )
