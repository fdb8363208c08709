"""Backend objects and Python threads, copies, forked processes; what an object keeps between evaluations."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastpde as fp

from ..problems import ROOT

I2 = np.eye(2)
X = np.random.default_rng(0).normal(size=(40, 2))
PLAIN = fp.Softmax(I2, I2, I2)


class Plain(fp.Direct):
    """Sums head by head: the class might have an `attend` of its own."""


class Waiting(fp.Direct):
    """Waits in the middle of an evaluation until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def attend(self, pair, out, log_total=None):
        self.entered.set()
        assert self.go_on.wait(60)
        super().attend(pair, out, log_total)


CALLS = {
    "velocity": lambda backend: PLAIN.velocity(X, backend=backend),
    "solve": lambda backend: fp.solve(PLAIN, X, (0.0, 0.1), method="euler", step=0.1, backend=backend).x_final,
    "energy": lambda backend: fp.interaction_energy(PLAIN, X, backend=backend),
    "Sinkhorn's energy": lambda backend: fp.sinkhorn_energy(fp.Sinkhorn(I2, I2, I2), X, backend=backend),
    "dissipation": lambda backend: fp.dissipation(PLAIN, X, backend=backend),
    "divergence": lambda backend: fp.wasserstein(X, X + 1.0, method="sinkhorn", backend=backend),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_object_at_work_is_refused_to_other_threads(name):
    """At once, whatever it is asked; the thread that has it is not disturbed, and later any thread may have it."""
    backend, found = Waiting(), []
    thread = threading.Thread(target=lambda: found.append(CALLS[name](backend)))
    thread.start()
    try:
        assert backend.entered.wait(60)
        for call in CALLS.values():
            with pytest.raises(fp.InputError, match="at work in another thread") as caught:
                call(backend)
            assert caught.value.name == "backend"
    finally:
        backend.go_on.set()
        thread.join()
    for got in (found[0], CALLS[name](backend)):
        np.testing.assert_array_equal(got, CALLS[name](Plain()))


class Nested(fp.Softmax):
    """Adds the velocities of another attention, from the middle of its own evaluation, with the same object."""

    def _evaluate(self, cloud, t, backend, out):
        super()._evaluate(cloud, t, backend, out)
        out += HEADS.velocity(cloud.x, backend=backend)


HEADS = fp.MultiHead([PLAIN, fp.MultiHead([PLAIN, fp.L2(I2, I2, I2)], W=[I2, 2 * I2])])


def test_evaluations_may_be_nested():
    """To rounding of the sums: 4 terms of size 10 at most."""
    heads, backend = fp.MultiHead([Nested(I2, I2, I2), PLAIN]), fp.Direct()
    plain, l2 = (a.velocity(X) for a in (PLAIN, fp.L2(I2, I2, I2)))
    for _ in range(2):
        np.testing.assert_allclose(heads.velocity(X, backend=backend), 4 * plain + 2 * l2, rtol=0, atol=1e-13)


def test_a_failed_evaluation_lets_go():
    class Failing(fp.Softmax):
        def _evaluate(self, cloud, t, backend, out):
            raise ZeroDivisionError

    backend = fp.Direct()
    with pytest.raises(ZeroDivisionError):
        fp.MultiHead([Failing(I2, I2, I2)]).velocity(X, backend=backend)
    found = []
    thread = threading.Thread(target=lambda: found.append(PLAIN.velocity(X, backend=backend)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], PLAIN.velocity(X))


def held(backend):
    return sum(array.nbytes for array in backend.workspace._held.values())


def test_an_object_does_not_grow_with_what_it_is_used_for():
    """New attentions of the same shape need no new memory."""
    backend, sizes = fp.Direct(), []
    for _ in range(5):
        heads = fp.MultiHead([PLAIN, fp.MultiHead([PLAIN], W=[I2])], W=[I2, I2])
        heads.velocity(X, backend=backend)
        sizes.append(held(backend))
    assert sizes[0] > 0 and len(set(sizes)) == 1


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_of_an_object_have_memory_of_their_own(way):
    backend = fp.Fast(tol=1e-6)
    want = PLAIN.velocity(X, backend=backend)
    other = way(backend)
    assert other.tol == 1e-6 and held(other) == 0 < held(backend)
    with backend.evaluation():
        found = []
        thread = threading.Thread(target=lambda: found.append(PLAIN.velocity(X, backend=other)))
        thread.start()
        thread.join()
    np.testing.assert_allclose(found[0], want, rtol=0, atol=1e-5)  # its next check may be at another evaluation


FORKED = """
import json, os, sys
import numpy as np
import fastpde as fp

I2 = np.eye(2)
x, attention = np.random.default_rng(0).normal(size=(40, 2)), fp.Softmax(I2, I2, I2)


def forked(known):
    pid = os.fork()
    if pid == 0:
        got = attention.velocity(x)
        os._exit(0 if known is None or np.array_equal(got, known) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


fp.Direct()
early, want = forked(None), attention.velocity(x)
late, after = forked(want), attention.velocity(x)
print(json.dumps([early, late, bool(np.array_equal(after, want))]))
"""


def script(code, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_processes_sum():
    """Before the first sum and after it: the child has threads of its own, and the same velocities."""
    assert script(FORKED) == [0, 0, True]


TOGETHER = """
import json, threading
import numpy as np
import fastpde as fp

I2, found = np.eye(2), []
attention, x = fp.Softmax(I2, I2, I2), np.random.default_rng(0).normal(size=(3000, 2))
want = attention.velocity(x, backend="fast")


def work():
    for _ in range(20):
        found.append(bool(np.array_equal(attention.velocity(x, backend="fast"), want)))


threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(json.dumps(found))
"""


def test_threads_with_objects_of_their_own():
    """One of them has the pool of threads at a time, the others sum alone: the bits are the same."""
    assert script(TOGETHER) == [True] * 60
