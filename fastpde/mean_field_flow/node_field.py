"""The field that weighted nodes make, for themselves and for points that they carry along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..attention import Attention
from ..attention.cloud import Cloud
from ..attention.composite import Term, terms_of
from ..errors import ConvergenceError, FieldError
from ..sums import resolve
from .node_sets import NodeSets

if TYPE_CHECKING:
    from ..attention.single_head import SingleHead
    from ..sums.backend import Backend

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

    def __call__(self, t: float, y: Array, out: Array) -> None:
        out[...] = np.nan
        self._failure = None
        if np.isfinite(y).all():
            try:
                q, d = self.nodes.count, self.attention.dimensions(t)[0]
                x, own = np.ascontiguousarray(y[..., :d]), self.nodes.places
                both = self.places if own is None or self.places is None else np.concatenate([own, self.places])
                out[..., :d] = self.velocity(t, x[:, :q], x, both)
                if y.shape[2] > d:
                    out[:, :q, d] = 0.0
                    out[:, q:, d] = self.divergence(t, x[:, :q], x[:, q:], self.places)
            except ConvergenceError as error:
                self._failure = error

    def failure(self) -> FieldError | None:
        """Return why the last evaluation wrote nan, if a scaling did not converge."""
        return self._failure

    def velocity(self, t: float, x: Array, at: Array, places: Array | None) -> Array:
        """Return the velocity (S, m, d) of nodes x (S, q, d) at points `at` (S, m, d), at positions places (m,)."""
        if self.nodes.rule is None:
            return self.attention.velocity(x, at=at, t=t, weights=self.nodes.weights, backend=self._backend)

        def field(head: SingleHead, cloud: Cloud) -> Array:
            out = np.empty((*cloud.targets.shape[:2], head.dimensions(t)[1]))
            head.evaluate(cloud, t, self._backend, out)
            return out

        return self._sum(t, x, at, places, field, lambda term, found: term.field(found))

    def divergence(self, t: float, x: Array, at: Array, places: Array | None) -> Array:
        """Return the divergence (S, m) of that field at the points."""
        if self.nodes.rule is None:
            return self.attention.divergence(x, at=at, t=t, weights=self.nodes.weights, backend=self._backend)

        def jacobian(head: SingleHead, cloud: Cloud) -> Array:
            return head.linearised(cloud, t, self._backend).jacobian()

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
        """Return the sum over the heads of finish(term, what of_head(head, cloud) is at the targets)."""
        assert places is not None, "positions matter"
        rule = self.nodes.rule
        assert rule is not None, "positions matter"
        if len(rule.s) == 1:  # all positions are alike
            places = np.full(len(places), rule.s[0])
        cloud = Cloud(
            np.ascontiguousarray(x), np.ascontiguousarray(at), self.nodes.weights[None], None, self.nodes.places, places
        )
        with self._backend.evaluation():
            return np.sum(
                [finish(term, self._seen_by(term, cloud, of_head)) for term in terms_of(self.attention, t)], axis=0
            )

    def _seen_by(self, term: Term, cloud: Cloud, of_head: _OfHead) -> Array:
        """Return what of_head is of a head at all targets, which see what is at their positions and before."""
        if not term.masked:
            return of_head(term.head, cloud)
        at, places = cloud.targets, cloud.target_positions
        steps, group = np.unique(places, return_inverse=True)
        order = np.argsort(group, kind="stable")
        found = None
        for s, rows in zip(steps, np.split(order, np.cumsum(np.bincount(group))[:-1]), strict=True):
            seen = cloud.with_(
                at=np.ascontiguousarray(at[:, rows]), weights=self.nodes.seen(float(s))[None], at_positions=places[rows]
            )
            part = of_head(term.head, seen)
            if found is None:
                found = np.empty((len(part), len(places), *part.shape[2:]))
            found[:, rows] = part if term.head.averages else s * part
        assert found is not None, "there are targets"
        return found
