"""Softmax attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..laws import ExpLaw
from .base import Balance
from .closure import Affine, tilted, transposed
from .exponential import exponential_sums
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

    def energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """The gradient is A Z(x) times the average, Z the total weight: V = +-B A has the twisted dissipation."""
        energy, totals, pulls = exponential_sums(self, cloud, t, backend)
        with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
            field = pulls / totals[:, :, None] @ transposed(self.V(t))
            return Balance(energy, pulls @ self.symmetric_score_matrix(t), field)

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
