"""The time before the first number: import, compilation, and the compiled code of an earlier process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

_FIRST = "import numpy, fastpde; e = numpy.eye(2); fastpde.Softmax(e, e, e).velocity(numpy.ones((64, 2)))"


class Import:
    """Seconds of `import fastpde` in a new interpreter."""

    repeat = 5
    number = 1

    def timeraw_import(self) -> str:
        return "import fastpde"


class FirstVelocity:
    """Seconds from the start of a Python process to its end, with one softmax velocity in it."""

    timeout = 300

    def track_cold(self) -> float:
        with tempfile.TemporaryDirectory() as cache:
            return _process(cache)

    def track_cached(self) -> float:
        with tempfile.TemporaryDirectory() as cache:
            _process(cache)
            return min(_process(cache) for _ in range(3))

    track_cold.unit = track_cached.unit = "seconds"


def _process(cache: str) -> float:
    """Return the wall time of a process whose compiled code is kept in the folder `cache`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", _FIRST], env={**os.environ, "FASTPDE_CACHE_DIR": cache}, check=True)
    return time.perf_counter() - start
