"""Subsets of tokens, and clouds of files."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastpde import initial
from fastpde.errors import InputError


def test_subset_is_fixed_sorted_and_without_repetition():
    ids = initial.subset(1000, 100, seed=1)
    assert (np.diff(ids) > 0).all() and ids.min() >= 0 and ids.max() < 1000 and len(ids) == 100
    assert (ids == initial.subset(1000, 100, seed=1)).all() and (ids != initial.subset(1000, 100, seed=2)).any()
    assert (initial.subset(7, 100, seed=1) == np.arange(7)).all()


def test_rows_of_a_file(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 9000, 2))
    np.save(tmp_path / "x.npy", x)
    found = initial.from_file(tmp_path / "x.npy", n=8000, system=1, rows=slice(4000, 8000))
    assert (found == x[1, 4000:8000]).all()
    x[1, 5000, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match="row 5000, column 1"):
        initial.from_file(tmp_path / "x.npy", system=1, rows=slice(4000, 8000))
    assert initial.from_file(tmp_path / "x.npy", system=1, rows=slice(0, 5000)).shape == (5000, 2)


@pytest.mark.parametrize("kind", ["i1", ">i4", "u8"])
def test_whole_numbers_of_a_file_are_float64(tmp_path, kind):
    x = np.random.default_rng(0).integers(0, 9, (7, 2)).astype(kind)
    np.save(tmp_path / "x.npy", x)
    found = initial.from_file(tmp_path / "x.npy")
    assert found.dtype == np.float64 and (found == x).all()


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 no archive",
        b"PK\x05\x06" + bytes(18),
        b"",
        _npy("'''"),
        _npy("{[]: 1}"),
        _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**30},)}}"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    ],
    ids=["PK", "empty archive", "empty", "text", "unhashable", "too large", "objects"],
)
def test_files_that_are_no_arrays_are_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'^tokens.path: got "x.npy": .*; need a readable, complete .npy file'):
        initial.open_array(path, "tokens.path")


def test_tables_of_commas(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 3))
    path = tmp_path / "x.csv"
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    for head in ("", "a,b,c\n", "x,1,2\n"):
        path.write_text(head + "\n".join(lines) + "\n")
        assert (initial.from_file(path) == x).all() and initial.open_array(path, "path").shape == (7, 3)
    path.write_text("1.5\n2.5\n")
    assert initial.from_file(path).tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no numbers"),
        ("a,b\n", "no numbers"),
        ("1,2\n3\n", "1 numbers in line 2 and 2 before it"),
        ("1,2\n\n3,x\n", '"x" as number 2 of line 3'),
        ("a,b\n1,2\n3,\n", '"" as number 2 of line 3'),
        ("1;2\n3;4\n", '"3;4" as number 1 of line 2'),
        ("1,2\n#3,4\n", '"#3" as number 1 of line 2'),
        ("1_0,2\nb,3\n", '"b" as number 1 of line 2'),
    ],
)
def test_tables_that_are_refused(tmp_path, text, word):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf'^tokens.path: got "x.csv": {re.escape(word)}; need rows of numbers'):
        initial.open_array(path, "tokens.path")
