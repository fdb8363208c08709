"""Derivatives of the field of one head, from the same record as its sums: tangents, cotangents, Jacobians.

With p_ij the weight of source j at target i, divided by the total if the head is normalised, p'_ij the same of the
derivative w' of its weight function, v_j the values and t_ij the change of the score, the field changes by

    sum_j p_ij dv_j + sum_j p'_ij (t_ij - tbar_i) v_j,      tbar_i = sum_j p'_ij t_ij if normalised, else 0,

and everything else follows from sums of two kinds, over sources and, for cotangents, over targets: `plain`, of p times
columns, and `second`, of p' times a second score <a_i, b_j> times columns. Source: Theory 12.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from ..sums.pair_sum import PairSum
from .cloud import Cloud
from .derivatives import WEIGHTS, Linearised, Pulled, masses_of, of_columns, through
from .linearised_maps import OperandMaps
from .linearised_sums import Sums, contracted
from .score import Score
from .small_matrices import transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend


class LinearisedHead(Linearised):
    """The field of one head at tokens and targets in float64, ready for its derivatives."""

    def __init__(self, score: Score, cloud: Cloud, backend: Backend, g: Array | None = None) -> None:
        if score.distance and not score.shifts:
            need = "averages by w = exp of distances, as fp.L2: derivatives of other sums of distances are not known"
            raise InputError("attention", "distances under another weight", need)
        self.score, self.cloud, self._backend = score, cloud, backend
        x, (dv, d) = cloud.x, score.V.shape[-2:]
        self._centre = backend.centre(x) if score.normalised or score.distance else np.zeros((len(x), d))
        operands = score.operands(cloud, backend, self._centre if score.normalised else None)
        self._maps = OperandMaps(score, cloud, backend, self._centre)
        self._z, self._y, bias = operands.targets.copy(), operands.keys.copy(), operands.bias if g is None else g
        self._bias = None if bias is None else bias.copy()
        # V is applied to sums of tokens; not where these may overflow: 0 inf would be nan.
        self._late = dv >= d and score.normalised
        self._origin = self._centre if score.normalised else np.zeros_like(self._centre)
        self._sharp = score.normalised and weights.is_exponential(score.weight)
        if self._keys_are_values:
            self._values = self._y
        else:
            moved = x - self._origin[:, None]
            self._values = moved if self._late else self._through(score.V, moved)
        self._sources = self._over_sources()
        self._found: Array | None = None  # the sums of values, once they have been made

    @cached_property
    def field(self) -> Array:
        V = self.score.V
        found = self._through(V, self._mean) if self._late else self._mean
        return found + self._through(V, self._origin[:, None]) if self.score.normalised else found

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _over_sources(self) -> Sums:
        score, cloud = self.score, self.cloud
        pair = PairSum(
            score.weight, self._sharp, self._z, self._y, self._values, self._bias, cloud.weights, cloud.limits
        )
        self._logs = np.empty(self._z.shape[:2]) if self._sharp else None
        if self._sharp or not score.normalised:
            return Sums(self._backend, pair, history=self._history("sources"))
        totals = np.empty((*self._z.shape[:2], 1))
        self._backend.attend(replace(pair, values=np.ones((*self._y.shape[:2], 1))), totals)
        return Sums(self._backend, pair, after=np.reciprocal(totals), history=self._history("sources"))

    def _history(self, index: str) -> Callable[[str], Array] | None:
        """Return the counts of the sums over one index in the run to which the cloud belongs; None: to none."""
        memory, systems = self.cloud.memory, len(self.cloud.x)
        return None if memory is None else lambda kind: memory.history(f"linear.{index}.{kind}", systems)

    @property
    def _mean(self) -> Array:
        """The sums of p times values, (B, m, e)."""
        if self._moments is None and self._found is None:
            self._average(self._values[:, :, :0])
        assert self._found is not None
        return self._found

    @cached_property
    def _moments(self) -> tuple[Array, Array] | None:
        """The sums of p times values times keys (B, m, e, r), and of p keys (B, m, r), with which the field is made.

        None where a second score is the better way.
        """
        if self._found is not None or not self._sources.products_pay:
            return None
        columns, e = self._values, self._values.shape[2]
        if self._keys_are_values:
            self._found, found = self._sources.products(None, self._logs)
            return found, self._found
        columns = np.concatenate([columns, np.ones((*columns.shape[:2], 1))], axis=2)
        plain, found = self._sources.products(columns, self._logs)
        self._found = plain[:, :, :e]
        return found[:, :, :e], found[:, :, e]

    def _products(self, columns: Array) -> tuple[Array, Array]:
        """Return sums of p columns (B, m, c) and of p columns keys^T (B, m, c, r); keys are values, see `_moments`.

        The field is made in the same pass if need be.
        """
        if self._found is not None:
            return self._sources.products(columns)
        e = self._values.shape[2]
        plain, found = self._sources.products(np.concatenate([self._values, columns], axis=2), self._logs)
        self._found = plain[:, :, :e]
        self._moments = found[:, :, :e], self._found
        return plain[:, :, e:], found[:, :, e:]

    def _average(self, columns: Array, second: tuple[Array, Array, Array] | None = None) -> tuple[Array, Array]:
        """Return `Sums.both` of the sources, or `plain` and nothing; the field is made in the same pass if need be."""
        logs = None
        if self._found is None:
            columns, logs = np.concatenate([self._values, columns], axis=2), self._logs
        if second is None:
            found, others = self._sources.plain(columns, logs), columns[:, :0]
        else:
            found, others = self._sources.both(columns, *second, logs)
        if self._found is None:
            self._found, found = np.split(found, [self._values.shape[2]], axis=2)
        return found, others

    @cached_property
    def _targets(self) -> Sums:
        """Return sums over targets, for every source: what sees it under a mask are the last targets."""
        _ = self._mean  # with it the logs of the totals
        return self._sources.over_targets(self.cloud, self._logs, self._history("targets"))

    # -- tangents -----------------------------------------------------------------------------------------------------

    def push(self, dx: Array, dat: Array, dg: Array | None = None) -> Array:
        """Return the change of the field (B, m, dv) when tokens move by dx (B, n, d) and targets by dat (B, m, d).

        dg: (B, n), what is added to the biases of a score without its own; None: nothing.
        """
        score = self.score
        if score.shifts and not score.distance:  # a common motion of all sources changes no weight
            common = self._backend.centre(dx)[:, None]
            moved, all_of = dx - common, self._through(score.V, common)
        else:
            moved, all_of = dx, np.zeros(())
        dz, (dy, db) = self._maps.of_targets(dat), self._maps.of_sources(moved)
        db = db if dg is None else dg[:, :, None]
        a, b = self._z, dy  # the change of a score is <dz_i, y_j> + <a_i, b_j>
        if db is not None:
            a, b = np.concatenate([a, np.ones_like(a[:, :, :1])], axis=2), np.concatenate([b, db], axis=2)
        columns = moved if self._late else self._through(score.V, moved)
        if self._sources.products_pay:
            change, mean = self._changed(columns, dz, a, b)
        else:
            both = np.concatenate([dz, a], axis=2), np.concatenate([self._y, b], axis=2)
            change, second = self._average(columns, (*both, self._values))
            change, mean = change + second[:, :, :-1], second[:, :, -1]
        if score.normalised:
            change -= mean[:, :, None] * self._mean
        return (self._through(score.V, change) if self._late else change) + all_of

    def _changed(self, columns: Array, dz: Array, a: Array, b: Array) -> tuple[Array, Array]:
        """Return sum p (columns + t v) (B, m, e), and sum p t (B, m), with t_ij = <dz_i, y_j> + <a_i, b_j>."""
        if self._keys_are_values:  # b begins with the columns
            plain, found = self._products(b)
            change, own, mean = plain[:, :, : dz.shape[2]], contracted(found, a), np.einsum("bmq,bmq->bm", plain, a)
        else:
            _ = self._mean
            change, second = self._sources.both(columns, a, b, self._values)
            own, mean = second[:, :, :-1], second[:, :, -1]
        assert self._moments is not None, "products pay"
        products, keys = self._moments
        mean = mean + np.einsum("bmr,bmr->bm", dz, keys)
        return change + own + contracted(products.swapaxes(2, 3), dz), mean

    def jacobian(self) -> Array:
        """Return D Gamma(x) (B, m, dv, d) at the targets, for fixed sources."""
        systems, m, r = self._z.shape
        e = self._values.shape[2]
        if self._moments is not None:
            moments, keys = self._moments
        else:
            products = np.einsum("bne,bnr->bner", self._values, self._y).reshape(systems, -1, e * r)
            products, keys = np.split(self._slopes(np.concatenate([products, self._y], axis=2)), [e * r], axis=2)
            moments = products.reshape(systems, m, e, r)
        if self.score.normalised:
            moments = moments - np.einsum("bme,bmr->bmer", self._mean, keys)
        left = self._maps.matrices()[0]
        if self.score.turn is not None:
            moments = np.einsum("bmer,mrq->bmeq", moments, self.score.turn(self.cloud.target_positions))
        found = self._through(transposed(left), moments.reshape(systems, m * e, -1)).reshape(systems, m, e, -1)
        return of_columns(self._backend, self.score.V, found) if self._late else found

    def divergence(self) -> Array:
        """Return the divergence (B, m) of the field at the targets, for fixed sources; dv = d."""
        if self.score.turn is not None:  # a map of each target
            return super().divergence()
        left, V = self._maps.matrices()[0], self.score.V
        turned = left @ V if self._late else left  # <y, turned v> is what a source adds
        if self._moments is not None:
            moments, keys = self._moments
            found = np.einsum("bmer,bre->bm", moments, np.broadcast_to(turned, (len(moments), *turned.shape[-2:])))
            if self.score.normalised:
                found -= np.einsum("bmr,bmr->bm", keys, self._through(turned, self._mean))
            return found
        column_ = np.einsum("bnr,bnr->bn", self._y, self._through(turned, self._values))
        y = self._y[:, :, : 0 if self._keys_are_values else None]
        found = self._slopes(np.concatenate([column_[:, :, None], y], axis=2))
        if not self.score.normalised:
            return found[:, :, 0]
        keys = self._mean if self._keys_are_values else found[:, :, 1:]
        return found[:, :, 0] - np.einsum("bmr,bmr->bm", keys, self._through(turned, self._mean))

    def _slopes(self, columns: Array) -> Array:
        """Return sum p' columns (B, m, c)."""
        return self._average(columns)[0] if self._sharp else self._sources.slope(columns)

    def average(self, h: Array) -> Array:
        """Return sum_j p_ij h_j (B, m) of h (B, n)."""
        return self._sources.plain(h[:, :, None])[:, :, 0]

    def average_over_targets(self, h: Array) -> Array:
        """Return sum_i p_ij h_i (B, n) of h (B, m)."""
        return self._targets.plain(h[:, :, None])[:, :, 0]

    @cached_property
    def _columns(self) -> tuple[Sums, Sums, Array]:
        """Return sums with P'_ij = w_i p_ij / (w_j c_j), w_j c_j = sum_i w_i p_ij: over targets, over sources; log c.

        The targets are the tokens. Weights of pairs are at most one and totals are kept as logarithms, so that a token
        to which others hardly attend has its average, too.
        """
        _ = self._mean  # with it the logs of the totals
        assert self._logs is not None and self._bias is not None, "an average by exp, with a potential"
        ones = np.ones((*self._y.shape[:2], 1))
        y, z = np.concatenate([self._y, self._bias[:, :, None]], axis=2), np.concatenate([self._z, ones], axis=2)
        pair = PairSum(self.score.weight, True, y, z, None, -self._logs, self.cloud.weights)
        over_targets, logs = Sums(self._backend, pair, history=self._history("columns")), np.empty(self._y.shape[:2])
        over_targets.plain(ones[:, :, :0], logs)
        lowered = np.log(masses_of(self.cloud)) - self._logs
        z = np.concatenate([self._z, lowered[:, :, None]], axis=2)
        y, bias = np.concatenate([self._y, ones], axis=2), self._bias - logs
        pair, n = PairSum(self.score.weight, False, z, y, None, bias), float(self.cloud.partition.n)
        return over_targets, Sums(self._backend, pair, after=n * ones, history=self._history("rows")), logs

    @property
    def column_logs(self) -> Array:
        """The logarithms (B, n) of c_j = sum_i w_i p_ij / w_j."""
        return self._columns[2]

    def column_average(self, h: Array) -> Array:
        """Return sum_i P'_ij h_i (B, n) of h (B, n)."""
        return self._columns[0].plain(h[:, :, None])[:, :, 0]

    def column_average_back(self, h: Array) -> Array:
        """Return sum_j P'_ij h_j (B, n) of h (B, n)."""
        return self._columns[1].plain(h[:, :, None])[:, :, 0]

    def row_changes(self, dx: Array) -> Array:
        """Return sum_j p_ij t_ij (B, n), t_ij the changes of the scores; the targets are the tokens."""
        a, b = self._changes(dx)
        return np.einsum("bmq,bmq->bm", a, self._sources.slope(b))

    def column_changes(self, dx: Array) -> Array:
        """Return sum_i P'_ij t_ij (B, n)."""
        a, b = self._changes(dx)
        return np.einsum("bnq,bnq->bn", b, self._columns[0].plain(a))

    def changes_over_targets(self, dx: Array, w: Array) -> Array:
        """Return sum_i p_ij w_i t_ij (B, n)."""
        a, b = self._changes(dx)
        return np.einsum("bnq,bnq->bn", b, self._targets.slope(w[:, :, None] * a))

    def _changes(self, dx: Array) -> tuple[Array, Array]:
        """Return a and b (B, n, q) with t_ij = <a_i, b_j>, up to a number for each i that is the same for all j."""
        moved = dx - self._backend.centre(dx)[:, None]
        a = np.concatenate([self._maps.of_targets(dx), self._z], axis=2)
        return a, np.concatenate([self._y, self._maps.of_sources(moved)[0]], axis=2)

    # -- cotangents ---------------------------------------------------------------------------------------------------

    def pull(self, cotangent: Array) -> Pulled:
        return self.pull_with_bias(cotangent)[1]

    def pull_scores(self, u: Array, k: Array, *, columns: bool) -> Pulled:
        """Return what changes t_ij of the scores do to sum_ij (u_i p_ij + P'_ij k_j) t_ij; the targets are the tokens.

        P' is divided by the sums of its columns if `columns`, else w_i p_ij.
        """
        w = masses_of(self.cloud)[:, :, None]
        u, k = u[:, :, None], k[:, :, None]
        if columns:
            of_targets, of_keys = self._columns[1].plain(k * self._y), self._columns[0].plain(self._z)
        else:
            of_targets, of_keys = w * self._sources.plain(k * self._y), self._targets.plain(w * self._z)
        of_targets += u * self._sources.plain(self._y)
        of_keys = k * of_keys + self._targets.plain(u * self._z)
        x = self._maps.pull_sources(of_keys, k[:, :, 0]) + self._maps.pull_targets(of_targets)
        return Pulled(x, None, self._maps.of_score(of_targets, of_keys, k[:, :, 0]))

    def pull_with_bias(self, cotangent: Array) -> tuple[Array, Pulled]:
        """Return what changes of the biases (B, n) do to sum_i <cotangent_i, Gamma_i>, and the rest as `pull`."""
        score, cloud, V = self.score, self.cloud, self.score.V
        if cloud.at is not None and not cloud.partition.whole:
            raise InputError("at", "points", "none on several processes: their cotangents belong to one process alone")
        c = self._through(transposed(V), cotangent) if self._late else cotangent
        of_targets, keys = self._at_targets(c)
        a, along = c, None  # <a_i, v_j> + along_i is what a change of the score does
        if score.normalised:
            along = -np.einsum("bme,bme->bm", c, self._mean)[:, :, None]
            of_targets += along * keys
            a = np.concatenate([c, along], axis=2)
        passed, of_keys, rho = self._over_targets(a, along is not None)
        of_values, of_totals = np.split(passed, [c.shape[2]], axis=2)  # (B, n, e), (B, n, 1) or nothing
        at = self._maps.pull_targets(of_targets)
        x = self._maps.pull_sources(of_keys, rho)
        x += of_values if self._late else self._through(transposed(V), of_values)
        own = cloud.at is None
        parameters = self._parameters(of_targets, of_keys, rho, of_values, cotangent)
        gained = rho if self._sharp else np.einsum("bne,bne->bn", of_values, self._values) + of_totals.sum(axis=2)
        parameters[WEIGHTS] = gained / masses_of(cloud)
        return rho, Pulled(x + at if own else x, None if own else at, parameters)

    def _at_targets(self, c: Array) -> tuple[Array, Array]:
        """Return sum p' <c_i, v_j> y_j (B, m, r), and of a normalised head sum p' y_j."""
        if self._moments is not None:
            products, keys = self._moments
            return contracted(products, c), keys
        some = self.score.normalised and self._sharp and not self._keys_are_values
        keys, second = self._average(self._y[:, :, : None if some else 0], (c, self._values, self._y))
        if self.score.normalised and not some:
            keys = self._mean if self._keys_are_values else self._sources.slope(self._y)
        return second[:, :, :-1].copy(), keys

    def _over_targets(self, a: Array, normalised: bool) -> tuple[Array, Array, Array]:
        """Return sum_i p_ij c_i (B, n, e), and sum_i p'_ij <a_i, b_j> times z_i (B, n, r) and times 1 (B, n).

        a is c, and b_j are the values; if `normalised`, both have one more entry, and that of b_j is 1. Where p' is not
        p, the first result has one more column then, that of the entry of a.
        """
        (*_, r), (*_, e) = self._z.shape, self._values.shape
        if not self._targets.products_pay:
            b = self._values
            if normalised:
                b = np.concatenate([b, np.ones_like(b[:, :, :1])], axis=2)
            of_values, found = self._targets.both(a[:, :, :e] if self._sharp else a, b, a, self._z)
            return of_values, found[:, :, :-1], found[:, :, -1]
        plain, products = self._targets.products(a)
        of_keys = contracted(products[:, :, :e, :r], self._values)
        rho = np.einsum("bnq,bnq->bn", plain[:, :, :e], self._values)
        if normalised:
            of_keys += products[:, :, e, :r]
            rho += plain[:, :, e]
        return plain[:, :, :e], of_keys, rho

    def _parameters(
        self, of_targets: Array, of_keys: Array, rho: Array, of_values: Array, c: Array
    ) -> dict[str, Array]:
        """Return the cotangents of the parameters; no further sum over pairs is needed."""
        score, cloud = self.score, self.cloud
        found = self._maps.of_score(of_targets, of_keys, rho)
        if self._late:
            mean = self._mean + (self._origin[:, None] if score.normalised else 0.0)
            found["V"] = self._backend.outer(c, mean)
        else:
            found["V"] = self._backend.outer(of_values, cloud.x)
        if not score.normalised:
            found["bias"] = cloud.partition.sum(rho)
        return found

    def _through(self, matrix: Array, vectors: Array) -> Array:
        return through(self._backend, matrix, vectors)

    @property
    def _keys_are_values(self) -> bool:
        """Whether the values are the keys."""
        return self._late and self._maps.own and (self._sharp or not self.score.normalised)
