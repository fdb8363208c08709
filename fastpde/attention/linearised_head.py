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
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .._types import Array
from ..errors import InputError
from ..parallel.partition import Partition, Undivided
from ..sums.pair_sum import PairSum
from .cloud import Cloud
from .derivatives import WEIGHTS, Linearised, Pulled, masses_of, of_columns, through
from .linearised_sums import Sums
from .parameters import column
from .score import Score
from .small_matrices import product, transposed

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
        self._z, self._y, bias = operands.targets.copy(), operands.keys.copy(), operands.bias if g is None else g
        self._bias = None if bias is None else bias.copy()
        # V is applied to sums of tokens; not where these may overflow: 0 inf would be nan.
        self._late = dv >= d and score.normalised
        self._origin = self._centre if score.normalised else np.zeros_like(self._centre)
        moved = x - self._origin[:, None]
        self._values = moved if self._late else self._through(score.V, moved)
        self._sharp = score.normalised and weights.is_exponential(score.weight)
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
        self._inverse: Array | None = None
        if self._sharp or not score.normalised:
            return Sums(self._backend, pair, history=self._history("sources"))
        totals = np.empty((*self._z.shape[:2], 1))
        self._backend.attend(replace(pair, values=np.ones((*self._y.shape[:2], 1))), totals)
        self._inverse = np.reciprocal(totals)
        return Sums(self._backend, pair, after=self._inverse, history=self._history("sources"))

    def _history(self, index: str) -> Callable[[str], Array] | None:
        """Return the counts of the sums over one index in the run to which the cloud belongs; None: to none."""
        memory, systems = self.cloud.memory, len(self.cloud.x)
        return None if memory is None else lambda kind: memory.history(f"linear.{index}.{kind}", systems)

    @property
    def _mean(self) -> Array:
        """The sums of p times values, (B, m, e)."""
        if self._found is None:
            self._average(self._values[:, :, :0])
        assert self._found is not None
        return self._found

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
        y, z, bias = self._y, self._z, None if self._logs is None else -self._logs
        if self._bias is not None:  # of a source: one more coordinate of its key
            y = np.concatenate([y, self._bias[:, :, None]], axis=2)
            z = np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)
        partition = self.cloud.partition if self.cloud.at is None else Undivided(z.shape[1])
        after = partition.n * masses_of(self.cloud)[:, :, None]
        limits, turned = None, None
        if self.cloud.limits is not None:
            own = self.cloud.partition
            places = own.first + np.arange(own.here)
            seen_by = partition.n - np.searchsorted(partition.gathered(self.cloud.limits[None])[0], places, "right")
            after = np.where((seen_by > 0)[:, None], after, 0.0)
            turned = partial(_reversed, own)
            limits = turned(np.maximum(seen_by, 1)[None])[0].astype(np.int64)
            y, z, bias = turned(y), turned(z), None if bias is None else turned(bias)
        pair = PairSum(self.score.weight, False, y, z, None, bias, None, limits)
        return Sums(self._backend, pair, self._inverse, after, turned=turned, history=self._history("targets"))

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
        dz, (dy, db) = self._of_targets(dat), self._of_sources(moved)
        db = db if dg is None else dg[:, :, None]
        a, b = np.concatenate([dz, self._z], axis=2), np.concatenate([self._y, dy], axis=2)
        if db is not None:
            a, b = np.concatenate([a, np.ones_like(a[:, :, :1])], axis=2), np.concatenate([b, db], axis=2)
        plain, second = self._average(moved if self._late else self._through(score.V, moved), (a, b, self._values))
        change = plain + second[:, :, :-1]
        if score.normalised:
            change -= second[:, :, -1:] * self._mean
        return (self._through(score.V, change) if self._late else change) + all_of

    def jacobian(self) -> Array:
        """Return D Gamma(x) (B, m, dv, d) at the targets, for fixed sources."""
        systems, m, r = self._z.shape
        e = self._values.shape[2]
        products = np.einsum("bne,bnr->bner", self._values, self._y).reshape(systems, -1, e * r)
        products, keys = np.split(self._slopes(np.concatenate([products, self._y], axis=2)), [e * r], axis=2)
        moments = products.reshape(systems, m, e, r)
        if self.score.normalised:
            moments -= np.einsum("bme,bmr->bmer", self._mean, keys)
        left = self._maps()[0]
        if self.score.turn is not None:
            moments = np.einsum("bmer,mrq->bmeq", moments, self.score.turn(self.cloud.target_positions))
        found = self._through(transposed(left), moments.reshape(systems, m * e, -1)).reshape(systems, m, e, -1)
        return of_columns(self._backend, self.score.V, found) if self._late else found

    def divergence(self) -> Array:
        """Return the divergence (B, m) of the field at the targets, for fixed sources; dv = d."""
        if self.score.turn is not None:  # a map of each target
            return super().divergence()
        left, V = self._maps()[0], self.score.V
        turned = left @ V if self._late else left  # <y, turned v> is what a source adds
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
        a = np.concatenate([self._of_targets(dx), self._z], axis=2)
        return a, np.concatenate([self._y, self._of_sources(moved)[0]], axis=2)

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
        x = self._pull_sources(of_keys, k[:, :, 0]) + self._pull_targets(of_targets)
        return Pulled(x, None, self._of_score(of_targets, of_keys, k[:, :, 0]))

    def pull_with_bias(self, cotangent: Array) -> tuple[Array, Pulled]:
        """Return what changes of the biases (B, n) do to sum_i <cotangent_i, Gamma_i>, and the rest as `pull`."""
        score, cloud, V = self.score, self.cloud, self.score.V
        if cloud.at is not None and not cloud.partition.whole:
            raise InputError("at", "points", "none on several processes: their cotangents belong to one process alone")
        c = self._through(transposed(V), cotangent) if self._late else cotangent
        some = score.normalised and self._sharp and not self._keys_are_values
        keys, second = self._average(self._y[:, :, : None if some else 0], (c, self._values, self._y))
        of_targets, a, b = second[:, :, :-1], c, self._values  # <a_i, b_j> is what a change of the score does
        if score.normalised:
            along = np.einsum("bme,bme->bm", c, self._mean)[:, :, None]
            if not some:
                keys = self._mean if self._keys_are_values else self._sources.slope(self._y)
            of_targets = of_targets - along * keys
            a = np.concatenate([c, -along], axis=2)
            b = np.concatenate([self._values, np.ones((*self._y.shape[:2], 1))], axis=2)
        apart = along if score.normalised and not self._sharp else c[:, :, :0]
        passed, there = self._targets.both(np.concatenate([c, apart], axis=2), b, a, self._z)
        of_values, of_totals = np.split(passed, [c.shape[2]], axis=2)  # (B, n, e), (B, n, 1) or nothing
        of_keys, rho = there[:, :, :-1], there[:, :, -1]
        at = self._pull_targets(of_targets)
        x = self._pull_sources(of_keys, rho)
        x += of_values if self._late else self._through(transposed(V), of_values)
        own = cloud.at is None
        parameters = self._parameters(of_targets, of_keys, rho, of_values, cotangent)
        gained = rho if self._sharp else np.einsum("bne,bne->bn", of_values, self._values) - of_totals.sum(axis=2)
        parameters[WEIGHTS] = gained / masses_of(cloud)
        return rho, Pulled(x + at if own else x, None if own else at, parameters)

    def _parameters(
        self, of_targets: Array, of_keys: Array, rho: Array, of_values: Array, c: Array
    ) -> dict[str, Array]:
        """Return the cotangents of the parameters; no further sum over pairs is needed."""
        score, cloud = self.score, self.cloud
        found = self._of_score(of_targets, of_keys, rho)
        if self._late:
            mean = self._mean + (self._origin[:, None] if score.normalised else 0.0)
            found["V"] = self._backend.outer(c, mean)
        else:
            found["V"] = self._backend.outer(of_values, cloud.x)
        if not score.normalised:
            found["bias"] = cloud.partition.sum(rho)
        return found

    def _of_score(self, of_targets: Array, of_keys: Array, rho: Array) -> dict[str, Array]:
        """Return the cotangents of Q, K and scale."""
        score, cloud, moved = self.score, self.cloud, self.cloud.x - self._centre[:, None]
        Q, K, scale = score.Q, score.K, score.scale.reshape(-1, 1, 1)
        factor = (2.0 if score.distance else 1.0) * scale
        if score.turn is not None:
            of_targets = self._turned(of_targets, cloud.target_positions, back=True)
            of_keys = self._turned(of_keys, cloud.token_positions, back=True)
        raised = self._through(Q, cloud.targets)
        if score.distance:
            raised = raised - self._through(K, self._centre[:, None])
        lowered = self._through(K, of_targets) if self._own else of_targets
        dQ = factor * self._backend.outer(lowered, cloud.targets)
        dK = factor * self._backend.outer(raised, of_targets) if self._own else self._backend.outer(of_keys, moved)
        total = cloud.partition.sum if cloud.at is None else Undivided(raised.shape[1]).sum
        dscale = factor[:, 0, 0] / score.scale.reshape(-1) * total(np.einsum("bmi,bmi->bm", lowered, raised))
        if score.distance:
            second = self._backend.outer(rho[:, :, None] * moved, cloud.x)
            dK = dK - 2.0 * scale * product(K, second)
            dscale -= cloud.partition.sum(rho * (self._through(K, moved) ** 2).sum(axis=2))
        return {"Q": dQ, "K": dK, "scale": dscale}

    # -- the linear maps from tokens to operands ----------------------------------------------------------------------

    def _through(self, matrix: Array, vectors: Array) -> Array:
        return through(self._backend, matrix, vectors)

    @property
    def _keys_are_values(self) -> bool:
        """Whether sums of p' keys are the sums of p values, of a normalised head."""
        return self._late and self._own and self._sharp

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
        found = self._through(self._maps()[0], dat)
        return self._turned(found, self.cloud.target_positions) if self.score.turn else found

    def _of_sources(self, dx: Array) -> tuple[Array, Array | None]:
        """Return the change of the keys, and of their biases (B, n, 1)."""
        right = self._maps()[1]
        dy = dx if right is None else self._through(right, dx)
        if self.score.turn is not None:
            dy = self._turned(dy, self.cloud.token_positions)
        if not self.score.distance:
            return dy, None
        K, scale = self.score.K, self.score.scale.reshape(-1, 1)
        apart = self._through(K, self.cloud.x - self._centre[:, None])
        return dy, (-2.0 * scale * np.einsum("bnk,bnk->bn", apart, self._through(K, dx)))[:, :, None]

    def _turned(self, vectors: Array, places: Array, *, back: bool = False) -> Array:
        assert self.score.turn is not None
        turns = self.score.turn(places)
        return np.einsum("nji,bnj->bni" if back else "nij,bnj->bni", turns, vectors)

    def _pull_targets(self, of_targets: Array) -> Array:
        if self.score.turn is not None:
            of_targets = self._turned(of_targets, self.cloud.target_positions, back=True)
        return self._through(transposed(self._maps()[0]), of_targets)

    def _pull_sources(self, of_keys: Array, rho: Array) -> Array:
        right = self._maps()[1]
        if self.score.turn is not None:
            of_keys = self._turned(of_keys, self.cloud.token_positions, back=True)
        found = of_keys.copy() if right is None else self._through(transposed(right), of_keys)
        if self.score.distance:
            K, scale = self.score.K, self.score.scale.reshape(-1, 1, 1)
            apart = self._through(K, self.cloud.x - self._centre[:, None])
            found -= 2.0 * scale * rho[:, :, None] * self._through(transposed(K), apart)
        return found


def _reversed(partition: Partition, rows: Array) -> Array:
    """Return rows (B, n, ...) from the last to the first of all tokens."""
    if partition.whole:
        return np.ascontiguousarray(rows[:, ::-1])
    return partition.ordered(np.ascontiguousarray(rows), np.arange(partition.n)[::-1], np.empty_like(rows, order="C"))
