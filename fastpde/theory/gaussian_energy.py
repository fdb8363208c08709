"""The interaction energy of Gaussians and two metrics in which one may ask for its convexity.

mu = N(m, S) on R^d, A symmetric. With R = A (I - S A)^{-1} and R_ = A (I + S A)^{-1},

    E = 1/2 iint e^{x.A.y} dmu dmu = 1/2 det(I - S A S A)^{-1/2} exp(m.R.m),     dR = R dS R,     dR_ = -R_ dS R_,

finite iff |S^{1/2} A S^{1/2}| < 1. Coordinates of a Gaussian are m and the upper triangle of S; velocities are affine,
v(x) = M (x - m) + c, so that m' = c and S' = M S + S M^T. Arrays have a leading axis of B Gaussians. Real and complex
arguments are both allowed: first derivatives are taken by complex steps, exact to rounding.

Source: Theory 7 (E for m = 0); the rest is derived here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Law = tuple[Array, Array]  # means (B, d), covariances (B, d, d)
STEP = 1e-30  # of a complex step: no subtraction, so as small as one likes


def log_energy(A: Array, m: Array, S: Array) -> Array:
    """Return log E (B,); E itself may overflow near the end of its domain."""
    eye = np.eye(m.shape[-1])
    R, _ = _resolvents(A, S)
    return _form(R, m, m) - 0.5 * np.log(np.linalg.det(eye - S @ A @ S @ A)) - np.log(2.0)


def weight(A: Array, m: Array, S: Array, x: Array) -> Array:
    """Return Z_mu(x) = int e^{x.A.y} dmu(y) = exp(x.A.m + x.A.S.A.x / 2) at points x (B, n, d)."""
    z = x @ A
    return np.exp(np.einsum("bni,bi->bn", z, m) + 0.5 * np.einsum("bni,bij,bnj->bn", z, S, z))


def size(A: Array, S: Array) -> Array:
    """Return |S^{1/2} A S^{1/2}| (B,), the spectral radius of S A."""
    return np.abs(np.linalg.eigvals(S @ A)).max(axis=-1)


def derivatives(A: Array, m: Array, S: Array) -> tuple[Array, Array]:
    """Return dE / E (B, n) and d^2 E / E (B, n, n) in the coordinates.

    With F = log E: dF = tr(R dS) / 2 - tr(R_ dS) / 2 + 2 dm.R.m + m.R dS R.m, and
    d^2 F = tr(R dS R dS) / 2 + tr(R_ dS R_ dS) / 2 + 2 w.R.w with w = dm + dS R m, as a quadratic form.
    """
    dm, dS = basis(m.shape[-1])
    R, other = _resolvents(A, S)
    a, b = R[:, None] @ dS, other[:, None] @ dS
    Rm = np.einsum("bij,bj->bi", R, m)
    w = dm + np.einsum("nij,bj->bni", dS, Rm)
    slope = 0.5 * np.einsum("bnii->bn", a - b) + np.einsum("bi,bni->bn", Rm, w + dm)
    bend = 0.5 * (np.einsum("bnij,bkji->bnk", a, a) + np.einsum("bnij,bkji->bnk", b, b))
    bend = bend + 2.0 * np.einsum("bni,bij,bkj->bnk", w, R, w)
    return slope, bend + slope[:, :, None] * slope[:, None, :]


def basis(d: int) -> tuple[Array, Array]:
    """Return the tangent vectors (dm (n, d), dS (n, d, d)) of the coordinates: d of the mean, then S_ij for i <= j."""
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    dm, dS = np.zeros((d + len(pairs), d)), np.zeros((d + len(pairs), d, d))
    dm[:d] = np.eye(d)
    for n, (i, j) in enumerate(pairs):
        dS[d + n, i, j] = dS[d + n, j, i] = 1.0
    return dm, dS


def kinetic(A: Array, m: Array, S: Array, M: Array, c: Array, unit: Array | float = 0.0) -> Array:
    """Return the Gram matrices (B, k, k) of int Z_mu <v, v'> dmu over e^unit for velocities v(x) = M (x - m) + c.

    M has the shape (B, k, d, d), and c (B, k, d).
    Z_mu mu = 2 E N(m + xi, T) with T = (S^{-1} - A S A)^{-1} and xi = T A (I + S A) m.
    """
    eye = np.eye(m.shape[-1])
    T = np.linalg.solve(eye - S @ A @ S @ A, S)
    xi = np.einsum("bij,bj->bi", T @ A @ (eye + S @ A), m)
    away = c + np.einsum("bkij,bj->bki", M, xi)
    spread = np.einsum("bkij,bjl,bnil->bkn", M, T, M)
    mass = 2.0 * np.exp(log_energy(A, m, S) - unit)
    return mass[:, None, None] * (spread + np.einsum("bki,bni->bkn", away, away))


def twisted(A: Array, m: Array, S: Array, unit: Array | float = 0.0) -> Array:
    """Return the twisted metric (B, n, n) over e^unit: the least int Z_mu |v|^2 dmu over affine v that move the law.

    M = (S' / 2 + Omega) S^{-1} with Omega skew is not unique for d > 1: the least is a Schur complement.
    """
    d = m.shape[-1]
    dm, dS = basis(d)
    turns = np.array([np.outer(e, f) - np.outer(f, e) for i, e in enumerate(np.eye(d)) for f in np.eye(d)[i + 1 :]])
    inverse = np.linalg.inv(S)[:, None]
    M = np.concatenate([dS / 2, turns.reshape(-1, d, d)]) @ inverse
    c = np.concatenate([dm, np.zeros((len(turns), d))]) + 0.0 * m[:, None, :1]
    gram, n = kinetic(A, m, S, M, c, unit), len(dm)
    free = gram[:, n:, n:]
    return gram[:, :n, :n] - gram[:, :n, n:] @ np.linalg.solve(free, gram[:, n:, :n])


def shifted(m: Array, S: Array, step: Array) -> tuple[Array, Array]:
    """Return the Gaussians whose coordinates are larger by `step` (n,) or (B, n)."""
    dm, dS = basis(m.shape[-1])
    return m + step @ dm, S + np.tensordot(step, dS, axes=1)


def christoffel(A: Array, m: Array, S: Array) -> Array:
    """Return Gamma_l,ij = (d_i g_lj + d_j g_li - d_l g_ij) / 2 of the twisted metric g, over E: (B, l, i, j)."""
    unit = log_energy(A, m, S)
    n = len(basis(m.shape[-1])[0])
    moved = (shifted(m, S, 1j * STEP * e) for e in np.eye(n))
    slopes = np.stack([twisted(A, *there, unit).imag / STEP for there in moved], axis=1)  # d_i g_jk at (B, i, j, k)
    return 0.5 * (slopes.transpose(0, 2, 1, 3) + slopes.transpose(0, 2, 3, 1) - slopes)


def hessian_twisted(A: Array, m: Array, S: Array) -> tuple[Array, Array]:
    """Return the Hessian d^2 E - Gamma^k dE_k in the twisted metric, and the metric: both (B, n, n), over E."""
    g = twisted(A, m, S, log_energy(A, m, S))
    slope, bend = derivatives(A, m, S)
    force = np.linalg.solve(g, slope[..., None])[..., 0]
    return bend - np.einsum("bl,blij->bij", force, christoffel(A, m, S)), g


def hessian_wasserstein(A: Array, m: Array, S: Array) -> tuple[Array, Array]:
    """Return the Hessian over E and the metric of Wasserstein, in the velocities (c, H).

    These are v(x) = H (x - m) + c with H symmetric. Along the geodesic S_t = (I + t H) S (I + t H), m_t = m + t c:
    S' = H S + S H, S'' = 2 H S H.
    """
    c, H = basis(m.shape[-1])
    dS = H @ S[:, None] + S[:, None] @ H
    slope, bend = derivatives(A, m, S)
    # The coordinates of the tangent vectors, and of the accelerations H S H' + H' S H.
    v = np.concatenate([np.broadcast_to(c, (len(m), *c.shape)), _upper(dS)], axis=-1)
    HSH = np.einsum("nij,bjk,pkl->bnpil", H, S, H)
    second = _upper(HSH + HSH.transpose(0, 2, 1, 3, 4))
    d = m.shape[-1]
    found = np.einsum("bni,bij,bpj->bnp", v, bend, v) + np.einsum("bnpi,bi->bnp", second, slope[:, d:])
    return found, np.einsum("ni,pi->np", c, c) + np.einsum("nij,bjk,pik->bnp", H, S, H)


def bures(S0: Array, S1: Array) -> Array:
    """Return the optimal map (B, d, d) from N(0, S0) to N(0, S1): S0^{-1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}."""
    root = _power(S0, 0.5)
    back = np.linalg.inv(root)
    return back @ _power(root @ S1 @ root, 0.5) @ back


def along_wasserstein(A: Array, start: Law, end: Law, t: float) -> tuple[Array, Array]:
    """Return E'' over the sizes of its terms, and |S^{1/2} A S^{1/2}|, both (B,), at time t of geodesics of Gaussians.

    Gaussians are pairs (m, S). E'' is nan where E is infinite.
    """
    (m0, S0), (m1, S1) = start, end
    H, c = bures(S0, S1) - np.eye(m0.shape[-1]), m1 - m0
    C = np.eye(m0.shape[-1]) + t * H
    m, S = m0 + t * c, C @ S0 @ C
    dS, ddS = H @ S0 @ C + C @ S0 @ H, 2 * H @ S0 @ H
    slope, bend = derivatives(A, m, S)
    v = np.concatenate([c, _upper(dS)], axis=-1)
    first, second = _form(bend, v, v), np.sum(_upper(ddS) * slope[:, m.shape[-1] :], axis=-1)
    scale = np.einsum("bi,bij,bj->b", np.abs(v), np.abs(bend), np.abs(v)) + np.abs(second)
    extent = size(A, S)
    return np.where(extent < 1.0, (first + second) / scale, np.nan), extent


def _resolvents(A: Array, S: Array) -> tuple[Array, Array]:
    """Return A (I - S A)^-1 and A (I + S A)^-1, both (B, d, d)."""
    eye = np.eye(A.shape[-1])
    return A @ np.linalg.inv(eye - S @ A), A @ np.linalg.inv(eye + S @ A)


def _form(R: Array, x: Array, y: Array) -> Array:
    """Return x . R y (B,)."""
    return np.einsum("bi,bij,bj->b", x, R, y)


def _upper(S: Array) -> Array:
    """Return the entries (..., d (d + 1) / 2) of S on the diagonal and above it."""
    i, j = np.triu_indices(S.shape[-1])
    return S[..., i, j]


def _power(S: Array, p: float) -> Array:
    """Return S^p of symmetric positive definite matrices S (B, d, d)."""
    values, vectors = np.linalg.eigh(S)
    return (vectors * values[:, None, :] ** p) @ np.swapaxes(vectors, 1, 2)
