"""Tables: they read back to the bit, and go on where they were."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.run.tables import TableWriter, read_observables


def test_rows_read_back_to_the_bit_and_a_cut_row_is_left_out(tmp_path):
    rng = np.random.default_rng(0)
    names, rows = list("abcd"), rng.normal(size=(3, 4)).tolist()
    writer = TableWriter(tmp_path / "a.csv", names)
    for row in rows:
        writer.append(row)
    writer.close()
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text + "0.4,1.0,2")
    table = read_observables(tmp_path / "a.csv")
    assert list(table) == names
    assert (np.array(rows) == np.array(list(table.values())).T).all()


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("t,x\n1,two\n")
    with pytest.raises(InputError, match="observables"):
        read_observables(tmp_path / "a.csv")


def test_columns_of_an_earlier_version_stay_and_missing_ones_are_refused(tmp_path):
    writer = TableWriter(tmp_path / "a.csv", ["t", "old", "x"])
    writer.append([0.0, 1.0, 2.0])
    mark = writer.mark()
    writer.append([9.0, 9.0, 9.0])
    writer.close()
    with pytest.raises(InputError, match="without the columns y"):
        TableWriter(tmp_path / "a.csv", ["t", "x", "y"], mark)
    writer = TableWriter(tmp_path / "a.csv", ["x", "t"], mark)
    writer.append_named({"t": 1.0, "x": 3.0})
    writer.close()
    assert (tmp_path / "a.csv").read_text() == "t,old,x\n0.0,1.0,2.0\n1.0,nan,3.0\n"
    (tmp_path / "a.csv").write_text("t,old,x\n0.0,1.5,2.0\n")
    with pytest.raises(InputError, match="changed"):
        TableWriter(tmp_path / "a.csv", ["t"], mark)
