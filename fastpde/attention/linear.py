"""Linear attention."""

from __future__ import annotations

from .. import weights
from .single_head import SingleHead


class Linear(SingleHead):
    """Gamma_mu(x) = V int y s(x,y) dmu(y) = V M2 A x, M2 = int y y^T dmu(y), A = scale K^T Q. Costs O(n).

    Source: Theory 1.1; Castin et al. 2025.
    """

    weight = weights.Linear()
    normalised = False
