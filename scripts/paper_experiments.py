"""The seven experiments on Gaussian data of Castin, Ablin, Carrillo and Peyre (2025): matrices, starts, step sizes.

Every number is drawn from NumPy's legacy generator with the seeds and in the order of the authors' scripts. Means are
zero. Scores are divided by sqrt(d), those of H heads by sqrt(d / H), and those of Sinkhorn by nothing, with eps = 1;
in the authors' L2 field sqrt(d) divides K^T Q but not K^T K, which changes the unit of time and is put into V here.
Source: Theory 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastpde as fp

Array = np.ndarray[Any, Any]
DIMENSIONS = (3, 4, 5)
DRAWS = 100


@dataclass(frozen=True)
class Head:
    """One softmax or L2 head: M(S) = V P A, with P = S, or P = (S^{-1} + 2 K^T K)^{-1} for L2."""

    A: Array  # (d, d), scale inside
    V: Array  # (d, d), W inside
    K: Array | None = None  # (k, d) for L2


@dataclass(frozen=True)
class Case:
    """One attention of an experiment, for fastpde and as plain matrices for the authors' scheme."""

    name: str
    attention: fp.Attention
    heads: tuple[Head, ...]  # empty for Sinkhorn, whose A and V are in `sinkhorn`
    step: float
    sinkhorn: tuple[Array, Array] | None = None
    t_end: float | None = None  # of the corrected run, where it is not that of the experiment
    published: str = ""  # the case whose data the published figure shows; empty: its own


@dataclass(frozen=True)
class Plane:
    """An experiment with d = 2: laws that start on a grid of covariances of trace one."""

    number: int
    picture: str  # cone | disc
    cases: tuple[Case, ...]
    starts: Array  # (B, 2, 2)
    tol: float
    t_end: float  # of the corrected runs: 1 / t decay needs long, exponential approach and growth do not


@dataclass(frozen=True)
class Ranks:
    """An experiment on ranks of limits in dimension d, with K = -Q."""

    case: Case
    Q: Array  # (d // 2, d)
    V: Array  # (d, d)
    tol: float

    @property
    def d(self) -> int:
        """The dimension of the tokens."""
        return self.Q.shape[1]

    def starts(self, count: int) -> Array:
        """Draw the first S0 = G G^T (count, d, d) of the experiment's random numbers."""
        G = legacy(41).randn(count, self.d, self.d)
        return G @ np.swapaxes(G, 1, 2)


def legacy(seed: int) -> Any:
    """Return the generator of the authors' scripts, which called np.random.seed."""
    return np.random.RandomState(seed)


def softmax(Q: Array, K: Array, V: Array, step: float, **more: Any) -> Case:
    """Return the case of softmax attention with the scale 1 / sqrt(d)."""
    scale = 1 / math.sqrt(Q.shape[1])
    return Case("Softmax", fp.Softmax(Q, K, V, scale=scale), (Head(scale * K.T @ Q, V),), step, **more)


def l2(Q: Array, K: Array, V: Array, step: float) -> Case:
    """Return the case of L2 attention in the authors' unit of time."""
    slow = V / math.sqrt(Q.shape[1])
    return Case("L2", fp.L2(Q, K, slow), (Head(2 * K.T @ Q, slow, K),), step)


def two_heads(Q: Array, K: Array, V: Array, step: float, **more: Any) -> Case:
    """Return the case of H = 2 softmax heads: head h has the rows h of Q, K, V (d = 2) and fills row h of the field.

    Q and K with one row leave nothing to the second head: its scores are zero.
    """
    heads, parts = [], []
    for h, W in enumerate(np.eye(2)[:, :, None]):
        q, k = (a[h : h + 1] if h < len(a) else np.zeros((1, 2)) for a in (Q, K))
        v = V[h : h + 1]
        heads.append(fp.Softmax(q, k, v))
        parts.append(Head(k.T @ q, W @ v))
    attention = fp.MultiHead(heads, W=np.eye(2)[:, :, None])
    return Case("multi-head (H = 2)", attention, tuple(parts), step, **more)


def sinkhorn(Q: Array, K: Array, V: Array, step: float, **more: Any) -> Case:
    """Return the case of Sinkhorn attention with eps = 1."""
    return Case("Sinkhorn", fp.Sinkhorn(Q, K, V), (), step, sinkhorn=(K.T @ Q, V), **more)


def _drawn_until(seed: int, wanted: Any) -> tuple[Array, Array]:
    """Draw Q, K (2, 2) until the eigenvalues of the symmetric part of K^T Q are as wanted."""
    stream = legacy(seed)
    while True:
        Q, K = stream.randn(2, 2), stream.randn(2, 2)
        A = K.T @ Q
        if wanted(np.linalg.eigvalsh(A + A.T)):
            return Q, K


def _mixed(values: Array) -> bool:
    return bool(values[0] < 0 < values[-1])


def _positive(values: Array) -> bool:
    return bool(values[0] > 0)


def planes(coarse: bool = False) -> list[Plane]:
    """Return experiments 1 to 5; `coarse`: grids a third as fine."""

    def size(n: int) -> int:
        return n // 3 + 1 if coarse else n

    eye = np.eye(2)
    stream = legacy(35)
    Q1, G = stream.rand(2, 2), stream.randn(2, 2)
    V1 = G @ G.T
    q = legacy(36).randn(1, 2)
    q /= np.linalg.norm(q)
    Q3, K3 = _drawn_until(36, _mixed)
    V3 = legacy(32).randn(2, 2)
    Q4, K4 = _drawn_until(33, _positive)
    stream = legacy(35)
    stream.randn(8, 7)
    V5 = stream.randn(2, 2)
    one = softmax(Q1, -Q1, V1, 0.3), l2(Q1, -Q1, V1, 0.3), two_heads(Q1, -Q1, V1, 0.3), sinkhorn(Q1, -Q1, V1, 0.5)
    two = softmax(q, -q, eye, 0.5), l2(q, -q, eye, 0.5), two_heads(q, -q, eye, 0.5)
    three = softmax(Q3, K3, V3, 0.01, published="L2"), l2(Q3, K3, V3, 0.01)
    four = (
        softmax(Q4, K4, eye, 0.01),
        two_heads(Q4, K4, eye, 0.002),
        l2(Q4, K4, eye, 0.001),
        # Far along its exponential growth the shape is at rest and |M| is not: explicit steps stay small for nothing.
        sinkhorn(Q4, K4, eye, 0.01, t_end=8.0),
    )
    five = softmax(Q3, K3, V5, 0.003), l2(Q3, K3, V5, 0.002), two_heads(Q3, K3, V5, 0.002, published="Softmax")
    # The tolerances of 4 and 5 are ours: in 4 nothing converges, and 5 reaches no smaller one in its 50000 steps.
    return [
        Plane(1, "cone", one, fp.studies.grid(size(10), 0.5), 1e-5, 1e6),
        Plane(2, "cone", two, fp.studies.grid(size(10), 0.5), 1e-4, 1e3),
        Plane(3, "cone", three, fp.studies.grid(size(20), 1.0), 1e-7, 1e3),
        Plane(4, "disc", four, fp.studies.grid(size(40), 1.0), 1e-4, 20.0),
        Plane(5, "disc", five, fp.studies.grid(size(30), 1.0), 1e-4, 1e3),
    ]


def ranks(number: int) -> dict[str, list[Ranks]]:
    """Return experiment 6 (Softmax) or 7 (L2): for V = I and V = G^T G, one entry per d = 3, 4, 5."""
    make, seed = {6: (softmax, 26), 7: (l2, 27)}[number]
    steps = {6: ((0.09, 0.05, 0.02), (0.09, 0.06, 0.02)), 7: ((0.09, 0.06, 0.02), (0.15, 0.15, 0.15))}[number]
    stream = legacy(40)
    queries = [stream.randn(d // 2, d) for d in DIMENSIONS]
    stream = legacy(seed)
    squares = [(G := stream.randn(d, d)).T @ G for d in DIMENSIONS]
    values = {"V = I": [np.eye(d) for d in DIMENSIONS], "V = G^T G": squares}
    return {
        name: [
            Ranks(make(Q, -Q, V, step), Q, V, tol) for Q, V, step in zip(queries, matrices, steps[index], strict=True)
        ]
        for index, ((name, matrices), tol) in enumerate(zip(values.items(), (1e-4, 5e-5), strict=True))
    }
