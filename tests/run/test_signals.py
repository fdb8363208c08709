"""Three signals, and the reserve that a walltime needs."""

from __future__ import annotations

import os
import signal
import time

import pytest

from fastpde.errors import InputError
from fastpde.run import signals, walltime
from fastpde.run.signals import Stopped, StopSignals


@pytest.mark.parametrize("number", signals.CAUGHT)
def test_the_first_waits_the_second_does_not(number):
    said, before = [], signal.getsignal(number)
    with StopSignals(said.append) as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with stop.held():
            stop.check()  # what has begun is finished
        with pytest.raises(Stopped) as first:
            stop.check()
        assert (first.value.code, first.value.at_once) == (128 + number, False)
        with pytest.raises(Stopped) as second:
            os.kill(os.getpid(), number)
            time.sleep(1.0)
        assert second.value.at_once and len(said) == 2
        assert signal.getsignal(number) is signal.SIG_DFL  # the third ends the process
    assert signal.getsignal(number) is before


def test_the_walltime_is_left_in_time(monkeypatch):
    """Slices of 0.5 s and checkpoints of 0.2 s: 3 * 0.5 + 2 * 0.2 s and the way out are kept."""
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    stop = StopSignals(deadline=110.0)
    stop.saving = 0.2
    with pytest.raises(Stopped, match="walltime"):
        for _ in range(100):
            now[0] += 0.5
            stop.check()
    assert now[0] + 3 * 0.5 + 2 * 0.2 < 110.0 < now[0] + 3 * 0.5 + 2 * 0.2 + 1.5
    slow = StopSignals(deadline=200.0)
    slow.check()
    now[0] += 50.0  # compiled: no slice will take so long again
    slow.check()
    slow.check()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2h", 7200), ("1d12h", 129600), ("1.5m", 90), ("1:30:00", 5400), ("2:05", 125)]
)
def test_walltimes(text, seconds):
    assert walltime.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "-1s", "0s", "nan", "1e9h", "2 h", "h", "1:2", "9" * 400 + "s", "٣s"])
def test_walltimes_that_are_none(text):
    with pytest.raises(InputError, match="--max-walltime"):
        walltime.seconds(text)


def test_deadlines(monkeypatch):
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert walltime.deadline(None) is None
    # Counted from the start of the process: this one has begun before now.
    assert time.monotonic() - 3600 < walltime.deadline(10.0) - 10.0 < time.monotonic()
    for left, part in ((1000, 970), (100, 75)):  # half a minute, or a quarter of it, to queue the job again
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + left))
        assert walltime.deadline(None) - time.monotonic() == pytest.approx(part, abs=2)
    assert walltime.deadline(10.0) < time.monotonic() + 10.0  # the earlier end counts
    assert walltime.deadline(10_000.0) < time.monotonic() + 100.0
    monkeypatch.setenv("SLURM_JOB_END_TIME", "soon")
    assert walltime.deadline(None) is None
