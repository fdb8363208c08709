"""Derivatives of Sinkhorn attention with converged potentials, by implicit differentiation.

At a point the field is that of an average with the potential g as a bias, so its derivatives are those of such a head
once g's are known. With P_ij = w_j kappa_ij, P' its transpose in L^2(w) and t the change of the scores, potentials obey

    df = -P (t + dg),      dg = -P' (t + df)      (P and P' of what stands at pairs),

so (I - P P') df = -rho + P gamma with rho = P t, gamma = P' t. P P' is self-adjoint and nonnegative in L^2(w); its
kernel are the constants. Source: Theory 12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import FieldError
from .cloud import Cloud
from .derivatives import WEIGHTS, Linearised, Pulled
from .linearised_head import LinearisedHead
from .score import Score

if TYPE_CHECKING:
    from ..sums.backend import Backend

_MOST = 1000  # iterations of the conjugate gradients


class LinearisedSinkhorn(Linearised):
    """The field of a Sinkhorn head.

    Args:
        score: with scale / eps and V / eps.
        eps, scale: () or (B,), of which these were made; V likewise.
        g: (B, n), the potential of the score as `LinearisedHead` forms it.
        tol: relative residual of the conjugate gradients.
    """

    def __init__(
        self, score: Score, plain: Score, eps: Array, cloud: Cloud, g: Array, tol: float, backend: Backend
    ) -> None:
        self._plain, self._eps, self._tol, self._cloud = plain, eps, tol, cloud
        self._tokens = LinearisedHead(score, cloud.with_(at=None), backend, g)
        self._head = self._tokens if cloud.at is None else LinearisedHead(score, cloud, backend, g)
        n = cloud.x.shape[1]
        masses = np.full((1, n), 1.0 / n) if cloud.weights is None else cloud.weights
        self._w = np.broadcast_to(masses, cloud.x.shape[:2])
        self.field = self._head.field

    def push(self, dx: Array, dat: Array) -> Array:
        rho, gamma = self._tokens.score_changes(dx, self._w)
        df = self._solve(-rho + self._rows(gamma))
        return self._head.push(dx, dat, -self._columns(df) - gamma)

    def jacobian(self) -> Array:
        return self._head.jacobian()

    def divergence(self) -> Array:
        return self._head.divergence()

    def pull(self, cotangent: Array) -> Pulled:
        """Return the cotangents of an average with the bias g, and those that come by way of g."""
        of_bias, found = self._head.pull_with_bias(cotangent)
        h = self._solve(self._rows(of_bias / self._w))
        back = self._columns(h)
        k = back + of_bias / self._w
        by_g = self._tokens.pull_scores(self._w * h, -self._w, k)
        both = Pulled(found.x + by_g.x, found.at, dict(found.parameters))
        for name in ("Q", "K", "scale"):
            both.parameters[name] = found.parameters[name] + by_g.parameters[name]
        both.parameters[WEIGHTS] = found.parameters[WEIGHTS] + back - self._rows(k)
        return replace(both, parameters=self._of_eps(both.parameters))

    def _of_eps(self, found: dict[str, Array]) -> dict[str, Array]:
        """Return the cotangents of V, scale and eps, given those of V / eps and scale / eps."""
        eps = np.broadcast_to(self._eps, found["scale"].shape)
        of_V = np.einsum("bij,bij->b", found["V"], np.broadcast_to(self._plain.V, found["V"].shape))
        of_eps = -(found["scale"] * self._plain.scale + of_V) / eps**2
        return found | {"V": found["V"] / eps[:, None, None], "scale": found["scale"] / eps, "eps": of_eps}

    # -- the linear equations of the potentials -----------------------------------------------------------------------

    def _rows(self, h: Array) -> Array:
        """Return P h (B, n)."""
        return self._tokens.average(h)

    def _columns(self, h: Array) -> Array:
        """Return P' h (B, n)."""
        return self._tokens.average_over_targets(self._w * h) / self._w

    def _solve(self, right: Array) -> Array:
        """Solve (I - P P') f = right, both of mean zero in L^2(w), by conjugate gradients, each system for itself.

        Raises FieldError if they do not converge: then the potentials are not determined by the tokens.
        """
        mean = lambda v: (self._w * v).sum(axis=1, keepdims=True)  # noqa: E731
        dot: Callable[[Array, Array], Array] = lambda u, v: mean(u * v)  # noqa: E731
        residual = right - mean(right)
        found, along, size = np.zeros_like(residual), residual.copy(), dot(residual, residual)
        goal = self._tol**2 * size
        for _ in range(_MOST):
            if (size <= goal).all():
                return found
            image = along - self._rows(self._columns(along))
            image -= mean(image)
            step = np.where(size > goal, size / np.where(size > goal, dot(along, image), 1.0), 0.0)
            found += step * along
            residual -= step * image
            before, size = size, dot(residual, residual)
            along = residual + np.where(before > 0.0, size / np.where(before > 0.0, before, 1.0), 0.0) * along
        raise FieldError(
            f"The derivative of the potentials was not found in {_MOST} iterations of conjugate gradients. "
            "A larger eps couples tokens more strongly."
        )
