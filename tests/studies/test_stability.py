"""Pairs of clouds never exceed the bounds; a study that says so can also say the contrary."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.attention import VARIANTS
from fastpde.studies.stability import Stability

EVERY = (*VARIANTS, "multihead", "masked")


@pytest.fixture(scope="module")
def found():
    return fp.studies.stability(draws=3, n=12, times=4)


def test_no_pair_exceeds_a_bound_of_any_variant(found):
    assert found.verdicts == dict.fromkeys(EVERY, True)
    start = found["t"] == 0.0
    assert (found["log_ratio"][start] == 0.0).all() and (found["log_bound"][start] == 0.0).all()
    # R0 bounds the first cloud exactly.
    np.testing.assert_allclose(found["radius"][start], 1.0, rtol=1e-12)
    assert set(found["pair"]) == {"independent", "nudged", "shifted"}
    for name in EVERY:
        assert 0.0 < found.sharpness(name) <= 1.0
    # What was measured is never above what was foreseen.
    assert (found["log_measured"] <= found["log_bound"] + 1e-9).all()


@pytest.mark.parametrize(("column", "change"), [("log_ratio", 10.0), ("radius", 100.0)])
def test_a_pair_above_a_bound_is_told(found, column, change):
    columns = {name: values.copy() for name, values in found.columns.items()}
    columns[column][found["variant"] == "l2"] += change
    other = Stability(found.parameters, columns)
    assert other.verdicts == {name: name != "l2" for name in EVERY}
    assert "exceeded by l2" in other.summary()
    assert "EXCEEDED" in other.figure().axes[1].get_title()


def test_it_is_saved_and_read_again(found, tmp_path):
    assert found.save(tmp_path).read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path)
    assert again.summary() == found.summary()
    np.testing.assert_array_equal(again["log_measured"], found["log_measured"])


def test_translations_under_a_common_drift_keep_their_distance():
    """d = 1, one token: x' = V x, so W_2 of two tokens grows by e^{V t} exactly, which is what the rate allows."""
    found = fp.studies.stability(("softmax",), 3, n=2, dimension=1, times=3)
    assert found.verdicts["softmax"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("variants", {"variants": ("cosine",)}),
        ("n", {"n": 1}),
        ("radius", {"radius": -1.0}),
        ("times", {"times": 1}),
        ("t_end", {"variants": ("linear",), "t_end": 50.0, "draws": 6, "n": 4, "times": 3}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.stability(**arguments)
    assert caught.value.name == name
