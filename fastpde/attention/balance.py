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
    operands = score.operands(cloud, backend, None)
    with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
        if score.normalised:  # by averages, which are numbers where all weights of a token are too small for one
            field, logs = np.empty(cloud.x.shape), np.empty(cloud.x.shape[:2])
            backend.attend(score.pair(cloud, operands, cloud.x, True), field, logs)
            totals = np.exp(logs)
            pulls = totals[:, :, None] * field
        else:
            values = np.concatenate([np.ones((*cloud.x.shape[:2], 1)), cloud.x], axis=2)
            out = np.empty(values.shape)
            backend.attend(score.pair(cloud, operands, values, False), out)
            totals, field = out[:, :, 0], out[:, :, 1:]
            pulls = field
        return Balance(0.5 * cloud.mean(totals), pulls @ score.matrix, field @ transposed(score.V))
