"""Softmax attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._types import Array
from ..laws import ExpLaw
from .closure import Affine, tilted
from .pairwise import PairwiseAttention

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.tilt import Tilt


class Softmax(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y) / int e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = True

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """M = V S A, c = V mean."""
        return tilted(self.score_matrix(t), None, self.V(t), mean, factor)

    def affine_heads(self) -> AffineHeads | None:
        return self.one_affine_head("tilt", self.score_matrix)

    def tilt(self) -> Tilt | None:
        return self.plain_tilt()
