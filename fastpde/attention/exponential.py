"""Unnormalised exponential attention."""

from __future__ import annotations

from ..laws import ExpLaw
from .pairwise import PairwiseAttention


class Exponential(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>; inf where that exceeds the dtype.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = False
