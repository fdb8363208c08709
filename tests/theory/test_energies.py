"""Energies against the naive oracle, and as what the flow ascends or descends (Theory 7)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.sums.ways import WAYS

from .. import naive
from ..problems import CONTRACT, DTYPES, VARIANTS, case_like, random_case

each_variant = pytest.mark.parametrize("kind", VARIANTS)


@pytest.mark.parametrize("form", [{}, {"weights": True}, {"masked": True}, {"masked": True, "weights": True}])
@pytest.mark.parametrize("dtype", DTYPES)
@each_variant
def test_energy(kind, dtype, form):
    for d, k in ((1, 1), (3, 2), (2, 5)):
        case = random_case(kind, d=d, k=k, dtype=dtype, **form)
        want = naive.energy(kind, case.x, case.Q, case.K, **case.options, **case.data)
        got = fp.interaction_energy(case.attention, case.x, **case.data)
        assert isinstance(got, float)
        # A linear energy is a difference: relative to the size of its terms.
        size = np.abs(naive.scores(kind, case.x, case.x, case.Q, case.K)).mean() if kind == "Linear" else None
        assert naive.relative_error(got, want, size) < CONTRACT[dtype]


@each_variant
def test_batches_and_heads(kind):
    x = np.random.default_rng(0).normal(size=(3, 20, 2))
    attention = case_like(kind, 2)
    together = fp.interaction_energy(attention, x)
    alone = [fp.interaction_energy(attention, one) for one in x]
    np.testing.assert_array_equal(together, alone)
    twice = fp.MultiHead([attention, attention], W=np.ones((2, 2, 2)))
    # Two equal terms: exact doubling.
    assert fp.interaction_energy(twice, x[0]) == 2 * alone[0]


def test_energy_overflows_to_inf():
    """And L2's does not: each token sees itself alone, to the rounding of an exponent of 1e9."""
    x = np.array([[40.0], [1.0]])
    eye = [[1.0]]
    assert fp.interaction_energy(fp.Exponential(eye, eye, eye), x) == np.inf
    assert fp.interaction_energy(fp.Softmax(eye, eye, eye), x) == np.inf
    assert fp.interaction_energy(fp.L2(eye, eye, eye), 1e3 * x) == pytest.approx(0.25, rel=1e-5)
    assert fp.interaction_energy(fp.Softmax(eye, [[-1.0]], eye), 40.0 * np.ones((3, 1))) == 0.0


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["Softmax", "Exponential"])
def test_the_flow_moves_the_energy(kind, sign):
    """Q^T K symmetric: V = Q^T K ascends, V = -Q^T K descends."""
    Q = np.array([[0.8, 0.2], [0.2, 0.6]])
    x0 = np.random.default_rng(2).normal(size=(40, 2)) / 2
    attention = getattr(fp, kind)(Q, np.eye(2), sign * Q)
    solution = fp.solve(attention, x0, (0.0, 0.02), t_eval=np.linspace(0, 0.02, 5), method="rk4", step=0.005)
    energies = [fp.interaction_energy(attention, x) for x in solution.x]
    assert (sign * np.diff(energies) > 0).all()


@pytest.mark.parametrize("kind", ["Softmax", "Exponential"])
def test_the_rate_of_the_energy(kind):
    """dE/dt = int Z Gamma^T B^{-1} Gamma (Softmax, V = B Q^T K) or int |Gamma|^2 (Exponential).

    1e-6: the error of the central difference, with steps that move tokens of size 0.5 by 1e-5.
    """
    Q, B = np.array([[0.8, 0.2], [0.2, 0.6]]), np.diag([1.5, 0.5])
    V = B @ Q if kind == "Softmax" else Q
    attention = getattr(fp, kind)(Q, np.eye(2), V)
    x = np.random.default_rng(2).normal(size=(40, 2)) / 2
    v = attention.velocity(x)
    h = 1e-5 / np.abs(v).max()
    slope = (fp.interaction_energy(attention, x + h * v) - fp.interaction_energy(attention, x - h * v)) / (2 * h)
    z = np.exp(naive.scores(kind, x, x, Q, np.eye(2)).astype(float)).mean(axis=1)
    exact = (
        (z * np.einsum("ij,j,ij->i", v, 1 / np.diag(B), v)).mean() if kind == "Softmax" else (v**2).sum(axis=1).mean()
    )
    np.testing.assert_allclose(slope, exact, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["Softmax", "L2", "Exponential"])
def test_energies_and_masses_in_linear_time(kind, masked):
    """To the backend's tolerance, relative; 1e-13 for rounding of the logits."""
    rng = np.random.default_rng(0)
    n, (Q, K) = 5000, 0.7 * rng.normal(size=(2, 2, 2))
    x, weights = rng.normal(size=(n, 2)), rng.uniform(0.1, 2.0, n)
    attention = getattr(fp, kind)(Q, K, np.eye(2))
    attention = fp.Masked(attention) if masked else attention
    fast = fp.Fast(1e-9)
    for options in ({}, {"weights": weights / weights.sum()}):
        want = fp.interaction_energy(attention, x, backend="direct", **options)
        assert fp.interaction_energy(attention, x, backend=fast, **options) == pytest.approx(want, rel=1e-9 + 1e-13)
    assert fast.report["grids"] == 1
    assert 0 < fast.stats()["fast_error_sampled"] < 1e-9  # totals are checked


def test_wrong_totals_are_found_and_made_directly(monkeypatch):
    def wrong(self, task, plan):
        task.out[:], task.log_total[:] = 1.0, 1.0

    x, attention = np.random.default_rng(0).normal(size=(3000, 2)), fp.Exponential(*[np.eye(2)] * 3)
    for way in WAYS:
        monkeypatch.setattr(type(way), "attend", wrong)
    fast = fp.Fast(1e-9)
    want = fp.interaction_energy(attention, x, backend="direct")
    assert fp.interaction_energy(attention, x, backend=fast) == pytest.approx(want, rel=1e-14)
    fast = fp.Fast(1e-9)
    np.testing.assert_array_equal(attention.velocity(x, backend=fast), attention.velocity(x, backend="direct"))
    assert fast.stats()["fast_direct_targets"] == 3000


@pytest.mark.parametrize("weighted", [False, True])
def test_the_logarithm_of_the_energy_does_not_overflow(weighted):
    """log E is the log of E where that is finite, and for two far tokens, one at r, log(e^{r^2} / 8) to rounding."""
    x = np.random.default_rng(0).standard_normal((20, 2))
    weights = np.full(20, 0.05) if weighted else None
    heads = fp.MultiHead([fp.Softmax(*[np.eye(2)] * 3), fp.L2(*[np.eye(2)] * 3)])
    for attention in (heads, fp.Masked(fp.Exponential(*[np.eye(2)] * 3)), fp.Sigmoid(*[np.eye(2)] * 3)):
        energy = fp.interaction_energy(attention, x, weights=weights)
        assert fp.interaction_energy(attention, x, weights=weights, log=True) == pytest.approx(np.log(energy))
    far = np.array([[40.0, 0.0], [0.0, 0.0]])
    found = fp.interaction_energy(fp.Softmax(*[np.eye(2)] * 3), far, log=True)
    assert found == pytest.approx(1600.0 - np.log(8.0), rel=1e-14)
    assert fp.interaction_energy(fp.Softmax(*[np.eye(2)] * 3), far) == np.inf
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0], [0.1, 0.0]])
    assert np.isnan(fp.interaction_energy(fp.Linear(-np.eye(2), np.eye(2), np.eye(2)), opposite, log=True))
