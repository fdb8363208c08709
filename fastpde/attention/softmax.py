"""Softmax attention."""

from __future__ import annotations

from ..laws import ExpLaw
from .pairwise import PairwiseAttention


class Softmax(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y) / int e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = True
