"""Derivatives of the field of one head, from the same record as its sums: tangents, cotangents, Jacobians.

With p_ij the weight of source j at target i, divided by the total if the head is normalised, p'_ij the same of the
derivative w' of its weight function, v_j the values and t_ij the change of the score, the field changes by

    sum_j p_ij dv_j + sum_j p'_ij (t_ij - tbar_i) v_j,      tbar_i = sum_j p'_ij t_ij if normalised, else 0,

and everything else follows from sums of two kinds, over sources and, for cotangents, over targets: `plain`, of p times
columns, and `second`, of p' times a second score <a_i, b_j> times columns. Source: Theory 12.1.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from ..sums.pair_sum import PairSum
from .cloud import Cloud
from .derivatives import WEIGHTS, Linearised, Pulled, masses_of, through
from .parameters import column
from .score import Score
from .small_matrices import product, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend

_COLUMNS = 256  # of one sum: more are made in several


class _Sums:
    """Sums over one index of p and p' for every value of the other.

    Args:
        pair: the sum with the weight w; its values are replaced.
        scaled: (B, n, 1), what columns are multiplied by; None: nothing.
        after: (B, m, 1), what results are multiplied by; None: nothing.
        backwards: whether the indices of the pair, of `scaled` and of `after` run from last to first.
    """

    def __init__(
        self,
        backend: Backend,
        pair: PairSum,
        scaled: Array | None = None,
        after: Array | None = None,
        *,
        backwards: bool = False,
    ) -> None:
        self._backend, self._pair, self._scaled, self._after = backend, pair, scaled, after
        self._way = slice(None, None, -1) if backwards else slice(None)
        slope = weights.slope_of(pair.weight)
        self._slope = replace(pair, weight=slope)
        if isinstance(pair.weight, weights.Linear):  # w' = 1, as the linear weight of the score 1
            targets, keys = (np.ones((*a.shape[:2], 1), a.dtype) for a in (pair.targets, pair.keys))
            self._slope = replace(self._slope, targets=targets, keys=keys)

    def plain(self, columns: Array) -> Array:
        """Return sum p columns, (B, m, c)."""
        return self._sum(self._pair, columns)

    def slope(self, columns: Array) -> Array:
        """Return sum p' columns, (B, m, c)."""
        return self._sum(self._slope, columns)

    def second(self, a: Array, b: Array, columns: Array) -> Array:
        """Return sum p' <a, b> columns, (B, m, c), of a (B, m, q) and b (B, n, q)."""
        systems, n, q = b.shape
        each = max(1, _COLUMNS // q)
        found = []
        for first in range(0, columns.shape[2], each):
            some = columns[:, :, first : first + each]
            products = np.einsum("bnc,bnq->bncq", some, b).reshape(systems, n, -1)
            sums = self.slope(products).reshape(systems, -1, some.shape[2], q)
            found.append(np.einsum("bmcq,bmq->bmc", sums, a))
        return np.concatenate(found, axis=2)

    def _sum(self, pair: PairSum, columns: Array) -> Array:
        columns = columns[:, self._way]
        if self._scaled is not None:
            columns = columns * self._scaled
        out = np.empty((*pair.targets.shape[:2], columns.shape[2]))
        self._backend.attend(replace(pair, values=np.ascontiguousarray(columns)), out)
        if self._after is not None:
            out *= self._after
        return out[:, self._way]


class LinearisedHead(Linearised):
    """The field of one head at tokens and targets in float64, ready for its derivatives.

    Attributes:
        field: (B, m, dv), the field itself.
    """

    def __init__(self, score: Score, cloud: Cloud, backend: Backend, g: Array | None = None) -> None:
        if score.distance and not score.shifts:
            need = "averages by w = exp of distances, as fp.L2: derivatives of other sums of distances are not known"
            raise InputError("attention", "distances under another weight", need)
        self.score, self.cloud, self._backend = score, cloud, backend
        x, (dv, d) = cloud.x, score.V.shape[-2:]
        self._centre = backend.centre(x) if score.normalised or score.distance else np.zeros((len(x), d))
        operands = score.operands(cloud, backend, self._centre if score.normalised else None)
        self._z, self._y, bias = operands.targets.copy(), operands.keys.copy(), operands.bias if g is None else g
        self._bias = None if bias is None else bias.copy()
        self._late = dv >= d  # V is applied to sums of tokens
        self._origin = self._centre if score.normalised else np.zeros_like(self._centre)
        moved = x - self._origin[:, None]
        self._values = moved if self._late else through(score.V, moved)
        self._sharp = score.normalised and weights.is_exponential(score.weight)
        self._sources = self._over_sources()
        mean = self._sources.plain(self._values)
        self._mean = mean
        centre = through(score.V, self._origin[:, None])
        self.field = (through(score.V, mean) if self._late else mean) + (centre if score.normalised else 0.0)

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _over_sources(self) -> _Sums:
        score, cloud = self.score, self.cloud
        pair = PairSum(
            score.weight, self._sharp, self._z, self._y, self._values, self._bias, cloud.weights, cloud.limits
        )
        self._pair = pair
        self._logs = np.zeros(self._z.shape[:2])
        self._inverse: Array | None = None
        if not score.normalised:
            return _Sums(self._backend, pair)
        if self._sharp:
            nothing = np.empty((*self._y.shape[:2], 0))
            plain = replace(pair, values=nothing, normalised=False)
            self._backend.attend(plain, np.empty((*self._z.shape[:2], 0)), self._logs)
            return _Sums(self._backend, pair)
        totals = np.empty((*self._z.shape[:2], 1))
        self._backend.attend(replace(pair, values=np.ones((*self._y.shape[:2], 1))), totals)
        self._inverse = np.reciprocal(totals)
        return _Sums(self._backend, pair, after=self._inverse)

    @cached_property
    def _targets(self) -> _Sums:
        """Return sums over targets, for every source: what sees it under a mask are the last targets."""
        m, n = self._z.shape[1], self._y.shape[1]
        y, z, bias = self._y, self._z, None
        if self._bias is not None:  # of a source: one more coordinate of its key
            y = np.concatenate([y, self._bias[:, :, None]], axis=2)
            z = np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)
        if self._sharp:
            bias = -self._logs
        after = m * masses_of(self.cloud)[:, :, None]
        limits = None
        if self.cloud.limits is not None:
            seen_by = m - np.searchsorted(self.cloud.limits, np.arange(n), side="right")
            limits = np.maximum(seen_by, 1)[::-1].astype(np.int64)
            after = np.where((seen_by > 0)[:, None], after, 0.0)[:, ::-1]
            y, z, bias = y[:, ::-1], z[:, ::-1], None if bias is None else bias[:, ::-1]
        pair = PairSum(
            self.score.weight, False, np.ascontiguousarray(y), np.ascontiguousarray(z), None,
            None if bias is None else np.ascontiguousarray(bias), None, limits,
        )  # fmt: skip
        scaled = self._inverse if self._inverse is None or limits is None else self._inverse[:, ::-1]
        return _Sums(self._backend, pair, scaled, after, backwards=limits is not None)

    # -- tangents -----------------------------------------------------------------------------------------------------

    def push(self, dx: Array, dat: Array, dg: Array | None = None) -> Array:
        """Return the change of the field (B, m, dv) when tokens move by dx (B, n, d) and targets by dat (B, m, d).

        dg: (B, n), what is added to the biases of a score without its own; None: nothing.
        """
        score = self.score
        if score.shifts and not score.distance:  # a common motion of all sources changes no weight
            common = self._backend.centre(dx)[:, None]
            moved, all_of = dx - common, through(score.V, common)
        else:
            moved, all_of = dx, np.zeros(())
        dz, (dy, db) = self._of_targets(dat), self._of_sources(moved)
        db = db if dg is None else dg[:, :, None]
        a, b = np.concatenate([dz, self._z], axis=2), np.concatenate([self._y, dy], axis=2)
        if db is not None:
            a, b = np.concatenate([a, np.ones_like(a[:, :, :1])], axis=2), np.concatenate([b, db], axis=2)
        change = self._sources.plain(moved if self._late else through(score.V, moved))
        if score.normalised:
            tbar = np.einsum("bmq,bmq->bm", a, self._sources.slope(b))[:, :, None]
            if self._sharp:  # p' = p, and t - tbar, formed before it is summed, loses fewer digits
                a, b = np.concatenate([a, -tbar], axis=2), np.concatenate([b, np.ones_like(b[:, :, :1])], axis=2)
            else:
                change -= tbar * self._mean
        change += self._sources.second(a, b, self._values)
        return (through(score.V, change) if self._late else change) + all_of

    def jacobian(self) -> Array:
        """Return D Gamma(x) (B, m, dv, d) at the targets, for fixed sources."""
        systems, m, r = self._z.shape
        e = self._values.shape[2]
        products = np.einsum("bne,bnr->bner", self._values, self._y).reshape(systems, -1, e * r)
        moments = self._sources.slope(products).reshape(systems, m, e, r)
        if self.score.normalised:
            moments -= np.einsum("bme,bmr->bmer", self._mean, self._sources.slope(self._y))
        found = np.einsum("bmer,bmrd->bmed", moments, self._target_maps())
        return _left(self.score.V, found) if self._late else found

    def divergence(self) -> Array:
        """Return the divergence (B, m) of the field at the targets, for fixed sources; dv = d."""
        maps, V = self._target_maps(), self.score.V
        if maps.shape[1] > 1:  # a map of each target
            return np.trace(self.jacobian(), axis1=2, axis2=3)
        turned = maps[:, 0] @ V if self._late else maps[:, 0]
        turned = np.broadcast_to(turned, (len(self._y), *turned.shape[1:]))  # <y, turned v> is the second score
        column_ = np.einsum("bnr,bre,bne->bn", self._y, turned, self._values)
        found = self._sources.slope(column_[:, :, None])[:, :, 0]
        if self.score.normalised:
            found -= np.einsum("bmr,bre,bme->bm", self._sources.slope(self._y), turned, self._mean)
        return found

    def average(self, h: Array) -> Array:
        """Return sum_j p_ij h_j (B, m) of h (B, n)."""
        return self._sources.plain(h[:, :, None])[:, :, 0]

    def average_over_targets(self, h: Array) -> Array:
        """Return sum_i p_ij h_i (B, n) of h (B, m)."""
        return self._targets.plain(h[:, :, None])[:, :, 0]

    def score_changes(self, dx: Array, w: Array) -> tuple[Array, Array]:
        """Return sum_j p_ij t_ij and sum_i p_ij w_i t_ij, (B, n) each, t_ij the changes of the scores.

        The targets are the tokens, and the scores are products.
        """
        moved = dx - self._backend.centre(dx)[:, None]
        a = np.concatenate([self._of_targets(dx), self._z], axis=2)
        b = np.concatenate([self._y, self._of_sources(moved)[0]], axis=2)
        rows = self._sources.second(a, b, np.ones_like(b[:, :, :1]))
        return rows[:, :, 0], self._targets.second(b, a, w[:, :, None])[:, :, 0]

    # -- cotangents ---------------------------------------------------------------------------------------------------

    def pull(self, cotangent: Array) -> Pulled:
        return self.pull_with_bias(cotangent)[1]

    def pull_scores(self, u: Array, v: Array, k: Array) -> Pulled:
        """Return what changes t_ij of the scores do to sum_ij p_ij (u_i + v_i k_j) t_ij; the targets are the tokens."""
        a = np.stack([u, v], axis=2)
        b = np.stack([np.ones_like(k), k], axis=2)
        of_targets, of_keys = self._sources.second(a, b, self._y), self._targets.second(b, a, self._z)
        x = self._pull_sources(of_keys, k) + self._pull_targets(of_targets)
        return Pulled(x, None, self._of_score(of_targets, of_keys, k))

    def pull_with_bias(self, cotangent: Array) -> tuple[Array, Pulled]:
        """Return what changes of the biases (B, n) do to sum_i <cotangent_i, Gamma_i>, and the rest as `pull`."""
        score, cloud, V = self.score, self.cloud, self.score.V
        c = through(transposed(V), cotangent) if self._late else cotangent
        along = np.einsum("bme,bme->bm", c, self._mean)[:, :, None]
        ones = np.ones((*self._y.shape[:2], 1))
        a, b = c, self._values  # r_ij = <a_i, b_j>, what a change of the score does
        if score.normalised:
            a, b = np.concatenate([c, -along], axis=2), np.concatenate([self._values, ones], axis=2)
        of_targets = self._sources.second(a, b, self._y)  # (B, m, r)
        of_values = self._targets.plain(c)  # (B, n, e)
        there = self._targets.second(b, a, np.concatenate([self._z, np.ones((*self._z.shape[:2], 1))], axis=2))
        of_keys, rho = there[:, :, :-1], there[:, :, -1]
        at = self._pull_targets(of_targets)
        x = self._pull_sources(of_keys, rho)
        x += of_values if self._late else through(transposed(V), of_values)
        own = cloud.at is None
        parameters = self._parameters(of_targets, of_keys, rho, of_values, cotangent)
        return rho, Pulled(x + at if own else x, None if own else at, parameters)

    def _parameters(
        self, of_targets: Array, of_keys: Array, rho: Array, of_values: Array, c: Array
    ) -> dict[str, Array]:
        """Return the cotangents of the parameters; no further sum over pairs is needed."""
        score, cloud = self.score, self.cloud
        found = self._of_score(of_targets, of_keys, rho)
        if self._late:
            mean = self._mean + (self._origin[:, None] if score.normalised else 0.0)
            found["V"] = np.einsum("bmi,bmj->bij", c, mean)
        else:
            found["V"] = np.einsum("bni,bnj->bij", of_values, cloud.x)
        if not score.normalised:
            found["bias"] = rho.sum(axis=1)
        masses = masses_of(cloud)
        if self._sharp:
            found[WEIGHTS] = rho / masses
        elif not score.normalised:
            found[WEIGHTS] = np.einsum("bne,bne->bn", of_values, self._values) / masses
        return found

    def _of_score(self, of_targets: Array, of_keys: Array, rho: Array) -> dict[str, Array]:
        """Return the cotangents of Q, K and scale."""
        score, cloud, moved = self.score, self.cloud, self.cloud.x - self._centre[:, None]
        Q, K, scale = score.Q, score.K, score.scale.reshape(-1, 1, 1)
        factor = (2.0 if score.distance else 1.0) * scale
        if score.turn is not None:
            of_targets = self._turned(of_targets, cloud.target_positions, back=True)
            of_keys = self._turned(of_keys, cloud.token_positions, back=True)
        raised = through(Q, cloud.targets)
        if score.distance:
            raised = raised - through(K, self._centre[:, None])
        lowered = through(K, of_targets) if self._own else of_targets
        dQ = factor * np.einsum("bmi,bmj->bij", lowered, cloud.targets)
        if self._own:
            dK = factor * np.einsum("bmi,bmj->bij", raised, of_targets)
        else:
            dK = np.einsum("bni,bnj->bij", of_keys, moved)
        dscale = factor[:, 0, 0] / score.scale.reshape(-1) * np.einsum("bmi,bmi->b", lowered, raised)
        if score.distance:
            second = np.einsum("bn,bni,bnj->bij", rho, moved, cloud.x)
            dK = dK - 2.0 * scale * product(K, second)
            dscale -= np.einsum("bn,bnk,bnk->b", rho, through(K, moved), through(K, moved))
        return {"Q": dQ, "K": dK, "scale": dscale}

    # -- the linear maps from tokens to operands ----------------------------------------------------------------------

    @property
    def _own(self) -> bool:
        return self.score.keys_are_tokens(self.cloud.x.dtype)

    def _maps(self) -> tuple[Array, Array | None]:
        """Return the matrices that make targets and keys of tokens; None: keys are tokens."""
        score = self.score
        factor = column(score.scale) * (2.0 if score.distance else 1.0)
        if self._own:
            return factor * product(transposed(score.K), score.Q), None
        return factor * score.Q, score.K

    def _of_targets(self, dat: Array) -> Array:
        """Return the change of the targets' operands."""
        found = through(self._maps()[0], dat)
        return self._turned(found, self.cloud.target_positions) if self.score.turn else found

    def _of_sources(self, dx: Array) -> tuple[Array, Array | None]:
        """Return the change of the keys, and of their biases (B, n, 1)."""
        right = self._maps()[1]
        dy = dx if right is None else through(right, dx)
        if self.score.turn is not None:
            dy = self._turned(dy, self.cloud.token_positions)
        if not self.score.distance:
            return dy, None
        K, scale = self.score.K, self.score.scale.reshape(-1, 1)
        apart = through(K, self.cloud.x - self._centre[:, None])
        return dy, (-2.0 * scale * np.einsum("bnk,bnk->bn", apart, through(K, dx)))[:, :, None]

    def _turned(self, vectors: Array, places: Array, *, back: bool = False) -> Array:
        assert self.score.turn is not None
        turns = self.score.turn(places)
        return np.einsum("nji,bnj->bni" if back else "nij,bnj->bni", turns, vectors)

    def _target_maps(self) -> Array:
        """Return D z(x) (B or 1, m or 1, r, d)."""
        left = self._maps()[0]
        if self.score.turn is None:
            return left.reshape(-1, 1, *left.shape[-2:])
        return np.einsum(
            "nij,bjd->bnid", self.score.turn(self.cloud.target_positions), left.reshape(-1, *left.shape[-2:])
        )

    def _pull_targets(self, of_targets: Array) -> Array:
        if self.score.turn is not None:
            of_targets = self._turned(of_targets, self.cloud.target_positions, back=True)
        return through(transposed(self._maps()[0]), of_targets)

    def _pull_sources(self, of_keys: Array, rho: Array) -> Array:
        right = self._maps()[1]
        if self.score.turn is not None:
            of_keys = self._turned(of_keys, self.cloud.token_positions, back=True)
        found = of_keys.copy() if right is None else through(transposed(right), of_keys)
        if self.score.distance:
            K, scale = self.score.K, self.score.scale.reshape(-1, 1, 1)
            apart = through(K, self.cloud.x - self._centre[:, None])
            found -= 2.0 * scale * rho[:, :, None] * through(transposed(K), apart)
        return found


def _left(matrix: Array, found: Array) -> Array:
    """Return matrix (p, q) or (B, p, q) times matrices (B, m, q, r)."""
    return np.einsum("pq,bmqr->bmpr", matrix, found) if matrix.ndim == 2 else np.einsum("bpq,bmqr->bmpr", matrix, found)
