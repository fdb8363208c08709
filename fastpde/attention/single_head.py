"""Attention with one score: parameters in, a `Score` out, and all that an attention has derived from that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import weights
from .._types import Array
from ..batches import affine
from ..batches.affine import AffineHeads
from ..batches.reduced_form import ReducedForm
from ..errors import InputError
from . import balance, energy_forces, gaussian_field, layered, rates, small_clouds
from .base import KEPT, Attention
from .cloud import Cloud
from .derivatives import Linearised, LinearisedByFields
from .energy_forces import Force
from .gaussian_field import Affine
from .gaussian_maps import map_of
from .linearised_head import LinearisedHead
from .linearised_law import LinearisedLaw, LinearisedLawOfHead
from .parameters import Layers, Parameter, Value, column, matrix, scalar
from .score import Score
from .small_matrices import one_head, product, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend


class SingleHead(Attention):
    """Gamma_mu(x) = V int y w(s(x,y)) dmu(y), divided by int w(s(x,y)) dmu(y) if normalised.

    A variant is a subclass: its `weight`, whether it is `normalised`, whether its score is `positional`, which depends
    on the positions of tokens, parameters of its own if it has some, and a `score` if it is not scale <Qx, Ky>, which
    depends on the time by the parameters alone. Everything else follows, see `score.Score`.
    """

    weight: Any = weights.Exp()
    normalised: bool = True
    positional: bool = False  # type: ignore[assignment]

    def __init__(
        self, Q: Value, K: Value, V: Value, scale: Value = 1.0, *, weight: weights.Weight | None = None
    ) -> None:
        """Make a head of Q, K (k, d), V (d, d), in MultiHead (dv, d), and a number scale. Each may be one value for
        all, one per system (leading axis B), a function of time, or `Layers`. weight: instead of the variant's own.

        Raises InputError, InputTypeError: for shapes that do not fit and numbers that are not finite.
        """
        self.Q, self.K, self.V = matrix("Q", Q), matrix("K", K), matrix("V", V)
        self.scale = scalar("scale", scale)
        if weight is not None:
            weights.check(weight, own=True)
            self.weight = weight
        weights.check(self.weight)
        if all(p.constant for p in self.parameters()):
            self._dimensions(0.0)

    def __repr__(self) -> str:
        told = [_describe(p) for p in self.parameters()]
        told += [f"weight={self.weight!r}"] if isinstance(self.weight, weights.Weight) else []
        return f"{type(self).__name__}({', '.join(told)})"

    def score(self, t: float) -> Score:
        """Return the score at time t."""
        return Score(self.Q(t), self.K(t), self.V(t), self.scale(t), self.weight, self.normalised)

    def _score(self, t: float) -> Score:
        """Return the score, made once where nothing depends on time."""
        made_of = (*self.parameters(), self.weight, self.normalised)
        before, score = vars(self).get(KEPT, ((), None))
        # A copy that was given other parameters has what was kept of the old ones.
        if score is not None and len(before) == len(made_of) and all(map(is_, before, made_of)):
            return cast(Score, score)
        found = self._as_declared(self.score(t))
        if self.constant:
            vars(self)[KEPT] = made_of, found
        return found

    def _as_declared(self, score: Score) -> Score:
        """Return a score. Raises InputError unless the class says what it is: other code asks the class alone."""
        for name in ("weight", "normalised", "positional"):
            found, said = getattr(score, name), getattr(self, name)
            if type(found) is not type(said) or found != said:
                came = f"{type(self).__name__}.{name} = {said!r}, and {found!r} in its score"
                raise InputError("attention", came, "one of both", f"Set `{name} = {found!r}` in the class.")
        return score

    def parameters(self) -> Iterator[Parameter]:
        yield from (self.Q, self.K, self.V, self.scale)

    def pull_score(self, found: dict[str, Array], t: float) -> dict[str, Array]:
        """Return the cotangents (B, ...) of parameters by name, given those of Q, K, V, scale and bias of the score.

        A parameter that is one of these fields has that of the field. A subclass whose score is made of other
        parameters adds theirs by the chain rule; those that this leaves out have no gradient.
        """
        return {name: found[name] for name in self._plain_parameters(t) if name in found}

    def _plain_parameters(self, t: float) -> list[str]:
        """Return the names of the parameters that the score has as they are."""
        score = self._score(t)
        return [p.name for p in self.parameters() if getattr(score, p.name, None) is p(t)]

    @property
    def constant(self) -> bool:
        """Whether no parameter is a function of time."""
        return all(p.constant for p in self.parameters())

    def _dimensions(self, t: float) -> tuple[int, int]:
        Q, K, V = self.Q(t), self.K(t), self.V(t)
        if K.shape[-2:] != Q.shape[-2:]:
            raise InputError("K", f"shape {K.shape}", f"rows and columns as Q, {Q.shape[-2:]}")
        if V.shape[-1] != Q.shape[-1]:
            raise InputError("V", f"shape {V.shape}", f"{Q.shape[-1]} columns, as Q")
        return Q.shape[-1], V.shape[-2]

    @property
    def averages(self) -> bool:
        return self.normalised

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        if not small_clouds.evaluate(self, cloud, t, backend, out):
            self._score(t).evaluate(cloud, backend, out)

    def _linearised(self, cloud: Cloud, t: float, backend: Backend) -> Linearised:
        found = LinearisedHead(self._score(t), cloud, backend)
        return found if layered.is_ours(self) else LinearisedByFields(found, lambda of: self.pull_score(of, t))

    def _totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        if not weights.is_positive(self.weight):
            yield self._score(t).totals(cloud, backend)
            return
        for logs in self._log_totals(cloud, t, backend):
            with np.errstate(over="ignore"):
                yield np.exp(logs)

    def _log_totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        if weights.is_positive(self.weight):
            yield self._score(t).log_totals(cloud, backend)
        else:
            yield from super()._log_totals(cloud, t, backend)

    def _layers(self) -> list[Layers]:
        return layered.layers_of(self.parameters()) if layered.is_ours(self) else []

    def _layers_form(self, first: int, last: int) -> ReducedForm | None:
        return layered.form_of(self, None, first, last)

    def _reduced_form(self, t: float = 0.0) -> ReducedForm | None:
        moments = isinstance(self.weight, weights.Linear)  # cheaper than pairs
        own = type(self)._evaluate is not SingleHead._evaluate  # of a subclass, which nothing here knows
        if own or self.positional or moments:
            return None
        score = self._score(t)
        exact = score.shifts or not (score.distance or score.normalised)
        if not (exact and score.has_matrix):
            return None
        D = None
        if score.distance:
            turned = 2 * column(score.scale) * transposed(score.K)
            A, E, D = (one_head(product(turned, m)) for m in (score.Q, score.Q - score.K, score.K / 2))
        else:
            A = E = one_head(score.matrix)
        bias = np.reshape(score.bias, (-1, 1))
        return ReducedForm(score.weight, score.normalised, A, E, one_head(score.V), bias, D)

    # -- Gaussian laws ------------------------------------------------------------------------------------------------

    def _closure(self, mean: Array, factor: Array, t: float) -> Affine:
        return gaussian_field.closure(self._score(t), mean, factor, type(self).__name__)

    def _linearised_law(self, mean: Array, factor: Array, t: float) -> LinearisedLaw:
        if type(self)._closure is not SingleHead._closure:  # of a subclass, which nothing here knows
            return super()._linearised_law(mean, factor, t)
        score = self._score(t)
        gaussian_field.closure(score, mean, factor, type(self).__name__)  # raises where there is none
        kind = affine.TILT if score.shifts else affine.LINEAR
        law = map_of(kind, 0, score.linear, score.curvature, mean, factor)
        return LinearisedLawOfHead(score, law, lambda of: self.pull_score(of, t), self._plain_parameters(t))

    def _gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        score = self._score(t)
        if gaussian_field.is_affine(score):
            return super()._gaussian_field(x, mean, factor, t)
        return gaussian_field.field(score, x, mean, factor)

    def _second_moment_map(self, second: Array, t: float) -> Array:
        score = self._score(t)
        if gaussian_field.is_linear(score):
            return gaussian_field.second_moment_map(score, second)
        return super()._second_moment_map(second, t)

    def _affine_heads(self) -> AffineHeads | None:
        if not self.constant or self.positional:
            return None
        score = self._score(0.0)
        if not (score.shifts or gaussian_field.is_linear(score)):
            return None
        kind = affine.TILT if score.shifts else affine.LINEAR
        D = None if score.curvature is None else one_head(score.curvature)
        return AffineHeads((kind,), (0,), one_head(score.linear), one_head(score.V), D)

    @property
    def mean_free(self) -> bool:
        return not isinstance(self.weight, weights.Linear)

    @property
    def never_blows_up(self) -> bool:
        """Averages by distances with K injective: |M| <= |V| |Q| / sigma_min(K)."""
        if not self.constant or self.positional:
            return False
        score = self._score(0.0)
        injective = np.all(np.linalg.matrix_rank(score.K) == score.K.shape[-1])
        return bool(score.shifts and score.distance and injective and np.all(score.scale > 0.0))

    def _score_matrix(self, t: float) -> Array:
        """Return A (d, d) or (B, d, d) of the product scale <Qx, Ky> = <A x, y>."""
        return self._score(t).matrix

    def _score_matrices(self, t: float) -> Iterator[Array]:
        yield self._score_matrix(t)

    # -- bounds and energies ------------------------------------------------------------------------------------------

    def _rates(self, p: Array, t: float, W: Sequence[Array] = ()) -> Iterator[rates.Rate]:
        """Yield what bounds the field times the product of the matrices W."""
        found = rates.of_score(self._score(t), p, W)
        if found is None:
            yield from super()._rates(p, t)
        else:
            yield found

    def _energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> balance.Balance:
        score = self._score(t)
        if not balance.has_energy(score):
            return super()._energy_balance(cloud, t, backend)
        self._check_symmetry(t)
        return balance.balance(score, cloud, backend)

    def _energy_force(self, cloud: Cloud, t: float, backend: Backend, shift: Array, masked: bool = False) -> Force:
        return energy_forces.of_score(self._score(t), cloud, backend, shift, masked)

    def _energy_trend(self, t: float) -> int:
        return self._work_sign(t) if self.constant and balance.has_energy(self._score(t)) else 0

    def _check_symmetry(self, t: float) -> None:
        """Raise InputError unless A is symmetric to rounding, be it too large or small for a number or not."""
        if not self._score(t).is_symmetric:
            need = "Q^T K symmetric: there is no energy balance otherwise (Theory 7)"
            raise InputError("attention", repr(self), need)

    def _work_sign(self, t: float) -> int:
        """Return the sign of <A m, V m> for every m, see `Score.work_sign`; 0 where parameters vary with time."""
        return self._score(t).work_sign() if self.constant else 0


def _describe(p: Parameter) -> str:
    value = p.source
    if callable(value):
        return f"{p.name}={getattr(value, '__name__', type(value).__name__)}"
    return f"{p.name}={value.item()}" if value.ndim == 0 else f"{p.name}{value.shape}"
