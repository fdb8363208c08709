"""The measure mu that a field depends on: tokens, their weights, and who sees whom under a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Array, as_positions, as_tokens, as_weights
from ..errors import InputError
from ..parallel.partition import Partition, Undivided
from .memory import Memory

if TYPE_CHECKING:
    from ..sums.backend import Backend
    from .base import Attention


@dataclass(frozen=True)
class Visibility:
    """Who sees whom under a mask: sources in the order of their positions, and how many of them each target sees.

    Sources are all tokens, wherever they are; targets are those of this process.
    """

    order: Array | None  # (n,) source order; None: they are in order
    target_order: Array | None  # (m,) of points that are not the tokens; None: they are in order
    limits: Array  # (m,) int64, non-decreasing
    places: Array  # positions in that order, of the tokens that are here
    target_places: Array | None = None  # the same of points that are not the tokens

    @staticmethod
    def of(positions: Array, at_positions: Array | None = None, partition: Partition | None = None) -> Visibility:
        """Find what targets see: every source at a position <= theirs. Raises InputError if one sees nothing."""
        partition = Undivided(len(positions)) if partition is None else partition
        positions = partition.gathered(positions[None])[0]

        def order(values: Array) -> Array | None:
            return None if np.all(values[:-1] <= values[1:]) else np.argsort(values, kind="stable")

        sources = order(positions)
        ordered = positions if sources is None else positions[sources]
        here = ordered[partition.first : partition.first + partition.here]
        if at_positions is None:
            return Visibility(sources, None, np.searchsorted(ordered, here, side="right").astype(np.int64), here)
        at, targets = at_positions, order(at_positions)
        places = at if targets is None else at[targets]
        limits = np.searchsorted(_exact(ordered, at), _exact(places, ordered), "right")
        if limits[0] == 0:
            need = f"positions >= {ordered[0]}, the first token's, in at_positions"
            raise InputError("at_positions", f"a position of {at.min()}, which sees no token", need)
        return Visibility(sources, targets, limits.astype(np.int64), here, places)


def _exact(positions: Array, other: Array) -> Array:
    """Return positions fit to be compared with others: Python's numbers if NumPy would round large integers."""
    rounded = np.result_type(positions, other).kind == "f" and positions.dtype.kind in "iu"
    return positions.astype(object) if rounded and (np.abs(positions.astype(float)) > 2.0**53).any() else positions


@dataclass(frozen=True)
class Cloud:
    """The measure mu = sum_j w_j delta_{x_j}, and the points where the field is wanted."""

    x: Array  # (B, n, d)
    at: Array | None = None  # (B, m, d); None: the tokens themselves
    weights: Array | None = None  # (1, n) or (B, n) float64; None: 1/n
    visibility: Visibility | None = None  # used by masked attention only
    positions: Array | None = None  # (n,) of the tokens that are here; None: they do not matter
    at_positions: Array | None = None  # (m,) of other targets
    limits: Array | None = None  # (m,) set by masked attention for what it contains
    memory: Memory | None = None  # of the run this evaluation belongs to; None: a single evaluation
    part: Partition | None = None  # which of all tokens x are; None: all

    @property
    def partition(self) -> Partition:
        return Undivided(self.x.shape[1]) if self.part is None else self.part

    @property
    def targets(self) -> Array:
        return self.x if self.at is None else self.at

    @property
    def token_positions(self) -> Array:
        """Positions of the tokens (n,). Raises InputError if there are none."""
        if self.positions is None:
            raise InputError("positions", "none", "positions", "Set `positional = True` in the class of the attention.")
        return self.positions

    @property
    def target_positions(self) -> Array:
        """Positions of the targets (m,). Raises InputError if there are none."""
        if self.at is None or self.at_positions is None:
            return self.token_positions
        return self.at_positions

    def mean(self, values: Array) -> Array:
        """Return int values dmu, (B,), of values at the tokens that are here (B, n)."""
        if self.weights is None:
            return self.partition.sum(values) / self.partition.n
        return self.partition.sum(self.weights * values)

    def with_(self, **changes: Any) -> Cloud:
        # As `dataclasses.replace`, which takes ten times as long: every evaluation makes some clouds.
        other = object.__new__(Cloud)
        other.__dict__.update(self.__dict__, **changes)
        return other

    # -- under a mask -------------------------------------------------------------------------------------------------

    @property
    def is_ordered(self) -> bool:
        """Whether the targets come in the order of their positions."""
        return self._order_of_targets is None

    def ordered(self, backend: Backend) -> Cloud:
        """Return the cloud with sources and targets in the order of their positions, in the backend's memory."""

        def gather(name: str, array: Array, order: Array | None, partition: Partition) -> Array:
            return (
                array
                if order is None
                else partition.ordered(array, order, backend.workspace(name, array.shape, array.dtype))
            )

        seen, partition = self._seen, self.partition
        at = self.at
        return self.with_(
            x=gather("masked_tokens", self.x, seen.order, partition),
            at=None if at is None else gather("masked_points", at, seen.target_order, self._partition_of_targets),
            weights=None if self.weights is None else gather("masked_weights", self.weights, seen.order, partition),
            positions=seen.places,
            at_positions=seen.target_places,
            limits=seen.limits,
        )

    def placed(self, rows: Array, out: Array) -> Array:
        """Write rows of targets, given in the order of their positions, into `out` in the order of the targets."""
        order = self._order_of_targets
        return rows if order is None else self._partition_of_targets.placed(rows, order, out)

    @property
    def _seen(self) -> Visibility:
        if self.visibility is None:
            raise InputError("positions", "none", "positions, as the attention is masked")
        return self.visibility

    @property
    def _order_of_targets(self) -> Array | None:
        return self._seen.order if self.at is None else self._seen.target_order

    @property
    def _partition_of_targets(self) -> Partition:
        """Which of all targets are here: as of the tokens, but other points belong to the process that asks."""
        return self.partition if self.at is None else Undivided(self.targets.shape[1])


def as_points(at: Any, tokens: Array) -> Array | None:
    """Check evaluation points (m, d) or (B, m, d) for tokens of the same kind, or None."""
    if at is None:
        return None
    points = as_tokens("at", at)
    same = (
        points.ndim == tokens.ndim and points.shape[-1] == tokens.shape[-1] and points.shape[:-2] == tokens.shape[:-2]
    )
    if not same:
        need = f"shape ({', '.join(map(str, (*tokens.shape[:-2], 'm', tokens.shape[-1])))})"
        raise InputError("at", f"shape {points.shape}", f"{need}, m points of the same dimension as x")
    return points.astype(tokens.dtype, copy=False)


def make_cloud(
    attention: Attention,
    tokens: Array,
    backend: Backend,
    weights: Any = None,
    positions: Any = None,
    at: Array | None = None,
    at_positions: Any = None,
) -> Cloud:
    """Check a measure, for one evaluation or one run of an attention, and return it."""
    n = tokens.shape[-2]
    partition = backend.partition(n)
    positional = attention.positional
    cloud = Cloud(
        x=tokens.reshape(-1, *tokens.shape[-2:]),
        at=None if at is None else at.reshape(-1, *at.shape[-2:]),
        weights=as_weights(weights, tokens.shape, partition=partition),
        part=partition,
    )
    if not positional:
        for name, value in (("positions", positions), ("at_positions", at_positions)):
            if value is not None:
                raise InputError(name, "a value", "none: this attention does not see them", "Wrap it in fp.Masked.")
        return cloud
    places = (
        partition.first + np.arange(n, dtype=np.float64)
        if positions is None
        else as_positions("positions", positions, n)
    )
    if at is None and at_positions is not None:
        raise InputError("at_positions", "a value", "none without `at`")
    if at is not None and at_positions is None:
        raise InputError("at_positions", "none", "positions (m,) of the points `at`, as the attention sees them")
    at_places = None if at is None else as_positions("at_positions", at_positions, at.shape[-2])
    seen = Visibility.of(places, at_places, partition) if attention.masked else None
    return cloud.with_(visibility=seen, positions=places, at_positions=at_places)
