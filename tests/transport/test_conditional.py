"""The conditional distance against its definition (Theory 9)."""

from __future__ import annotations

from statistics import NormalDist

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


@pytest.mark.parametrize("d", [1, 2])
def test_numbers_of_tokens_may_differ(d):
    """3 tokens against 2 at a position of mass 1/2, one against 4 at another: the definition, by `wasserstein`."""
    x, y = RNG.normal(size=(4, d)), RNG.normal(size=(6, d))
    at, y_at = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    w, v = np.where(at == 1.0, 1 / 6, 0.5), np.where(y_at == 1.0, 0.25, 0.125)
    want = sum(0.5 * fp.wasserstein(x[at == s], y[y_at == s], 3) ** 3 for s in (0.0, 1.0)) ** (1 / 3)
    got = fp.conditional_wasserstein(x, y, at, 3, weights=w, y_positions=y_at, y_weights=v)
    assert got == pytest.approx(want, rel=1e-12)
    assert fp.conditional_wasserstein(y, x, y_at, 3, weights=v, y_positions=at, y_weights=w) == pytest.approx(got)


def test_samples_of_conditional_laws_come_closer():
    """m tokens per position against quantiles of N(s, 1): d_2 falls with m, and is large for one."""
    levels = (np.arange(4000) + 0.5) / 4000
    quantiles = np.array([NormalDist().inv_cdf(u) for u in levels])
    s = np.arange(5.0)
    finer, finer_at = (s[:, None] + quantiles).ravel()[:, None], np.repeat(s, 4000)
    found = []
    for m in (1, 100):
        at = np.repeat(s, m)
        x = at[:, None] + RNG.normal(size=(len(at), 1))
        found.append(fp.conditional_wasserstein(x, finer, at, y_positions=finer_at))
    assert found[0] > 0.9 and found[1] < 0.3  # E d_2^2 = 2 of one token; about 0.03 of a hundred


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("y_positions", {"y_positions": [0.0, 0.0, 2.0]}),
        ("y_positions", {"y_positions": [0.0, 1.0]}),
        ("y_weights", {"y_positions": [0.0, 1.0, 1.0]}),
        ("y_weights", {"y_positions": [0.0, 0.0, 1.0], "y_weights": [0.5, 0.25, 0.2]}),
        ("y", {}),
    ],
)
def test_laws_of_positions_that_differ_are_refused(name, more):
    with pytest.raises(fp.InputError) as caught:
        fp.conditional_wasserstein(np.zeros((2, 1)), np.zeros((3, 1)), [0.0, 1.0], **more)
    assert caught.value.name == name


def test_what_is_refused():
    x = np.zeros((4, 2))
    for arguments, name in (((x, x[:3], range(4)), "y"), ((x, x, range(3)), "positions"), ((x, x, range(4), 0.5), "p")):
        with pytest.raises(fp.InputError) as caught:
            fp.conditional_wasserstein(*arguments[:2], np.array(arguments[2]), *arguments[3:])
        assert caught.value.name == name
