"""Distances of clouds to the limit of their law: closed forms on the line, moved with the flow, and their floors."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.limit_distances import EXACT
from fastpde.studies.limit_reference import Reference
from fastpde.studies.limit_settings import LAWS, Setting, named_laws, settings
from fastpde.studies.mask_levels import Levels

PARAMETERS = {"seed": 0, "times": 2}


def reference(law: str, variant: str, d: int = 1, strength: float = 0.25) -> Reference:
    return Reference.of(Setting(law, variant, strength), LAWS[law](d), PARAMETERS)


def to(found: Reference, x: np.ndarray, frame: int):
    """W_1, W_2 and the sliced W_2 of tokens without positions."""
    return found.distances.to(x, frame, Levels.of(len(x), False))[1:]


@pytest.mark.parametrize("n", [1, 2, 37])
def test_on_the_line_distances_to_a_normal_law_are_the_closed_forms(n):
    """`fp.wasserstein` has W_p to N(0, 1) from integrals of the normal density."""
    x = np.random.default_rng(n).standard_normal((n, 1)) + 0.3
    w1, w2, slices = to(reference("gaussian", "softmax"), x, 0)
    law = fp.Gaussian(0.0, np.eye(1))
    # The integrand of W_1 has a kink in some parts of the levels, and 8 points in each.
    assert w1 == pytest.approx(fp.wasserstein(x, law, 1), rel=2e-3)
    assert w2 == pytest.approx(fp.wasserstein(x, law), rel=1e-7) and slices == w2


def test_quantiles_move_with_the_flow():
    """Linear attention with A = a, V = 1 makes x' = a m x, m' = 2 a m^2 with m(0) = 1/3: the law stays uniform."""
    a, t = 0.25, 1.0
    found = reference("ball", "linear", strength=a)
    sign = float(found.attention.Q(0.0)[0, 0] / found.attention.K(0.0)[0, 0])  # of the random 1 x 1 matrix
    radius = (1.0 - 2.0 * sign * a * t / 3.0) ** -0.5
    x = np.random.default_rng(0).uniform(-1, 1, 11)
    levels = np.arange(12) / 11
    parts = np.sort(x)[:, None] - radius * (2.0 * np.stack([levels[:-1], levels[1:]], axis=1) - 1.0)
    want = (parts[:, 0] ** 3 - parts[:, 1] ** 3).sum() / (6.0 * radius)  # int (x_i - q(u))^2 du
    assert to(found, x[:, None], 1)[1] ** 2 == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("n", [10, 80])
def test_the_mean_square_of_the_distance_of_uniform_tokens(n):
    """E W_2^2 = 2 / (3 n) on [-1, 1] for every n: 400 clouds know it to 5 %, or three standard errors."""
    found = reference("ball", "linear")
    squares = [n * to(found, fp.laws.Ball(1).sample(n, seed), 0)[1] ** 2 for seed in range(400)]
    assert abs(np.mean(squares) - 2.0 / 3.0) < 3.0 * np.std(squares) / 20.0


@pytest.mark.parametrize(("law", "d"), [("mixture", 1), ("ball", 2)])
def test_points_stand_for_the_law_elsewhere(law, d):
    """The floor is what two references are apart; a cloud of a thousand tokens is farther away."""
    found = reference(law, "softmax", d)
    assert found.distances.clouds.shape == (2, 2**14, d)
    row = found.rows()[1]
    x = found.law.sample(EXACT, 3)
    w1, w2, slices = to(found, x, 0)
    assert 0.0 < row["w2_floor"] < w2 and 0.0 < row["sliced_floor"] < 0.3 * slices and row["w1_floor"] < w1 <= w2
    assert w2 == pytest.approx(float(fp.wasserstein(x, found.law.sobol(2**14, 0)[: 2048 if d > 1 else None])), rel=1e-9)
    if d > 1:
        many = found.law.sample(EXACT + 1, 3)
        want = fp.wasserstein(many, found.distances.clouds[0], method="sliced", projections=16)
        assert np.isnan(to(found, many, 0)[0]) and to(found, many, 0)[2] == pytest.approx(want, rel=1e-9)


def test_bounds_and_rates_of_the_limit():
    """The bound is that of Theory 8.1 at R0 = 1, the rate that of linear attention.

    d = 1: x' = a m x changes by a m dx + 2 a x E[y dy]: the first factor for one point, and 3 a m for all.
    """
    found = reference("ball", "linear")
    sign = float(found.attention.Q(0.0)[0, 0] / found.attention.K(0.0)[0, 0])
    last = found.rows()[-1]
    assert last["log_bound"] == fp.stability_bound(found.attention, 1.0, 1.0, log=True)
    along = -0.5 * np.log(1.0 - 2.0 * sign * 0.25 / 3.0)  # int a m dt; with a < 0 the larger one is that of a point
    assert last["log_rate"] == pytest.approx(max(3.0 * along, along), rel=1e-4)
    gaussian = reference("gaussian", "softmax").rows()[-1]
    assert np.isnan(gaussian["log_bound"]) and np.isfinite(gaussian["log_rate"])


def test_laws_and_settings():
    own = fp.laws.Ball(2, 2.0)
    found = named_laws(("ball", own), 2)
    assert list(found) == ["ball", "Ball(d=2, radius=2)"] and found["Ball(d=2, radius=2)"] is own
    asked, skipped = settings(named_laws(("ball", "gaussian"), 2), ["exponential", "linear", "masked"], [0.1, 0.2])
    assert len(asked) == 2 * 5 and skipped == ["gaussian exponential"]
    with pytest.raises(fp.InputError, match=r"laws: .* bounded support"):
        settings(named_laws(("gaussian", "mixture"), 2), ["exponential"], [0.1])
    for laws in (("bal",), (own,), ("ball", "ball"), "ball", (3,)):
        with pytest.raises((fp.InputError, fp.InputTypeError), match=r"^laws: "):
            named_laws(laws, 3)
    for d in (1, 2, 3):
        assert {name: law.dimension for name, law in named_laws(list(LAWS), d).items()} == dict.fromkeys(LAWS, d)
