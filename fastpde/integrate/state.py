"""The record of an integration under way: all that its next steps depend on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from dataclasses import field as dataclass_field
from typing import Any

import numpy as np

from fastpde.integrate.calls import copied
from fastpde.integrate.clocks import Clock, Clocks
from fastpde.integrate.stages import NONE

# Names in `State.parts`.
_SUM = ("argument", "total")
_MEMORY = "memory."
_AXES = {"y": 0, "f": 0, "stages": 1, "argument": 0, "total": 0}


@dataclass(slots=True)
class State:
    """The record of all that a step depends on: saving it, and nothing else, makes a restart exact to the bit.

    Attributes:
        clocks: one, or one for each system of a batch; in a `Stepper` they are its own.
        y: the last accepted state; of a batch (B, ...).
        f: f(t, y), the first stage of the next step; meaningless where it is not fresh.
        memory: named arrays that the field keeps between evaluations (its `memory`, if it has one).
        stages: (k, *y.shape) the stages after the first of the step under way that are known; usually k = 0.
        summed: of a step under way whose stages are not kept: how many of them, the first included, are in `total`.
        argument: the argument of the next stage, if summed > 0 and there is one.
        total: h sum_s b_s k_s of these stages.
    """

    clocks: list[Clock] | Clocks
    y: np.ndarray
    f: np.ndarray
    memory: dict[str, np.ndarray] = dataclass_field(default_factory=dict)
    stages: np.ndarray = dataclass_field(default_factory=lambda: NONE)
    summed: int = 0
    argument: np.ndarray = dataclass_field(default_factory=lambda: NONE)
    total: np.ndarray = dataclass_field(default_factory=lambda: NONE)

    @classmethod
    def initial(cls, t: float, y: np.ndarray, h: float = 0.0, clocks: int = 1) -> State:
        """Return the record of a run that has not begun, at y (copied)."""
        y = np.array(y, order="C")
        return cls([Clock(t, h=h) for _ in range(clocks)], y, np.full_like(y, np.nan))

    @property
    def clock(self) -> Clock:
        """The clock of all systems, where there is only one."""
        (only,) = self.clocks
        return only

    @property
    def t(self) -> float:
        """The last accepted time of the only clock."""
        return self.clock.t

    @property
    def step(self) -> int:
        """The number of accepted steps of the only clock."""
        return self.clock.step

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the record, of one clock, as numbers and arrays by name, for a file; the arrays are its own."""
        clock = self.clock
        numbers = {name: getattr(clock, name) for name in _NUMBERS}
        arrays = {"y": self.y, **({"f": self.f} if clock.fresh else {})}
        under_way = {"stages": self.stages} if len(self.stages) else {}
        if self.summed:
            numbers["summed"] = self.summed
            under_way |= {name: getattr(self, name) for name in _SUM if len(getattr(self, name))}
        arrays |= under_way
        return numbers, arrays | {_MEMORY + name: array for name, array in self.memory.items()}

    @classmethod
    def of(cls, numbers: dict[str, Any], arrays: dict[str, np.ndarray]) -> State:
        """Return the record with these `parts`."""
        kept = {name.removeprefix(_MEMORY): array for name, array in arrays.items() if name.startswith(_MEMORY)}
        clock = Clock(**{name: numbers[name] for name in _NUMBERS if name in numbers})
        parts: dict[str, Any] = {name: arrays[name] for name in ("f", "stages", *_SUM) if name in arrays}
        state = replace(cls.initial(clock.t, arrays["y"]), clocks=[clock])
        return replace(state, **parts, summed=numbers.get("summed", 0), memory=kept)

    @staticmethod
    def axis(name: str) -> int | None:
        """Return which axis of the array `name` among the `parts` is the first one of y; None if none is."""
        return _AXES.get(name)

    @staticmethod
    def remembered(name: str) -> str | None:
        """Return by which name the field knows the array `name` among the `parts`; None if it is not the field's."""
        return name.removeprefix(_MEMORY) if name.startswith(_MEMORY) else None

    @property
    def under_way(self) -> bool:
        """Whether stages of a step are known that has not been made."""
        return bool(len(self.stages) or self.summed)

    def forget_sum(self) -> None:
        """Forget the sum of stages."""
        self.summed, self.argument, self.total = 0, NONE, NONE

    def copy(self) -> State:
        """Return a record that shares no array with this one."""
        arrays: dict[str, Any] = {
            name: np.array(getattr(self, name), order="C") for name in ("y", "f", "stages", *_SUM)
        }
        return replace(self, **arrays, memory=copied(self.memory), clocks=[replace(clock) for clock in self.clocks])


_NUMBERS = tuple(field.name for field in fields(Clock))
