"""observables.csv: what a row holds, and that it reads back."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.run import observables


def test_rows_read_back_to_the_bit_and_a_cut_row_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rows = [observables.row(0.1 * i, rng.normal(size=(40, 3)), 1.0 / (i + 3)) for i in range(3)]
    writer = observables.TableWriter(tmp_path / "a.csv", observables.columns(3))
    for row in rows:
        writer.append(row)
    writer.close()
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text + "0.4,1.0,2")
    table = observables.read_observables(tmp_path / "a.csv")
    assert list(table) == observables.columns(3)
    assert (np.array(rows) == np.array(list(table.values())).T).all()


def test_a_row_holds_the_moments():
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, 2.0]])
    row = dict(zip(observables.columns(2), observables.row(0.5, x, None), strict=True))
    expected = {"t": 0.5, "mean_norm": 1, "mean_0": 0, "mean_1": 1, "trace": 2, "effective_rank": 2}
    expected |= {"eigenvalue_0": 1, "eigenvalue_1": 1, "radius": np.sqrt(5)}
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-14, abs=1e-15)  # sums of four small whole numbers
    assert np.isnan(row["energy"])


@pytest.mark.parametrize(("d", "scale"), [(1, 1.0), (3, 1e-3), (20, 1e5), (40, 1e200)])
def test_rows_of_many_systems_are_the_row_of_each(d, scale, monkeypatch, recwarn):
    x = scale * np.random.default_rng(0).normal(size=(5, 12, d))
    x[3] = 0.0
    monkeypatch.setattr(observables, "_AT_WORK", 2 * 12 * d)  # two systems at a time
    found = observables.rows(np.arange(5.0), x, np.arange(5.0) / 3)
    for b in range(5):
        want = np.array(observables.row(float(b), x[b], b / 3))
        # Other orders of sums of 12 numbers; eigenvalues of singular matrices are rounding of the largest.
        size = np.abs(want[np.isfinite(want)]).max()
        np.testing.assert_allclose(found[b], want, rtol=1e-11, atol=1e-13 * size)
    assert not recwarn.list


def test_many_dimensions_have_few_columns_and_huge_tokens_no_warning(recwarn):
    x = np.full((3, 40), 1e200)
    x[0] = -1e200
    row = observables.row(0.0, x, None)
    names = observables.columns(40)
    assert len(row) == len(names) == 2 + 16 + 1 + 16 + 3
    assert row[names.index("radius")] == pytest.approx(np.sqrt(40) * 1e200, rel=1e-14)  # 40 roundings at most
    assert not recwarn.list


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("t,x\n1,two\n")
    with pytest.raises(InputError, match="observables"):
        observables.read_observables(tmp_path / "a.csv")
