"""Gradients of energies as fields of heads, whose derivatives are then those of any head (Theory 7, 12.5).

The energy of a head is 1/2 sum_ij w_i w_j w(s_ij) of a score s(x, y) = <A x, y>. Its gradient in x_l is w_l F_l with

    F_l = 1/2 sum_j w_j w'(s_lj) A^T x_j + 1/2 sum_i w_i w'(s_il) A x_i,

two unnormalised heads with the weight w', the second one with Q and K exchanged and, under a mask, the mask read
backwards. They are the same without a mask if A is symmetric. A Sinkhorn energy has the plan for w'(s), and -1 for 1/2.
Scores of distances are such products of longer tokens (x, -scale |Qx|^2, -scale |Kx|^2, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from .cloud import Cloud, Visibility
from .derivatives import Linearised, LinearisedMask
from .linearised_head import LinearisedHead
from .parameters import column
from .score import Score
from .small_matrices import product, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend

_ROUNDING = 2.0**-50


@dataclass(frozen=True)
class Force:
    """F (B, n, d) of an energy at the tokens of a cloud, and its change when tokens move by dx (B, n, d)."""

    field: Array
    push: Callable[[Array], Array]

    @staticmethod
    def of(parts: Sequence[Linearised | Force]) -> Force:
        """Return the sum of fields and forces."""

        def push(dx: Array) -> Array:
            return np.sum([one.push(dx) if isinstance(one, Force) else one.push(dx, dx) for one in parts], axis=0)

        return Force(np.sum([one.field for one in parts], axis=0), push)


def of_score(score: Score, cloud: Cloud, backend: Backend, shift: Array, masked: bool) -> Force:
    """Return the force of the energy of one head times e^-shift, shift (B,). The cloud is in float64.

    Raises InputError for scores that depend on positions, and weights without a second derivative.
    """
    if score.positional:
        need = "a score that does not depend on positions: derivatives of other energies are not known"
        raise InputError("attention", "a score that depends on positions", need)
    if score.distance:
        return _of_distances(score, cloud, backend, shift, masked)
    if weights.is_exponential(score.weight):
        score, factor = replace(score, bias=score.bias - shift), np.full(1, 0.5)
    else:
        factor = 0.5 * np.exp(-shift)
    slope = _slope(score.weight)
    first = replace(score, weight=slope, normalised=False)
    return _both(first, cloud, factor, masked, lambda own, seen: _head(own, seen, backend, masked))


def of_plan(score: Score, cloud: Cloud, make: Callable[[Score], Linearised]) -> Force:
    """Return the force of a Sinkhorn energy; `make` gives int V y kappa dmu(y) for the kernel of a score."""
    return _both(score, cloud, np.full(1, -1.0), False, lambda own, seen: make(own))


def _both(score: Score, cloud: Cloud, factor: Array, masked: bool, make: Callable[[Score, Cloud], Linearised]) -> Force:
    """Return factor (1,) or (B,) times the sum of the field with V = A^T and of that of the exchanged score."""
    A, factor = score.matrix, column(factor) if len(factor) > 1 else factor[0]
    same = not masked and bool((np.abs(A - transposed(A)) <= _ROUNDING * np.abs(A).max()).all())
    if same:
        return Force.of([make(replace(score, V=2.0 * factor * A), cloud)])
    turned = replace(score, Q=score.K, K=score.Q, V=factor * A)
    parts = [make(replace(score, V=factor * transposed(A)), cloud)]
    parts.append(make(turned, _backwards(cloud) if masked else cloud))
    return Force.of(parts)


def _head(score: Score, cloud: Cloud, backend: Backend, masked: bool) -> Linearised:
    if not masked:
        return LinearisedHead(score, cloud, backend)
    seen = cloud.ordered(backend)  # in memory that the next cloud gets, too
    masses = None if seen.weights is None else seen.weights.copy()
    return LinearisedMask(LinearisedHead(score, seen.with_(x=seen.x.copy(), weights=masses), backend), cloud)


def _of_distances(score: Score, cloud: Cloud, backend: Backend, shift: Array, masked: bool) -> Force:
    """Return the force of -scale |Qx - Ky|^2 = 2 scale <Qx' + g, Ky'> + a(x) + b(y), about the mean token c.

    x' = x - c, g = (Q - K) c, a = -scale |Qx' + g|^2 and b = -scale |Kx'|^2: a product of the tokens (x', a, b, 1).
    """
    Q, K, scale = score.Q, score.K, score.scale.reshape(-1, 1, 1)
    centre = backend.centre(cloud.x)[:, None]
    gap, moved = centre @ transposed(Q - K), cloud.x - centre
    z, y = moved @ transposed(Q) + gap, moved @ transposed(K)
    squares = [-scale * np.einsum("bnk,bnk->bn", v, v)[:, :, None] for v in (z, y)]
    longer = cloud.with_(x=np.concatenate([moved, *squares, np.ones_like(squares[0])], axis=2))
    systems, (k, d) = len(moved), Q.shape[-2:]
    longQ, longK = np.zeros((2, systems, k + 2, d + 3))
    longQ[:, :k, :d], longQ[:, :k, -1] = 2.0 * scale * Q, 2.0 * scale[:, :, 0] * gap[:, 0]
    longK[:, :k, :d] = K
    longQ[:, k, d] = longQ[:, k + 1, -1] = longK[:, k, -1] = longK[:, k + 1, d + 1] = 1.0
    plain = replace(score, Q=longQ, K=longK, V=np.zeros((d + 3, d + 3)), scale=np.ones(()), distance=False)
    force = of_score(plain, longer, backend, shift, masked)
    slopes = [-2.0 * scale * (v @ M) for M, v in ((Q, z), (K, y))]  # of a and b
    bends = [-2.0 * scale * product(transposed(M), M) for M in (Q, K)]

    def lowered(f: Array) -> Array:
        return f[:, :, :d] + f[:, :, d : d + 1] * slopes[0] + f[:, :, d + 1 : d + 2] * slopes[1]

    def push(dx: Array) -> Array:
        along = [np.einsum("bnd,bnd->bn", slope, dx)[:, :, None] for slope in slopes]
        change = lowered(force.push(np.concatenate([dx, *along, np.zeros_like(along[0])], axis=2)))
        for i, bend in enumerate(bends):
            change += force.field[:, :, d + i, None] * (dx @ bend)
        return change

    return Force(lowered(force.field), push)


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
