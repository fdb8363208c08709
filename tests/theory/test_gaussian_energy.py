"""The energy of Gaussians: every formula against quadrature or finite differences."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.energy_convexity import SPECTRA, laws, matrices
from fastpde.theory import gaussian_energy as ge

from ..gaussian.cases import nodes

# A > 0 and a Gaussian at which E has a negative direction in the twisted metric; a few in 100000 are like it.
RARE_A = np.array([[2.25541866, -4.8263677], [-4.8263677, 10.88912477]])
RARE_S = np.array([[[0.00207383, 0.00477169], [0.00477169, 0.01209324]]])
RARE_M = np.array([[0.00994761, 0.01614351]])


def case(d, *, spectrum="positive", means="any", seed=0, extent=0.4):
    """A, and one Gaussian as a batch: m (1, d), S (1, d, d)."""
    rng = np.random.default_rng([seed, d])
    A = matrices(spectrum, 1, d, rng)
    m, S = laws(A, np.array([extent]), means, rng)
    return A[0], m, S


def quadrature(m, S):
    """Nodes and weights; the integrands grow like a Gaussian, so far nodes matter and none is dropped."""
    return nodes(m[0], S[0], order=60, floor=0.0)


@pytest.mark.parametrize("d", [1, 2])
def test_energy_and_weight_are_the_integrals(d):
    A, m, S = case(d)
    x, w = quadrature(m, S)
    Z = np.exp(x @ A @ x.T) @ w
    # e^{x.A.y} at |S^{1/2} A S^{1/2}| = 0.4: 60 nodes are exact to about 1e-10 where weights are not negligible.
    near = w > 1e-6
    assert ge.weight(A, m, S, x[None])[0][near] == pytest.approx(Z[near], rel=1e-8)
    assert np.exp(ge.log_energy(A, m, S)) == pytest.approx(0.5 * w @ Z, rel=1e-8)


@pytest.mark.parametrize("d", [1, 2])
def test_kinetic_energy_is_the_integral(d):
    A, m, S = case(d, spectrum="negative")
    x, w = quadrature(m, S)
    rng = np.random.default_rng(1)
    M, c = rng.normal(size=(1, 2, d, d)), rng.normal(size=(1, 2, d))
    v = np.einsum("kij,nj->kni", M[0], x - m) + c[0][:, None]
    want = np.einsum("kni,lni,n->kl", v, v, w * ge.weight(A, m, S, x[None])[0])
    assert ge.kinetic(A, m, S, M, c)[0] == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_derivatives_are_those_of_the_energy(spectrum):
    A, m, S = case(3, spectrum=spectrum)
    slope, bend = ge.derivatives(A, m, S)
    n, E = slope.shape[1], np.exp(ge.log_energy(A, m, S)[0])

    def at(step):
        return np.exp(ge.log_energy(A, *ge.shifted(m, S, np.asarray(step))))[0]

    h, eye = 1e-4 * np.trace(S[0]), np.eye(n)
    first = [(at(h * e) - at(-h * e)) / (2 * h * E) for e in eye]
    second = [
        [(at(h * (e + f)) - at(h * (e - f)) - at(h * (f - e)) + at(-h * (e + f))) / (4 * h * h * E) for f in eye]
        for e in eye
    ]
    # Central differences: h^2 of the size of S in truncation, 1e-16 / h^2 in rounding.
    assert np.abs(slope[0] - first).max() < 1e-5 * np.abs(slope).max()
    assert np.abs(bend[0] - second).max() < 1e-5 * np.abs(bend).max()


def test_metric_is_the_least_kinetic_energy():
    """Adding a velocity that leaves the Gaussian where it is never lowers it, and the minimum over them is reached."""
    A, m, S = case(2)
    dm, dS = (a[3] for a in ge.basis(2))
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    found = [
        ge.kinetic(A, m, S, ((dS / 2 + s * turn) @ np.linalg.inv(S[0]))[None, None], dm[None, None])[0, 0, 0]
        for s in (-1.0, 0.0, 1.0)
    ]
    # A parabola in s: its minimum from three values.
    a, b = (found[0] + found[2]) / 2 - found[1], (found[2] - found[0]) / 2
    assert ge.twisted(A, m, S)[0, 3, 3] == pytest.approx(found[1] - b * b / (4 * a), rel=1e-10)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_softmax_flow_is_the_twisted_gradient(spectrum):
    """V = A = Q^T K: Gamma = grad Z / Z is affine on Gaussians, so dE = g (m', S') exactly (Theory 7)."""
    A, m, S = case(3, spectrum=spectrum)
    M, c = fp.Softmax(A, np.eye(3), A).affine(m[0], S[0])
    rate = M @ S[0] + S[0] @ M.T
    flow = np.concatenate([M @ m[0] + c, rate[np.triu_indices(3)]])
    slope, _ = ge.derivatives(A, m, S)
    E = np.exp(ge.log_energy(A, m, S)[0])
    assert ge.twisted(A, m, S)[0] @ flow == pytest.approx(E * slope[0], rel=1e-9, abs=1e-9 * np.abs(E * slope).max())


def test_hessian_on_the_line_is_that_of_arc_length():
    """d = 1, centred: dE/dl = a^2 s^{3/2} (1 - u^2)^{-3/4}, u = a s, dl/ds = (1 - u^2)^{-3/4} / (2 s^{1/2})."""
    a, s = 1.7, 0.31
    hessian, metric = ge.hessian_twisted(np.array([[a]]), np.zeros((1, 1)), np.array([[[s]]]))
    u2, h = (a * s) ** 2, 1e-6

    def force(s):
        return a**2 * s**1.5 * (1 - (a * s) ** 2) ** -0.75

    want = (force(s + h) - force(s - h)) / (2 * h) * 2 * np.sqrt(s) * (1 - u2) ** 0.75
    # Hessian and metric are both over E, so their ratio is d^2 E / dl^2.
    assert hessian[0, 1, 1] / metric[0, 1, 1] == pytest.approx(want, rel=1e-7)


def geodesic(A, m, S, velocity, t, steps=40):
    """The energy at time t on the twisted geodesic, by Runge-Kutta on g x'' = -Gamma(x', x')."""

    def slope(p, v):
        at = ge.shifted(m, S, p)
        g = ge.twisted(A, *at, ge.log_energy(A, *at))[0]
        return v, -np.linalg.solve(g, np.einsum("lij,i,j->l", ge.christoffel(A, *at)[0], v, v))

    p, v, h = np.zeros(len(velocity)), velocity, t / steps
    for _ in range(steps):
        k1 = slope(p, v)
        k2 = slope(p + h / 2 * k1[0], v + h / 2 * k1[1])
        k3 = slope(p + h / 2 * k2[0], v + h / 2 * k2[1])
        k4 = slope(p + h * k3[0], v + h * k3[1])
        p, v = (a + h / 6 * (b + 2 * c + 2 * d + e) for a, b, c, d, e in zip((p, v), k1, k2, k3, k4, strict=True))
    there = ge.shifted(m, S, p)
    speed = v @ ge.twisted(A, *there)[0] @ v
    return np.exp(ge.log_energy(A, *there)[0]), speed


def test_energy_bends_down_on_a_twisted_geodesic_for_positive_A():
    """The rare violation is one of the energy along a geodesic, and not of the Hessian's formula alone."""
    hessian, metric = ge.hessian_twisted(RARE_A, RARE_M, RARE_S)
    back = np.linalg.inv(np.linalg.cholesky(metric[0]))
    values, vectors = np.linalg.eigh(back @ hessian[0] @ back.T)
    assert values[0] < -1e-4 * values[-1]
    direction = back.T @ vectors[:, 0]
    E = np.exp(ge.log_energy(RARE_A, RARE_M, RARE_S)[0])
    t = 0.02
    (before, slow), (after, fast) = (geodesic(RARE_A, RARE_M, RARE_S, direction, s) for s in (-t, t))
    # The speed of a geodesic is constant; second differences have an error of t^2.
    assert slow == pytest.approx(fast, rel=1e-8)
    assert (before - 2 * E + after) / t**2 / E == pytest.approx(values[0], rel=0.05)


def test_wasserstein_second_derivative_is_that_of_the_energy():
    A, *first = case(2, spectrum="indefinite")
    _, *second = case(2, spectrum="indefinite", seed=1, extent=0.2)
    second[1] *= (0.3 / ge.size(A, second[1]))[:, None, None]
    T = ge.bures(first[1], second[1])
    assert T[0] @ first[1][0] @ T[0] == pytest.approx(second[1][0], rel=1e-10, abs=1e-14)

    def at(t):
        C = np.eye(2) + t * (T - np.eye(2))
        return np.exp(ge.log_energy(A, first[0] + t * (second[0] - first[0]), C @ first[1] @ C))[0]

    h, t = 1e-3, 0.3
    want = (at(t + h) - 2 * at(t) + at(t - h)) / h**2
    got, _ = ge.along_wasserstein(A, first, second, t)
    assert np.sign(got[0]) == np.sign(want)
    hessian, _ = ge.hessian_wasserstein(A, *first)
    v = np.concatenate([(second[0] - first[0])[0], (T[0] - np.eye(2))[np.triu_indices(2)]])
    E = at(0.0)
    assert v @ hessian[0] @ v == pytest.approx((at(h) - 2 * E + at(-h)) / h**2 / E, rel=1e-4)
