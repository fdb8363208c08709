"""Derivatives of Sinkhorn attention: of converged potentials implicitly, of a fixed number of half-iterations exactly.

At a point the field is that of an average with the potential g as a bias, so its derivatives are those of such a head
once g's are known. With P_ij = w_j kappa_ij, P' its transpose in L^2(w) and t the change of the scores, potentials obey

    df = -P (t + dg),      dg = -P' (t + df)      (P and P' of what stands at pairs),

so (I - P P') df = -rho + P gamma with rho = P t, gamma = P' t. P P' is self-adjoint and nonnegative in L^2(w); its
kernel are the constants. After l of a fixed number of steps the same holds with dg of the step before in the first
equation, and P' with columns divided by their sums. Source: Theory 12.1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import FieldError
from .cloud import Cloud
from .derivatives import WEIGHTS, Linearised, Pulled, masses_of
from .linearised_head import LinearisedHead
from .parameters import column
from .score import Score

if TYPE_CHECKING:
    from ..sums.backend import Backend

_MOST = 1000  # iterations of the conjugate gradients
_ROUNDING = 8 * 2.0**-52  # of a sum over tokens


@dataclass(frozen=True)
class Scaled:
    """The parameters of a Sinkhorn head, and its score as that of an average.

    Attributes:
        plain: the score with scale and V.
        score: the same with scale / eps and V / eps.
        eps: () or (B,).
    """

    plain: Score
    score: Score
    eps: Array

    @staticmethod
    def of(plain: Score, eps: Array) -> Scaled:
        """Return the parameters at one time."""
        return Scaled(plain, replace(plain, V=plain.V / column(eps), scale=np.asarray(plain.scale / eps)), eps)

    def changes(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Return the changes of Q, K, V / eps and scale / eps, given those of some parameters."""
        deps = np.asarray(given.get("eps", 0.0))
        dV, dscale = (np.asarray(given.get(name, 0.0)) for name in ("V", "scale"))
        found = {name: given[name] for name in ("Q", "K") if name in given}
        found["V"] = (dV - column(deps) * self.score.V) / column(self.eps)
        return found | {"scale": (dscale - deps * self.score.scale) / self.eps}

    def parameters(self, found: dict[str, Array]) -> dict[str, Array]:
        """Return the cotangents of V, scale and eps, given those of V / eps and scale / eps."""
        eps = np.broadcast_to(self.eps, found["scale"].shape)
        of_V = np.einsum("bij,bij->b", found["V"], np.broadcast_to(self.plain.V, found["V"].shape))
        of_eps = -(found["scale"] * self.plain.scale + of_V) / eps**2
        return found | {"V": found["V"] / eps[:, None, None], "scale": found["scale"] / eps, "eps": of_eps}


class _Potentials(Linearised):
    """A field that is an average with a potential g (B, n) as its bias; how g changes, a subclass says."""

    def __init__(self, scaled: Scaled, cloud: Cloud, g: Array, backend: Backend) -> None:
        self._scaled = scaled
        self._tokens = LinearisedHead(scaled.score, cloud.with_(at=None), backend, g)
        self._head = self._tokens if cloud.at is None else LinearisedHead(scaled.score, cloud, backend, g)
        self._w = masses_of(cloud)

    @property
    def field(self) -> Array:
        return self._head.field

    @abstractmethod
    def _change(self, dx: Array) -> Array:
        """Return the change of g (B, n) when tokens move by dx."""

    @abstractmethod
    def _pull_potential(self, of_g: Array) -> Iterator[Pulled]:
        """Yield what changes of the tokens, of Q, K, scale and of the masses do by way of g, given what g does."""

    def push(self, dx: Array, dat: Array) -> Array:
        return self._head.push(dx, dat, self._change(dx))

    def jacobian(self) -> Array:
        return self._head.jacobian()

    def divergence(self) -> Array:
        return self._head.divergence()

    def pull(self, cotangent: Array) -> Pulled:
        of_g, found = self._head.pull_with_bias(cotangent)
        for one in self._pull_potential(of_g):
            added = {name: found.parameters[name] + value for name, value in one.parameters.items()}
            found = Pulled(found.x + one.x, found.at, found.parameters | added)
        return replace(found, parameters=self._scaled.parameters(found.parameters))


class LinearisedSinkhorn(_Potentials):
    """The field of a Sinkhorn head with converged potentials.

    Args:
        scaled: its parameters.
        cloud: in float64.
        g: (B, n), the potential of the score as `LinearisedHead` forms it.
        tol: relative residual of the conjugate gradients.
    """

    def __init__(self, scaled: Scaled, cloud: Cloud, g: Array, tol: float, backend: Backend) -> None:
        super().__init__(scaled, cloud, g, backend)
        self._tol = tol

    def _change(self, dx: Array) -> Array:
        rho = self._tokens.row_changes(dx)
        gamma = self._tokens.changes_over_targets(dx, self._w) / self._w
        df = self._solve(-rho + self._rows(gamma))
        return -self._columns(df) - gamma

    def _pull_potential(self, of_g: Array) -> Iterator[Pulled]:
        h = self._solve(self._rows(of_g / self._w))
        back = self._columns(h)
        k = back + of_g / self._w
        found = self._tokens.pull_scores(self._w * h, -k, columns=False)
        yield replace(found, parameters=found.parameters | {WEIGHTS: back - self._rows(k)})

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
        total = self._tokens.cloud.partition.sum
        mean = lambda v: total(self._w * v)[:, None]  # noqa: E731
        dot: Callable[[Array, Array], Array] = lambda u, v: mean(u * v)  # noqa: E731
        residual = right - mean(right)
        found, along, size = np.zeros_like(residual), residual.copy(), dot(residual, residual)
        # What the mean leaves of a constant is rounding: of tokens in one place.
        goal = np.maximum(self._tol**2 * size, _ROUNDING**2 * dot(right, right))
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


class LinearisedHalfSteps(_Potentials):
    """The field of a Sinkhorn head with an odd number of half-iterations, from g = 0.

    Args:
        scaled, cloud: as of `LinearisedSinkhorn`.
        n_half: the number.
    """

    def __init__(self, scaled: Scaled, cloud: Cloud, n_half: int, backend: Backend) -> None:
        g = np.zeros(cloud.x.shape[:2])
        self._steps: list[LinearisedHead] = []  # the rows of each step
        for _ in range(n_half // 2):
            rows = LinearisedHead(scaled.score, cloud.with_(at=None), backend, g)
            self._steps.append(rows)
            g = g - rows.column_logs
        super().__init__(scaled, cloud, g, backend)

    def _change(self, dx: Array) -> Array:
        dg = np.zeros(dx.shape[:2])
        for rows in self._steps:
            df = -(rows.row_changes(dx) + rows.average(dg))
            dg = -(rows.column_changes(dx) + rows.column_average(df))
        return dg

    def _pull_potential(self, of_g: Array) -> Iterator[Pulled]:
        for rows in reversed(self._steps):
            of_f = -rows.column_average_back(of_g)
            found = rows.pull_scores(-of_f, -of_g, columns=True)
            of_g = -rows.average_over_targets(of_f)
            yield replace(found, parameters=found.parameters | {WEIGHTS: (of_f + of_g) / self._w})
