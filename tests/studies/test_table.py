"""What all studies share: named columns, files that read back to the bit, draws that do not depend on their number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies import Column, Study, random_laws, table


class Table(Study):
    """A study of nothing."""

    name = "table"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "draw": Column("whole", "", "number"),
            "time": Column("number", "time", "of something"),
            "reason": Column("text", "", "words"),
        }

    def summary(self):
        return "nothing"

    def figure(self):
        from fastpde.plot import canvas

        return canvas.figure(1.0, 1.0)


COLUMNS = {"reason": ["a, b", 'say "c"', "d\ne"], "draw": [0, 1, 2], "time": [0.1, np.nan, 1e-300]}


def test_columns_are_fixed_in_kind_order_and_length():
    found = Table({"seed": 3}, COLUMNS)
    assert list(found.columns) == ["draw", "time", "reason"] and len(found) == 3
    assert [found[name].dtype.kind for name in found.columns] == ["i", "f", "U"]
    with pytest.raises(ValueError, match="read-only"):
        found["time"][0] = 1.0
    with pytest.raises(TypeError):
        found.parameters["seed"] = 4
    with pytest.raises(AttributeError):
        found.columns = {}
    for wrong in ({**COLUMNS, "draw": [0, 1]}, {"draw": [0]}):
        with pytest.raises(fp.InputError, match="columns"):
            Table({}, wrong)


def test_files_read_back_to_the_bit(tmp_path):
    found = Table({"seed": 3}, COLUMNS)
    assert found.save(tmp_path / "new" / "folder") == tmp_path / "new" / "folder" / "table.png"
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == ["rows.csv", "study.json", "table.png"]
    assert (folder / "rows.csv").read_text().splitlines()[0] == "draw,time [time],reason"
    facts = json.loads((folder / "study.json").read_text())
    assert facts["parameters"] == {"seed": 3} and facts["columns"]["time"] == {
        "unit": "time",
        "meaning": "of something",
    }
    again = Table.read(folder, facts["parameters"])
    for name, values in found.columns.items():
        assert np.array_equal(again[name], values, equal_nan=name == "time")


def test_what_is_no_study_is_refused(tmp_path):
    for text in (
        None,
        "{",
        "[]",
        '{"study": "other", "parameters": {}}',
        '{"study": "phase-diagram", "parameters": {}}',
    ):
        if text is not None:
            (tmp_path / table.PARAMETERS).write_text(text)
        assert fp.studies.is_study(tmp_path) == (text is not None)
        with pytest.raises(fp.InputError, match="directory"):
            fp.studies.load(tmp_path)
    (tmp_path / table.ROWS).write_text("draw,lambda_max\n1\n")
    with pytest.raises(fp.InputError, match="unequal"):
        fp.studies.load(tmp_path)


def test_fewer_draws_are_the_first_of_more():
    few, more = (random_laws.draw(7, 3, count, (2, 3), (3, 3)) for count in (2, 5))
    assert [a.shape for a in more] == [(5, 2, 3), (5, 3, 3)]
    assert all(np.array_equal(a, b[:2]) for a, b in zip(few, more, strict=True))
    assert not np.array_equal(few[1], random_laws.draw(8, 3, 2, (2, 3), (3, 3))[1])
