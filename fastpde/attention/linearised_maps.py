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
        K, scale = score.K, score.scale.reshape(-1, 1, 1)
        found = self._of_own(of_targets, moved) if self.own else self._of_others(of_targets, of_keys, moved)
        if score.distance:
            second = self._backend.outer(rho[:, :, None] * moved, cloud.x)
            found["K"] = found["K"] - 2.0 * scale * product(K, second)
            found["scale"] = found["scale"] - cloud.partition.sum(rho * (self.through(K, moved) ** 2).sum(axis=2))
        return found

    def _of_own(self, of_targets: Array, moved: Array) -> dict[str, Array]:
        """Return the cotangents where keys are tokens, about a centre: all follow from the matrix sum_i u_i x_i^T."""
        score, cloud, (Q, K) = self.score, self.cloud, (self.score.Q, self.score.K)
        if not score.distance:
            A = self._backend.outer(of_targets, cloud.targets)
            raised = product(Q, transposed(A))
        else:  # Qx - Kc = Q(x - c) + (Q - K)c loses few digits
            centre = self._centre[:, None]
            points = moved if cloud.at is None else cloud.targets - centre
            both = self._backend.outer(of_targets, np.concatenate([points, np.ones_like(points[:, :, :1])], axis=2))
            about, total = both[:, :, :-1], both[:, :, -1:]
            A = about + total * centre
            raised = product(Q, transposed(about)) + transposed(product(total, self.through(Q - K, centre)))
        return self._scaled({"Q": product(K, A), "K": raised}, (K * raised).sum(axis=(1, 2)))

    def _of_others(self, of_targets: Array, of_keys: Array, moved: Array) -> dict[str, Array]:
        """Return the cotangents where keys are Kx, about a centre."""
        score, cloud = self.score, self.cloud
        if score.turn is not None:
            of_targets = self.turned(of_targets, cloud.target_positions, back=True)
            of_keys = self.turned(of_keys, cloud.token_positions, back=True)
        raised = self.through(score.Q, cloud.targets)
        if score.distance:
            raised = raised - self.through(score.K, self._centre[:, None])
        total = cloud.partition.sum if cloud.at is None else Undivided(raised.shape[1]).sum
        along = total(np.einsum("bmi,bmi->bm", of_targets, raised))
        found = self._scaled({"Q": self._backend.outer(of_targets, cloud.targets)}, along)
        return found | {"K": self._backend.outer(of_keys, moved)}

    def _scaled(self, found: dict[str, Array], of_scale: Array) -> dict[str, Array]:
        """Return the cotangents of matrices and of the scale, given those for the score over scale, or half of it."""
        factor = 2.0 if self.score.distance else 1.0
        scaled = {name: factor * self.score.scale.reshape(-1, 1, 1) * matrix for name, matrix in found.items()}
        return scaled | {"scale": factor * of_scale}
