"""Processes that end without a word, at each call that writes and at random moments: the same command goes on to the
bits of a run that was left alone.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from edits import changed
from results import result

import fastpde
from fastpde import config
from fastpde.run import checkpoint, directory, inspect, lock, runner

DOPRI = ('method = "rk4"\nstep = 0.05', 'method = "dopri5"\nrtol = 1e-5')
SINKHORN = ('"softmax"', '"sinkhorn"\nK = { scale = -1.0 }\neps = 2.0\ntol = 1e-6')
FAST = ("[output]", '[backend]\nkind = "fast"\n[output]')
MANY = ("n = 30", "n = 300")
SYSTEMS = ("d = 2", "d = 2\nsystems = 5")
NOISE = ('method = "rk4"\nstep = 0.05', 'method = "heun"\nstep = 0.03\nnoise = 0.3')
CASES = {
    "softmax direct": (DOPRI,),
    "softmax fast": (DOPRI, FAST, MANY),
    "sinkhorn direct": (DOPRI, SINKHORN),
    "sinkhorn fast": (DOPRI, SINKHORN, FAST, MANY),
    "noise": (NOISE,),
    "systems": (DOPRI, SYSTEMS),
    "noisy systems": (NOISE, SYSTEMS),
}
SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    ("case", "every"),
    [("sinkhorn direct", 10), ("systems", 20), *(pytest.param(case, 1, marks=SOAK) for case in CASES)],
)
def test_a_crash_at_each_call_in_turn(small, case, every):
    """Twice each: once anywhere, and once more where it has gone on."""
    changed(small, *CASES[case], ("t_end = 1.0", "t_end = 0.3"), ("every = 0.25", "every = 0.1\ncheckpoint = 1e-9"))
    root = str(Path(fastpde.__file__).parents[1])
    # The layer of threads that survives a fork; with one thread nothing is parallel.
    environment = {**os.environ, "PYTHONPATH": root, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("crashes.py")), str(small), str(every)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert (done.returncode, done.stderr) == (0, "")
    calls, crashes = map(int, done.stdout.split())
    assert calls > 60 and crashes > 1.5 * (calls // every)


def wait_for_work(process: subprocess.Popen[str], out: Path) -> None:
    """Return when the process has the lock of its run, or has ended."""
    deadline = time.monotonic() + 120  # a first run compiles
    while process.poll() is None and lock.holder(out / lock.NAME).get("pid") != process.pid:
        assert time.monotonic() < deadline
        time.sleep(0.005)


KILLS = {
    **{case: (*CASES[case], MANY) if MANY not in CASES[case] else CASES[case] for case in list(CASES)[:4]},
    "noisy systems": (NOISE, ("d = 2", "d = 2\nsystems = 4000")),
}


@pytest.mark.parametrize(
    ("case", "kills"), [("softmax fast", 3), *(pytest.param(case, 30, marks=SOAK) for case in KILLS)]
)
def test_kills_at_random_moments(small, launch, case, kills):
    """Of runs at work, which their output slows. An ensemble begins the block at work again."""
    changed(small, *KILLS[case], ("t_end = 1.0", "t_end = 4.0"))
    changed(small, ("every = 0.25", "every = 0.02\ncheckpoint = 0.05"))
    assert runner.run(config.load(small), small.parent / "whole", quiet=True).code == 0
    whole, out, killed, source = result(small.parent / "whole"), small.parent / "small.run", 0, random.Random(case)
    while killed < kills:
        process = launch(["run", "small.toml", "--quiet"], small.parent)
        wait_for_work(process, out)
        time.sleep(source.uniform(0.0, 4.0 if "systems" in case else 1.0))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        if not out.exists():
            continue
        assert inspect.verify(out)[1] == []
        if directory.read_status(out)["state"] == "finished":
            assert result(out) == whole
            shutil.rmtree(out)
    assert runner.run(config.load(small), out, quiet=True).code == 0
    assert result(out) == whole


@pytest.mark.parametrize(("case", "count"), [("softmax", 3), *(pytest.param(case, 21, marks=SOAK) for case in KILLS)])
def test_signals_at_random_moments(small, launch, case, count):
    """Nothing of one system is lost, and of several no more than the block at work."""
    changed(small, *KILLS.get(case, (DOPRI, MANY)), ("t_end = 1.0", "t_end = 4.0"))
    changed(small, ("every = 0.25", "every = 0.02"))
    assert runner.run(config.load(small), small.parent / "whole", quiet=True).code == 0
    whole, out, stopped, source = result(small.parent / "whole"), small.parent / "small.run", 0, random.Random(case)
    while stopped < count:
        process = launch(["run", "small.toml", "--quiet"], small.parent)
        wait_for_work(process, out)
        time.sleep(source.uniform(0.0, 4.0 if "systems" in case else 1.0))
        process.send_signal(source.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)))
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 75), errors
        assert inspect.verify(out)[1] == []
        status, last = directory.read_status(out), checkpoint.newest(out)[0]
        if status["state"] == "finished":  # its pictures may be stopped
            assert result(out) == whole
            shutil.rmtree(out)
            continue
        stopped += 1
        assert process.returncode == 75 and status["state"] == "stopped", errors
        assert status["step"] == (last.facts["steps"] if "systems" in case else last.facts["state"]["step"])
    assert runner.run(config.load(small), out, quiet=True).code == 0
    assert result(out) == whole
