"""Paths against the closed form of commuting matrices (Theory 3), the grid of Theory 10, and files that read back."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

I = np.eye(2)  # noqa: E741
MIXED = fp.Softmax(I, np.diag([1.0, -1.0]), I)  # blows up along the first axis


@pytest.fixture(scope="module")
def found():
    starts = np.array([[[0.5, 0.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 1.0]]])
    return fp.studies.covariance_paths(MIXED, starts, (0.0, 2.0), frames=20)


def test_paths_and_ends_are_those_of_the_closed_form(found):
    """V = I: S^{-1} = S0^{-1} - t (A + A^T): S11 = 0.5 / (1 - t) blows up at 1, and S22 = s / (1 + 2 s t) vanishes."""
    assert found.cov.shape == (21, 2, 2, 2) and found.t[0] == 0.0 and found.t[-1] == 2.0
    before = found.t < 1
    # rtol of the paths is 1e-8, and near the blow-up an error in time is magnified.
    assert found.cov[before, 0, 0, 0] == pytest.approx(0.5 / (1 - found.t[before]), rel=1e-5)
    assert np.isnan(found.cov[~before, 0]).all()
    assert found.cov[:, 1, 1, 1] == pytest.approx(1 / (1 + 2 * found.t), rel=1e-6)
    assert found["outcome"].tolist() == ["blows up", "converges"] and found["rank"].tolist() == [-1, 0]
    assert found["blowup_time"][0] == pytest.approx(1.0, rel=1e-6)
    assert [found[f"shape{i}"][0] for i in ("11", "12", "22")] == pytest.approx([1, 0, 0], abs=1e-6)
    assert "1 converges, 1 blows up" in found.summary()


def test_a_study_saved_and_loaded_is_the_same(found, tmp_path):
    picture = found.save(tmp_path)
    again = fp.studies.load(tmp_path)
    assert np.array_equal(again.t, found.t) and np.array_equal(again.cov, found.cov, equal_nan=True)
    assert again.parameters["matrices"]["K"] == [[1.0, 0.0], [0.0, -1.0]]
    again.plot(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == picture.read_bytes()


def test_the_grid_is_that_of_the_paper():
    for n, limit, count in ((10, 0.5, 100), (20, 1.0, None), (1, 0.5, 1)):
        S = fp.studies.grid(n, limit)
        assert count in (None, len(S))
        assert np.trace(S, axis1=1, axis2=2) == pytest.approx(1.0) and np.linalg.eigvalsh(S).min() > -1e-15
    assert fp.studies.grid()[0] == pytest.approx(np.array([[0.25, -0.25], [-0.25, 0.75]]))
    # The square has the area 4, the disc pi: about as many points.
    assert len(fp.studies.grid(40, 1.0)) / 1600 == pytest.approx(np.pi / 4, abs=0.05)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("attention", {"attention": 1}),
        ("attention", {"attention": fp.Masked(MIXED)}),
        ("attention", {"attention": fp.Softmax(lambda t: I, I, I)}),
        ("attention", {"attention": fp.Softmax(np.stack([I, I]), I, I)}),
        ("starts", {"starts": I}),
        ("starts", {"starts": np.eye(3)[None]}),
        ("t_span", {"t_span": (1.0, 0.0)}),
        ("t_span", {"t_span": 1.0}),
        ("t_span", {"t_span": (0.0, np.inf)}),
        ("frames", {"frames": 0}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.covariance_paths(**{"attention": MIXED, **arguments})
    assert caught.value.name == name


def test_an_attention_without_gaussians_says_so():
    with pytest.raises(fp.NoGaussianClosure):
        fp.studies.covariance_paths(fp.Sigmoid(I, I, I))


@pytest.mark.parametrize(
    ("n", "limit", "name"), [(0, 0.5, "n"), (2, 1.5, "limit"), (2, 0.9, "limit"), (2, "x", "limit")]
)
def test_wrong_grids_are_named(n, limit, name):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.grid(n, limit)
    assert caught.value.name == name
