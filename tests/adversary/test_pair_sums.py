"""Nasty pair sums of `Fast`, each target against extended precision: 300 cases, 20,000 with --soak."""

from __future__ import annotations

import pytest

from .pair_sums import tally

_CHUNK, _SOAK = 50, 500


@pytest.mark.parametrize("first", range(0, 300, _CHUNK))
def test_every_target_is_within_the_tolerance_and_the_bound(first):
    check_all(first, _CHUNK)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 21000, _SOAK))
def test_the_same_of_many_more(first):
    check_all(first, _SOAK)


def check_all(first, count):
    """No case is wrong, and not because everything was summed directly."""
    found = tally(range(first, first + count))
    assert not found.wrong, "\n".join([f"{len(found.wrong)} of {count}:", *found.wrong])
    assert found.worst <= 1.0 and found.excess <= 1.0
    assert found.fast >= 0.5 * count, found.how
