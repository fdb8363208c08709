"""Slices of a sum: every target once, whole groups, no bit changed, and a check before each."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import fastpde as fp
from fastpde import sums
from fastpde.kernels.attend import TILES
from fastpde.kernels.layout import layout_for
from fastpde.simd import pool
from fastpde.sums import slices
from fastpde.sums.direct import Direct

EYE = np.eye(2)


@pytest.mark.parametrize(("targets", "group"), [(1, 16), (16, 16), (1000, 16), (33, 32)])
def test_slices_cover_all_targets(targets, group, monkeypatch):
    monkeypatch.setattr(slices, "_RATE", 100.0)
    parts = list(slices.Slices().of(targets, group, 1.0))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == targets
    assert all(part.start % group == 0 for part in parts)


@pytest.mark.parametrize(
    "attention",
    [
        fp.Softmax(EYE, EYE, EYE),
        fp.Sigmoid(EYE, EYE, EYE),
        fp.Masked(fp.L2(EYE, EYE, EYE)),
        fp.Sinkhorn(EYE, 2 * EYE, EYE, tol=1e-6),
    ],
    ids=lambda a: type(a).__name__,
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_slices_change_no_bit(attention, dtype, monkeypatch):
    """Far tokens too: their tiles are summed in another way than near ones, and a tile must not be torn.

    A clock that stands still teaches no other rate: each slice is one group of tiles per thread, two if masked.
    """
    x = np.random.default_rng(0).normal(size=(3500, 2)).astype(dtype)
    x[::97] *= 200.0 if not isinstance(attention, fp.Sinkhorn) else 1.0
    whole = attention.velocity(x, backend=Direct())
    monkeypatch.setattr(slices, "_RATE", 1.0)
    monkeypatch.setattr(slices, "time", SimpleNamespace(monotonic=lambda: 0.0))
    targets = TILES * layout_for(3500, 2, 2, np.dtype(dtype)).width * (1 + attention.masked)
    most = pool.threads()
    for threads in {1, min(2, most)}:
        pool.set_threads(threads)
        groups, checks = -(-3500 // (targets * threads)), []
        try:
            with sums.checking(lambda seen=checks: seen.append(1)):
                assert attention.velocity(x, backend=Direct()).tobytes() == whole.tobytes()
        finally:
            pool.set_threads(most)
        assert groups > 1 and len(checks) >= groups


def test_a_check_ends_a_sum():
    def stop():
        raise InterruptedError

    with sums.checking(stop), pytest.raises(InterruptedError):
        fp.Softmax(EYE, EYE, EYE).velocity(np.zeros((3, 2)))
    fp.Softmax(EYE, EYE, EYE).velocity(np.zeros((3, 2)))
