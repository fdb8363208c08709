"""Linear attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..laws import LinearLaw
from .base import Attention, Cloud
from .closure import Affine, transposed
from .pairwise import PairwiseAttention
from .rates import Rate, norm

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.base import Backend


class Linear(PairwiseAttention):
    """Gamma_mu(x) = V int y s(x,y) dmu(y) = V M2 A x, M2 = int y y^T dmu(y), A = scale K^T Q. Costs O(n).

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = LinearLaw()
    normalised = False

    @property
    def mean_free(self) -> bool:
        return False

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """M = V (S + mean mean^T) A, c = 0."""
        second = factor @ transposed(factor) + mean[..., :, None] * mean[..., None, :]
        M = self.second_moment_map(second, t)
        return M, np.zeros(M.shape[:-1])

    def second_moment_map(self, second: Array, t: float) -> Array:
        return self.V(t) @ second @ self.score_matrix(t)

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """3 v a R^2, every p; |Gamma| <= v a R^3."""
        yield Rate.of(norm(self.V(t), W) * norm(self.score_matrix(t)), p, h=3.0, power=1)

    def affine_heads(self) -> AffineHeads | None:
        return self.one_affine_head("linear", self.score_matrix)

    def masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        scores = self.scores(cloud, t, backend, None)
        ones = np.ones((*cloud.x.shape[:2], 1), cloud.x.dtype)
        out = np.empty((*cloud.targets.shape[:2], 1), cloud.x.dtype)
        backend.attend(self.pair(cloud, scores, ones, False), out)
        yield out[..., 0].astype(np.float64)

    def log_masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        return Attention.log_masses(self, cloud, t, backend)  # weights have any sign: they have no logarithms to sum
