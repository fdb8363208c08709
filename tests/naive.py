"""Naive oracles: every attention as MATH 1.1 states it, pair by pair, in the log domain and in extended precision."""

import numpy as np

WIDE = np.longdouble


def scores(kind, x, y, Q, K, scale=1.0, bias=0.0):
    """(m, n) exponent or argument of the kernel of one variant at targets x (m, d) and sources y (n, d)."""
    qx, ky = x.astype(WIDE) @ Q.T.astype(WIDE), y.astype(WIDE) @ K.T.astype(WIDE)
    if kind == "L2":
        difference = qx[:, None, :] - ky[None, :, :]
        return -scale * (difference**2).sum(axis=-1)
    return scale * (qx @ ky.T) + bias


def velocity(kind, x, Q, K, V, *, at=None, scale=1.0, bias=0.0, weights=None, positions=None, at_positions=None):
    """Gamma_mu at the points `at` (default x) for kind in Softmax, L2, Sigmoid, Exponential, Linear; positions: masked."""
    at = x if at is None else at
    at_positions = positions if at_positions is None else at_positions
    n = len(x)
    w = np.full(n, 1 / WIDE(n)) if weights is None else weights.astype(WIDE)
    s = scores(kind, at, x, Q, K, scale, bias)
    seen = np.ones(s.shape, bool) if positions is None else positions[None, :] <= at_positions[:, None]
    values = x.astype(WIDE) @ V.T.astype(WIDE)
    if kind in ("Softmax", "L2"):
        s = np.where(seen, s + np.log(w), -np.inf)
        p = np.exp(s - s.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True)) @ values
    kernel = {"Exponential": np.exp, "Linear": lambda z: z, "Sigmoid": sigmoid}[kind]
    return np.where(seen, kernel(s), 0) * w @ values


def sigmoid(z):
    """1 / (1 + e^-z) without overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def energy(kind, x, Q, K, *, scale=1.0, bias=0.0, weights=None):
    """1/2 iint kernel dmu dmu."""
    n = len(x)
    w = np.full(n, 1 / WIDE(n)) if weights is None else weights.astype(WIDE)
    s = scores(kind, x, x, Q, K, scale, bias)
    kernel = {"Softmax": np.exp, "L2": np.exp, "Exponential": np.exp, "Linear": lambda z: z, "Sigmoid": sigmoid}[kind]
    return w @ kernel(s) @ w / 2


def relative_error(got, want, size=None):
    """max |got - want| over the largest |want| (or `size`)."""
    want = np.asarray(want, WIDE)
    return float(np.abs(np.asarray(got, WIDE) - want).max() / (np.abs(want).max() if size is None else size))
