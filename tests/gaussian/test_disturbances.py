"""How disturbances of limits grow: the formula of isotropic limits against the complex step of the flow."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.gaussian.disturbances import rates_at

from .cases import field

STEP = 1e-30


def isotropic(d, r, seed):
    """Return Q, K, V (d, d) and U (d, r) with U^T K^T Q U = 0."""
    rng = np.random.default_rng([d, r, seed])
    A, K, V = 0.7 * rng.standard_normal((3, d, d))
    U = rng.standard_normal((d, r))
    onto = U @ np.linalg.pinv(U)
    return np.linalg.solve(K.T, A - onto.T @ A @ onto), K, V, U


def linearised(kind, S, p):
    """Return the derivative of M S + S M^T on symmetric matrices (N, N), by complex steps of plain formulas."""
    d = len(S)
    i, j = np.triu_indices(d)
    basis = np.zeros((len(i), d, d))
    basis[np.arange(len(i)), i, j] = basis[np.arange(len(i)), j, i] = 1.0
    columns = []
    for unit in basis:
        moved = S + 1j * STEP * unit
        rate = field(kind, np.zeros(d), moved, p)[0] @ moved
        columns.append((rate + rate.T).imag[i, j] / STEP)
    return np.array(columns).T


def paired(got, want):
    """Return the largest distance of two sets of numbers of one length, each paired with the nearest that is left."""
    left, worst = list(want), 0.0
    for value in sorted(got, key=abs, reverse=True):
        near = min(range(len(left)), key=lambda k: abs(left[k] - value))
        worst = max(worst, abs(left.pop(near) - value))
    return worst


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Sinkhorn", "3 half", "Linear"])
@pytest.mark.parametrize(("d", "r"), [(2, 1), (3, 1), (4, 1), (4, 2), (5, 2)])
def test_isotropic_limits(d, r, kind):
    """The limit is a stationary start: its rates are the spectrum of the flow there, and say whether it attracts.

    Zeros are double eigenvalues of a matrix: they come out to the root of rounding, or its third root.
    """
    verdicts = set()
    for seed in range(3):
        Q, K, V, U = isotropic(d, r, seed)
        p = {"Q": Q, "K": K, "V": V, "scale": np.array(1.0)}
        p |= {"eps": np.array(0.8)} if kind in ("Sinkhorn", "3 half") else {}
        attention = fp.Sinkhorn(**p, n_half=3) if kind == "3 half" else getattr(fp, kind)(**p)
        S = U @ U.T / np.trace(U @ U.T)
        rates, attracts = rates_at(attention._affine_heads(), S, r, 0.0)
        want = np.linalg.eigvals(linearised(kind, S, p))
        assert len(rates) == d * (d + 1) // 2 and paired(rates, want) < 2e-5
        assert (np.diff(rates.real) <= 0.0).all()
        # Neutral are the family of limits and what the scores do not see from it; all else decays or grows.
        neutral = d * r - r * (r - 1) // 2 - r * r + (d - 2 * r) * (d - 2 * r + 1) // 2
        assert np.sum(np.abs(want) < 2e-5) == neutral
        assert attracts is not (want.real.max() > 2e-5)
        verdicts.add(attracts)
    assert verdicts <= {True, False}


def test_heads_have_the_spectrum_of_their_sum():
    """Two heads: U is isotropic for both. Heads that are one, cut in two, have the rates of the formula."""
    d, r = 4, 1
    Q, K, V, U = isotropic(d, r, 0)
    S = U @ U.T / np.trace(U @ U.T)
    one = rates_at(fp.Softmax(Q, K, V)._affine_heads(), S, r, 0.0)
    two = rates_at(fp.MultiHead([fp.Softmax(Q, K, 0.3 * V), fp.Softmax(Q, K, 0.7 * V)])._affine_heads(), S, r, 0.0)
    assert paired(two[0], one[0]) < 1e-6 and one[1] == two[1]


def test_limits_say_whether_they_attract():
    """The rate of an exponential approach is the largest of the limit; where B2 = 0 nothing is decided (Theory 4.2)."""
    seen = []
    for seed in range(8):
        Q, K, V, G = np.random.default_rng([2, seed]).standard_normal((4, 2, 2))
        found = fp.limit(fp.Softmax(Q, K, V), fp.Gaussian(0.0, G @ G.T))
        if found.rank != 1:
            assert found.attracting is None
            continue
        values, vectors = np.linalg.eigh(found.cov)
        u, A = vectors[:, 1] * np.sqrt(values[1]), K.T @ Q
        want = np.sort([2 * u @ A @ V @ u, u @ (A + A.T) @ V @ u, 0.0])[::-1]
        np.testing.assert_allclose(found.growth_rates.real, want, rtol=1e-5, atol=1e-5)
        assert found.attracting is True and "attracting" in found.summary()
        seen.append(found)
    assert len(seen) >= 2
    I2, Q = np.eye(2), np.array([[1.0, 0.0]])
    neutral = fp.limit(fp.Softmax(Q, -Q, I2), fp.Gaussian(0.0, I2))
    assert neutral.attracting is None and not neutral.growth_rates.any() and "not decided" in neutral.summary()
    batch = fp.limit(fp.Softmax(Q, -Q, I2), fp.Gaussian(0.0, np.stack([I2, 2.0 * I2])))
    assert batch.growth_rates.shape == (2, 3) and batch.attracting.tolist() == [None, None]
    assert len(batch.summary().splitlines()) == 2
    up, down = (fp.limit(fp.Softmax(I2, I2, sign * I2), fp.Gaussian(0.0, I2)).summary() for sign in (1.0, -1.0))
    assert up.startswith("blows up at t = 0.5:") and down.startswith("converges to 0:")  # S' = 2 sign S^2


def test_an_unstable_start_is_at_rest_and_does_not_attract():
    """A stationary start whose linearised flow grows is a limit of itself alone."""
    A, V = np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
    found = fp.limit(fp.Softmax(A, np.eye(2), V), fp.Gaussian(0.0, np.diag([1.0, 0.0])))
    # u = e1: <u, A u> = 0, 2 <u, A V u> = 4 and <u, (A + A^T) V u> = 2.
    assert found.outcome is fp.Outcome.CONVERGES and found.attracting is False
    np.testing.assert_allclose(found.growth_rates.real, [4.0, 2.0, 0.0], atol=1e-12)


def test_rates_of_a_stationary_law():
    """The same numbers for a law that is given; one that moves has none."""
    Q, K, V, U = isotropic(5, 2, 1)
    attention = fp.Sinkhorn(Q, K, V, eps=0.8)
    S = U @ U.T
    want = rates_at(attention._affine_heads(), S, 2, 0.0)[0]
    np.testing.assert_allclose(fp.growth_rates(attention, fp.Gaussian(1.0, S)), want, rtol=1e-10, atol=1e-10)
    for name, arguments in {
        "law": (attention, fp.Gaussian(0.0, S + np.eye(5))),
        "attention": (fp.Softmax(Q, K, lambda t: V), fp.Gaussian(0.0, S)),
    }.items():
        with pytest.raises(fp.InputError, match=f"^{name}"):
            fp.growth_rates(*arguments)
    with pytest.raises(fp.InputError, match=r"^law"):
        fp.growth_rates(fp.Linear(Q, K, V), fp.Gaussian(1.0, S))
    with pytest.raises(fp.NoGaussianClosure):
        fp.growth_rates(fp.Sigmoid(Q, K, V), fp.Gaussian(0.0, S))
