"""The cost model of pair sums: an `Estimate` for a typical core, and `Costs`, which make seconds of it on a machine.

All constants were measured on one machine, those of a way to sum stand beside it. For another machine two factors are
measured (`calibration`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..errors import InputError, InputTypeError

# Seconds per pair of a direct sum on one core of a server with AVX2: in every sum, per key or value column, and further
# where scores may be so large that the exponential needs a shift. By bytes of a number.
_PAIR = {8: (1.05e-9, 0.053e-9, 0.68e-9), 4: (0.25e-9, 0.0235e-9, 0.19e-9)}
_GAINED = 0.8  # the part of a further thread that makes sums faster
_LOOK = 0.73e-3  # seconds of a direct sum, per thread and column, from which planning another way pays
_COLUMNS = 4, 6  # of keys and values: planning takes longer with more columns, but only between these numbers
_LEAST = 2.0  # threads
_DIGITS = 3  # kept of a measured number: more would be noise
_DOUBLE = np.dtype(np.float64)


def pair_seconds(columns: int, dtype: np.dtype = _DOUBLE, wide: float = 0.0) -> float:
    """Predict the seconds per pair of a direct sum on one thread of a typical machine.

    columns: those of keys and of values, together; wide: the fraction of pairs that need a shift.
    """
    base, column, shifted = _PAIR[dtype.itemsize]
    return base + column * columns + shifted * wide


@dataclass(frozen=True)
class Estimate:
    """What a sum takes on a typical machine, and what the way that predicts it needs to make it.

    Attributes:
        parallel: seconds on one thread of what threads share, beside `pairs`.
        serial: seconds of what they do not share.
        pairs: seconds on one thread of sums over pairs, which threads share: their speed is measured apart.
        error: upper bound of the error, relative as the `tol` of the backend.
        unit: the unit of errors where they are absolute; None: relative ones, see `Fast`.
        rounding: bound of the rounding errors of such sums, in this unit.
        plan: for `Summation.attend`.
    """

    parallel: float = 0.0
    serial: float = 0.0
    pairs: float = 0.0
    error: float = 0.0
    unit: float | None = None
    rounding: float = 0.0
    plan: Any = None


@dataclass(frozen=True)
class Costs:
    """How fast a machine is, relative to the one on which the constants were measured.

    Attributes:
        direct: time of a direct sum here, divided by its time there.
        fast: the same of a sum in O(n).
        threads: the number of threads that share the work.
    """

    direct: float = 1.0
    fast: float = 1.0
    threads: float = _LEAST

    @staticmethod
    def of(values: object, argument: str = "costs") -> Costs:
        """Read the costs from a table, as `table` makes it; `threads` may be missing, as in tables of older runs.

        Raises InputError, InputTypeError: naming the entry that is missing, unknown or no positive number.
        """
        names = [item.name for item in fields(Costs)]
        need = f"a table of the positive numbers {', '.join(names)}"
        if isinstance(values, Costs):
            return values
        if not isinstance(values, dict):
            raise InputTypeError(argument, repr(values), need)
        values = {"threads": _LEAST} | values
        if set(values) != set(names):
            name = ".".join([argument, *map(str, [name for name in values if name not in names][:1])])
            raise InputError(name, f"a table of {', '.join(map(str, values)) or 'nothing'}", need)
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
                raise InputError(f"{argument}.{name}", repr(value), "a positive number")
        return Costs(**{name: float(values[name]) for name in names})

    def table(self) -> dict[str, float]:
        """Return the costs as a table, which `of` reads."""
        return asdict(self)

    def rounded(self) -> Costs:
        """Return the costs with three digits: they are written to files and read again without loss."""
        return Costs(*(float(f"{value:.{_DIGITS}g}") for value in asdict(self).values()))

    @property
    def speed(self) -> float:
        """The speed-up of all threads over one."""
        return 1.0 + _GAINED * (self.threads - 1.0)

    def seconds(self, estimate: Estimate) -> float:
        """Predict the seconds of a sum on this machine."""
        shared = self.direct * estimate.pairs + self.fast * estimate.parallel
        return shared / self.speed + self.fast * estimate.serial

    def within(self, seconds: float, serial: float) -> float:
        """Invert `seconds` for a sum without pairs: return the `parallel` of one that takes so long."""
        return (seconds / self.fast - serial) * self.speed

    def worth_planning(self, pairs: float, columns: int, dtype: np.dtype) -> bool:
        """Return whether a sum is so large that the O(n) ways are worth planning: planning them takes time, too.

        On two threads it is so from 2500 points on the line on, and from 4600 in single precision. Of the costs of a
        machine only `threads` counts here.
        """
        fewest, most = _COLUMNS
        look = _LOOK * max(_LEAST, self.threads) * (1 + min(max(columns, fewest), most))
        return pairs * pair_seconds(columns, dtype) >= look


TYPICAL = Costs()  # where a machine cannot be measured


def may_choose(n: int, d: int) -> bool:
    """Return whether sums over n tokens of dimension d may be made in O(n), by any attention in any precision."""
    return TYPICAL.worth_planning(float(n) * n, 2 * d, _DOUBLE)
