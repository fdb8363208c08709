"""The observable: named numbers that are computed from a cloud of tokens at a time."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fastpde.errors import InputError, InputTypeError
from fastpde.parallel.spread import Tokens

Array = np.ndarray[Any, Any]
Line = Sequence[float | str]


class Watch(Protocol):
    """A check of the numbers of a run, frame by frame, against what theory predicts."""

    def news(self) -> str:
        """Return a sentence once, when the last frame is the first to contradict the prediction; else ""."""

    def mark(self) -> dict[str, Any]:
        """Return the state in a form that JSON can hold."""

    def go_on(self, mark: dict[str, Any]) -> None:
        """Restore a state."""

    def facts(self) -> dict[str, Any]:
        """Return the entry of status.json; {} if theory predicts nothing."""

    def told(self) -> str:
        """Return a sentence about what contradicts the prediction; "" if nothing does."""


class Along(Protocol):
    """What is carried along the tokens of a run of one system, step by step; it is a part of the run's state."""

    def begin(self, problem: Any, state: Any, kept: Mapping[str, Array]) -> None:
        """Begin with a run of an `integrate.Problem`, or go on at an `integrate.State` with the `parts` of then."""

    def follow(self, run: Any) -> None:
        """Follow the last step of an `integrate.Integrator`, unless that has been done."""

    def parts(self, step: int) -> dict[str, Array]:
        """Return what is kept, after that step or the one before."""


@dataclass(frozen=True)
class Observable:
    """Named numbers that are computed from a cloud at a time: columns of the tables of a run.

    One of your own needs the first three; compute(t, x) gets all tokens x (n, d), those of one system, and returns a
    number for each column, nan where there is none.

        width = fp.Observable("width", ["width"], lambda t, x: np.ptp(x[:, 0]))

    Args:
        name: what a configuration, a report and a checkpoint call it.
        columns: the names of its numbers, no two of a run alike.
        compute: compute(t, x) -> (c,) numbers, or one number if there is one column.
        many: many(t, x) -> (B, c) for systems x (B, n, d) at times t (B,); default: one after the other.
        shared: whether it is compute(t, tokens), called on all ranks with the `Tokens` that these hold.
        details: columns of a further table NAME.csv, whose rows compute then returns beside the numbers: (numbers,
            rows). Of systems (B, n, d) there is none.
        watch: a check of the numbers.
        along: what they are computed of beside the tokens.

    Raises InputError, InputTypeError for names that a table cannot have, and for what cannot be called.
    """

    name: str
    columns: Sequence[str]
    compute: Callable[..., Any]
    many: Callable[[Array, Array], Any] | None = None
    shared: bool = False
    details: Sequence[str] = ()
    watch: Watch | None = None
    along: Along | None = None

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise InputTypeError("columns", repr(self.columns), "a list of names", f"Write [{self.columns!r}].")
        object.__setattr__(self, "columns", tuple(self.columns))
        for name in (self.name, *self.columns):
            if not isinstance(name, str) or not name.isidentifier():
                raise InputError("columns" if name in self.columns else "name", repr(name), "letters, digits and _")
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise InputError("columns", repr(list(self.columns)), "one name or more, each once")
        if not callable(self.compute):
            raise InputTypeError("compute", type(self.compute).__name__, "a function compute(t, x)")

    def of_one(self, t: float, tokens: Tokens) -> tuple[list[float], list[Line]]:
        """Return the numbers of one system, and the rows of its further table. Collective; nan where rank 0 computes.

        Raises InputError for a function that returns something else.
        """
        if not self.shared and (x := tokens.whole()) is None:
            return [np.nan] * len(self.columns), []
        found = self.compute(t, tokens) if self.shared else self._own(self.compute, t, x)
        numbers, rows = found if self.details else (found, [])
        return self._checked(numbers, (len(self.columns),)).tolist(), rows

    def of_many(self, t: Array, x: Array) -> Array:
        """Return the numbers (B, c) of systems x (B, n, d) at times t (B,). Raises InputError as `of_one`."""
        if self.many is not None:
            return self._checked(self._own(self.many, t, x), (len(x), len(self.columns)))
        each = [self.of_one(float(time), Tokens.alone(one))[0] for time, one in zip(t, x, strict=True)]
        return np.array(each).reshape(len(x), len(self.columns))

    def _own(self, function: Callable[..., Any], t: Any, x: Any) -> Any:
        """Call a function that may be the user's. Raises InputError that names its exception and line."""
        try:
            return function(t, x)
        except MemoryError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            when = f"at t = {t:g}" if np.ndim(t) == 0 else f"at a time from {np.min(t):g} to {np.max(t):g}"
            came = f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno}), {when}"
            need = "a function that returns its numbers for every cloud, nan where there is none"
            raise InputError(f"observable {self.name}", came, need) from error

    def _checked(self, found: Any, shape: tuple[int, ...]) -> Array:
        try:
            numbers = np.asarray(found)
        except ValueError:  # rows of different lengths
            numbers = np.asarray(None)
        if numbers.dtype.kind not in "biuf" or numbers.size != math.prod(shape):
            came = f"{type(found).__name__} of shape {numbers.shape}"
            raise InputError(f"observable {self.name}", came, f"numbers of shape {shape}")
        return numbers.astype(np.float64).reshape(shape)
