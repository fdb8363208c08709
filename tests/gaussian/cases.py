"""Gaussian laws and attentions of the tests, and weighted Gauss-Hermite nodes in any dimension."""

from __future__ import annotations

import numpy as np

import fastpde as fp

from ..problems import gauss_hermite

AFFINE = ("Softmax", "L2", "Linear")


def law(d, *, seed=0, rank=None, size=0.5):
    """A mean and a covariance of the given rank (None: full) with eigenvalues of size^2 or more."""
    rng = np.random.default_rng([seed, d])
    root = rng.normal(size=(d, d if rank is None else rank)) * size
    floor = size**2 * np.eye(d) if rank is None else 0.0
    return rng.normal(size=d) * 0.3, root @ root.T / np.sqrt(d) + floor


def matrices(d, k=2, *, seed=0, size=0.6):
    """Q, K (k, d) and V (d, d)."""
    rng = np.random.default_rng([seed, d, k, 1])
    return *(rng.normal(size=(2, k, d)) * size), rng.normal(size=(d, d)) * size


def nodes(mean, cov, order=40, floor=1e-26):
    """Points (n, d) and weights of N(mean, cov): any polynomial of moderate degree is integrated to rounding."""
    points, weights = gauss_hermite(order, floor=floor)
    d = len(mean)
    grid = np.stack(np.meshgrid(*[points] * d, indexing="ij"), axis=-1).reshape(-1, d)
    total = np.prod(np.stack(np.meshgrid(*[weights] * d, indexing="ij"), axis=-1).reshape(-1, d), axis=1)
    keep = total > floor
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean + grid[keep] @ root.T, total[keep] / total[keep].sum()


def moments(x, w):
    """Mean and covariance of weighted points."""
    mean = w @ x
    return mean, (x - mean).T @ ((x - mean) * w[:, None])


def attentions(d):
    """One attention of each kind that keeps Gaussians Gaussian, by name."""
    Q, K, V = matrices(d)
    Q1, K1, V1 = matrices(d, 3, seed=1)
    heads = [fp.Softmax(Q, K, V, scale=0.8), fp.L2(Q1, K1, V1), fp.Linear(Q, K1[:2], V1)]
    W = np.random.default_rng(2).normal(size=(3, d, d)) * 0.5
    found: dict = {kind: getattr(fp, kind)(Q, K, V, scale=0.8) for kind in AFFINE}
    found |= {"Sinkhorn": fp.Sinkhorn(Q, K, V, eps=0.7, tol=1e-13), "3 half": fp.Sinkhorn(Q, K, V, eps=0.7, n_half=3)}
    return {**found, "MultiHead": fp.MultiHead(heads, W=W), "heads": fp.MultiHead(heads)}


def half_steps(A, mean, S, count):
    """Theory 2.1 with plain inverses, of complex numbers too: E[y | x] = M x + b."""
    one, G, slope = np.eye(len(mean)), 0.0 * S, 0.0 * mean
    for index in range(count):
        step = A if index % 2 == 0 else A.T
        P = np.linalg.inv(one + S @ G) @ S
        b = mean + P @ (slope - G @ mean)
        M, G, slope = P @ step, step.T @ P @ step, -step.T @ b
    return M, b


def field(kind, mean, S, p):
    """Return (M, c) of N(mean, S) by formulas that are analytic in all that goes in."""
    A, V = p["scale"] * p["K"].T @ p["Q"], p["V"]
    if kind == "Softmax":
        return V @ S @ A, V @ mean
    if kind == "L2":
        R = np.linalg.inv(np.eye(len(mean)) + 2 * S @ (p["scale"] * p["K"].T @ p["K"]))
        return 2 * V @ R @ S @ A, V @ R @ mean
    if kind == "Linear":
        return V @ (S + np.outer(mean, mean)) @ A, 0.0 * V @ mean
    # The scaling has converged to rounding long before 81 half-iterations.
    M, b = half_steps(A / p["eps"], mean, S, 3 if kind == "3 half" else 81)
    return V @ M / p["eps"], V @ b / p["eps"]
