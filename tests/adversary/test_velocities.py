"""Velocities of nasty clouds through the public API, each target against extended precision, and in all units."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .prices import prices
from .velocities import BACKENDS, KINDS, backend, tally

_CHUNK, _SOAK = 15, 100


@pytest.mark.parametrize("first", range(0, 60, _CHUNK))
def test_every_target_is_within_the_tolerance(first):
    check_all(first, _CHUNK)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 4000, _SOAK))
def test_the_same_of_many_more(first):
    check_all(first, _SOAK)


def check_all(first, count):
    """No velocity is wrong, and not because all was summed directly."""
    how, worst, wrong = tally(range(first, first + count))
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong])
    assert worst <= 1.0
    assert how["O(n)"] > how["direct"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_units_do_not_matter(kind, name):
    """The velocity at c x, with Q and K divided by c, is c times that at x: c is a power of two, so the numbers a sum
    is made of are the same, and the results differ by what is rounded otherwise, or within the tolerance."""
    rng = np.random.default_rng(0)
    x, (Q, K, V) = rng.standard_normal((400, 2)) + 0.5, rng.standard_normal((3, 2, 2))
    options = {"n_half": 3} if kind == "Sinkhorn" else {}
    tol = 1e-13 if name == "direct" else 1e-10

    def velocity(c):
        attention = getattr(fp, kind)(Q / c, K / c, V, **options)
        with prices("grid", len(x) ** 2):
            return attention.velocity(c * x, backend=backend(name, tol))

    want = velocity(1.0)
    for power in (-660, -530, -300, -40, 40, 300, 530, 660):  # 1e-200 to 1e200
        got = velocity(2.0**power) * 2.0**-power
        assert np.abs(got - want).max() <= 10 * tol * np.abs(want).max(), f"c = 2^{power}"
