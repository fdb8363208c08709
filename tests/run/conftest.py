"""A small configuration and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastpde

SMALL = """
seed = 3
[tokens]
kind = "gaussian"
n = 30
d = 2
[attention]
kind = "softmax"
V = { scale = -1.0 }
[time]
t_end = 1.0
method = "rk4"
step = 0.05
[output]
every = 0.25
"""


def start(arguments: list[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    """Start `python -m fastpde` in a folder, with the package that these tests import and one thread."""
    root = str(Path(fastpde.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "fastpde", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, **(pipes | options))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return the path of a small configuration."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def launch():
    """Return `start`; what still runs at the end of a test is killed."""
    started: list[subprocess.Popen[str]] = []

    def one(arguments: list[str], folder: Path, **options: object) -> subprocess.Popen[str]:
        started.append(start(arguments, folder, **options))
        return started[-1]

    yield one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
