"""Errors of random tokens: their central limit in closed form, fits of known powers, cells that survive."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.mean_field import Reference, _influence, predicted_covariance
from fastpde.studies.power_laws import fit_rate
from fastpde.studies.study_cells import Cells

SMALL = {"sizes": (60, 240, 960), "draws": 6, "times": 2, "steps": 4, "points": 8, "clt_draws": 300}


def test_the_predicted_covariance_has_the_closed_form_of_softmax():
    """S = I: e^{|u|^2} V (I + u u^T) V^T with u = A x (Theory 8.3); 24 nodes are exact to 1e-9 for |u| < 1."""
    rng = np.random.default_rng(0)
    Q, K, V = 0.6 * rng.standard_normal((3, 2, 2))
    x = rng.uniform(-1, 1, (5, 2))
    u = x @ (K.T @ Q).T
    want = np.exp((u * u).sum(axis=1))[:, None, None] * (V @ (np.eye(2) + u[:, :, None] * u[:, None, :]) @ V.T)
    found = predicted_covariance(fp.Softmax(Q, K, V), x)
    np.testing.assert_allclose(found, want, rtol=1e-9)


@pytest.mark.parametrize("name", ["softmax", "l2", "sigmoid"])
def test_measured_covariances_are_the_predicted_ones(name):
    """2000 clouds: a trace in d = 2 is known to 1 / sqrt 2000, and points may share that error: 3.5 deviations."""
    found = fp.studies.mean_field((name,), (10, 20), 2, times=2, steps=1, clt_draws=2000)
    ratio = found.clt["measured"] / found.clt["predicted"]
    assert np.abs(ratio - 1.0).max() < 0.12 and abs(ratio.mean() - 1.0) < 3.5 / np.sqrt(2000)


def test_the_influence_of_a_token_under_sinkhorn_is_the_derivative_of_the_velocity():
    """psi_x(y_j) against central differences of Gamma(x) in the weights w + h (e_j - w), potentials converged."""
    rng = np.random.default_rng(2)
    y, x, w = rng.standard_normal((12, 2)), rng.standard_normal((3, 2)), rng.uniform(0.5, 1.5, 12)
    w /= w.sum()
    Q, K, eps, h = 0.7 * rng.standard_normal((2, 2)), 0.7 * rng.standard_normal((2, 2)), 0.8, 1e-4
    attention = fp.Sinkhorn(Q, K, np.eye(2), eps=eps, tol=1e-13)
    found = _influence((y @ Q.T) @ (y @ K.T).T / eps, (x @ Q.T) @ (y @ K.T).T / eps, y, w) / eps
    for j in range(12):
        ends = [attention.velocity(y, at=x, weights=w + s * h * (np.eye(12)[j] - w), backend="direct") for s in (1, -1)]
        # Third derivatives times h^2 are left: weights of 1/12 change by a thousandth.
        np.testing.assert_allclose(found[:, j], (ends[0] - ends[1]) / (2 * h), atol=3e-6)


def test_moved_nodes_are_the_reference_where_there_is_no_closure():
    reference = Reference.of("sigmoid", 0.25, {"dimension": 2, "seed": 0, "times": 2})
    x = np.random.default_rng(1).standard_normal((4, 2))
    want = reference.attention.gaussian_velocity(x, np.zeros(2), np.eye(2))
    assert reference.nodes is not None
    # The closed form of the sigmoid's integral is good to 3e-10 itself (Theory 2).
    np.testing.assert_allclose(reference.velocity(0, x), want, atol=2e-9)
    closed = Reference.of("softmax", 0.25, {"dimension": 2, "seed": 0, "times": 2})
    assert closed.nodes is None and closed.t[-1] == 1.0


def test_powers_are_fitted_and_their_intervals_cover():
    n = np.repeat([10, 100, 1000], 40)
    draw = np.tile(np.arange(40), 3)
    exact = fit_rate(n, draw, 3.0 * n**-0.75)
    assert exact.power == pytest.approx(-0.75) and exact.factor == pytest.approx(3.0)
    assert exact.half_width < 1e-12
    covered = 0
    for seed in range(50):
        noise = np.abs(np.random.default_rng(seed).standard_normal(120))
        rate = fit_rate(n, draw, noise / np.sqrt(n))
        covered += abs(rate.power + 0.5) < rate.half_width
    assert covered >= 42  # 95 % of 50, less three standard deviations of a binomial
    assert np.isnan(fit_rate(n, draw, np.full(120, np.nan)).power)
    assert np.isnan(fit_rate(n[:40], draw[:40], np.ones(40)).power)


def test_a_small_study_finds_the_power_and_reads_back(tmp_path):
    done = []
    found = fp.studies.mean_field(("softmax", "sigmoid"), progress=lambda k, stats: done.append(k), **SMALL)
    assert done[-1] == 2 * 3 * 6 and len(found) == 2 * 3 * 6 * 2
    for name in ("softmax", "sigmoid"):
        for t in np.unique(found["t"]):
            rate = found.rate("velocity", name, 0.25, t)
            assert abs(rate.power + 0.5) < 2 * rate.half_width + 0.05
    assert np.isnan(found["sliced_w2"][found["variant"] == "sigmoid"]).all()
    assert found.save(tmp_path).read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path)
    assert again.summary() == found.summary()
    np.testing.assert_array_equal(again["cov"], found["cov"])


def test_strengths_have_a_panel_of_their_own(tmp_path):
    found = fp.studies.mean_field(("softmax",), strengths=(0.2, 1.2), **SMALL)
    assert len(found.figure().axes) == 4
    assert "|A| = 1.2" in found.summary()


def test_an_interrupted_study_goes_on(tmp_path):
    """Interrupted after some cells, its file cut in a line: the same table, and only what is missing is made."""
    path, whole = tmp_path / "a.cells", fp.studies.mean_field(("softmax",), **SMALL)

    class Enough(Exception):
        pass

    def stop(done, stats):
        if done == 7:
            raise Enough

    with pytest.raises(Enough):
        fp.studies.mean_field(("softmax",), cells=path, progress=stop, **SMALL)
    text = path.read_text()
    path.write_text(text[:-20])
    made = []
    found = fp.studies.mean_field(("softmax",), cells=path, progress=lambda k, stats: made.append(k), **SMALL)
    for name in whole.columns:
        np.testing.assert_array_equal(found[name], whole[name])
    assert len(path.read_text().splitlines()) == 1 + 18
    with pytest.raises(fp.InputError, match="cells"):
        fp.studies.mean_field(("l2",), cells=path, **SMALL)


def test_cells_keep_rows_to_the_bit(tmp_path):
    cells = Cells(tmp_path / "c", {"n": 3})
    cells.add("a", [{"x": 0.1, "y": float("nan")}])
    again = Cells(tmp_path / "c", {"n": 3})
    assert "a" in again and "b" not in again
    assert again["a"][0]["x"] == 0.1 and np.isnan(again["a"][0]["y"])
    assert json.loads((tmp_path / "c").read_text().splitlines()[0]) == {"parameters": {"n": 3}}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("variants", {"variants": "softmax"}),
        ("variants", {"variants": ("softmax", "softmax")}),
        ("sizes", {"sizes": (1,)}),
        ("sizes", {"sizes": 5}),
        ("strengths", {"strengths": (0.0,)}),
        ("strengths", {"strengths": ("1",)}),
        ("steps", {"steps": 1}),
        ("dimension", {"dimension": 4}),
        ("draws", {"draws": 1}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.mean_field(**arguments)
    assert caught.value.name == name


def test_one_size_has_errors_and_no_power(tmp_path):
    study = fp.studies.mean_field(["l2"], sizes=[8], draws=2, clt_draws=2)
    rows = study["t"] == 0.0
    error = np.sqrt((study["velocity"][rows] ** 2).mean())
    assert study.summary().startswith(f"velocity error at n = 8 (one size: no power) l2 {error:.3g}; ")
    study.save(tmp_path / "one")
    assert (tmp_path / "one" / "mean-field.png").stat().st_size > 10_000
