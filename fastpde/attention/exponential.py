"""Unnormalised exponential attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import NoGaussianClosure
from ..laws import ExpLaw
from .closure import Affine, times, transposed
from .pairwise import PairwiseAttention

if TYPE_CHECKING:
    from ..backends.tilt import Tilt


class Exponential(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>; inf where that exceeds the dtype.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = False

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        raise NoGaussianClosure(
            "Exponential attention is not affine for a Gaussian law: the law stops being Gaussian at once (MATH 2.3). "
            "Its velocity is known: gaussian_velocity. Softmax attention, its normalised form, has a closure."
        )

    def gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        """V (mean + S A x) e^{<Ax, mean> + <Ax, S A x> / 2}."""
        tilt = x @ transposed(self.score_matrix(t))
        seen = tilt @ factor
        exponent = times(tilt, mean) + 0.5 * np.sum(seen * seen, axis=-1)
        return (mean[..., None, :] + seen @ transposed(factor)) @ transposed(self.V(t)) * np.exp(exponent)[..., None]

    def tilt(self) -> Tilt | None:
        return self.plain_tilt()
