"""Bures-Wasserstein energies of Gaussian laws: gradients by differences, flows, quadrature, closed forms (Theory 7)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .cases import nodes

RNG = np.random.default_rng(5)
Q = RNG.normal(size=(2, 3, 3)) * 0.6
A = Q[0].T @ Q[0] * 0.8  # of Q = K and scale 0.8
B = (Q[1] + Q[1].T) / 3  # indefinite
EYE = np.eye(3)
W = RNG.normal(size=(3, 3))
FLOWS = {  # attention, the sign of dF/dt
    "softmax": (fp.Softmax(B, EYE, B), 1),
    "softmax descends": (fp.Softmax(Q[0], Q[0], -A, scale=0.8), -1),
    "l2": (fp.L2(Q[0], Q[0], A, scale=0.8), 1),
    "l2 descends": (fp.L2(Q[0], Q[0], -A, scale=0.8), -1),
    "sinkhorn": (fp.Sinkhorn(B, EYE, B, eps=0.7), -1),
    "sinkhorn ascends": (fp.Sinkhorn(Q[0], Q[0], -A, eps=0.7, scale=0.8), 1),
    "heads": (fp.MultiHead([fp.Softmax(B, EYE, B), fp.Softmax(Q[0], Q[0], A, scale=0.8)]), 1),
    "heads with outputs": (fp.MultiHead([fp.Softmax(B, EYE, np.linalg.solve(W, B))], W=[W]), 1),
}


def random_law(*, mean=False, rank=3):
    L = RNG.normal(size=(3, rank)) * 0.5
    return fp.Gaussian(RNG.normal(size=3) if mean else np.zeros(3), L @ L.T)


def slope(f, h=1e-4):
    """f'(0) by central differences of order 4: h^4 and rounding / h are both below 1e-11."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


@pytest.mark.parametrize("name", FLOWS)
def test_the_field_is_the_gradient(name):
    """dF(H) = +- tr(M H) / 2 for symmetric H; with a mean dF(h) = +- <Gamma(m), h> too, under Sinkhorn attention."""
    attention, sign = FLOWS[name]
    law = random_law(mean="sinkhorn" in name)
    cov = law.cov + 0.1 * EYE
    M, c = attention.affine(law.mean, cov)
    np.testing.assert_allclose(M, M.T, atol=1e-13)
    H, h = RNG.normal(size=(3, 3)), RNG.normal(size=3) * law.mean.any()
    H = (H + H.T) / 20
    got = slope(lambda e: fp.bures_energy(attention, fp.Gaussian(law.mean + e * h, cov + e * H)))
    want = sign * (np.trace(M @ H) / 2 + h @ (M @ law.mean + c))
    assert got == pytest.approx(want, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", FLOWS)
def test_the_balance_along_the_flow(name, rank):
    """dF/dt along the solved flow is +- int |Gamma|^2, of singular laws too.

    1e-7: differences of order 4 of a flow at 1e-12, h = 1e-3.
    """
    attention, sign = FLOWS[name]
    law = random_law(mean="sinkhorn" in name, rank=rank)
    t = 0.05 + 0.001 * np.arange(-2, 3)
    flow = fp.solve(attention, law, (0.0, 0.1), t_eval=t, rtol=1e-12, atol=1e-14)
    laws = [fp.Gaussian(m, S) for m, S in zip(flow.mean, flow.cov, strict=True)]
    F = np.array([fp.bures_energy(attention, one) for one in laws])
    rate = fp.bures_dissipation(attention, laws[2])
    assert (8 * (F[3] - F[1]) - (F[4] - F[0])) / 0.012 == pytest.approx(rate, rel=1e-7)
    assert np.sign(rate) == sign and (sign * np.diff(F) > 0).all()


def test_the_dissipation_is_an_integral():
    """int |Gamma|^2 dN(0, S) by Gauss-Hermite nodes, exact for squares."""
    for name, (attention, sign) in FLOWS.items():
        law = random_law(mean="sinkhorn" in name)
        x, w = nodes(law.mean, law.cov, order=6)
        M, c = attention.affine(law.mean, law.cov)
        want = sign * w @ ((x @ M.T + c) ** 2).sum(axis=1)
        assert fp.bures_dissipation(attention, law) == pytest.approx(want, rel=1e-12)


def test_sinkhorn_is_the_energy_of_clouds():
    """S_eps / (2 eps) of the law is that of weighted Gauss-Hermite nodes: 1e-8, the tolerance of their scaling."""
    attention = fp.Sinkhorn([[0.5, 0.2], [0.2, 0.3]], np.eye(2), [[0.5, 0.2], [0.2, 0.3]], eps=0.8, tol=1e-11)
    law = fp.Gaussian([0.3, -0.2], [[0.6, 0.1], [0.1, 0.4]])
    x, w = nodes(law.mean, law.cov, order=24)
    want = fp.sinkhorn_energy(attention, x, weights=w, backend="direct") / (2 * 0.8)
    assert fp.bures_energy(attention, law) == pytest.approx(want, rel=1e-8)


def test_one_dimension():
    """Softmax a^2 s^2 / 4 and its rate a^4 s^3; L2 a s / 2 - log(1 + 2 a s) / 4, digits kept where s is small."""
    a, s = 0.7, 1.3
    law = fp.Gaussian(0.0, [[s]])
    softmax = fp.Softmax([[a]], [[1.0]], [[a]])
    assert fp.bures_energy(softmax, law) == pytest.approx(a**2 * s**2 / 4, rel=1e-14)
    assert fp.bures_dissipation(softmax, law) == pytest.approx(a**4 * s**3, rel=1e-14)
    l2 = fp.L2([[np.sqrt(a)]], [[np.sqrt(a)]], [[a]])
    assert fp.bures_energy(l2, law) == pytest.approx(a * s / 2 - np.log(1 + 2 * a * s) / 4, rel=1e-13)
    assert fp.bures_energy(l2, fp.Gaussian(0.0, [[1e-9]])) == pytest.approx((a * 1e-9) ** 2 / 2, rel=1e-6)


REFUSED = {
    "V": (fp.Softmax(B, EYE, A), random_law()),
    "not symmetric": (fp.Softmax(Q[1], EYE, Q[1]), random_law()),
    "L2, Q is not K": (fp.L2(B, EYE, B), random_law()),
    "variant": (fp.Linear(B, EYE, B), random_law()),
    "half-iterations": (fp.Sinkhorn(B, EYE, B, n_half=3), random_law()),
    "heads of L2": (fp.MultiHead([fp.L2(Q[0], Q[0], A, scale=0.8)]), random_law()),
    "signs": (fp.MultiHead([fp.Softmax(B, EYE, B), fp.Softmax(B, EYE, -B)]), random_law()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_flows_that_are_no_gradient_flows_are_refused(case):
    attention, law = REFUSED[case]
    for function in (fp.bures_energy, fp.bures_dissipation):
        with pytest.raises(fp.InputError) as caught:
            function(attention, law)
        assert caught.value.name == "attention"


def test_laws_that_are_refused():
    attention = FLOWS["softmax"][0]
    for law in (random_law(mean=True), fp.Gaussian(np.zeros((2, 3)), EYE)):
        with pytest.raises(fp.InputError, match="law"):
            fp.bures_energy(attention, law)
    with pytest.raises(TypeError, match="law"):
        fp.bures_energy(attention, np.zeros((4, 3)))
    with pytest.raises(TypeError, match="attention"):
        fp.bures_energy("softmax", random_law())
