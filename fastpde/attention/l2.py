"""L2 attention."""

from __future__ import annotations

from dataclasses import replace

from .. import weights
from .score import Score
from .single_head import SingleHead


class L2(SingleHead):
    """Gamma_mu(x) = V int y e^{-scale |Qx-Ky|^2} dmu(y) / int e^{-scale |Qx-Ky|^2} dmu(y).

    Source: Theory 1.1; Castin et al. 2025.
    """

    weight = weights.Exp()
    normalised = True

    def score(self, t: float) -> Score:
        return replace(super().score(t), distance=True)
