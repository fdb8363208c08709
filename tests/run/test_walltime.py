"""Runs in parts that end before their walltime, and use most of it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from edits import changed

from fastpde import config
from fastpde.run import inspect, runner
from fastpde.run.frames import Frames
from fastpde.run.ranks import SingleProcess
from fastpde.run.trajectory import read_trajectory
from fastpde.run.writer import Writer


@pytest.mark.soak
def test_ten_walltimes(small, launch):
    """3 to 20 s, counted from the start of the process, on a machine that does nothing else: never late, at least 80 %
    used, and all parts together give the bits of one run up to the same time."""
    changed(small, ("step = 0.05", "step = 0.01"), ("every = 0.25", "every = 2.0"), ("t_end = 1.0", "t_end = 1e5"))
    assert launch(["run", "small.toml", "--quiet", "--max-walltime", "60s"], small.parent).wait(70) == 75  # compiles
    used = []
    for walltime in np.linspace(3.0, 20.0, 10).round(1):
        began = time.monotonic()
        process = launch(["run", "small.toml", "--quiet", "--max-walltime", f"{walltime}s"], small.parent)
        _, errors = process.communicate(timeout=60)
        used.append((time.monotonic() - began) / walltime)
        assert process.returncode == 75 and "walltime" in errors
        assert inspect.verify(small.parent / "small.run")[1] == []
    print(f"used {min(used):.1%} to {max(used):.1%}")
    assert min(used) >= 0.8 and max(used) <= 1.0
    parts = read_trajectory(small.parent / "small.run" / "trajectory.h5")
    changed(small, ("t_end = 1e5", f"t_end = {float(parts.time[-1])!r}"))
    assert runner.run(config.load(small), small.parent / "whole", quiet=True).code == 0
    whole = read_trajectory(small.parent / "whole" / "trajectory.h5")
    assert (whole.time == parts.time).all() and whole.value.tobytes() == parts.value.tobytes()


def test_slow_checkpoints_are_rare(small):
    """At most a hundredth of the time is theirs, whatever the interval: 2 s each are one in 200 s, 0.1 s one in 10."""
    problem = config.load(small)
    record = Writer(problem, small.parent / "out", Frames(problem, (), SingleProcess()))
    record.path = small.parent
    for took, since, due in ((2.0, 199.0, False), (2.0, 201.0, True), (0.1, 59.0, False), (0.1, 61.0, True)):
        record._took, record._saved = took, time.monotonic() - since
        assert record.due() == due
