"""Step size control by itself."""

import math

import numpy as np
import pytest

from fastpde.integrate.controller import FixedStep, PIController, Span
from fastpde.step_rules import (
    factor,
    factors,
    first_guess,
    remember,
    second_guess,
    shrink,
    smallest_step,
    smallest_steps,
    target,
    targets,
)

CONTROL = PIController(1e-6, 1e-9, order=5)


def test_span():
    assert Span(0.0, 2.0).direction == 1.0
    assert Span(2.0, 0.0).direction == -1.0
    assert Span(2.0, 0.0).reached(1.0, 0.5)
    assert not Span(0.0, 2.0).reached(1.0, 0.5)


def test_factor_is_monotone_and_clipped():
    factors = [factor(CONTROL.rule, 10.0**-k, 1.0, 0) for k in range(12)]
    assert factors == sorted(factors)
    assert factors[0] == CONTROL.rule.safety  # err = prev = 1: both powers are exactly 1
    assert factors[-1] == CONTROL.rule.max_factor
    assert factor(CONTROL.rule, 0.0, 1.0, 0) == CONTROL.rule.max_factor


def test_no_growth_right_after_a_rejection():
    assert factor(CONTROL.rule, 1e-8, 1.0, 1) == 1.0
    assert factor(CONTROL.rule, 0.0, 1.0, 1) == 1.0


def test_integral_part_damps_a_growing_error():
    # The same error is answered with a smaller step when the step before had a smaller one: the error is on
    # its way up.
    assert factor(CONTROL.rule, 0.5, 0.1, 0) < factor(CONTROL.rule, 0.5, 1.0, 0)


def test_shrink():
    assert shrink(CONTROL.rule, math.nan) == shrink(CONTROL.rule, math.inf) == CONTROL.rule.not_finite_factor
    assert shrink(CONTROL.rule, 1e30) == CONTROL.rule.min_factor
    assert shrink(CONTROL.rule, 1.0 + 1e-9) <= CONTROL.rule.safety  # always shrinks, so that rejections are bounded
    assert remember(CONTROL.rule, 0.0) == CONTROL.rule.smallest_error


def test_target_lands_on_the_end():
    span = Span(0.0, 1.0)
    assert target(CONTROL.rule, 0.9, 0.5, span.end) == (1.0, 1.0 - 0.9)
    assert target(CONTROL.rule, 0.5, 0.499, span.end)[0] == 1.0  # less than 1 % would remain
    t, h = target(CONTROL.rule, 0.3, 0.1, span.end)
    assert (t, h) == (0.3 + 0.1, (0.3 + 0.1) - 0.3)
    assert target(CONTROL.rule, 0.1, -0.5, 0.0) == (0.0, -0.1)


@pytest.mark.parametrize(
    ("step", "t1", "count", "last"),
    [(0.1, 1.0, 10, 0.1), (1.0, 6.0, 6, 1.0), (0.3, 1.0, 4, 0.1), (2.0, 1.0, 1, 1.0), (0.25, -1.0, 4, -0.25)],
)
def test_fixed_step_grid(step, t1, count, last):
    span = Span(0.0, t1)
    control = FixedStep(step, span)
    assert control.count == count
    times = [control.target(i)[0] for i in range(count)]
    assert times == [(i + 1) * math.copysign(step, t1) for i in range(count - 1)] + [t1]
    # The last step is the difference of two times of size one: one rounding each.
    assert control.target(count - 1)[1] == pytest.approx(last, abs=4e-16)


def test_whole_steps_are_whole():
    # 0.1 * 10 differs from 1 by rounding alone: all ten steps have the same bits.
    span = Span(0.0, 1.0)
    assert {FixedStep(0.1, span).target(i)[1] for i in range(10)} == {0.1}


def test_far_from_zero_no_step_is_empty():
    """A span of ten steps whose ratio to the step is above 10 by more than 1e-9, by the rounding of its ends alone."""
    span = Span(77593838.10851055, 77593834.89336006)
    control = FixedStep(0.32151504877164494, span)
    times = [control.target(i)[0] for i in range(control.count)]
    assert len(times) == 10 and times[-1] == span.end and sorted({span.start, *times})[::-1] == [span.start, *times]


def test_nearly_integer_ratio_is_an_integer():
    assert FixedStep(0.1, Span(0.0, 1.0 + 5e-11)).count == 10
    assert FixedStep(0.1, Span(0.0, 1.0 + 5e-9)).count == 11
    # ... and the tiny difference is still integrated over, not dropped; 1e-16 is the rounding of the
    # subtraction.
    assert FixedStep(0.1, Span(0.0, 1.0 + 5e-11)).target(9)[1] == pytest.approx(0.1 + 5e-11, abs=3e-16)


def test_first_step_guesses():
    assert first_guess(2.0, 4.0) == 0.005
    assert first_guess(0.0, 1.0) == first_guess(1.0, 0.0) == 1e-6
    assert second_guess(1.0, 0.0, 0.0, 5) == 1e-3
    assert second_guess(1e-9, 1e-9, 0.0, 5) == 100.0 * 1e-9  # never more than a hundredfold
    assert second_guess(1.0, 1.0, 1e3, 5) == pytest.approx((1e-5) ** 0.2, rel=1e-14)  # rounding of one power
    assert second_guess(1.0, 1.0, math.inf, 5) == 1e-3


def test_smallest_step_tells_stages_apart():
    t = 12345.678
    assert len({t + c * smallest_step(t) for c in (0.0, 0.2, 0.3, 0.8, 8 / 9, 1.0)}) == 6


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_rules_of_many_clocks_have_the_bits_of_one(direction):
    """The ends of steps, their sizes, and factors: also at the end, after rejections, and of errors 0 and tiny."""
    rule, rng, count = PIController(1e-6, 1e-9, 5).rule, np.random.default_rng(0), 400
    t, end = direction * rng.uniform(0.0, 1.0, count), direction * 1.0
    h = direction * 10.0 ** rng.uniform(-3.0, 0.3, count)
    errors, previous = 10.0 ** rng.uniform(-9.0, 0.0, (2, count))
    errors[:3] = 0.0, 1.0, 5e-324
    retries = rng.integers(0, 3, count)
    assert [*zip(*targets(rule, t, h, end), strict=True)] == [
        target(rule, *one, end) for one in zip(t.tolist(), h.tolist(), strict=True)
    ]
    numbers = zip(errors.tolist(), previous.tolist(), retries.tolist(), strict=True)
    assert factors(rule, errors, previous, retries).tolist() == [factor(rule, *one) for one in numbers]
    assert smallest_steps(t).tolist() == [smallest_step(s) for s in t.tolist()]
