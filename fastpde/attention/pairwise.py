"""What variants that sum over pairs share: parameters, and the reduction to the smallest sum with the same value.

The score scale <Qx, Ky> = <A x, y>, A = scale K^T Q, is taken over R^k or over R^d, whichever is smaller; likewise the
values V y, or y with V applied to the sum. Normalised sums are invariant when keys move by a constant and shift with
their values, so both are centred: scores keep their digits far from the origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Array
from ..errors import InputError
from .base import Attention, Cloud
from .closure import transposed
from .parameters import Parameter, Value, column, matrix, scalar

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.base import Backend, PairSum
    from ..backends.tilt import Tilt


_NO_EXPONENT = 10**6  # beyond any
_SAFE = 0.75  # of the exponents of a precision: sums over coordinates, and small entries, have the rest


@dataclass(frozen=True)
class Scores:
    """Targets (B, m, r), keys (B, n, r) and bias (B, n) or None: score = <target, key> + bias."""

    targets: Array
    keys: Array
    bias: Array | None = None


class PairwiseAttention(Attention):
    """Attention int weight(s(x, y)) V y dmu(y), divided by int weight(s(x, y)) dmu(y) if normalised."""

    law: Any
    normalised: bool

    def __init__(self, Q: Value, K: Value, V: Value, scale: Value = 1.0) -> None:
        """Q, K (k, d); V (d, d), in a head of MultiHead (dv, d); scale a number. Each may be one value for all systems,
        one per system (leading axis B), a function of time, or `Layers`.

        Raises InputError, InputTypeError: for shapes that do not fit and numbers that are not finite.
        """
        self.Q, self.K, self.V = matrix("Q", Q), matrix("K", K), matrix("V", V)
        self.scale = scalar("scale", scale)
        if all(p.constant for p in self.parameters()):
            self.dimensions(0.0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(_describe(p) for p in self.parameters())})"

    @property
    def averages(self) -> bool:
        return self.normalised

    def parameters(self) -> Iterator[Parameter]:
        yield from (self.Q, self.K, self.V, self.scale)

    def dimensions(self, t: float) -> tuple[int, int]:
        Q, K, V = self.Q(t), self.K(t), self.V(t)
        if K.shape[-2:] != Q.shape[-2:]:
            raise InputError("K", f"shape {K.shape}", f"rows and columns as Q, {Q.shape[-2:]}")
        if V.shape[-1] != Q.shape[-1]:
            raise InputError("V", f"shape {V.shape}", f"{Q.shape[-1]} columns, as Q")
        return Q.shape[-1], V.shape[-2]

    def evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        V = self.V(t)
        centre = backend.centre(cloud.x) if self.normalised else None
        scores = self.scores(cloud, t, backend, centre)
        rows, d = V.shape[-2:]
        # V is applied to the mean token where that is no longer; a sum may overflow, and 0 inf would be nan.
        late = self.normalised and rows >= d
        if late and scores.keys.shape[2] == d and self.keys_are_tokens(t, cloud.x.dtype):
            values = scores.keys
        else:
            values = backend.take("values", (*cloud.x.shape[:2], d if late else rows), cloud.x.dtype)
            backend.project(cloud.x, None if late else V, values, origin=centre)
        shift = None if centre is None else apply(backend, V, centre)
        if not late:
            backend.attend(self.pair(cloud, scores, values, self.normalised), out)
            if shift is not None:
                out += shift[:, None, :].astype(out.dtype)
            return
        mean = backend.take("means", (*out.shape[:2], d), out.dtype)
        backend.attend(self.pair(cloud, scores, values, self.normalised), mean)
        backend.project(mean, V, out, shift=shift)

    def score_matrix(self, t: float) -> Array:
        """A (d, d) or (B, d, d) of the score s(x, y) = <y, A x>: scale K^T Q."""
        return column(self.scale(t)) * product(transposed(self.K(t)), self.Q(t))

    def has_score_matrix(self, t: float) -> bool:
        """Whether A is within the range of single precision, which all tokens may have."""
        return representable(np.dtype(np.float32), self.Q(t), self.K(t), self.scale(t))

    def score_matrices(self, t: float) -> Iterator[Array]:
        yield self.score_matrix(t)

    def symmetric_score_matrix(self, t: float) -> Array:
        """A, symmetric to rounding. Raises InputError where it is not."""
        self.check_symmetry(t)
        return self.score_matrix(t)

    def check_symmetry(self, t: float) -> None:
        """Raises InputError where A is not symmetric to rounding, whether or not it is too large or small a number."""
        A = product(transposed(over_largest(self.K(t))), over_largest(self.Q(t)))
        difference, size = (np.abs(M).max(axis=(-2, -1)) for M in (A - transposed(A), A))
        if (difference > 1e-12 * size).any():
            raise InputError("attention", repr(self), "Q^T K symmetric: there is no energy balance otherwise (MATH 7)")

    def work_sign(self, t: float) -> int:
        """The sign of <A m, V m> for every m, A symmetric: 1, -1, or 0 where it has none, or parameters are in motion.

        V = B A with B > 0 has the sign 1, V = -B A the sign -1.
        """
        if not all(p.constant for p in self.parameters()):
            return 0
        A = np.sign(column(self.scale(t))) * product(transposed(over_largest(self.K(t))), over_largest(self.Q(t)))
        try:
            self.check_symmetry(t)
        except InputError:
            return 0
        product_matrix = transposed(A) @ over_largest(self.V(t))
        values = np.linalg.eigvalsh(product_matrix + transposed(product_matrix))
        slack = 1e-12 * np.abs(values).max()
        return int(np.all(values >= -slack)) - int(np.all(values <= slack))

    def plain_tilt(self, bias: Array | float = 0.0) -> Tilt | None:
        """The reduced form of scores scale <Qx, Ky> + bias; None where a parameter is a function of time."""
        from ..backends.tilt import Tilt

        if not (all(p.constant for p in self.parameters()) and self.has_score_matrix(0.0)):
            return None
        A = one_head(self.score_matrix(0.0))
        return Tilt(self.law, self.normalised, A, A, one_head(self.V(0.0)), np.reshape(bias, (-1, 1)))

    def one_affine_head(
        self,
        kind: str,
        A: Callable[[float], Array],
        *,
        D: Callable[[float], Array] | None = None,
        unit: Parameter | None = None,
        count: int = 0,
    ) -> AffineHeads | None:
        """One head of a form of `backends.affine`, A and V divided by `unit`; None where a parameter varies."""
        from ..backends.affine import AffineHeads

        if not all(p.constant for p in self.parameters()):
            return None
        scale = 1.0 if unit is None else column(unit(0.0))
        bend = None if D is None else one_head(D(0.0))
        return AffineHeads((kind,), (count,), one_head(A(0.0) / scale), one_head(self.V(0.0) / scale), bend)

    def masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        for logs in self.log_masses(cloud, t, backend):
            with np.errstate(over="ignore"):
                yield np.exp(logs)

    def log_masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        scores = self.scores(cloud, t, backend, None)
        values = np.empty((*cloud.x.shape[:2], 0), cloud.x.dtype)
        out = np.empty((*cloud.targets.shape[:2], 0), cloud.x.dtype)
        total = np.empty(out.shape[:2])
        backend.attend(self.pair(cloud, scores, values, False, "masses"), out, total)
        yield total + self.log_offset(cloud, t, backend)

    def log_offset(self, cloud: Cloud, t: float, backend: Backend) -> Array | float:
        """Log of what `scores` leaves out of a target's weights, (B, m)."""
        return 0.0

    def pair(self, cloud: Cloud, scores: Scores, values: Array, normalised: bool, kind: str = "field") -> PairSum:
        """The sum a backend is asked for; kind: which one of those of an evaluation."""
        from ..backends.base import PairSum

        history = None if cloud.memory is None else cloud.memory.history(kind, len(cloud.x))
        return PairSum(
            self.law, normalised, scores.targets, scores.keys, values, scores.bias, cloud.weights, cloud.limits,
            history=history,
        )  # fmt: skip

    def keys_are_tokens(self, t: float, dtype: np.dtype[Any]) -> bool:
        """Whether scores are taken over R^d, with the (centred) tokens as keys."""
        k, d = self.Q(t).shape[-2:]
        return k >= d and representable(dtype, self.Q(t), self.K(t), self.scale(t))

    def scores(self, cloud: Cloud, t: float, backend: Backend, centre: Array | None) -> Scores:
        """Targets and keys of s(x, y) = scale <Qx, Ky>."""
        Q, K, scale = self.Q(t), self.K(t), column(self.scale(t))
        if self.keys_are_tokens(t, cloud.x.dtype):
            return self.project(cloud, backend, scale * gram(backend, K, Q), None, centre)
        return self.project(cloud, backend, scale * Q, K, centre)

    def project(
        self, cloud: Cloud, backend: Backend, target_map: Array, key_map: Array | None, centre: Array | None
    ) -> Scores:
        """Scores <target_map x, key_map (y - centre)>; key_map None: the identity."""
        r, dtype = target_map.shape[-2], cloud.x.dtype
        targets = backend.take("scaled_targets", (*cloud.targets.shape[:2], r), dtype)
        keys = backend.take("keys", (*cloud.x.shape[:2], r), dtype)
        backend.project(cloud.targets, target_map, targets)
        backend.project(cloud.x, key_map, keys, origin=centre)
        return Scores(targets, keys)


def representable(dtype: np.dtype[Any], Q: Array, K: Array, scale: Array) -> bool:
    """Whether all of scale K^T Q is far within the range of a precision, in every system and pair of coordinates: in
    tiny or huge units a score is, and the matrix that makes it of two tokens is not."""
    least, most = (np.frexp(np.abs(scale))[1] for _ in range(2))
    for M in (Q, K):
        columns = np.abs(M).max(axis=-2)
        exponents, some = np.frexp(columns)[1], (columns > 0.0).any(axis=-1)
        least = least + np.where(some, np.where(columns > 0.0, exponents, _NO_EXPONENT).min(axis=-1), 0)
        most = most + np.where(some, np.where(columns > 0.0, exponents, -_NO_EXPONENT).max(axis=-1), 0)
    reach = _SAFE * np.finfo(dtype).maxexp
    return bool((least >= -reach).all() and (most <= reach).all())


def apply(backend: Backend, matrix: Array, vectors: Array) -> Array:
    """matrix[b] vectors[b], (B, q), without BLAS, whose bits may depend on the number of threads."""
    out = np.empty((len(vectors), 1, matrix.shape[-2]))
    backend.project(vectors[:, None, :], matrix, out)
    return out[:, 0]


def product(left: Array, right: Array) -> Array:
    """left right for matrices, or one of each system, without BLAS."""
    return np.einsum("...ij,...jk->...ik", left, right)


def over_largest(matrix: Array) -> Array:
    """A matrix over its largest entry, or one of each system: products of such are numbers."""
    largest = np.abs(matrix).max(axis=(-2, -1), keepdims=True)
    return matrix / np.where(largest > 0.0, largest, 1.0)


def one_head(matrix: Array) -> Array:
    """A matrix, or one of each system, as (1 or B, 1, rows, columns)."""
    return matrix.reshape(-1, 1, *matrix.shape[-2:])


def gram(backend: Backend, K: Array, Q: Array) -> Array:
    """K^T Q, (d, d) or (B, d, d), in the same way."""
    rows, columns = np.swapaxes(K, -1, -2), np.swapaxes(Q, -1, -2)
    systems = max(Q.shape[0] if Q.ndim == 3 else 1, K.shape[0] if K.ndim == 3 else 1)
    out = np.empty((systems, rows.shape[-2], columns.shape[-2]))
    backend.project(np.broadcast_to(rows, (systems, *rows.shape[-2:])).copy(), columns, out)
    return out if max(Q.ndim, K.ndim) == 3 else out[0]


def _describe(p: Parameter) -> str:
    value = p.source
    if callable(value):
        return f"{p.name}={getattr(value, '__name__', type(value).__name__)}"
    return f"{p.name}={value.item()}" if value.ndim == 0 else f"{p.name}{value.shape}"
