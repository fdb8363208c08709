"""The flow of Gaussian laws against closed forms (Theory 3), theorems (4) and particles at Hermite nodes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

import fastpde as fp

from ..test_meanfield import l2_1d, linear_1d, softmax_1d
from .cases import AFFINE, attentions, law, matrices, moments, nodes

TIGHT = {"rtol": 1e-11, "atol": 1e-13}
A1, V1 = np.array([[1.0, 0.2], [0.2, -0.4]]), np.array([[0.8, 0.1], [0.1, 0.5]])


def softmax_of(A, V):
    """Softmax attention with the score matrix A."""
    return fp.Softmax(A, np.eye(len(A)), V)


@pytest.mark.parametrize("v", [0.7, -0.8])
@pytest.mark.parametrize("kind", AFFINE)
def test_closed_forms_in_1d(kind, v):
    q, k, mean, var, times = 0.6, 0.5, 0.4, 0.5, np.linspace(0.0, 2.0, 5)
    sol = fp.solve(
        getattr(fp, kind)([[q]], [[k]], [[v]]), fp.Gaussian([mean], [[var]]), (0.0, 2.0), t_eval=times, **TIGHT
    )
    assert sol.success and sol.status is fp.Status.COMPLETED and np.isnan(sol.blowup_time)
    for i, t in enumerate(times):
        want = {
            "Softmax": lambda t: softmax_1d(t, k * q, v, mean, var),
            "L2": lambda t: l2_1d(t, q, k, v, mean, var),
            "Linear": lambda t: linear_1d(t, k * q, v, mean, var),
        }[kind](t)
        np.testing.assert_allclose((sol.mean[i, 0], sol.cov[i, 0, 0]), want, rtol=1e-10)


def test_commuting_matrices():
    """V = vI: S(t)^{-1} = S0^{-1} - t B, B = v (A + A^T) (Theory 3)."""
    v, t = 0.6, 0.4
    _, S0 = law(2)
    A = np.array([[0.5, 0.8], [-0.3, -0.4]])
    sol = fp.solve(softmax_of(A, v * np.eye(2)), fp.Gaussian(0.0, S0), (0.0, t), **TIGHT)
    np.testing.assert_allclose(sol.cov[-1], np.linalg.inv(np.linalg.inv(S0) - t * v * (A + A.T)), rtol=1e-9)


def test_parameters_in_time():
    """V = I, A(t) = A cos 3t: S(t)^{-1} = S0^{-1} - int (A + A^T) (Theory 3)."""
    _, S0 = law(2)
    A = np.array([[0.5, 0.8], [-0.3, -0.4]])
    attention = fp.Softmax(lambda t: A * np.cos(3 * t), np.eye(2), np.eye(2))
    sol = fp.solve(attention, fp.Gaussian(0.0, S0), (0.0, 1.0), **TIGHT)
    want = np.linalg.inv(np.linalg.inv(S0) - (A + A.T) * np.sin(3.0) / 3)
    np.testing.assert_allclose(sol.cov[-1], want, rtol=1e-9)


def test_rank_one():
    """S = u u^T with u = e^{tau V} u0, dtau/dt = u^T A u: any V and A (Theory 3); the rank stays one."""
    u0 = np.array([0.6, -0.3])
    values, vectors = np.linalg.eigh(V1)

    def u(tau):
        return vectors @ (np.exp(tau * values) * (vectors.T @ u0))

    tau = 0.5
    t = quad(lambda s: 1 / (u(s) @ A1 @ u(s)), 0, tau, epsabs=1e-14)[0]
    sol = fp.solve(softmax_of(A1, V1), fp.Gaussian(0.0, np.outer(u0, u0)), (0.0, t), **TIGHT)
    np.testing.assert_allclose(sol.cov[-1], np.outer(u(tau), u(tau)), rtol=1e-9)
    assert np.linalg.matrix_rank(sol.factor[-1], tol=1e-12) == 1


@pytest.mark.parametrize("name", attentions(1))
@pytest.mark.parametrize("d", [1, 2])
def test_particles_at_nodes_follow(d, name):
    attention, (mean, cov) = attentions(d)[name], law(d, size=0.4)
    x, weights = nodes(mean, cov, order=24)
    particles = fp.solve(attention, x, (0.0, 0.4), weights=weights, **TIGHT)
    sol = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.4), **TIGHT)
    got = moments(particles.x[-1], weights)
    np.testing.assert_allclose(sol.mean[-1], got[0], atol=1e-9)
    np.testing.assert_allclose(sol.cov[-1], got[1], atol=1e-9)
    assert np.abs(sol.cov[-1] - cov).max() > 1e-3  # it did move


@pytest.mark.parametrize(
    "attention, cov, want",
    [
        (fp.Softmax([[0.6]], [[0.5]], [[0.7]]), [[0.5]], 1 / (2 * 0.7 * 0.3 * 0.5)),
        (fp.Linear([[0.6]], [[0.5]], [[0.7]]), [[0.5]], 1 / (2 * 0.7 * 0.3 * 0.5)),
        # Theory 4.5: L2 with K that is not injective; tr S ~ (t* - t)^-2.
        (fp.L2([[0, 1.0]], [[1.0, 0]], [[0, 0], [0, 1.0]]), [[0.5, 0.4], [0.4, 1.0]], (1 + 2 * 0.5) / (2 * 0.4)),
    ],
    ids=["softmax", "linear", "l2"],
)
def test_blow_up(attention, cov, want):
    sol = fp.solve(attention, fp.Gaussian(0.0, cov), (0.0, 100.0), rtol=1e-10, atol=1e-12)
    assert sol.status is fp.Status.BLOW_UP and sol.success
    assert abs(sol.blowup_time / want - 1) < 1e-8
    assert f"{want:.6g}"[:5] in sol.message
    assert sol.t_final <= sol.blowup_time * (1 + 1e-12)


def test_blow_up_despite_a_negative_spectrum():
    """Theory 4.4: lambda_max(VA + A^T V^T) < 0 and yet t* = 0.1478; rank one: 1 / (2 lambda u^T A u)."""
    V, A = np.array([[-1.0, 10.0], [2.5, 1.0]]), np.diag([1.0, -0.25])
    assert np.linalg.eigvalsh(V @ A + (V @ A).T).max() < -0.4
    values, vectors = np.linalg.eig(V)
    u = vectors[:, np.argmax(values)]
    rank_one = fp.solve(softmax_of(A, V), fp.Gaussian(0.0, np.outer(u, u)), (0.0, 1.0), **TIGHT)
    assert abs(rank_one.blowup_time * 2 * values.max() * (u @ A @ u) - 1) < 1e-9
    full = fp.solve(softmax_of(A, V), fp.Gaussian(0.0, np.outer(u, u) + 0.01 * np.eye(2)), (0.0, 1.0), **TIGHT)
    assert abs(full.blowup_time - 0.1478) < 5e-5


def test_exponential_growth_is_no_blow_up():
    """L2 with injective K grows like e^{2 v q t / k} (Theory 3)."""
    q, k, v = 0.6, 0.5, 0.7
    sol = fp.solve(fp.L2([[q]], [[k]], [[v]]), fp.Gaussian(0.0, [[0.5]]), (0.0, 40.0), t_eval=[39.0, 40.0])
    assert sol.status is fp.Status.COMPLETED and np.isnan(sol.blowup_time)
    assert abs(np.log(sol.cov[1, 0, 0] / sol.cov[0, 0, 0]) - 2 * v * q / k) < 1e-3


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Linear"])
def test_what_is_conserved(kind):
    """N^T S^{-1} N for N a basis of ker Q (Theory 4.1)."""
    Q, K, V = matrices(3)
    _, cov = law(3)
    kernel = np.linalg.svd(Q)[2][2:].T
    sol = fp.solve(getattr(fp, kind)(Q, K, V), fp.Gaussian(0.0, cov), (0.0, 1.0), t_eval=[0.0, 0.5, 1.0], **TIGHT)
    kept = [kernel.T @ np.linalg.inv(S) @ kernel for S in sol.cov]
    np.testing.assert_allclose(kept[1:], [kept[0]] * 2, rtol=1e-9)


@pytest.mark.parametrize("kind", ["Softmax", "L2"])
@pytest.mark.parametrize("d", [3, 4, 5])
def test_limits_for_opposite_keys(d, kind):
    """V = I, K = -Q: the limit is N (N^T S0^{-1} N)^{-1} N^T, of rank d - rank Q (Theory 4.2); approach like 1 / t."""
    rng = np.random.default_rng(d)
    Q = rng.random((d // 2, d))
    _, cov = law(d, size=1.0)
    sol = fp.solve(getattr(fp, kind)(Q, -Q, np.eye(d)), fp.Gaussian(0.0, cov), (0.0, 1e8), rtol=1e-9, atol=1e-13)
    kernel = np.linalg.svd(Q)[2][d // 2 :].T
    want = kernel @ np.linalg.inv(kernel.T @ np.linalg.inv(cov) @ kernel) @ kernel.T
    np.testing.assert_allclose(sol.cov[-1], want, atol=1e-6)
    assert np.sum(np.linalg.eigvalsh(sol.cov[-1]) > 1e-5) == d - d // 2


def test_gaussian():
    g = fp.Gaussian(0.0, np.eye(2))
    assert repr(g) == "Gaussian(d=2)" and repr(fp.Gaussian(0.0, np.zeros((5, 3, 3)))) == "Gaussian(d=3, systems=(5,))"
    np.testing.assert_array_equal(g.mean, [0.0, 0.0])
    with pytest.raises(ValueError, match="read-only"):
        g.cov[0, 0] = 2.0
    singular = fp.Gaussian([1.0, 2.0], [[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(singular.factor @ singular.factor.T, singular.cov, atol=1e-15)
    assert np.sum(np.abs(singular.factor).max(axis=0) > 0) == 1
    with pytest.raises(fp.NoGaussianClosure):
        fp.solve(fp.Sigmoid(*[np.eye(2)] * 3), g, (0.0, 1.0))


def test_arguments_that_a_gaussian_law_has_not_are_named():
    start, attention = fp.Gaussian(0.0, np.eye(2)), fp.Softmax(*[np.eye(2)] * 3)
    for name, value in {"weights": [1.0], "noise": 0.1, "events": [fp.BlowUp(3.0)], "manifold": fp.Sphere()}.items():
        with pytest.raises(fp.InputError, match=f"^{name}.*Gaussian"):
            fp.solve(attention, start, (0.0, 1.0), **{name: value})
    assert fp.solve(attention, start, (0.0, 0.1), noise=np.float32(0.0)).success
    with pytest.raises(fp.InputError, match=r"^x0.*dimension 3"):
        fp.solve(attention, fp.Gaussian(0.0, np.eye(3)), (0.0, 1.0))
    with pytest.raises(fp.InputError, match=r"^x0.*3 as the parameters"):
        fp.solve(fp.Softmax(*[np.ones((3, 2, 2))] * 3), fp.Gaussian(0.0, np.zeros((4, 2, 2))), (0.0, 1.0))
    with pytest.raises(fp.InputTypeError, match=r"^attention"):
        fp.solve(fp.Softmax, start, (0.0, 1.0))


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("turn", [0.0, 1.0, 2.0, 4.0, 30.0])
def test_laws_that_turn_while_they_blow_up(turn, rtol):
    """A V + V^T A = 2 gamma |A|: <A, S>' = 2 gamma <A, S>^2, t* = 5/8 whatever the turning (Theory 3)."""
    A = -np.diag([2.0, 0.5])
    V = -0.4 * np.eye(2) + turn * np.linalg.inv(A) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    sol = fp.solve(fp.Softmax(A, np.eye(2), V), fp.Gaussian(0.0, np.diag([1.0, 0.5])), (0.0, 5.0), rtol=rtol)
    assert sol.status is fp.Status.BLOW_UP and abs(sol.blowup_time / 0.625 - 1.0) < 100 * rtol


def test_what_turns_and_only_grows_does_not_blow_up():
    """Linear attention with V = 1e150 J turns S without end: no step is small enough, and nothing becomes infinite."""
    J = 1e150 * np.array([[0.0, 1.0], [-1.0, 0.0]])
    sol = fp.solve(fp.Linear(np.eye(2), np.eye(2), J), fp.Gaussian(0.0, np.diag([1.0, 0.5])), (0.0, 1.0))
    assert sol.status is not fp.Status.BLOW_UP and np.isnan(sol.blowup_time)
