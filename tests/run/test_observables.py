"""observables.csv: what a row holds, and that it reads back."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.run import observables


def test_rows_read_back_to_the_bit_and_a_cut_row_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rows = [observables.row(0.1 * i, rng.normal(size=(40, 3)), 1.0 / (i + 3)) for i in range(3)]
    writer = observables.ObservablesWriter(tmp_path / "a.csv", 3)
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
