"""Shares of limits: what a computation cannot do without, and how near it is to that."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fastpde.sums import limits
from fastpde.sums.limits import Work


def test_work_of_pairs_adds_up():
    once = Work.of_pairs(100, 4)
    assert once == Work(multiply_adds=400, exponentials=100)
    assert once + Work(moved=8.0) == Work(400, 100, 8.0)


@pytest.mark.parametrize(
    "work", [Work(multiply_adds=1e6), Work(exponentials=1e6), Work(moved=1e6), Work.of_pairs(1e6, 4)]
)
def test_a_share_falls_with_the_time_that_a_call_takes(work):
    """Sleeping for 20 ms and doing nothing else is far from any limit; twice the work has twice the share, but for
    noise, for which there is a factor of four."""
    once = limits.share(lambda: time.sleep(0.02), work, np.dtype("float64"))
    many = limits.share(lambda: time.sleep(0.02), work + work + work + work, "float64")
    assert 0 < once < 1
    assert 1.0 < many / once < 16.0


def test_a_matrix_product_is_near_its_limit():
    """The limit is the same product: a factor of ten is for other processes on the machine."""
    a = np.ones((512, 512))
    assert 0.1 < limits.share(lambda: a @ a, Work(multiply_adds=512.0**3), "float64") < 10.0


def test_limits_are_those_of_all_threads(monkeypatch):
    """The threads of the kernels are awake before exponentials are measured: else one would make those of all."""
    started = []
    monkeypatch.setattr(limits.pool, "start", lambda: started.append(True))
    monkeypatch.setattr(limits, "_exponential", lambda dtype: 1.0 if started else 0.0)
    assert limits.share(lambda: None, Work(exponentials=1e-9), "float64") > 0.0
    started.clear()
    product, exponential, byte = limits.rates("float64")
    assert exponential == 1.0 and 0.0 < product < 1e-7 and 0.0 < byte < 1e-7
