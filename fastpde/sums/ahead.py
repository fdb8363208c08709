"""A second process that compiles beside the first one, on the first large run of a machine.

Numba compiles on one core at a time. Large runs need grids first, then direct sums, then trees: meanwhile the second
process compiles the last kernel of grids and the trees, and leaves them in the cache, where the first one finds them.
It compiles direct sums last: the first process reaches them sooner, unless it has much else to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from .._jit import cache_folder
from ..kernels import chebyshev, expansion
from ..simd import pool
from ..weights import Exp
from . import ways
from .box_tree import BoxTree
from .direct import Direct

_started: list[subprocess.Popen[bytes]] = []  # kept: Python warns of a running process that nothing refers to


def start() -> None:
    """Start that process if there is a core for it, nothing has been compiled yet, and compiled kernels can be kept."""
    folder = cache_folder()
    if pool.threads() < 2 or folder is None or any(folder.glob("*.nbc")):
        return
    # The process imports this package, whatever lies in the working directory.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment, quiet = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, subprocess.DEVNULL
    command = [sys.executable, "-P", "-m", __name__]
    _started.append(subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet))


def compile_ahead() -> None:
    """Compile the last kernel of grids, trees, and direct sums of exponential weights, in double precision."""
    expand_nothing()

    def report(_: str) -> None:
        pass

    ways.warmup(report, [np.float64], [BoxTree()])
    Direct.warmup(report, [np.float64], [Exp()])


def expand_nothing() -> None:
    """Call the last kernel of a grid without any point, so that it is compiled for the types that sums have."""
    some, plane = np.zeros(2), np.zeros((2, 2))
    expanded = expansion.Expansion(
        base=some,
        slopes=plane,
        columns=plane,
        bent=np.empty((0, 0, 0)),
        levels=plane,
        tilt=some,
        top=0.0,
        offset=some,
        targets=np.empty(0, np.int64),
        inverse=some,
        divided=True,
        out=plane,
        log_total=some,
    )
    side = chebyshev.sides(np.array([2, 2]), np.array([1, 1]))
    workspace = chebyshev.allocate(1, side, lambda _, shape, dtype: np.zeros(shape, dtype), 1, 2)
    pieces, order = np.empty((0, 4), np.int64), np.empty(0, np.int32)
    expansion.expand(side, pieces, 0, plane, order, plane, -1, True, expanded, workspace)


if __name__ == "__main__":
    compile_ahead()
