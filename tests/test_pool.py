"""The pool of threads: every item once, memory of one's own, several callers, forks, and more threads than cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from fastpde._jit import jit
from fastpde.simd import pool

from .problems import ROOT


@jit
def _item(index, thread, out, who, busy, factor):
    """Count the item, and how often the memory of the thread was in use already."""
    busy[thread, 0] += 1
    if busy[thread, 0] != 1:
        busy[thread, 1] += 1
    total = 0.0
    for j in range(200):
        total += np.sqrt(factor * (index + j))
    out[index] += 1.0 + 0.0 * total
    who[index] = thread
    busy[thread, 0] -= 1


@jit
def run(threads, items, portion, out, who, busy, factor):
    """Launch the items."""
    pool.launch(threads, items, portion, _item, (out, who, busy, factor))


@pytest.fixture(autouse=True)
def as_before():
    """The number of threads stays what it was."""
    before = pool.threads()
    yield
    pool.set_threads(before)


def started(count):
    """A pool of so many threads, more than there may be of cores."""
    pool.set_threads(count)
    pool.start()


def launched(threads, items, portion):
    """How often each item was done, and by whom; no two threads may have had one number."""
    out, who, busy = np.zeros(items), np.full(items, -1), np.zeros((threads, 2), np.int64)
    run(threads, items, portion, out, who, busy, 1.0)
    assert not busy.any()
    return out, who


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_done_once(threads):
    started(threads)
    for items in (0, 1, 2, 7, 100, 5000):
        for portion in (0, 1, 3, 64, 10_000):
            out, who = launched(threads, items, portion)
            assert (out == 1.0).all() and (who >= 0).all() and (who < threads).all()


def test_workers_join():
    """In long jobs they do, sooner or later, also where others need the cores."""
    started(2)
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline and not launched(2, 50_000, 16)[1].any():
        pass
    assert time.monotonic() < deadline


def test_several_callers():
    """One has the pool, the others work alone: all items are done, with memory of each caller's own."""
    started(3)
    found = []

    def call():
        for _ in range(50):
            out, who = launched(3, 2000, 8)
            found.append((out == 1.0).all() and (who < 3).all())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 200 and all(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork():
    """The child has no workers of its parent, and gets its own."""
    code = (
        "import os; from tests.test_pool import launched, started\n"
        "started(2); launched(2, 5000, 8); child = os.fork()\n"
        "good = (launched(2, 5000, 8)[0] == 1.0).all()\n"
        "started(2); good = good and (launched(2, 5000, 8)[0] == 1.0).all()\n"
        "os._exit(0 if good else 1) if not child else None\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or (0 if good else 2))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, timeout=300)
    assert done.returncode == 0
