"""The field that weighted nodes make, for themselves and for points that they carry along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..attention import Attention
from ..attention.cloud import Cloud
from ..attention.composite import Term, terms_of
from ..errors import FieldError
from ..sums import resolve
from .node_sets import NodeSets

if TYPE_CHECKING:
    from ..attention.single_head import SingleHead
    from ..sums.backend import Backend

_TOGETHER = 200_000  # sources of a call, in all positions that it sums for

_FAR = 4.0  # averages with weights of both signs are not much larger than their values

_OfHead = Callable[["SingleHead", Cloud], Array]  # a quantity at the targets of a cloud, (S, m, ...)


class NodeField:
    """The field f(t, y, out) of states (S, q + p, d), nodes and the points behind them.

    If y has a column more, the rate of that is the divergence of the field at the points, and 0 at the nodes.

    Under a mask a target at position s sees the measure int_0^s mu^r dr. On nodes this is a sum with weights that
    depend on s and may be negative (`PositionRule.average`), times s where sums are not divided by their total.
    """

    def __init__(
        self,
        attention: Attention,
        nodes: NodeSets,
        places: Array | None = None,
        stops: Sequence[float] = (),
        backend: str = "direct",
    ) -> None:
        """Keep what makes the field; places (p,): the positions of the points; steps end at the times `stops`, too."""
        self.attention, self.nodes, self.places = attention, nodes, places
        self.breaks = tuple(sorted({*attention.breaks, *stops}))
        self._backend: Backend = resolve(backend)
        self._failure: FieldError | None = None
        self._kept: tuple[Array | None, bool, list[tuple[Array, Array]]] = None, False, []

    def __call__(self, t: float, y: Array, out: Array) -> None:
        out[...] = np.nan
        if np.isfinite(y).all():  # else a velocity before has failed, or the state has
            self._failure = None
            try:
                q, d = self.nodes.count, self.attention._dimensions(t)[0]
                x, own = np.ascontiguousarray(y[..., :d]), self.nodes.places
                both = self.places if own is None or self.places is None else np.concatenate([own, self.places])
                out[..., :d] = self.velocity(t, x[:, :q], x, both)
                if y.shape[2] > d:
                    out[:, :q, d] = 0.0
                    out[:, q:, d] = self.divergence(t, x[:, :q], x[:, q:], self.places)
            except FieldError as error:
                self._failure = error

    def failure(self) -> FieldError | None:
        """Return why the last evaluation wrote nan: a scaling did not converge, or positions are not resolved."""
        return self._failure

    def velocity(self, t: float, x: Array, at: Array, places: Array | None) -> Array:
        """Return the velocity (S, m, d) of nodes x (S, q, d) at points `at` (S, m, d), at positions places (m,)."""
        if self.nodes.rule is None:
            return self.attention.velocity(x, at=at, t=t, weights=self.nodes.weights, backend=self._backend)

        def field(head: SingleHead, cloud: Cloud) -> Array:
            out = np.empty((*cloud.targets.shape[:2], head._dimensions(t)[1]))
            head._evaluate(cloud, t, self._backend, out)
            if head.averages:
                _refuse_unresolved(out, np.abs(head.V(t)).sum(axis=-1).max() * np.abs(cloud.x).max())
            return out

        return self._sum(t, x, at, places, field, lambda term, found: term.field(found))

    def divergence(self, t: float, x: Array, at: Array, places: Array | None) -> Array:
        """Return the divergence (S, m) of that field at the points."""
        if self.nodes.rule is None:
            return self.attention.divergence(x, at=at, t=t, weights=self.nodes.weights, backend=self._backend)

        def jacobian(head: SingleHead, cloud: Cloud) -> Array:
            return head._linearised(cloud, t, self._backend).jacobian()

        def trace(term: Term, found: Array) -> Array:
            return np.trace(term.matrix(found), axis1=2, axis2=3)

        return self._sum(t, x, at, places, jacobian, trace)

    def _sum(
        self,
        t: float,
        x: Array,
        at: Array,
        places: Array | None,
        of_head: _OfHead,
        finish: Callable[[Term, Array], Array],
    ) -> Array:
        """Return the sum over heads of finish(term, found), where `found` is what `of_head` returns at the targets.

        x: the nodes (S, q, d). at, places: the targets (S, m, d) and their positions (m,).
        """
        rule = self.nodes.rule
        assert rule is not None and places is not None, "positions matter"
        if len(rule.s) == 1:  # all positions are alike
            places = np.full(len(places), rule.s[0])
        cloud = Cloud(
            np.ascontiguousarray(x), np.ascontiguousarray(at), self.nodes.weights[None], None, self.nodes.places, places
        )
        with self._backend.evaluation():
            parts = [finish(term, self._seen_by(term, cloud, of_head)) for term in terms_of(self.attention, t)]
        return np.asarray(np.sum(parts, axis=0))

    def _seen_by(self, term: Term, cloud: Cloud, of_head: _OfHead) -> Array:
        """Return of_head(head, cloud) (S, m, ...) at all targets; each of them sees the nodes up to its position."""
        if not term.masked:
            return of_head(term.head, cloud)
        found, places, sets = None, cloud.target_positions, len(cloud.x)
        for rows, seen in self._groups(places, alone=term.head.positional):
            (g, c), s = rows.shape, places[rows[:, 0]]
            at = cloud.targets[:, rows].reshape(sets * g, c, -1)
            one = cloud.with_(
                x=np.repeat(cloud.x, g, axis=0), at=at, weights=np.tile(seen, (sets, 1)), at_positions=places[rows[0]]
            )
            part = of_head(term.head, one)
            part = part.reshape(sets, g, c, *part.shape[2:])
            if not term.head.averages:
                part *= s.reshape(1, g, *[1] * (part.ndim - 2))
            if found is None:
                found = np.empty((sets, len(places), *part.shape[3:]))
            found[:, rows] = part
        assert found is not None, "there are targets"
        return found

    def _groups(self, places: Array, *, alone: bool) -> list[tuple[Array, Array]]:
        """Return the targets in groups that are summed together, each of g positions with c targets.

        Returns:
            Of each group the indices (g, c) of the targets, and the weights (g, q) of nodes that each position sees.

        alone: whether each position is a group of its own.
        """
        kept, for_whom, found = self._kept
        if kept is not None and for_whom == alone and np.array_equal(kept, places):
            return found
        steps, group = np.unique(places, return_inverse=True)
        sizes = np.bincount(group)
        starts, order = np.cumsum(sizes) - sizes, np.argsort(group, kind="stable")
        found = []
        for c in np.unique(sizes):
            same = np.flatnonzero(sizes == c)
            for some in np.split(same, range(0, len(same), 1 if alone else max(1, _TOGETHER // self.nodes.count))[1:]):
                rows = order[starts[some][:, None] + np.arange(c)]
                found.append((rows, self.nodes.seen(steps[some])))
        self._kept = places, alone, found
        return found


def _refuse_unresolved(averages: Array, largest: float) -> None:
    """Raise FieldError if averages are far larger than what they are averages of, which is at most `largest`.

    Under weights of both signs that is so near a zero of the total weight, which no total of a law has.
    """
    if (np.abs(averages) > _FAR * largest).any():
        raise FieldError("The nodes of positions do not resolve how the law depends on the position.")
