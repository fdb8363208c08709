"""The problem that is to be integrated, with every argument checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpde._numbers import one_of, positive, show, whole
from fastpde._times import break_points
from fastpde.errors import InputError, InputTypeError
from fastpde.integrate.breaks import Breaks
from fastpde.integrate.controller import FixedStep, PIController, Span
from fastpde.integrate.events import Event, as_event
from fastpde.integrate.methods import METHODS, NOISY, TABLEAUX
from fastpde.integrate.observers import Observer
from fastpde.integrate.options import Options, function, output_times, sequence, time_span
from fastpde.integrate.options import state as check_state
from fastpde.integrate.space import VectorSpace
from fastpde.integrate.stepper import Field, Noise
from fastpde.integrate.tableau import Tableau

_MOST_STEPS = 2.0**53  # beyond that, the number of a step is no exact float


@dataclass(frozen=True)
class Problem:
    """An initial value problem with all that has been asked for about its solution, checked.

    Attributes:
        batch: whether the first axis of y0 counts systems that go their own ways, see `calls.BatchField`.
    """

    field: Field
    y0: np.ndarray
    span: Span
    tableau: Tableau
    controller: PIController | FixedStep
    first_step: float  # signed; 0.0: to be chosen
    max_steps: int
    t_eval: np.ndarray | None
    events: tuple[Event, ...]
    observers: tuple[Observer, ...]
    space: Any
    breaks: Breaks
    noise: Noise | None = None
    batch: bool = False

    @classmethod
    def checked(cls, field: object, y0: object, t_span: object, options: Options) -> Problem:
        """Check all arguments and return the problem, or raise before any work.

        Raises:
            InputError, InputTypeError: an argument cannot be used; `name` says which.
        """
        tableau = TABLEAUX[one_of("method", options.method, METHODS)]
        span = Span(*time_span("t_span", t_span))
        y = check_state("y0", y0)
        noise = _noise(options.noise, tableau, span)
        breaks = Breaks(break_points("field.breaks", getattr(field, "breaks", ())), span)
        controller, step = _control(tableau, span, options, breaks)
        return cls(
            field=function("field", field, "(t, y, out) that writes f(t, y) into out"),
            y0=y,
            span=span,
            tableau=tableau,
            controller=controller,
            first_step=step,
            max_steps=whole("max_steps", options.max_steps),
            t_eval=output_times("t_eval", options.t_eval, span),
            events=tuple(
                as_event(f"events[{i}]", event) for i, event in enumerate(sequence("events", options.events, "events"))
            ),
            observers=_observers(options.observers, span),
            space=_space(options.space, y),
            breaks=breaks,
            noise=noise,
        )

    @property
    def times(self) -> np.ndarray:
        """The times (m,) at which states are kept: t_eval, or the start and the end."""
        if self.t_eval is not None:
            return self.t_eval
        return np.array([self.span.start, self.span.end] if self.span.start != self.span.end else [self.span.start])

    @property
    def settings(self) -> dict[str, Any]:
        """The name of the method, the tolerances or the step that were asked for, the noise, and what the field says
        of itself in its own `settings`.
        """
        rule = self.controller
        knobs = {"rtol": rule.rtol, "atol": rule.atol} if isinstance(rule, PIController) else {"step": rule.step}
        noise = getattr(self.noise, "noise", 0.0)
        knobs |= {"noise": noise} if noise else {}
        return {"method": self.tableau.name, **knobs, **getattr(self.field, "settings", {})}


def _control(tableau: Tableau, span: Span, options: Options, breaks: Breaks) -> tuple[PIController | FixedStep, float]:
    """Return the controller and the signed first step, 0.0 if it is to be chosen."""
    rtol, atol = positive("rtol", options.rtol), positive("atol", options.atol)
    if options.step is None and not tableau.adaptive:
        remedy = "Give the step size, or take an adaptive method (bosh3, dopri5, tsit5)."
        raise InputError("step", "None", f"a number > 0, because {tableau.name} takes steps of a fixed size", remedy)
    step = 0.0 if options.step is None else positive("step", options.step)
    if tableau.adaptive:
        return PIController(rtol, atol, (tableau.embedded_order or 0) + 1), span.direction * step
    if span.start + span.direction * step == span.start:
        raise InputError("step", show(options.step), f"a step that moves the time away from {span.start!r}")
    if abs(span.end - span.start) > _MOST_STEPS * step:
        least = abs(span.end - span.start) / _MOST_STEPS
        raise InputError("step", show(options.step), f"at least {least:.3g}: no more than 2^53 steps can be counted")
    return FixedStep(step, span, breaks.inner), span.direction * step


def _noise(came: object, tableau: Tableau, span: Span) -> Noise | None:
    """Return the source of noise, or None; raise where the method or the span does not allow noise."""
    if came is None:
        return None
    if tableau.name not in NOISY:
        need = f"{' or '.join(map(repr, NOISY))}, because there is noise"
        raise InputError("method", repr(tableau.name), need, "Both take steps of a fixed size: give step as well.")
    if span.end < span.start:
        raise InputError("t_span", show(tuple(span)), "t1 >= t0, because there is noise, which cannot be run backwards")
    return function("noise", came, "(step, h, y, out) that writes the random velocity of a step into out")


def _observers(came: object, span: Span) -> tuple[Observer, ...]:
    observers = tuple(sequence("observers", came, "Observer objects"))
    for i, observer in enumerate(observers):
        if not isinstance(observer, Observer):
            raise InputTypeError(
                f"observers[{i}]", show(observer), "an Observer", "Wrap it: Observer(callback, steps=1)."
            )
        if observer.time is not None and max(map(abs, span)) + observer.time == max(map(abs, span)):
            raise InputError(f"observers[{i}].time", str(observer.time), "a cadence that moves the time")
    return observers


def _space(came: object, y: np.ndarray) -> object:
    if came is None:
        return VectorSpace(y.shape, y.dtype)
    missing = [name for name in ("combine", "error_norm", "max_norm") if not callable(getattr(came, name, None))]
    if missing:
        raise InputTypeError(
            "space", f"{show(came)} without {', '.join(missing)}", "an object with the methods of VectorSpace"
        )
    return came
