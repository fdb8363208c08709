"""Unnormalised exponential attention."""

from __future__ import annotations

from .. import weights
from .single_head import SingleHead


class Exponential(SingleHead):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>; inf where that exceeds the dtype.

    Source: Theory 1.1; Castin et al. 2025.
    """

    weight = weights.Exp()
    normalised = False
