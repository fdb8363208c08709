"""The linear maps from tokens to the operands of a score, targets and keys, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..parallel.partition import Undivided
from .cloud import Cloud
from .derivatives import through
from .parameters import column
from .score import Score
from .small_matrices import product, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend


class OperandMaps:
    """Changes of tokens as changes of a score's targets and keys, and cotangents of these as those of tokens.

    Args:
        score, cloud, backend: as of `LinearisedHead`.
        centre: (B, d), what the keys are taken about.
    """

    def __init__(self, score: Score, cloud: Cloud, backend: Backend, centre: Array) -> None:
        self.score, self.cloud, self._backend, self._centre = score, cloud, backend, centre
        self.own = score.keys_are_tokens(cloud.x.dtype)  # whether keys are the tokens

    def through(self, matrix: Array, vectors: Array) -> Array:
        """Return matrix times vectors."""
        return through(self._backend, matrix, vectors)

    def matrices(self) -> tuple[Array, Array | None]:
        """Return the matrices that make targets and keys of tokens; None: keys are tokens."""
        score = self.score
        factor = column(score.scale) * (2.0 if score.distance else 1.0)
        if self.own:
            return factor * product(transposed(score.K), score.Q), None
        return factor * score.Q, score.K

    def of_targets(self, dat: Array) -> Array:
        """Return the change of the targets' operands."""
        found = self.through(self.matrices()[0], dat)
        return self.turned(found, self.cloud.target_positions) if self.score.turn else found

    def of_sources(self, dx: Array) -> tuple[Array, Array | None]:
        """Return the change of the keys, and of their biases (B, n, 1)."""
        right = self.matrices()[1]
        dy = dx if right is None else self.through(right, dx)
        if self.score.turn is not None:
            dy = self.turned(dy, self.cloud.token_positions)
        if not self.score.distance:
            return dy, None
        K, scale = self.score.K, self.score.scale.reshape(-1, 1)
        apart = self.through(K, self.cloud.x - self._centre[:, None])
        return dy, (-2.0 * scale * np.einsum("bnk,bnk->bn", apart, self.through(K, dx)))[:, :, None]

    def turned(self, vectors: Array, places: Array, *, back: bool = False) -> Array:
        assert self.score.turn is not None
        turns = self.score.turn(places)
        return np.einsum("nji,bnj->bni" if back else "nij,bnj->bni", turns, vectors)

    def pull_targets(self, of_targets: Array) -> Array:
        if self.score.turn is not None:
            of_targets = self.turned(of_targets, self.cloud.target_positions, back=True)
        return self.through(transposed(self.matrices()[0]), of_targets)

    def pull_sources(self, of_keys: Array, rho: Array) -> Array:
        right = self.matrices()[1]
        if self.score.turn is not None:
            of_keys = self.turned(of_keys, self.cloud.token_positions, back=True)
        found = of_keys.copy() if right is None else self.through(transposed(right), of_keys)
        if self.score.distance:
            K, scale = self.score.K, self.score.scale.reshape(-1, 1, 1)
            apart = self.through(K, self.cloud.x - self._centre[:, None])
            found -= 2.0 * scale * rho[:, :, None] * self.through(transposed(K), apart)
        return found

    def of_score(self, of_targets: Array, of_keys: Array, rho: Array) -> dict[str, Array]:
        """Return the cotangents of Q, K and scale."""
        score, cloud, moved = self.score, self.cloud, self.cloud.x - self._centre[:, None]
        Q, K, scale = score.Q, score.K, score.scale.reshape(-1, 1, 1)
        factor = (2.0 if score.distance else 1.0) * scale
        if score.turn is not None:
            of_targets = self.turned(of_targets, cloud.target_positions, back=True)
            of_keys = self.turned(of_keys, cloud.token_positions, back=True)
        raised = self.through(Q, cloud.targets)
        if score.distance:
            raised = raised - self.through(K, self._centre[:, None])
        lowered = self.through(K, of_targets) if self.own else of_targets
        dQ = factor * self._backend.outer(lowered, cloud.targets)
        dK = factor * self._backend.outer(raised, of_targets) if self.own else self._backend.outer(of_keys, moved)
        total = cloud.partition.sum if cloud.at is None else Undivided(raised.shape[1]).sum
        dscale = factor[:, 0, 0] / score.scale.reshape(-1) * total(np.einsum("bmi,bmi->bm", lowered, raised))
        if score.distance:
            second = self._backend.outer(rho[:, :, None] * moved, cloud.x)
            dK = dK - 2.0 * scale * product(K, second)
            dscale -= cloud.partition.sum(rho * (self.through(K, moved) ** 2).sum(axis=2))
        return {"Q": dQ, "K": dK, "scale": dscale}
