"""Laws times variants: nodes against other references, at first to 1e-10 and after the flow to 1e-8."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import laws

from .. import naive

A, V = np.array([[1.0, 0.3, 0.2], [-0.2, 0.8, 0.1], [0.3, -0.4, 0.6]]), np.diag([0.6, -0.5, 0.4]) + 0.2
I2 = np.eye(2)
LAWS = {
    "interval": (laws.Ball(1), 40),
    "disc": (laws.Ball(2), 24),
    "annulus": (laws.Annulus(2, 0.5), 24),
    "box": (laws.Box([-1.0, -0.7], [0.8, 0.9]), 28),
    "circle": (laws.Sphere(2), 40),
    "sphere": (laws.Sphere(3), 24),
    "ball": (laws.Ball(3), 14),
    "gaussians": (laws.Mixture([laws.Gaussian([0.5, 0.0], 0.2 * I2), laws.Gaussian([-0.4, 0.2], 0.3 * I2)]), 36),
}  # with points per axis of the reference
KINDS = ("Softmax", "L2", "Sigmoid", "Exponential", "Linear", "Sinkhorn", "heads")
SHORT = {("disc", "Softmax"), ("interval", "Sigmoid"), ("circle", "L2"), ("annulus", "Sinkhorn"), ("box", "heads")}


def attention_of(kind, d):
    Q, K, value = A[:d, :d], np.eye(d), V[:d, :d]
    if kind == "heads":
        return fp.MultiHead([fp.Softmax(Q, K, value), fp.L2(0.7 * Q.T, K, -value)])
    return fp.Sinkhorn(Q, K, value, tol=1e-13) if kind == "Sinkhorn" else getattr(fp, kind)(Q, K, value)


def exact(kind, x, weights, at):
    """Sums in extended precision."""
    d = x.shape[1]
    Q, K, value = A[:d, :d], np.eye(d), V[:d, :d]
    if kind == "heads":
        return naive.velocity("Softmax", x, Q, K, value, at=at, weights=weights) + naive.velocity(
            "L2", x, 0.7 * Q.T, K, -value, at=at, weights=weights
        )
    if kind == "Sinkhorn":
        return naive.sinkhorn(x, Q, K, value, at=at, weights=weights)
    return naive.velocity(kind, x, Q, K, value, at=at, weights=weights)


CASES = [
    pytest.param(name, kind, marks=[] if (name, kind) in SHORT else pytest.mark.soak)
    for name in LAWS for kind in KINDS
    if (name, kind) != ("gaussians", "Exponential")  # of unbounded support
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nodes_follow_references(name, kind):
    """The flow against nodes of the reference that are moved as tokens; steps of both have errors below 1e-10."""
    law, m = LAWS[name]
    attention, points, end = attention_of(kind, law.dimension), law.sample(5, 0), 0.2
    limit = fp.MeanField(attention, law, (0.0, end), tol=1e-9 if kind == "L2" else 1e-8, most_nodes=20_000)
    nodes, weights = law.nodes(m // 2 if kind == "Sinkhorn" else m)  # sums over pairs, again and again
    want = exact(kind, nodes, weights, points)
    np.testing.assert_allclose(limit.velocity(0.0, points), want.astype(float), atol=1e-10)
    w = np.append(weights * (1 - 5e-13), np.full(5, 1e-13))  # tokens have positive weights
    sol = fp.solve(attention, np.concatenate([nodes, points]), (0.0, end), weights=w, rtol=1e-10, atol=1e-11,
                   backend="direct")  # fmt: skip
    np.testing.assert_allclose(limit.push(end, points), sol.x[-1, -5:], atol=1e-8)
