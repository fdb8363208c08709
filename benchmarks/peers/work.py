"""Pieces of work: what is to be computed, how fastpde does it, and the true value at some rows in extended precision.

All tokens are standard normal, Q = K = V = I, and scores are <x, y> / sqrt(d), unless a class says otherwise.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import fastpde as fp

Array = np.ndarray[Any, Any]
Call = Callable[[], Array]
WIDE = np.longdouble

ROWS, FAR = 48, 16  # rows whose error is taken: evenly spaced ones, and those farthest from the centre
ROUNDING = {"float64": 1e-13, "float32": 1e-6}  # the error asked of sums that are exact up to rounding
TRUTHS = "FASTPDE_PEERS_TRUTHS"
TOO_LARGE = 10.0  # times what was asked: an error that is marked


@dataclass(frozen=True)
class Work(ABC):
    """Something to compute for n tokens in dimension d.

    Attributes:
        n: tokens, of each system if there are many.
        d: their dimension.
        dtype: of tokens and result, "float64" or "float32".
    """

    name: ClassVar[str]

    n: int
    d: int
    dtype: str = "float64"

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return self.name

    @property
    def asked(self) -> float:
        """The relative error asked for, max |got - want| / max |want|."""
        return ROUNDING[self.dtype]

    @property
    def scale(self) -> float:
        """The factor of <x, y> in the scores."""
        return 1 / math.sqrt(self.d)

    @property
    def family(self) -> str:
        """What other pieces of work take a peer about as long."""
        return self.label

    @property
    def key(self) -> str:
        """A text that differs from that of any other piece of work."""
        return f"{type(self).__name__} {sorted(asdict(self).items())}"

    @cached_property
    def tokens(self) -> Array:
        """The tokens (n, d), the same in every process."""
        return np.random.default_rng(self.d).standard_normal((self.n, self.d)).astype(self.dtype)

    @cached_property
    def rows(self) -> Array:
        """The numbers of the tokens whose error is taken."""
        spread = np.square(self.tokens - self.tokens.mean(axis=0)).sum(axis=1)
        even = np.linspace(0, self.n - 1, min(self.n, ROWS)).astype(int)
        return np.unique(np.concatenate([even, np.argsort(spread)[-FAR:]]))

    @cached_property
    def known_truth(self) -> Array:
        """The true value, computed once by all processes that share the folder of the variable `TRUTHS`."""
        folder = os.environ.get(TRUTHS)
        if folder is None:
            return self.truth()
        path = Path(folder) / f"{hashlib.sha256(self.key.encode()).hexdigest()}.npy"
        if not path.exists():
            with path.with_suffix(".part").open("wb") as stream:
                np.save(stream, self.truth())
            path.with_suffix(".part").rename(path)
        return np.asarray(np.load(path))

    def error(self, result: Array) -> float:
        """Return the relative error of a result."""
        return relative_error(self.pick(np.asarray(result)), self.known_truth)

    def pick(self, result: Array) -> Array:
        """Return the part of a result that `truth` is the true value of."""
        return result[self.rows]

    @abstractmethod
    def ours(self) -> Call:
        """Prepare the work for fastpde."""

    @abstractmethod
    def truth(self) -> Array:
        """Compute the true value of what `pick` takes from a result, naively."""


def relative_error(got: Array, want: Array) -> float:
    """Return max |got - want| / max |want|; inf if anything is not finite."""
    off = np.abs(got.astype(WIDE) - want).max() / np.abs(want).max()
    return float(off) if np.isfinite(off) else math.inf


def softmax(scores: Array, values: Array) -> Array:
    """Compute softmax(scores) values over the last axis of the scores, in their precision."""
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Array = weight @ values / weight.sum(axis=-1, keepdims=True)
    return total


def attention_of(work: Work) -> fp.Softmax:
    """Return softmax attention with Q = K = V = I and the scale of the work."""
    eye = np.eye(work.d)
    return fp.Softmax(eye, eye, eye, scale=work.scale)


@dataclass(frozen=True)
class Softmax(Work):
    """The velocity under softmax attention, to rounding."""

    name = "softmax"

    @property
    def family(self) -> str:
        return self.name

    def ours(self) -> Call:
        """Sum over all pairs."""
        x, attention, backend = self.tokens, attention_of(self), fp.Direct()
        return lambda: attention.velocity(x, backend=backend)

    def truth(self) -> Array:
        """Sum row by row, so that memory is that of a few rows."""
        x = self.tokens.astype(WIDE)
        return np.array([softmax(self.scale * (x @ x[row]), x) for row in self.rows])


@dataclass(frozen=True)
class SoftmaxTo(Softmax):
    """The velocity under softmax attention, to a stated error that is larger than rounding.

    Attributes:
        tol: the error.
        logit: the largest score, to which tokens are scaled; 0: they are not.
    """

    tol: float = 1e-8
    logit: float = 0.0

    @property
    def label(self) -> str:
        return f"softmax to {self.tol:g}" + (f", logits of {self.logit:g}" if self.logit else "")

    @property
    def asked(self) -> float:
        return self.tol

    @cached_property
    def tokens(self) -> Array:
        x = np.random.default_rng(self.d).standard_normal((self.n, self.d))
        if self.logit:
            x *= math.sqrt(self.logit / (self.scale * np.square(x).sum(axis=1).max()))
        return x.astype(self.dtype)

    def ours(self) -> Call:
        """Sum in O(n)."""
        x, attention, backend = self.tokens, attention_of(self), fp.Fast(self.tol)
        return lambda: attention.velocity(x, backend=backend)


@dataclass(frozen=True)
class LinearSum(Work):
    """The velocity under linear attention, to rounding: two products of matrices, and no pairs."""

    name = "linear sum"

    def ours(self) -> Call:
        """Sum the moments of the tokens."""
        x, eye, backend = self.tokens, np.eye(self.d), fp.Direct()
        attention = fp.Linear(eye, eye, eye, scale=self.scale)
        return lambda: attention.velocity(x, backend=backend)

    def truth(self) -> Array:
        """Sum row by row."""
        x = self.tokens.astype(WIDE)
        return np.array([self.scale * (x @ x[row]) @ x / self.n for row in self.rows])


@dataclass(frozen=True)
class Variant(Work):
    """The velocity of another kind of sum, to rounding.

    Attributes:
        kind: "l2", "weights" (softmax with unequal weights), "sigmoid" or "masked".
    """

    name = "kind"
    kind: str = "l2"

    @property
    def label(self) -> str:
        return f"{self.kind} sum"

    @property
    def pairs(self) -> float:
        """The share of all pairs that count."""
        return 1.0

    @cached_property
    def weights(self) -> Array | None:
        """Weights (n,) of the tokens, of sum 1; None: equal ones."""
        if self.kind != "weights":
            return None
        drawn = np.random.default_rng(self.n).uniform(0.5, 1.5, self.n)
        weights: Array = (drawn / drawn.sum()).astype(self.dtype)
        return weights

    @property
    def attention(self) -> fp.Attention:
        """The attention of fastpde."""
        eye = np.eye(self.d)
        if self.kind == "l2":
            return fp.L2(eye, eye, eye, scale=self.scale)
        if self.kind == "sigmoid":
            return fp.Sigmoid(eye, eye, eye, scale=self.scale)
        return attention_of(self)

    def ours(self) -> Call:
        """Sum over all pairs that count."""
        x, attention, weights, backend = self.tokens, self.attention, self.weights, fp.Direct()
        return lambda: attention.velocity(x, weights=weights, backend=backend)

    def truth(self) -> Array:
        """Sum row by row."""
        x = self.tokens.astype(WIDE)
        return np.array([self._row(x, row) for row in self.rows])

    def _row(self, x: Array, row: int) -> Array:
        score = self.scale * (x @ x[row])
        if self.kind == "sigmoid":
            found: Array = (1 / (1 + np.exp(-score))) @ x / self.n
            return found
        if self.kind == "l2":
            score = -self.scale * np.square(x - x[row]).sum(axis=1)
        if self.weights is not None:
            score = score + np.log(self.weights.astype(WIDE))
        return softmax(score, x)


@dataclass(frozen=True)
class Masked(Variant):
    """The velocity under masked softmax attention: a token sees those before it, and itself."""

    kind: str = "masked"

    @property
    def pairs(self) -> float:
        return (self.n + 1) / (2 * self.n)

    @property
    def attention(self) -> fp.Attention:
        return fp.Masked(attention_of(self))

    def _row(self, x: Array, row: int) -> Array:
        seen = x[: row + 1]
        return softmax(self.scale * (seen @ x[row]), seen)
