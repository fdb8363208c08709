"""The particle system x_i' = Gamma_mu(x_i): an attention, a measure and a backend bound into a field, and `solve`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, overload

import numpy as np
from numpy.typing import ArrayLike

from ._types import Array, as_tokens
from .attention import small_clouds, warm_start
from .attention.base import Attention, as_attention
from .attention.cloud import Cloud, make_cloud
from .attention.composite import kinds
from .attention.memory import Memory
from .ensemble import EnsembleSolution
from .errors import FieldError, InputError, explained
from .gaussian import Gaussian, GaussianSolution, solve_gaussian
from .integrate import Observer, Problem, Solution, State
from .integrate.options import Options
from .integrate.space import VectorSpace
from .laws import Law
from .manifold import Euclidean, Manifold, Sphere, as_manifold
from .noise import Brownian
from .tangents import run_along, systems_along

if TYPE_CHECKING:
    from .sums.backend import Backend


_SINGLE = 5e-7  # relative error of velocities in float32
_PARTS = 2  # fields of parts of a batch that are kept, per system
_BACKEND = "backend"  # the name of what a backend keeps from one evaluation to the next


class Field:
    """The right-hand side f(t, x, out) of the particle system, an attention with its measure, backend and manifold.

    A call writes the velocities of the tokens x (n, d) or (B, n, d), tangent to their manifold, into `out`.
    """

    def __init__(self, attention: Attention, cloud: Cloud, backend: Backend, manifold: Manifold) -> None:
        self.attention, self.backend, self.manifold = attention, backend, manifold
        self._memory = Memory()
        # Fields of some systems, each with what follows from its parameters.
        self._parts: dict[bytes, Field] = {}
        self.cloud = cloud.with_(memory=self._memory)
        self._varies = not all(p.keeps_shape for p in attention.parameters())
        self.constant = all(p.constant for p in attention.parameters())

    @property
    def memory(self) -> dict[str, Array]:
        """The arrays that attention and backend keep between evaluations: part of the state of an integration."""
        return self._memory.arrays

    @property
    def breaks(self) -> tuple[float, ...]:
        """The times at which the field jumps."""
        return self.attention.breaks

    @property
    def settings(self) -> dict[str, str]:
        """The classes of which the attention is made, "Masked, Softmax", and that of the manifold."""
        return {"attention": ", ".join(kinds(self.attention)), "manifold": type(self.manifold).__name__}

    def stats(self) -> dict[str, float]:
        """Return the counters of the evaluations so far."""
        return self._memory.counters() | self.backend.stats()

    def resolution(self) -> float:
        """Return the relative error that the evaluations so far may have had, 0 for rounding in float64."""
        fast = self.backend.stats().get("fast_sums", 0) > 0
        sums = getattr(self.backend, "tol", 0.0) if fast else 0.0
        return max(sums, _SINGLE if self.cloud.x.dtype == np.float32 else 0.0)

    def failure(self) -> FieldError | None:
        """Return why the last evaluation with finite tokens wrote nan, if an iteration did not converge; else None."""
        return self._memory.failure()

    def failed(self) -> Array:
        """Return the mask (B,) of the systems that failed in the evaluation of `failure`."""
        return self._memory.failed(len(self.cloud.x))

    def __call__(self, t: float, x: Array, out: Array) -> None:
        shape = self.cloud.x.shape
        if self._varies:
            self.check([t])
        self._summed(
            lambda: self.attention._evaluate(self.cloud.with_(x=x.reshape(shape)), t, self.backend, out.reshape(shape))
        )
        self.manifold.project(x, out)

    def _summed(self, work: Callable[[], Any]) -> Any:
        """Return work(), in which the backend goes on from what is remembered of it; then that is remembered."""
        held = self._memory.get(_BACKEND)
        with self.backend.evaluation():
            self.backend.restore(None if held is None else held[0])
            done = work()
            if (found := self.backend.state()) is not None:
                self._memory.put(_BACKEND, np.tile(found, (len(self.cloud.x), 1)))
        return done

    def march(
        self, times: Sequence[Sequence[float]], sizes: Array, a: Array, space: Any, x: Array
    ) -> tuple[int, Array] | None:
        """Move the tokens x (n, d), in place, by steps of a method in one compiled call, with the bits of single steps.

        Args:
            times: (k, S - 1), of the stages of k steps.
            sizes: (k,), of the steps.
            a: (S, S), the coefficients.
            space: the arithmetic that the steps would have.

        Returns:
            How many steps were made, and the largest |entries| at the beginning and after each of them; it ends before
            a step whose result is not finite. None if there is no such call.
        """
        sphere = type(self.manifold) is Sphere
        same = type(space) is VectorSpace and space.retract == (self.manifold.retract if sphere else None)
        if not same or type(self.manifold) not in (Euclidean, Sphere) or self._varies:
            return None
        cloud = self.cloud.with_(x=x.reshape(self.cloud.x.shape))
        return cast(
            "tuple[int, Array] | None",
            self._summed(
                lambda: small_clouds.march(self.attention, cloud, times, sizes, a, self.backend, sphere=sphere)
            ),
        )

    def systems(self, which: Array) -> Field:
        """Return the field of the systems of a batch with the indices `which` (k,); it remembers nothing yet."""
        some = Field(self.attention, self.cloud, self.backend, self.manifold)
        some.select(which)
        return some

    def select(self, which: Array) -> None:
        """Keep only the systems with the indices `which` (k,), and what is remembered of them."""
        cloud, weights = self.cloud, self.cloud.weights
        own = weights if weights is None or len(weights) == 1 else weights[which]
        self.attention, self.cloud = self.attention.system(which), cloud.with_(x=cloud.x[which], weights=own)
        self._memory.select(which)
        self._parts.clear()

    def call_some(self, which: Array, t: float, x: Array, out: Array) -> Array:
        """Write the velocities of the systems with the indices `which`; return the mask (k,) of those that failed."""
        key = which.tobytes()
        if key not in self._parts:
            if len(self._parts) >= _PARTS * len(self.cloud.x):
                self._parts.clear()
            self._parts[key] = self.systems(which)
        part = self._parts[key]
        part._memory.borrow(self._memory, which)
        part(t, x, out)
        self._memory.give_back(part._memory, which, len(self.cloud.x))
        return self.failed()[which]

    def check(self, times: Sequence[float]) -> None:
        """Raise InputError unless the parameters at these times fit the tokens and map R^d to R^d."""
        for t in times:
            self.attention._check(self.cloud.x, t, "x0", square="attention")


def token_axis(name: str) -> int | None:
    """Return the axis of the tokens (n, d) in the array `name` of the `State.parts` of a run; None if it has none."""
    kept = State.remembered(name)
    return State.axis(name) if kept is None else warm_start.token_axis(kept)


def bind(
    attention: Attention,
    x0: Any,
    *,
    weights: Any = None,
    positions: Any = None,
    backend: Any = "auto",
    manifold: Manifold | None = None,
) -> Field:
    """Return the field of an attention for tokens x0 (n, d) or (B, n, d).

    Raises InputError, InputTypeError for arguments that do not fit.
    """
    from .sums import resolve

    as_attention(attention)
    summing = resolve(backend)
    cloud = make_cloud(attention, as_tokens("x0", x0), summing, weights, positions)
    return Field(attention, cloud, summing, manifold or Euclidean())


class Asked(TypedDict, total=False):
    """The options of `solve`, for type checkers."""

    method: str
    step: float | None
    rtol: float
    atol: float
    max_steps: int
    t_eval: Any
    weights: Any
    positions: Any
    manifold: Manifold | None
    noise: float
    seed: int
    first_system: int
    backend: Any
    events: Sequence[Any]
    observers: Sequence[Observer]
    tangents: Any
    log_density: Any
    progress: Any


@overload
def solve(
    attention: Attention, x0: Gaussian, t_span: tuple[float, float], **asked: Unpack[Asked]
) -> GaussianSolution: ...
@overload
def solve(
    attention: Attention, x0: ArrayLike, t_span: tuple[float, float], **asked: Unpack[Asked]
) -> Solution | EnsembleSolution: ...
@explained
def solve(
    attention: Attention,
    x0: Any,
    t_span: tuple[float, float],
    *,
    method: str = "dopri5",
    step: float | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    max_steps: int = 100_000,
    t_eval: Any = None,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    noise: float = 0.0,
    seed: int = 0,
    first_system: int = 0,
    backend: Any = "auto",
    events: Sequence[Any] = (),
    observers: Sequence[Observer] = (),
    tangents: Any = None,
    log_density: Any = None,
    progress: Any = False,
) -> Solution | EnsembleSolution | GaussianSolution:
    """Move tokens by x_i' = Gamma_mu(x_i), mu the law of all tokens, from t_span[0] to t_span[1].

    On a manifold the velocity is projected to the tangent space. With noise dx_i = Gamma_mu(x_i) dt + noise dW_i, W_i
    independent standard Brownian motions in R^d (on a manifold: on it), by the method of Euler-Maruyama ("euler") or
    the stochastic one of Heun ("heun"), of weak order one on a sphere; paths are straight lines within a step.

    Args:
        attention: a variant, `fp.MultiHead` or `fp.Masked`.
        x0: tokens (n, d), or (B, n, d) for B independent systems, each with steps, events and an end of its own;
            float64 or float32. Or `fp.Gaussian(mean, cov)`: leading axes are systems, of a masked attention positions.
        t_span: (t0, t1).
        method: "euler" (one step is one layer), "heun", "rk4", of fixed step; or adaptive: "dopri5", "tsit5", "bosh3".
        step: the step of a fixed-step method; for an adaptive one the first step.
        rtol, atol, max_steps: local error tolerances of the adaptive methods; bound on the number of steps.
        t_eval: times to keep; default: the start and the end.
        weights: (n,) or (B, n), positive, sum 1; default 1/n. For Gaussian laws the masses of the positions.
        positions: (n,) for masked attention; default: the order of tokens or laws.
        manifold: `fp.Euclidean()` (default) or `fp.Sphere()`: tokens of norm 1, kept there to rounding.
        noise: standard deviation per square root of time; more than 0 with "euler" or "heun" only, forward in time.
        seed: of the noise. A token's numbers depend on the seed, the step, its index and its system's number alone.
        first_system: the number of the first system, so that system b of a batch can be run alone, as x0[b].
        backend: as for `Attention.velocity`: "auto" sums to 1e-8, relative, where n is large; "direct" exactly.
        events: `fp.SteadyState`, `fp.BlowUp`, `fp.Collapsed`, or event(t, x) whose change of sign in a step counts.
        observers: `fp.Observer` objects; they never change the result.
        tangents: directions (k, n, d) or (k, B, n, d) of the initial tokens, on a sphere made tangent; the solution has
            the derivatives of its numbers along them, for the steps that it made, and is the same otherwise.
        log_density: log rho_0 (n,) or (B, n) at the tokens, a function of x0 that returns it, or the law of the tokens;
            the solution has that of the density at time t, d/dt log rho = -div Gamma_mu along tokens (on a sphere: on
            it). A step of "euler" is a layer x + h Gamma(x), and its density exact: -log |det(I + h D Gamma)|.
        progress: True for a bar, or a function progress(t, stats); for a batch progress(systems done, stats).

    Returns:
        `Solution` (t (m,), x (m, n, d), ...); for a batch `EnsembleSolution`; for a Gaussian law `GaussianSolution`.
        A Sinkhorn scaling that misses its tol, at t0 too, is `Status.NOT_CONVERGED` of that system; earlier rows stay.

    Raises:
        InputError, InputTypeError: naming the argument, before any work; for a function of time, once it does not fit.
    """
    t_span = cast(Any, tuple(t_span) if isinstance(t_span, Iterable) else t_span)
    asked: dict[str, Any] = {
        "method": method, "step": step, "rtol": rtol, "atol": atol, "max_steps": max_steps, "t_eval": t_eval,
    }  # fmt: skip
    along = {"tangents": tangents, "log_density": log_density}
    if isinstance(x0, Gaussian):
        refuse("a Gaussian law", manifold=manifold, noise=noise, events=events, observers=observers, **along)
        return solve_gaussian(attention, x0, t_span, weights=weights, positions=positions, progress=progress, **asked)
    problem = prepare(
        attention, x0, t_span, weights=weights, positions=positions, manifold=manifold, noise=noise, seed=seed,
        first_system=first_system, backend=backend, events=events, observers=observers, **asked,
    )  # fmt: skip
    if problem.y0.ndim == 3:
        return systems_along(problem, progress, **along)
    masses = cast(Field, problem.field).cloud.weights
    return replace(run_along(problem, progress, **along), weights=None if masses is None else masses[0].copy())


def refuse_law(x0: object) -> None:
    """Raise InputError for a law where tokens are needed; it says what else a law may be given to."""
    if isinstance(x0, Law):
        need = "tokens (n, d)" if isinstance(x0, Gaussian) else "tokens (n, d), or fp.Gaussian(mean, cov)"
        remedy = "Draw tokens, law.sample(n, seed), or follow infinitely many: fp.MeanField(attention, law, t_span)."
        raise InputError("x0", repr(x0), need, remedy)


def prepare(
    attention: Attention,
    x0: Any,
    t_span: tuple[float, float],
    *,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    noise: float = 0.0,
    seed: int = 0,
    first_system: int = 0,
    backend: Any = "auto",
    observers: Any = (),
    **asked: Any,
) -> Problem:
    """Return the checked problem that `solve` integrates for tokens (n, d) or (B, n, d).

    `asked` holds the further arguments of `integrate`, except noise and space. Raises InputError, InputTypeError as
    `solve`.
    """
    refuse_law(x0)
    place, tokens = as_manifold(manifold), as_tokens("x0", x0)
    field = bind(attention, tokens, weights=weights, positions=positions, backend=backend, manifold=place)
    field.check(_ends(t_span))
    start, partition = place.start(tokens), field.cloud.partition
    source = Brownian(noise, seed, first_system=first_system, first_token=partition.first, project=place.project)
    space = place.space(start.shape, start.dtype, partition)
    asked |= {"observers": _told(observers, place, source.noise), "noise": source if source.noise else None}
    problem = Problem.checked(field, start, t_span, Options(**asked, space=space))
    # The field needs the shape of the tokens alone: the caller's array may go.
    field.cloud = field.cloud.with_(x=problem.y0.reshape(field.cloud.x.shape))
    return problem


def _told(observers: Any, manifold: Manifold, noise: float) -> Any:
    """Return the observers, after a call of in_run(manifold, noise) of every callback that has this method.

    What is no observer is left to the checks of `integrate`.
    """
    if not isinstance(observers, Iterable):
        return observers
    observers = list(observers)
    for observer in observers:
        if (told := getattr(getattr(observer, "callback", None), "in_run", None)) is not None:
            told(manifold, noise)
    return observers


def refuse(what: str, **given: Any) -> None:
    """Raise InputError naming an argument that was given although it has no meaning for what moves."""
    for name, value in given.items():
        if value is not None and not (isinstance(value, int | float | np.number | tuple | list) and not value):
            raise InputError(name, "a value", f"none for {what}")


def _ends(t_span: Any) -> list[float]:
    """Return the finite numbers among the ends of a span; others are left to the checks of `integrate`."""
    try:
        return [float(t) for t in t_span if np.isfinite(t)]
    except (TypeError, RuntimeError):  # RuntimeError: tensors with a gradient
        return []
