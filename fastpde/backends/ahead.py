"""On the first large run of a machine, a second process compiles beside the first.

Numba compiles on one core at a time. Large runs need grids first, then direct sums, then trees: the second process
makes the last two meanwhile, and leaves them in the cache, where the first finds them.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from .._jit import cache_folder
from ..laws import ExpLaw
from . import auto
from .direct import Direct


def start() -> None:
    """Starts that process, if nothing has been compiled yet and what is compiled can be kept."""
    folder = cache_folder()
    if folder is None or any(folder.glob("*.nbc")):
        return
    quiet = subprocess.DEVNULL
    subprocess.Popen([sys.executable, "-m", __name__], stdin=quiet, stdout=quiet, stderr=quiet)


def compile_ahead() -> None:
    """Compiles direct sums and trees of exponential weights, in double precision."""

    def report(_: str) -> None:
        pass

    Direct.warmup(report, [np.float64], [ExpLaw()])
    auto.warmup(report, [np.float64], ["trees"])


if __name__ == "__main__":
    compile_ahead()
