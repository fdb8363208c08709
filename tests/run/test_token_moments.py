"""Moments of the tokens: what a row holds, of one system and of many."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.parallel.spread import Tokens
from fastpde.run.observables import token_moments


def test_a_row_holds_the_moments():
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
    row = dict(zip(token_moments.columns(2), token_moments.of_one(0.5, Tokens.alone(x)), strict=True))
    expected = {"mean_norm": 1, "mean_0": 0, "mean_1": 1, "trace": 2, "effective_rank": 2}
    expected |= {"eigenvalue_0": 1, "eigenvalue_1": 1, "radius": np.sqrt(5)}
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-14, abs=1e-15)  # sums of four small whole numbers


@pytest.mark.parametrize(("d", "scale"), [(1, 1.0), (3, 1e-3), (20, 1e5), (40, 1e200)])
def test_rows_of_many_systems_are_the_row_of_each(d, scale, monkeypatch, recwarn):
    x = scale * np.random.default_rng(0).normal(size=(5, 12, d))
    x[3] = 0.0
    monkeypatch.setattr(token_moments, "_AT_WORK", 2 * 12 * d)  # two systems at a time
    found = token_moments.of_many(np.arange(5.0), x)
    for b in range(5):
        want = token_moments.of_one(float(b), Tokens.alone(x[b]))
        # Other orders of sums of 12 numbers; eigenvalues of singular matrices are rounding of the largest.
        size = np.abs(want[np.isfinite(want)]).max()
        np.testing.assert_allclose(found[b], want, rtol=1e-11, atol=1e-13 * size)
    assert not recwarn.list


def test_many_dimensions_have_few_columns_and_huge_tokens_no_warning(recwarn):
    x = np.full((3, 40), 1e200)
    x[0] = -1e200
    row = token_moments.of_one(0.0, Tokens.alone(x))
    names = token_moments.columns(40)
    assert len(row) == len(names) == 1 + 16 + 1 + 16 + 2
    assert row[names.index("radius")] == pytest.approx(np.sqrt(40) * 1e200, rel=1e-14)  # 40 roundings at most
    assert not recwarn.list
