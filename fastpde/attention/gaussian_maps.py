"""The affine map x -> N x + b of a Gaussian law that a head's V is applied to, and its derivatives.

A law N(mean, S), S = L L^T, has M = V N and c = V b. With the score matrix A, and D of a score with the part
-<y, D y>, the forms of a head (`batches.affine`) are

    TILT      N = P A,  b = (I - 2 P D) mean,  P = (S^{-1} + 2 D)^{-1}
    LINEAR    N = (S + mean mean^T) A,  b = 0
    PLAN      N = P A,  b = mean - N mean,  P = L phi(B B^T) L^T,  B = L^T A L
    STEPS     N and b after `count` half-iterations of Sinkhorn

No formula inverts S, so that laws of any rank have derivatives in every direction. Arrays have leading axes that
broadcast. Source: Theory 12.4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .._types import Array
from ..batches.affine import LINEAR, PLAN, STEPS
from .gaussian_field import narrowed
from .small_matrices import times, transposed


class Changes(NamedTuple):
    """Changes of what a map is made of, or cotangents of it; None: zero."""

    mean: Array  # (..., d)
    S: Array  # (..., d, d), symmetric
    A: Array | None = None  # (..., d, d)
    D: Array | None = None  # (..., d, d)


class GaussianMap(ABC):
    """A map x -> N x + b at one law or several, ready for its derivatives.

    Attributes:
        N: (..., d, d).
        b: (..., d).
    """

    N: Array
    b: Array

    @abstractmethod
    def push(self, change: Changes) -> tuple[Array, Array]:
        """Return the changes of N and b."""

    @abstractmethod
    def pull(self, of_N: Array, of_b: Array) -> Changes:
        """Return the gradient of <of_N, N> + <of_b, b>; that in D is no symmetric matrix."""


def map_of(kind: str, count: int, A: Array, D: Array | None, mean: Array, factor: Array) -> GaussianMap:
    """Return the map of a head of one of the forms, at laws N(mean, L L^T), mean (..., d), L (..., d, r)."""
    if kind == LINEAR:
        return SecondMoment(A, mean, factor)
    if kind == PLAN:
        return Planned(A, mean, factor)
    return Stepped(A, count, mean, factor) if kind == STEPS else Tilted(A, D, mean, factor)


class Plan(NamedTuple):
    """A Sinkhorn plan of the score x.A.y: T = L U and T' = L W (..., d, r) with L^T A L = U t W^T, t and phi (..., r).

    phi = 2 / (1 + sqrt(1 + 4 t^2)): so T phi T^T is P of Theory 2.1, and T' phi T'^T that of A^T.
    """

    left: Array
    right: Array
    t: Array
    phi: Array


def plan(A: Array, factor: Array) -> Plan:
    """Return the plan of a law with the factor L (..., d, r); nan where numbers overflow."""
    B = transposed(factor) @ A @ factor
    fits = np.isfinite(B).all(axis=(-2, -1))[..., None, None]
    U, t, rows = np.linalg.svd(np.where(fits, B, 0.0))
    left, right = (np.where(fits, factor @ turn, np.nan) for turn in (U, transposed(rows)))
    return Plan(left, right, t, 1.0 / (0.5 + np.hypot(0.5, t)))


class Tilted(GaussianMap):
    """N = P A and b = (I - 2 P D) mean: averages by e^{<A x, y> - <y, D y>}, D None where it is zero."""

    def __init__(self, A: Array, D: Array | None, mean: Array, factor: Array) -> None:
        self._A, self._D, self._mean = A, D, mean
        self._P = factor @ transposed(factor) if D is None else narrowed(factor, 2.0 * D)
        self.N = self._P @ A
        self.b = mean if D is None else mean - 2.0 * times(self._P @ D, mean)

    def push(self, change: Changes) -> tuple[Array, Array]:
        P, D, dP, db = self._P, self._D, change.S, change.mean
        if D is not None:
            R = np.eye(P.shape[-1]) - 2.0 * P @ D
            dP = R @ dP @ transposed(R)
            db = times(R, db)
        if change.D is not None:
            dP = dP - 2.0 * P @ change.D @ P
            db = db - 2.0 * times(P @ change.D, self._mean)
        if D is not None:
            db = db - 2.0 * times(dP @ D, self._mean)
        dN = dP @ self._A
        return dN if change.A is None else dN + P @ change.A, db

    def pull(self, of_N: Array, of_b: Array) -> Changes:
        P, D = self._P, self._D
        of_P, of_A = of_N @ transposed(self._A), P @ of_N
        if D is None:
            return Changes(of_b, _symmetric(of_P), of_A)
        of_P = of_P - 2.0 * _outer(of_b, times(D, self._mean))
        R = np.eye(P.shape[-1]) - 2.0 * P @ D
        of_D = -2.0 * (_outer(times(P, of_b), self._mean) + P @ of_P @ P)
        return Changes(times(transposed(R), of_b), _symmetric(transposed(R) @ of_P @ R), of_A, of_D)


class SecondMoment(GaussianMap):
    """N = (S + mean mean^T) A and b = 0: sums of scores."""

    def __init__(self, A: Array, mean: Array, factor: Array) -> None:
        self._A, self._mean = A, mean
        self._second = factor @ transposed(factor) + _outer(mean, mean)
        self.N = self._second @ A
        self.b = np.zeros(self.N.shape[:-1])

    def push(self, change: Changes) -> tuple[Array, Array]:
        turned = _outer(change.mean, self._mean)
        dN = (change.S + turned + transposed(turned)) @ self._A
        dN = dN if change.A is None else dN + self._second @ change.A
        return dN, np.zeros(dN.shape[:-1])

    def pull(self, of_N: Array, of_b: Array) -> Changes:
        of_S = _symmetric(of_N @ transposed(self._A))
        return Changes(2.0 * times(of_S, self._mean), of_S, self._second @ of_N)


class Planned(GaussianMap):
    """N = P A and b = mean - N mean: the regression under a converged Sinkhorn plan.

    With N' = P' A^T and P' of A^T, F = N N', E = I - F and E' = I - N' N, the change of P solves

        X - F X F^T = E dS E^T - N E' dS E'^T N^T - sym(P dA N' P) + N P' sym(dA^T N) (N P')^T,   sym(Z) = Z + Z^T.

    F = T g with g T diagonal, T (d, r): that solves it without the matrix of the equation.
    """

    def __init__(self, A: Array, mean: Array, factor: Array) -> None:
        self._A, self._mean, self._plan = A, mean, plan(A, factor)
        self._T = self._plan.left
        self._P = (self._T * self._plan.phi[..., None, :]) @ transposed(self._T)
        self.N = self._P @ A
        self.b = mean - times(self.N, mean)

    @cached_property
    def _back(self) -> tuple[Array, Array]:
        """P' and N', of A^T."""
        T = self._plan.right
        P = (T * self._plan.phi[..., None, :]) @ transposed(T)
        return P, P @ transposed(self._A)

    @cached_property
    def _rest(self) -> tuple[Array, Array]:
        """E and N E'."""
        N, back, unit = self.N, self._back[1], np.eye(self._A.shape[-1])
        return unit - N @ back, N @ (unit - back @ N)

    @cached_property
    def _turned(self) -> tuple[Array, Array]:
        """The matrix g, and 1 - f_i f_j of the eigenvalues f = 1 - phi of F, without its cancellation."""
        phi, t = self._plan.phi[..., None], self._plan.t[..., None]
        return phi**2 * t * (transposed(self._plan.right) @ transposed(self._A)), phi + (1.0 - phi) * transposed(phi)

    def push(self, change: Changes) -> tuple[Array, Array]:
        P, N, (E, turned), (P_back, N_back) = self._P, self.N, self._rest, self._back
        right = E @ change.S @ transposed(E) - turned @ change.S @ transposed(turned)
        if change.A is not None:
            seen, other = P @ change.A @ N_back @ P, N @ P_back
            bent = transposed(change.A) @ N
            right = right - seen - transposed(seen) + other @ (bent + transposed(bent)) @ transposed(other)
        T, (g, gaps) = self._T, self._turned
        dP = right + T @ (g @ right @ transposed(g) / gaps) @ transposed(T)
        dN = dP @ self._A
        dN = dN if change.A is None else dN + P @ change.A
        return dN, change.mean - times(dN, self._mean) - times(N, change.mean)

    def pull(self, of_N: Array, of_b: Array) -> Changes:
        P, N, (E, turned), (P_back, N_back) = self._P, self.N, self._rest, self._back
        of_N = of_N - _outer(of_b, self._mean)
        of_P, T, (g, gaps) = _symmetric(of_N @ transposed(self._A)), self._T, self._turned
        Y = of_P + transposed(g) @ (transposed(T) @ of_P @ T / gaps) @ g
        of_S = transposed(E) @ Y @ E - transposed(turned) @ Y @ turned
        other = N @ P_back
        of_A = P @ of_N - 2.0 * P @ Y @ transposed(N_back @ P) + 2.0 * N @ transposed(other) @ Y @ other
        return Changes(of_b - times(transposed(N), of_b), _symmetric(of_S), of_A)


@dataclass(frozen=True)
class _Half:
    """A half-iteration: its matrix A or A^T, the potential -y.G.y / 2 + l.y before it, P = (S^{-1} + G)^{-1} and b."""

    A: Array
    G: Array
    slope: Array
    P: Array
    b: Array

    @cached_property
    def X(self) -> Array:
        """I - P G = (I + S G)^{-1}."""
        return np.eye(self.P.shape[-1]) - self.P @ self.G


class Stepped(GaussianMap):
    """N and b of E[y | x] = N x + b after `count` (odd) half-iterations of Sinkhorn from g = 0 (Theory 2.1).

    Potentials are quadratic, -y.G.y / 2 + l.y; a row step has G = A^T P A, l = -A^T b with P = (S^{-1} + G')^{-1} and
    b = P (S^{-1} mean + l') = mean - P G' mean + P l' of the potential before; a column step has A^T for A.
    """

    def __init__(self, A: Array, count: int, mean: Array, factor: Array) -> None:
        self._mean, self._steps = mean, []
        G, slope = np.zeros((mean.shape[-1],) * 2), np.zeros_like(mean)
        for index in range(count):
            step = A if index % 2 == 0 else transposed(A)
            P = narrowed(factor, G)
            b = mean + times(P, slope - times(G, mean))
            N = P @ step
            self._steps.append(_Half(step, G, slope, P, b))
            G, slope = transposed(step) @ N, -times(transposed(step), b)
        self.N, self.b = N, b

    def push(self, change: Changes) -> tuple[Array, Array]:
        dG, dslope = np.zeros_like(change.S), np.zeros_like(change.mean)
        for index, half in enumerate(self._steps):
            A, G, P = half.A, half.G, half.P
            dP = half.X @ change.S @ transposed(half.X) - P @ dG @ P
            inner = dslope - times(dG, self._mean) - times(G, change.mean)
            db = change.mean + times(dP, half.slope - times(G, self._mean)) + times(P, inner)
            dN, dG, dslope = dP @ A, transposed(A) @ dP @ A, -times(transposed(A), db)
            if change.A is not None:
                dA = change.A if index % 2 == 0 else transposed(change.A)
                bent = transposed(dA) @ P @ A
                dN, dG, dslope = dN + P @ dA, dG + bent + transposed(bent), dslope - times(transposed(dA), half.b)
        return dN, db

    def pull(self, of_N: Array, of_b: Array) -> Changes:
        of_mean, of_S, of_A = np.zeros_like(of_b), np.zeros_like(of_N), np.zeros_like(of_N)
        of_G, of_slope = np.zeros_like(of_N), np.zeros_like(of_b)
        for index, half in reversed(list(enumerate(self._steps))):
            A, G, P, back = half.A, half.G, half.P, transposed(half.A)
            of_b = of_b - times(A, of_slope)
            own = P @ of_N + 2.0 * P @ A @ of_G - _outer(half.b, of_slope)
            of_A = of_A + (own if index % 2 == 0 else transposed(own))
            of_P = _symmetric(of_N @ back + A @ of_G @ back + _outer(of_b, half.slope - times(G, self._mean)))
            of_slope = times(P, of_b)
            of_mean = of_mean + of_b - times(G, of_slope)
            of_G = -_symmetric(_outer(of_slope, self._mean) + P @ of_P @ P)
            of_S = of_S + transposed(half.X) @ of_P @ half.X
            of_N, of_b = np.zeros_like(of_N), np.zeros_like(of_b)  # of the last half-iteration alone
        return Changes(of_mean, _symmetric(of_S), of_A)


def _outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + transposed(matrix))
