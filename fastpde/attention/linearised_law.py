"""Derivatives of the affine field that a Gaussian law makes, in the law and in the parameters.

A `LinearisedLaw` is the field x -> M x + c at one law or several, ready to be differentiated: one head's follows from
its map (`gaussian_maps`) and its score, sums of heads from those of their parts. Source: Theory 12.4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..errors import InputError
from ..solutions import brief
from .gaussian_maps import Changes, GaussianMap
from .linearised_sinkhorn import Scaled
from .parameters import column
from .score import Score
from .small_matrices import times, transposed


@dataclass(frozen=True)
class GaussianPullback:
    """The gradient of <of_M, M> + <of_c, c> for the affine field of a Gaussian law, returned by `gaussian_vjp`.

    Attributes:
        M, c: (..., length, d) and (..., length), the field itself.
        mean: (..., d), with respect to the mean.
        cov: (..., d, d), with respect to the covariance; symmetric, also for changes that raise its rank.
        parameters: name -> array of the shape of the parameter's value, names as of `Pullback`. A batch is summed over
            systems that share a value.
    """

    M: Array
    c: Array
    mean: Array
    cov: Array
    parameters: dict[str, Array]

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class PulledLaw:
    """The gradient of <of_M, M> + <of_c, c> for each of B laws.

    Attributes:
        mean: (B, d).
        cov: (B, d, d), symmetric.
        parameters: name -> (B, ...).
    """

    mean: Array
    cov: Array
    parameters: dict[str, Array]


class LinearisedLaw(ABC):
    """The field of B Gaussian laws, ready for its derivatives.

    Attributes:
        M: (B, length, d).
        c: (B, length).
    """

    M: Array
    c: Array

    @abstractmethod
    def push(self, dmean: Array, dcov: Array, parameters: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return the changes of M and c, given those of the mean (B, d), the covariance and some parameters."""

    @abstractmethod
    def pull(self, of_M: Array, of_c: Array) -> PulledLaw:
        """Return the gradient of <of_M, M> + <of_c, c>, of_M (B, length, d) and of_c (B, length)."""


class LinearisedLawOfHead(LinearisedLaw):
    """The field V (N x + b) of a head.

    Args:
        score: of the head; only its Q, K, V and scale are changed.
        law: N and b at B laws.
        pull_score: returns the cotangents of parameters by name, given those of the fields of the score; None: these.
        plain: the names of the parameters that the score has as they are, which may be changed; None: all.
    """

    def __init__(
        self,
        score: Score,
        law: GaussianMap,
        pull_score: Callable[[dict[str, Array]], dict[str, Array]] | None = None,
        plain: Sequence[str] | None = None,
    ) -> None:
        self._score, self._law, self._pull_score, self._plain = score, law, pull_score, plain
        self.M, self.c = score.V @ law.N, times(score.V, law.b)

    def push(self, dmean: Array, dcov: Array, parameters: Mapping[str, Array]) -> tuple[Array, Array]:
        score, law = self._score, self._law
        if self._plain is not None and (other := set(parameters) - set(self._plain)):
            need = f"changes of {', '.join(self._plain)}: the derivative of the score in others is not known"
            raise InputError("parameters", repr(min(other)), need)
        dA, dD = self._changes_of_score(parameters)
        dN, db = law.push(Changes(dmean, dcov, dA, dD))
        dM, dc = score.V @ dN, times(score.V, db)
        dV = parameters.get("V")
        return (dM, dc) if dV is None else (dM + dV @ law.N, dc + times(dV, law.b))

    def pull(self, of_M: Array, of_c: Array) -> PulledLaw:
        law, back = self._law, transposed(self._score.V)
        found = law.pull(back @ of_M, times(back, of_c))
        of_V = of_M @ transposed(law.N) + of_c[..., :, None] * law.b[..., None, :]
        assert found.A is not None, "every map has a score matrix"
        parameters = {**self._of_score(found.A, found.D), "V": of_V}
        return PulledLaw(found.mean, found.S, parameters if self._pull_score is None else self._pull_score(parameters))

    def _changes_of_score(self, parameters: Mapping[str, Array]) -> tuple[Array | None, Array | None]:
        """Return the changes of A = f scale K^T Q, f = 2 of distances and else 1, and of D = scale K^T K."""
        score, (Q, K) = self._score, (self._score.Q, self._score.K)
        dQ, dK, dscale = (parameters.get(name) for name in ("Q", "K", "scale"))
        if dQ is None and dK is None and dscale is None:
            return None, None
        dQ, dK = (np.zeros_like(M) if dM is None else dM for M, dM in ((Q, dQ), (K, dK)))
        dscale = column(np.zeros(()) if dscale is None else np.asarray(dscale))
        dA = column(score.scale) * (transposed(dK) @ Q + transposed(K) @ dQ) + dscale * (transposed(K) @ Q)
        if not score.distance:
            return dA, None
        dA = 2.0 * dA
        bent = column(score.scale) * transposed(dK) @ K
        return dA, bent + transposed(bent) + dscale * (transposed(K) @ K)

    def _of_score(self, of_A: Array, of_D: Array | None) -> dict[str, Array]:
        """Return the cotangents of Q, K and scale."""
        score, (Q, K) = self._score, (self._score.Q, self._score.K)
        plain = 2.0 if score.distance else 1.0
        factor = plain * column(score.scale)
        dQ, dK = factor * (K @ of_A), factor * (Q @ transposed(of_A))
        dscale = plain * np.sum(of_A * (transposed(K) @ Q), axis=(-2, -1))
        if of_D is not None:
            dK = dK + column(score.scale) * (K @ (of_D + transposed(of_D)))
            dscale = dscale + np.sum(of_D * (transposed(K) @ K), axis=(-2, -1))
        return {"Q": dQ, "K": dK, "scale": dscale}


class LinearisedLawOfSinkhorn(LinearisedLaw):
    """The field of a Sinkhorn head, that of a head with scale / eps and V / eps."""

    def __init__(self, scaled: Scaled, law: GaussianMap) -> None:
        self._scaled, self._head = scaled, LinearisedLawOfHead(scaled.score, law)
        self.M, self.c = self._head.M, self._head.c

    def push(self, dmean: Array, dcov: Array, parameters: Mapping[str, Array]) -> tuple[Array, Array]:
        return self._head.push(dmean, dcov, self._scaled.changes(parameters))

    def pull(self, of_M: Array, of_c: Array) -> PulledLaw:
        found = self._head.pull(of_M, of_c)
        return PulledLaw(found.mean, found.cov, self._scaled.parameters(found.parameters))


class LinearisedLawOfHeads(LinearisedLaw):
    """A sum of fields, each behind a matrix W_h (length, dv) or (B, length, dv), or all without.

    The names of parameters are "heads[h].NAME"; the matrices are W, (B, H, length, dv), or W[h].
    """

    def __init__(self, parts: Sequence[LinearisedLaw], outputs: Sequence[Array] | None, *, stacked: bool) -> None:
        self._parts, self._outputs, self._stacked = parts, outputs, stacked
        self.M = np.asarray(sum(self._matrix(h) @ part.M for h, part in enumerate(parts)))
        self.c = np.asarray(sum(times(self._matrix(h), part.c) for h, part in enumerate(parts)))

    def push(self, dmean: Array, dcov: Array, parameters: Mapping[str, Array]) -> tuple[Array, Array]:
        dM, dc = np.zeros_like(self.M), np.zeros_like(self.c)
        for h, part in enumerate(self._parts):
            prefix = f"heads[{h}]."
            own = {name.removeprefix(prefix): v for name, v in parameters.items() if name.startswith(prefix)}
            M, c = part.push(dmean, dcov, own)
            dM, dc = dM + self._matrix(h) @ M, dc + times(self._matrix(h), c)
            dW = parameters["W"][..., h, :, :] if "W" in parameters else parameters.get(f"W[{h}]")
            if dW is not None:
                dM, dc = dM + dW @ part.M, dc + times(dW, part.c)
        return dM, dc

    def pull(self, of_M: Array, of_c: Array) -> PulledLaw:
        mean: Array | float = 0.0
        cov: Array | float = 0.0
        parameters: dict[str, Array] = {}
        of_outputs: list[Array] = []
        for h, part in enumerate(self._parts):
            back = transposed(self._matrix(h))
            one = part.pull(back @ of_M, times(back, of_c))
            mean, cov = mean + one.mean, cov + one.cov
            parameters |= {f"heads[{h}].{name}": value for name, value in one.parameters.items()}
            of_outputs.append(of_M @ transposed(part.M) + of_c[..., :, None] * part.c[..., None, :])
        if self._stacked:
            parameters["W"] = np.stack(of_outputs, axis=1)
        elif self._outputs is not None:
            parameters.update({f"W[{h}]": one for h, one in enumerate(of_outputs)})
        return PulledLaw(np.asarray(mean), np.asarray(cov), parameters)

    def _matrix(self, h: int) -> Array:
        return np.eye(self._parts[h].M.shape[-2]) if self._outputs is None else self._outputs[h]
