"""Points with weights that stand for a law, or for the laws of all positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..laws import Law
from .position_rule import PositionRule
from .setting import Setting

SCRAMBLES = 8  # independent Sobol sequences: enough to tell their spread
_POSITIONS = 12  # of Sobol points: smooth functions of s are known to 1e-7 then

OfLaw = Callable[[Law, int], tuple[Array, Array]]


@dataclass(frozen=True)
class NodeSets:
    """Independent sets of nodes with the same weights. Each set stands for the law; results are means over the sets.

    Attributes:
        x: (S, q, d), S sets of q nodes, those of each position one after the other.
        weights: (q,), positive, sum 1.
        rule: the rule of positions; None: they do not matter.
        counts: (P,) how many nodes each position has.
        of_law: of_law(law, b) returns the nodes (S, n, d) and weights (n,) that stand for one law, the b-th.
    """

    x: Array
    weights: Array
    rule: PositionRule | None
    counts: tuple[int, ...]
    of_law: OfLaw

    @property
    def count(self) -> int:
        """The number of nodes of a set, q."""
        return len(self.weights)

    @property
    def places(self) -> Array | None:
        """The position of each node (q,)."""
        return None if self.rule is None else np.repeat(self.rule.s, self.counts)

    def seen(self, s: Array) -> Array:
        """Return the weights (k, q) of the nodes in averages over all positions up to s (k,); some may be negative."""
        assert self.rule is not None, "positions matter"
        return np.repeat(self.rule.average(s) / self.rule.weights, self.counts, axis=1) * self.weights

    def moments(self, x: Array, places: Array) -> tuple[Array, Array]:
        """Return means (k, d) and covariances (k, d, d) at positions places (k,) of nodes (S, q, d) that are at x."""
        ends = np.cumsum(self.counts)[:-1]
        parts = zip(np.split(x, ends, axis=1), np.split(self.weights, ends), strict=True)
        means, covs = zip(*(_moments(each, w / w.sum()) for each, w in parts), strict=True)
        along = np.ones((len(places), 1)) if self.rule is None else self.rule.interpolation(places)
        return along @ np.array(means), np.tensordot(along, np.array(covs), 1)


def by_rule(setting: Setting, m: int) -> NodeSets:
    """Return the nodes of rules of m points per axis, and of m positions where these differ.

    Raises InputError where a law has no rule, or its nodes are too many.
    """

    def nodes(law: Law, b: int) -> tuple[Array, Array]:
        x, w = law.nodes(m)
        return x[None], w

    return _gathered(setting, m, nodes)


def by_sobol(setting: Setting, n: int) -> NodeSets:
    """Return 8 sets of n scrambled Sobol points at each position."""

    def scrambles(law: Law, b: int) -> tuple[Array, Array]:
        seeds = range(1 + b * SCRAMBLES, 1 + (b + 1) * SCRAMBLES)
        return np.array([law.sobol(n, seed) for seed in seeds]), np.full(n, 1.0 / n)

    return _gathered(setting, _POSITIONS, scrambles)


def _gathered(setting: Setting, positions: int, of_law: OfLaw) -> NodeSets:
    """Return the nodes of all positions."""
    rule = PositionRule(1 if setting.stays_one_law else positions) if setting.positional else None
    places, masses = (np.array([0.5]), np.ones(1)) if rule is None else (rule.s, rule.weights)
    found = [of_law(setting.law_at(float(s)), b) for b, s in enumerate(places)]
    weights = [mass * w for mass, (_, w) in zip(masses, found, strict=True)]
    x = np.concatenate([x for x, _ in found], axis=1)
    return NodeSets(x, np.concatenate(weights), rule, tuple(map(len, weights)), of_law)


def _moments(x: Array, w: Array) -> tuple[Array, Array]:
    """Return the mean (d,) and the covariance (d, d) of all sets of nodes x (S, q, d) with weights w (q,) together."""
    mean = w @ x.mean(axis=0)
    away = x - mean
    return mean, np.einsum("q,sqi,sqj->ij", w, away, away) / len(x)
