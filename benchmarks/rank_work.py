"""What `ranks` runs on every rank: the first one prints seconds, error and bytes sent as JSON.

mpiexec -n P python -m mpi4py benchmarks/rank_work.py direct | fast
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

import fastpde as fp

SIZES = {"direct": 10_000, "fast": 500_000}
_ROUNDS = 5


def main(summation: str) -> None:
    """Time the velocities of this rank's tokens, together with the other ranks."""
    from mpi4py import MPI

    sys.path.append(str(Path(__file__).parent))  # a package `benchmarks` might be that of another version
    common = importlib.import_module("common")
    fp.sums.set_threads(1)
    case = common.case("softmax", SIZES[summation], 2, "float64")
    attention, backend = case.attention(), fp.Mpi(summation)
    rows = backend.rows(len(case.x))
    mine = case.x[rows]
    got, before = attention.velocity(mine, backend=backend), backend.stats()["bytes_sent"]
    best = np.inf
    for _ in range(_ROUNDS):
        MPI.COMM_WORLD.Barrier()
        began = time.perf_counter()
        got = attention.velocity(mine, backend=backend)
        best = min(best, MPI.COMM_WORLD.allreduce(time.perf_counter() - began, MPI.MAX))
    sent = MPI.COMM_WORLD.allreduce((backend.stats()["bytes_sent"] - before) / _ROUNDS)
    if backend.rank == 0:
        some = common.sample(len(mine), 16)
        error = common.relative_error(got[some], case.heads[0].naive(case.x, some, wide=np.float64))
        sys.stdout.write(json.dumps({"seconds": best, "error": error, "bytes": sent}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
