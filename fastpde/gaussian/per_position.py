"""Masked attention on a Gaussian per position: mu = sum_s theta_s delta_s (x) N(mean_s, S_s) (Theory 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array, as_positions, as_weights
from ..attention.base import Attention
from ..attention.cloud import Visibility
from ..errors import InputError
from ..laws.gaussian import Gaussian
from .closure_field import LawField


class MaskedField(LawField):
    """The field of states (P, d, 1 + d), mean and columns of L of each position: y_s' = M(s) y_s.

    M(s) is determined by the second moment that position s sees. This is sum_{tau <= s} theta_tau
    (S_tau + mean_tau mean_tau^T), or sum_{tau <= s} theta_tau y_tau y_tau^T.

    Args:
        attention: masked, with a field M x that depends on second moments alone.
        weights: (P,) the masses theta.
        visibility: which positions each position sees.
    """

    def __init__(self, attention: Attention, weights: Array, visibility: Visibility) -> None:
        super().__init__(attention)
        self._weights, self._seen = weights, visibility

    def __call__(self, t: float, y: Array, out: Array) -> None:
        moments = self._weights[:, None, None] * (y @ np.swapaxes(y, -1, -2))
        order = slice(None) if self._seen.order is None else self._seen.order
        seen = np.empty_like(moments)
        seen[order] = np.cumsum(moments[order], axis=0)[self._seen.limits - 1]
        np.matmul(self.attention._second_moment_map(seen, t), y, out=out)


def positions_of(start: Gaussian, weights: Any, positions: Any) -> tuple[Array, Visibility]:
    """Check weights and positions; return the masses (P,) and which positions each one sees.

    Raises InputError, InputTypeError.
    """
    shape = start.mean.shape
    if len(shape) != 2:
        raise InputError("x0", repr(start), "a Gaussian per position, means (P, d), as the attention is masked")
    masses = as_weights(weights, shape)
    order = np.arange(shape[0]) if positions is None else as_positions("positions", positions, shape[0])
    return (np.full(shape[0], 1.0 / shape[0]) if masses is None else masses[0]), Visibility.of(order)


def identical(start: Gaussian) -> bool:
    """Return whether all positions have one law.

    theta (x) N(mean, S) keeps this form where attention averages (Theory 2.2).
    """
    return bool(np.all(start.mean == start.mean[0]) and np.all(start.cov == start.cov[0]))
