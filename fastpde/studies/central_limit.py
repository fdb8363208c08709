"""The central limit of velocities and places of tokens: n times their covariances, predicted by influence functions.

The law of n tokens is near that of nodes z with weights w. A token at z changes what happens to a probe, which has no
mass itself, by IF_z / n, where IF_z = d/dw_z - sum_z' w_z' d/dw_z' is the derivative with respect to weight that goes
to z and comes from all nodes in proportion. So n Cov -> sum_z w_z IF_z IF_z^T, for the velocity at a fixed point and
for the place to which a probe has come at a later time. Under a mask tokens have a few positions, with the same number
of tokens each: there influences are centred in each position. Source: Theory 8.3, 13.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastpde as fp

from .limit_reference import Reference, few_nodes
from .table import Array

TOKENS = 256
_PROBES, _BLOCK = 8, 125  # probes in each cloud; clouds that are moved together
_TINY = 1e-6  # mass of a probe in runs, which know no tokens without mass
_LEVELS = 4  # positions under a mask
_TIMES = 3  # at which places are compared, beside t = 0


def predicted_covariance(attention: fp.Attention, law: fp.laws.Law, x: Array) -> Array:
    """Return the limit (m, d, d) of n Cov Gamma_n(x) at points x (m, d), for n tokens of a law, without positions.

    Integrals are those of a rule with few nodes. Raises InputError for an attention without known derivatives.

    Source: Theory 8.3.
    """
    return _Probed(attention, *few_nodes(law), x).velocities()


def rows(reference: Reference, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table `clt` of a setting: traces of n Cov, predicted and measured, means over some probes.

    They are those of the velocity at t = 0, and of the places of the probes at three later times. Predictions are nan
    for an attention without known derivatives.
    """
    law, count = reference.law, parameters["clt_draws"]
    stream = np.random.default_rng([parameters["seed"], 1])
    probes = law.sample(_PROBES, int(stream.integers(2**62)))
    t = np.linspace(0.0, reference.t[-1], _TIMES + 1)
    step = t[-1] / (_TIMES * -(-parameters["steps"] // _TIMES))  # it divides all these times
    nodes, weights = few_nodes(law)
    levels = _LEVELS if reference.masked else 1
    limit = _Probed(reference.attention, np.tile(nodes, (levels, 1)), np.tile(weights / levels, levels), probes, levels)
    predicted = np.full((len(t), len(probes), law.dimension, law.dimension), np.nan)
    if reference.has_derivatives:
        predicted[0] = limit.velocities()
        predicted[1:] = [limit.places(float(end), step) for end in t[1:]]
    blocks = []
    for first in range(0, count, _BLOCK):
        several = min(_BLOCK, count - first)
        tokens = law.sample(several * TOKENS, int(stream.integers(2**62))).reshape(several, TOKENS, -1)
        blocks.append(_seen(reference.attention, tokens, probes, levels, t, step))
    seen = np.concatenate(blocks, axis=1)  # (times, clouds, probes, d)
    squares = ((seen - seen.mean(axis=1, keepdims=True)) ** 2).sum(axis=3).mean(axis=2)
    squares *= TOKENS * count / (count - 1)
    return [
        {
            **reference.setting._asdict(),
            "what": "place" if k else "velocity",
            "t": float(t[k]),
            "predicted": float(np.trace(predicted[k], axis1=1, axis2=2).mean()),
            "measured": float(squares[k].mean()),
            "error": float(squares[k].std(ddof=1) / np.sqrt(count)),
        }
        for k in range(len(t))
    ]  # fmt: skip


def _positions(levels: int, tokens: int, probes: int) -> tuple[Array, Array] | tuple[None, None]:
    """Return positions of tokens, the same number at each level, and of probes, level by level; None for one level."""
    if levels == 1:
        return None, None
    return np.repeat(np.arange(levels), tokens // levels), np.arange(probes) % levels


@dataclass(frozen=True)
class _Probed:
    """Probes x (m, d) among nodes (q, d) with weights (q,), the same number of them at each of some positions."""

    attention: fp.Attention
    nodes: Array
    weights: Array
    x: Array
    levels: int = 1

    def velocities(self) -> Array:
        """Return the limits (m, d, d) of n Cov of the velocities at the probes."""
        many, there = self._copies(self.x)
        places, at = _positions(self.levels, len(self.nodes), len(self.x))
        found = self.attention.vjp(
            many,
            np.eye(self.x.size).reshape(-1, *self.x.shape),  # one component of one velocity for each system
            at=there,
            weights=np.tile(self.weights, (self.x.size, 1)),
            positions=places,
            at_positions=at,
            backend="direct",
        )
        return self._spread(found.parameters["weights"])

    def places(self, end: float, step: float) -> Array:
        """Return the limits (m, d, d) of n Cov of the places to which probes have come at a time, by steps of rk4."""
        many, there = self._copies(self.x)
        masses = np.concatenate([self.weights * (1.0 - _TINY * len(self.x)), np.full(len(self.x), _TINY)])
        places, at = _positions(self.levels, len(self.nodes), len(self.x))
        wanted = np.zeros((self.x.size, len(masses), self.x.shape[1]))
        wanted[:, len(self.nodes) :] = np.eye(self.x.size).reshape(-1, *self.x.shape)
        found = fp.gradient(
            lambda x: (float(np.vdot(wanted, x)), wanted),
            self.attention,
            np.concatenate([many, there], axis=1),
            (0.0, end),
            weights=np.tile(masses, (self.x.size, 1)),
            positions=None if places is None or at is None else np.concatenate([places, at]),
            method="rk4",
            step=step,
            backend="direct",
        )
        return self._spread(found.parameters["weights"][:, : len(self.nodes)])

    def _copies(self, x: Array) -> tuple[Array, Array]:
        """Return nodes and probes once for each component of a probe."""
        return tuple(np.repeat(each[None], self.x.size, axis=0) for each in (self.nodes, x))  # type: ignore[return-value]

    def _spread(self, changes: Array) -> Array:
        """Return sum_z w_z IF_z IF_z^T (m, d, d) of the derivatives (m d, q) with respect to the weights."""
        w = self.weights.reshape(self.levels, -1)
        influence = changes.reshape(*self.x.shape, *w.shape)
        influence = influence - (influence * w).sum(axis=-1, keepdims=True) / w.sum(axis=1, keepdims=True)
        return np.einsum("palz,pblz,lz->pab", influence, influence, w)


def _seen(attention: fp.Attention, tokens: Array, probes: Array, levels: int, t: Array, step: float) -> Array:
    """Return the velocities at probes (m, d) at t[0], and their places at later times: (times, B, m, d).

    tokens (B, n, d): clouds, each by itself.
    """
    count, n = tokens.shape[:2]
    there = np.repeat(probes[None], count, axis=0)
    places, at = _positions(levels, n, len(probes))
    first = attention.velocity(tokens, at=there, positions=places, at_positions=at, backend="direct")
    masses = np.concatenate([np.full(n, (1.0 - _TINY * len(probes)) / n), np.full(len(probes), _TINY)])
    found: Any = fp.solve(
        attention,
        np.concatenate([tokens, there], axis=1),
        (0.0, float(t[-1])),
        t_eval=t[1:],
        weights=masses,
        positions=None if places is None or at is None else np.concatenate([places, at]),
        method="rk4",
        step=step,
        backend="direct",
    )
    if not found.success:
        need = "strengths at which clouds of 256 tokens can be followed"
        raise fp.InputError("strengths", f"an end at t = {t[-1]:g}", need, found.message)
    return np.concatenate([first[None], found.x[:, :, n:]])
