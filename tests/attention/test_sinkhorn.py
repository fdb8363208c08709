"""Sinkhorn attention: against the oracle run to 1e-14, its structure (Theory 1.1), and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

import fastpde as fp

from .. import naive
from ..problems import random_case

EYE = np.eye(2)
TURN = np.array([[1.0, 0.4], [-0.6, 0.8]])


def problem(form, n=50, d=3, seed=0):
    """(x, Q, K, V, data) of one kind."""
    rng = np.random.default_rng([seed, d])
    k = {"k < d": 2, "k > d": 5}.get(form, d)
    Q, K = rng.normal(size=(2, k, d)) / (k * d) ** 0.25
    if form == "K = Q":
        K = Q
    elif form == "K = -Q":
        K = -Q
    elif form == "singular":
        K[1:] = K[:1]
    x, data = rng.normal(size=(n, d)), {}
    if form == "weights":
        w = rng.uniform(0.1, 3.0, n)
        data["weights"] = w / w.sum()
    if form == "far":
        x = x + 20.0
    if form == "at":
        data["at"] = rng.normal(size=(9, d))
    return x, Q, K, rng.normal(size=(d, d)) / d**0.5, data


FORMS = ["plain", "K = Q", "K = -Q", "singular", "weights", "k < d", "k > d", "at", "far"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [0.1, 1.0, 10.0])
def test_velocity(eps, form):
    """1e-9 of the largest token over eps, the scale of velocities: what the default tol is for.

    At eps = 0.1 the slowest of these kernels contract by 0.98 per step, so tol is lower there. The oracle's kernels
    must be of moderate size for its plain steps to reach 1e-14: scores of some units at eps = 1.
    """
    x, Q, K, V, data = problem(form)
    scale = 0.5 if eps >= 1 else 0.1
    tol = 1e-9 if eps >= 1 else 1e-11
    got = fp.Sinkhorn(Q, K, V, eps=eps, scale=scale, tol=tol).velocity(x, **data)
    want = naive.sinkhorn(x, Q, K, V, eps=eps, scale=scale, **data)
    assert naive.relative_error(got, want, np.abs(x).max() / eps) < 1e-9


@pytest.mark.parametrize("form", [form for form in FORMS if form != "at"])
def test_the_mean_velocity_is_that_of_the_mean(form):
    """V mean / eps: the columns' error times the largest token about the mean bounds the difference."""
    x, Q, K, V, data = problem(form, n=300)
    got = np.average(fp.Sinkhorn(Q, K, V, eps=0.5).velocity(x, **data), axis=0, weights=data.get("weights"))
    mean = np.average(x, axis=0, weights=data.get("weights"))
    bound = np.linalg.norm(V, 2) * np.linalg.norm(x - mean, axis=1).max() / 0.5
    np.testing.assert_allclose(got, V @ mean / 0.5, rtol=0, atol=1e-9 * bound)
    softmax = fp.Softmax(Q, K, V).velocity(x, **data).mean(axis=0)
    assert np.abs(softmax / 0.5 - V @ mean / 0.5).max() > 1e-3  # others do not have it


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_half", [1, 3, 5])
def test_fixed_half_iterations(n_half, form):
    x, Q, K, V, data = problem(form)
    attention = fp.Sinkhorn(Q, K, V, eps=2.0, scale=0.5, n_half=n_half)
    want = naive.sinkhorn(x, Q, K, V, eps=2.0, scale=0.5, n_half=n_half, **data)
    # 1e-12: scores of the tokens that are far have 400 units.
    assert naive.relative_error(attention.velocity(x, **data), want) < 1e-12
    if n_half == 1:
        softmax = fp.Softmax(Q, K, V / 2.0, scale=0.25).velocity(x, **data)
        assert naive.relative_error(attention.velocity(x, **data), softmax) < 1e-12


def test_points_off_the_tokens():
    """At a token's place a point has the token's velocity: the rows are the same sums."""
    x, Q, K, V, _ = problem("plain")
    attention = fp.Sinkhorn(Q, K, V)
    np.testing.assert_allclose(attention.velocity(x, at=x[::-1]), attention.velocity(x)[::-1], rtol=0, atol=1e-13)


def test_float32_is_scaled_in_float64():
    """Rounded once: the velocity of the same tokens in float64, to the bit."""
    x, Q, K, V, data = problem("weights")
    x = x.astype(np.float32)
    for points in ({}, {"at": x[:7] + np.float32(1)}):
        got = fp.Sinkhorn(Q, K, V).velocity(x, **data, **points)
        wide = fp.Sinkhorn(Q, K, V).velocity(x.astype(float), **data, **{k: v.astype(float) for k, v in points.items()})
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wide.astype(np.float32))


def test_batches_with_their_own_parameters():
    """Each system is what it is alone, up to the tolerance (1e-9); eps, matrices and weights per system."""
    cases = [problem("weights", seed=seed) for seed in range(3)]
    eps = np.array([0.3, 1.0, 8.0])
    x, Q, K, V = (np.stack(parts) for parts in list(zip(*cases, strict=True))[:4])
    weights = np.stack([case[4]["weights"] for case in cases])
    got = fp.Sinkhorn(Q, K, V, eps=eps).velocity(x, weights=weights)
    for b, (one, *parameters, data) in enumerate(cases):
        alone = fp.Sinkhorn(*parameters, eps=eps[b]).velocity(one, **data)
        assert naive.relative_error(got[b], alone, np.abs(one).max() / eps[b]) < 3e-9
    # One matrix for all, one eps per system; a batch of one.
    shared = fp.Sinkhorn(Q[0], K[0], V[0], eps=eps).velocity(x)
    alone = fp.Sinkhorn(Q[0], K[0], V[0], eps=8.0)
    assert naive.relative_error(shared[2], alone.velocity(x[2])) < 1e-8
    np.testing.assert_array_equal(alone.velocity(x[:1])[0], alone.velocity(x[0]))


def test_parameters_in_time():
    x, Q, K, V, _ = problem("plain")
    moving = fp.Sinkhorn(Q, K, V, eps=lambda t: 1.0 + t)
    layers = fp.Sinkhorn(Q, K, V, eps=fp.Layers([1.0, 2.0], 1.0))
    for t, eps in ((0.0, 1.0), (1.0, 2.0)):
        still = fp.Sinkhorn(Q, K, V, eps=eps).velocity(x)
        np.testing.assert_array_equal(moving.velocity(x, t=t), still)
        np.testing.assert_array_equal(layers.velocity(x, t=t), still)
    with pytest.raises(fp.InputError, match="eps: got -1"):
        moving.velocity(x, t=-2.0)


def test_heads():
    """sum_h W_h head_h with Sinkhorn heads (dv, d) beside others, one of them twice, inside a run too."""
    x, Q, K, V, _ = problem("k < d")
    a, b = fp.Sinkhorn(Q, K, V[:2], eps=0.7), fp.Sinkhorn(K, Q, V[:2])
    W = np.random.default_rng(0).normal(size=(4, 3, 2))
    both = fp.MultiHead([a, fp.Softmax(Q, K, V[:2]), b, a], W=W)
    parts = [head.velocity(x) @ w.T for head, w in zip(both.heads, W, strict=True)]
    np.testing.assert_allclose(both.velocity(x), sum(parts), rtol=0, atol=1e-12)
    # Each head has a memory of its own: its potentials are those of its own kernel.
    solution = fp.solve(both, x, (0.0, 0.1), method="rk4", step=0.05)
    x1 = x
    for _ in range(2):
        k1 = both.velocity(x1)
        k2 = both.velocity(x1 + 0.025 * k1)
        k3 = both.velocity(x1 + 0.025 * k2)
        x1 = x1 + 0.05 / 6 * (k1 + 2 * k2 + 2 * k3 + both.velocity(x1 + 0.05 * k3))
    np.testing.assert_allclose(solution.x[-1], x1, rtol=0, atol=1e-8)
    assert solution.stats["marginal_error"] <= 1e-9


def test_not_converged_says_what_to_do():
    x, Q, K, V, _ = problem("plain")
    with pytest.raises(fp.ConvergenceError, match=r"marginal error .* after 7 half-iterations.*max_iter") as caught:
        fp.Sinkhorn(Q, K, V, eps=0.05, max_iter=7).velocity(x)
    assert caught.value.error > caught.value.tol == 1e-9
    assert caught.value.half_iterations == 7
    assert not caught.value.rounding
    # Scores of 1e3 have errors of 1e-13: no number of iterations reaches less.
    with pytest.raises(fp.ConvergenceError, match=r"rounding.* raise tol, or take a larger eps") as caught:
        fp.Sinkhorn(Q, Q, V, eps=0.01, tol=1e-18).velocity(x)
    assert caught.value.rounding and "max_iter" not in str(caught.value) and caught.value.half_iterations < 1000
    with pytest.raises(fp.ConvergenceError, match="overflow"):
        fp.Sinkhorn(Q, K, V).velocity(1e200 * x)
    assert issubclass(fp.ConvergenceError, RuntimeError)


REFUSED = {
    "eps zero": ({"eps": 0.0}, "eps", "numbers > 0"),
    "eps negative for one system": ({"eps": [1.0, -1.0]}, "eps", "-1"),
    "eps nan": ({"eps": np.nan}, "eps", "finite"),
    "tol zero": ({"tol": 0.0}, "tol", "> 0"),
    "tol nan": ({"tol": np.nan}, "tol", "finite"),
    "tol in words": ({"tol": "1e-9"}, "tol", "number"),
    "max_iter one": ({"max_iter": 1}, "max_iter", "at least 3"),
    "max_iter fraction": ({"max_iter": 10.0}, "max_iter", "whole"),
    "n_half even": ({"n_half": 2}, "n_half", "rows are not"),
    "n_half zero": ({"n_half": 0}, "n_half", "at least 1"),
    "n_half true": ({"n_half": True}, "n_half", "whole"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case):
    options, name, word = REFUSED[case]
    with pytest.raises((fp.InputError, fp.InputTypeError), match=word) as caught:
        fp.Sinkhorn(EYE, EYE, EYE, **options)
    assert caught.value.name.startswith(name)


def test_what_has_no_meaning_is_refused():
    attention, x = fp.Sinkhorn(EYE, EYE, EYE), np.zeros((3, 2))
    for masked in (attention, fp.MultiHead([fp.Softmax(EYE, EYE, EYE), attention])):
        with pytest.raises(fp.InputError, match="identity"):
            fp.Masked(masked)
        with pytest.raises(fp.InputError, match="sinkhorn_energy"):
            fp.interaction_energy(masked, x)
    with pytest.raises(fp.InputError, match="n_half"):
        fp.sinkhorn_energy(fp.Sinkhorn(EYE, EYE, EYE, n_half=3), x)
    with pytest.raises(fp.InputTypeError, match="interaction_energy"):
        fp.sinkhorn_energy(fp.Softmax(EYE, EYE, EYE), x)


def test_one_token_and_equal_tokens():
    """Alone or all alike, kappa = 1: V x / eps."""
    V = np.array([[0.3, -1.0], [1.0, 0.1]])
    for n in (1, 2, 5):
        for K in (EYE, TURN):
            x = np.tile([[2.0, -3.0]], (n, 1))
            np.testing.assert_allclose(fp.Sinkhorn(EYE, K, V, eps=0.5).velocity(x), x @ V.T / 0.5, rtol=1e-14)


@pytest.mark.parametrize("n", [3, 17, 193])
def test_far_from_the_origin(n):
    """Both sides are centred: a cloud 1e6 away loses the digits that its own rounding costs, no more."""
    case = random_case("Softmax", n=n, d=2, k=2)
    near = fp.Sinkhorn(case.Q, case.Q, EYE)
    x = case.x + 1e6
    moved = near.velocity(x) - 1e6
    np.testing.assert_allclose(moved, near.velocity(x - 1e6), rtol=0, atol=1e-8)


def test_derivatives_at_small_eps_are_as_exact_as_tol_allows():
    """Their error is at most tol / (1 - lambda_2), by linear algebra on scalings from Newton's method.

    Differences of velocities, which divide errors by their step, have fewer digits.
    """
    rng, n, eps = np.random.default_rng(4), 12, 0.05
    x, dx, (Q, K, V) = *rng.normal(size=(2, n, 2)), 0.6 * rng.normal(size=(3, 2, 2))
    S, u = (x @ Q.T) @ (x @ K.T).T / eps, np.zeros(2 * n)
    for _ in range(1000):
        u[:n] = -special.logsumexp(S + u[n:], axis=1) + np.log(n)
        u[n:] = -special.logsumexp(S.T + u[:n], axis=1) + np.log(n)
    for _ in range(12):
        P = np.exp(S + u[:n, None] + u[n:]) / n
        rows, columns = P.sum(1), P.sum(0)
        equations = np.block([[np.diag(rows), P], [P.T, np.diag(columns)]])
        u -= np.linalg.lstsq(equations, np.concatenate([rows, columns]) - 1.0, rcond=1e-13)[0]
    gap = 1.0 - np.sort(np.linalg.eigvals(P @ P.T).real)[-2]
    dS = ((dx @ Q.T) @ (x @ K.T).T + (x @ Q.T) @ (dx @ K.T).T) / eps
    du = np.linalg.lstsq(equations, -np.concatenate([(P * dS).sum(1), (P * dS).sum(0)]), rcond=1e-13)[0]
    want = (P * (dS + du[:n, None] + du[n:]) @ x + P @ dx) @ V.T / eps
    assert np.abs(rows - 1.0).max() < 1e-13 and gap < 1e-2
    for tol in (1e-7, 1e-9, 1e-13):
        found = fp.Sinkhorn(Q, K, V, eps=eps, tol=tol, max_iter=100_000).jvp(x, dx)[1]
        assert np.abs(found - want).max() < (tol / gap) * np.abs(want).max(), tol
