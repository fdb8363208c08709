"""Errors that name the argument, say what came, what is needed and what to do."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Whole:
    """Exceptions that keep text and attributes in `pickle` and `copy.deepcopy`, whatever `__init__` takes.

    Other exceptions are made again by `__init__` with the text alone. If that fails, as it does for other arguments, a
    worker of a process pool that raises the error leaves its parent waiting for ever.
    """

    args: tuple[Any, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _without_init, (type(self), self.args), self.__dict__


def _without_init(kind: type[Whole], args: tuple[Any, ...]) -> Whole:
    return kind.__new__(kind, *args)


def closest(word: str, words: Iterable[str]) -> str:
    """Return 'Did you mean "rtol"?' with the closest of some words, "" if none is close: a remedy."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f'Did you mean "{found[0]}"?' if found else ""


def _message(name: str, came: str, need: str, remedy: str) -> str:
    text = f"{name}: got {came}; need {need}."
    return f"{text} {remedy}" if remedy else text


class InputError(Whole, ValueError):
    """A value that cannot be used. `name` is the argument or the key at fault."""

    def __init__(self, name: str, came: str, need: str, remedy: str = "") -> None:
        super().__init__(_message(name, came, need, remedy))
        self.name = name


class NoGaussianClosure(ValueError):
    """An attention that does not keep Gaussian laws Gaussian, with the reason."""


class InputTypeError(Whole, TypeError):
    """A value of the wrong type. `name` is the argument or the key at fault."""

    def __init__(self, name: str, came: str, need: str, remedy: str = "") -> None:
        super().__init__(_message(name, came, need, remedy))
        self.name = name


def explained(call: Callable[P, R]) -> Callable[P, R]:
    """Return a function, or a constructor, that raises InputTypeError where its arguments are not those of a call.

    The error lists the arguments that there are, and names the one that is closest to a misspelt one.
    """

    @functools.wraps(call)
    def explaining(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return call(*arguments, **named)
        except TypeError as error:
            trace = error.__traceback__
            if trace is None or trace.tb_next is not None:  # the call had begun
                raise
        raise _unfit(call, arguments, named)

    return explaining


def _unfit(call: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> InputTypeError:
    """Return the error of a call with arguments that it does not have."""
    parameters, name = list(inspect.signature(call).parameters.values()), call.__name__
    if parameters and parameters[0].name == "self":
        owner, parameters = type(arguments[0]).__name__, parameters[1:]
        name, arguments = owner if name == "__init__" else f"{owner}.{name}", arguments[1:]
    known = [p.name for p in parameters]
    unknown = [word for word in named if word not in known]
    came, remedy = f"an unexpected keyword argument {unknown[0]!r}" if unknown else "", ""
    if unknown:
        remedy = closest(unknown[0], known)
    else:
        try:
            inspect.Signature(parameters).bind(*arguments, **named)
        except TypeError as error:
            came = str(error).removeprefix("got ")
    takes = ", ".join(str(p.replace(annotation=p.empty)) for p in parameters)
    return InputTypeError(name, came, f"its arguments {takes}", remedy)


class Explained:
    """Classes whose constructors are `explained`."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "__init__" in vars(cls):
            cls.__init__ = explained(cls.__init__)  # type: ignore[method-assign]


class ExplainedMethods(Explained):
    """Classes whose constructors are `explained`, and their public methods that have optional arguments."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for name, method in [*vars(cls).items()]:
            optional = inspect.isfunction(method) and (method.__defaults__ or method.__kwdefaults__)
            if optional and not name.startswith("_"):
                setattr(cls, name, explained(method))


class TransportError(RuntimeError):
    """An optimal transport problem that its solver did not solve, with the message of the solver."""


class FieldError(Whole, RuntimeError):
    """A velocity that could not be computed, with the reason."""


class ConvergenceError(FieldError):
    """An iteration that did not reach its tolerance. `error` is what it reached, after `half_iterations`, at time t.

    `heads` has the index of the head of a multi-head attention, and of the head in that; () where there is one only.
    `rounding` says whether rounding keeps it from the tolerance: more iterations are of no use then.
    """

    def __init__(
        self,
        error: float,
        tol: float,
        half_iterations: int,
        t: float,
        heads: tuple[int, ...] = (),
        rounding: bool = False,
    ) -> None:
        remedy = "Raise max_iter or tol, or take a larger eps: the smaller eps, the slower the convergence."
        if rounding:
            remedy = "That is rounding, more iterations are of no use: raise tol, or take a larger eps."
        if math.isnan(error):
            remedy = "The scores overflow: take smaller tokens, Q, K or scale, or a larger eps."
        where = "".join(f" of heads[{h}]" for h in reversed(heads))
        super().__init__(
            f"Sinkhorn scaling{where} at t = {t!r}: marginal error {error:.3g} after {half_iterations} "
            f"half-iterations; need tol = {tol:g}. {remedy}"
        )
        self.error, self.tol, self.half_iterations, self.t, self.heads = error, tol, half_iterations, t, heads
        self.rounding = rounding
