"""On the first large run of a machine, a second process compiles beside the first.

Numba compiles on one core at a time. Large runs need grids first, then direct sums, then trees: the second process
makes the last two meanwhile, and leaves them in the cache, where the first finds them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np

from .._jit import cache_folder
from ..laws import ExpLaw
from . import auto
from .direct import Direct


def start() -> None:
    """Starts that process, if it has a core, nothing has been compiled yet, and what is compiled can be kept."""
    folder = cache_folder()
    if numba.get_num_threads() < 2 or folder is None or any(folder.glob("*.nbc")):
        return
    # This package, whatever lies in the working directory.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment, quiet = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, subprocess.DEVNULL
    command = [sys.executable, "-P", "-m", __name__]
    subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)


def compile_ahead() -> None:
    """Compiles direct sums and trees of exponential weights, in double precision."""

    def report(_: str) -> None:
        pass

    Direct.warmup(report, [np.float64], [ExpLaw()])
    auto.warmup(report, [np.float64], ["trees"])


if __name__ == "__main__":
    compile_ahead()
