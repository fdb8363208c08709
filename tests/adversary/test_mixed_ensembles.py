"""Ensembles of mixed kinds against single runs: 12 ensembles, 200 with --soak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ensembles import one_thread  # noqa: F401

from .mixed_ensembles import compare, main, make


@pytest.mark.parametrize("seed", range(12))
def test_systems_are_those_of_single_runs(seed):
    found = compare(make(seed))
    assert found.wrong == []


def test_the_comparison_can_fail():
    """Of an ensemble whose last system begins a rounding away from where it should."""
    case = make(1)

    class Moved(type(case)):
        def alone(self, b):
            x0 = case.x0.copy()
            x0[-1] = np.nextafter(x0[-1], np.inf)
            return replace(case, x0=x0).alone(b)

    assert compare(Moved(**vars(case))).wrong


@pytest.mark.soak
def test_two_hundred():
    assert main(0, 200) == 0
