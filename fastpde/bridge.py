"""What bridges to other libraries of arrays share: velocities and runs as functions of arrays, and their gradients.

A bridge turns its arrays into those of NumPy, calls `value`, and for gradients `pull`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from ._types import Array
from .attention.base import Attention
from .attention.derivatives import WEIGHTS
from .attention.parameters import Layers, Parameter
from .ensemble import EnsembleSolution
from .errors import InputError, InputTypeError
from .integrate import Solution
from .meanfield import solve
from .sensitivity.adjoint import Gradient, gradient

Arrays = dict[str, Array]
PARAMETER = "parameter "  # before the names of parameters among those of arrays
_OF_RUNS = {"method", "step", "rtol", "atol", "max_steps", "manifold", "noise", "seed", "backend", "memory"}


@dataclass(frozen=True)
class Factory:
    """A function that makes an attention of named arrays, and where in it their numbers stand.

    Args:
        make: called with all arrays and `fixed` by name; a class of attention, or a function.
        shapes: of the arrays.
        fixed: what else is given to it.
    """

    make: Callable[..., Attention]
    shapes: dict[str, tuple[int, ...]]
    fixed: dict[str, Any]

    def attention(self, values: Arrays) -> Attention:
        """Return the attention. Raises InputTypeError for what is none."""
        if not callable(self.make):
            came = type(self.make).__name__
            raise InputTypeError("make", came, "a class as fp.Softmax, or a function that returns an attention")
        made = self.make(**values, **self.fixed)
        if not isinstance(made, Attention):
            raise InputTypeError("make", f"a function that returns a {type(made).__name__}", "one of an attention")
        return made

    def length(self, dimension: int, t: float) -> int:
        """Return the length of the velocities of tokens in R^dimension. Raises InputError."""
        return self._marked[0]._check_dimension(dimension, t, "x")

    def cotangents(self, attention: Attention, t: float | None, found: Arrays) -> Arrays:
        """Return the gradient in every array, given those in the parameters of the attention.

        t: the time at which the values of layers were taken; None: gradients of layers are those of all.
        """
        if not self.shapes:
            return {}
        total = np.zeros(self._ends[-1])
        for name, source, p in _sources(attention):
            if name not in found or name not in self.places:
                continue
            value = found[name]
            if t is not None and isinstance(p.source, Layers):
                value = np.zeros(source.shape)
                value[p.source.place(t)] = found[name]
            places = self.places[name]
            np.add.at(total, places[places >= 0], value[places >= 0])
        return self._filled(total)

    def refuse_lost(self, names: list[str]) -> None:
        """Raise InputError for an array that reaches no parameter: its gradient would be zero, or is not known."""
        if not names:
            return
        seen = np.unique(np.concatenate([np.array([-1]), *(places.ravel() for places in self.places.values())]))
        for name, end in zip(self.shapes, self._ends, strict=True):
            size = int(np.prod(self.shapes[name]))
            if name in names and size and not ((seen >= end - size) & (seen < end)).any():
                need = "arrays whose numbers are parameters of the attention, at all times or in fp.Layers"
                raise InputError(name, "an array that is not seen in the attention", need)

    # -- where the numbers of the arrays are --------------------------------------------------------------------------

    @cached_property
    def places(self) -> dict[str, Array]:
        """For every parameter the index, among the numbers of all arrays, of each of its numbers; -1: of none.

        The attention is made of two different markings of these numbers. Raises InputError where numbers are neither
        those of an array nor always the same.
        """
        first, second = self._marked
        numbers, others = self._marks
        found = {}
        for (name, one, _), (_, two, _) in zip(_sources(first), _sources(second), strict=True):
            place = np.clip(one - 1.0, 0.0, len(numbers) - 1.0).astype(np.int64)
            taken = (numbers[place] == one) & (others[place] == two)
            if not np.all(taken | (one == two)):
                remedy = "Do arithmetic before the arrays are given."
                raise InputError("make", f"a function that calculates {name}", "one that picks numbers", remedy)
            found[name] = np.where(taken, place, -1)
        return found

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()]).tolist()

    @cached_property
    def _marks(self) -> tuple[Array, Array]:
        """Two numbers for each place: 1, 2, ..., and the same, larger, in another order."""
        total = self._ends[-1] if self._ends else 0
        return np.arange(1.0, total + 1.0), total + 1.0 + np.random.default_rng(0).permutation(total)

    @cached_property
    def _marked(self) -> tuple[Attention, ...]:
        return tuple(self.attention(self._filled(marks)) for marks in self._marks)

    def _filled(self, numbers: Array) -> Arrays:
        parts = np.split(numbers, self._ends[:-1]) if self._ends else []
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


class Call(ABC):
    """A velocity or a run as a function of named arrays: "x", perhaps "at" and "weights", and parameters."""

    def __init__(self, factory: Factory, options: dict[str, Any]) -> None:
        self.factory, self._options = factory, options

    def value(self, arrays: Arrays) -> Array:
        """Return the result, in the dtype of x. Raises InputError, InputTypeError."""
        attention, options = self._made(arrays)
        return self._value(attention, options).astype(arrays["x"].dtype, copy=False)

    def pull(self, arrays: Arrays, cotangent: Array) -> Arrays:
        """Return the gradient of <cotangent, result> in all arrays, each in its dtype."""
        attention, options = self._made(arrays)
        tokens, parameters, t = self._pull(attention, options, np.asarray(cotangent))
        if WEIGHTS in arrays:
            tokens[WEIGHTS] = parameters[WEIGHTS]
        own = self.factory.cotangents(attention, t, parameters)
        found = tokens | {f"{PARAMETER}{name}": value for name, value in own.items()}
        return {name: found[name].astype(array.dtype, copy=False) for name, array in arrays.items()}

    def refuse_lost(self, names: list[str]) -> None:
        """Raise InputError where arrays of these names have no gradient."""
        self.factory.refuse_lost([name.removeprefix(PARAMETER) for name in names if name.startswith(PARAMETER)])

    @abstractmethod
    def shape(self, arrays: dict[str, Any]) -> tuple[int, ...]:
        """Return the shape of the result, given arrays that have a shape."""

    @abstractmethod
    def _value(self, attention: Attention, options: dict[str, Any]) -> Array: ...

    @abstractmethod
    def _pull(self, attention: Attention, options: dict[str, Any], c: Array) -> tuple[Arrays, Arrays, float | None]:
        """Return gradients in "x" and "at", in the parameters, and the time of `Factory.cotangents`."""

    def _made(self, arrays: Arrays) -> tuple[Attention, dict[str, Any]]:
        own = {name.removeprefix(PARAMETER): array for name, array in arrays.items() if name.startswith(PARAMETER)}
        given = {name: array for name, array in arrays.items() if not name.startswith(PARAMETER)}
        return self.factory.attention(own), self._options | given


class VelocityCall(Call):
    """`Attention.velocity` and `vjp`; options: their arguments."""

    def shape(self, arrays: dict[str, Any]) -> tuple[int, ...]:
        x = arrays["x"].shape
        return (*(x if "at" not in arrays else arrays["at"].shape)[:-1], self.factory.length(x[-1], self._options["t"]))

    def _value(self, attention: Attention, options: dict[str, Any]) -> Array:
        return attention.velocity(**options)

    def _pull(self, attention: Attention, options: dict[str, Any], c: Array) -> tuple[Arrays, Arrays, float | None]:
        found = attention.vjp(cotangent=c, **options)
        tokens = {"x": found.x} if found.at is None else {"x": found.x, "at": found.at}
        return tokens, found.parameters, float(options["t"])


class RunCall(Call):
    """The tokens of a run at its end, or with t_eval at these times, and `gradient`, in float64."""

    def shape(self, arrays: dict[str, Any]) -> tuple[int, ...]:
        times = self._options["t_eval"]
        return (*(() if times is None else (len(times),)), *arrays["x"].shape)

    def _value(self, attention: Attention, options: dict[str, Any]) -> Array:
        sol = cast(Solution | EnsembleSolution, solve(attention, **_started(options)))
        kept = options["t_eval"] is None or len(sol.t) == len(options["t_eval"])
        if not (sol.success and kept):
            raise InputError("t_span", f"a run that ended: {sol.message}", "one that reaches its end")
        return sol.x_final if options["t_eval"] is None else sol.x

    def _pull(self, attention: Attention, options: dict[str, Any], c: Array) -> tuple[Arrays, Arrays, float | None]:
        found = cast(Gradient, gradient(lambda x: (0.0, c), attention, **_started(options, "memory")))
        return {"x": found.x0}, found.parameters, None


def of_run(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a run among those given by name, and the others, which are of `make`."""
    own = {name: value for name, value in given.items() if name in _OF_RUNS}
    return own, {name: value for name, value in given.items() if name not in own}


def check_dtype(name: str, dtype: str) -> None:
    """Raise InputTypeError unless an array is of float64 or float32."""
    if dtype not in ("float64", "float32"):
        raise InputTypeError(name.removeprefix(PARAMETER), f"dtype {dtype}", "float64 or float32")


def _started(options: dict[str, Any], *more: str) -> dict[str, Any]:
    """Return the arguments of `solve` for a run in float64, or of `gradient` with `more`."""
    own = {name: value for name, value in options.items() if name not in ("x", "memory") or name in more}
    return own | {"x0": np.asarray(options["x"], np.float64)}


def _sources(attention: Attention) -> Iterator[tuple[str, Array, Parameter]]:
    """Yield the numbers of every parameter that is no function of time, of layers the whole stack."""
    for name, p in attention._named_parameters():
        if p.constant:
            yield name, np.asarray(p.source), p
        elif isinstance(p.source, Layers):
            yield name, p.source.stack, p
