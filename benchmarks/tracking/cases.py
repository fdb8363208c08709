"""What is timed when two versions are compared: each case a call and its error, by the public interface alone.

Versions before and after a change run the same cases, so they use no name that is private to one version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Call = Callable[[], Array]

KERNEL, RUN = "kernel", "run"
THRESHOLDS = {KERNEL: 0.02, RUN: 0.05}  # slower by more than that is a regression
_ROWS = 16  # targets whose error is taken


@dataclass(frozen=True)
class Case:
    """Something to time: `build` returns a call and the largest relative error of its result.

    Attributes:
        name: what it is called in tables.
        kind: KERNEL if nearly all time is spent in compiled code, RUN if Python takes part.
        build: makes the input, once per process.
    """

    name: str
    kind: str
    build: Callable[[], tuple[Call, Callable[[Array], float]]]

    @property
    def threshold(self) -> float:
        """The relative slowdown that is a regression."""
        return THRESHOLDS[self.kind]


def _tokens(*shape: int, dtype: str = "float64") -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def _matrices(d: int, *, batch: tuple[int, ...] = ()) -> Array:
    """Draw Q, K, V (3, *batch, d, d) whose scores are of order one in every dimension."""
    found: Array = np.random.default_rng([d, *batch]).standard_normal((3, *batch, d, d)) / d**0.5
    found[:2] *= d**-0.25
    return found


def _error(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def _naive(kind: str, x: Array, matrices: Array, *, seen: Array | None = None) -> Array:
    """Sum softmax ("sigmoid": sigmoid) attention pair by pair in float64 at the rows `_rows`: (rows, d)."""
    x = x.astype(float)
    q, k, v = (x @ matrix.T for matrix in matrices)
    rows = _rows(len(x))
    scores = q[rows] @ k.T
    if kind == "sigmoid":
        found: Array = (1.0 / (1.0 + np.exp(-scores))) @ v / len(x)
        return found
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    found = (weights @ v) / weights.sum(axis=1, keepdims=True)
    return found


def _rows(n: int) -> Array:
    return np.linspace(0, n - 1, _ROWS).astype(int)


def _velocity(name: str, kind: str, n: int, d: int, dtype: str = "float64", *, tol: float | None = None) -> Case:
    """Return the case of one velocity: "softmax", "sigmoid" or "masked", direct, or in O(n) to `tol`."""

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        x, matrices = _tokens(n, d, dtype=dtype), _matrices(d)
        plain = (fp.Sigmoid if kind == "sigmoid" else fp.Softmax)(*matrices)
        attention = fp.Masked(plain) if kind == "masked" else plain
        backend = fp.Direct() if tol is None else fp.Fast(tol)
        seen = np.arange(n) <= _rows(n)[:, None] if kind == "masked" else None
        want = _naive(kind, x, matrices, seen=seen)
        return lambda: attention.velocity(x, backend=backend), lambda got: _error(got[_rows(n)], want)

    return Case(name, KERNEL, build)


def _pullback(name: str, n: int, d: int) -> Case:
    """Return the case of the derivative of sum_i <c_i, velocity_i> of softmax attention, direct.

    Its error is that of its product with a direction, against differences of fourth order.
    """

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        x, matrices, backend = _tokens(n, d), _matrices(d), fp.Direct()
        cotangent, direction = _tokens(n, d)[::-1].copy(), _tokens(d, n).T.copy()
        attention, h = fp.Softmax(*matrices), 1e-3
        sides = [
            weight * (cotangent * attention.velocity(x + step * h * direction, backend=backend)).sum() / h
            for step, weight in ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12))
        ]

        def error(got: Array) -> float:
            size = np.linalg.norm(got) * np.linalg.norm(direction)
            return float(abs((got * direction).sum() - sum(sides)) / size)

        return lambda: attention.vjp(x, cotangent, backend=backend).x, error

    return Case(name, KERNEL, build)


def _many(name: str, systems: int, n: int, d: int) -> Case:
    """Return the case of one velocity of many small systems, each with matrices of its own."""

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        x, matrices = _tokens(systems, n, d), _matrices(d, batch=(systems,))
        attention, backend = fp.Softmax(*matrices), fp.Direct()
        want = _naive("softmax", x[-1], matrices[:, -1])
        return lambda: attention.velocity(x, backend=backend), lambda got: _error(got[-1, _rows(n)], want)

    return Case(name, KERNEL, build)


def _sinkhorn(name: str, n: int, d: int) -> Case:
    """Return the case of one velocity of Sinkhorn attention from a cold start, to a marginal error of 1e-9."""

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        x = _tokens(n, d)
        attention, backend = fp.Sinkhorn(*[np.eye(d)] * 3), fp.Direct()
        kernel, v = np.exp(x @ x.T), np.ones(n)
        for _ in range(500):
            u = 1.0 / (kernel @ v)
            v = 1.0 / (u @ kernel)
        want = (u[:, None] * (kernel @ (v[:, None] * x)))[_rows(n)]
        return lambda: attention.velocity(x, backend=backend), lambda got: _error(got[_rows(n)], want)

    return Case(name, KERNEL, build)


def _solve(name: str, shape: tuple[int, ...], span: float, method: str, step: float | None, **options: Any) -> Case:
    """Return the case of a run of softmax attention with V = -I; its error is against steps of half the size.

    Adaptive runs are compared with one of a tighter tolerance.
    """

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        d = shape[-1]
        (q, k, _), x = _matrices(d), _tokens(*shape)
        if "manifold" in options:
            x /= np.linalg.norm(x, axis=-1, keepdims=True)
        attention = fp.Softmax(q, k, -np.eye(d))

        def run(**finer: Any) -> Array:
            given = {"step": step} if step else {"rtol": 1e-7, "atol": 1e-9}
            places = {"manifold": fp.Sphere()} if "manifold" in options else {}
            found: Array = fp.solve(attention, x, (0.0, span), method=method, **given | places | finer).x_final
            return found

        want = run(**({"step": step / 2} if step else {"rtol": 1e-11, "atol": 1e-12}))
        return run, lambda got: _error(got, want)

    return Case(name, RUN, build)


def _gaussians(name: str, systems: int, d: int) -> Case:
    """Return the case of many Gaussian laws with K = -Q, V = I to t = 1e6, against the limit in closed form."""

    def build() -> tuple[Call, Callable[[Array], float]]:
        import fastpde as fp

        rng = np.random.default_rng([systems, d])
        q, root = rng.standard_normal((systems, d // 2, d)), rng.standard_normal((systems, d, d))
        law = fp.Gaussian(0.0, root @ root.swapaxes(1, 2))
        attention = fp.Softmax(q, -q, np.eye(d))
        kernel = np.linalg.svd(q)[2][:, d // 2 :].swapaxes(1, 2)
        kept = kernel.swapaxes(1, 2) @ np.linalg.solve(law.cov, kernel)
        want = kernel @ np.linalg.solve(kept, kernel.swapaxes(1, 2))
        return lambda: fp.solve(attention, law, (0.0, 1e6)).cov[-1], lambda got: _error(got, want)

    return Case(name, RUN, build)


CASES = (
    _velocity("direct softmax, d = 2", "softmax", 2048, 2),
    _velocity("direct softmax, d = 2, float32", "softmax", 2048, 2, "float32"),
    _velocity("direct softmax, d = 8", "softmax", 2048, 8),
    _velocity("direct softmax, d = 64", "softmax", 1024, 64),
    _velocity("direct softmax, d = 64, float32", "softmax", 1024, 64, "float32"),
    _velocity("direct sigmoid, d = 2", "sigmoid", 2048, 2),
    _velocity("direct masked softmax, d = 2", "masked", 2048, 2),
    _velocity("softmax in O(n), d = 2", "softmax", 60_000, 2, tol=1e-8),
    _velocity("sigmoid in O(n), d = 2", "sigmoid", 60_000, 2, tol=1e-8),
    _velocity("masked softmax in O(n), d = 1", "masked", 60_000, 1, tol=1e-8),
    _pullback("derivative of softmax, d = 8", 2048, 8),
    _many("512 systems of 32 tokens, d = 2", 512, 32, 2),
    _sinkhorn("Sinkhorn, d = 2", 512, 2),
    _solve("run, rk4, n = 200", (200, 2), 1.0, "rk4", 0.05),
    _solve("run, dopri5, n = 1000", (1000, 2), 1.0, "dopri5", None),
    _solve("run on the sphere, heun, n = 500", (500, 3), 1.0, "heun", 0.05, manifold=True),
    _solve("500 systems of 16 tokens, dopri5", (500, 16, 2), 1.0, "dopri5", None),
    _gaussians("200 Gaussian laws, d = 3", 200, 3),
)
BY_NAME = {case.name: case for case in CASES}
