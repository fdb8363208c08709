"""Gradients of runs: the discrete adjoint of the Runge-Kutta steps that they took.

The gradient is that of the numbers which the run computes, for the steps that it chose: with stages k_s at Y_s,

    kbar_s = h b_s lambda + h sum_{r > s} a_rs Ybar_r,    Ybar_s = J(Y_s)^T kbar_s,    lambda <- lambda + sum_s Ybar_s,

from the last step to the first. States are kept at some steps and computed again between them. Source: Theory 12.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._numbers import whole
from .._types import Array, as_tokens
from ..attention.base import Attention
from ..attention.derivatives import WEIGHTS
from ..ensemble import EnsembleSolution
from ..errors import InputError, explained
from ..gaussian import Gaussian
from ..integrate import Observer, Solution, Status, integrate
from ..integrate.controller import Span
from ..integrate.events import Event, as_event, gradient_of
from ..integrate.methods import TABLEAUX
from ..integrate.options import function, sequence, stepping
from ..integrate.reporting import check_progress, counting, reporting
from ..manifold import Manifold, as_manifold
from ..meanfield import Field, bind, refuse, refuse_law, solve
from ..noise import Brownian
from ..solutions import brief
from .backward import Ending, WayBack
from .law_adjoint import GaussianGradient, gradient_of_law
from .retracing import as_cotangent, as_value
from .snapshots import Snapshots

_MEMORY = 1 << 30  # bytes for states
_WITHOUT = "(x) -> its value and its derivative in x"
_WITH_TIME = "(x, t) -> its value, its derivative in x and that in t"


@dataclass(frozen=True)
class Gradient:
    """The gradient of a loss of a run, or of a batch of runs, returned by `gradient`.

    Attributes:
        value: the loss.
        x0: (n, d) or (B, n, d), its gradient in the initial tokens.
        parameters: name -> gradient, as of `Pullback`, summed over the run; of `Layers` that of the stack (L, ...).
            Parameters that are functions of time are left out.
        solution: the run, or runs.
        stats: steps, velocities and pullbacks that the way back took, kept (states), stride (steps between them).
    """

    value: float
    x0: Array
    parameters: dict[str, Array]
    solution: Solution | EnsembleSolution
    stats: dict[str, int]

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class _Leg:
    """A run of systems that all take the same steps: of one system, or of a batch with fixed steps."""

    field: Field
    kept: Snapshots
    noise: Brownian | None
    of: Any = ...  # the place of its states in those of the batch


@explained
def gradient(
    loss: Callable[..., Any],
    attention: Attention,
    x0: Any,
    t_span: tuple[float, float],
    *,
    t_eval: Any = None,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    noise: float = 0.0,
    seed: int = 0,
    backend: Any = "auto",
    events: Sequence[Any] = (),
    memory: int = _MEMORY,
    progress: Any = False,
    **asked: Any,
) -> Gradient | GaussianGradient:
    """Return a loss of the run of `solve` from x0, and its gradient in x0 and in all parameters.

    Args:
        loss: loss(x) of the final tokens x, of the shape of x0, or with t_eval of all x (m, *shape); returns its value
            and its derivative in x, an array of the shape of x. With events: loss(x, t), t the time of the end, and it
            returns the derivative in t, too. Of a Gaussian law loss(mean, cov), of arrays (d,) and (d, d), or (m, d)
            and (m, d, d), returns its value and the pair of its derivatives; several laws have axes before d.
        x0: tokens (n, d), or (B, n, d) for B systems; float64. Or `fp.Gaussian(mean, cov)`, one law or systems of them.
        events: as of `solve`, for one system, without t_eval. A terminal one needs derivatives of its value:
            `fp.BlowUp` and `fp.Collapsed` have them; a function has an attribute gradient(t, x) -> (derivative in t,
            derivative in x (n, d)). `fp.SteadyState` ends a run with a step, and that step is taken as it is.
        memory: bytes that states of the run may take, beside the stages of one step. With fewer, more are made again.
        progress: of the way back: True for a bar, or a function progress(t, stats), for adaptive steps of a batch
            progress(systems done, stats).
        t_eval, weights, positions, manifold, noise, seed, backend: as of `solve`; the noise is that of the run.
        asked: method, step, rtol, atol and max_steps, as of `solve`.

    Returns:
        a `Gradient`, of a law a `GaussianGradient`: exact, to rounding, for the steps that were taken.

    Raises:
        InputError, InputTypeError: naming the argument; for a run that did not reach the end, with its message.
        NoGaussianClosure: for an attention that does not keep Gaussians Gaussian. ConvergenceError: of a scaling.

    Source: Theory 12.2, 12.4.
    """
    check_progress(progress)
    stepping(gradient, asked)
    memory = whole("memory", memory)
    if isinstance(x0, Gaussian):
        refuse("a Gaussian law", weights=weights, positions=positions, manifold=manifold, noise=noise, events=events)
        return gradient_of_law(loss, attention, x0, t_span, t_eval, memory, progress, asked)
    refuse_law(x0)
    tokens, place = as_tokens("x0", x0), as_manifold(manifold)
    if tokens.dtype != np.float64:
        raise InputError("x0", f"{tokens.dtype}", "float64 tokens")
    watched, kept = _events(events, tokens, t_span, t_eval), Snapshots(tokens.shape, memory)
    function("loss", loss, _WITH_TIME if watched else _WITHOUT)
    given: dict[str, Any] = {"weights": weights, "positions": positions, "backend": backend, "manifold": place}
    if tokens.ndim == 2:
        asked |= {"observers": [Observer(kept.take, steps=1)], "events": watched}
    sol = solve(attention, tokens, t_span, t_eval=t_eval, noise=noise, seed=seed, **given, **asked)
    assert isinstance(sol, Solution | EnsembleSolution), "no Gaussian law"
    _refuse_early(sol, None if t_eval is None else np.size(t_eval))
    moving = bind(attention, tokens, **given)
    source = Brownian(noise, seed, project=place.project) if noise else None
    legs = [_Leg(moving, kept, source)]
    if tokens.ndim == 3:
        legs = list(_legs(moving, place.start(tokens), t_span, source, kept.most, asked))
    ends = np.array([float(t_span[1]) if tokens.ndim == 3 else sol.t_final])
    at, x = (ends, sol.x_final[None]) if t_eval is None else (sol.t, sol.x)
    value, cotangents, of_time = _differentiated(loss, x if t_eval is not None else x[0], ends[0] if watched else None)
    ending = _ending(watched, sol, kept, of_time) if watched and isinstance(sol, Solution) else None
    tableau = TABLEAUX[asked.get("method", "dopri5")]
    backs = [WayBack(leg.field, tableau, leg.kept, leg.noise and leg.noise.free(), ending) for leg in legs]
    of_x0, each = np.empty_like(tokens), []
    for leg, (state, own) in zip(legs, _backwards(backs, legs, at, cotangents.reshape(x.shape), progress), strict=True):
        of_x0[leg.of] = state
        each.append(own)
    parameters = each[0] if len(each) == 1 else _joined(each, moving, t_span[0])
    stats = {name: sum(back.stats[name] for back in backs) for name in backs[0].stats}
    return Gradient(value, of_x0, parameters, sol, stats | {"stride": max(back.stats["stride"] for back in backs)})


def _refuse_early(sol: Solution | EnsembleSolution, times: int | None = None) -> None:
    """Raise InputError for a run that did not reach its end, or the last of so many times."""
    if not sol.success or (times is not None and len(sol.t) != times):
        raise InputError("t_span", f"a run that ended: {sol.message}", "one that reaches its end")


def _legs(
    moving: Field, start: Array, t_span: tuple[float, float], source: Brownian | None, most: int, asked: dict[str, Any]
) -> Iterator[_Leg]:
    """Make the runs of a batch again, and keep their steps: with fixed steps all at once, else one by one.

    most: the number of states of the batch that may be kept.
    """
    together = not TABLEAUX[asked.get("method", "dopri5")].adaptive
    for of in [...] if together else range(len(start)):
        own = moving if together else moving.systems(np.array([of]))
        y = start[of]
        kept = Snapshots(y.shape, most)
        kept.most = most
        space = moving.manifold.space(y.shape, y.dtype)
        watch = [Observer(kept.take, steps=1)]
        _refuse_early(integrate(own, y, t_span, observers=watch, space=space, noise=source, **asked))
        yield _Leg(own, kept, source, of)


def _backwards(
    backs: list[WayBack], legs: list[_Leg], at: Array, cotangents: Array, progress: Any
) -> Iterator[tuple[Array, dict[str, Array]]]:
    """Yield the gradient in the initial tokens and those in the parameters (by name) of each run of `legs`.

    at, cotangents: the times (m,), and the gradients of the loss in the states at these times, of all systems.
    """
    if len(backs) == 1:
        times = legs[0].kept.times
        with reporting(progress, Span(times[-1], times[0])) as report:
            yield backs[0].run(at, cotangents, report)
        return
    with counting(progress, len(backs)) as told:
        for done, (back, leg) in enumerate(zip(backs, legs, strict=True)):
            yield back.run(at, cotangents[:, leg.of], None)
            told(done + 1)


def _joined(each: list[dict[str, Array]], moving: Field, t: float) -> dict[str, Array]:
    """Return the gradients in the parameters of a batch, given those of each of its systems.

    They are summed where systems share a parameter, and stand one after the other where each has its own.
    """
    found: dict[str, Array] = {}
    parameters = dict(moving.attention._named_parameters())
    masses = moving.cloud.weights
    for name in each[0]:
        values = [own[name] for own in each]
        several = masses is not None and len(masses) > 1 if name == WEIGHTS else parameters[name].systems(t) > 1
        if not several:
            found[name] = np.sum(values, axis=0)
        elif name == WEIGHTS or parameters[name].constant:
            found[name] = np.stack(values) if name == WEIGHTS else np.concatenate(values)
        else:  # of layers
            found[name] = np.concatenate(values, axis=1)
    return found


def _events(events: Sequence[Any], tokens: Array, t_span: tuple[float, float], t_eval: Any) -> list[Event]:
    """Return events that a gradient can take. Raises InputError, also where a terminal one has no derivative."""
    found = [as_event(f"events[{i}]", event) for i, event in enumerate(sequence("events", events, "events"))]
    if found and (tokens.ndim == 3 or t_eval is not None):
        raise InputError("events", f"{len(found)}", "none for tokens (B, n, d), or with t_eval")
    for event in found:
        if event.terminal and not event.uses_velocity:
            gradient_of(event, float(t_span[0]), tokens)
    return found


def _ending(events: list[Event], sol: Solution, kept: Snapshots, of_time: float) -> Ending | None:
    """Return the event that has ended a run within a step, and give this step its whole size; None: there is none."""
    if sol.status is Status.COMPLETED or len(kept.times) == 1:
        return None
    hit = next(e for e, times in zip(events, sol.t_events, strict=True) if e.terminal and sol.t_final in times)
    if hit.uses_velocity:
        return None
    kept.times[-1] = kept.times[-2] + float(sol.stats["last_step"])
    return Ending(*gradient_of(hit, sol.t_final, sol.x_final), of_time)


def _differentiated(loss: Callable[..., Any], x: Array, t: float | None) -> tuple[float, Array, float]:
    """Return the value of a loss of x, and of the time t if there is one, and its derivatives."""
    found = loss(x.copy()) if t is None else loss(x.copy(), t)
    count = 2 if t is None else 3
    if not isinstance(found, tuple) or len(found) != count:
        need = "one that returns its value and its derivative in x" + (", and that in t" if count == 3 else "")
        raise InputError("loss", f"a function that returns {found!r:.60}", need)
    c = as_cotangent(found[1], x, "that of x")
    return as_value(found[0]), c, 0.0 if t is None else as_value(found[2], "a derivative in t")
