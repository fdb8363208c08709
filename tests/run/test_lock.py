"""One writer at a time; the dead hold nothing."""

from __future__ import annotations

import json
import os
import platform
import time

import pytest

from fastpde.errors import InputError
from fastpde.run import lock
from fastpde.run.lock import RunLock


def test_one_holder_at_a_time(tmp_path):
    first = RunLock(tmp_path)
    assert lock.held(tmp_path) == {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
    with pytest.raises(InputError, match=f"process {os.getpid()} on .* is at work"):
        RunLock(tmp_path)
    first.release()
    first.release()
    assert not list(tmp_path.iterdir()) and lock.held(tmp_path) == {}
    RunLock(tmp_path).release()


def left(folder, **holder):
    (folder / lock.NAME).write_text(json.dumps(holder))


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"pid": "x"}'])
def test_locks_that_say_nothing(tmp_path, text):
    (tmp_path / lock.NAME).write_text(text)
    if "pid" in text:  # nobody knows whose: it might be of another host
        os.utime(tmp_path / lock.NAME, (0, 0))
    taken = RunLock(tmp_path)
    assert lock.held(tmp_path)["pid"] == os.getpid()
    taken.release()
    assert lock.held(tmp_path) == {} and not list(tmp_path.iterdir())


def test_stale_locks_of_this_host(tmp_path, monkeypatch):
    """Where the operating system gives us the lock, its holder is dead, whatever process has its number now."""
    left(tmp_path, host=platform.node(), pid=os.getppid())
    assert lock.held(tmp_path) == {}
    RunLock(tmp_path).release()

    def without(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", without)
    left(tmp_path, host=platform.node(), pid=os.getppid())
    assert lock.held(tmp_path)["pid"] == os.getppid()
    with pytest.raises(InputError, match="is at work"):
        RunLock(tmp_path)
    left(tmp_path, host=platform.node(), pid=2**22 + 1)  # more than Linux gives out
    assert lock.held(tmp_path) == {}
    RunLock(tmp_path).release()


def test_locks_of_other_hosts(tmp_path, monkeypatch):
    """They hold while they give signs of life, unless they are an earlier part of this very job."""
    left(tmp_path, host="elsewhere", pid=1, job="7")
    with pytest.raises(InputError, match="process 1 on elsewhere is at work"):
        RunLock(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    RunLock(tmp_path).release()
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    left(tmp_path, host="elsewhere", pid=1, job="7")
    old = time.time() - 2 * lock._SILENT
    os.utime(tmp_path / lock.NAME, (old, old))
    RunLock(tmp_path).release()
