"""Stationary clouds, at which no token moves, and how the flow behaves near them (Theory 12.5).

The search is the continuation in pseudo-time

    (I / tau - J(x)) delta = F(x),    x <- R(x + delta),

F the velocities and R the retraction to the manifold, tau in inverse proportion to the velocities. For small tau it
follows the flow, and for large tau it is Newton's method, which finds unstable clouds too. The equations are solved by
GMRES from products with J. Directions in which nothing changes (turns of the cloud, ...) make J singular, not the sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._numbers import below_one, whole
from .._types import Array
from ..attention.base import Attention
from ..errors import FieldError, InputError, explained
from ..integrate.controller import Span
from ..integrate.reporting import check_progress, reporting
from ..manifold import Manifold
from ..meanfield import Field
from ..solutions import brief
from .cloud_jacobian import CloudJacobian, one_cloud
from .spectra import spectrum

_FIRST, _MOST = 0.1, 0.5  # the first step, and the largest one, relative to the largest token, or to one
_WORSE = 2.0  # a step that makes velocities larger than this many times is not taken
_LINEAR = 1e-4  # relative residual of the linear equations
_KRYLOV, _RESTARTS = 60, 5
_LEAST = 1e-12  # of tau, relative to the first
_AWAY = 10.0  # how far tokens that run away are from the origin, relative to the largest one at the start, or to one


@dataclass(frozen=True)
class Stationary:
    """A cloud where the search for one at rest has ended, returned by `stationary`.

    Attributes:
        x: (n, d), the cloud.
        residual: max_i |v_i| / max(1, max_i |x_i|), v its velocities.
        converged: whether the residual is at most tol. If not, there are no eigenvalues and the kind is undecided.
        message: how the search ended, and for an undecided kind why.
        kind: "attracting": clouds near it come back to it, or to one that it can be turned or moved to while it stays
            at rest; "saddle": some leave it, and some come back or nothing is known of others; "repelling": all leave
            it; "undecided".
        eigenvalues: (k,) complex, those of the Jacobian with the largest real parts, by their real parts.
        stats: steps taken and refused, products with the Jacobian.
    """

    x: Array
    residual: float
    converged: bool
    message: str
    kind: str
    eigenvalues: Array
    stats: dict[str, int]

    def __repr__(self) -> str:
        return brief(self)


@explained
def stationary(
    attention: Attention,
    x0: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    backend: Any = "auto",
    tol: float = 1e-12,
    max_iterations: int = 1000,
    k: int = 6,
    progress: Any = False,
) -> Stationary:
    """Look for a cloud at rest near x0, or where the flow from x0 leads, and say whether it attracts.

    Far from rest the search follows the flow, so it mostly ends where a run would; within about a hundredth of an
    unstable cloud at rest, from the start or on its way, it finds that. It may fail, too: look at `converged` and
    `kind`. Memory is O(n); the matrix J is made of small clouds only.

    Args:
        x0: one cloud (n, d); it is taken in float64.
        t: time at which the parameters are taken.
        weights, positions, backend: as of `velocity`. A backend in O(n) leaves a residual of its own accuracy.
        manifold: as of `solve`.
        tol: the residual to reach, relative to the largest token if that is larger than one.
        max_iterations: most steps, refused ones among them.
        k: how many eigenvalues; those that are zero because the cloud can be turned count.
        progress: True for a bar, or a function progress(iteration, stats).

    Returns:
        a `Stationary`; also where the search fails.

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 12.5; Kelley, Keyes, Convergence analysis of pseudo-transient continuation (1998), SIAM J. Numer.
    Anal. 35, 508-523.
    """
    goal, most, count = below_one("tol", tol), whole("max_iterations", max_iterations), whole("k", k)
    check_progress(progress)
    moving, start = one_cloud("x0", attention, x0, t, weights, positions, manifold, backend)
    with reporting(progress, Span(0.0, float(most)), "iteration") as report:
        search = _Search(moving, start, float(t))
        message = search.run(goal, most, report)
    now, residual = search.now, search.residual
    if message:
        return Stationary(now.x, residual, False, message, "undecided", np.empty(0, complex), search.stats)
    found = spectrum(moving, now, float(t), count, residual)
    message = f"At rest to {residual:.2g} after {search.stats['steps']} steps. {found.reason}".rstrip()
    return Stationary(now.x, residual, True, message, found.kind, found.eigenvalues, search.stats)


@dataclass
class _Search:
    """The state of a search: the cloud with its Jacobian."""

    moving: Field
    start: Array
    t: float
    stats: dict[str, int] = field(default_factory=lambda: {"steps": 0, "refused": 0, "products": 0})

    def __post_init__(self) -> None:
        self.now = CloudJacobian(self.moving, self.start, self.t, "x0")
        self._size = max(1.0, _largest(self.start))
        speed = _largest(self.now.velocity)
        self._first = self._tau = _FIRST * self._size / speed if speed > 0.0 else 1.0
        self._start_size = self._norm(self.now)

    @property
    def residual(self) -> float:
        """The largest velocity, relative to the largest token if that is larger than one."""
        return _largest(self.now.velocity) / max(1.0, _largest(self.now.x))

    def run(self, tol: float, most: int, report: Any) -> str:
        """Take steps until the residual is at most tol; return why it is not, else ""."""
        for iteration in range(most):
            if self.residual <= tol:
                return ""
            if self._tau < _LEAST * self._first:
                why = f"The residual {self.residual:.2g} does not become smaller: every step is refused."
                return f"{why}{self._runs_away()}"
            self._step()
            if report is not None:
                report(iteration + 1, dict(self.stats))
        if self.residual <= tol:
            return ""
        away = self._runs_away()
        remedy = "" if away else " Raise max_iterations or tol, or run from x on."
        return f"The residual is {self.residual:.2g} after {most} iterations.{away or remedy}"

    def _runs_away(self) -> str:
        """Return a sentence if the token that is farthest out has come from far within and goes on, else ""."""
        far = np.linalg.norm(self.now.x, axis=1)
        i = int(far.argmax())
        if far[i] < _AWAY * self._size or np.vdot(self.now.x[i], self.now.velocity[i]) <= 0.0:
            return ""
        found = f"Tokens run away: the largest is {far[i]:.3g}, from {_largest(self.start):.3g}, and goes on outwards."
        return f" {found} There may be no cloud at rest in its way."

    def _step(self) -> None:
        """Take a step, or refuse it; make the next one longer or shorter."""
        before = self.now
        right = before.coordinates(before.velocity)
        delta = before.vectors(self._solve(right))
        there = self._trial(before.x + delta) if _largest(delta) <= _MOST * self._size else None
        old, new = self._norm(before), np.inf if there is None else self._norm(there)
        if there is None or not new <= _WORSE * old:
            self.stats["refused"] += 1
            self._tau /= 4.0
            return
        self.stats["steps"] += 1
        self.now = there
        if new > 0.0:  # in inverse proportion to the velocities, but after a refused step not at once
            self._tau = min(self._first * self._start_size / new, 2.0 * self._tau * max(1.0, old / new))

    @staticmethod
    def _norm(at: CloudJacobian) -> float:
        return float(np.linalg.norm(at.coordinates(at.velocity)))

    def _trial(self, x: Array) -> CloudJacobian | None:
        """Return the Jacobian at a cloud, after it was moved to the manifold; None where there is none."""
        self.moving.manifold.retract(x)
        if not np.isfinite(x).all():
            return None
        try:
            return CloudJacobian(self.moving, x, self.t)
        except (InputError, FieldError):
            return None

    def _solve(self, right: Array) -> Array:
        """Return the solution u of (I / tau - J) u = right, perhaps not an accurate one."""
        from scipy.sparse.linalg import gmres

        J, shift = self.now, 1.0 / self._tau

        def apply(u: Array) -> Array:
            self.stats["products"] += 1
            return shift * u - J.push(u)

        krylov = min(J.size, _KRYLOV)
        u, _ = gmres(J.operator(apply), right, rtol=_LINEAR, atol=0.0, restart=krylov, maxiter=_RESTARTS)
        return np.asarray(u)


def _largest(vectors: Array) -> float:
    return float(np.linalg.norm(vectors, axis=1).max())
