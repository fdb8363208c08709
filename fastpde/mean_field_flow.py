"""The mean-field limit: the flow of a law under attention, by quadrature nodes that are moved as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ._types import Array, as_tokens
from .attention import Attention
from .attention.composite import Term, terms_of
from .errors import ConvergenceError, FieldError, InputError, InputTypeError
from .integrate import Solution, Status, integrate
from .integrate.options import positive, positive_int, real, show, time_span
from .laws import Law
from .laws.law import law_of
from .weights import Linear, is_bounded

_FIRST, _GROWTH = 6, 1.5  # points per axis: of the first rule, and how many more each next one has
_PROBES = 128  # Sobol points that both rules move
_FRAMES = 32  # intervals between times at which nodes are kept
_FINEST = 1e-13  # rtol: below, steps are rounding
_STEPS, _FINER = 1e-2, 0.2  # rtol of the first rule as a fraction of tol, and of the next one as a fraction of that
_MOST_STEPS = 20_000


class _Carried:
    """The field that weighted nodes make, for the nodes and any points behind them: rows of y (q + p, d).

    If y has a column more, the rate of that is the divergence of the field at the points, and 0 at the nodes.
    """

    def __init__(self, attention: Attention, weights: Array, stops: Sequence[float] = ()) -> None:
        """Keep what makes the field; steps end at the times `stops`, too."""
        self.attention, self.weights = attention, weights
        self.breaks = tuple(sorted({*attention.breaks, *stops}))
        self._failure: FieldError | None = None

    def __call__(self, t: float, y: Array, out: Array) -> None:
        out[...] = np.nan
        self._failure = None
        if np.isfinite(y).all():
            try:
                q, d = len(self.weights), self.attention._dimensions(t)[0]
                x = np.ascontiguousarray(y[:, :d])
                out[:, :d] = self.velocity(t, x[:q], x)
                if y.shape[1] > d:
                    out[:q, d] = 0.0
                    out[q:, d] = self.attention.divergence(x[:q], at=x[q:], t=t, weights=self.weights, backend="direct")
            except ConvergenceError as error:
                self._failure = error

    def velocity(self, t: float, nodes: Array, at: Array) -> Array:
        """Return the velocity (m, d) at points `at` (m, d), by exact sums over the nodes (q, d)."""
        return self.attention.velocity(nodes, at=at, t=t, weights=self.weights, backend="direct")

    def failure(self) -> FieldError | None:
        """Return why the last evaluation wrote nan, if a scaling did not converge."""
        return self._failure


class MeanField:
    """The law of infinitely many tokens that start with a given law: the solution of d_t mu + div(mu Gamma_mu) = 0.

    The nodes of a quadrature rule of the law are moved as tokens with their weights. A rule of m points per axis is
    accepted if it agrees with one of 2m / 3 points, which takes larger steps: at 33 times both carry the same 128
    points of the law to the same places, up to tol times the largest distance from the origin, and have the same mean
    and covariance.

    Attributes:
        law: the law at t0.
        attention: the attention that moves it.
        t: (33,) times from t0 to t1.
        weights: (q,) weights of the nodes.
        error: (33,) largest relative difference of the two rules up to each time.
        tol: what was asked of it.
    """

    def __init__(
        self,
        field: Attention,
        law: Law,
        t_span: tuple[float, float],
        *,
        tol: float = 1e-8,
        most_nodes: int = 6000,
        progress: Any = False,
    ) -> None:
        """Follow the law from t_span[0] to t_span[1], with more and more nodes until two rules agree.

        Args:
            field: an attention that maps R^d to R^d and knows no positions.
            law: a law with a quadrature rule, in dimension 1, 2 or 3, as `fp.laws.Ball(2)`; or points with weights,
                `fp.laws.Empirical(x)`, which are moved as they are.
            t_span: (t0, t1), t0 < t1.
            tol: the largest relative error, between 1e-12 and 0.1.
            most_nodes: number of nodes, at most; an evaluation costs its square.
            progress: True for a bar for each rule, or a function progress(t, stats).

        Raises:
            InputError, InputTypeError: naming the argument. If no two rules agree up to t1, the error of t_span says up
                to which time they do: where clusters form, or the law blows up, nodes hold for a while only.

        Source: Theory 13.1.
        """
        if not isinstance(field, Attention):
            raise InputTypeError("field", show(field), "an attention, as fp.Softmax(Q, K, V)")
        if field.positional:
            raise InputError("field", repr(field), "an attention without positions, whose tokens have one law")
        self.attention, self.law, self.tol = field, law_of("law", law), positive("tol", tol)
        if not np.isfinite(self.law.support_radius) and not all(map(_spares_tails, terms_of(field))):
            remedy = "Under sums of weights that grow there may be no solution at any time if tails are unbounded."
            raise InputError("law", repr(law), "a law of bounded support, as fp.laws.Ball(2)", remedy)
        if not 1e-12 <= self.tol <= 0.1:
            raise InputError("tol", show(tol), "a number from 1e-12 to 0.1")
        span = time_span("t_span", t_span)
        if not span[0] < span[1]:
            raise InputError("t_span", show(t_span), "an end after its start")
        most = positive_int("most_nodes", most_nodes)
        self.t = np.linspace(*span, _FRAMES + 1)
        d = self.law.dimension
        if (length := field._check(self.law.mean[None, None], span[0], "law")) != d:
            raise InputError("field", f"a field of length {length}", f"{d}, the dimension of the law")
        self._scale = float(np.sqrt(np.trace(self.law.cov) + self.law.mean @ self.law.mean)) or 1.0
        self._next = 0  # nodes of the first rule that has too many
        self._stops: dict[float, Array] = {}  # nodes at times between the frames
        self._refine(most, progress)

    def __repr__(self) -> str:
        return (
            f"MeanField({self.law!r}, {len(self.weights)} nodes, error {self.error[-1]:.1g} up to t = {self.t[-1]:g})"
        )

    def points(self, t: float) -> tuple[Array, Array]:
        """Return the nodes x (q, d) at time t and their weights (q,), whose weighted sums are integrals over the law.

        Raises InputError, InputTypeError for a time outside of the span.
        """
        return self._nodes(self._inside(t)).copy(), self.weights.copy()

    def velocity(self, t: float, x: Any) -> Array:
        """Return the velocity Gamma (m, d) of the law at time t at points x (m, d).

        Raises InputError, InputTypeError naming t or x.
        """
        t = self._inside(t)
        return _Carried(self.attention, self.weights).velocity(t, self._nodes(t), self._points("x", x))

    def push(self, t: float, x0: Any) -> Array:
        """Return where the flow carries points x0 (m, d) from t0 to t: (m, d), float64.

        Raises:
            InputError, InputTypeError: naming t or x0.
            FieldError: with the reason, if the points cannot be followed.
        """
        t, points = self._inside(t), self._points("x0", x0)
        return self._carry(np.concatenate([self._path[0], points]), self.t[0], t)[len(self.weights) :]

    def log_density(self, t: float, x: Any) -> Array:
        """Return the logarithm (m,) of the density of the law at time t at points x (m, d).

        It is that of the law at t0 where the points come from, less the integral of the divergence along their way:
        the points are carried back, and errors grow as the flow draws them apart on that way.

        Raises:
            InputError, InputTypeError: naming t or x, or the law if it has no density.
            FieldError: with the reason, if the points cannot be followed back.

        Source: Theory 13.2.
        """
        t, points = self._inside(t), self._points("x", x)
        self.law.log_density(points[:1])  # refused before any work
        both = np.concatenate([self._nodes(t), points])
        found = self._carry(np.pad(both, ((0, 0), (0, 1))), t, self.t[0])[len(self.weights) :]
        return np.asarray(self.law.log_density(found[:, :-1]) + found[:, -1])

    def density(self, t: float, x: Any) -> Array:
        """Return the density (m,) of the law at time t at points x (m, d). Raises as `log_density`."""
        return np.exp(self.log_density(t, x))

    def mean(self, t: float) -> Array:
        """Return the mean (d,) of the law at time t.

        Raises InputError, InputTypeError for a time outside of the span.
        """
        return _moments(self._nodes(self._inside(t)), self.weights)[0]

    def cov(self, t: float) -> Array:
        """Return the covariance (d, d) of the law at time t.

        Raises InputError, InputTypeError for a time outside of the span.
        """
        return _moments(self._nodes(self._inside(t)), self.weights)[1]

    def radius(self, t: float, m: int = 32) -> float:
        """Return the largest |x| in the support of the law at time t, from points of its outer boundary.

        The flow carries the boundary of the support to the boundary. `law.edge(m)` has m points per axis, so that the
        result is low by about the square of the distance between them.

        Raises InputError, InputTypeError: naming t or m, or the law if its support has no known boundary.
        """
        return float(np.linalg.norm(self.push(t, self.law.edge(m)), axis=1).max())

    def _refine(self, most: int, progress: Any) -> None:
        """Keep the first rule that agrees with the one before. Raises InputError if there is none."""
        probes, before, reached = self.law.sobol(_PROBES, 0), None, 0
        for k, (nodes, weights) in enumerate(self._rules(most)):
            self._rtol = max(_FINEST, _STEPS * _FINER**k * self.tol)
            self.weights = weights
            sol = self._integrate(np.concatenate([nodes, probes]), self.t, progress)
            found = _Followed(sol, weights, self._scale)
            if before is not None:
                self.error = found.differs(before, self.law)
                reached = max(reached, int(np.argmax(np.append(self.error > self.tol, True))))
                if reached > _FRAMES:
                    self._path = np.ascontiguousarray(sol.x[:, : len(weights)])
                    return
                if not sol.success and reached == len(found.probes):  # as far as it can be followed
                    break
            before = found
        raise self._refused(sol, len(self.weights), reached)

    def _rules(self, most: int) -> Iterator[tuple[Array, Array]]:
        """Yield nodes and weights of finer and finer rules, two at least, and then of at most `most` nodes.

        Raises InputError naming most_nodes if two rules have more.
        """
        m, last, count = _FIRST, 0, 0
        while True:
            nodes, weights = self.law.nodes(m)
            if len(weights) > most:
                if count < 2:
                    raise InputError("most_nodes", str(most), f"at least the {len(weights)} nodes of two rules")
                self._next = len(weights)
                return
            yield nodes, weights
            if len(weights) == last:  # points as they are: the second run has smaller steps
                self._next = last
                return
            m, last, count = int(np.ceil(_GROWTH * m)), len(weights), count + 1

    def _refused(self, sol: Solution, count: int, reached: int) -> InputError:
        """Return the error that says up to which time two rules agree; `reached`: at how many frames."""
        why = f"Later {count} nodes do not resolve the law, as where clusters form: raise tol"
        why += f", or most_nodes to {self._next} and more." if self._next > count else "."
        if sol.status in (Status.STEP_TOO_SMALL, Status.NOT_FINITE):
            why = f"The nodes probably blow up: they could be followed to t = {sol.t_final:.6g} only."
        elif not sol.success:
            why = sol.message
        if reached < 2:
            need = f"an earlier end: already at t = {self.t[reached]:.4g} no two rules agree to tol = {self.tol:g}"
        else:
            need = f"an end of at most {self.t[reached - 1]:.6g}, up to where two rules agree to tol = {self.tol:g}"
        return InputError("t_span", f"the end {self.t[-1]:g}", need, why)

    def _integrate(self, start: Array, t: Array, progress: Any = False) -> Solution:
        """Move nodes, and the points behind them, from t[0] to t[-1], and keep them at times t, where steps end."""
        field = _Carried(self.attention, self.weights, t[1:-1].tolist())
        return integrate(
            field,
            start,
            (float(t[0]), float(t[-1])),
            t_eval=t,
            rtol=self._rtol,
            atol=self._rtol * self._scale,
            max_steps=_MOST_STEPS,
            progress=progress,
        )

    def _carry(self, both: Array, start: float, end: float) -> Array:
        """Return nodes and points (q + p, ...) at time `end`, moved from `start`. Raises FieldError."""
        if start == end:
            return both
        stops = self.t[(self.t > min(start, end)) & (self.t < max(start, end))]
        sol = self._integrate(both, np.array([start, *(stops if start < end else stops[::-1]), end]))
        if not sol.success:
            raise sol.cause or FieldError(sol.message)
        return np.asarray(sol.x[-1])

    def _nodes(self, t: float) -> Array:
        """Return the nodes (q, d) at time t, not to be modified: those of a frame, or moved on from it."""
        frame = int(np.searchsorted(self.t, t, side="right")) - 1
        if self.t[frame] == t:
            return np.asarray(self._path[frame])
        if t not in self._stops:
            if len(self._stops) >= _FRAMES:
                self._stops.clear()
            self._stops[t] = self._carry(self._path[frame], self.t[frame], t)
        return self._stops[t]

    def _inside(self, t: Any) -> float:
        """Return a time of the span, or raise InputError or InputTypeError."""
        time = real("t", t)
        if not self.t[0] <= time <= self.t[-1]:
            raise InputError("t", show(t), f"a time from {self.t[0]:g} to {self.t[-1]:g}")
        return time

    def _points(self, name: str, x: Any) -> Array:
        """Return points (m, d) in float64, or raise InputError or InputTypeError."""
        points = as_tokens(name, x)
        if points.ndim != 2 or points.shape[1] != self.law.dimension:
            raise InputError(name, f"shape {points.shape}", f"shape (m, {self.law.dimension})")
        return points.astype(np.float64)


class _Followed:
    """What two rules are compared by: at the times that were reached, the probes and the moments of the nodes."""

    def __init__(self, sol: Solution, weights: Array, scale: float) -> None:
        """Take them from a run of nodes and probes."""
        self.success, self.scale, q = sol.success, scale, len(weights)
        self.probes = sol.x[:, q:]
        self.moments = [_moments(x[:q], weights) for x in sol.x]

    def differs(self, other: _Followed, law: Law) -> Array:
        """Return the largest relative difference (k,) up to each time that both have reached.

        Lengths are relative to the largest distance of a probe from the origin; at first, moments are compared with
        those of the law, too.
        """
        k = min(len(self.probes), len(other.probes))
        size = np.maximum(np.linalg.norm(self.probes[:k], axis=2).max(axis=1), self.scale)
        off = np.linalg.norm(self.probes[:k] - other.probes[:k], axis=2).max(axis=1) / size
        for frame in range(k):
            mean, cov = self.moments[frame]
            for a, b in (other.moments[frame], *([(law.mean, law.cov)] if not frame else [])):
                far = np.abs(mean - a).max() / size[frame], np.abs(cov - b).max() / size[frame] ** 2
                off[frame] = max(off[frame], *far)
        return np.maximum.accumulate(off)


def _spares_tails(term: Term) -> bool:
    """Return whether the field of a head is defined by the second moments of a law: averages, bounded and linear w."""
    head = term.head
    return head.normalised or is_bounded(head.weight) or isinstance(head.weight, Linear)


def _moments(x: Array, w: Array) -> tuple[Array, Array]:
    """Return the mean (d,) and the covariance (d, d) of nodes x (q, d) with weights w (q,)."""
    mean = w @ x
    away = x - mean
    return mean, (w[:, None] * away).T @ away
