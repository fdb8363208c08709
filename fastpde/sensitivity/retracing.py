"""What a way back over the steps of a run needs, whatever moves: times of stages, cotangents by step, totals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .._types import Array
from ..attention.derivatives import of_value
from ..attention.parameters import Layers, Parameter
from ..errors import InputError, InputTypeError
from .snapshots import Snapshots, backwards

By = dict[int, list[tuple[float, Array]]]


def by_step(
    times: Sequence[float], at: Any, cotangents: Iterable[Any], *, cut: bool = False
) -> tuple[By, dict[int, list[Any]]]:
    """Sort cotangents of states at the times `at` by the step that they lie in, or by the end of a step.

    cut: whether the last of the times lies within the last step, though it may be its end.

    Returns step -> [(t, cotangent)], and number of a state -> cotangents.
    """
    direction = 1.0 if times[-1] >= times[0] else -1.0
    inside: By = {}
    at_ends: dict[int, list[Any]] = {}
    for t, c in zip(at, cotangents, strict=True):
        n = int(np.searchsorted(direction * np.asarray(times), direction * t))
        if n < len(times) and times[n] == t and not (cut and t == at[-1]):
            at_ends.setdefault(n, []).append(c)
        else:
            inside.setdefault(min(n, len(times) - 1) - 1, []).append((float(t), c))
    return inside, at_ends


def last_first(kept: Snapshots, again: Any, whole: Any = None) -> Iterator[Any]:
    """Yield the steps of a run from the last to the first.

    again: again(n, y) makes step n again from the state y, and returns the step and the state after it.
    whole: as `again`, and its step has all that the way back needs; None: so has that of `again`.
    """
    for i in range(len(kept.states) - 1, -1, -1):
        first, last = i * kept.stride, min((i + 1) * kept.stride, len(kept.times) - 1)
        for n, y in backwards(first, last, kept.states[i], kept.most, lambda n, y: again(n, y)[1]):
            yield (whole or again)(n, y)[0]


def as_cotangent(found: Any, like: Array, need: str) -> Array:
    """Check a derivative of a loss, of the shape of `like`; return it in float64. Raises InputError, InputTypeError."""
    c = np.asarray(found)
    if c.dtype.kind not in "iuf":
        raise InputTypeError("loss", f"a derivative of dtype {c.dtype}", "numbers")
    if c.shape != like.shape:
        raise InputError("loss", f"a derivative of shape {c.shape}", f"shape {like.shape}, {need}")
    if not np.isfinite(c).all():
        raise InputError("loss", "a derivative that is not finite", "finite numbers")
    return c.astype(np.float64)


def as_value(found: Any, what: str = "a value") -> float:
    """Check a finite number that a loss has returned, and return it. Raises InputError, InputTypeError."""
    number = np.asarray(found)
    if number.dtype.kind not in "iuf":
        raise InputTypeError("loss", f"{what} of dtype {number.dtype}", "a number")
    if number.shape != ():
        raise InputError("loss", f"{what} of shape {number.shape}", "one number")
    if not np.isfinite(number):
        raise InputError("loss", f"{what} that is {number}", "a finite number")
    return float(number)


class ParameterTotals(dict[str, Array]):
    """The gradients of parameters, by name, summed over a run."""

    def add(self, name: str, p: Parameter | None, t: float, found: Array, *, apart: bool = False) -> None:
        """Add the cotangents `found` (B, ...) of the parameter p at time t to the gradient `name`.

        Those of `Layers` are added where the layer of time t stands in the stack; those of a function of time are left
        out, as it has no numbers to differentiate by.

        p: None for the masses of tokens.
        apart: whether each system has masses of its own, so that their cotangents are not summed over systems.
        """
        if p is None:
            value = found if apart else found.sum(axis=0)
        elif p.constant:
            value = of_value(p, t, found)
        elif isinstance(p.source, Layers):
            value = np.zeros(p.source.stack.shape)
            value[p.source.place(t)] = of_value(p, t, found)
        else:
            return
        self[name] = self.get(name, 0.0) + value

    def fill(self, parameters: Iterable[tuple[str, Parameter]], t: float) -> None:
        """Set the totals of all parameters to zero, but for functions of time."""
        for name, p in parameters:
            if isinstance(p.source, Layers):
                self[name] = np.zeros(p.source.stack.shape)
            elif p.constant:
                self[name] = np.zeros(p(t).shape)
