"""Energies and their rates along runs (MATH 7)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from . import naive

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

    And it goes where MATH 7 says: Sinkhorn's the other way round.
    """
    record = record_of(attention, weights=weights)
    assert record.imbalance() < 1e-8
    assert record.trend == trend
    assert len(record.violations()) == 0
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
    wild = fp.Softmax(A, EYE, -A)
    record = fp.EnergyRecord(wild)
    fp.solve(wild, 3 * X, (0.0, 8.0), method="euler", step=2.0, observers=[fp.Observer(record, steps=1)])
    assert len(record.violations()) > 0
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
