"""Softmax attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._types import Array
from ..laws import ExpLaw
from .closure import Affine, tilted
from .exponential import exponential_pull
from .pairwise import PairwiseAttention
from .rates import Rate, norm, spread

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.base import Backend
    from ..backends.tilt import Tilt
    from .base import Cloud


class Softmax(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y) / int e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = True

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """M = V S A, c = V mean."""
        return tilted(self.score_matrix(t), None, self.V(t), mean, factor)

    def energy_gradient(self, cloud: Cloud, t: float, backend: Backend) -> Array:
        """A int y e^{s(x, y)} dmu(y): Z(x) times a softmax average, so V = +-B A gives the twisted dissipation."""
        return exponential_pull(self, cloud, t, backend)

    def energy_trend(self, t: float) -> int:
        return self.work_sign(t)

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """v [a R^2 + (1 + c_p a R^2) e^{2 a R^2 / p}]."""
        a = norm(self.score_matrix(t))
        yield Rate.of(norm(self.V(t), W), p, xi=a, c=spread(p) * a, eta=2.0 * a, averages=True)

    def affine_heads(self) -> AffineHeads | None:
        return self.one_affine_head("tilt", self.score_matrix)

    def tilt(self) -> Tilt | None:
        return self.plain_tilt()
