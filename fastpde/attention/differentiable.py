"""The derivatives of a velocity as users call them: tangents, cotangents, Jacobians, divergences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._types import Array, as_gaussian, as_numbers, as_tokens
from ..errors import ExplainedMethods, InputError, InputTypeError
from .cloud import Cloud, as_points, make_cloud
from .derivatives import WEIGHTS, Linearised, Pullback, as_change, of_value, widened
from .gaussian_field import Affine
from .linearised_law import GaussianPullback, LinearisedLaw
from .parameters import Parameter
from .small_matrices import transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend
    from .base import Attention


class Differentiable(ExplainedMethods, ABC):
    """A field that can be linearised at a cloud."""

    @abstractmethod
    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""

    @abstractmethod
    def _check(self, x: Array, t: float, name: str = "x", *, square: str = "") -> int:
        """Return the field's length. Raises InputError unless the parameters at time t fit tokens (B, n, d)."""

    def _named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield all parameters with the names under which `vjp` returns their cotangents."""
        for p in self.parameters():
            yield p.name, p

    def _linearised(self, cloud: Cloud, t: float, backend: Backend) -> Linearised:
        """Return the field at a cloud in float64, ready for its derivatives. The arguments have been checked.

        Raises InputError where there is none.
        """
        need = "an attention whose derivatives are known: made of heads with scores, as subclasses of fp.SingleHead are"
        raise InputError("attention", repr(self), need)

    def jvp(
        self,
        x: Any,
        dx: Any,
        *,
        at: Any = None,
        dat: Any = None,
        t: float = 0.0,
        weights: Any = None,
        positions: Any = None,
        at_positions: Any = None,
        backend: Any = "auto",
    ) -> tuple[Array, Array]:
        """Return the velocity, and its change to first order when tokens move by dx, the measure with them.

        Args:
            dx: directions (n, d) or (B, n, d) of the tokens.
            dat: directions (m, d) or (B, m, d) of the points `at`; default: they stay. Without `at` the points are
                the tokens.
            x, at, t, weights, positions, at_positions, backend: as of `velocity`.

        Returns:
            velocity and tangent, each (m, d) or (B, m, d), in the dtype of x; computed in float64. Where the velocity
            of unnormalised attention is inf, so is the tangent, or nan where infinite changes of both signs meet.

        Raises:
            InputError, InputTypeError: naming the argument; for a weight function without a known derivative.

        Source: Theory 12.1.
        """
        with self._at_cloud(x, at, t, weights, positions, at_positions, backend) as (tokens, field):
            moved = as_change("dx", dx, tokens, "as x")
            if at is None and dat is not None:
                raise InputError("dat", "a value", "none without `at`: the points are the tokens, and move with dx")
            points = moved if at is None else np.zeros((len(moved), *np.shape(at)[-2:]))
            if dat is not None:
                points = as_change("dat", dat, np.asarray(at), "as at")
            tangent = field.push(moved, points)  # first: it makes the field in the same sums
            return self._given_back(tokens, field.field), self._given_back(tokens, tangent)

    def vjp(
        self,
        x: Any,
        cotangent: Any,
        *,
        at: Any = None,
        t: float = 0.0,
        weights: Any = None,
        positions: Any = None,
        at_positions: Any = None,
        backend: Any = "auto",
    ) -> Pullback:
        """Return the gradient of sum_i <cotangent_i, Gamma_i> in tokens, points and all parameters.

        Args:
            cotangent: (m, d) or (B, m, d), as the velocity.
            x, at, t, weights, positions, at_positions, backend: as of `velocity`.

        Returns:
            a `Pullback`; computed in float64. It has no use where the velocity is inf: entries are inf or nan.

        Raises: as `jvp`.

        Source: Theory 12.1.
        """
        with self._at_cloud(x, at, t, weights, positions, at_positions, backend) as (tokens, field):
            velocity = self._given_back(tokens, field.field)
            found = field.pull(as_change("cotangent", cotangent, velocity, "as the velocity"))
            parameters = self._of_values(found.parameters, t)
            if WEIGHTS in found.parameters:
                masses = found.parameters[WEIGHTS]
                shared = tokens.ndim == 2 or np.ndim(weights) == 1
                parameters[WEIGHTS] = masses.sum(axis=0) if shared else masses
            points = None if found.at is None else self._given_back(tokens, found.at)
            return Pullback(velocity, self._given_back(tokens, found.x), points, parameters)

    def jacobian(
        self,
        x: Any,
        *,
        at: Any = None,
        t: float = 0.0,
        weights: Any = None,
        positions: Any = None,
        at_positions: Any = None,
        backend: Any = "auto",
    ) -> Array:
        """Return the Jacobian D_x Gamma_mu (m, length, d) or (B, m, length, d) at points, for a fixed measure mu.

        Arguments as of `velocity`; raises as `jvp`. Source: Theory 12.1.
        """
        with self._at_cloud(x, at, t, weights, positions, at_positions, backend) as (tokens, field):
            return self._given_back(tokens, field.jacobian())

    def divergence(
        self,
        x: Any,
        *,
        at: Any = None,
        t: float = 0.0,
        weights: Any = None,
        positions: Any = None,
        at_positions: Any = None,
        backend: Any = "auto",
    ) -> Array:
        """Return the divergence of the field at points, (m,) or (B, m), for a fixed measure: the trace of `jacobian`.

        Arguments as of `velocity`. Raises as `jvp`, and InputError for a field whose length is not d. Source: Theory
        12.1.
        """
        with self._at_cloud(x, at, t, weights, positions, at_positions, backend) as (tokens, field):
            d, length = cast("Attention", self)._dimensions(t)
            if length != d:
                came = f"a field of length {length} in dimension {d}"
                raise InputError("attention", came, "one whose length is the dimension of the tokens")
            return self._given_back(tokens, field.divergence())

    # -- Gaussian laws ------------------------------------------------------------------------------------------------

    @abstractmethod
    def _closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """Return (M, c) of the field Gamma(x) = M x + c of N(mean, L L^T), mean (..., d), L (..., d, r), float64.

        Raises NoGaussianClosure where the field is not affine.
        """

    def _linearised_law(self, mean: Array, factor: Array, t: float) -> LinearisedLaw:
        """Return the field of laws N(mean, L L^T), mean (B, d), L (B, d, r), ready for its derivatives.

        Raises NoGaussianClosure where the field is not affine, InputError where its derivatives are not known.
        """
        self._closure(mean, factor, t)
        need = "an attention whose closure has known derivatives: that of its score, of heads or masks of such"
        raise InputError("attention", repr(self), need)

    def gaussian_jvp(
        self, mean: Any, cov: Any, dmean: Any, dcov: Any, *, parameters: Mapping[str, Any] | None = None, t: float = 0.0
    ) -> tuple[Affine, Affine]:
        """Return the affine field (M, c) of N(mean, cov), see `affine`, and its change to first order.

        Args:
            mean, cov, t: as of `affine`.
            dmean, dcov: changes of the shapes of mean and cov, dcov symmetric; also those that raise the rank.
            parameters: name -> change, of the shape of the parameter's value; names as of `vjp`. Others stay.

        Returns:
            (M, c) and (dM, dc), each (..., length, d) and (..., length) float64: the mean and the covariance move with
            mean' = M mean + c and cov' = M cov + cov M^T, whose changes follow by the product rule.

        Raises:
            NoGaussianClosure: for an attention that does not keep Gaussians Gaussian, with the reason.
            InputError, InputTypeError: naming the argument.

        Source: Theory 12.4.
        """
        law, lead = self._law(mean, cov, t)
        B, d = len(law.M), law.M.shape[-1]
        move = _change("dmean", dmean, (*lead, d), "as mean").reshape(B, d)
        widen = _change("dcov", dcov, (*lead, d, d), "as cov").reshape(B, d, d)
        if np.any(np.abs(widen - transposed(widen)) > 1e-12 * np.abs(widen).max(initial=0.0)):
            raise InputError("dcov", "a matrix that is not symmetric", "a symmetric matrix")
        known, changes = dict(self._named_parameters()), {}
        if not isinstance(parameters, Mapping | None):
            raise InputTypeError("parameters", type(parameters).__name__, "a dict, name -> change")
        for name, value in (parameters or {}).items():
            if name not in known:
                raise InputError("parameters", repr(name), f"names among {', '.join(known)}")
            changes[name] = _change(f"parameters[{name!r}]", value, known[name](t).shape, "as its value")
        moved = law.push(move, widen, changes)
        return self._split((law.M, law.c), lead), self._split(moved, lead)

    def gaussian_vjp(self, mean: Any, cov: Any, of_M: Any, of_c: Any, *, t: float = 0.0) -> GaussianPullback:
        """Return the gradient of <of_M, M> + <of_c, c> in mean, covariance and all parameters, M and c as of `affine`.

        Args:
            mean, cov, t: as of `affine`.
            of_M, of_c: (..., length, d) and (..., length), as M and c.

        Returns:
            a `GaussianPullback`.

        Raises: as `gaussian_jvp`.

        Source: Theory 12.4.
        """
        law, lead = self._law(mean, cov, t)
        M, c = self._split((law.M, law.c), lead)
        into_M, into_c = _change("of_M", of_M, M.shape, "as M"), _change("of_c", of_c, c.shape, "as c")
        found = law.pull(into_M.reshape(law.M.shape), into_c.reshape(law.c.shape))
        d = M.shape[-1]
        parameters = self._of_values(found.parameters, t)
        return GaussianPullback(M, c, found.mean.reshape(*lead, d), found.cov.reshape(*lead, d, d), parameters)

    def _law(self, mean: Any, cov: Any, t: float) -> tuple[LinearisedLaw, tuple[int, ...]]:
        """Check the arguments of `affine`; return the field of B laws, and the axes of which B is the product."""
        centre, factor = as_gaussian(mean, cov)
        own = cast("Attention", self)
        own._check_dimension(centre.shape[-1], t, "mean")
        *lead, d = centre.shape
        count = max(p.systems(t) for p in self.parameters())
        if count > 1 and lead not in ([], [count]):
            raise InputError("mean", f"shape {centre.shape}", f"one law, or {count} as the parameters of the attention")
        lead = lead or ([count] if count > 1 else [])
        centre = np.broadcast_to(centre, (*lead, d)).reshape(-1, d)
        factor = np.broadcast_to(factor, (*lead, d, d)).reshape(-1, d, d)
        return self._linearised_law(centre, factor, float(t)), tuple(lead)

    def _of_values(self, found: dict[str, Array], t: float) -> dict[str, Array]:
        """Return cotangents of parameters in the shapes of their values, of those that have one."""
        return {name: of_value(p, t, found[name]) for name, p in self._named_parameters() if name in found}

    @staticmethod
    def _split(field: Affine, lead: tuple[int, ...]) -> Affine:
        M, c = field
        return M.reshape(*lead, *M.shape[1:]), c.reshape(*lead, *c.shape[1:])

    @contextmanager
    def _at_cloud(
        self, x: Any, at: Any, t: float, weights: Any, positions: Any, at_positions: Any, backend: Any
    ) -> Iterator[tuple[Array, Linearised]]:
        """Check the arguments of `velocity`; return a context with the tokens and the field, ready for derivatives."""
        from ..sums import resolve

        tokens, summing = as_tokens("x", x), resolve(backend)
        cloud = make_cloud(
            cast("Attention", self), tokens, summing, weights, positions, as_points(at, tokens), at_positions
        )
        self._check(cloud.x, t)
        with summing.evaluation(), np.errstate(over="ignore", invalid="ignore"):  # of sums without a denominator
            yield tokens, self._linearised(widened(cloud), float(t), summing)

    @staticmethod
    def _given_back(tokens: Array, found: Array) -> Array:
        found = found.astype(tokens.dtype, copy=False)
        return found if tokens.ndim == 3 else found[0]


def _change(name: str, value: Any, shape: tuple[int, ...], need: str) -> Array:
    """Check a change or a cotangent; return it in float64. Raises InputError, InputTypeError."""
    found = as_numbers(name, value).astype(np.float64)
    if found.shape != shape:
        raise InputError(name, f"shape {found.shape}", f"shape {shape}, {need}")
    return found
