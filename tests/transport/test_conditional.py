"""The conditional distance against its definition (Theory 9)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_distinct_positions(p):
    """No assignment: the mean of |x_i - y_i|^p, weighted or not, in any order of the positions."""
    x, y, w = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 3)), RNG.uniform(0.5, 2, 40)
    w /= w.sum()
    each = np.linalg.norm(x - y, axis=1) ** p
    positions = RNG.permutation(40)
    assert fp.conditional_wasserstein(x, y, positions, p) == pytest.approx(each.mean() ** (1 / p), rel=1e-13)
    got = fp.conditional_wasserstein(x, y, positions, p, weights=w)
    assert got == pytest.approx((w @ each) ** (1 / p), rel=1e-13)
    assert got >= fp.wasserstein(x, y, p, x_weights=w, y_weights=w) * (1 - 1e-12)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("d", [1, 2])
def test_some_tokens_per_position(d, weights):
    x, y = RNG.normal(size=(2, 30, d))
    positions = RNG.integers(0, 8, 30) / 7
    w = RNG.uniform(0.5, 2, 30) if weights else np.ones(30)
    w /= w.sum()
    total = 0.0
    for s in np.unique(positions):
        here = positions == s
        own = w[here] / w[here].sum()
        total += w[here].sum() * fp.wasserstein(x[here], y[here], 3, x_weights=own, y_weights=own) ** 3
    got = fp.conditional_wasserstein(x, y, positions, 3, weights=w if weights else None)
    assert got == pytest.approx(total ** (1 / 3), rel=1e-12)
    one = fp.conditional_wasserstein(x, y, np.zeros(30))
    assert one == pytest.approx(fp.wasserstein(x, y), rel=1e-12)


def test_order_within_a_position_does_not_matter():
    x, positions = RNG.normal(size=(12, 2)), np.repeat([0.0, 1.0, 2.0], 4)
    swapped = x[[3, 1, 2, 0, 4, 5, 7, 6, 9, 8, 10, 11]]
    assert fp.conditional_wasserstein(x, swapped, positions) == 0.0
    assert fp.conditional_wasserstein(x, swapped, np.arange(12)) > 0.1


def test_what_is_refused():
    x = np.zeros((4, 2))
    for arguments, name in (((x, x[:3], range(4)), "y"), ((x, x, range(3)), "positions"), ((x, x, range(4), 0.5), "p")):
        with pytest.raises(fp.InputError) as caught:
            fp.conditional_wasserstein(*arguments[:2], np.array(arguments[2]), *arguments[3:])
        assert caught.value.name == name
