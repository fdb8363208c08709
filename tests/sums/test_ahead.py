"""A second process compiles only where that helps, and this package, whatever lies in the working directory."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fastpde as fp
from fastpde.kernels import expansion
from fastpde.sums import ahead

from ..problems import ROOT


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What is started in an empty cache, with a core to spare."""
    calls = []
    monkeypatch.setattr(ahead, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ahead.pool, "threads", lambda: 2)
    process = SimpleNamespace(DEVNULL=None, Popen=lambda command, **more: calls.append((command, more["env"])))
    monkeypatch.setattr(ahead, "subprocess", process)
    return calls


def test_an_empty_cache_starts_one(started, tmp_path):
    ahead.start()
    ((command, environment),) = started
    (tmp_path / "fastpde").mkdir()
    (tmp_path / "fastpde" / "__init__.py").write_text("raise SystemExit('another package')")
    code = "import fastpde.sums.ahead as found; print(found.__file__)"
    done = subprocess.run([*command[:-2], "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert command[0] == sys.executable and done.stdout.strip() == str(ROOT / "fastpde/sums/ahead.py"), done.stderr


@pytest.mark.parametrize("why", ["compiled", "one thread", "no cache"])
def test_nothing_is_started_in_vain(started, monkeypatch, tmp_path, why):
    if why == "compiled":
        (tmp_path / "a.nbc").touch()
    elif why == "one thread":
        monkeypatch.setattr(ahead.pool, "threads", lambda: 1)
    else:
        monkeypatch.setattr(ahead, "cache_folder", lambda: None)
    ahead.start()
    assert started == []


def test_the_last_kernel_of_grids_is_compiled_for_the_types_that_sums_have():
    x = np.random.default_rng(0).standard_normal((3000, 2))
    backend = fp.Fast(1e-6)
    fp.Softmax(*[np.eye(2)] * 3).velocity(x, backend=backend)
    known = list(expansion.expand.signatures)
    assert known and backend.report["grids"] == 1
    ahead.expand_nothing()
    assert list(expansion.expand.signatures) == known
