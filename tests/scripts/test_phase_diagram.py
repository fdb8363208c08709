"""The phase diagram: its tolerance, its physics on few systems, its picture."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from ..problems import ROOT

SPEC = importlib.util.spec_from_file_location("phase_diagram", ROOT / "scripts" / "phase_diagram.py")
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def test_tolerance_is_enough_for_the_condition_on_pairs():
    """Two tokens of the sphere that far on either side of their mean have the inner product 1 - 1e-3."""
    angle = 2 * np.arcsin(script.TOLERANCE)
    assert np.cos(angle) == pytest.approx(1 - 1e-3, abs=1e-12)


def test_fractions_count_what_has_collapsed():
    values = script.fractions(np.array([0.0, 0.3, 29.95, np.nan]))
    assert values[[0, 2, 3, 299, 300]].tolist() == [0.25, 0.25, 0.5, 0.5, 0.75]


def test_hot_and_many_dimensional_systems_collapse_sooner():
    """beta = 0 pulls all to one point; in the plane beta = 9 leaves several clusters for very long (metastability)."""
    flat, high = (script.uniform_on_sphere(40, d, [0, d], "float64") for d in (2, 16))
    assert np.isnan(script.collapse_times(9.0, flat)).all()
    assert np.isfinite(script.collapse_times(0.0, flat)).mean() > 0.9
    early, whole = (script.collapse_times(1.0, high, early=early) for early in (True, False))
    assert np.isfinite(early).all() and np.array_equal(early, whole)
    assert np.nanmedian(early) < np.nanmedian(script.collapse_times(1.0, flat))


def test_the_picture_is_written(tmp_path, capsys):
    out = tmp_path / "diagram.png"
    arguments = ["--systems", "4", "--betas", "3", "--dimensions", "2", "3", "--float32", "--quiet", "--out", str(out)]
    assert script.main(arguments) == 0
    assert out.read_bytes()[:4] == b"\x89PNG" and "d = 3: 3 x 4 systems" in capsys.readouterr().out


def test_bad_arguments_are_named(capsys):
    for arguments in (["--systems", "0"], ["--dimensions", "1"], ["--out", "/no/such/folder/x.png"]):
        with pytest.raises(SystemExit):
            script.main(arguments)
        assert arguments[0] in capsys.readouterr().err
