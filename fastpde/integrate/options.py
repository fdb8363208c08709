"""The arguments of `integrate`, all checked in one place before any work starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpde._numbers import real, show, wrong_type
from fastpde.errors import InputError, InputTypeError, closest


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `integrate` that say what is computed, as they were given."""

    method: Any = "dopri5"
    step: Any = None
    rtol: Any = 1e-6
    atol: Any = 1e-9
    max_steps: Any = 100_000
    t_eval: Any = None
    events: Any = ()
    observers: Any = ()
    space: Any = None
    noise: Any = None


def function(name: str, value: object, form: str) -> Callable:
    """Return a callable that takes the arguments of `form`, "(t, x) ...", or raise.

    A class is refused, because it is often given by mistake for its instance.
    """
    if not callable(value) or isinstance(value, type):
        raise wrong_type(name, value, f"a function {form}")
    try:
        taken = inspect.signature(value)
    except (TypeError, ValueError):  # built in: nothing is known
        return value
    try:
        taken.bind(*form[1 : form.index(")")].split(","))
    except TypeError as error:
        raise InputTypeError(name, f"a function {taken}: {error}", f"a function {form}") from None
    return value


STEPPING = ("method", "step", "rtol", "atol", "max_steps")  # how steps are made


def stepping(call: Callable, asked: dict[str, Any]) -> None:
    """Raise InputTypeError, which names it, for a further option of a call that does not say how steps are made."""
    own = [p.name for p in inspect.signature(call).parameters.values() if p.kind is not p.VAR_KEYWORD]
    for name in asked:
        if name not in STEPPING:
            need = f"none: beside its own arguments this call takes {', '.join(STEPPING)}"
            raise InputTypeError(name, "a value", need, closest(name, [*STEPPING, *own]))


def sequence(name: str, value: object, form: str, remedy: str = "A single one is written {}=(item,).") -> list:
    """Return the items of a list, tuple or other finite iterable, or raise."""
    if isinstance(value, str | dict) or not isinstance(value, Iterable):
        raise wrong_type(name, value, f"a sequence of {form}", remedy.format(name))
    return list(value)


def time_span(name: str, value: object) -> tuple[float, float]:
    """Return (t0, t1), or raise."""
    ends = sequence(name, value, "two numbers (t0, t1)", "From time zero it is written {}=(0.0, t1).")
    if len(ends) != 2:
        raise InputError(name, f"{len(ends)} values", "two numbers (t0, t1)")
    t0, t1 = real(f"{name}[0]", ends[0]), real(f"{name}[1]", ends[1])
    if not math.isfinite(t1 - t0):
        raise InputError(name, show(value), "ends whose difference is finite")
    return t0, t1


def state(name: str, value: object) -> np.ndarray:
    """Return a finite float64 or float32 array that is not empty as a C-contiguous one, or raise; it may be `value`."""
    if isinstance(value, np.ma.MaskedArray):
        raise InputTypeError(name, "a masked array", "a plain array", "Select the unmasked entries first.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, tensors with a gradient
        raise InputError(name, show(value), "an array", str(error)) from None
    if array.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
        remedy = "Convert it with astype(float)." if array.dtype.kind in "biuf" else ""
        raise InputTypeError(name, f"dtype {array.dtype}", "float64 or float32", remedy)
    if array.size == 0:
        raise InputError(name, f"shape {array.shape}", "at least one entry")
    if not np.isfinite(array).all():
        index = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        raise InputError(name, f"{array[index]} at index {index}", "finite entries")
    return np.asarray(array, order="C")


def output_times(name: str, value: object, span: tuple[float, float]) -> np.ndarray | None:
    """Return a copy (m,) of times that run strictly from t0 towards t1, or raise; None stays None."""
    if value is None:
        return None
    try:
        times = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        times = np.asarray(None)
    if times.dtype.kind not in "iuf":
        raise InputTypeError(name, show(value), "an array of numbers")
    times = np.array(times, dtype=np.float64)
    if times.ndim != 1 or times.size == 0:
        raise InputError(
            name,
            f"shape {times.shape}",
            "shape (m,) with m >= 1",
            "Leave it out to keep the start and the end.",
        )
    if not np.isfinite(times).all():
        raise InputError(name, f"{times[~np.isfinite(times)][0]}", "finite times")
    low, high = min(span), max(span)
    outside = times[(times < low) | (times > high)]
    if outside.size:
        raise InputError(name, f"{outside[0]!s}", f"times within t_span, {low!r} to {high!r}")
    steps = np.diff(times) * (1.0 if span[1] >= span[0] else -1.0)
    if not (steps > 0.0).all():
        index = int(np.argmin(steps > 0.0))
        came = f"{times[index]!s} followed by {times[index + 1]!s}"
        raise InputError(
            name,
            came,
            "times in the order of the integration, without repeats",
            "Sort them with numpy.unique.",
        )
    return times
