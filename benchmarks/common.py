"""Inputs of the benchmarks, and a naive reference in the log domain and in extended precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastpde as fp
from fastpde import Direct
from fastpde.attention.variants import VARIANTS as EVERY

__all__ = [
    "ERROR_BOUND",
    "ERROR_UNIT",
    "SHARE_UNIT",
    "VARIANTS",
    "Array",
    "Case",
    "Direct",
    "Head",
    "case",
    "head",
    "relative_error",
    "rk4_step",
    "sample",
    "share",
    "tokens",
]

# asv starts a process per parameter as a fork of one that has imported this: with `Direct`, Numba is there already.
Array = np.ndarray[Any, Any]
WIDE = np.longdouble
ROWS = 64  # targets whose error is taken
HEADS = 4
ERROR_UNIT = "largest error / largest value"
ERROR_BOUND = {"float64": 1e-13, "float32": 5e-6}  # of direct sums with moderate scores
SHARE_UNIT = "share of the limit measured in the same process"
SINGLE = {name: variant.kind for name, variant in EVERY.items() if not variant.scales}
VARIANTS = (*SINGLE, "multihead", "masked")


@dataclass(frozen=True)
class Head:
    """One head: the kind, Q, K (k, d), V (dv, d) and the scale of its scores."""

    kind: str
    Q: Array
    K: Array
    V: Array
    scale: float

    def attention(self) -> fp.Attention:
        """Return the head as an attention of fastpde."""
        return SINGLE[self.kind](self.Q, self.K, self.V, scale=self.scale)

    def naive(self, x: Array, rows: Array, masked: bool = False, wide: Any = WIDE) -> Array:
        """Compute the field at x[rows], pair by pair: (m, dv)."""
        x, Q, K, V = (a.astype(wide) for a in (x, self.Q, self.K, self.V))
        score = self.scale * self._score(x[rows] @ Q.T, x @ K.T)
        seen = np.arange(len(x)) <= rows[:, None] if masked else np.True_
        if self.kind in ("softmax", "l2"):
            score = np.where(seen, score, -np.inf)
            weight = np.exp(score - score.max(axis=1, keepdims=True))
            return (weight / weight.sum(axis=1, keepdims=True)) @ (x @ V.T)
        kernel = {"exponential": np.exp, "linear": lambda s: s, "sigmoid": lambda s: 1 / (1 + np.exp(-s))}
        return np.where(seen, kernel[self.kind](score), 0) @ (x @ V.T) / len(x)

    def field(self, x: Array) -> Array:
        """Compute the field at all of x in float64, block by block; extended precision would be slow."""
        blocks = np.array_split(np.arange(len(x)), max(1, len(x) // 256))
        return np.concatenate([self.naive(x, rows, wide=np.float64) for rows in blocks])

    def _score(self, q: Array, k: Array) -> Array:
        if self.kind == "l2":
            return -sum((q[:, None, i] - k[None, :, i]) ** 2 for i in range(q.shape[1]))
        return q @ k.T


@dataclass(frozen=True)
class Case:
    """An attention on tokens: fastpde's object, and the heads it is made of."""

    x: Array
    heads: tuple[Head, ...]
    W: tuple[Array, ...] | None
    masked: bool

    def attention(self) -> fp.Attention:
        """Return the attention of fastpde."""
        heads = [head.attention() for head in self.heads]
        attention = heads[0] if self.W is None else fp.MultiHead(heads, W=list(self.W))
        return fp.Masked(attention) if self.masked else attention

    @property
    def pairs(self) -> int:
        """The number of pairs of a target and a source that it sees, for one head."""
        n = len(self.x)
        return n * (n + 1) // 2 if self.masked else n * n

    def share(self, call: Callable[[], object], times: float = 1.0) -> float:
        """Measure the share of its limit that a call reaches which makes all pair sums some times."""
        columns = sum(head.K.shape[0] + head.V.shape[0] for head in self.heads)
        pairs = times * self.pairs
        return share(call, self.x.dtype.name, multiply_adds=pairs * columns, exponentials=pairs * len(self.heads))

    def naive(self, rows: Array) -> Array:
        """Compute the field at x[rows], pair by pair: (m, d)."""
        fields = [head.naive(self.x, rows, self.masked) for head in self.heads]
        if self.W is None:
            return fields[0]
        return sum(field @ w.T.astype(WIDE) for field, w in zip(fields, self.W, strict=True))


def tokens(n: int, d: int, dtype: str, seed: int = 0) -> Array:
    """Draw standard normal tokens (n, d)."""
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def head(kind: str, d: int, k: int, rng: np.random.Generator) -> Head:
    """Draw a head with normal Q, K, V (k, d) whose scores are of order one in every dimension."""
    Q, K, V = rng.standard_normal((3, k, d)) / np.sqrt(d)
    return Head(kind, Q, K, V, scale=1 / k if kind == "l2" else 1 / np.sqrt(k))


def case(variant: str, n: int, d: int, dtype: str) -> Case:
    """Return one of `VARIANTS` on n normal tokens; the numbers are the same in every process."""
    rng = np.random.default_rng([n, d])
    x = tokens(n, d, dtype)
    if variant != "multihead":
        kind = "softmax" if variant == "masked" else variant
        return Case(x, (head(kind, d, d, rng),), None, variant == "masked")
    k = max(1, d // HEADS)
    heads = tuple(head("softmax", d, k, rng) for _ in range(HEADS))
    return Case(x, heads, tuple(rng.standard_normal((HEADS, d, k)) / np.sqrt(d)), False)


def sample(n: int, rows: int = ROWS) -> Array:
    """Return row numbers, evenly spaced, the first and the last among them."""
    return np.linspace(0, n - 1, min(n, rows)).astype(int)


def share(call: Callable[[], object], dtype: str, **work: float) -> float:
    """Measure the share of its limit that a call reaches, see `fastpde.sums.limits`; work: fields of its `Work`."""
    from fastpde.sums import limits  # earlier versions have no such function: only the share is missing there

    return limits.share(call, limits.Work(**work), dtype)


def rk4_step(field: Callable[[Array], Array], x: Array, h: float) -> Array:
    """Take a classical Runge-Kutta step of size h in plain NumPy."""
    a = field(x)
    b = field(x + h / 2 * a)
    c = field(x + h / 2 * b)
    return x + h / 6 * (a + 2 * b + 2 * c + field(x + h * c))


def relative_error(got: Array, want: Array) -> float:
    """Return max |got - want| / max |want|."""
    return float(np.abs(got.astype(WIDE) - want).max() / np.abs(want).max())
