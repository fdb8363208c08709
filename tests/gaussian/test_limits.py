"""Where Gaussian laws end, against closed forms (Theory 3), theorems (4) and the authors' runs (Theory 10)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import LSODA

import fastpde as fp
from fastpde.gaussian import invariant, kernel
from fastpde.gaussian.paths import Stiff, Ways

from .cases import law

CONVERGES, BLOWS_UP, GROWS, OSCILLATES = (
    getattr(fp.Outcome, name) for name in ("CONVERGES", "BLOWS_UP", "GROWS", "OSCILLATES")
)
I2, J = np.eye(2), np.array([[0.0, -1.0], [1.0, 0.0]])


def softmax_of(A, V):
    """Softmax attention with the score matrix A."""
    return fp.Softmax(A, np.eye(len(A)), V)


def end(attention, cov, *, mean=0.0, **options):
    return fp.limit(attention, fp.Gaussian(mean, cov), **options)


@pytest.mark.parametrize("seed", [0, 7, 11])
def test_the_rate_of_an_approach_is_that_in_the_end(seed):
    """Against |S - limit| of a run; of seed 7 a slow part of a few percent is left alone in the end."""
    rng = np.random.default_rng(seed)
    attention, B = fp.Softmax(*rng.standard_normal((3, 2, 2))), rng.standard_normal((2, 2))
    found = end(attention, B @ B.T, closed_forms=False)
    t = np.array([12.0, 15.0]) / -found.rate
    sol = fp.solve(attention, fp.Gaussian(0.0, B @ B.T), (0.0, t[1]), t_eval=t, rtol=1e-11, atol=1e-13)
    left = np.linalg.norm(sol.cov - found.cov, axis=(1, 2))
    assert found.outcome is CONVERGES
    assert np.log(left[1] / left[0]) / (t[1] - t[0]) == pytest.approx(found.rate, rel=0.05)


def onto_kernel(Q, S0):
    """N (N^T S0^{-1} N)^{-1} N^T, N a basis of ker Q."""
    N = np.linalg.svd(Q)[2][np.linalg.matrix_rank(Q) :].T
    return N @ np.linalg.inv(N.T @ np.linalg.inv(S0) @ N) @ N.T


def experiment_6(kind, count):
    """Q, V, S0 (count, d, d) of the rank histograms: seeds 40, 26 (L2: 27), 41 of Theory 10; V = I, then V = G^T G."""
    keys, values = np.random.RandomState(40), np.random.RandomState(26 if kind == "Softmax" else 27)
    for d in (3, 4, 5):
        Q = keys.randn(d // 2, d)
        for V in (np.eye(d), None):
            draws = np.random.RandomState(41)
            if V is None:
                G = values.randn(d, d)
                V = G.T @ G
            G = draws.randn(count, d, d)
            yield d, Q, V, G @ np.swapaxes(G, 1, 2)


@pytest.mark.parametrize("kind", ["Softmax", "L2"])
def test_rank_of_the_limit_in_the_experiments(kind):
    """d - rank Q in every draw (Theory 4.2), where a threshold finds anything, also by slopes alone.

    Without the theorem no rank is wrong; draws whose V is nearly singular may stay open, those with V = I may not.
    """
    for d, Q, V, S0 in experiment_6(kind, count=3):
        attention = getattr(fp, kind)(Q, -Q, V)
        known, found = end(attention, S0), end(attention, S0, closed_forms=False)
        assert (known.outcome == CONVERGES).all() and (known.rank == d - d // 2).all()
        decided = found.outcome == CONVERGES
        assert (found.rank[decided] == d - d // 2).all() and decided.any()
        if np.array_equal(V, np.eye(d)):
            assert decided.all()
            np.testing.assert_allclose(found.cov, [onto_kernel(Q, S) for S in S0], atol=1e-6)


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Sinkhorn"])
@pytest.mark.parametrize("d", [3, 4])
def test_integration_reaches_the_closed_form(d, kind):
    """V = I, K = -Q: the limit does not depend on the variant. To 1e-6 from t of a million natural units."""
    Q, (_, S0) = np.random.default_rng(d).normal(size=(d // 2, d)), law(d, size=1.0)
    attention = getattr(fp, kind)(Q, -Q, np.eye(d))
    want = onto_kernel(Q, S0)
    formula, integral = end(attention, S0), end(attention, S0, closed_forms=False)
    assert "closed form" in formula.reason and "closed form" not in integral.reason
    np.testing.assert_allclose(formula.cov, want, atol=1e-12)
    np.testing.assert_allclose(integral.cov, want, atol=1e-6)
    assert np.linalg.norm(integral.cov - want) <= integral.error
    assert formula.rank == integral.rank == d - d // 2
    np.testing.assert_allclose(integral.spectrum, np.linalg.eigvalsh(integral.cov)[::-1], atol=1e-12)
    assert integral.invariant_drift < 1e-6


def test_closed_form_for_singular_laws():
    """S0 = L L^T of rank 2 in R^4: on its range, S0^{-1} - t B is a formula for the law in the coordinates of L."""
    rng = np.random.default_rng(5)
    Q, L = rng.normal(size=(1, 4)), rng.normal(size=(4, 2))
    n = np.array([-(Q @ L)[0, 1], (Q @ L)[0, 0]])
    want = L @ np.outer(n, n) @ L.T / (n @ n)  # the one direction of the range that Q does not see
    for closed in (True, False):
        found = end(fp.Softmax(Q, -Q, np.eye(4)), L @ L.T, closed_forms=closed)
        assert found.rank == 1
        np.testing.assert_allclose(found.cov, want, atol=1e-6 if not closed else 1e-12)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("what", ["law", "scores"])
def test_units_do_not_matter(what, factor):
    """S0 -> c S0 or A -> c A: S and t change their units (Softmax: S' is of degree one in A, two in S)."""
    rng = np.random.default_rng(11)
    Q, K, V = rng.normal(size=(3, 2, 2))
    G = np.random.default_rng(2).normal(size=(2, 2))
    cases = [(Q, K, V, G @ G.T), (Q, K, -V, G @ G.T), (Q, -Q, V.T @ V, G @ G.T), (I2, I2, J, np.diag([1.0, 0.3]))]
    for Q, K, V, S0 in cases:
        plain = end(fp.Softmax(Q, K, V), S0, closed_forms=False)
        S, scale = (factor * S0, 1.0) if what == "law" else (S0, factor)
        other = end(fp.Softmax(Q, K, V, scale=scale), S, closed_forms=False)
        assert other.outcome is plain.outcome and other.rank == plain.rank
        unit = factor if what == "law" else 1.0
        np.testing.assert_allclose(other.cov / unit, plain.cov, atol=1e-6)
        np.testing.assert_allclose(other.blowup_time * factor, plain.blowup_time, rtol=1e-7)


def test_blow_up_despite_a_negative_spectrum():
    """Theory 4.4: t* = 0.1478; on the line of u exactly 1 / (2 lambda u^T A u)."""
    V, A = np.array([[-1.0, 10.0], [2.5, 1.0]]), np.diag([1.0, -0.25])
    values, vectors = np.linalg.eig(V)
    u = vectors[:, np.argmax(values)]
    line = end(softmax_of(A, V), np.outer(u, u))
    assert line.outcome is BLOWS_UP
    assert abs(line.blowup_time * 2 * values.max() * (u @ A @ u) - 1) < 1e-7
    full = end(softmax_of(A, V), np.outer(u, u) + 0.01 * I2)
    assert full.outcome is BLOWS_UP and abs(full.blowup_time - 0.1478) < 5e-5
    assert full.rank == -1 and np.isnan(full.cov).all()
    assert abs(full.exponent + 1) < 1e-3 and "theta = -1.00" in full.reason


@pytest.mark.parametrize("closed", [True, False])
def test_blow_up_where_matrices_commute(closed):
    """V = vI: t* = 1 / lambda_max(S0^{1/2} B S0^{1/2}) (Theory 3)."""
    A, (_, S0) = np.array([[0.5, 0.8], [-0.3, -0.4]]), law(2)
    want = 1 / np.linalg.eigvals(S0 @ (0.6 * (A + A.T))).real.max()
    found = end(softmax_of(A, 0.6 * I2), S0, closed_forms=closed)
    assert found.outcome is BLOWS_UP and abs(found.blowup_time / want - 1) < 1e-6


def test_l2_blows_up_where_keys_are_not_injective():
    """Theory 4.5: t* = (1 + 2 a) / (2 b0), and tr S ~ (t* - t)^-2."""
    attention = fp.L2([[0, 1.0]], [[1.0, 0]], [[0, 0], [0, 1.0]])
    found = end(attention, [[0.5, 0.4], [0.4, 1.0]])
    assert found.outcome is BLOWS_UP and abs(found.blowup_time / 2.5 - 1) < 1e-6
    assert abs(found.exponent + 2) < 1e-2 and not attention.never_blows_up


@pytest.mark.parametrize("v, q, k, var", [(0.7, 0.6, 0.5, 0.5), (1.0, 1.0, 1e-3, 1.0), (0.3, 2.0, 3.0, 1e-5)])
def test_exponential_growth_in_1d(v, q, k, var):
    """L2: 2 v q / k (Theory 3), also where Riccati growth goes on for six decades first; Sinkhorn: 2 v / eps."""
    found = end(fp.L2([[q]], [[k]], [[v]]), [[var]])
    assert found.outcome is GROWS and abs(found.rate / (2 * v * q / k) - 1) < 2e-3
    found = end(fp.Sinkhorn([[q]], [[k]], [[v]], eps=0.5), [[var]])
    assert found.outcome is GROWS and abs(found.rate / (4 * v) - 1) < 2e-3


def test_other_growth():
    """Softmax, V = e1 e2^T: S22 rests; with A = e2 e2^T S12' = S22^2, S11 ~ t^2; with A = e2 e1^T S11 ~ e^{2 S22 t}."""
    e1, e2 = I2
    S0 = np.array([[1.0, 0.2], [0.2, 0.3]])
    square = end(softmax_of(np.outer(e2, e2), np.outer(e1, e2)), S0)
    assert square.outcome is GROWS and abs(square.exponent - 2) < 1e-2 and np.isnan(square.rate)
    exponential = end(softmax_of(np.outer(e2, e1), np.outer(e1, e2)), S0)
    assert exponential.outcome is GROWS and abs(exponential.rate - 0.6) < 6e-3


def test_one_dimension():
    """Every variant with v a < 0: s ~ 1 / t (Theory 3); Softmax and linear attention with v a > 0 blow up."""
    q, k, v, s, mean = 0.6, 0.5, 0.7, 0.5, 0.4
    for kind in ("Softmax", "L2", "Sinkhorn", "Linear"):
        found = end(getattr(fp, kind)([[q]], [[k]], [[-v]]), [[s]], closed_forms=False)
        assert found.outcome is CONVERGES and found.rank == 0 and found.cov == 0.0
        assert abs(found.exponent + 1) < 1e-2
    for kind, second in (("Softmax", s), ("Linear", s + mean**2)):
        found = end(getattr(fp, kind)([[q]], [[k]], [[v]]), [[s]], mean=[mean])
        assert found.outcome is BLOWS_UP
        assert abs(found.blowup_time * 2 * v * q * k * second - 1) < 1e-6


def test_stationary_laws():
    """V = I, A skew: every S is stationary, though M = S A is not zero (Theory 4.3); point masses; nothing to see."""
    _, S0 = law(3)
    skew = np.array([[0, 1.0, 2.0], [-1.0, 0, 0.5], [-2.0, -0.5, 0]])
    for closed in (True, False):
        found = end(softmax_of(skew, np.eye(3)), S0, closed_forms=closed)
        assert found.outcome is CONVERGES and found.rank == 3 and found.steps == 0
        np.testing.assert_allclose(found.cov, S0, atol=1e-14)
    point = end(softmax_of(skew, np.eye(3)), np.zeros((3, 3)))
    assert point.outcome is CONVERGES and point.rank == 0 and not point.cov.any()
    blind = end(fp.L2(np.zeros((1, 3)), np.ones((1, 3)), np.eye(3)), S0)
    assert blind.outcome is CONVERGES and blind.rank == 3


def test_rotation():
    """V = J, A = I: S' = [J, S^2] = tr S [J, S], so S turns at the angular speed tr S for ever.

    |S'| / |S| = tr S |[J, S]| / |S| = tr S sqrt(2) |a - b| / sqrt(a^2 + b^2) for eigenvalues a, b.
    """
    a, b = 1.0, 0.3
    found = end(softmax_of(I2, J), np.diag([a, b]))
    assert found.outcome is OSCILLATES and found.rank == -1 and np.isnan(found.blowup_time)
    want = (a + b) * np.sqrt(2) * (a - b) / np.hypot(a, b)
    assert abs(found.rate / want - 1) < 1e-3


def test_limits_on_two_lines():
    """Experiment 3: A_s indefinite, d = 2: a limit is of rank <= 1 on a line u^T A u = 0 (Theory 4.3)."""
    draws = np.random.RandomState(36)
    while True:
        A = draws.randn(2, 2)
        A = draws.randn(2, 2).T @ A / np.sqrt(2)
        if np.linalg.det(A + A.T) < 0:
            break
    V = np.random.RandomState(32).randn(2, 2)
    seen = 0
    for u, w in np.random.default_rng(0).uniform(-0.5, 0.5, size=(8, 2)):
        S0 = 0.5 * np.array([[1 + u, w], [w, 1 - u]])
        found = end(softmax_of(A, V), S0)
        if found.outcome is not CONVERGES:
            continue
        seen += 1
        assert found.rank <= 1
        axis = np.linalg.eigh(found.shape)[1][:, -1]
        assert found.rank == 0 or abs(axis @ A @ axis) < 1e-6 * np.linalg.norm(A)
    assert seen > 2


def test_rank_one():
    """S = u u^T stays a line: V = diag(1, -1) turns u towards e1, where A decides (Theory 3)."""
    V, u = np.diag([1.0, -1.0]), np.array([0.3, 0.8])
    up, down = (end(softmax_of(np.diag([sign, 1.0]), V), np.outer(u, u)) for sign in (1.0, -1.0))
    assert up.outcome is BLOWS_UP
    assert down.outcome is CONVERGES and down.rank == 1
    np.testing.assert_allclose(down.cov, 0.24 * np.ones((2, 2)), atol=1e-7)  # x y is kept, to x^2 = y^2


def test_batches_and_parameters_per_system():
    A, (_, S0) = np.diag([-1.0, 0.0]), law(2)
    attention = fp.Softmax(np.stack([A, -A]), I2, I2)
    both = end(attention, S0)
    assert both.outcome.tolist() == [CONVERGES, BLOWS_UP] and both.rank.tolist() == [1, -1]
    assert both.cov.shape == (2, 2, 2) and both.reason.shape == (2,) and both.spectrum.shape == (2, 2)
    many = end(softmax_of(A, I2), np.stack([S0, 2 * S0, 0 * S0])[None])
    assert many.rank.tolist() == [[1, 1, 0]]
    np.testing.assert_allclose(many.cov[0, 1], 2 * many.cov[0, 0])


def test_parameters_of_one_law_with_a_batch_axis():
    Q = np.array([[1.0, 0.2]])
    for closed_forms in (True, False):
        attention = fp.Softmax(Q[None], -Q[None], np.eye(2)[None])
        found = fp.limit(attention, fp.Gaussian(0.0, np.eye(2)[None]), closed_forms=closed_forms)
        assert found.rank.tolist() == [1]


def test_invariant():
    """N^T S^{-1} N on ker Q, on ker Q and range S for a singular S; heads have their kernels in common."""
    rng = np.random.default_rng(3)
    Q, K, V = rng.normal(size=(1, 4)), rng.normal(size=(1, 4)), rng.normal(size=(4, 4))
    root = rng.normal(size=(4, 4))
    heads = fp.MultiHead([fp.Softmax(Q, K, V), fp.L2(2 * Q, K, V), fp.Softmax(rng.normal(size=(1, 4)), K, V)])
    assert kernel(fp.Softmax(Q, K, V)).shape == (4, 3) and kernel(heads).shape == (4, 2)
    for attention, cov in ((fp.Sinkhorn(Q, K, V), root @ root.T), (heads, root[:, :3] @ root[:, :3].T)):
        basis, start = invariant(attention, cov)
        assert basis.shape[1] == (3 if isinstance(attention, fp.Sinkhorn) else 1)
        sol = fp.solve(attention, fp.Gaussian(0.0, cov), (0.0, 0.02), rtol=1e-10, atol=1e-12)
        w = np.linalg.lstsq(sol.factor[-1], basis, rcond=1e-8)[0]
        np.testing.assert_allclose(w.T @ w, start, rtol=1e-6)
        assert np.abs(sol.cov[-1] - cov).max() > 1e-2  # it did move


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Linear", "Sinkhorn", "3 half"])
def test_the_flow_of_limits_is_that_of_solve(kind):
    """The clock, the gauge and the norm taken out: the same S at the same t, linear attention with its mean too."""
    mean, cov = law(3)
    Q, K, V = np.random.default_rng(1).normal(size=(3, 3, 3)) * 0.5
    attention = fp.Sinkhorn(Q, K, V, n_half=3) if kind == "3 half" else getattr(fp, kind)(Q, K, V)
    factor = np.linalg.cholesky(cov)
    ways = Ways(attention, mean[None], factor[None], np.array([0.7]), 1e-10, 1)
    ways.extend()
    way = ways.way(0)
    index = int(np.argmax(way.t > 0.3))
    sol = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, way.t[index]), rtol=1e-11, atol=1e-13)
    S = sol.cov[-1]
    np.testing.assert_allclose(way.cov(index), S, atol=1e-8)
    np.testing.assert_allclose(np.exp(way.spectrum[index]), np.linalg.eigvalsh(S)[::-1], rtol=1e-6)
    M, _ = attention.affine(sol.mean[-1], S)
    rate = M @ S + S @ M.T
    if kind != "Linear":  # there the mean has its part
        assert abs(way.g[index] * np.trace(S) / np.trace(rate) - 1) < 1e-6
        assert abs(way.w[index] * np.linalg.norm(S) / np.linalg.norm(rate) - 1) < 1e-6
    assert abs(way.M[index] / np.linalg.norm(M) - 1) < 1e-6


@pytest.mark.parametrize("d", [2, 3])
def test_random_attention_is_decided(d):
    """Normal Q, K, V and S0: an outcome for each."""
    for seed in range(6):
        Q, K, V, G = np.random.default_rng([d, seed]).normal(size=(4, d, d))
        found = end(fp.Softmax(Q, K, V), G @ G.T)
        assert found.outcome is not fp.Outcome.UNDECIDED, (seed, found.reason)


def test_errors_name_the_argument():
    attention, gaussian = fp.Softmax(I2, I2, I2), fp.Gaussian(0.0, I2)
    for arguments, options, name in (
        (("softmax", gaussian), {}, "attention"),
        ((attention, I2), {}, "law"),
        ((attention, fp.Gaussian(0.0, np.eye(3))), {}, "law"),
        ((fp.Softmax(lambda t: I2, I2, I2), gaussian), {}, "attention"),
        ((attention, gaussian), {"rtol": 0.0}, "rtol"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^{name}") as caught:
            fp.limit(*arguments, **options)
        assert caught.value.name == name
    with pytest.raises(fp.NoGaussianClosure):
        fp.limit(fp.Sigmoid(I2, I2, I2), gaussian)


@pytest.mark.parametrize("option", [{"closed_forms": "no"}, {"max_steps": 0.5}])
def test_options_of_no_use(option):
    with pytest.raises(fp.InputTypeError, match=next(iter(option))):
        fp.limit(fp.Softmax(*np.ones((3, 1, 1))), fp.Gaussian(0.0, [[1.0]]), **option)


def test_stiff_laws_in_turns(monkeypatch):
    """SciPy before 1.17 refuses a step of one LSODA after that of another; y' = -rate y is known whatever it does."""
    monkeypatch.setattr(LSODA, "step", _one_at_a_time(LSODA.step))
    times, rates = np.array([[0.5, 1.0], [1.5, 2.0]]), (1.0, 2.0)
    start = np.array([1.0, 0.0])
    laws = [Stiff(lambda _, y, k=k: np.array([-k * y[0], 0.0]), 0.0, start, 1, 1e-9) for k in rates]
    for due in times:
        for stiff, rate in zip(laws, rates, strict=True):
            assert_allclose(stiff.follow(due, 10_000)[:, 0], np.exp(-rate * due), rtol=1e-6)  # rtol 1e-9 of each step


def _one_at_a_time(step):
    active = [None]

    def checked(run):
        before, active[0] = active[0], run
        if run.t_old is not None and before is not run:
            raise RuntimeError("one at a time")
        return step(run)

    return checked
