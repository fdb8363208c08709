"""Ranks of limits against the theorem of Theory 4.2, found by integration; `fp.limit` has tests of its own."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.rank_collapse import projected


@pytest.fixture(scope="module")
def found():
    """Five laws of two dimensions, V = I."""
    seen = []
    study = fp.studies.rank_collapse((3, 2), 2, seed=4, progress=lambda done, stats: seen.append((done, dict(stats))))
    assert seen == [(2, {"systems": 4}), (4, {"systems": 4})]
    return study


def test_every_rank_is_that_of_the_theorem(found):
    assert found["d"].tolist() == [3, 3, 2, 2] and found["draw"].tolist() == [0, 1, 0, 1]
    assert found["rank"].tolist() == found["expected"].tolist() == [2, 2, 1, 1]
    assert set(found["outcome"]) == {"converges"}
    # What the issue promises; limits are extrapolated from an algebraic tail.
    assert found["error"].max() < 1e-6


def test_spectra_are_those_of_the_closed_form(found):
    stream = np.random.default_rng([4, 3, 1])
    Q, G = stream.standard_normal((1, 3)), stream.standard_normal((3, 3))
    # N^T S_inf^+ N is conserved, so the limit's inverse on ker Q is that of S0: eigenvalues without the formula's N.
    n1 = np.cross(Q[0], [1.0, 0, 0])
    N = np.stack([n1, np.cross(Q[0], n1)], axis=1)
    N = N / np.linalg.norm(N, axis=0)
    want = 1 / np.linalg.eigvalsh(N.T @ np.linalg.inv(G @ G.T) @ N)
    got = np.array([found[f"lambda_{i}"][1] for i in (1, 2, 3)])
    assert got[:2] == pytest.approx(want, rel=1e-6) and got[2] < 1e-6 * got[0]
    assert np.isnan(found["lambda_3"][2:]).all()
    limit = projected(Q[None], (G @ G.T)[None])[0]
    assert np.linalg.eigvalsh(limit)[::-1][:2] == pytest.approx(want, rel=1e-10) and limit @ Q[0] == pytest.approx(0)


def test_a_study_saved_and_loaded_is_the_same(found, tmp_path):
    picture = found.save(tmp_path)
    assert picture.name == "rank-collapse.png" and picture.read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path)
    assert isinstance(again, fp.studies.RankCollapse) and dict(again.parameters) == dict(found.parameters)
    for name, values in found.columns.items():
        assert np.array_equal(again[name], values, equal_nan=values.dtype.kind == "f")
    assert "4 of 4 draws" in again.summary()
    again.plot(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == picture.read_bytes()


def test_other_values_have_no_closed_form():
    study = fp.studies.rank_collapse((2,), 1, values="gram", variant="l2", rank=1)
    assert study["rank"].tolist() == [1] and np.isnan(study["error"]).all() and "error" not in study.summary()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dimensions", {"dimensions": 3}),
        ("dimensions", {"dimensions": ()}),
        ("dimensions", {"dimensions": (3, 3)}),
        ("dimensions", {"dimensions": (3, 2.5)}),
        ("draws", {"draws": 0}),
        ("draws", {"draws": True}),
        ("variant", {"variant": "linear"}),
        ("values", {"values": "random"}),
        ("rank", {"rank": 4}),
        ("seed", {"seed": -1}),
        ("progress", {"progress": "yes"}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.rank_collapse(**arguments)
    assert caught.value.name == name
