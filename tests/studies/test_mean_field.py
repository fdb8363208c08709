"""Errors of random tokens against the limit of their law: fits of known powers, couplings, cells that survive."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde.report import write
from fastpde.studies.limit_reference import Reference
from fastpde.studies.limit_settings import (
    LAWS,
    Setting,
    attention_of,
    has_derivatives,
    named_variants,
    underived,
)
from fastpde.studies.power_laws import fit_rate, fournier_guillin
from fastpde.studies.study_cells import Cells

SMALL = {"sizes": (60, 240, 960), "draws": 6, "times": 2, "steps": 4, "points": 8, "clt_draws": 0}
FEW = SMALL | {"laws": ("ball",), "dimension": 1, "distances": False}
KEPT = Path(__file__).parents[1] / "run" / "kept" / "v0" / "mean-field.study"


def test_the_reference_of_a_gaussian_law_is_its_closure():
    found = Reference.of(Setting("gaussian", "softmax", 0.25), LAWS["gaussian"](2), {"seed": 0, "times": 3})
    exact = fp.solve(found.attention, fp.Gaussian(0.0, np.eye(2)), (0.0, 1.0), t_eval=found.t, rtol=1e-11)
    x = np.random.default_rng(1).standard_normal((4, 2))
    for frame, (mean, cov) in enumerate(zip(exact.mean, exact.cov, strict=True)):
        np.testing.assert_allclose(found.moments[frame][1], cov, atol=2e-5)  # limits of the study are right to 1e-6
        want = found.attention.gaussian_velocity(x, mean, cov)
        np.testing.assert_allclose(found.velocity(frame, x), want, atol=2e-5)


def test_the_same_law_at_all_positions_stays_so_under_a_mask():
    """Averages over what is the same everywhere: the limit is that of the attention without its mask."""
    masked, plain = (
        Reference.of(Setting("ball", name, 0.5), LAWS["ball"](2), {"seed": 0, "times": 2})
        for name in ("masked", "softmax")
    )
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (4, 2))
    np.testing.assert_allclose(masked.push(1, x), plain.push(1, x), atol=1e-5)
    np.testing.assert_allclose(masked.velocity(1, x), plain.velocity(1, x), atol=1e-5)
    np.testing.assert_allclose(masked.moments[1][1], plain.moments[1][1], atol=1e-5)
    assert len(plain.levels(100).counts) == 1 and len(masked.levels(100).counts) == 5


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
    # An error that follows a control closely: what is left is the noise that the control does not have.
    noise = np.abs(np.random.default_rng(3).standard_normal((2, 120)))
    control, error = noise[0] / np.sqrt(n), noise[0] * (1.0 + 0.01 * noise[1]) / np.sqrt(n)
    plain, better = fit_rate(n, draw, error), fit_rate(n, draw, error, control, 1.0 / n)
    assert better.half_width < 0.1 * plain.half_width and abs(better.power + 0.5) < 2 * better.half_width + 1e-3
    assert fit_rate(n, draw, error, noise[1], np.ones(120)).half_width < 1.5 * plain.half_width  # of no use
    assert [fournier_guillin(1, d) for d in (1, 2, 4)] == [-0.5, -0.5, -0.25]
    assert [fournier_guillin(2, d) for d in (1, 3, 4, 5)] == [-0.25, -0.25, -0.25, -0.2]


def test_a_small_study_finds_the_power_and_reads_back(tmp_path):
    done = []
    asked = SMALL | {"sizes": (40, 240, 480), "draws": 3, "clt_draws": 20}
    found = fp.studies.mean_field(("softmax", "exponential"), progress=lambda k, stats: done.append(k), **asked)
    assert done[-1] == 3 * (2 + 3 * 3) and len(found) == 3 * 3 * 3 * 2
    assert found.settings() == [
        ("ball", "softmax", 0.25), ("ball", "exponential", 0.25), ("gaussian", "softmax", 0.25),
    ]  # fmt: skip
    assert found.parameters["skipped"] == ["gaussian exponential"]
    assert "left out, as they have no limit: gaussian exponential" in found.summary()
    for setting in found.settings():
        for t in found.times(setting):
            rate = found.rate("velocity", setting, t)
            assert abs(rate.power - found.expected("velocity")) < 2 * rate.half_width + 0.05
        assert (found["coupling"][found.rows(setting, 0.0)] == 0.0).all()
        rate = found.rate("w2", setting, found.times(setting)[-1])  # of the two smaller sizes
        assert -0.7 < rate.power < -0.15 and found.floor("w2_floor", setting, 0.0) > 0.0
    assert found.expected("w2") == -0.25 and (found["coupling"] <= found["coupling_max"]).all()
    assert found.save(tmp_path).read_bytes()[:4] == b"\x89PNG"
    again = fp.studies.load(tmp_path)
    assert again.summary() == found.summary() and list(again.tables) == ["limits", "clt"]
    page = write(tmp_path).read_text()
    assert "Table limits.csv" in page and "log_rate" in page and "exponential" in page
    for table in ("columns", "limits", "clt"):
        for name, values in getattr(found, table).items():
            np.testing.assert_array_equal(getattr(again, table)[name], values)


def test_distances_to_the_limit_grow_no_faster_than_theory_allows():
    """W_2(mu^n_t, mu_t) <= C W_2(mu^n_0, mu_0), the local rate for what is close; in one dimension W_2 is exact."""
    found = fp.studies.mean_field(("softmax", "l2"), laws=("ball",), strengths=(1.0,), dimension=1, **SMALL)
    for setting in found.settings():
        t = found.times(setting)[-1]
        bound, rate = found.bounds(setting, t)
        assert found.log_ratio(setting, t) <= rate + 1e-6 < bound
    assert "grows by a factor of" in found.summary() and found.expected("w1") == -0.5


def test_a_law_of_ones_own(tmp_path):
    laws = (fp.laws.Ball(1, 2.0), fp.laws.Empirical([[0.0], [1.0]]))
    few = {"sizes": (8, 16), "draws": 2, "dimension": 1, "times": 2, "steps": 2, "distances": False, "clt_draws": 0}
    found = fp.studies.mean_field(("softmax",), laws=laws, cells=tmp_path / "a.cells", **few)
    assert found.parameters["laws"] == ["Ball(d=1, radius=2)", "Empirical(n=2, d=1)"]
    assert len(found.parameters["samples"]) == 2 and np.isnan(found["w2"]).all()
    other = (laws[0], fp.laws.Empirical([[0.0], [2.0]]))  # of the same text
    with pytest.raises(fp.InputError, match=r"^cells: "):
        fp.studies.mean_field(("softmax",), laws=other, cells=tmp_path / "a.cells", **few)


class Local(fp.Exponential):
    """A weight of one's own whose derivative is not known."""

    def __init__(self, Q, K, V):
        super().__init__(Q, K, V, weight=fp.Weight(lambda s: 1.0 / (1.0 + s * s), bounded_by=(1.0, 0.65)))


def test_derivatives_are_known_or_not():
    """What needs the derivative of a weight of one's own without one is not available, which the parameters say."""
    setting = Setting("ball", named_variants([Local])[0], 0.25)
    attention = attention_of(setting, 1, 0)
    assert not has_derivatives(attention) and has_derivatives(fp.Masked(fp.Softmax(*np.ones((3, 2, 2)))))
    assert not has_derivatives(fp.MultiHead([attention, attention]))
    assert underived(["softmax", setting.variant], 1) == {"underived": [setting.variant]} and underived(["l2"], 1) == {}


@pytest.mark.soak
def test_a_weight_of_ones_own_has_no_local_rate(tmp_path):
    """The study goes on without what is not available, and says so; the measured covariance is there."""
    few = FEW | {"sizes": (20, 80), "draws": 2, "clt_draws": 10}
    found = fp.studies.mean_field((Local, "sigmoid"), **few)
    own, other = found.settings()
    assert found.parameters["underived"] == [own.variant]
    assert f"not available: the weight of {own.variant} has no derivative" in found.summary()
    bound, rate = found.bounds(own, 1.0)
    assert np.isfinite(bound) and np.isnan(rate) and np.isfinite(found.bounds(other, 1.0)).all()
    rows = found.clt["variant"] == own.variant
    assert np.isnan(found.clt["predicted"][rows]).all() and (found.clt["measured"][rows] > 0.0).all()
    found.save(tmp_path)
    assert fp.studies.load(tmp_path).summary() == found.summary()


def test_fits_stop_where_the_limit_is_not_known_well_enough():
    """Sizes whose errors are less than ten times that of the limit are not fitted, and the summary says so."""
    found = fp.studies.mean_field(
        ("softmax",), (30, 300, 3000), 2, laws=("gaussian",), dimension=4, times=2, steps=2, points=4, distances=False,
        clt_draws=0,
    )  # fmt: skip
    (setting,) = found.settings()
    t = found.times(setting)[-1]
    assert set(found.limits["reference"]) == {"closure"} and list(found.fitted("coupling", setting, t)) == [
        30,
        300,
        3000,
    ]
    size = [np.sqrt(np.mean(found["coupling"][found.rows(setting, t) & (found["n"] == n)] ** 2)) for n in (30, 300)]
    for error, left in ((np.sqrt(size[0] * size[1]), [30]), (0.9 * size[1], [30, 300])):
        worse = {**found.limits, "error": error / (10.0 * found.limits["length"]), "reference": np.full(2, "sobol")}
        other = type(found)(found.parameters, found.columns, worse)
        assert list(other.fitted("coupling", setting, t)) == left and "standard error of at most" in other.summary()
        assert np.isfinite(other.rate("coupling", setting, t).power) == (len(left) > 1)
        assert ("not known well enough" if len(left) == 1 else "(n <= 300)") in other.summary()


def test_strengths_have_a_panel_of_their_own():
    found = fp.studies.mean_field(("softmax",), strengths=(0.2, 1.2), **FEW)
    assert len(found.figure().axes) == 3  # two errors, powers
    assert "|A| = 1.2" in found.summary()


def test_a_limit_that_cannot_be_followed_is_refused():
    """Linear attention of a law with second moment m blows up at 1 / (2 |A| m) at the latest: here from 5 on."""
    with pytest.raises(fp.InputError, match=r"^strengths: got 0.25 for Ball.* and linear; .*an end of at most"):
        fp.studies.mean_field(("linear",), (10,), 2, laws=(fp.laws.Ball(1, 3.0),), dimension=1)


def test_an_interrupted_study_goes_on(tmp_path):
    """Interrupted after some cells, its file cut in a line: the same table, and only what is missing is made."""
    path, whole = tmp_path / "a.cells", fp.studies.mean_field(("softmax",), **FEW)

    class Enough(Exception):
        pass

    def stop(done, stats):
        if done == 7:
            raise Enough

    with pytest.raises(Enough):
        fp.studies.mean_field(("softmax",), cells=path, progress=stop, **FEW)
    text = path.read_text()
    path.write_text(text[:-20])
    made = []
    found = fp.studies.mean_field(("softmax",), cells=path, progress=lambda k, stats: made.append(k), **FEW)
    for name in whole.columns:
        np.testing.assert_array_equal(found[name], whole[name])
    assert len(path.read_text().splitlines()) == 1 + 19
    with pytest.raises(fp.InputError, match="cells"):
        fp.studies.mean_field(("l2",), cells=path, **FEW)


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
        ("laws", {"laws": "ball"}),
        ("laws", {"laws": ("bal",)}),
        ("laws", {"laws": ("gaussian",), "variants": ("exponential",)}),
        ("variants", {"variants": "softmax"}),
        ("variants", {"variants": ("softmax", "softmax")}),
        ("sizes", {"sizes": (1,)}),
        ("sizes", {"sizes": 5}),
        ("strengths", {"strengths": (0.0,)}),
        ("strengths", {"strengths": ("1",)}),
        ("steps", {"steps": 1}),
        ("dimension", {"dimension": 0}),
        ("draws", {"draws": 1}),
        ("clt_draws", {"clt_draws": 1}),
        ("distances", {"distances": 1}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.mean_field(**arguments)
    assert caught.value.name == name


def test_one_size_has_errors_and_no_power(tmp_path):
    study = fp.studies.mean_field(["l2"], laws=["ball"], sizes=[8], draws=2, clt_draws=2)
    rows = study["t"] == 1.0
    error = np.sqrt((study["coupling"][rows] ** 2).mean())
    assert study.summary().startswith(f"coupling error at the end at n = 8 (one size: no power) l2 {error:.3g}; ")
    study.save(tmp_path / "one")
    assert (tmp_path / "one" / "mean-field.png").stat().st_size > 10_000


def test_a_study_of_an_older_version_is_read():
    """It started from N(0, I) only; what it did not measure is nan, and its picture and its words do without."""
    found = fp.studies.load(KEPT)
    assert found.settings() == [("gaussian", "l2", 0.25)] and np.isnan(found["coupling"]).all()
    assert found.summary().startswith("velocity error ~ n^p, p = l2 ") and "n Cov within" in found.summary()
    assert len(found.figure().axes) == 4  # three errors, covariances
    assert np.isnan(found.bounds(found.settings()[0], 1.0)).all()
    # A variant that does not have an error is left out of its panel.
    columns = {name: np.concatenate([values, values]) for name, values in found.columns.items()}
    half = len(found["n"])
    columns["variant"] = np.repeat(["l2", "sigmoid"], half)
    columns["sliced_w2"][half:] = np.nan
    both = replace(found, columns=columns, parameters=found.parameters | {"variants": ["l2", "sigmoid"]})
    told = [text.get_text() for axes in both.figure().axes[:3] for text in axes.get_legend().get_texts()]
    assert sum("l2" in text for text in told) == 3 and sum("sigmoid" in text for text in told) == 2


@pytest.mark.soak
@pytest.mark.parametrize("d", [1, 2, 3])
def test_tokens_follow_the_limit_at_the_rate_of_theory(d):
    """The coupling error falls like n^{-1/2} in every dimension, under all variants: slopes within 0.05."""
    found = fp.studies.mean_field(
        sizes=(100, 400, 1600), draws=24, laws=("ball",), dimension=d, times=2, distances=False, clt_draws=0
    )
    for setting in found.settings():
        rate = found.rate("coupling", setting, found.times(setting)[-1])
        print(f"d = {d}, {setting.variant}: {rate}")
        assert abs(rate.power + 0.5) < 0.05
