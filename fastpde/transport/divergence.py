"""The Sinkhorn divergence of two clouds for the cost |x - y|^2, with a bound of its distance from W_2, in O(n) memory.

The value OT_eps(mu, nu) = min <pi, C> + eps KL(pi | mu x nu) is the maximum of int f dmu + int g dnu over potentials
with f = -eps log int e^{(g - C) / eps} dnu and likewise g. The divergence
OT_eps(mu, nu) - OT_eps(mu, mu) / 2 - OT_eps(nu, nu) / 2 is zero for equal clouds, for every eps. The bounds of W_2 come
from the plan itself: its cost is at least W_2^2, and a soft minimum over a much smaller eps gives potentials with
f + g <= C, whose value is at most W_2^2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._numbers import positive
from .._types import Array
from ..errors import InputError, TransportError
from ..weights import Exp
from .anderson import Anderson
from .measures import Weighted, common_unit

if TYPE_CHECKING:
    from ..sums.backend import Backend

_EPS = 1e-3  # of the squared unit: the default
_TOL = 1e-4  # marginal error; the dual value's error is of its order squared, and the bounds count it
_MOST = 5_000  # iterations
_FALL = 4.0  # of eps from one stage of the warm start to the next
_SHARPER = 100.0  # eps divided by that of the soft minimum of the lower bound


class Pair:
    """The kernel e^{-|x - y|^2 / eps} between two clouds, evaluated only through logarithms of its sums.

    Potentials are kept as F = (f - |x|^2) / eps and G = (g - |y|^2) / eps: scores are then 2 <x, y> / eps alone.
    """

    def __init__(self, x: Weighted, y: Weighted, backend: Backend) -> None:
        self.x, self.y, self.backend = x, y, backend
        self.squares = (x.x**2).sum(axis=1), (y.x**2).sum(axis=1)
        self._histories = np.zeros((2, 1, 2))  # of sums for the points of y, and of x

    def soft(self, g: Array, eps: float) -> Array:
        """Return the soft minimum f_i = -eps log sum_j b_j e^{(g_j - C_ij) / eps}, (n,)."""
        return self._soft(self.x, self.y, self.squares, g, eps)

    def soft_back(self, f: Array, eps: float) -> Array:
        """Return the soft minimum g_j = -eps log sum_i a_i e^{(f_i - C_ij) / eps}, (m,)."""
        return self._soft(self.y, self.x, self.squares[::-1], f, eps)

    def cost(self, g: Array, eps: float) -> float:
        """Return the cost <pi, C> of the plan pi_ij = a_i b_j e^{(f_i + g_j - C_ij) / eps}.

        f is the soft minimum of g, so that the rows of the plan are exact.
        """
        moments = np.column_stack([self.y.x, self.squares[1]])
        means = np.empty((1, len(self.x.x), moments.shape[1]))
        self._sum(self.x, self.y, (g - self.squares[1]) / eps, eps, moments[None], means)
        each = self.squares[0] - 2.0 * (self.x.x * means[0, :, :-1]).sum(axis=1) + means[0, :, -1]
        return float(self.x.masses @ each)

    def _soft(self, at: Weighted, of: Weighted, squares: tuple[Array, Array], potential: Array, eps: float) -> Array:
        nothing = np.empty((1, len(of.x), 0))
        log_total = self._sum(at, of, (potential - squares[1]) / eps, eps, nothing, np.empty((1, len(at.x), 0)))
        return squares[0] - eps * log_total

    def _sum(self, at: Weighted, of: Weighted, bias: Array, eps: float, values: Array, out: Array) -> Array:
        from ..sums.pair_sum import PairSum

        log_total = np.empty((1, len(at.x)))
        weights = None if of.w is None else of.w[None]
        targets = np.ascontiguousarray(at.x[None] * (2.0 / eps))
        keys, bias = np.ascontiguousarray(of.x[None]), np.ascontiguousarray(bias[None])
        normalised = values.shape[2] > 0
        pair = PairSum(
            Exp(), normalised, targets, keys, values, bias, weights,
            history=None if normalised else self._histories[int(at is self.x)],
        )  # fmt: skip
        with self.backend.evaluation():
            self.backend.attend(pair, out, log_total)
        return log_total[0]


def divergence(x: Weighted, y: Weighted, p: float, eps: Any, backend: Any) -> tuple[float, float]:
    """Return the square root of the Sinkhorn divergence, and a proved bound of its difference from W_2."""
    from ..sums import resolve_alone

    if p != 2.0:
        raise InputError("p", f"{p:g}", 'p = 2 for method="sinkhorn"', 'Take method="exact" or "sliced".')
    x, y, unit = common_unit(x, y)
    blur = _EPS if eps is None else positive("eps", eps) / unit**2
    backend = resolve_alone(backend)
    both = Pair(x, y, backend)
    f, g = _potentials(both, blur)
    value = _value(both, f, g)
    own = [_value(pair, *_own(pair, blur)) for pair in (Pair(x, x, backend), Pair(y, y, backend))]
    estimate = np.sqrt(max(value - 0.5 * sum(own), 0.0))
    low, high = _bounds(both, f, g, blur)
    error = max(abs(estimate - np.sqrt(bound)) for bound in (low, high))
    return float(estimate * unit), float(error * unit)


def _potentials(pair: Pair, eps: float) -> tuple[Array, Array]:
    """Return (f, g), f the row step of g, with a column error of at most _TOL. Raises TransportError."""
    g, stage = pair.squares[1] * 0.0, 4.0 * pair.x.x.shape[1]
    while stage > eps:
        g = pair.soft_back(pair.soft(g, stage), stage)
        stage /= _FALL
    b = pair.y.masses
    anderson = Anderson(b[None], (1, len(b)))
    error = np.inf
    for _ in range(_MOST):
        f = pair.soft(g, eps)
        residual = pair.soft_back(f, eps) - g
        error = _off(b, residual, eps)
        if error <= _TOL:
            return f, g
        merit = np.array([_value(pair, f, g)])
        anderson.step(g[None], residual[None], merit, np.ones(1, bool))
    raise _unsolved(error, eps)


def _own(pair: Pair, eps: float) -> tuple[Array, Array]:
    """Return (f + step, f) for a cloud and itself, step the change of f by a row step. Raises TransportError.

    By symmetry there is one potential; each iteration moves it by half a step.
    """
    f = np.zeros(len(pair.x.x))
    error = np.inf
    for _ in range(_MOST):
        step = pair.soft(f, eps) - f
        error = _off(pair.x.masses, step, eps)
        if error <= _TOL:
            # The value of (f + step, f) is a dual value up to the error squared.
            return f + step, f
        f += 0.5 * step
    raise _unsolved(error, eps)


def _value(pair: Pair, f: Array, g: Array) -> float:
    """Return int f dmu + int g dnu."""
    return float(pair.x.masses @ f + pair.y.masses @ g)


def _off(masses: Array, residual: Array, eps: float) -> float:
    """Return the marginal error sum_j b_j |e^{-r_j / eps} - 1|; inf on overflow."""
    with np.errstate(over="ignore"):
        return float(masses @ np.abs(np.expm1(-residual / eps)))


def _bounds(pair: Pair, f: Array, g: Array, eps: float) -> tuple[float, float]:
    """Return a lower and an upper bound of W_2^2.

    The plan has exact rows. To correct its columns, mass of at most their error is moved, no farther than the clouds
    reach.
    """
    sharp = eps / _SHARPER
    # -s log sum_j e^{(g_j - C_ij) / s} <= min_j C_ij - g_j: with the potential of masses b_j, g_j - s log b_j.
    below = pair.soft(g - sharp * np.log(pair.y.masses), sharp)
    low = _value(pair, below, g)
    error = _off(pair.y.masses, pair.soft_back(f, eps) - g, eps)
    reach = float(np.sqrt(pair.squares[0].max()) + np.sqrt(pair.squares[1].max())) ** 2
    return max(low, 0.0), pair.cost(g, eps) + error * reach


def _unsolved(error: float, eps: float) -> TransportError:
    return TransportError(
        f"Sinkhorn's iteration at eps = {eps:.3g} times the squared half-width of the clouds: marginal error "
        f"{error:.3g} after {_MOST} iterations; need {_TOL:g}. Take a larger eps."
    )
