"""GeomLoss: potentials of `SamplesLoss("sinkhorn")`.

It lowers the regularisation by a factor `scaling` per iteration and ends where it has arrived: it has no tolerance, and
its error falls slowly as the factor goes to 1.
"""

from __future__ import annotations

import math

import torch
from geomloss import SamplesLoss

from ..larger import Scaling
from ..tuning import Tuned, tuned
from ..work import Array

LADDER = (0.5, 0.9, 0.99)


def call(work: Scaling) -> Tuned:
    """Prepare a piece of work with the largest step of the regularisation that reaches its error."""
    x = torch.from_numpy(work.tokens)
    blur = math.sqrt(work.reg / 2)

    def velocity(scaling: float) -> Array:
        solve = SamplesLoss(
            "sinkhorn", p=2, blur=blur, scaling=scaling, debias=False, potentials=True, backend="tensorized"
        )
        with torch.inference_mode():
            _, g = solve(x, x)
            score = (g.view(1, -1) - torch.cdist(x, x).square() / 2) / blur**2
            found: Array = (torch.softmax(score, dim=1) @ x / work.eps).numpy()
            return found

    return tuned(work, "scaling", LADDER, lambda scaling: lambda: velocity(scaling), patience=10.0)
