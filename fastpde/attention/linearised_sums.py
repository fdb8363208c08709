"""Sums over one index of the weights of a head, and of their derivatives, for every value of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .._types import Array
from ..parallel.partition import Partition, Undivided
from ..sums.pair_sum import PairSum, SecondScore
from .cloud import Cloud
from .derivatives import masses_of

if TYPE_CHECKING:
    from ..sums.backend import Backend


class Sums:
    """Sums over one index of p and p' for every value of the other.

    Args:
        pair: the sum with the weight w; its values are replaced.
        scaled: (B, n, 1), what columns are multiplied by; None: nothing.
        after: (B, m, 1), what results are multiplied by; None: nothing.
        turned: turned(rows) brings rows (B, n, ...) into the order of the pair, which is its own inverse; None: they
            are in that order.
        history: history(kind) counts the sums of a kind in a run, see `PairSum.history`; None: each is a single one.
    """

    def __init__(
        self,
        backend: Backend,
        pair: PairSum,
        scaled: Array | None = None,
        after: Array | None = None,
        *,
        turned: Callable[[Array], Array] | None = None,
        history: Callable[[str], Array] | None = None,
    ) -> None:
        self._history = history
        self._backend, self._pair, self._scaled, self._after = backend, pair, scaled, after
        self._turned: Callable[[Array], Array] = np.ascontiguousarray if turned is None else turned
        slope = weights.slope_of(pair.weight)
        self._slope = pair if weights.is_exponential(pair.weight) else replace(pair, weight=slope)
        if isinstance(pair.weight, weights.Linear):  # w' = 1, as the linear weight of the score 1
            targets, keys = (np.ones((*a.shape[:2], 1), a.dtype) for a in (pair.targets, pair.keys))
            self._slope = replace(self._slope, targets=targets, keys=keys)

    def over_targets(self, cloud: Cloud, logs: Array | None, history: Callable[[str], Array] | None = None) -> Sums:
        """Return the sums over targets of the same weights, for every source; these are sums over sources of a cloud.

        logs: (B, m) of the totals by which the weights are divided. Under a mask the last targets see a source.
        """
        pair = self._pair
        y, z, bias = pair.keys, pair.targets, None if logs is None else -logs
        if pair.bias is not None:  # of a source: one more coordinate of its key
            y = np.concatenate([y, pair.bias[:, :, None]], axis=2)
            z = np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)
        partition = cloud.partition if cloud.at is None else Undivided(z.shape[1])
        after, limits, turned = None, None, None  # a mean over targets, times their number and the mass of the source
        if cloud.weights is not None or partition.n != cloud.partition.n:
            after = partition.n * masses_of(cloud)[:, :, None]
        if cloud.limits is not None:
            own = cloud.partition
            places = own.first + np.arange(own.here)
            seen_by = partition.n - np.searchsorted(partition.gathered(cloud.limits[None])[0], places, "right")
            after = np.where((seen_by > 0)[:, None], 1.0 if after is None else after, 0.0)
            turned = partial(_reversed, own)
            limits = turned(np.maximum(seen_by, 1)[None])[0].astype(np.int64)
            y, z, bias = turned(y), turned(z), None if bias is None else turned(bias)
        there = PairSum(pair.weight, False, y, z, None, bias, None, limits)
        return Sums(self._backend, there, self._after, after, turned=turned, history=history)

    def plain(self, columns: Array, logs: Array | None = None) -> Array:
        """Return sum p columns, (B, m, c); write the logs of the total weights into `logs` (B, m)."""
        return self._sum(self._pair, columns, logs)

    def slope(self, columns: Array) -> Array:
        """Return sum p' columns, (B, m, c)."""
        return self._sum(self._slope, columns)

    def both(self, columns: Array, a: Array, b: Array, others: Array, logs: Array | None = None) -> tuple[Array, Array]:
        """Return sum p columns (B, m, c), and sum p' <a, b> [others, 1] (B, m, e + 1), of a (B, m, q) and b (B, n, q).

        The logs of the total weights go into `logs` (B, m).
        """
        if isinstance(self._pair.weight, weights.Linear):  # w' = 1: the second score is a linear one by itself
            pair = replace(self._pair, targets=self._turned(a), keys=self._turned(self._times(b)))
            ones = np.ones((*others.shape[:2], 1))
            return self.plain(columns, logs), self._sum(pair, np.concatenate([others, ones], axis=2), scaled=False)
        apart = self._slope is not self._pair
        first = columns[:, :, :0] if apart else columns
        second = SecondScore(self._turned(a), self._turned(self._times(b)), self._turned(others))
        pair = replace(self._slope, values=self._turned(self._times(first)), history=self._counted("second"))
        out, out_second = (np.empty((*pair.targets.shape[:2], c)) for c in (first.shape[2], others.shape[2] + 1))
        self._backend.attend_second(pair, second, out, out_second, logs)
        return self.plain(columns, logs) if apart else self._finished(out), self._finished(out_second)

    @property
    def products_pay(self) -> bool:
        """Whether `products` is the better way to sums of p' with a second score."""
        return self._slope is self._pair and self._backend.products_pay(self._pair)

    def products(self, columns: Array | None, logs: Array | None = None) -> tuple[Array, Array]:
        """Return sum p columns (B, m, c), and sum p columns y^T (B, m, c, k) with the keys y; columns None: the keys.

        The logs of the total weights go into `logs` (B, m).
        """
        values = None if columns is None else self._turned(self._times(columns))
        pair = replace(self._pair, values=values, products=True)
        c, k = pair.own.shape[2], pair.keys.shape[2]
        out = np.empty((*pair.targets.shape[:2], pair.width))
        self._backend.attend(replace(pair, history=self._counted("products")), out, logs)
        found = self._finished(out)
        return found[:, :, :c], found[:, :, c:].reshape(*out.shape[:2], c, k)

    def _sum(self, pair: PairSum, columns: Array, logs: Array | None = None, *, scaled: bool = True) -> Array:
        out = np.empty((*pair.targets.shape[:2], columns.shape[2]))
        if not out.shape[2] and logs is None:
            return out
        kind = "plain" if pair is self._pair else "slope"
        values = self._turned(self._times(columns) if scaled else columns)
        self._backend.attend(replace(pair, values=values, history=self._counted(kind)), out, logs)
        return self._finished(out)

    def _counted(self, kind: str) -> Array | None:
        return None if self._history is None else self._history(kind)

    def _times(self, columns: Array) -> Array:
        return columns if self._scaled is None else columns * self._scaled

    def _finished(self, out: Array) -> Array:
        out = self._turned(out)
        if self._after is None:
            return out
        if self._pair.limits is not None:  # what no target sees may have overflowed, and 0 inf would be nan
            out = np.where(self._after == 0.0, 0.0, out)
        return out * self._after


def contracted(products: Array, a: Array) -> Array:
    """Return sum_q products[..., q, :] a[..., q] (B, m, k) of products (B, m, q, k) and a (B, m, q)."""
    found = np.empty((*a.shape[:2], products.shape[3]))
    for k in range(products.shape[3]):  # five times as fast as all at once
        np.einsum("bmq,bmq->bm", products[..., k], a, out=found[..., k])
    return found


def _reversed(partition: Partition, rows: Array) -> Array:
    """Return rows (B, n, ...) from the last to the first of all tokens."""
    if partition.whole:
        return np.ascontiguousarray(rows[:, ::-1])
    return partition.ordered(np.ascontiguousarray(rows), np.arange(partition.n)[::-1], np.empty_like(rows, order="C"))
