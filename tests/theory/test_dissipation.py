"""Energies and their rates along runs (Theory 7)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.theory.dissipation import energy_row

from .. import naive

A = np.array([[0.8, 0.2], [0.2, 0.6]])
B = np.diag([1.5, 0.5])
EYE = np.eye(2)
X = np.random.default_rng(2).normal(size=(40, 2)) / 2
W = np.random.default_rng(3).uniform(0.5, 2, 40)
W = W / W.sum()


def record_of(attention, **options):
    """The record of an rk4 run with a row per step."""
    record = fp.EnergyRecord(attention, **options)
    observer = fp.Observer(record, steps=1)
    fp.solve(attention, X, (0.0, 0.5), method="rk4", step=0.0125, observers=[observer], **options)
    return record


@pytest.mark.parametrize("weights", [None, W])
@pytest.mark.parametrize(
    ("attention", "trend"),
    [
        (fp.Softmax(A, EYE, A), 1),
        (fp.Softmax(A, EYE, -B @ A), -1),
        (fp.Exponential(A, EYE, A, scale=0.7), 1),
        (fp.Exponential(A, EYE, -A), -1),
        (fp.Sinkhorn(A, EYE, A, eps=0.7, tol=1e-12), -1),
        (fp.Sinkhorn(A, EYE, -A, eps=0.7, tol=1e-12), 1),
        (fp.Softmax(A, EYE, [[0.5, 0.0], [0.3, -0.5]]), 0),
        (fp.MultiHead([fp.Softmax(A, EYE, A), fp.Exponential(B / 2, EYE, B / 8)]), 0),
    ],
    ids=repr,
)
def test_the_balance_of_a_run(attention, trend, weights):
    """The energy gained is the integral of the rate, to 1e-8: rk4 and the spline are of orders 4 and 8 with 40 rows.

    And it goes where Theory 7 says: Sinkhorn's the other way round.
    """
    record = record_of(attention, weights=weights)
    assert record.imbalance() < 1e-8
    assert record.trend == trend
    assert len(record.violations()) == 0 and record.monotone is (True if trend else None)
    if trend:
        assert (trend * np.diff(record.energy) > 0).all()
        assert (trend * record.dissipation > 0).all()


def test_dissipations_as_written():
    """int Z Gamma^T B^{-1} Gamma; int |Gamma|^2; -2 eps int |Gamma|^2 of S_eps; 1e-12: rounding of sums over pairs."""
    z = np.exp(naive.scores("Softmax", X, X, A, EYE).astype(float)).mean(axis=1)
    twisted = fp.Softmax(A, EYE, B @ A)
    v = twisted.velocity(X)
    want = (z * np.einsum("ij,j,ij->i", v, 1 / np.diag(B), v)).mean()
    assert fp.dissipation(twisted, X) == pytest.approx(want, rel=1e-12)
    plain = fp.Exponential(A, EYE, A)
    assert fp.dissipation(plain, X) == pytest.approx((plain.velocity(X) ** 2).sum(axis=1).mean(), rel=1e-12)
    sinkhorn = fp.Sinkhorn(A, EYE, A, eps=0.7, tol=1e-13)
    want = -2 * 0.7 * (sinkhorn.velocity(X) ** 2).sum(axis=1).mean()
    assert fp.dissipation(sinkhorn, X) == pytest.approx(want, rel=1e-11)  # its tol


def test_batches_and_float32():
    soft = fp.Softmax(A, EYE, A)
    batch = np.stack([X, 2 * X])
    np.testing.assert_allclose(fp.dissipation(soft, batch), [fp.dissipation(soft, x) for x in batch], rtol=1e-14)
    assert isinstance(fp.dissipation(soft, X), float)
    assert fp.dissipation(soft, X.astype(np.float32)) == pytest.approx(fp.dissipation(soft, X), rel=1e-5)


def test_a_violation_is_seen():
    """Descent against which the run ascends, and Euler steps far too large; an imbalance is seen as well."""
    record = record_of(fp.Softmax(A, EYE, A))
    record.trend = -1
    assert len(record.violations()) == len(record.t) - 1
    assert record.monotone is False
    wild = fp.Softmax(A, EYE, -A)
    record = fp.EnergyRecord(wild, rtol=0, atol=0)
    fp.solve(wild, 3 * X, (0.0, 8.0), method="euler", step=2.0, observers=[fp.Observer(record, steps=1)])
    assert len(record.violations()) > 0 and record.monotone is False
    assert record.imbalance() > 0.1


def test_what_has_no_balance():
    for attention in (fp.L2(A, EYE, A), fp.Sigmoid(A, EYE, A), fp.Softmax([[1.0, 2.0], [0.0, 1.0]], EYE, A)):
        with pytest.raises(fp.InputError, match="attention"):
            fp.dissipation(attention, X)
    assert fp.EnergyRecord(fp.Softmax(lambda t: A, EYE, A)).trend == 0
    with pytest.raises(TypeError, match="attention"):
        fp.EnergyRecord("softmax")
    with pytest.raises(fp.InputError, match="at least 4"):
        fp.EnergyRecord(fp.Softmax(A, EYE, A)).imbalance()


def mixed(seed):
    """Two heads of random variants with random outputs, and a cloud."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(25, 2)) / 2

    def head():
        G, V = rng.normal(size=(2, 2, 2))
        kind, more = [(fp.Softmax, {}), (fp.Exponential, {}), (fp.Sinkhorn, {"tol": 1e-12})][rng.integers(3)]
        return kind((G + G.T) / 2, EYE, V, scale=rng.uniform(0.3, 1.2), **more)

    return fp.MultiHead([head(), head()], W=0.5 * rng.normal(size=(2, 2, 2))), x


@pytest.mark.parametrize("seed", range(8))
def test_mixed_heads_have_a_balance(seed):
    """dE/dt at the first tokens by differences along the field: 1e-9 = rounding / h and h^4."""
    attention, x = mixed(seed)
    v = attention.velocity(x)
    h = 1e-3 / np.abs(v).max()
    E = {k: energy_row(attention, x + k * h * v, backend="direct").energy for k in (-2, -1, 1, 2)}
    slope = (8 * (E[1] - E[-1]) - (E[2] - E[-2])) / (12 * h)
    assert fp.dissipation(attention, x, backend="direct") == pytest.approx(slope, rel=1e-9)


def test_an_imbalance_of_heads_is_one_of_the_steps():
    """rk4 steps of half the size have a sixteenth of the imbalance: the rate is right, and steps are off by h^4.

    Heads that blow up have an energy that no step can follow: the imbalance is of order one then.
    """
    heads = fp.MultiHead([fp.Softmax(A, EYE, B), fp.Exponential(B / 2, EYE, A / 2)])
    found = []
    for step in (0.02, 0.01):
        record = fp.EnergyRecord(heads, backend="direct")
        observers = [fp.Observer(record, steps=1)]
        fp.solve(heads, X, (0.0, 0.5), method="rk4", step=step, observers=observers, backend="direct")
        found.append(record.imbalance())
    assert 10.0 < found[0] / found[1] < 24.0  # terms of h^5, and the spline's
    wild = fp.MultiHead([fp.Exponential(A, EYE, 3 * A), fp.Softmax(B, EYE, B)])
    record = fp.EnergyRecord(wild, backend="direct")
    observers = [fp.Observer(record, steps=1)]
    end = fp.solve(wild, X, (0.0, 2.0), method="rk4", step=0.02, observers=observers, backend="direct")
    assert not end.success
    assert not record.imbalance() < 0.1


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_what_tolerances_explain_is_no_violation(method, rtol):
    """Tokens that have come to rest: the energy goes on changing by errors of steps only, and that is said to be so."""
    attention = fp.Softmax(A, EYE, -A)
    record = fp.EnergyRecord(attention, rtol=rtol, atol=rtol / 1000, backend="direct")
    observer = fp.Observer(record, time=0.5)
    fp.solve(attention, X, (0.0, 40.0), method=method, rtol=rtol, atol=rtol / 1000, observers=[observer])
    assert record.monotone is True
    strict = fp.EnergyRecord(fp.L2(A, EYE, A))
    assert strict.monotone is None


def test_a_row_of_float32_allows_for_its_rounding():
    """E of float32 tokens is that of the same tokens in float64; a token's rounding is a part of the slack."""
    attention, x = fp.Softmax(A, EYE, A), X.astype(np.float32)
    narrow, wide = (energy_row(attention, tokens, backend="direct") for tokens in (x, x.astype(float)))
    assert narrow.energy == wide.energy and narrow.rate == wide.rate
    assert 1e-7 < narrow.slack / narrow.energy < 1e-4 and wide.slack < 1e-12
    once, twice = (energy_row(attention, X, rtol=rtol, backend="direct").slack for rtol in (1e-3, 2e-3))
    assert once > 1e-4 and twice == pytest.approx(2 * once, rel=1e-6)
    assert energy_row(attention, X, backend=fp.Fast(1e-4)).slack > 1e-4


@pytest.mark.parametrize(
    "attention",
    [
        fp.Softmax(np.eye(3), np.eye(3), np.eye(3)),
        fp.Exponential(np.eye(3), np.eye(3), -np.diag([1.0, 2.0, 0.5])),
        fp.Sinkhorn(np.eye(3), np.eye(3), np.eye(3), tol=1e-12),
        fp.MultiHead([fp.Softmax(np.eye(3), np.eye(3), np.eye(3)), fp.Exponential(np.eye(3), np.eye(3), np.eye(3))]),
    ],
    ids=repr,
)
def test_on_the_sphere_the_rate_is_that_of_the_run(attention):
    """dE/dt against differences of the energies of the states of a run; theory says nothing of where it goes."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    record, h = fp.EnergyRecord(attention, backend="direct"), 0.01
    times = np.arange(9) * h
    run = {"backend": "direct", "manifold": fp.Sphere(), "observers": [fp.Observer(record, time=h)]}
    sol = fp.solve(attention, x, (0.0, times[-1]), rtol=1e-11, atol=1e-13, t_eval=times, **run)
    E = np.array([energy_row(attention, state, backend="direct").energy for state in sol.x])
    slope = (8 * (E[3:-1] - E[1:-3]) - (E[4:] - E[:-4])) / (12 * h)
    rates = [fp.dissipation(attention, state, backend="direct", manifold=fp.Sphere()) for state in sol.x]
    # The formula is off by h^4 / 30 = 3e-10 of fifth derivatives of size one; rounding of E over h is 1e-13.
    np.testing.assert_allclose(rates[2:-2], slope, rtol=0, atol=1e-8 * max(np.abs(E).max(), 1.0))
    np.testing.assert_allclose(record.dissipation, rates, rtol=1e-9)
    assert record.imbalance() < 1e-7
    # In all of R^d it would be another number, by far more than that.
    assert np.abs(fp.dissipation(attention, x, backend="direct") - rates[0]) > 0.1 * np.abs(rates[0])
    assert record.trend == 0 and record.monotone is None


def test_no_alarm_where_theory_says_nothing():
    """Descent against which the sphere, or noise, makes the energy rise: the run tells the record, or the caller."""
    attention = fp.Softmax(np.eye(3), np.eye(3), -np.diag([1.0, 20.0, 1.0]))
    x = np.random.default_rng(1).normal(loc=(1.5, 0.0, 0.0), size=(30, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for options in ({"manifold": fp.Sphere()}, {"noise": 2.0}):
        record = fp.EnergyRecord(attention)
        observers = iter([fp.Observer(record, steps=1)])
        fp.solve(attention, x, (0.0, 0.5), method="heun", step=0.01, observers=observers, **options)
        assert attention._energy_trend(0.0) == -1 and (np.diff(record.energy) > 1e-6).any()
        assert record.trend == 0 and record.monotone is None and len(record.violations()) == 0
        assert fp.EnergyRecord(attention, **options).trend == 0
        assert np.isnan(record.imbalance()) == ("noise" in options)
    with pytest.raises(fp.InputTypeError, match="manifold"):
        fp.EnergyRecord(attention, manifold="sphere")
    with pytest.raises(fp.InputError, match="norm"):
        fp.dissipation(attention, 2 * x, manifold=fp.Sphere())


def test_an_energy_that_does_not_change_has_no_relative_imbalance():
    still = fp.Softmax(np.eye(2), np.eye(2), np.zeros((2, 2)))
    record = fp.EnergyRecord(still)
    fp.solve(still, np.ones((4, 2)), (0.0, 1.0), observers=[fp.Observer(record, time=0.25)])
    assert len(record.energy) == 5 and np.isnan(record.imbalance())
