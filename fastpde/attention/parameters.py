"""Parameters of an attention: an array, a function of time, or layers; one matrix, or one per system of a batch.

A function of time that jumps says where in its attribute `breaks`, the times (k,): steps then end there, and none sees
both sides. Without it a step that meets a jump is of first order, whatever the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import Any, cast

import numpy as np

from .._numbers import positive
from .._times import Beside, break_points
from .._types import Array, as_numbers
from ..errors import Explained, InputError

Value = Any  # array_like | Callable[[float], array_like] | Layers


class Layers(Explained):
    """A parameter that is constant on each of L equal intervals of [0, t_end]: the layers of a Transformer.

    `stack` (L, ...) holds one value per layer; layer l acts on [l, l+1) t_end / L. With `method="euler"` and
    `step=t_end / L`, `solve` is the residual attention stack x_{l+1} = x_l + step Gamma_l(x_l).

    The times between layers are break points: whatever the method, no step goes beyond one.

    Raises InputError for an empty stack or t_end <= 0; and, when called, for a time outside [0, t_end].
    """

    def __init__(self, stack: object, t_end: float) -> None:
        self.stack = as_numbers("Layers.stack", stack).copy()
        self.stack.flags.writeable = False
        if self.stack.ndim == 0 or len(self.stack) == 0:
            raise InputError("Layers.stack", f"shape {self.stack.shape}", "shape (L, ...) with L >= 1 layers")
        self.t_end = positive("Layers.t_end", t_end)

    def __len__(self) -> int:
        return len(self.stack)

    def has(self, axes: tuple[int, ...]) -> bool:
        """Return whether all layers are vectors, matrices, ... of float64 with one of these numbers of axes."""
        return self.stack.dtype == np.float64 and self.stack.ndim > 1 and self.stack.ndim - 1 in axes

    @property
    def breaks(self) -> Array:
        """The times between layers, (L - 1,)."""
        return np.arange(1, len(self)) * (self.t_end / len(self))

    def __call__(self, t: float) -> Array:
        """Return the value of the layer that acts at time t; at t_end, the last layer's."""
        return self.stack[self.place(t)]

    def place(self, t: float) -> int:
        """Return the number of the layer that acts at time t. Raises InputError for a time outside [0, t_end]."""
        place = t / self.t_end * len(self)
        if not -1e-9 <= place <= len(self) * (1 + 1e-9):
            raise InputError("t", repr(t), f"a time in [0, {self.t_end}]", "Give Layers a later t_end.")
        # A multiple of the step that rounding left a hair below a boundary belongs to the layer that starts there.
        slack = 0.0 if isinstance(t, Beside) else 1e-9
        return min(int(max(place, 0.0) + slack), len(self) - 1)


@dataclass(frozen=True)
class Parameter:
    """A named value, constant or a function of time, checked against the numbers of axes it may have.

    A function is called once for each time: its last value is kept, and whoever asks again gets the same array.
    """

    name: str
    source: Callable[[float], object] | Array
    axes: tuple[int, ...]
    breaks: tuple[float, ...] = ()  # times at which it jumps
    _last: list[tuple[Any, Array]] = dataclass_field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def constant(self) -> bool:
        return not callable(self.source)

    @property
    def keeps_shape(self) -> bool:
        """Whether the value has the same shape at every time, and one that it may have."""
        return self.constant or (type(self.source) is Layers and self.source.has(self.axes))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the value, for `numpy.asarray(attention.Q)`. Raises InputError for a function of time."""
        if callable(self.source):
            raise InputError(self.name, "a function of time", "a constant parameter", f"Call it: {self.name}(t).")
        return np.array(self.source, dtype=dtype, copy=copy)

    def __call__(self, t: float) -> Array:
        """Return the value at time t in float64. Raises InputError if a function of time returns an unfit one."""
        if not callable(self.source):
            return self.source
        key = type(t), t  # a time beside a break point is another one
        for known, value in self._last:
            if known == key:
                return value
        if self.keeps_shape:
            found = cast(Layers, self.source)(t)
        else:
            found = _checked(f"{self.name}({t})", self.source(t), self.axes)
            found.flags.writeable = False
        self._last[:] = [(key, found)]
        return found

    def system(self, b: int | Array) -> Parameter:
        """Return the parameter of system b, at every time without the batch axis, or of systems b (k,)."""
        source = self.source

        def own(value: Array) -> Array:
            # A batch axis of length 1 is one value for all.
            return value[b if len(value) > 1 else 0 * b] if value.ndim == max(self.axes) else value

        if not callable(source):
            return replace(self, source=own(source))
        if type(source) is Layers and source.has(self.axes):
            stack = np.stack([own(value) for value in source.stack])
            return replace(self, source=Layers(stack, source.t_end))
        return replace(self, source=lambda t: own(as_numbers(f"{self.name}({t})", source(t))))

    def systems(self, t: float) -> int:
        """Return the number of systems it has values for: B if it has the batch axis, otherwise 1."""
        value = self(t)
        return value.shape[0] if value.ndim == max(self.axes) else 1


def _checked(name: str, value: object, axes: tuple[int, ...]) -> Array:
    array = as_numbers(name, value).astype(np.float64)
    if array.ndim not in axes or 0 in array.shape:
        forms = {0: "a number", 1: "(B,)", 2: "(rows, columns)", 3: "(B, rows, columns)", 4: "(B, H, rows, columns)"}
        raise InputError(name, f"shape {array.shape}", " or ".join(forms[a] for a in axes))
    return array


def parameter(name: str, value: Value, axes: tuple[int, ...]) -> Parameter:
    """Make the parameter `name`, whose value has one of the given numbers of axes."""
    if callable(value):
        return Parameter(name, value, axes, break_points(f"{name}.breaks", getattr(value, "breaks", ())))
    array = _checked(name, value, axes).copy()
    array.flags.writeable = False
    return Parameter(name, array, axes)


def matrix(name: str, value: Value) -> Parameter:
    """Make a matrix (rows, columns), or (B, rows, columns), one per system."""
    return parameter(name, value, (2, 3))


def scalar(name: str, value: Value) -> Parameter:
    """Make a number, or (B,), one per system."""
    return parameter(name, value, (0, 1))


def column(number: Array) -> Array:
    """Return a number or (B,), shaped so that it multiplies matrices (rows, columns) or (B, rows, columns)."""
    return number.reshape(-1, 1, 1) if number.ndim else number
