"""Pieces of work that are more than one sum: Sinkhorn scalings, whole runs, many small systems."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import fastpde as fp

from .work import WIDE, Array, Call, Work, attention_of, softmax

FEW = 4  # systems whose error is taken


def _end_of(attention: fp.Attention, x: Array, t_end: float, **how: Any) -> Call:
    """Prepare a run of fastpde from time 0."""

    def run() -> Array:
        end: Any = fp.solve(attention, x, (0.0, t_end), **how)
        return np.asarray(end.x_final)

    return run


@dataclass(frozen=True)
class Scaling(Work):
    """The velocity under Sinkhorn attention, from a cold start to a marginal error.

    The scaled kernel is that of the cost |x - y|^2 with regularisation `reg`, too: the difference is a function of x
    plus one of y.

    Attributes:
        eps: the regularisation of the scores, in units of their scale.
        tol: the marginal error in L^1, and the error asked of the velocity.
    """

    name = "Sinkhorn"
    eps: float = 1.0
    tol: float = 1e-8

    @property
    def label(self) -> str:
        return f"Sinkhorn to {self.tol:g}"

    @property
    def asked(self) -> float:
        return self.tol

    @property
    def reg(self) -> float:
        """The regularisation that belongs to the cost |x - y|^2."""
        return 2 * self.eps / self.scale

    def ours(self) -> Call:
        """Scale by direct sums."""
        x, backend, eye = self.tokens, fp.Direct(), np.eye(self.d)
        attention = fp.Sinkhorn(eye, eye, eye, eps=self.eps, scale=self.scale, tol=self.tol)
        return lambda: attention.velocity(x, backend=backend)

    def truth(self) -> Array:
        """Scale the whole matrix in float64, then in extended precision until nothing changes any more."""
        x = self.tokens.astype(WIDE)
        x -= x.mean(axis=0)
        kernel = np.exp(x @ x.T * (self.scale / self.eps)) / self.n
        v = np.ones(self.n)
        plain = kernel.astype(float)
        for _ in range(5000):
            before, v = v, 1 / ((1 / (plain @ v)) @ plain)
            if np.abs(before / v - 1).max() < 1e-13:
                break
        v = v.astype(WIDE)
        for _ in range(20):
            before, v = v, 1 / ((1 / (kernel @ v)) @ kernel)
            if np.abs(before / v - 1).max() < 1e-17:
                break
        u = 1 / (kernel[self.rows] @ v)
        means: Array = u[:, None] * (kernel[self.rows] @ (v[:, None] * self.tokens)) / self.eps
        return means


@dataclass(frozen=True)
class Run(Work):
    """The tokens at time `t_end` under softmax attention.

    Attributes:
        method: "dopri5", with `rtol` as both tolerances, or "rk4", with steps of size `step`.
        t_end: where it ends.
        rtol: the tolerance of a step, a tenth of the error that is asked for.
        step: the size of the steps of rk4.
    """

    name = "run"
    method: str = "dopri5"
    t_end: float = 1.0
    rtol: float = 1e-7
    step: float = 0.02

    @property
    def label(self) -> str:
        return f"run, {self.method}"

    @property
    def asked(self) -> float:
        return 10 * self.rtol

    @property
    def key(self) -> str:
        # The true end does not depend on how one gets there.
        return f"Run {self.n} {self.d} {self.t_end}"

    def pick(self, result: Array) -> Array:
        return result

    def ours(self) -> Call:
        """Run `fp.solve` with the summation that it chooses by itself."""
        x, attention = self.tokens, attention_of(self)
        if self.method == "rk4":
            return _end_of(attention, x, self.t_end, method="rk4", step=self.step)
        return _end_of(attention, x, self.t_end, method=self.method, rtol=self.rtol, atol=self.rtol)

    def truth(self) -> Array:
        """Integrate naive velocities by a method of order 8 with tolerances of 1e-12, far below what is asked."""
        shape = self.tokens.shape

        def field(_: float, flat: Array) -> Array:
            x = flat.reshape(shape)
            return np.ravel(softmax(self.scale * (x @ x.T), x))

        start = self.tokens.astype(float).ravel()
        solved = solve_ivp(field, (0.0, self.t_end), start, method="DOP853", rtol=1e-12, atol=1e-12)
        return np.asarray(solved.y[:, -1].reshape(shape))


@dataclass(frozen=True)
class ManySystems(Work):
    """The velocities of many small systems, each with Q, K, V of its own, scores <Qx, Ky>, to rounding.

    Attributes:
        systems: how many there are.
    """

    name = "systems"
    systems: int = 2048

    @property
    def label(self) -> str:
        return f"{self.systems} systems"

    @cached_property
    def tokens(self) -> Array:
        drawn = np.random.default_rng(self.d).standard_normal((self.systems, self.n, self.d))
        return drawn.astype(self.dtype)

    @cached_property
    def matrices(self) -> Array:
        """Q, K, V of all systems, (3, systems, d, d)."""
        drawn = np.random.default_rng([self.d, 3]).standard_normal((3, self.systems, self.d, self.d))
        return np.asarray(drawn / np.sqrt(self.d), self.dtype)

    def pick(self, result: Array) -> Array:
        return result[:FEW]

    def ours(self) -> Call:
        """Move all systems with one call."""
        x, attention, backend = self.tokens, fp.Softmax(*self.matrices), fp.Direct()
        return lambda: attention.velocity(x, backend=backend)

    def truth(self) -> Array:
        return self._field(self.tokens[:FEW].astype(WIDE))

    def _field(self, x: Array) -> Array:
        q, k, v = (x @ m[:FEW].astype(WIDE).swapaxes(1, 2) for m in self.matrices)
        return softmax(np.matmul(q, k.swapaxes(1, 2)), v)


@dataclass(frozen=True)
class SystemsRun(ManySystems):
    """Many small systems after `steps` rk4 steps of size `step`, to rounding: the true value takes the same steps."""

    steps: int = 50
    step: float = 0.01

    @property
    def label(self) -> str:
        return f"{self.systems} systems, {self.steps} rk4 steps"

    def ours(self) -> Call:
        """Run the ensemble with one `fp.solve`."""
        attention, t_end = fp.Softmax(*self.matrices), self.steps * self.step
        return _end_of(attention, self.tokens, t_end, method="rk4", step=self.step)

    def truth(self) -> Array:
        x, h = self.tokens[:FEW].astype(WIDE), self.step
        for _ in range(self.steps):
            k1 = self._field(x)
            k2 = self._field(x + h / 2 * k1)
            k3 = self._field(x + h / 2 * k2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + self._field(x + h * k3))
        return x
