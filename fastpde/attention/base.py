"""The interface of attention variants: a velocity field Gamma_mu that depends on the law mu of all tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import copy
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import ref

import numpy as np

from .._types import Array, as_gaussian, as_numbers, as_tokens
from ..errors import InputError, InputTypeError, NoGaussianClosure
from .balance import Balance
from .cloud import Cloud, as_points, make_cloud
from .differentiable import Differentiable
from .parameters import Layers, Parameter
from .rates import Rate
from .small_matrices import transposed

if TYPE_CHECKING:
    from ..batches.affine import AffineHeads
    from ..batches.one_call import LayerCalls, OneCall
    from ..batches.reduced_form import ReducedForm
    from ..sums.backend import Backend
    from .energy_forces import Force


KEPT = "_kept"  # how the attributes begin in which an attention keeps what follows from its parameters
_CALL, _LAYERS, _STILL = (f"{KEPT}_{name}" for name in ("call", "layers", "still"))


class Attention(Differentiable):
    """A velocity field Gamma_mu(x) on R^d; subclasses are the variants of Theory 1.1 (Castin et al. 2025).

    Attributes:
        unmaskable: why `Masked` must refuse it; empty: it need not.
    """

    unmaskable: str = ""
    _changes: ClassVar[int] = 0  # how often an attribute of any attention has been set

    @abstractmethod
    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters."""

    def _parameters_of_systems(self, t: float) -> Iterator[Parameter]:
        """Yield all parameters that may have a value for each system at time t."""
        yield from self.parameters()

    @abstractmethod
    def _dimensions(self, t: float) -> tuple[int, int]:
        """Return d of the tokens and the length of the field's vectors, from the parameters at time t.

        Raises InputError naming parameters whose shapes do not fit each other.
        """

    @abstractmethod
    def _evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        """Write Gamma_mu at the targets into out (B, m, length). The arguments have been checked."""

    @abstractmethod
    def _totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        """Yield Z_mu(x) = int weight(s(x, y)) dmu(y) at the targets, (B, m) float64, of each head; inf on overflow."""

    def _log_totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        """Yield the logarithms of `_totals`, which do not overflow; nan where a total is negative."""
        for totals in self._totals(cloud, t, backend):
            with np.errstate(invalid="ignore", divide="ignore"):
                yield np.log(totals)

    def _reduced_form(self, t: float = 0.0) -> ReducedForm | None:
        """Return the field at time t as one reduced form, for the sums over small systems, or None if it has none.

        Masking is left out of it: who wants the field of a masked attention brings the limits.
        """
        return None

    def _made_of(self, t: float) -> Iterator[object]:
        """Yield the objects of which the field at time t is made: the same ones, if it is the same field."""
        for p in self.parameters():
            yield p(t)
        yield from self.__getstate__().values()

    def _layers(self) -> list[Layers]:
        """Return the parameters that depend on time, if the fields of all layers can be prepared by `_layers_form`."""
        return []

    def _layers_form(self, first: int, last: int) -> ReducedForm | None:
        """Return the fields of layers first .. last - 1 as a reduced form that has them as systems, or None."""
        return None

    def _one_call(self, t: float) -> OneCall | None:
        """Return the compiled call that has the field at time t of small systems, or None if it has no reduced form.

        It is made once for each time, and once for all where nothing depends on time. Layers are prepared many at a
        time.
        """
        still, changes = vars(self).get(_STILL), Attention._changes
        if still is not None and still[0] == changes and still[1]() is self:  # not one whose attributes were copied
            return cast("OneCall | None", still[2])
        before, calls = vars(self).get(_LAYERS, (-1, None))
        if before != changes:
            from ..batches.one_call import LayerCalls

            found = self._layers()
            same = len({(len(own), own.t_end) for own in found}) == 1
            calls = LayerCalls(found, self._layers_form, masked=self.masked) if same else None
            vars(self)[_LAYERS] = changes, calls
        if calls is not None:
            return cast("LayerCalls", calls).at(t)
        made_of = tuple(self._made_of(t))
        before, call = vars(self).get(_CALL, ((), None))
        if len(before) == len(made_of) and all(map(is_, before, made_of)):
            return cast("OneCall | None", call)
        from ..batches.one_call import OneCall

        form = self._reduced_form(t)
        call = None if form is None else OneCall(form, masked=self.masked)
        vars(self)[_CALL] = made_of, call
        if all(p.constant for p in self.parameters()):
            vars(self)[_STILL] = changes, ref(self), call
        return call

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self._forget()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._forget()

    def _forget(self) -> None:
        """Forget what followed from the attributes as they were."""
        for kept in [own for own in vars(self) if own.startswith(KEPT)]:
            vars(self).pop(kept, None)
        Attention._changes += 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith(KEPT)}

    def _affine_heads(self) -> AffineHeads | None:
        """Return the field of a Gaussian law as matrices, for many laws at once; None if it varies or is not affine."""
        return None

    def _second_moment_map(self, second: Array, t: float) -> Array:
        """Return M (..., d, d) of the field M x of a measure, whatever its mass, by int y y^T dmu (..., d, d) alone.

        Raises NoGaussianClosure where the field is another.
        """
        raise NoGaussianClosure(
            "masked attention keeps a Gaussian per position only if it is linear attention, or averages and all "
            "positions have the same Gaussian: elsewhere its field is not affine (Theory 2.2)"
        )

    def system(self, b: int | Array) -> Attention:
        """Return the attention of system b of a batch, or of systems b (k,): parameters with a leading axis B at b."""
        return cast(Attention, _of_system(self, b))

    @property
    def masked(self) -> bool:
        """Whether a token sees only those before it, in some head."""
        return False

    @property
    def positional(self) -> bool:
        """Whether positions matter."""
        return self.masked

    @property
    @abstractmethod
    def averages(self) -> bool:
        """Whether the field is V times a weighted average of the tokens: it does not change with the mass of mu."""

    @property
    def mean_free(self) -> bool:
        """Whether the matrix M of its Gaussian closure does not depend on the mean: the covariance moves on its own."""
        return True

    @property
    def never_blows_up(self) -> bool:
        """Whether Gaussian laws exist for ever under it by theory, with constant parameters (Theory 4.5)."""
        return False

    def _score_matrices(self, t: float) -> Iterator[Array]:
        """Yield A (d, d) or (B, d, d) of every head: each term of a Gaussian closure's M is some matrix times its A."""
        raise NoGaussianClosure(f"{type(self).__name__} attention has no Gaussian closure.")

    @property
    def breaks(self) -> tuple[float, ...]:
        """The times at which a parameter jumps."""
        return tuple(sorted(set().union(*{p.breaks for p in self.parameters()})))  # many layers have the same

    def _rates(self, p: Array, t: float) -> Iterator[Rate]:
        """Yield what bounds the field of each head on a ball, for exponents p (k,) of W_p (Theory 8.1, 8.2).

        Raises InputError where no bound is known.
        """
        raise InputError("attention", repr(self), "an attention whose stability is known (Theory 8.1)")

    def stability_rate(self, R: float, p: float = 2.0, t: float = 0.0) -> float:
        """Return L(R), a bound of the rate at which W_p of two measures in the ball of radius R grows; if masked, d_p.

        Raises InputError where no bound is known.

        Source: Theory 8.1.
        """
        return sum(rate.of_distance(float(R)) for rate in self._rates(np.array([float(p)]), float(t)))

    def _energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """Return the energy of Theory 7, its gradient and the field at float64 tokens, which make its rate of change.

        Raises InputError where there is none, or only for a symmetric Q^T K.
        """
        need = "fp.Softmax, fp.Exponential or fp.Sinkhorn, or heads of these: others have no known energy balance"
        raise InputError("attention", repr(self), need)

    def _energy_force(self, cloud: Cloud, t: float, backend: Backend, shift: Array) -> Force:
        """Return F (B, n, d), with its derivative: masses times F are the gradient of e^-shift times the energy.

        The energy is the one of Theory 7, for Sinkhorn heads S_eps; shift (B,). The tokens are float64. Raises
        InputError where it is not known.
        """
        raise InputError("attention", repr(self), "an attention whose energy has a known gradient")

    def _energy_trend(self, t: float) -> int:
        """Return 1 where theory says that the flow ascends that energy, -1 where it descends it, else 0."""
        return 0

    def _gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        """Return Gamma_mu(x) (..., m, length) for mu = N(mean, L L^T) at points x (..., m, d), in closed form."""
        M, c = self._closure(mean, factor, t)
        return x @ transposed(M) + c[..., None, :]

    def affine(self, mean: Any, cov: Any, *, t: float = 0.0) -> tuple[Array, Array]:
        """Return (M, c) of the affine field Gamma_mu(x) = M x + c that mu = N(mean, cov) makes.

        Args:
            mean: (d,), or (..., d): leading axes are systems.
            cov: (d, d) or (..., d, d), symmetric positive semidefinite, of any rank.
            t: time at which the parameters are taken.

        Returns:
            M (..., d, d) and c (..., d), float64: then mean' = M mean + c and cov' = M cov + cov M^T.

        Raises:
            NoGaussianClosure: for an attention that does not keep Gaussians Gaussian, with the reason.
            InputError, InputTypeError: naming the argument.

        Source: Theory 2; Castin et al. 2025.
        """
        mean, factor = as_gaussian(mean, cov)
        self._check_dimension(mean.shape[-1], t, "mean")
        return self._closure(mean, factor, float(t))

    def gaussian_velocity(self, x: Any, mean: Any, cov: Any, *, t: float = 0.0) -> Array:
        """Return Gamma_mu(x) (m, length) float64 of mu = N(mean, cov) at points x (m, d), also where it is not affine.

        Raises: InputError, InputTypeError, naming the argument; NoGaussianClosure where there is no formula.

        Source: Theory 2.
        """
        mean, factor = as_gaussian(mean, cov)
        points = as_numbers("x", x).astype(np.float64)
        if points.ndim < 2 or points.shape[-1] != mean.shape[-1]:
            raise InputError("x", f"shape {points.shape}", f"shape (m, {mean.shape[-1]})")
        self._check_dimension(mean.shape[-1], t, "mean")
        return self._gaussian_field(points, mean, factor, float(t))

    def velocity(
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
        """Return the velocity Gamma_mu at the tokens, or at other points, mu = sum_j w_j delta_{x_j}.

        Args:
            x: tokens (n, d), or (B, n, d) for B independent systems; float64 or float32.
            at: points (m, d) or (B, m, d) at which to evaluate; default: the tokens.
            t: time at which the parameters are taken.
            weights: (n,) or (B, n), positive, sum 1; default 1/n.
            positions: (n,) for masked attention; default: the order of the tokens.
            at_positions: (m,) for masked attention with `at`.
            backend: "auto" sums to a relative error below 1e-8 where there are thousands of tokens and that is faster,
                exactly elsewhere, see `fp.Auto`; "direct" exactly, to rounding; "fast" always as `fp.Fast`; or a
                backend object, whose memory is then reused, by one thread at a time.

        Returns:
            (m, d) or (B, m, d) in the dtype of x. Unnormalised attention returns inf where the value exceeds the dtype.

        Raises:
            InputError, InputTypeError: naming the argument.
        """
        from ..sums import resolve

        tokens, summing = as_tokens("x", x), resolve(backend)
        cloud = make_cloud(self, tokens, summing, weights, positions, as_points(at, tokens), at_positions)
        length = self._check(cloud.x, t)
        out = np.empty((*cloud.targets.shape[:2], length), tokens.dtype)
        with summing.evaluation():
            self._evaluate(cloud, float(t), summing, out)
        return out if tokens.ndim == 3 else out[0]

    def _check_dimension(self, dimension: int, t: float, name: str, *, square: str = "") -> int:
        """Return the field's length. Raises InputError unless the parameters at time t act on R^dimension.

        square: the argument that is the attention, whose field is then refused if its length is another; "": none is.
        """
        if isinstance(t, bool) or not isinstance(t, int | float | np.floating | np.integer):
            raise InputTypeError("t", repr(t), "a number")
        if not np.isfinite(t):
            raise InputError("t", repr(t), "a finite number")
        d, length = self._dimensions(t)
        if d != dimension:
            raise InputError(name, f"dimension {dimension}", f"dimension {d}, the columns of the parameters")
        if square and length != d:
            raise InputError(square, f"a field of length {length}", f"{d}, the dimension of {name}")
        return length

    def _check(self, x: Array, t: float, name: str = "x", *, square: str = "") -> int:
        """Return the field's length. Raises InputError unless the parameters at time t fit tokens (B, n, d).

        square: as of `_check_dimension`.
        """
        length = self._check_dimension(x.shape[2], t, name, square=square)
        for p in self._parameters_of_systems(t):
            systems = p.systems(t)
            if systems not in (1, x.shape[0]):
                raise InputError(p.name, f"values for {systems} systems", f"one for all, or {x.shape[0]} as in {name}")
        return length


def as_attention(value: object, name: str = "attention") -> Attention:
    """Return an attention as it is. Raises InputTypeError, naming `name`, for anything else, its class among them."""
    if not isinstance(value, Attention):
        came = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputTypeError(name, came, "an attention, as fp.Softmax(Q, K, V)")
    return value


def _of_system(value: Any, b: int | Array) -> Any:
    """Return a parameter, an attention or a tuple of them as system b has it, and anything else as it is."""
    if isinstance(value, Parameter):
        return value.system(b)
    if isinstance(value, tuple):
        return tuple(_of_system(item, b) for item in value)
    if isinstance(value, Attention):
        one = copy(value)
        vars(one).update({name: _of_system(item, b) for name, item in one.__getstate__().items()})
        return one
    return value
