"""Positions of tokens under a mask: how near many tokens at a position come, what positions cost, and what is known."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.limit_distances import EXACT
from fastpde.studies.limit_reference import Reference
from fastpde.studies.limit_settings import LAWS, Setting
from fastpde.studies.mask_levels import Levels


def reference(d: int) -> Reference:
    return Reference.of(Setting("ball", "masked", 0.25), LAWS["ball"](d), {"seed": 0, "times": 2})


def test_tokens_are_shared_out_to_positions():
    levels = Levels.of(103, True)
    assert sorted(levels.counts) == [20, 20, 21, 21, 21] and levels.counts.sum() == 103
    np.testing.assert_allclose(levels.places, [0.1, 0.3, 0.5, 0.7, 0.9])
    assert list(levels.of_tokens(levels.starts)) == [0, 1, 2, 3, 4] and levels.of_tokens(np.array([102])) == [4]
    assert list(levels.spread(7)) == [0, 0, 1, 2, 2, 3, 4] and list(levels.spread(2)) == [0, 2]
    assert list(Levels.of(10**7, True).counts.shape) == [215] and list(Levels.of(50, False).counts) == [50]


def test_errors_that_means_make():
    """e^{tA} - I against its series with averages in a loop, and its mean square against random errors of means."""
    levels, t = Levels.of(103, True), 0.8
    stream = np.random.default_rng(0)
    e = stream.standard_normal((5, 20_000)) / np.sqrt(levels.counts)[:, None]

    def seen(values):
        return np.array([levels.counts[: k + 1] @ values[: k + 1] / levels.counts[: k + 1].sum() for k in range(5)])

    term, total = e, 0.0
    for power in range(1, 20):
        term = t / power * seen(term)
        total = total + term
    np.testing.assert_allclose(levels.drift(t) @ e, total, atol=1e-13)
    for found, errors in ((levels.expected(t), total), (levels.expected(), seen(e))):
        squares = (levels.masses * levels.seen) @ errors**2
        assert abs(found - squares.mean()) < 4.0 * squares.std() / np.sqrt(squares.size)
        assert squares[0] == pytest.approx(levels.of_means(errors[:, :1]) ** 2)
    plain = Levels.of(50, False)
    assert plain.drift(t)[0, 0] == pytest.approx(np.expm1(t)) and plain.expected(t) == pytest.approx(
        np.expm1(t) ** 2 / 50
    )
    x = stream.standard_normal((103, 2))
    parts = np.split(x, levels.starts[1:])
    want = sum(seen * (part**2).sum() for seen, part in zip(levels.seen, parts, strict=True)) / 103
    assert levels.size(x, levels.of_tokens(np.arange(103))) ** 2 == pytest.approx(want)


@pytest.mark.parametrize("d", [1, 2])
def test_distances_are_conditional(d):
    """Those of `fp.conditional_wasserstein` to many points of the law at each position; exact on the line."""
    found, levels = reference(d), Levels.of(60, True)
    x = found.law.sample(60, 1)
    how, w1, w2, slices = found.distances.to(x, 0, levels)
    assert how == ("quantiles" if d == 1 else "points")
    y = found.law.sobol(2**10, 0) if d > 1 else np.linspace(-1.0, 1.0, 8001)[1::2, None]
    at, every = np.repeat(np.arange(4), levels.counts), np.repeat(np.arange(4), len(y))
    for p, w in ((1, w1), (2, w2)):
        want = fp.conditional_wasserstein(x, np.tile(y, (4, 1)), at, p, y_positions=every)
        assert w == pytest.approx(want, rel=1e-3 if d == 1 else 1e-9)  # points of the line are 5e-4 apart
    assert w1 < w2 and (slices == w2 if d == 1 else slices < w2)
    alone = found.distances.to(x, 0, Levels.of(60, False))
    assert alone.w2 < w2
    if d > 1:
        many = Levels(np.array([EXACT + 1]))
        assert found.distances.to(found.law.sample(EXACT + 1, 1), 0, many).how == "sliced"


def test_many_tokens_at_a_position_come_near_their_law():
    """E d_2^2 = 2 / (3 n / m) with m positions of n / m uniform tokens each, and 2 / 3 with one token at a position."""
    found = reference(1)
    for levels in (Levels(np.full(4, 20)), Levels(np.ones(16, int))):
        n = int(levels.counts.sum())
        squares = [found.distances.to(found.law.sample(n, seed), 0, levels).w2 ** 2 for seed in range(40)]
        want = 2.0 / (3.0 * levels.counts[0])
        assert abs(np.mean(squares) - want) < 3.0 * np.std(squares) / np.sqrt(40)


def test_what_positions_cost():
    """Laws N(s, 1) at positions s: a sum over atoms is off by 1/m at their middles and by 1/m^2 at ends of their parts.

    The field of N(r, 1) for r in [0, s] is the mean of the density e^{ur} on [0, s], u = Ax, plus u. Sums over the
    nodes of a rule of 24 points are exact to rounding.
    """
    u, x = 0.7, np.array([[1.0]])
    z, w = np.polynomial.hermite_e.hermegauss(24)

    def exact(s):
        return u + s / -np.expm1(-u * s) - 1.0 / u

    attention, off = fp.Masked(fp.Softmax([[u]], [[1.0]], [[1.0]])), []
    for m in (8, 16, 32, 64):
        levels = Levels(np.full(m, len(z)))
        tokens = (levels.places[:, None] + z).reshape(-1, 1)
        middle = m // 2
        seen = attention.velocity(
            tokens, at=x, weights=np.tile(w / w.sum() / m, m), positions=np.repeat(levels.places, levels.counts),
            at_positions=levels.places[[middle]],
        )[0, 0]  # fmt: skip
        off.append([abs(seen - exact(levels.places[middle])), abs(seen - exact((middle + 1) / m))])
    orders = np.polyfit(np.log([8, 16, 32, 64]), np.log(off), 1)[0]
    np.testing.assert_allclose(orders, [-1.0, -2.0], atol=0.15)


def test_a_masked_study_in_small():
    """Conditional distances fall with n, grow less than the bound of masked attention, and couplings have n^{-1/2}."""
    found = fp.studies.mean_field(
        ("masked",), (64, 512, 4096), 4, laws=("ball",), dimension=1, times=2, steps=4, points=8, clt_draws=0
    )
    (setting,) = found.settings()
    t = found.times(setting)[-1]
    assert list(np.unique(found["positions"])) == [4, 8, 16] and set(found["distances"]) == {"quantiles"}
    rate = found.rate("w2", setting, t)
    assert abs(rate.power + 1.0 / 3.0) < 2.0 * rate.half_width < 0.2 and found.expected("w2", setting) == pytest.approx(
        -1.0 / 6.0
    )
    rate = found.rate("coupling", setting, t)
    assert abs(rate.power + 0.5) < 0.05 and rate.half_width < 0.05
    bound, local = found.bounds(setting, t)
    assert found.log_ratio(setting, t) < local < bound
