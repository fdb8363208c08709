"""Energies of heads, and what their rates of change are made of (Theory 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import weights
from .._types import Array
from .cloud import Cloud
from .score import Score
from .small_matrices import transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend


class Balance(NamedTuple):
    """The energy of each system (B,), the gradient of dE/dmu and the field at its tokens, (B, n, d), float64."""

    energy: Array
    gradient: Array
    field: Array


def has_energy(score: Score) -> bool:
    """Return whether the head moves along the interaction energy of e^{<A x, y>}, if A is symmetric."""
    return weights.is_exponential(score.weight) and not (score.distance or score.positional or score.bias.any())


def balance(score: Score, cloud: Cloud, backend: Backend) -> Balance:
    """Return E = 1/2 iint e^{s(x, y)} dmu dmu, its gradient A int y e^{s(x, y)} dmu(y), and the head's field.

    The field is V times that integral, divided by int e^{s(x, y)} dmu(y) if normalised. The head has an energy, and A
    is symmetric.
    """
    values = np.concatenate([np.ones((*cloud.x.shape[:2], 1)), cloud.x], axis=2)
    operands, out = score.operands(cloud, backend, None), np.empty(values.shape)
    backend.attend(score.pair(cloud, operands, values, False), out)
    totals, pulls = out[:, :, 0], out[:, :, 1:]
    with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
        field = (pulls / totals[:, :, None] if score.normalised else pulls) @ transposed(score.V)
        return Balance(0.5 * cloud.mean(totals), pulls @ score.matrix, field)
