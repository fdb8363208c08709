"""Samples and Sobol points of laws: prefixes, blocks, moments; the clouds of configurations are made by them."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import config, laws
from fastpde.errors import InputError, InputTypeError
from fastpde.initial import BLOCK

I2 = np.eye(2)
MEANS = [[0.0, 5.0], [3.0, 0.0]]
ROUND = laws.Mixture([laws.Gaussian(mean, I2) for mean in MEANS])
SKEW = laws.Gaussian([1.0, -2.0], [[2.0, 1.0], [1.0, 3.0]])
# A density with a jump, a part of the support where it is zero, and a singular slope at its end.
STEPS = laws.Radial(lambda r: np.where(r < 1.0, 2.0, np.where(r < 1.5, 0.0, 2.5 - r)), 2, [0.0, 1.0, 1.5, 2.5])
LAWS = {
    "gaussian": laws.Gaussian(0.0, I2),
    "cov": SKEW,
    "ball": laws.Ball(2, 2.0),
    "ball of the line": laws.Ball(1, 2.0, 0.5),
    "ball of space": laws.Ball(3, 0.5, [1.0, 2.0, 3.0]),
    "sphere": laws.Sphere(2),
    "box": laws.Box([0.0, -1.0, 2.0], [1.0, 3.0, 2.5]),
    "annulus": laws.Annulus(3, 0.5, 2.0),
    "mixture": ROUND,
    "mixed": laws.Mixture([SKEW, laws.Ball(2), laws.Sphere(2, 3.0)], [0.5, 0.3, 0.2]),
    "product": laws.Product([laws.Ball(2), laws.Box(0.0, 1.0), SKEW]),
    "empirical": laws.Empirical(np.random.default_rng(0).normal(size=(50, 2)), np.arange(1.0, 51.0) / 1275.0),
    "radial": STEPS,
}
# The token of index BLOCK + 1 with seed 5, as `initial` made it before there were laws.
PINNED = [
    (laws.Ball(3, 1.3), [-0.8632402425862928, -0.5137918022354646, 0.15128998077094713]),
    (laws.Sphere(3, 1.3), [-1.1046475597434802, -0.6574749792192124, 0.1935986065380387]),
    (SKEW, [2.3757018209792395, -3.08591524290289]),
    (ROUND, [1.2044888662127762, 4.131678131070855]),
]
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


@each_law
def test_a_point_depends_on_seed_and_index_alone(law):
    n = 2 * BLOCK + 7
    many = law.sample(n, 3)
    for m in (1, 5, BLOCK, BLOCK + 1):
        assert (law.sample(m, 3) == many[:m]).all()  # to the bit: it is the same draw
    for rows in (slice(0, 1), slice(5, BLOCK + 1), slice(BLOCK, 2 * BLOCK), slice(-3, None)):
        assert (law.sample(n, 3, rows=rows) == many[rows]).all()
    assert (law.sample(5, 4) != many[:5]).any()
    assert (law.sample(50, 3, dtype=np.float32) == many[:50].astype(np.float32)).all()


@pytest.mark.parametrize("name", ["gaussian", "cov", "ball", "sphere", "mixture", "box", "radial"])
def test_blocks_and_systems_have_numbers_of_their_own(name):
    law, n = LAWS[name], BLOCK + 3
    clouds = [law.sample(n, 3, system=s) for s in range(3)]
    assert len(np.unique(np.concatenate(clouds)[:, 0])) == 3 * n
    assert (clouds[0] == law.sample(n, 3)).all() and (law.sample(5, 3, system=2) == clouds[2][:5]).all()


def test_a_seed_means_the_same_cloud_for_ever():
    """Numbers of before the laws: of the first release, and of the clouds of `initial` that the laws have replaced."""
    want = [0.05078286803498232, 0.6618334385513129, -0.6526621576196217, 0.8909970248056861]
    assert laws.Gaussian(0.0, I2).sample(2, 1).ravel().tolist() == want
    for law, point in PINNED:
        # Roots and powers may differ in the last digits from one machine to the next.
        np.testing.assert_allclose(law.sample(BLOCK + 2, 5)[-1], point, rtol=1e-14)


@each_law
def test_samples_and_sobol_points_have_the_moments(law):
    """Five standard errors for each entry of mean and covariance, estimated from the points themselves."""
    n = 20_000
    x = law.sample(n, 1)
    away = x - law.mean
    assert (np.abs(away.mean(axis=0)) <= 5 * away.std(axis=0) / np.sqrt(n)).all()
    squares = away[:, :, None] * away[:, None, :]
    assert (np.abs(squares.mean(axis=0) - law.cov) <= 5 * squares.std(axis=0) / np.sqrt(n) + 1e-12).all()

    # Sobol points do better: of 4096, the errors of means are below a third of the standard error of samples.
    off = np.array([np.abs(law.sobol(4096, seed).mean(axis=0) - law.mean) for seed in range(3)])
    assert (off.mean(axis=0) < np.sqrt(np.diag(law.cov) / 4096) / 3).all()


@pytest.mark.parametrize("name", ["gaussian", "ball", "box", "product"])
def test_sobol_points_integrate_faster_than_samples(name):
    """The root mean square error of E cos<w, x> over eight scrambles falls faster than n^{-0.7}, and by n^{-1/2} for
    samples.
    """
    law = LAWS[name]
    w = np.linspace(0.3, 0.9, law.dimension)
    x, weights = law.nodes(12)
    want = weights @ np.cos(x @ w)

    def error(points, n):
        return np.sqrt(np.mean([(np.cos(points(n, seed) @ w).mean() - want) ** 2 for seed in range(8)]))

    assert error(law.sobol, 4096) < error(law.sobol, 64) * 64**-0.7
    assert error(law.sobol, 4096) < error(law.sample, 4096) / 4
    assert (law.sobol(64, 0) == law.sobol(64, 0)).all() and (law.sobol(64, 0) != law.sobol(64, 1)).any()


@pytest.mark.parametrize("d", [2, 3, 8])
def test_sphere_is_uniform(d):
    """The fourth moments of the uniform law, E x_i^4 = 3 / (d (d + 2)), five standard errors each; and, in the plane,
    angles that fill the circle evenly.
    """
    n = 40_000
    x = laws.Sphere(d).sample(n, 0)
    assert np.abs(np.linalg.norm(x, axis=1) - 1.0).max() < 1e-15 * 4
    fourth = x**4
    assert np.abs(fourth.mean(axis=0) - 3 / (d * (d + 2))).max() < 5 * fourth.std() / np.sqrt(n)
    if d == 2:
        turns = np.sort(np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) + 0.5)
        # Kolmogorov: sqrt(n) sup |F_n - F| exceeds 2.5 with probability 2 e^{-2 * 2.5^2} = 7e-6.
        assert np.abs(turns - (np.arange(n) + 0.5) / n).max() < 2.5 / np.sqrt(n)


def _kolmogorov(numbers, cdf):
    n, level = len(numbers), cdf(np.sort(numbers))
    return np.sqrt(n) * np.abs(level - (np.arange(n) + 0.5) / n).max()


def test_radii_have_their_distribution():
    """Kolmogorov's statistic, above 2.5 with probability 7e-6, against distribution functions found by hand."""
    n = 20_000
    r = np.linalg.norm(laws.Ball(3, 2.0).sample(n, 0), axis=1)
    assert r.max() <= 2.0 * (1 + 1e-15) and _kolmogorov(r, lambda r: (r / 2) ** 3) < 2.5
    r = np.linalg.norm(laws.Annulus(2, 0.5, 2.0).sample(n, 0), axis=1)
    assert r.min() >= 0.5 * (1 - 1e-15) and _kolmogorov(r, lambda r: (r**2 - 0.25) / 3.75) < 2.5

    def cdf(r):  # r^2 to 1; nothing; 1.25 r^2 - r^3 / 3 from 1.5, where it is 1.6875; 2.6041666 at the end
        tail = 1.25 * r**2 - r**3 / 3 - 1.6875
        return np.where(r < 1, r**2, np.where(r < 1.5, 1.0, 1.0 + tail)) / (1.0 + 1.25 * 2.5**2 - 2.5**3 / 3 - 1.6875)

    r = np.linalg.norm(STEPS.sample(n, 0), axis=1)
    assert not ((r > 1.0 + 1e-12) & (r < 1.5 - 1e-12)).any() and _kolmogorov(r, cdf) < 2.5
    # Against the exact inverse of u = r^2 / total below the jump.
    u = np.linspace(0.01, 0.3, 30)[:, None]
    total = cdf(np.array(0.5)) / 0.25
    np.testing.assert_allclose(STEPS.radius_at(u), np.sqrt(u / total), rtol=1e-13)


def test_mixture_has_its_weights():
    n, point = 20_000, laws.Gaussian(MEANS[1], np.zeros((2, 2)))
    x = laws.Mixture([laws.Gaussian(mean, 1e-4 * I2) for mean in MEANS], [0.25, 0.75]).sample(n, 0)
    assert abs((x[:, 1] > 2.5).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / n)  # five standard errors
    assert (laws.Mixture([laws.Ball(2), point], [0.0, 1.0]).sample(1000, 0) == MEANS[1]).all()


def test_singular_covariance_gives_a_line():
    x = laws.Gaussian(0.0, np.ones((2, 2))).sample(100, 0)
    # The root of eigenvalue 0 is the root of a rounding error, 1e-8 at most.
    assert np.abs(x[:, 0] - x[:, 1]).max() < 1e-6 and x.std() > 0.5


REST = '[attention]\nkind = "softmax"\n[time]\nt_end = 1.0'
TOKENS = {
    'kind = "gaussian"\nd = 2\nstd = 0.1\nmean = [1.0, 2.0]': laws.Gaussian([1.0, 2.0], 0.1**2 * I2),
    'kind = "gaussian"\nd = 2\ncov = [[2.0, 1.0], [1.0, 3.0]]': laws.Gaussian(0.0, SKEW.cov),
    'kind = "ball"\nd = 2\nradius = 2.0': LAWS["ball"],
    'kind = "sphere"\nd = 2': LAWS["sphere"],
    'kind = "mixture"\nmeans = [[0.0, 5.0], [3.0, 0.0]]': ROUND,
}


@pytest.mark.parametrize("text", TOKENS)
def test_clouds_of_configurations_are_samples(text, tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        f'seed = 3\n[tokens]\n{text}\nn = 9\nsystems = 2\n[attention]\nkind = "softmax"\n[time]\nt_end = 1.0'
    )
    law = TOKENS[text]
    assert (config.load(path).tokens() == [law.sample(9, 3), law.sample(9, 3, system=1)]).all()


def test_a_deviation_that_cannot_be_squared_is_refused(tmp_path):
    path = tmp_path / "c.toml"
    for std in ("1e-160", "1e160"):
        path.write_text(f'[tokens]\nkind = "gaussian"\nn = 3\nd = 2\nstd = {std}\n{REST}')
        with pytest.raises(InputError, match=r"tokens.std: got .*; need 0, or a number from 1e-150 to 1e"):
            config.load(path)


def test_bad_counts_are_refused():
    law = laws.Ball(2)
    for wrong in ({"n": 0}, {"n": -1}, {"seed": -1}, {"system": -1}, {"rows": slice(4, 4)}, {"rows": slice(0, 10, 2)}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            law.sample(**{"n": 20, "seed": 0, **wrong})
    for wrong in ({"n": 2.0}, {"seed": "a"}, {"n": True}):
        with pytest.raises(InputTypeError, match=next(iter(wrong))):
            law.sample(**{"n": 20, "seed": 0, **wrong})
    for n in (0, 2**30 + 1):
        with pytest.raises(InputError, match="n: "):
            law.sobol(n, 0)
    for batch in (fp.Gaussian(0.0, np.stack([I2, I2])),):
        with pytest.raises(InputError, match="Take the laws of a batch one by one"):
            batch.sample(3, 0)
