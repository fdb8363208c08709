"""Energies of particle systems (Theory 7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .._numbers import flag
from .._types import Array, as_tokens
from ..attention.base import Attention, as_attention
from ..attention.cloud import Cloud, make_cloud
from ..attention.composite import terms_of
from ..attention.derivatives import as_change, backend_of, masses_of, widened
from ..attention.energy_forces import Force
from ..attention.sinkhorn import Sinkhorn
from ..errors import InputError, InputTypeError, explained

if TYPE_CHECKING:
    from ..sums.backend import Backend


@explained
def interaction_energy(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
    log: bool = False,
) -> float | Array:
    """Return E(mu) = 1/2 iint weight(s(x, y)) dmu(x) dmu(y), summed over heads; inf on overflow.

    Masked pairs count zero. The weight is e^s (Softmax, Exponential), e^{-scale |Qx-Ky|^2} (L2), sigma(s + bias)
    (Sigmoid) or s (Linear).

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.
        log: return log E, which does not overflow; nan where the total weight of a token is negative (Linear).

    Returns:
        A float, or (B,) for a batch.

    Source: Theory 7; Castin et al. 2025.
    """
    from ..sums import resolve

    as_attention(attention)
    tokens, log = as_tokens("x", x), flag("log", log)
    summing = resolve(backend)
    cloud = make_cloud(attention, tokens, summing, weights, positions)
    attention._check(cloud.x, t)
    total = np.full(cloud.x.shape[0], -np.inf) if log else np.zeros(cloud.x.shape[0])
    made = attention._log_totals if log else attention._totals
    # Totals may overflow, also to both signs, and their logarithms are nan where they are negative.
    with summing.evaluation(), np.errstate(over="ignore", invalid="ignore"):
        for totals in made(cloud, float(t), summing):
            if log:
                total = np.logaddexp(total, _log_mean(totals, cloud) - np.log(2.0))
            else:
                total += 0.5 * cloud.mean(totals)
    return total if tokens.ndim == 3 else float(total[0])


def _log_mean(logs: Array, cloud: Cloud) -> Array:
    """Return log int e^logs dmu, (B,), for logs (B, n), without overflow."""
    top = cloud.partition.largest(logs.max(axis=1, keepdims=True))
    with np.errstate(invalid="ignore"):
        masses = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
    mean = cloud.mean(masses)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(mean) + np.where(np.isfinite(top), top, 0.0)[:, 0])


@explained
def sinkhorn_energy(
    attention: Sinkhorn, x: Any, *, weights: Any = None, t: float = 0.0, backend: Any = "auto"
) -> float | Array:
    """Return S_eps(mu) = min_pi int -s dpi + eps KL(pi | mu x mu) = eps (int f + int g) dmu.

    The minimum is over all couplings pi of mu and mu. With Q^T K symmetric the Sinkhorn flow descends the energy for
    V = Q^T K and ascends it for V = -Q^T K.

    Args:
        attention: an `fp.Sinkhorn` without n_half; its tol bounds the marginal error of the potentials.
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.

    Returns:
        A float, or (B,) for a batch.

    Raises:
        InputError, InputTypeError: naming the argument. ConvergenceError: tol was not reached within max_iter.

    Source: Theory 7; Castin et al. 2025.
    """
    from ..sums import resolve

    if not isinstance(attention, Sinkhorn):
        need = "an fp.Sinkhorn(Q, K, V)"
        raise InputTypeError("attention", type(attention).__name__, need, "Others have fp.interaction_energy.")
    tokens = as_tokens("x", x)
    summing = resolve(backend)
    cloud = make_cloud(attention, tokens, summing, weights)
    attention._check(cloud.x, t)
    with summing.evaluation():
        total = attention._energy(cloud, float(t), summing)
    return total if tokens.ndim == 3 else float(total[0])


@explained
def energy_gradient(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
    log: bool = False,
) -> Array:
    """Return the gradient of the energy in the places of the tokens, (n, d) or (B, n, d).

    The energy is `interaction_energy`, of Sinkhorn attention `sinkhorn_energy`, and of MultiHead the sum over heads,
    also of both kinds; Q^T K need not be symmetric. With V = Q^T K symmetric the gradient is w_i times the velocity of
    `fp.Exponential`, and -2 eps w_i times that of `fp.Sinkhorn`.

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.
        log: of log E, which does not overflow; not for Sinkhorn heads.

    Returns:
        an array of the shape and dtype of x; computed in float64.

    Raises:
        InputError, InputTypeError: naming the argument; for scores that depend on positions, and for a weight function
        of one's own, whose second derivative is not known; where it overflows. ConvergenceError: of a Sinkhorn scaling.

    Source: Theory 7, 12.5.
    """
    with _slope_of_energy(attention, x, t, weights, positions, backend, log) as slope:
        return slope.given_back(slope.gradient)


@explained
def energy_hvp(
    attention: Attention,
    x: Any,
    dx: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
    log: bool = False,
) -> tuple[Array, Array]:
    """Return `energy_gradient` and its change to first order when tokens move by dx: the Hessian times dx.

    dx: (n, d) or (B, n, d), as x. The other arguments, and errors, as of `energy_gradient`. No matrix of all tokens is
    made: in O(n) memory, and to sums of the backend. Source: Theory 7, 12.5.
    """
    with _slope_of_energy(attention, x, t, weights, positions, backend, log) as slope:
        change = slope.hessian(as_change("dx", dx, slope.tokens, "as x"))
        return slope.given_back(slope.gradient), slope.given_back(change)


class _Slope:
    """The gradient of an energy (B, n, d), or of its logarithm, and its Hessian as a map."""

    def __init__(self, tokens: Array, force: Force, masses: Array, log: bool) -> None:
        self.tokens, self._force, self._log = tokens, force, log
        self._factor = (2.0 if log else 1.0) * masses[:, :, None]  # the energy of the shifted scores is 1/2
        self.gradient = self._factor * force.field

    def hessian(self, dx: Array) -> Array:
        """Return the change of the gradient when tokens move by dx (B, n, d)."""
        change = self._factor * self._force.push(dx)
        if self._log:
            change -= np.einsum("bnd,bnd->b", self.gradient, dx)[:, None, None] * self.gradient
        return change

    def given_back(self, found: Array) -> Array:
        """Return an array (B, n, d) in the shape and dtype of the tokens."""
        return found.reshape(self.tokens.shape).astype(self.tokens.dtype, copy=False)


@contextmanager
def _slope_of_energy(
    attention: Attention, x: Any, t: float, weights: Any, positions: Any, backend: Any, log: bool
) -> Iterator[_Slope]:
    """Check the arguments of `energy_gradient`; return a context with the gradient."""
    from ..sums import resolve

    as_attention(attention)
    tokens, log = as_tokens("x", x), flag("log", log)
    summing: Backend = backend_of(resolve(backend))
    cloud = widened(make_cloud(attention, tokens, summing, weights, positions))
    attention._check(cloud.x, t)
    shift = np.zeros(len(cloud.x))
    if log:
        if any(isinstance(term.head, Sinkhorn) for term in terms_of(attention)):
            raise InputError("log", "True", "False for Sinkhorn heads, whose energy may have either sign")
        asked = {"t": t, "weights": weights, "positions": positions, "backend": summing}
        shift += interaction_energy(attention, tokens.astype(np.float64), **asked, log=True) + np.log(2.0)
        if not np.isfinite(shift).all():
            raise InputError("log", "True", "False for an energy that is not positive")
    with summing.evaluation(), np.errstate(over="ignore", invalid="ignore"):
        force = attention._energy_force(cloud, float(t), summing, shift)
        if not np.isfinite(force.field).all():
            remedy = "The logarithm does not overflow: log=True."
            raise InputError("x", "tokens whose energy has a gradient that overflows", "smaller scores", remedy)
        yield _Slope(tokens, force, masses_of(cloud), log)
