"""Naive oracles: every attention as Theory 1.1 states it, pair by pair, in the log domain and in extended precision."""

import numpy as np

WIDE = np.longdouble
KINDS = ("Softmax", "L2", "Sigmoid", "Exponential", "Linear")
NORMALISED = ("Softmax", "L2")


def wide(value):
    """An array in extended precision."""
    return np.asarray(value).astype(WIDE)


def scores(kind, x, y, Q, K, scale=1.0, bias=0.0):
    """(m, n) exponent or argument of the kernel of one variant at targets x (m, d) and sources y (n, d)."""
    qx, ky = wide(x) @ wide(Q).T, wide(y) @ wide(K).T
    if kind == "L2":
        difference = qx[:, None, :] - ky[None, :, :]
        return -wide(scale) * (difference**2).sum(axis=-1)
    return wide(scale) * (qx @ ky.T) + wide(bias)


def kernel(kind, s):
    """(P, top): the kernel of scores s (m, n) is P exp(top), top (m, 1); 0 for kernels that need no log domain."""
    if kind in ("Softmax", "L2", "Exponential"):
        top = s.max(axis=1, keepdims=True)
        return np.exp(s - top), top
    p = {"Linear": lambda z: z, "Sigmoid": sigmoid}[kind](np.where(np.isneginf(s), 0, s))
    return np.where(np.isneginf(s), 0, p), np.zeros((len(s), 1), WIDE)


def velocity(
    kind, x, Q, K, V, *, at=None, scale=1.0, bias=0.0, weights=None, positions=None, at_positions=None
):  # fmt: skip
    """Gamma_mu at the points `at` (default x) for a kind of KINDS; positions: masked. May be inf in the end."""
    at = x if at is None else at
    at_positions = positions if at_positions is None else at_positions
    w = np.full(len(x), 1 / WIDE(len(x))) if weights is None else wide(weights)
    s = scores(kind, at, x, Q, K, scale, bias)
    if positions is not None:
        s = np.where(np.asarray(positions)[None, :] <= np.asarray(at_positions)[:, None], s, -np.inf)
    values = wide(x) @ wide(V).T
    if kind in NORMALISED:
        p, _ = kernel(kind, s + np.log(w))
        return (p / p.sum(axis=1, keepdims=True)) @ values
    p, top = kernel(kind, s)
    total = (p * w) @ values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(total == 0, 0, total * np.exp(top))


def size(kind, x, Q, K, V, *, at=None, scale=1.0, bias=0.0, weights=None, **_):
    """(m, 1): what its errors are relative to, |V| sum_j w_j |kernel_ij| |y_j|, or |V| max_j |y_j| if normalised."""
    at = x if at is None else at
    w = np.full(len(x), 1 / WIDE(len(x))) if weights is None else wide(weights)
    lengths, largest = np.sqrt((wide(x) ** 2).sum(axis=1)), WIDE(np.linalg.norm(np.asarray(V, float), 2))
    if kind in NORMALISED:
        return np.full((len(at), 1), largest * lengths.max())
    if kind == "Linear":
        across = np.linalg.norm(np.asarray(K, float), 2) * np.sqrt(((wide(at) @ wide(Q).T) ** 2).sum(axis=1))
        return (abs(wide(scale)) * largest * across * (w @ lengths**2))[:, None]
    p, top = kernel(kind, scores(kind, at, x, Q, K, scale, bias))
    with np.errstate(over="ignore", invalid="ignore"):
        return largest * (p @ (w * lengths))[:, None] * np.exp(top)


def saturation(kind, x, V, data):
    """What a sigmoid may be wrong by in absolute terms: below the smallest normal number it is zero."""
    if kind != "Sigmoid":
        return 0.0
    return (
        2.0 ** -(126 if np.asarray(x).dtype == np.float32 else 1022)
        * np.linalg.norm(np.asarray(V, float), 2)
        * np.sqrt((wide(x) ** 2).sum(axis=1)).max()
    )


def largest_score(kind, x, Q, K, *, at=None, scale=1.0, bias=0.0, **_):
    """The size of the numbers a score is made of, max |scale| |Qx| |Ky| and for L2 |scale| (|Qx| + |Ky|)^2."""
    at = x if at is None else at
    q, k = (np.sqrt(((wide(p) @ wide(M).T) ** 2).sum(axis=1)).max() for p, M in ((at, Q), (x, K)))
    return float(abs(scale) * ((q + k) ** 2 if kind == "L2" else q * k) + abs(bias))


def sigmoid(z):
    """1 / (1 + e^-z) without overflow."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def energy(kind, x, Q, K, *, scale=1.0, bias=0.0, weights=None, positions=None):
    """1/2 iint kernel dmu dmu, masked pairs left out."""
    w = np.full(len(x), 1 / WIDE(len(x))) if weights is None else wide(weights)
    s = scores(kind, x, x, Q, K, scale, bias)
    values = {"Linear": lambda z: z, "Sigmoid": sigmoid}.get(kind, np.exp)(s)
    if positions is not None:
        values = np.where(np.asarray(positions)[None, :] <= np.asarray(positions)[:, None], values, 0)
    return w @ values @ w / 2


def softmin(s, g, w):
    """-log sum_j w_j e^{s_ij + g_j}, (m,)."""
    s = s + g + np.log(w)
    top = s.max(axis=1, keepdims=True)
    return -(top[:, 0] + np.log(np.exp(s - top).sum(axis=1)))


def potentials(s, w, *, n_half=None, tol=1e-14, max_half=200_000):
    """(f, g) of the kernel s (n, n): plain half-iterations from g = 0, rows last, until the columns' error is tol."""
    g, half = np.zeros(len(s), WIDE), 1
    f = softmin(s, g, w)
    while half != n_half:
        columns = softmin(s.T, f, w)
        if n_half is None and marginal_error(g - columns, w) <= tol:
            break
        if half > max_half:
            raise RuntimeError("the oracle did not converge")
        g = columns
        f, half = softmin(s, g, w), half + 2
    return f, g


def marginal_error(log_ratio, w):
    """sum_j w_j |e^{log_ratio_j} - 1|."""
    return float((w * np.abs(np.exp(log_ratio) - 1)).sum())


def sinkhorn(x, Q, K, V, *, eps=1.0, scale=1.0, weights=None, at=None, **stop):
    """Gamma_mu of Sinkhorn attention at the points `at` (default x); `stop` as in `potentials`."""
    w = np.full(len(x), 1 / WIDE(len(x))) if weights is None else wide(weights)
    _, g = potentials(scores("Softmax", x, x, Q, K, scale) / wide(eps), w, **stop)
    s = scores("Softmax", x if at is None else at, x, Q, K, scale) / wide(eps)
    kappa = np.exp(softmin(s, g, w)[:, None] + s + g)
    return (kappa * w) @ (wide(x) @ wide(V).T) / wide(eps)


def relative_error(got, want, size=None):
    """max |got - want| over the largest |want| (or `size`); nan if anything is not a number."""
    want = np.asarray(want, WIDE)
    return float(np.abs(np.asarray(got, WIDE) - want).max() / (np.abs(want).max() if size is None else size))
