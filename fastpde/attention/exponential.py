"""Unnormalised exponential attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import NoGaussianClosure
from ..laws import ExpLaw
from .base import Balance, Cloud
from .closure import Affine, times, transposed
from .pairwise import PairwiseAttention
from .rates import Rate, norm

if TYPE_CHECKING:
    from ..backends.base import Backend
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

    def energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """The gradient is A int y e^{s(x, y)} dmu(y)."""
        energy, _, pulls = exponential_sums(self, cloud, t, backend)
        with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
            return Balance(energy, pulls @ self.symmetric_score_matrix(t), pulls @ transposed(self.V(t)))

    def energy_trend(self, t: float) -> int:
        return self.work_sign(t)

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """v e^{a R^2} (1 + 2 a R^2), every p; |Gamma| <= v R e^{a R^2}."""
        a = norm(self.score_matrix(t))
        yield Rate.of(norm(self.V(t), W), p, xi=2.0 * a, b=a)

    def tilt(self) -> Tilt | None:
        return self.plain_tilt()


def exponential_sums(
    attention: PairwiseAttention, cloud: Cloud, t: float, backend: Backend
) -> tuple[Array, Array, Array]:
    """1/2 iint e^s dmu dmu (B,), int e^{s(x, y)} dmu(y) and int y e^{s(x, y)} dmu(y) at the tokens, in one sum."""
    values = np.concatenate([np.ones((*cloud.x.shape[:2], 1)), cloud.x], axis=2)
    scores, out = attention.scores(cloud, t, backend, None), np.empty(values.shape)
    backend.attend(attention.pair(cloud, scores, values, False), out)
    totals, pulls = out[:, :, 0], out[:, :, 1:]
    with np.errstate(over="ignore"):
        energy = 0.5 * cloud.mean(totals)
    return energy, totals, pulls
