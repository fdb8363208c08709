"""Softmax attention."""

from __future__ import annotations

from .. import weights
from .single_head import SingleHead


class Softmax(SingleHead):
    """Gamma_mu(x) = V int y e^{s(x,y)} dmu(y) / int e^{s(x,y)} dmu(y), s(x, y) = scale <Qx, Ky>.

    Source: Theory 1.1; Castin et al. 2025.
    """

    weight = weights.Exp()
    normalised = True
