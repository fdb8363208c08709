"""The canonical score of a head, and the pair sums that follow from it.

A head is the field Gamma(x) = V int y w(s(x, y)) dmu(y), divided by int w(s(x, y)) dmu(y) if it is normalised, and

    s(x, y) = scale <Q x, K y> + bias        or, of distances,        s(x, y) = -scale |Q x - K y|^2 + bias.

The product is taken over R^k, or over R^d as <A x, y> with A = scale K^T Q, whichever is smaller. Averages by w = exp
do not change if a number is added to all scores of a target: keys are then centred about the mean token c, and


    -scale |Q x - K y|^2 = 2 scale <Q x - K c, K (y - c)> - scale |K (y - c)|^2 - scale |Q x - K c|^2,

of which the last term cancels. So scores keep their digits far from the origin.

A score may depend on the positions p, q of target and key: scale <R(p) Q x, R(q) K y> + bias + b(q). What the position
of a target alone adds to its scores cancels in averages by w = exp; sums cannot have it.

What else a head has is derived from the same record: Gaussian closures (`gaussian_field`), bounds (`rates`), energies
(`balance`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import weights
from .._types import Array
from ..batches.reduced_form import SAFE
from ..errors import InputError
from ..sums.pair_sum import PairSum
from .cloud import Cloud
from .parameters import column
from .small_matrices import apply, gram, is_identity, over_largest, product, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend

_NO_EXPONENT = 10**6  # beyond any
_MANY = 4  # tokens for each coordinate
_FAR = 2.0**300  # three such factors, and sums of them, are numbers of double precision


@dataclass(frozen=True)
class Operands:
    """Scores of a cloud as products: score = <target, key> + bias."""

    targets: Array  # (B, m, r)
    keys: Array  # (B, n, r)
    bias: Array | None = None  # (B, n)


@dataclass(frozen=True)
class Score:
    """One head at one time. Every array may have a leading axis of B systems."""

    Q: Array  # (k, d)
    K: Array  # (k, d)
    V: Array  # (dv, d)
    scale: Array  # ()
    weight: Any  # see `weights`
    normalised: bool
    bias: Array = field(default_factory=lambda: np.zeros(()))  # ()
    distance: bool = False
    # Of scores that depend on positions p (n,): matrices (n, k, k) that multiply Qx and Ky, and a bias (n,) of keys.
    turn: Callable[[Array], Array] | None = None
    bias_at: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        if self.turn is not None and self.distance:
            raise InputError("attention", "distances of keys that are turned by position", "the score <Qx, Ky>")
        plain = not (self.distance or self.positional or self.bias.any())
        if isinstance(self.weight, weights.Linear) and (self.normalised or not plain):
            came = "a linear weight that is normalised, of distances, by position or with a bias"
            raise InputError("attention", came, "sums of w(s) = s, which are made of moments")

    @cached_property
    def matrix(self) -> Array:
        """A (d, d) of the product scale <Q x, K y> = <A x, y>: scale K^T Q."""
        return column(self.scale) * product(transposed(self.K), self.Q)

    @cached_property
    def linear(self) -> Array:
        """(d, d), what multiplies x in the part of the score that is linear in y: A, or 2 A of distances."""
        return 2.0 * self.matrix if self.distance else self.matrix

    @cached_property
    def curvature(self) -> Array | None:
        """D (d, d) of the part -<y, D y> of the score: scale K^T K of distances, else None."""
        return column(self.scale) * product(transposed(self.K), self.K) if self.distance else None

    @property
    def positional(self) -> bool:
        """Whether the score depends on the positions of tokens."""
        return self.turn is not None or self.bias_at is not None

    @property
    def shifts(self) -> bool:
        """Whether a number may be added to all scores of a target, as averages by w = exp allow."""
        return self.normalised and weights.is_exponential(self.weight)

    @cached_property
    def has_matrix(self) -> bool:
        """Whether A is within the range of single precision, which all tokens may have."""
        return self._representable(np.dtype(np.float32))

    def keys_are_tokens(self, dtype: np.dtype[Any]) -> bool:
        """Return whether products are taken over R^d, with the (centred) tokens as keys."""
        k, d = self.Q.shape[-2:]
        return k >= d and self.turn is None and self._representable(dtype)

    def _representable(self, dtype: np.dtype[Any]) -> bool:
        """Return whether all of scale K^T Q is far within the range of a precision, in every system and pair of
        coordinates: in tiny or huge units a score is, and the matrix that makes it of two tokens is not."""
        least, most = (np.frexp(np.abs(self.scale))[1] for _ in range(2))
        for M in (self.Q, self.K):
            columns = np.abs(M).max(axis=-2)
            exponents, some = np.frexp(columns)[1], (columns > 0.0).any(axis=-1)
            least = least + np.where(some, np.where(columns > 0.0, exponents, _NO_EXPONENT).min(axis=-1), 0)
            most = most + np.where(some, np.where(columns > 0.0, exponents, -_NO_EXPONENT).max(axis=-1), 0)
        reach = SAFE * np.finfo(dtype).maxexp
        return bool((least >= -reach).all() and (most <= reach).all())

    def values(self, x: Array, y: Array) -> Array:
        """Return the scores (m, n) of points x (m, d) and y (n, d), of one system."""
        moved, keys = x @ self.Q.T, y @ self.K.T
        if not self.distance:
            return np.asarray(self.scale * (moved @ keys.T) + self.bias)
        return np.asarray(self.bias - self.scale * ((moved[:, None] - keys) ** 2).sum(axis=2))

    # -- sums over a cloud --------------------------------------------------------------------------------------------

    def evaluate(self, cloud: Cloud, backend: Backend, out: Array) -> None:
        """Write the field at the targets into out (B, m, dv)."""
        linear = isinstance(self.weight, weights.Linear) and cloud.limits is None
        many = cloud.partition.n >= _MANY * cloud.x.shape[2]  # else the products of small matrices take longer
        if not (linear and many and self.keys_are_tokens(cloud.x.dtype)):
            self._sum(cloud, backend, out)
            return
        whole, fits = self._linear_map(cloud, backend)
        with np.errstate(over="ignore", invalid="ignore"):
            backend.project(cloud.targets, whole, out)
            fits &= np.isfinite(out.reshape(len(out), -1).sum(axis=1))  # no partial sum was too large, either
        fits = cloud.partition.largest((~fits).astype(np.float64)) == 0.0  # all processes do the same
        if not fits.all():
            found = out[fits]
            self._sum(cloud, backend, out)
            out[fits] = found

    def _sum(self, cloud: Cloud, backend: Backend, out: Array) -> None:
        """Write the field as V applied to a sum of tokens, or a sum of V applied to tokens."""
        V, centre = self.V, backend.centre(cloud.x) if self.normalised else None
        operands = self.operands(cloud, backend, centre)
        rows, d = V.shape[-2:]
        # V is applied to the mean token where that is no longer; a sum may overflow, and 0 inf would be nan.
        late = self.normalised and rows >= d
        values: Array | None = None
        if not (late and self._values_are_keys(operands, cloud)):
            values = backend.workspace("values", (*cloud.x.shape[:2], d if late else rows), cloud.x.dtype)
            backend.project(cloud.x, None if late else V, values, origin=centre)
        shift = None if centre is None else apply(backend, V, centre)
        if not late:
            backend.attend(self.pair(cloud, operands, values, self.normalised), out)
            if shift is not None:
                out += shift[:, None, :].astype(out.dtype)
            return
        # A map of vectors of one length may overwrite them.
        mean = out if rows == d else backend.workspace("means", (*out.shape[:2], d), out.dtype)
        backend.attend(self.pair(cloud, operands, values, self.normalised), mean)
        backend.project(mean, V, out, shift=shift)

    def _linear_map(self, cloud: Cloud, backend: Backend) -> tuple[Array, Array]:
        """Return V M A (B, dv, d) of a linear weight, with the second moment M = int y y^T dmu(y), and in which systems
        it may be used (B,): where all factors are far within the range of numbers, and no product has lost digits.

        M is made of the sums for the unit vectors.
        """
        systems, _, d = cloud.x.shape
        units = np.broadcast_to(np.eye(d), (systems, d, d)).copy()
        M, MA, whole = np.empty_like(units), np.empty_like(units), np.empty((systems, d, self.V.shape[-2]))
        A = column(self.scale) * gram(backend, self.K, self.Q)
        with np.errstate(over="ignore", invalid="ignore"):
            backend.attend(PairSum(self.weight, False, units, cloud.x, masses=cloud.weights), M)
            backend.project(M, transposed(A), MA)
            backend.project(np.ascontiguousarray(transposed(MA)), self.V, whole)
        squares, of = np.einsum("bii->bi", M).copy(), np.finfo(cloud.x.dtype)
        if not squares.all():  # because no token has these coordinates, or because they are too small
            there = cloud.partition.largest((cloud.x != 0.0).any(axis=1).astype(np.float64)) > 0.0
            squares[there & (squares == 0.0)] = np.nan
        fits = _within(squares[:, None], 1.0 / _FAR, _FAR) & _within(whole, of.tiny, of.max)
        return transposed(whole), fits & _within(A, 1.0 / _FAR, _FAR) & _within(self.V, 1.0 / _FAR, _FAR)

    def _values_are_keys(self, operands: Operands, cloud: Cloud) -> bool:
        """Return whether keys are the tokens less their mean."""
        d = cloud.x.shape[2]
        return self.shifts and operands.keys.shape[2] == d and self.keys_are_tokens(cloud.x.dtype)

    def log_totals(self, cloud: Cloud, backend: Backend) -> Array:
        """Return log int w(s(x, y)) dmu(y) at the targets, (B, m), of positive weights."""
        operands = self.operands(cloud, backend, None)
        out = np.empty((*cloud.targets.shape[:2], 0), cloud.x.dtype)
        totals, nothing = np.empty(out.shape[:2]), np.empty((*cloud.x.shape[:2], 0), cloud.x.dtype)
        backend.attend(self.pair(cloud, operands, nothing, False, "totals"), out, totals)
        return totals + self._left_out(cloud, backend) if self.distance and self.shifts else totals

    def totals(self, cloud: Cloud, backend: Backend) -> Array:
        """Return int w(s(x, y)) dmu(y) at the targets, (B, m) float64, of weights of any sign."""
        operands = self.operands(cloud, backend, None)
        ones = np.ones((*cloud.x.shape[:2], 1), cloud.x.dtype)
        out = np.empty((*cloud.targets.shape[:2], 1), cloud.x.dtype)
        backend.attend(self.pair(cloud, operands, ones, False), out)
        return out[..., 0].astype(np.float64)

    def pair(
        self, cloud: Cloud, operands: Operands, values: Array | None, normalised: bool, kind: str = "field"
    ) -> PairSum:
        """Return the sum of values over a cloud, see `pair_sum`."""
        return pair_sum(self.weight, normalised, cloud, operands, values, kind)

    def operands(self, cloud: Cloud, backend: Backend, centre: Array | None) -> Operands:
        """Return the scores of a cloud as products, in the backend's memory until the next call.

        Keys move by `centre` (B, d) where the sum allows it.
        """
        if self.distance:
            return self._of_distances(cloud, backend, centre)
        own = self.keys_are_tokens(cloud.x.dtype)
        target_map = column(self.scale) * (gram(backend, self.K, self.Q) if own else self.Q)
        r, dtype = target_map.shape[-2], cloud.x.dtype
        targets, keys = cloud.targets, backend.workspace("keys", (*cloud.x.shape[:2], r), dtype)
        if self.turn is not None or not is_identity(target_map):
            targets = backend.workspace("scaled_targets", (*targets.shape[:2], r), dtype)
            backend.project(cloud.targets, target_map, targets)
        moved = centre if self.shifts and self.turn is None else None
        backend.project(cloud.x, None if own else self.K, keys, origin=moved)
        if self.turn is not None:
            for vectors, places in ((targets, cloud.target_positions), (keys, cloud.token_positions)):
                turns = _of_positions("turn", self.turn(places), (len(places), r, r))
                vectors[...] = np.einsum("nij,bnj->bni", turns, vectors)
        if not (self.bias.any() or self.bias_at):
            return Operands(targets, keys)
        bias = backend.workspace("bias", cloud.x.shape[:2], dtype)
        bias[...] = np.broadcast_to(self.bias.reshape(-1, 1), bias.shape)
        return Operands(targets, keys, self._placed(bias, cloud))

    def _placed(self, bias: Array, cloud: Cloud) -> Array:
        """Return the bias of the keys (B, n) with that of their positions."""
        if self.bias_at is not None:
            places = cloud.token_positions
            bias += _of_positions("bias_at", self.bias_at(places), (len(places),))
        return bias

    def _of_distances(self, cloud: Cloud, backend: Backend, centre: Array | None) -> Operands:
        """Return the operands of distances. What belongs to a target alone is one more coordinate where it counts."""
        Q, K, scale = self.Q, self.K, column(self.scale)
        centre = backend.centre(cloud.x) if centre is None else centre
        origin, gap = self._about(cloud, centre, backend)
        offset = 2 * scale.reshape(-1, 1) * gap
        target_map, own = 2 * scale * Q, self.keys_are_tokens(cloud.x.dtype)
        if own:
            offset, target_map = apply(backend, transposed(K), offset), gram(backend, K, target_map)
        r, dtype = target_map.shape[-2], cloud.x.dtype
        targets = backend.workspace("scaled_targets", (*cloud.targets.shape[:2], r), dtype)
        keys = backend.workspace("keys", (*cloud.x.shape[:2], r), dtype)
        backend.project(cloud.targets, target_map, targets, origin=origin, shift=offset)
        backend.project(cloud.x, None if own else K, keys, origin=centre)
        moved = keys
        if own:
            moved = backend.workspace("moved", (*cloud.x.shape[:2], K.shape[-2]), dtype)
            backend.project(cloud.x, K, moved, origin=centre)
        bias = backend.workspace("bias", cloud.x.shape[:2], dtype)
        np.einsum("bnk,bnk->bn", moved, moved, out=bias)
        bias *= -scale.reshape(-1, 1).astype(dtype)
        if self.bias.any():
            bias += self.bias.reshape(-1, 1).astype(dtype)
        bias = self._placed(bias, cloud)
        if self.shifts:
            return Operands(targets, keys, bias)
        rest = self._left_out(cloud, backend)[:, :, None].astype(dtype)
        ones = np.ones((*keys.shape[:2], 1), dtype)
        return Operands(np.concatenate([targets, rest], axis=2), np.concatenate([keys, ones], axis=2), bias)

    def _left_out(self, cloud: Cloud, backend: Backend) -> Array:
        """Return -scale |Q x - K c|^2 (B, m), the part of distances that belongs to a target alone."""
        centre = backend.centre(cloud.x)
        moved = np.empty((*cloud.targets.shape[:2], self.Q.shape[-2]))
        targets = cloud.targets.astype(np.float64)
        origin, gap = self._about(cloud, centre, backend)
        backend.project(targets, self.Q, moved, origin=origin, shift=gap)
        return -self.scale.reshape(-1, 1) * np.einsum("bmk,bmk->bm", moved, moved)

    def _about(self, cloud: Cloud, centre: Array, backend: Backend) -> tuple[Array, Array]:
        """Return o (B, d) and Qo - Kc (B, k), such that Qx - Kc = Q(x - o) + (Qo - Kc) loses few digits.

        o = c serves clouds far from the origin with Q = K. For points that are not the tokens, o is zero where that
        makes smaller numbers.
        """
        Q, K = self.Q, self.K
        gap = apply(backend, Q - K, centre)
        if cloud.at is None:
            return centre, gap
        far = apply(backend, K, centre)
        ends = np.stack([cloud.at.min(axis=1), cloud.at.max(axis=1)]).astype(np.float64)
        reach, moved = (
            apply(backend, np.abs(Q), np.abs(points).max(axis=0)).max(axis=1) for points in (ends, ends - centre)
        )
        plain = reach + np.abs(far).max(axis=1) < 0.5 * (moved + np.abs(gap).max(axis=1))
        return np.where(plain[:, None], 0.0, centre), np.where(plain[:, None], -far, gap)

    # -- symmetry -----------------------------------------------------------------------------------------------------

    @property
    def direction(self) -> Array:
        """A up to a positive factor, (d, d): it is a number in any unit."""
        return np.sign(column(self.scale)) * product(transposed(over_largest(self.K)), over_largest(self.Q))

    @property
    def is_symmetric(self) -> bool:
        """Whether A is symmetric to rounding, whether or not it is too large or small a number."""
        A = product(transposed(over_largest(self.K)), over_largest(self.Q))
        difference, size = (np.abs(M).max(axis=(-2, -1)) for M in (A - transposed(A), A))
        return bool((difference <= 1e-12 * size).all())

    def work_sign(self) -> int:
        """Return the sign of <A m, V m> for every m, A symmetric: 1, -1, or 0 where it has none.

        V = B A with B > 0 has the sign 1, V = -B A the sign -1.
        """
        if not self.is_symmetric:
            return 0
        whole = transposed(self.direction) @ over_largest(self.V)
        values = np.linalg.eigvalsh(whole + transposed(whole))
        slack = 1e-12 * np.abs(values).max()
        return int(np.all(values >= -slack)) - int(np.all(values <= slack))


def _within(numbers: Array, least: float, most: float) -> Array:
    """Return whether the sizes of all numbers (..., p, q) of a matrix but zeros are in a range, (...)."""
    size = np.abs(numbers)
    return np.asarray(((size == 0.0) | (size >= least) & (size <= most)).all(axis=(-2, -1)))


def _of_positions(name: str, found: Any, shape: tuple[int, ...]) -> Array:
    """Return what a function of positions has returned. Raises InputError for another shape."""
    values = np.asarray(found)
    if values.shape != shape:
        raise InputError("attention", f"{name} that returns shape {values.shape}", f"shape {shape}")
    return values


def pair_sum(
    weight: Any, normalised: bool, cloud: Cloud, operands: Operands, values: Array | None, kind: str = "field"
) -> PairSum:
    """Return the sum that a backend is asked for; values: None: the keys; kind: which one of those of an evaluation."""
    history = None if cloud.memory is None else cloud.memory.history(kind, len(cloud.x))
    return PairSum(
        weight, normalised, operands.targets, operands.keys, values, operands.bias, cloud.weights, cloud.limits,
        history=history,
    )  # fmt: skip
