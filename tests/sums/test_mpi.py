"""Tokens on several processes: what `ranks.py` finds under mpiexec, and the parts of it that need no MPI."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.parallel import pairwise
from fastpde.parallel.communicator import UNIT, starts_of
from fastpde.simd.vectors import VECTORS, lanes_of

from ..problems import ROOT

# Beside the interpreter where it came with mpich's wheel; the site's otherwise.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
SECONDS = 600


def ranks(count, task):
    """Runs a task of `ranks.py` on `count` processes."""
    pytest.importorskip("mpi4py")
    if MPIEXEC is None:
        pytest.skip("no mpiexec")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    one = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [
        MPIEXEC,
        "-n",
        str(count),
        sys.executable,
        "-m",
        "mpi4py",
        str(Path(__file__).with_name("ranks.py")),
        task,
    ]
    return subprocess.run(
        command, env=os.environ | one | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=SECONDS
    )  # fmt: skip


def told(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("count", [3, *(pytest.param(count, marks=pytest.mark.soak) for count in (1, 2, 4))])
def test_direct_sums_have_the_bits_of_one_process(count):
    answer = told(ranks(count, "direct"))
    found = answer["found"]
    assert len(found) > 30
    assert answer["refused"] == (["backend", "backend", "inner", "x"] if count > 1 else ["inner"])
    assert [name for name, (same, _) in found.items() if not same] == []


def test_fast_sums_keep_their_tolerance_and_send_a_grid():
    """The tolerance is 1e-7; both sides of a comparison may use it up. Sinkhorn: iterations to 1e-4 from other sums."""
    answer = told(ranks(2, "fast"))
    for name, (_, error) in answer["found"].items():
        assert error < (1e-5 if name.startswith("sinkhorn") else 2e-7), name
    most, least = answer["failed"]
    assert most > 0 and most >= -least > 0, "all ranks must take the failure of one for theirs"
    for name, gathered in answer["gathered"].items():
        assert (gathered > 0) == name.startswith(("masked", "sigmoid")), name
    for name in ("softmax", "l2", "exponential", "linear"):
        # The same box, so the same grid; a few more targets may be checked, and part of a tile of tokens changes hands.
        assert answer["sent"][f"{name}, 24000"] < 1.01 * answer["sent"][f"{name}, 6000"] + 2e4, name
    assert answer["sent"]["linear, 24000"] < 4e4  # 1023 tokens (n, 2) at most, and sums


def test_an_exception_on_one_rank_ends_all():
    done = ranks(2, "error")  # the others do not wait for ever
    assert done.returncode != 0
    assert "this rank has failed" in done.stderr


def test_blocks_are_whole_tiles_of_targets():
    assert all(UNIT % (VECTORS * lanes_of(bits).count) == 0 for bits in (32, 64))
    for n, size in ((1, 1), (33, 2), (301, 3), (10**6, 7)):
        starts = starts_of(n, size)
        assert starts[0] == 0 and starts[-1] == n and (starts[:-1] % UNIT == 0).all()
        assert np.ptp(np.diff(starts)) <= 2 * UNIT - 1 and np.diff(starts).min() > 0
    with pytest.raises(InputError, match="fewer processes"):
        starts_of(64, 3)


def test_a_sum_of_pieces_has_the_bits_of_the_sum():
    """However a row is cut. Numbers of all sizes: another order of adding them would show."""
    rng, differ = np.random.default_rng(0), 0
    for _ in range(300):
        size = int(10.0 ** rng.uniform(0.0, 4.5))
        cuts = sorted({0, size, *rng.integers(0, size + 1, int(rng.integers(0, 5))).tolist()})
        x = rng.standard_normal((2, size)) * np.exp(3.0 * rng.standard_normal((2, size)))
        ends = list(itertools.pairwise(cuts))
        given = [pairwise.parts(x[:, low:high], size, low) for low, high in ends]
        assert [pairwise.count(size, *pair) for pair in ends] == [part.shape[1] for part in given]
        total, _ = pairwise.total(size, tuple(cuts), np.concatenate(given, axis=1))
        assert np.array_equal(total, x.sum(axis=1))
        differ += not np.array_equal(sum(x[:, low:high].sum(axis=1) for low, high in ends), x.sum(axis=1))
    assert differ > 50  # the plain sum of the pieces' sums would not do
