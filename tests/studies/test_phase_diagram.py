"""Ends of random laws where d = 1 has closed forms (Theory 3), and the spectrum they are drawn against."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp


def test_on_the_line_the_sign_decides():
    """d = 1: s' = 2 v a s^2 blows up at 1 / (2 v a s0) iff v a > 0, and lambda_max = 2 v a."""
    found = fp.studies.phase_diagram(1, 6, seed=2)
    for b, (largest, outcome, time) in enumerate(
        zip(found["lambda_max"], found["outcome"], found["blowup_time"], strict=True)
    ):
        q, k, v, g = np.random.default_rng([2, 1, b]).standard_normal(4)
        assert largest == pytest.approx(2 * v * k * q)
        assert outcome == ("blows up" if largest > 0 else "converges")
        if largest > 0:
            assert time == pytest.approx(1 / (largest * g * g), rel=1e-6)
    assert found["scaled"] == pytest.approx(np.sign(found["lambda_max"]))
    assert len(set(found["outcome"])) == 2


def test_a_picture_and_its_words(tmp_path):
    found = fp.studies.phase_diagram(2, 2, variant="sinkhorn")
    # |lambda| <= 2 |V| |A|, and Sinkhorn never blows up (Theory 4.5).
    assert np.abs(found["scaled"]).max() <= 1 and "blows up" not in found["outcome"]
    assert found.save(tmp_path).read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path)
    assert again.summary() == found.summary() and again["reason"].tolist() == found["reason"].tolist()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("dimension", {"dimension": 0}), ("draws", {"draws": 1.0}), ("variant", {"variant": 2}), ("seed", {"seed": "0"})],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.phase_diagram(**arguments)
    assert caught.value.name == name
