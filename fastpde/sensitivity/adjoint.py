"""Gradients of a run: the discrete adjoint of the Runge-Kutta steps that it took.

The gradient is that of the numbers which the run computes, for the steps that it chose: with stages k_s at Y_s,

    kbar_s = h b_s lambda + h sum_{r > s} a_rs Ybar_r,    Ybar_s = J(Y_s)^T kbar_s,    lambda <- lambda + sum_s Ybar_s,

from the last step to the first. States are kept at some steps and computed again between them. Source: Theory 12.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from .._types import Array, as_tokens
from ..attention.base import Attention
from ..attention.derivatives import WEIGHTS, of_value
from ..attention.parameters import Layers, Parameter
from ..errors import InputError, InputTypeError
from ..integrate import Observer, Solution
from ..integrate.breaks import Breaks
from ..integrate.controller import Span
from ..integrate.dense import Chord
from ..integrate.methods import TABLEAUX
from ..integrate.options import positive_int
from ..integrate.reporting import check_progress, reporting
from ..integrate.space import VectorSpace
from ..manifold import Manifold, as_manifold
from ..meanfield import Field, bind, solve
from ..noise import Brownian
from .snapshots import Snapshots, backwards

_MEMORY = 1 << 30  # bytes for states


@dataclass(frozen=True)
class Gradient:
    """The gradient of a loss of a run, returned by `gradient`.

    Attributes:
        value: the loss.
        x0: (n, d), its gradient in the initial tokens.
        parameters: name -> gradient, as of `Pullback`, summed over the run; of `Layers` that of the stack (L, ...).
            Parameters that are functions of time are left out.
        solution: the run.
        stats: steps, velocities and pullbacks that the way back took, kept (states), stride (steps between them).
    """

    value: float
    x0: Array
    parameters: dict[str, Array]
    solution: Solution
    stats: dict[str, int]


def gradient(
    loss: Callable[[Array], tuple[float, Any]],
    attention: Attention,
    x0: Any,
    t_span: tuple[float, float],
    *,
    t_eval: Any = None,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    noise: float = 0.0,
    seed: int = 0,
    backend: Any = "auto",
    memory: int = _MEMORY,
    progress: Any = False,
    **asked: Any,
) -> Gradient:
    """Return a loss of the run of `solve` from x0, and its gradient in x0 and in all parameters.

    Args:
        loss: loss(x) of the final tokens x (n, d), or with t_eval of all x (m, n, d); returns its value and its
            derivative in x, an array of the shape of x.
        x0: tokens (n, d), float64.
        memory: bytes that states of the run may take, beside the stages of one step. With fewer, more are made again.
        progress: of the way back: True for a bar, or a function progress(t, stats).
        t_eval, weights, positions, manifold, noise, seed, backend: as of `solve`; the noise is that of the run.
        asked: method, step, rtol, atol and max_steps, as of `solve`.

    Returns:
        a `Gradient`: exact, to rounding, for the steps that were taken.

    Raises:
        InputError, InputTypeError: naming the argument; for a run that did not reach the end, with its message.

    Source: Theory 12.2.
    """
    tokens, place = as_tokens("x0", x0), as_manifold(manifold)
    check_progress(progress)
    if tokens.ndim != 2 or tokens.dtype != np.float64:
        raise InputError("x0", f"{tokens.dtype} of shape {tokens.shape}", "one system of float64 tokens (n, d)")
    kept = Snapshots(tokens.shape, positive_int("memory", memory))
    sol = cast(
        Solution,
        solve(
            attention, tokens, t_span, t_eval=t_eval, weights=weights, positions=positions, manifold=place, noise=noise,
            seed=seed, backend=backend, observers=[Observer(kept.take, steps=1)], **asked,
        ),
    )  # fmt: skip
    if not sol.success or (t_eval is not None and len(sol.t) != np.size(t_eval)):
        raise InputError("t_span", f"a run that ended: {sol.message}", "one that reaches its end")
    at = sol.t if t_eval is not None else sol.t[-1:]
    value, found = loss(sol.x if t_eval is not None else sol.x[-1])
    seen = sol.x if t_eval is not None else sol.x[-1:]
    cotangents = _checked(found, seen)
    moving = bind(attention, tokens, weights=weights, positions=positions, backend=backend, manifold=place)
    source = Brownian(noise, seed)
    back = _Back(moving, TABLEAUX[asked.get("method", "dopri5")], kept, source if source.noise else None, sol.t[0])
    x, parameters = back.run(at, cotangents, progress)
    return Gradient(float(value), x, parameters, sol, back.stats)


@dataclass
class _Step:
    """A step made again: its arguments before they were moved to the manifold, and its stages.

    Attributes:
        number, t, h, y: of the step, and the state where it begins.
        arguments: (S, n, d) Y_s before the retraction; the last is y1.
        stages: (S or S + 1, n, d), with noise its increment over h as the last.
    """

    number: int
    t: float
    h: float
    y: Array
    arguments: Array
    stages: Array
    noise: Array | None = None  # before it was made tangent
    cotangents: list[tuple[float, Array]] = field(default_factory=list)


class _Back:
    """The way back over the steps of a run."""

    def __init__(self, moving: Field, tableau: Any, kept: Snapshots, noise: Brownian | None, start: float) -> None:
        self._field, self._tableau, self._kept, self._noise = moving, tableau, kept, noise
        self._manifold = moving.manifold
        last = kept.times[-1]
        self._breaks = Breaks(moving.breaks, Span(start, last))
        self._gradients: dict[str, Array] = {}
        self.stats = {
            "steps": len(kept.times) - 1, "velocities": 0, "pullbacks": 0, "kept": len(kept.states),
            "stride": kept.stride,
        }  # fmt: skip

    def run(self, at: Array, cotangents: Array, progress: Any) -> tuple[Array, dict[str, Array]]:
        """Return the gradients in the first state and in the parameters, given those in the states at some times."""
        times, direction = self._kept.times, math.copysign(1.0, self._kept.times[-1] - self._kept.times[0])
        inside: dict[int, list[tuple[float, Array]]] = {}
        at_ends: dict[int, Array] = {}
        for t, c in zip(at, cotangents, strict=True):
            n = int(np.searchsorted(direction * np.asarray(times), direction * t))
            if n < len(times) and times[n] == t:
                at_ends[n] = at_ends.get(n, 0.0) + c
            else:
                inside.setdefault(n - 1, []).append((float(t), c))
        final = len(times) - 1
        state = at_ends.get(final, np.zeros_like(self._kept.states[0])).copy()
        with reporting(progress, Span(times[-1], times[0])) as report:
            for step in self._backwards():
                step.cotangents = [((t - step.t) / step.h, c) for t, c in inside.get(step.number, [])]
                state = self._pull_step(step, state)
                state += at_ends.get(step.number, 0.0)
                if report is not None:
                    report(step.t, {"steps": final - step.number})
        state = self._manifold.pull_retraction(self._kept.states[0], state)
        return state, self._gradients

    def _backwards(self) -> Iterator[_Step]:
        """Yield the steps of the run from the last to the first."""
        times, stride = self._kept.times, self._kept.stride
        for i in range(len(self._kept.states) - 1, -1, -1):
            first, last = i * stride, min((i + 1) * stride, len(times) - 1)
            for n, y in backwards(
                first, last, self._kept.states[i], self._kept.most, lambda n, y: self._again(n, y)[1]
            ):
                yield self._again(n, y)[0]

    def _again(self, n: int, y: Array) -> tuple[_Step, Array]:
        """Make step n again; return it and the state after it."""
        times, tableau, space = self._kept.times, self._tableau, VectorSpace(y.shape, y.dtype)
        t, h, count = times[n], times[n + 1] - times[n], tableau.stages
        stages = np.zeros((count + (self._noise is not None), *y.shape))
        arguments = np.empty((count, *y.shape))
        step = _Step(n, t, h, y, arguments, stages)
        a = [list(row) + [node] * (self._noise is not None) for row, node in zip(tableau.a, tableau.c, strict=True)]
        if self._noise is not None:
            step.noise = np.empty_like(y)
            self._noise(n, h, y, step.noise)
            stages[-1] = step.noise
            self._manifold.project(y, stages[-1])
        for s in range(count):
            space.combine(y, h, a[s], stages, arguments[s])
            if s < count - 1:
                self._velocity(self._time(step, s), self._moved(arguments[s], s), stages[s])
        return step, self._moved(arguments[-1], 1)

    def _pull_step(self, step: _Step, state: Array) -> Array:
        """Return the gradient in the state before a step, given that in the state after it."""
        tableau, h, count = self._tableau, step.h, self._tableau.stages
        of_stages = np.zeros_like(step.stages)
        before = np.zeros_like(state)
        extension = tableau if self._noise is None else Chord((*tableau.b, 1.0))
        if step.cotangents and self._noise is None and tableau.dense_needs_last:
            self._velocity(self._time(step, count - 1), self._moved(step.arguments[-1], 1), step.stages[count - 1])
        for theta, c in step.cotangents:
            weights = extension.weights_at(theta)
            there = step.y + h * np.tensordot(weights, step.stages, axes=1)
            moved = self._manifold.pull_retraction(there, c)
            before += moved
            for s, weight in enumerate(weights):
                of_stages[s] += h * weight * moved
        for s in range(count - 1, -1, -1):
            pulled = state if s == count - 1 else np.zeros_like(state)
            if of_stages[s].any():
                pulled = pulled + self._pull_velocity(
                    self._time(step, s), self._moved(step.arguments[s], s), of_stages[s]
                )
            if s:
                pulled = self._manifold.pull_retraction(step.arguments[s], pulled)
            before += pulled
            for r, weight in enumerate(tableau.a[s][:s]):
                of_stages[r] += h * weight * pulled
            if self._noise is not None:
                of_stages[-1] += h * tableau.c[s] * pulled
        if step.noise is not None:
            before += self._manifold.pull_projection(step.y, step.noise, of_stages[-1])[0]
        return before

    # -- velocities ---------------------------------------------------------------------------------------------------

    def _time(self, step: _Step, s: int) -> float:
        """Return the time of stage s, on the side of the step at a break."""
        node, end = self._tableau.c[s], self._kept.times[step.number + 1]
        if node == 0.0:
            return self._breaks.begins(step.t)
        return self._breaks.ends(end) if node == 1.0 else step.t + node * step.h

    def _moved(self, y: Array, s: int) -> Array:
        """Return an argument on the manifold; that of the first stage is a state."""
        out = y.copy()
        if s:
            self._manifold.retract(out)
        return out

    def _velocity(self, t: float, y: Array, out: Array) -> None:
        self._field(t, y, out)
        self.stats["velocities"] += 1

    def _pull_velocity(self, t: float, y: Array, c: Array) -> Array:
        """Return J(y)^T c of the field on the manifold, and add what it does to the parameters."""
        moving = self._field
        with moving.backend.evaluation():
            linear = moving.attention.linearised(moving.cloud.with_(x=y[None], memory=None), t, moving.backend)
            of_state, along = self._manifold.pull_projection(y, linear.field[0], c)
            found = linear.pull(along[None])
        self.stats["pullbacks"] += 1
        for name, p in (*moving.attention.named_parameters(), (WEIGHTS, None)):
            if name in found.parameters:
                self._add(name, p, t, found.parameters[name])
        return of_state + found.x[0]

    def _add(self, name: str, p: Parameter | None, t: float, found: Array) -> None:
        if p is None:
            value = found[0]
        elif p.constant:
            value = of_value(p, t, found)
        elif isinstance(p.source, Layers):
            value = np.zeros(p.source.stack.shape)
            value[p.source.place(t)] = of_value(p, t, found)
        else:
            return
        self._gradients[name] = self._gradients.get(name, 0.0) + value


def _checked(found: Any, like: Array) -> Array:
    """Check the derivative of a loss; return it as (m, n, d)."""
    c = np.asarray(found)
    shape = like.shape if c.ndim == like.ndim else like.shape[1:]
    if c.dtype.kind not in "iuf":
        raise InputTypeError("loss", f"a derivative of dtype {c.dtype}", "numbers")
    if c.shape != shape:
        raise InputError("loss", f"a derivative of shape {c.shape}", f"shape {shape}, that of x")
    if not np.isfinite(c).all():
        raise InputError("loss", "a derivative that is not finite", "finite numbers")
    return c.astype(np.float64).reshape(like.shape)
