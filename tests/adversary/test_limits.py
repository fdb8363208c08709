"""`fp.limit` on nasty laws: a verdict is right or UNDECIDED. Tolerances are those of `limits.Truth`."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .limits import (
    BLOWS_UP,
    CONVERGES,
    FAR,
    GROWS,
    OSCILLATES,
    UNDECIDED,
    Head,
    Law,
    Truth,
    follow,
    judged,
    laws,
    tried,
)

I2 = np.eye(2)


def end(V, cov, *, A=I2, **options):
    return fp.limit(fp.Softmax(A, np.eye(len(A)), V), fp.Gaussian(0.0, cov), **options)


def test_no_verdict_is_wrong():
    """Two laws of each kind, four at random; most are decided, and the oracle knows most of them."""
    counts, wrong = tried(seed=0, count=24, most=1000)
    assert not wrong, "\n".join(wrong)
    assert counts["right"] >= 10 and counts["unknown"] <= 5, counts


@pytest.mark.soak
def test_no_verdict_of_a_thousand_is_wrong():
    counts, wrong = tried(seed=1, count=1000)
    print(dict(counts))
    assert not wrong, "\n".join(wrong)
    assert counts["right"] > 600 and counts["unknown"] < 200, counts


def test_the_oracle_can_fail_a_verdict():
    """A law that is followed, judged against a false truth."""
    law = Law("false", [Head("Softmax", I2, I2)], np.diag([1.0, 2.0]), known=Truth(CONVERGES))
    assert judged(law)[0] == "WRONG"
    assert judged(Law("true", law.heads, law.cov, known=Truth(BLOWS_UP, time=0.25)))[0] == "right"


def test_the_oracle_agrees_with_formulas():
    """By its way: s' = 2 s^2, s' = -2 s^2 and L2 at its rate 2 v q / k (Theory 3); to its tolerance, 1e-8 a step."""
    one = np.eye(1)
    assert follow(Law("up", [Head("Softmax", one, one)], 0.5 * one)).time == pytest.approx(1.0, rel=1e-6)
    down = follow(Law("down", [Head("Softmax", one, -one)], 0.5 * one))
    assert down.outcome is CONVERGES and down.rank == 0 and FAR > 1e6
    growing = follow(Law("grows", [Head("L2", one, 0.7 * one, 2 * one)], 0.5 * one))
    assert growing.outcome is GROWS and growing.rate == pytest.approx(2 * 0.7 / 4, rel=1e-2)


@pytest.mark.parametrize("e", [3e-4, 1e-6, 1e-12])
def test_a_slow_blow_up_is_no_oscillation(e):
    """V = e + J, A = I: eigenvalues r' = 2 e r^2 while S turns, t* = 1 / (2 e 2). It said OSCILLATES."""
    V, S0 = np.array([[e, 1.0], [-1.0, e]]), np.diag([1.0, 2.0])
    found = end(V, S0)
    assert found.outcome is BLOWS_UP and found.blowup_time == pytest.approx(1 / (4 * e), rel=1e-12)
    assert end(-V, S0).outcome is CONVERGES and end(-V, S0).rank == 0


def test_a_slow_drift_is_not_excluded_without_theory():
    """As above, but A is not a multiple of I and no closed form holds: a trend is too slow to be seen, or denied."""
    V, A = np.array([[1e-4, 1.0], [-1.0, 3e-4]]), np.diag([1.0, 1.5])
    found = end(V, np.diag([1.0, 2.0]), A=A)
    assert found.outcome is UNDECIDED and found.rank == -1 and np.isnan(found.cov).all()
    assert "t = " in found.reason


def test_a_turning_law_that_cannot_drift_oscillates():
    """A V skew for A definite: |A|^{1/2} S |A|^{1/2} keeps its eigenvalues."""
    A = np.array([[2.0, 0.5], [0.5, 1.0]])
    V = np.array([[0.0, 1.0], [-1.0, 0.0]]) @ A  # A V = A J A is skew
    assert end(V, np.diag([1.0, 0.3]), A=A, closed_forms=False).outcome is OSCILLATES


@pytest.mark.parametrize("closed_forms", [True, False])
@pytest.mark.parametrize("thin", [1e-6, 1e-10, 1e-13])
def test_a_thin_direction_blows_up(thin, closed_forms):
    """s' = 2 s^2 from `thin`, beside a direction that vanishes. It said CONVERGES.

    The time is that of steps to 1e-9; the thin direction is one of a factor, so its digits are its own.
    """
    found = end(np.diag([-1.0, 1.0]), np.diag([1.0, thin]), closed_forms=closed_forms)
    assert found.outcome is BLOWS_UP and found.blowup_time == pytest.approx(0.5 / thin, rel=1e-6)


def test_what_is_too_thin_to_be_seen_is_exact_in_closed_form():
    assert end(np.diag([-1.0, 1.0]), np.diag([1.0, 1e-100])).blowup_time == pytest.approx(5e99, rel=1e-9)
    assert end(np.diag([-1.0, 1.0]), np.diag([1.0, 1e-100]), closed_forms=False).outcome is UNDECIDED
    # S' = diag(0, 2e-28) is not zero, though it is less than rounding of |S| |M|.
    assert end(np.diag([0.0, 1.0]), np.diag([1.0, 1e-14])).outcome is BLOWS_UP


def test_small_eigenvalues_of_the_values_have_their_sign():
    """V = diag(-1, e), A = I: e decides, however small."""
    assert end(np.diag([-1.0, 1e-15]), I2).blowup_time == pytest.approx(5e14, rel=1e-9)
    assert end(np.diag([-1.0, -1e-15]), I2).rank == 0
    assert end(np.diag([-1.0, 0.0]), I2).rank == 1


@pytest.mark.parametrize("power", [-300, -200, -155, 155, 200, 300])
@pytest.mark.parametrize("closed_forms", [True, False])
def test_units_of_length_do_not_matter(power, closed_forms):
    """S0 -> c S0 changes the unit of time alone. Beyond 1e155 it said "stationary"."""
    c = 10.0**power
    up = fp.limit(fp.Softmax(I2, I2, I2), fp.Gaussian(0.0, c * np.diag([1.0, 2.0])), closed_forms=closed_forms)
    assert up.outcome is BLOWS_UP and up.blowup_time * c == pytest.approx(0.25, rel=1e-6)
    V = np.array([[1.0, 0.3], [-0.5, 1.0]])
    line = fp.limit(fp.Softmax(I2, np.diag([1.0, -1.0]), V), fp.Gaussian(0.0, c * np.diag([1.0, 2.0])))
    plain = fp.limit(fp.Softmax(I2, np.diag([1.0, -1.0]), V), fp.Gaussian(0.0, np.diag([1.0, 2.0])))
    assert line.outcome is plain.outcome is CONVERGES and line.rank == plain.rank == 1
    np.testing.assert_allclose(line.cov / c, plain.cov, rtol=1e-6)


def test_growth_that_ends_at_a_line_is_no_blow_up():
    """S grows by e^31 towards a line on which it rests, as LSODA finds to rtol 1e-13."""
    Q, K, V, G = np.random.default_rng([1, 2, 2, 200]).standard_normal((4, 2, 2))
    found = fp.limit(fp.Softmax(Q, K, V), fp.Gaussian(0.0, G @ G.T))
    assert found.outcome in (fp.Outcome.CONVERGES, fp.Outcome.UNDECIDED)


def test_a_line_that_turns_late_is_not_what_it_seems():
    """S = u u^T, u = (x, y), x' = p x, y' = 2 p y, p = x^2 - y^2 (Theory 3): x seems to blow up at 1/2, till y = x.

    y / x^2 is kept: u ends at x = y = 1 / thin, S of rank one and 1 / thin^2. It said BLOWS_UP.
    """
    thin = 1e-5
    found = end(np.diag([1.0, 2.0]), np.outer([1.0, thin], [1.0, thin]), A=np.diag([1.0, -1.0]))
    assert found.outcome in (CONVERGES, UNDECIDED)
    if found.outcome is CONVERGES:
        np.testing.assert_allclose(found.cov, thin**-2 * np.ones((2, 2)), rtol=1e-3)


def test_a_head_that_wins_where_S_is_large():
    """L2 with K = 1e-5 makes S grow as s' = 3 s^2 ..., until |K|^2 s is near one, where Softmax with V = -1 wins."""
    K = 1e-5 * np.eye(1)
    one = np.eye(1)
    both = fp.MultiHead([fp.L2(one / 1e-5, K, 2 * one), fp.Softmax(one, one, -one)])
    found = fp.limit(both, fp.Gaussian(0.0, one))
    assert found.outcome is not BLOWS_UP


def test_rounding_does_not_choose():
    """A law at rest on an axis, but for rounding, whose flow leaves the axis: no two floats agree on where it goes."""
    c, s = np.cos(0.3), np.sin(0.3)
    R = np.array([[c, -s], [s, c]])
    u = R[:, 0]
    V, A = R @ np.diag([1.0, 2.0]) @ R.T, R @ np.diag([1.0, -1.0]) @ R.T
    assert end(V, np.outer(u, u), A=A, closed_forms=False).outcome is UNDECIDED


def test_a_law_whose_linearisation_leaves_the_range_of_floats():
    """L2 beside Sinkhorn, tokens of 1e30: it ended with a LinAlgError while the way was judged, and grows."""
    law = list(laws(1, 491))[490]
    assert judged(law, most=1500)[0] == "right"


@pytest.mark.parametrize("e", [1e-7, 1e-12])
def test_a_weak_head_that_does_not_saturate_takes_over(e):
    """S' = 2 S (+-e S + 2 S / (1 + 2 S)): S grows like e^{2t} until e S is about one. Then it blows up, or rests.

    It said GROWS.
    """
    one = np.eye(1)

    def found(sign):
        heads = [fp.Softmax(e * one, one, sign * one), fp.L2(one, one, one)]
        return fp.limit(fp.MultiHead(heads), fp.Gaussian(0.0, one))

    assert found(1.0).outcome in (BLOWS_UP, UNDECIDED)
    assert found(-1.0).outcome in (CONVERGES, UNDECIDED)
    if found(-1.0).outcome is CONVERGES:
        assert found(-1.0).rank == 1


@pytest.mark.parametrize("left", [1e-5, 1e-6])
def test_heads_that_cancel_to_first_order(left):
    """S' = 2 S^2 (left - 4 S + ...) at small S: it rests at S = left / 4, where it said that S vanishes."""
    one = np.eye(1)
    heads = [fp.Softmax(one, one, -(2.0 - left) * one), fp.L2(one, one, one)]
    found = fp.limit(fp.MultiHead(heads), fp.Gaussian(0.0, one))
    assert found.outcome is UNDECIDED or (found.outcome is CONVERGES and found.rank == 1)


def test_a_point_mass_whose_mean_blows_up():
    """Linear attention: m' = |m|^2 m. It said CONVERGES."""
    point = fp.Gaussian([1.0, 0.0], np.zeros((2, 2)))
    assert fp.limit(fp.Linear(np.eye(2), np.eye(2), np.eye(2)), point).outcome is UNDECIDED
