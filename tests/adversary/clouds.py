"""Nasty clouds of points: every shape that has misled, or may mislead, a sum in O(n). All take (rng, n, d)."""

from __future__ import annotations

import numpy as np


def log_uniform(rng, low, high):
    """A number between low and high, its logarithm uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def rotation(rng, d):
    """An orthogonal matrix (d, d); often the identity, so that axes stay axes."""
    return np.eye(d) if rng.random() < 0.5 else np.linalg.qr(rng.standard_normal((d, d)))[0]


def gaussian(rng, n, d):
    return rng.standard_normal((n, d))


def two_scales(rng, n, d):
    """Most points near the middle of a few that are far, or the other way round."""
    far = rng.random(n) < log_uniform(rng, 1e-3, 0.9)
    return rng.standard_normal((n, d)) * np.where(far, 1.0, log_uniform(rng, 1e-9, 0.3))[:, None]


def cauchy(rng, n, d):
    return np.clip(rng.standard_cauchy((n, d)), -1e12, 1e12)


def heavier(rng, n, d):
    """Student's t with half a degree of freedom: a few points are 1e6 times as far as the others."""
    return np.clip(rng.standard_t(0.5, (n, d)), -1e12, 1e12)


def lattice(rng, n, d):
    """Whole numbers; points lie on the faces of cells."""
    size = int(rng.integers(1, 9))
    return rng.integers(-size, size + 1, (n, d)).astype(float)


def uneven_lattice(rng, n, d):
    """Whole numbers in a box that is not centred."""
    return rng.integers(-int(rng.integers(0, 6)), int(rng.integers(1, 12)), (n, d)).astype(float)


def binary(rng, n, d):
    return rng.integers(0, 2, (n, d)).astype(float)


def one_hot(rng, n, d):
    return np.eye(d)[rng.integers(0, d, n)]


def eighths(rng, n, d):
    return np.round(rng.standard_normal((n, d)) * 8) / 8


def tenths(rng, n, d):
    """Multiples of 0.1, which no binary number is."""
    return np.round(rng.uniform(-2, 2, (n, d)) * 10) * 0.1


def line(rng, n, d):
    """A line and noise from 1e-14 to 1e-2 of its length."""
    along = rng.standard_normal((n, 1)) * rng.standard_normal((1, d))
    return along + log_uniform(rng, 1e-14, 1e-2) * rng.standard_normal((n, d))


def plane(rng, n, d):
    """A hyperplane and noise from 1e-14 to 1e-2."""
    flat = rng.standard_normal((n, max(d - 1, 1))) @ rng.standard_normal((max(d - 1, 1), d))
    return flat + log_uniform(rng, 1e-14, 1e-2) * rng.standard_normal((n, d))


def one_off_a_plane(rng, n, d):
    """A hyperplane exactly, but for one point or a few."""
    x = rng.standard_normal((n, d))
    x[:, -1] = 0.0
    few = rng.integers(0, n, int(rng.integers(1, 4)))
    x[few, -1] = log_uniform(rng, 1e-12, 10.0) * rng.standard_normal(len(few))
    return x @ rotation(rng, d)


def outliers(rng, n, d):
    """A Gaussian and a few points far out."""
    x = rng.standard_normal((n, d))
    few = rng.integers(0, n, int(rng.integers(1, 6)))
    x[few] *= log_uniform(rng, 10.0, 1e7)
    return x


def tight_clusters(rng, n, d):
    """Clusters of width 1e-12 to 1e-2 far from each other."""
    centres = rng.standard_normal((int(rng.integers(2, 9)), d)) * log_uniform(rng, 1.0, 10.0)
    return centres[rng.integers(0, len(centres), n)] + log_uniform(rng, 1e-12, 1e-2) * rng.standard_normal((n, d))


def anisotropic(rng, n, d):
    """Axes of widths down to 1e-7 of the widest."""
    return (rng.standard_normal((n, d)) * np.geomspace(1.0, log_uniform(rng, 1e-7, 0.3), d)) @ rotation(rng, d)


def few_use_an_axis(rng, n, d):
    """The last axis is 1e-12 to 1e-3 wide, and one or a few points have it at all."""
    x = rng.standard_normal((n, d))
    few = rng.integers(0, n, int(rng.integers(1, 6)))
    thin = np.zeros(n)
    thin[few] = rng.standard_normal(len(few)) * log_uniform(rng, 1e-12, 1e-3)
    x[:, -1] = thin
    return x


def copies(rng, n, d):
    """A few points, many times each."""
    few = rng.standard_normal((int(rng.integers(2, 30)), d))
    return few[rng.integers(0, len(few), n)]


def all_equal(rng, n, d):
    return np.repeat(rng.standard_normal((1, d)), n, axis=0)


def constant_coordinate(rng, n, d):
    """One coordinate is the same for all."""
    x = rng.standard_normal((n, d))
    x[:, int(rng.integers(0, d))] = rng.choice([0.0, 1.0, -3.7, 1e3])
    return x


def corners(rng, n, d):
    return rng.choice([-1.0, 1.0], (n, d))


def ball(rng, n, d):
    g = rng.standard_normal((n, d))
    return g / np.linalg.norm(g, axis=1, keepdims=True) * rng.random((n, 1)) ** (1 / d)


def sphere(rng, n, d):
    g = rng.standard_normal((n, d))
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def two_points(rng, n, d):
    """Two points: one once or a few times, the other for the rest; or half and half."""
    two = rng.standard_normal((2, d))
    return two[(rng.random(n) < rng.choice([0.5, 0.01, 2.0 / n])).astype(int)]


def nearly_equal(rng, n, d):
    """All in one place but for the last digits, or one of them elsewhere."""
    x = np.repeat(rng.standard_normal((1, d)), n, axis=0)
    if rng.random() < 0.5:
        return x * (1.0 + log_uniform(rng, 1e-16, 1e-6) * rng.standard_normal((n, d)))
    x[int(rng.integers(0, n))] += rng.standard_normal(d) * log_uniform(rng, 1e-10, 10.0)
    return x


def log_scales(rng, n, d):
    """Sizes spread over many decades."""
    return rng.standard_normal((n, d)) * np.exp(rng.uniform(np.log(log_uniform(rng, 1e-14, 1e-2)), 0.0, (n, 1)))


def sorted_line(rng, n, d):
    """Points in order along a curve: a mask cuts a box in two."""
    t = np.linspace(0.0, 1.0, n)[:, None]
    return np.cos(np.pi * t * np.arange(1, d + 1)) + rng.choice([0.0, 1e-9, 1e-3]) * rng.standard_normal((n, d))


CLOUDS = {
    cloud.__name__: cloud
    for cloud in (
        gaussian, two_scales, cauchy, heavier, lattice, uneven_lattice, binary, one_hot, eighths, tenths, line, plane,
        one_off_a_plane, outliers, tight_clusters, anisotropic, few_use_an_axis, copies, all_equal,
        constant_coordinate, corners, ball, sphere, two_points, nearly_equal, log_scales, sorted_line,
    )
}  # fmt: skip
