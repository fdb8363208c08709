"""A way to sum from one file: Auto picks it, it is checked, shared over processes, warmed up, shown and predicted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde import cli, sums
from fastpde.sums import calibration, ways
from fastpde.sums.costs import TYPICAL
from fastpde.sums.prediction import Probe

from ..problems import ROOT
from ..sums.test_mpi import MPIEXEC
from .squares import Squared, Squares

HEAD = Squared(*np.random.default_rng(0).standard_normal((3, 2, 2)))


@pytest.fixture
def squares(monkeypatch):
    """The way in the list, as its line there would put it."""
    way = Squares()
    monkeypatch.setattr(ways, "WAYS", [*ways.WAYS, way])
    return way


def cloud(n, dtype=np.float64):
    return np.random.default_rng(1).standard_normal((n, 2)).astype(dtype)


def largest(x):
    return np.abs(x).max()


def test_it_is_short():
    assert len((Path(__file__).with_name("squares.py")).read_text().splitlines()) <= 70
    assert not [path for path in (ROOT / "fastpde").rglob("*.py") if "Squares" in path.read_text()]


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("kind", [fp.Auto, fp.Fast])
def test_it_is_picked_and_checked(squares, kind, dtype, bound):
    x = cloud(6000, dtype)
    want = HEAD.velocity(x, backend="direct")
    backend = kind()
    got = HEAD.velocity(x, backend=backend)
    assert largest(got - want) < bound * largest(want)
    stats = backend.stats()
    assert stats["fast_sums"] == stats["fast_checked"] == 1 and stats["fast_failed"] == stats["direct_sums"] == 0
    assert 0 < stats["fast_error_sampled"] < bound
    heads = fp.MultiHead([HEAD, fp.Softmax(*[np.eye(2)] * 3)])
    backend = kind(1e-6)
    heads.velocity(x, backend=backend)
    assert backend.stats()["fast_sums"] == 2


def test_small_sums_are_direct(squares):
    auto = fp.Auto()
    HEAD.velocity(cloud(300), backend=auto)
    assert auto.stats() == {"direct_sums": 1.0, "fast_sums": 0.0}


def test_it_is_found_out_where_it_is_wrong(squares, monkeypatch):
    whole = Squares.attend

    def wrong(self, task, plan):
        whole(self, task, plan)
        task.out[:] *= 1.001

    monkeypatch.setattr(Squares, "attend", wrong)
    x, backend = cloud(6000), fp.Auto()
    np.testing.assert_array_equal(HEAD.velocity(x, backend=backend), HEAD.velocity(x, backend="direct"))
    assert backend.stats()["fast_failed"] == 1


def test_it_is_used_in_runs_as_in_single_velocities(squares):
    """4 evaluations of a step: one is checked."""
    sol = fp.solve(HEAD, 0.1 * cloud(6000), (0.0, 0.1), method="rk4", step=0.1)
    assert (sol.stats["fast_sums"], sol.stats["fast_checked"]) == (4, 1)


def test_it_is_warmed_up(squares):
    said = []
    ways.warmup(said.append, [np.float64], [squares])
    assert said == ["float64 squares"]
    pair = replace(next(squares.examples(np.float64)), limits=np.arange(1, 101))
    with pytest.raises(AssertionError, match="cannot be made by squares"):  # an example that is none
        ways.only(squares, pair, np.empty((100, 2)), np.empty(0), sums.resolve("direct"))


def test_doctor_shows_it(squares, capsys, monkeypatch):
    monkeypatch.setattr(calibration, "costs", lambda: TYPICAL)
    assert cli.main(["doctor"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("way to sum, squares")]
    assert len(shown) == 1 and "second moments" in shown[0]


def test_estimates_count_on_it(squares):
    probe = Probe(1e-8, TYPICAL, 100.0)
    HEAD.velocity(cloud(6000), backend=probe)
    assert 0 < probe.fast < 1e-3 * probe.direct and (probe.sums, probe.direct_sums) == (1, 0)


def test_several_processes_use_it():
    """Sources come together first: the way says that it is not made for a part of them."""
    pytest.importorskip("mpi4py")
    if MPIEXEC is None:
        pytest.skip("no mpiexec")
    code = (
        "import json, numpy as np, fastpde as fp\n"
        "from fastpde.sums import ways\n"
        "from tests.outside.test_summation import HEAD, Squares, cloud\n"
        "ways.WAYS.append(Squares())\n"
        "x, backend = cloud(6000), fp.Mpi()\n"
        "mine = backend.rows(6000)\n"
        "error = np.abs(HEAD.velocity(x[mine], backend=backend) - HEAD.velocity(x, backend='direct')[mine]).max()\n"
        "stats = backend.stats()\n"
        "print(json.dumps([float(error), stats['fast_sums'], stats['gathered_sums']])) if backend.rank == 0 else None\n"
    )
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "mpi4py", "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    error, fast, gathered = json.loads(done.stdout.splitlines()[-1])
    assert error < 1e-10 and fast == gathered == 1
