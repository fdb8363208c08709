"""Quadrature nodes, moments and densities of laws, against closed forms and other quadrature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ive
from scipy.stats import multivariate_normal

import fastpde as fp
from fastpde import laws
from fastpde.errors import InputError, InputTypeError

from .test_samples import LAWS, STEPS

COV = np.array([[2.0, 0.6], [0.6, 0.5]])


def double(n):
    return math.prod(range(n, 0, -2))


def sphere_moment(powers):
    """E x^a of the unit sphere: prod (a_i - 1)!! / (d (d + 2) ... (d + |a| - 2)), 0 for an odd power."""
    if any(a % 2 for a in powers):
        return 0.0
    d, total = len(powers), sum(powers)
    return math.prod(double(a - 1) for a in powers) / math.prod(range(d, d + total, 2))


def radial_moment(a, b, d, p):
    """E r^p for a density in proportion to r^{d-1} on [a, b]."""
    return d / (d + p) * (b ** (d + p) - a ** (d + p)) / (b**d - a**d)


def exponents(d, degree):
    return [p for p in itertools.product(range(degree + 1), repeat=d) if sum(p) <= degree]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_round_rules_are_exact_to_their_degree(d, m):
    """All monomials; 1e-14 is a few roundings of sums of up to 250 terms below 1."""
    for law, degree, radius in (
        (laws.Ball(d, 1.5), 2 * m - 1, lambda p: radial_moment(0.0, 1.5, d, p)),
        (laws.Sphere(d, 1.5), 2 * m - 1, lambda p: 1.5**p),
        (laws.Annulus(d, 0.5, 1.5), 2 * m - d, lambda p: radial_moment(0.5, 1.5, d, p)),
    ):
        x, w = law.nodes(m)
        assert x.shape == (len(w), d) and (w > 0).all() and abs(w.sum() - 1.0) < 1e-14
        assert np.linalg.norm(x, axis=1).max() < 1.5 * (1 + 1e-14)
        for powers in exponents(d, degree):
            want = sphere_moment(powers) * radius(sum(powers))
            assert abs(w @ np.prod(x**powers, axis=1) - want) < 1e-14 * 1.5 ** sum(powers)


def test_rules_end_where_they_say():
    """A power more is not exact: the degree that is stated is the one that is."""
    for law in (laws.Ball(2), laws.Sphere(2), laws.Box(-1.0, 1.0), laws.Gaussian(0.0, np.eye(1)), laws.Ball(1)):
        errors = []
        for degree in (4, 6):
            x, w = law.nodes(3)
            z, v = law.nodes(12)
            f = (lambda x, k: np.real((x[:, 0] + 1j * x[:, -1]) ** k)) if isinstance(law, laws.Sphere) else (
                lambda x, k: x[:, 0] ** k)  # fmt: skip
            errors.append(abs(w @ f(x, degree) - v @ f(z, degree)))
        assert errors[0] < 1e-13 and errors[1] > 1e-4


def test_tensor_rules_are_exact_to_their_degree():
    low, high, m = np.array([-1.0, 0.5]), np.array([2.0, 1.0]), 4
    x, w = laws.Box(low, high).nodes(m)
    mixed = laws.Product([laws.Box(low, high), laws.Gaussian([0.3], [[0.7]])])
    y, v = mixed.nodes(m)
    assert x.shape == (16, 2) and y.shape == (64, 3)
    for powers in itertools.product(range(2 * m), repeat=2):
        p = np.array(powers) + 1.0
        want = np.prod((high**p - low**p) / (p * (high - low)))
        assert abs(w @ np.prod(x**powers, axis=1) - want) < 1e-13 * max(1.0, abs(want))
        assert abs(v @ (np.prod(y[:, :2] ** powers, axis=1) * (y[:, 2] - 0.3) ** 4) - want * 3 * 0.49) < 2e-13 * max(
            1.0, abs(want)
        )


def test_gaussian_rule_is_exact_to_its_degree_and_keeps_the_rank():
    """Isserlis: E a^2 b^2 = S_aa S_bb + 2 S_ab^2, E a^5 b = 15 S_aa^2 S_ab, of centred coordinates."""
    mean = np.array([1.0, -2.0])
    x, w = fp.Gaussian(mean, COV).nodes(4)
    a, b = (x - mean).T
    assert len(w) == 16 and np.allclose(w @ x, mean, rtol=1e-14)
    np.testing.assert_allclose(w @ (a**2 * b**2), COV[0, 0] * COV[1, 1] + 2 * COV[0, 1] ** 2, rtol=1e-13)
    np.testing.assert_allclose(w @ (a**5 * b), 15 * COV[0, 0] ** 2 * COV[0, 1], rtol=1e-13)
    x, w = fp.Gaussian(mean, np.outer([1.0, 2.0], [1.0, 2.0])).nodes(5)
    assert len(w) == 5
    np.testing.assert_allclose((w * (x - mean).T) @ (x - mean), [[1.0, 2.0], [2.0, 4.0]], atol=1e-13)
    x, w = fp.Gaussian(mean, np.zeros((2, 2))).nodes(5)
    assert (x == mean).all() and w.tolist() == [1.0]
    x, w = fp.Gaussian(0.0, np.eye(1)).nodes(400)  # weights that underflow are left out
    assert (w > 0.0).all() and abs(w @ x[:, 0] ** 20 / double(19) - 1.0) < 1e-11


def laplace_ball(d, u, radius=1.0):
    """E e^{<u, x>} over a ball: the integral of the section's volume, by adaptive quadrature."""
    size = np.linalg.norm(u) * radius

    def part(k):
        return quad(lambda s: np.exp(k * s) * (1 - s * s) ** ((d - 1) / 2), -1, 1, epsabs=0, epsrel=1e-13)[0]

    return part(size) / part(0.0)  # fmt: skip


@pytest.mark.parametrize("d", [1, 2, 3])
def test_nodes_are_spectral_for_smooth_functions(d):
    """E e^{<u, x>} in closed form: the error falls below 2e-13 with m = 12, and by 1e3 from m = 3 to m = 6."""
    u = np.array([1.0, -0.7, 0.4])[:d] * 2.0
    shift = np.array([0.3, -0.2, 0.1])[:d]
    size = float(np.linalg.norm(u))
    away = np.exp(u @ shift)
    on_sphere = {1: np.cosh(size), 2: ive(0, size) * np.exp(size), 3: np.sinh(size) / size}[d]
    box = np.prod(np.sinh(u) / u)
    cases = {
        "ball": (laws.Ball(d, 1.0, shift), laplace_ball(d, u) * away),
        "sphere": (laws.Sphere(d, 1.0, shift), on_sphere * away),
        "box": (laws.Box(shift - 1.0, shift + 1.0), box * away),
        "gaussian": (laws.Gaussian(shift, 0.3 * np.eye(d)), np.exp(0.15 * size**2) * away),
    }
    outer, inner = laplace_ball(d, u), laplace_ball(d, u, 0.5)
    cases["annulus"] = laws.Annulus(d, 0.5, 1.0, shift), (outer - 0.5**d * inner) / (1 - 0.5**d) * away
    parts = [cases["ball"], cases["box"]]
    cases["mixture"] = laws.Mixture([law for law, _ in parts], [0.3, 0.7]), 0.3 * parts[0][1] + 0.7 * parts[1][1]
    for name, (law, want) in cases.items():
        errors = []
        for m in (3, 6, 12):
            x, w = law.nodes(m)
            assert abs(w.sum() - 1.0) < 1e-14
            errors.append(abs(w @ np.exp(x @ u) / want - 1.0))
        assert errors[2] < 2e-13 and (errors[1] < 1e-3 * errors[0] or errors[0] < 1e-13), (name, errors)


def test_radial_rules_are_spectral_in_their_pieces():
    """E e^{<u, x>} = int e^{-r^2} r I_0(|u| r) dr / ..., and a density with a jump, a gap and a kink."""
    u = np.array([1.5, -0.5])
    for law, rho in ((laws.Radial(lambda r: np.exp(-r * r), 2, [0.0, 2.0]), lambda r: np.exp(-r * r)),
                     (STEPS, lambda r: 2.0 if r < 1.0 else (0.0 if r < 1.5 else 2.5 - r))):  # fmt: skip

        def total(k, law=law, rho=rho):
            return sum(
                quad(lambda r: rho(r) * r * ive(0, k * r) * np.exp(k * r), a, b, epsrel=1e-13)[0]
                for a, b in itertools.pairwise(law.edges)
            )

        want = total(np.linalg.norm(u)) / total(0.0)
        errors = []
        for m in (3, 6, 14):
            x, w = law.nodes(m)
            errors.append(abs(w @ np.exp(x @ u) / want - 1.0))
        assert errors[2] < 1e-13 and errors[1] < 1e-2 * errors[0]
    x, w = STEPS.nodes(4)
    assert len(w) == 2 * 4 * 8 and not ((np.linalg.norm(x, axis=1) > 1.0) & (np.linalg.norm(x, axis=1) < 1.5)).any()


def test_moments_are_those_of_closed_forms():
    for d in (1, 2, 3, 7):
        eye = np.eye(d)
        np.testing.assert_allclose(laws.Ball(d, 2.0, 1.0).cov, 4.0 / (d + 2) * eye, rtol=1e-15)
        np.testing.assert_allclose(laws.Sphere(d, 2.0).cov, 4.0 / d * eye, rtol=1e-15)
        want = radial_moment(0.5, 2.0, d, 2) / d * eye
        np.testing.assert_allclose(laws.Annulus(d, 0.5, 2.0).cov, want, rtol=1e-14)
        np.testing.assert_allclose(laws.Radial(lambda r: 3.0, d, [0.5, 2.0]).cov, want, rtol=1e-13)
        assert (laws.Ball(d, 2.0, 1.0).mean == 1.0).all()
    # A thin annulus: 1 - share^d cancels, its quotient by 1 - share does not.
    thin = laws.Annulus(3, 1.0 - 1e-12, 1.0)
    np.testing.assert_allclose(np.diag(thin.cov), (1.0 - 1e-12) / 3, rtol=1e-15)
    box = laws.Box([0.0, -1.0], [1.0, 3.0])
    assert box.mean.tolist() == [0.5, 1.0]
    np.testing.assert_allclose(box.cov, np.diag([1 / 12, 16 / 12]), rtol=1e-15)
    # Semicircle: E r^2 = int r^3 sqrt(1 - r^2) / int r sqrt(1 - r^2) = 2/5; the root at its end costs digits.
    half = laws.Radial(lambda r: np.sqrt(1.0 - r * r), 2)
    np.testing.assert_allclose(half.cov, 0.2 * np.eye(2), rtol=1e-8, atol=1e-17)
    two = laws.Mixture([laws.Gaussian([1.0, 0.0], COV), laws.Ball(2, 2.0)], [0.25, 0.75])
    np.testing.assert_allclose(two.mean, [0.25, 0.0])
    between = 0.25 * 0.75 * np.diag([1.0, 0.0])
    np.testing.assert_allclose(two.cov, 0.25 * COV + 0.75 * np.eye(2) + between, rtol=1e-14)
    both = laws.Product([laws.Gaussian([1.0, 0.0], COV), laws.Box(0.0, 1.0)])
    want = np.zeros((3, 3))
    want[:2, :2], want[2, 2] = COV, 1 / 12
    np.testing.assert_allclose(both.cov, want, rtol=1e-15)
    assert both.mean.tolist() == [1.0, 0.0, 0.5] and both.dimension == 3
    points, weights = np.array([[0.0, 1.0], [2.0, 5.0]]), [0.25, 0.75]
    few = laws.Empirical(points, weights)
    np.testing.assert_allclose(few.mean, [1.5, 4.0])
    np.testing.assert_allclose(few.cov, np.cov(points.T, aweights=weights, bias=True), rtol=1e-14)
    x, w = few.nodes(3)
    assert (x == points).all() and w.tolist() == weights
    for name, law in LAWS.items():  # nodes have the moments, too
        x, w = law.nodes(6)
        np.testing.assert_allclose(w @ x, law.mean, atol=1e-14, err_msg=name)
        away = x - law.mean
        np.testing.assert_allclose((w[:, None] * away).T @ away, law.cov, rtol=1e-12, atol=1e-14, err_msg=name)


def test_densities_are_those_of_closed_forms():
    x = np.random.default_rng(0).normal(size=(40, 2)) * 1.5
    r = np.linalg.norm(x, axis=1)
    mean = np.array([0.3, -0.2])
    law = laws.Gaussian(mean, COV)
    np.testing.assert_allclose(law.log_density(x), multivariate_normal(mean, COV).logpdf(x), rtol=1e-12)
    np.testing.assert_allclose(laws.Ball(2, 1.5).density(x), (r <= 1.5) / (np.pi * 2.25), rtol=1e-14)
    want = ((r >= 0.5) & (r <= 1.5)) / (np.pi * 2.0)
    np.testing.assert_allclose(laws.Annulus(2, 0.5, 1.5).density(x), want, rtol=1e-14)
    np.testing.assert_allclose(laws.Radial(lambda r: 5.0, 2, [0.5, 1.5]).density(x), want, rtol=1e-12)
    inside = (np.abs(x) <= [1.0, 2.0]).all(axis=1)
    np.testing.assert_allclose(laws.Box([-1.0, -2.0], [1.0, 2.0]).density(x), inside / 8.0, rtol=1e-14)
    two = laws.Mixture([law, laws.Ball(2, 1.5)], [0.25, 0.75])
    want = 0.25 * law.density(x) + 0.75 * laws.Ball(2, 1.5).density(x)
    np.testing.assert_allclose(two.density(x), want, rtol=1e-13)
    both = laws.Product([laws.Gaussian([0.0], [[2.0]]), laws.Box(-1.0, 3.0)])
    want = np.exp(-(x[:, 0] ** 2) / 4) / np.sqrt(4 * np.pi) * ((x[:, 1] >= -1) & (x[:, 1] <= 3)) / 4
    np.testing.assert_allclose(both.density(x), want, rtol=1e-13)
    assert law.density(x[0]).shape == () and law.log_density(x.reshape(2, 20, 2)).shape == (2, 20)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_densities_integrate_to_one(d):
    """Over a box, by its own nodes: the mean density times the volume, for densities that are smooth there."""
    box = laws.Box(-np.full(d, 8.0), np.full(d, 8.0))
    x, w = box.nodes(56)
    bump = laws.Radial(lambda r: np.exp(-r * r), d, [0.0, 9.0])
    for law in (laws.Gaussian(0.0, np.eye(d)), bump):
        assert abs(w @ law.density(x) * 16.0**d - 1.0) < 1e-9
    np.testing.assert_allclose(bump.cov, 0.5 * np.eye(d), rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_samples_are_where_the_density_is(dtype):
    """Rounding must not put a sample outside of its own support."""
    for name, law in LAWS.items():
        if name in ("sphere", "mixed", "empirical"):
            with pytest.raises(InputError, match="a law with a density"):
                law.density(np.zeros(law.dimension))
        else:
            assert (law.density(law.sample(5000, 2, dtype=dtype)) > 0.0).all(), name
    far = laws.Ball(2, 1.0, [1e6, 0.0])
    assert (far.density(far.sample(5000, 2)) > 0.0).all()


def test_singular_laws_have_no_density():
    for law in (laws.Sphere(2), laws.Empirical(np.eye(2)), laws.Gaussian(0.0, np.ones((2, 2)))):
        for whole in (law, laws.Product([laws.Box(0.0, 1.0), law]), laws.Mixture([laws.Ball(2), law])):
            with pytest.raises(InputError, match="need a law with a density in R"):
                whole.log_density(np.zeros(whole.dimension))
    # A law of weight zero is not asked.
    assert laws.Mixture([laws.Ball(2), laws.Sphere(2)], [1.0, 0.0]).density([0.0, 0.0]) == pytest.approx(1 / np.pi)


def test_bad_rules_are_refused():
    for m in (0, -1):
        with pytest.raises(InputError, match="m: got"):
            laws.Ball(2).nodes(m)
    with pytest.raises(InputTypeError, match="m: got"):
        laws.Box(0.0, 1.0).nodes(2.0)
    for law, m in ((laws.Ball(3), 200), (laws.Box(np.zeros(6), np.ones(6)), 20), (laws.Sphere(3), 1500)):
        with pytest.raises(InputError, match=r"m: got .* nodes; need at most 4,000,000 nodes.*sobol"):
            law.nodes(m)
    with pytest.raises(InputError, match=r"m: got 2001; need .* at most 2000"):
        laws.Box(0.0, 1.0).nodes(2001)
    with pytest.raises(InputError, match=r"dimension 4; need dimension 1, 2 or 3 for quadrature. Take sobol"):
        laws.Ball(4).nodes(3)
    with pytest.raises(InputError, match="x: got shape"):
        laws.Ball(2).density(np.zeros(3))


def test_bad_laws_are_refused():
    good = laws.Ball(2)
    for make, name in (
        (lambda: laws.Ball(0), "dimension"), (lambda: laws.Ball(2, -1.0), "radius"),
        (lambda: laws.Sphere(2, 0.0), "radius"), (lambda: laws.Ball(2, 1.0, [1.0]), "mean"),
        (lambda: laws.Annulus(2, 1.0, 1.0), "inner"), (lambda: laws.Annulus(2, -0.5), "inner"),
        (lambda: laws.Box(0.0, 0.0), "high"),
        (lambda: laws.Box([0.0, 0.0], [1.0, 1.0, 1.0]), "high"), (lambda: laws.Box(0.0, np.inf), "high"),
        (lambda: laws.Product([]), "laws"), (lambda: laws.Product([good, 3]), r"laws\[1\]"),
        (lambda: laws.Mixture([good, laws.Ball(3)]), r"laws\[1\]"), (lambda: laws.Mixture([good], [0.5]), "weights"),
        (lambda: laws.Mixture([good, good], [1.5, -0.5]), "weights"), (lambda: laws.Mixture([laws.Ball]), r"laws\[0\]"),
        (lambda: laws.Mixture([fp.Gaussian(0.0, np.stack([COV, COV]))]), r"laws\[0\]"),
        (lambda: laws.Empirical(np.zeros((2, 3, 1))), "x"), (lambda: laws.Empirical(np.eye(2), [0.5, 0.6]), "weights"),
        (lambda: laws.Radial(lambda r: -1.0, 2), "density"), (lambda: laws.Radial(lambda r: 0.0, 2), "density"),
        (lambda: laws.Radial(lambda r: np.ones(3), 2), "density"),
        (lambda: laws.Radial(lambda r: 1.0 if r < 0.5 else 0.2, 2), "density"),
        (lambda: laws.Radial(lambda r: math.exp(-r), 2), "density"),
        (lambda: laws.Radial(lambda r: r / 0.0, 2), "density"), (lambda: laws.Radial(lambda r: r < 0.5, 2), "density"),
        (lambda: laws.Radial(lambda r: 1.0, 2, [1.0]), "edges"),
        (lambda: laws.Radial(lambda r: 1.0, 2, [1.0, 0.5]), "edges"),
        (lambda: laws.Radial(lambda r: 1.0, 2, [-1.0, 0.5]), "edges"),
    ):  # fmt: skip
        with pytest.raises((InputError, InputTypeError), match=f"^{name}"), np.errstate(divide="ignore"):
            make()
    with pytest.raises(InputTypeError, match="density"):
        laws.Radial(1.0, 2)
    with pytest.raises(InputError, match=r"Give the radii of its jumps and kinks in edges"):
        laws.Radial(lambda r: 1.0 * (r < 0.503), 2)


def test_laws_say_what_they_are():
    assert [repr(law) for law in (laws.Ball(2, 1.5), laws.Sphere(3), laws.Annulus(2, 0.5), laws.Box(0.0, 1.0))] == [
        "Ball(d=2, radius=1.5)", "Sphere(d=3, radius=1)", "Annulus(d=2, inner=0.5, outer=1)", "Box(d=1)",
    ]  # fmt: skip
    assert repr(laws.Mixture([laws.Ball(2), fp.Gaussian(0.0, COV)])) == "Mixture([Ball(d=2, radius=1), Gaussian(d=2)])"


class Triangle(laws.Law):
    """The law of the sum of two uniform numbers, as a user writes it."""

    mean, cov, variates = np.array([1.0]), np.array([[1.0 / 6.0]]), (0, 2)

    def place(self, z, u):
        return u.sum(axis=1, keepdims=True)


def test_a_law_of_ones_own():
    law = Triangle()
    assert abs(law.sobol(1024, 0).mean() - 1.0) < 1e-3 and law.sample(5, 0).shape == (5, 1)
    assert abs(laws.Product([law, laws.Ball(2)]).sample(20_000, 0)[:, 0].var() - 1 / 6) < 0.01
    with pytest.raises(InputError, match="a law with a quadrature rule"):
        law.nodes(3)
    with pytest.raises(InputError, match="a law with a density"):
        law.density([0.5])


def test_edges_are_on_the_boundary_and_reach_the_radius():
    mean = [0.5, -1.0]
    for law in (laws.Ball(2, 1.5, mean), laws.Sphere(2, 1.5, mean), laws.Annulus(2, 0.5, 1.5, mean)):
        np.testing.assert_allclose(np.linalg.norm(law.edge(20) - mean, axis=1), 1.5, rtol=1e-14)
        assert law.support_radius == pytest.approx(1.5 + np.hypot(0.5, 1.0))
    assert STEPS.support_radius == 2.5 and laws.Ball(1).edge(3).tolist() == [[-1.0], [1.0]]
    for d in (1, 2, 3):
        box = laws.Box(np.full(d, -1.0), np.arange(2.0, 2.0 + d))
        x = box.edge(4)
        assert len(x) == 2 * d * 5 ** (d - 1) and (box.density(x) > 0.0).all()
        assert ((x == box.low) | (x == box.high)).any(axis=1).all() and len(np.unique(x, axis=0)) == (5**d - 3**d)
        assert np.linalg.norm(x, axis=1).max() == pytest.approx(box.support_radius)
    two = laws.Mixture([laws.Ball(2, 3.0), laws.Empirical([[1.0, 5.0]])], [0.5, 0.5])
    assert two.support_radius == pytest.approx(np.sqrt(26.0)) and len(two.edge(4)) == 9
    assert laws.Product([laws.Sphere(2, 3.0), laws.Box(-4.0, 1.0)]).support_radius == 5.0
    for law in (laws.Gaussian(0.0, COV), laws.Mixture([laws.Ball(2), laws.Gaussian(0.0, COV)])):
        assert law.support_radius == math.inf
        with pytest.raises(InputError, match="a known boundary"):
            law.edge(4)
    assert laws.Gaussian([3.0, 4.0], np.zeros((2, 2))).support_radius == 5.0
    for name, law in LAWS.items():
        r = np.linalg.norm(law.sample(2000, 0), axis=1).max()
        assert r <= law.support_radius * (1 + 1e-14), name
