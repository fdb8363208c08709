"""Derivatives of attention fields: what every attention has, and how heads and masks pass them on.

A `Linearised` is a field at one cloud, ready to be differentiated: one head's follows from its score
(`linearised_head`), sums of heads and masks from those of their parts. All of it is computed in float64.
Source: Theory 12.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Array, as_numbers
from ..errors import InputError
from ..parallel.partition import Partition, Undivided
from ..solutions import brief
from .cloud import Cloud
from .parameters import Parameter

if TYPE_CHECKING:
    from ..sums.backend import Backend

WEIGHTS = "weights"  # the name under which the cotangents of masses stand


@dataclass(frozen=True)
class Pulled:
    """What changes of tokens, targets and parameters do to sum_i <c_i, Gamma_i>, for each of B systems.

    Attributes:
        x: (B, n, d) of the tokens, as sources, and as targets too if they are these.
        at: (B, m, d) of targets that are not the tokens, else None.
        parameters: name -> (B, ...); "weights" (B, n) of the masses of the tokens, where they count.
    """

    x: Array
    at: Array | None
    parameters: dict[str, Array]

    def plus(self, other: Pulled) -> Pulled:
        """Return the sum of two, whose parameters differ in name, but for the masses."""
        both = {**self.parameters, **other.parameters}
        if WEIGHTS in self.parameters and WEIGHTS in other.parameters:
            both[WEIGHTS] = self.parameters[WEIGHTS] + other.parameters[WEIGHTS]
        at = None if self.at is None or other.at is None else self.at + other.at
        return Pulled(self.x + other.x, at, both)

    def named(self, prefix: str) -> Pulled:
        """Return the same with a prefix before the names of parameters."""
        renamed = {name if name == WEIGHTS else f"{prefix}{name}": value for name, value in self.parameters.items()}
        return Pulled(self.x, self.at, renamed)


@dataclass(frozen=True)
class Pullback:
    """The gradient of sum_i <cotangent_i, Gamma_i>, returned by `vjp`.

    Attributes:
        velocity: (m, length) or (B, m, length), the field itself.
        x: (n, d) or (B, n, d), with respect to the tokens, the measure with them.
        at: the same with respect to the points `at`; None if these are the tokens, whose motion is in x then.
        parameters: name -> array of the shape of the parameter's value: "Q", "K", "V", "scale", "bias", "eps", of
            heads "heads[0].Q" and so on, and "W" or "W[0]", ...; "weights" (n,) or (B, n) of the masses of the tokens,
            which are not divided by their sum again. A batch is summed over systems that share a value. Parameters of
            which a subclass makes its score are left out, unless its `pull_score` has them.
    """

    velocity: Array
    x: Array
    at: Array | None
    parameters: dict[str, Array]

    def __repr__(self) -> str:
        return brief(self)


class Linearised(ABC):
    """A field at the tokens and targets of one cloud, in float64, ready for its derivatives."""

    @property
    @abstractmethod
    def field(self) -> Array:
        """The field itself, (B, m, length)."""

    @abstractmethod
    def push(self, dx: Array, dat: Array) -> Array:
        """Return the change of the field (B, m, length) when tokens move by dx (B, n, d) and targets by dat."""

    @abstractmethod
    def pull(self, cotangent: Array) -> Pulled:
        """Return what changes do to the sum over i of <cotangent_i, Gamma_i>, the cotangent being (B, m, length)."""

    @abstractmethod
    def jacobian(self) -> Array:
        """Return D Gamma(x) (B, m, length, d) at the targets, for a fixed measure."""

    def divergence(self) -> Array:
        """Return the trace (B, m) of the Jacobian; length = d."""
        return np.trace(self.jacobian(), axis1=2, axis2=3)


class LinearisedByFields(Linearised):
    """A field whose parameters are not those that its score has.

    Args:
        part: the field; its cotangents are those of what the score has.
        pull_score: returns the cotangents of parameters by name, given those.
    """

    def __init__(self, part: Linearised, pull_score: Callable[[dict[str, Array]], dict[str, Array]]) -> None:
        self._part, self._pull_score = part, pull_score

    @property
    def field(self) -> Array:
        return self._part.field

    def push(self, dx: Array, dat: Array) -> Array:
        return self._part.push(dx, dat)

    def jacobian(self) -> Array:
        return self._part.jacobian()

    def divergence(self) -> Array:
        return self._part.divergence()

    def pull(self, cotangent: Array) -> Pulled:
        found = self._part.pull(cotangent)
        masses = {name: value for name, value in found.parameters.items() if name == WEIGHTS}
        of_score = {name: value for name, value in found.parameters.items() if name != WEIGHTS}
        return replace(found, parameters=self._pull_score(of_score) | masses)


class LinearisedHeads(Linearised):
    """A sum of fields, each behind a matrix W_h (length, dv) or (B, length, dv), or all without.

    The names of parameters are "heads[h].NAME"; the matrices are W, (B, H, length, dv), or W[h].
    """

    def __init__(
        self, parts: Sequence[Linearised], outputs: Sequence[Array] | None, backend: Backend, *, stacked: bool
    ) -> None:
        self._parts, self._outputs, self._backend, self._stacked = parts, outputs, backend, stacked

    @cached_property
    def field(self) -> Array:
        return self._sum(lambda part: part.field)

    def push(self, dx: Array, dat: Array) -> Array:
        return self._sum(lambda part: part.push(dx, dat))

    def jacobian(self) -> Array:
        found: Array | float = 0.0
        for h, part in enumerate(self._parts):
            one = part.jacobian()
            if self._outputs is not None:
                shape = one.shape
                one = through(
                    self._backend, self._outputs[h], one.swapaxes(1, 2).reshape(len(one), shape[2], -1).swapaxes(1, 2)
                )
                one = one.swapaxes(1, 2).reshape(len(one), -1, shape[1], shape[3]).swapaxes(1, 2)
            found = found + one
        return np.asarray(found)

    def divergence(self) -> Array:
        if self._outputs is not None:
            return super().divergence()
        return np.sum([part.divergence() for part in self._parts], axis=0)

    def pull(self, cotangent: Array) -> Pulled:
        found, of_outputs = None, []
        for h, part in enumerate(self._parts):
            own = cotangent
            if self._outputs is not None:
                own = through(self._backend, np.swapaxes(self._outputs[h], -1, -2), cotangent)
                of_outputs.append(self._backend.outer(cotangent, part.field))
            one = part.pull(own).named(f"heads[{h}].")
            found = one if found is None else found.plus(one)
        assert found is not None, "there is at least one head"
        if self._stacked and of_outputs:
            found.parameters["W"] = np.stack(of_outputs, axis=1)
        else:
            found.parameters.update({f"W[{h}]": one for h, one in enumerate(of_outputs)})
        return found

    def _sum(self, of: Callable[[Linearised], Array]) -> Array:
        found: Array | float = 0.0
        for h, part in enumerate(self._parts):
            one = of(part)
            found = found + (one if self._outputs is None else through(self._backend, self._outputs[h], one))
        return np.asarray(found)


class LinearisedMask(Linearised):
    """The field of an attention whose tokens and targets are sorted by position, in the order in which they came."""

    def __init__(self, part: Linearised, cloud: Cloud) -> None:
        seen = cloud.visibility
        assert seen is not None, "a cloud under a mask"
        self._part, own = part, cloud.at is None
        self._of_sources = cloud.partition, seen.order
        self._of_targets = self._of_sources if own else (Undivided(len(seen.limits)), seen.target_order)

    @cached_property
    def field(self) -> Array:
        return _placed(self._part.field, *self._of_targets)

    def push(self, dx: Array, dat: Array) -> Array:
        moved = _sorted(dx, *self._of_sources), _sorted(dat, *self._of_targets)
        return _placed(self._part.push(*moved), *self._of_targets)

    def pull(self, cotangent: Array) -> Pulled:
        found = self._part.pull(_sorted(cotangent, *self._of_targets))
        parameters = dict(found.parameters)
        if WEIGHTS in parameters:
            parameters[WEIGHTS] = _placed(parameters[WEIGHTS], *self._of_sources)
        at = None if found.at is None else _placed(found.at, *self._of_targets)
        return Pulled(_placed(found.x, *self._of_sources), at, parameters)

    def jacobian(self) -> Array:
        return _placed(self._part.jacobian(), *self._of_targets)

    def divergence(self) -> Array:
        return _placed(self._part.divergence(), *self._of_targets)


def through(backend: Backend, matrix: Array, vectors: Array) -> Array:
    """Return matrix (p, q) or (B, p, q) times vectors (B, n, q)."""
    out = np.empty((*vectors.shape[:2], matrix.shape[-2]))
    backend.project(np.ascontiguousarray(vectors), matrix, out)
    return out


def of_columns(backend: Backend, matrix: Array, matrices: Array) -> Array:
    """Return matrix (p, q) or (B, p, q) times matrices (B, n, q, r)."""
    systems, n, q, r = matrices.shape
    columns = matrices.swapaxes(2, 3).reshape(systems, n * r, q)
    return through(backend, matrix, columns).reshape(systems, n, r, -1).swapaxes(2, 3)


def _sorted(rows: Array, partition: Partition, order: Array | None) -> Array:
    return rows if order is None else partition.ordered(np.ascontiguousarray(rows), order, np.empty_like(rows))


def _placed(rows: Array, partition: Partition, order: Array | None) -> Array:
    return rows if order is None else partition.placed(np.ascontiguousarray(rows), order, np.empty_like(rows))


def of_value(p: Parameter, t: float, found: Array) -> Array:
    """Return the cotangents (B, ...) of a parameter in the shape of its value: summed over systems that share it."""
    value = p(t)
    if value.ndim == max(p.axes) and len(value) > 1:
        return found
    return found.sum(axis=0).reshape(value.shape)


def masses_of(cloud: Cloud) -> Array:
    """Return the masses of the tokens, (B, n)."""
    n = cloud.partition.n
    masses = np.full((1, cloud.x.shape[1]), 1.0 / n) if cloud.weights is None else cloud.weights
    return np.broadcast_to(masses, cloud.x.shape[:2])


def widened(cloud: Cloud) -> Cloud:
    """Return a cloud in float64."""
    at = None if cloud.at is None else cloud.at.astype(np.float64)
    return cloud.with_(x=cloud.x.astype(np.float64), at=at)


def as_change(name: str, value: Any, like: Array, need: str) -> Array:
    """Check a change (..., rows, columns) of the shape of `like`; return it as (B, rows, columns) in float64."""
    found = as_numbers(name, value)
    if found.shape != like.shape:
        raise InputError(name, f"shape {found.shape}", f"shape {like.shape}, {need}")
    return found.astype(np.float64).reshape(-1, *like.shape[-2:])


def backend_of(backend: Backend) -> Backend:
    """Return a backend for derivatives. Raises InputError where tokens are shared with other processes."""
    if backend.processes > 1:
        raise InputError("backend", repr(backend), "one process", "Derivatives on ranks are not known yet.")
    return backend
