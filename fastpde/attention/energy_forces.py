"""Gradients of energies as fields of heads, whose derivatives are then those of any head (Theory 7, 12.2).

The energy of a head is 1/2 sum_ij w_i w_j w(s_ij) of a score s(x, y) = <A x, y>. Its gradient in x_l is w_l F_l with

    F_l = 1/2 sum_j w_j w'(s_lj) A^T x_j + 1/2 sum_i w_i w'(s_il) A x_i,

two unnormalised heads with the weight w', the second one with Q and K exchanged and, under a mask, the mask read
backwards. They are the same without a mask if A is symmetric. A Sinkhorn energy has the plan for w'(s), and -1 for 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from .cloud import Cloud, Visibility
from .derivatives import Linearised, LinearisedHeads, LinearisedMask
from .linearised_head import LinearisedHead
from .parameters import column
from .score import Score
from .small_matrices import transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend

_ROUNDING = 2.0**-50


def of_score(score: Score, cloud: Cloud, backend: Backend, shift: Array, masked: bool) -> Linearised:
    """Return F (B, n, d) of the energy of one head times e^-shift, shift (B,). The cloud is in float64.

    Raises InputError for scores of distances or positions, and weights without a second derivative.
    """
    if score.distance or score.positional:
        need = "the score scale <Qx, Ky>: derivatives of energies of distances or positions are not known"
        raise InputError("attention", "another score", need)
    if weights.is_exponential(score.weight):
        score, factor = replace(score, bias=score.bias - shift), np.full(1, 0.5)
    else:
        factor = 0.5 * np.exp(-shift)
    slope = _slope(score.weight)
    first = replace(score, weight=slope, normalised=False)
    return _both(first, cloud, factor, masked, lambda own, seen: _head(own, seen, backend, masked))


def of_plan(score: Score, cloud: Cloud, make: Callable[[Score], Linearised]) -> Linearised:
    """Return F (B, n, d) of a Sinkhorn energy; `make` gives the field of a score, divided by eps."""
    return _both(score, cloud, np.full(1, -1.0), False, lambda own, seen: make(own))


def _both(
    score: Score, cloud: Cloud, factor: Array, masked: bool, make: Callable[[Score, Cloud], Linearised]
) -> Linearised:
    """Return factor (1,) or (B,) times the sum of the field with V = A^T and of that of the exchanged score."""
    A, factor = score.matrix, column(factor) if len(factor) > 1 else factor[0]
    same = not masked and bool((np.abs(A - transposed(A)) <= _ROUNDING * np.abs(A).max()).all())
    if same:
        return make(replace(score, V=2.0 * factor * A), cloud)
    turned = replace(score, Q=score.K, K=score.Q, V=factor * A)
    parts = [make(replace(score, V=factor * transposed(A)), cloud)]
    parts.append(make(turned, _backwards(cloud) if masked else cloud))
    return LinearisedHeads(parts, None, stacked=False)


def _head(score: Score, cloud: Cloud, backend: Backend, masked: bool) -> Linearised:
    if not masked:
        return LinearisedHead(score, cloud, backend)
    seen = cloud.ordered(backend)  # in memory that the next cloud gets, too
    masses = None if seen.weights is None else seen.weights.copy()
    return LinearisedMask(LinearisedHead(score, seen.with_(x=seen.x.copy(), weights=masses), backend), cloud)


def _backwards(cloud: Cloud) -> Cloud:
    """Return a cloud under a mask in which every token is seen by those that it has seen."""
    places = np.unique(cloud.token_positions, return_inverse=True)[1]
    return cloud.with_(visibility=Visibility.of(-places), positions=-places)


def _slope(weight: Any) -> Any:
    """Return w' of a weight, with a derivative of its own. Raises InputError where that is not known."""
    if weights.is_exponential(weight):
        return weight
    if isinstance(weight, weights.Sigmoid):
        return _of_sigmoid()
    if isinstance(weight, weights.Linear):
        return _of_linear()
    need = "a weight whose second derivative is known, as that of fp.Softmax, fp.Sigmoid or fp.Linear"
    raise InputError("weight", repr(weight), need)


@cache
def _of_sigmoid() -> weights.Weight:
    def slope(s):  # type: ignore[no-untyped-def]
        small = np.exp(-abs(s))
        return small / ((1.0 + small) * (1.0 + small))

    def bend(s):  # type: ignore[no-untyped-def]
        small = np.exp(-abs(s))
        size = small * (1.0 - small) / ((1.0 + small) * (1.0 + small) * (1.0 + small))
        return -size if s > 0.0 else size

    return weights.Weight(slope, bend)


@cache
def _of_linear() -> weights.Weight:
    def slope(s):  # type: ignore[no-untyped-def]
        return 1.0 + 0.0 * s

    def bend(s):  # type: ignore[no-untyped-def]
        return 0.0 * s

    return weights.Weight(slope, bend)
