"""The time before the first number, or picture: import, compilation, and the compiled code of an earlier process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fastpde as fp

from . import common

_FIRST = """
import json, sys
import numpy, fastpde
matrices = numpy.eye(2), -numpy.eye(2), numpy.eye(2)
x = numpy.random.default_rng(0).standard_normal((64, 2))
json.dump(fastpde.Softmax(*matrices).velocity(x).tolist(), sys.stdout)
"""
# The configuration of the README, with fewer tokens.
_CONFIG = """
seed = 0
[tokens]
kind = "gaussian"
n = 1000
d = 2
[attention]
kind = "l2"
K = { scale = -1.0 }
[time]
t_end = 1.0
method = "rk4"
step = 0.05
[output]
every = 0.1
"""
_END = b"IEND\xaeB`\x82"  # of a complete PNG file


class Import:
    """Seconds of `import fastpde` in a new interpreter."""

    no_error = "An import has no result."
    repeat = 5
    number = 1

    def timeraw_import(self) -> str:
        return "import fastpde"


class FirstVelocity:
    """Seconds from the start of a Python process to its end, with one softmax velocity in it.

    `track_cold` compiles everything it needs; `track_cached` is a second process, which finds it on the disk.
    """

    timeout = 300

    def track_cold(self) -> float:
        with tempfile.TemporaryDirectory() as cache:
            return _first(cache)[0]

    def track_cached(self) -> float:
        _first(None)
        return min(_first(None)[0] for _ in range(3))

    def track_error(self) -> float:
        x, eye = np.random.default_rng(0).standard_normal((64, 2)), np.eye(2)
        return common.relative_error(
            _first(None)[1], common.Head("softmax", eye, -eye, eye, 1.0).naive(x, np.arange(64))
        )

    def error_bound(self) -> float:
        return common.ERROR_BOUND["float64"]

    track_cold.unit = track_cached.unit = "seconds"
    track_error.unit = common.ERROR_UNIT


class FirstPicture:
    """Seconds from the start of `fastpde run` to its first complete picture, of a run of 1000 tokens.

    `track_cold` compiles everything it needs; `track_cached` is a second process, which finds it on the disk.
    """

    timeout = 600

    def track_cold(self) -> float:
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
            return _picture(Path(folder), cache)

    def track_cached(self) -> float:
        seconds = []
        for _ in range(4):
            with tempfile.TemporaryDirectory() as folder:
                seconds.append(_picture(Path(folder), None))
        return min(seconds[1:])

    def track_error(self) -> float:
        """Return the error of the last frame against rk4 in plain NumPy."""
        with tempfile.TemporaryDirectory() as folder:
            _picture(Path(folder), None)
            run = fp.open_run(Path(folder) / "a.run")
            x, got, eye = run.x[0], run.x[-1], np.eye(2)
        head = common.Head("l2", eye, -eye, eye, 1.0)
        for _ in range(20):
            x = common.rk4_step(head.field, x, 0.05)
        return common.relative_error(got, x)

    def error_bound(self) -> float:
        """Return the bound: of frames in single precision, if the file holds such ones."""
        return 1e-6

    track_cold.unit = track_cached.unit = "seconds"
    track_error.unit = common.ERROR_UNIT


def _environment(cache: str | None) -> dict[str, str]:
    """Return the environment of a process whose compiled code is kept in a folder; None: where it is usually kept."""
    return {**os.environ, **({} if cache is None else {"FASTPDE_CACHE_DIR": cache})}


def _first(cache: str | None) -> tuple[float, common.Array]:
    """Return the wall time of a process, and its velocity."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _FIRST], env=_environment(cache), check=True, capture_output=True)
    return time.perf_counter() - start, np.array(json.loads(done.stdout))


def _picture(folder: Path, cache: str | None) -> float:
    """Run the configuration in a process and return the seconds until a picture is complete."""
    (folder / "a.toml").write_text(_CONFIG)
    out = folder / "a.run"
    command = [sys.executable, "-m", "fastpde", "run", str(folder / "a.toml"), "--out", str(out), "--quiet"]
    start, found = time.perf_counter(), None
    with subprocess.Popen(command, env=_environment(cache), stdout=subprocess.DEVNULL) as process:
        while found is None and process.poll() is None:
            time.sleep(0.005)
            if any(path.read_bytes().endswith(_END) for path in out.glob("*.png")):
                found = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"fastpde run ended with exit code {process.returncode}")
    return time.perf_counter() - start if found is None else found
