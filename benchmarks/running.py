"""Runs from configurations, with their files: what checkpoints cost."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import fastpde as fp
from fastpde import config
from fastpde.run import runner

from . import common

N, STEPS, STEP = 100_000, 20, 0.05
NEVER, ALWAYS = 1e9, 1e-9  # seconds between checkpoints; those at the begin and the end of a run are always written
_TEXT = """
seed = 0
[tokens]
kind = "gaussian"
n = {n}
d = 2
[attention]
kind = "linear"
V = {{ scale = -1.0 }}
[time]
t_end = {end}
method = "euler"
step = {step}
[output]
every = {end}
energy = false
checkpoint = {seconds}
"""


class Checkpoints:
    """Seconds for a run of 100,000 tokens in 20 Euler steps of linear attention into a new directory, no pictures.

    Its steps cost little: the difference is that of a checkpoint of 1.6 MB, forced to the disk, after every step.
    """

    params = (("without", "every step"),)
    param_names = ("checkpoints",)
    repeat = (3, 5, 5.0)
    number = 1
    warmup_time = 0.0

    def setup(self, checkpoints: str = "every step") -> None:
        self.time_run(checkpoints)

    def time_run(self, checkpoints: str) -> None:
        self.run(checkpoints)

    def run(self, checkpoints: str) -> tuple[common.Array, common.Array]:
        """Return the first and the last tokens of a run, as its directory holds them."""
        seconds = ALWAYS if checkpoints == "every step" else NEVER
        text = _TEXT.format(n=N, end=STEPS * STEP, step=STEP, seconds=seconds)
        with tempfile.TemporaryDirectory() as folder:
            problem = config.resolve(config.parse(text), config.Files(Path(folder)))
            outcome = runner.run(problem, Path(folder) / "a.run", quiet=True)
            if outcome.code:
                raise RuntimeError(outcome.message)
            run = fp.open_run(Path(folder) / "a.run")
            return np.array(run.x[0]), np.array(run.x[-1])

    def track_error(self, checkpoints: str) -> float:
        """Return the error of the last frame against the same steps in plain NumPy."""
        x, got = self.run(checkpoints)
        for _ in range(STEPS):
            x = x - STEP * x @ (x.T @ x / N)
        return common.relative_error(got, x)

    def track_cost(self) -> float:
        """Return the seconds that a checkpoint adds to a run: both kinds take turns in one process."""
        seconds = np.empty((5, 2))
        for row in seconds:
            for i, checkpoints in enumerate(("without", "every step")):
                began = time.perf_counter()
                self.run(checkpoints)
                row[i] = time.perf_counter() - began
        without, with_all = np.min(seconds, axis=0)
        return float(with_all - without) / STEPS

    def error_bound(self, _: str) -> float:
        return 1e-6

    track_error.unit = common.ERROR_UNIT
    track_cost.unit = "seconds per checkpoint"
    track_cost.params = ()
    track_cost.param_names = ()
