"""Where the energy of Gaussian laws bends down: what theory excludes is not found, what must be there is."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.theory import gaussian_energy as ge


@pytest.fixture(scope="module")
def found():
    return fp.studies.energy_convexity((1, 2), 60)


def test_theory_excludes_what_is_not_found(found):
    """Wasserstein: E is convex if A is semidefinite and laws are centred, or A >= 0 (Theory 7); d = 1 twisted too."""
    for spectrum in ("positive", "negative"):
        assert found.violations(spectrum=spectrum, means="zero") == (0, 3 * 2 * 60)
    for search in ("geodesics", "wasserstein"):
        assert found.violations(spectrum="positive", search=search)[0] == 0
    bad, count = found.violations(spectrum="indefinite", search="wasserstein")
    assert count == 2 * 60 and bad > 0.8 * count
    assert found.violations(d=1, spectrum="negative", means="any", search="wasserstein")[0] > 0


def test_a_negative_direction_is_one_of_the_energy():
    """d = 1, A = -1, S = s: along m E is e^{-m^2 / (1 + s)} up to a factor, and bends down at m^2 < (1 + s) / 2."""
    A, S = np.array([[[-1.0]]]), np.array([[[0.2]]])
    for m, down in ((0.7, True), (0.85, False)):
        hessian, metric = ge.hessian_wasserstein(A, np.array([[m]]), S)
        assert (hessian[0, 0, 0] < 0.0) == down and metric[0, 0, 0] == 1.0


def test_it_is_saved_read_and_goes_on(found, tmp_path):
    picture = found.save(tmp_path / "a")
    assert picture.name == "energy-convexity.png" and picture.read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path / "a")
    assert again.summary() == found.summary() and "wasserstein" in again.summary()
    np.testing.assert_array_equal(again["worst"], found["worst"])
    kept = tmp_path / "kept"
    fp.studies.energy_convexity((1, 2), 60, cells=kept)
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:3]))
    other = fp.studies.energy_convexity((1, 2), 60, cells=kept)
    assert kept.read_text() == "".join(lines)
    np.testing.assert_array_equal(other["violations"], found["violations"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dimensions", {"dimensions": (0,)}),
        ("gaussians", {"gaussians": 0}),
        ("spectra", {"spectra": ("round",)}),
        ("spectra", {"dimensions": (1,), "spectra": ("indefinite",)}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.energy_convexity(**arguments)
    assert caught.value.name == name
