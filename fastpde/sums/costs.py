"""The cost model of pair sums: predicted seconds of direct sums and of sums in O(n).

Direct sums are predicted to take pairs (base + column (k + c)) seconds for keys in R^k and c values; more where scores
may be so large that the exponential needs a shift (wide). Sums in O(n) take a constant time, which more threads do not
make shorter, and a multiple of the seconds of their plans. All these constants were measured on one machine; for
another one, two factors are measured (`calibration`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from .._types import Array
from ..errors import InputError, InputTypeError

# Seconds per pair on one core of a server with AVX2: in every sum, per key or value column, and further in wide sums.
_PAIR = {8: (1.05e-9, 0.053e-9, 0.68e-9), 4: (0.25e-9, 0.0235e-9, 0.19e-9)}  # by bytes of a number
_REACH = {8: 680.0, 4: 80.0}  # |score|, natural units, from which a direct sum is wide
_TILE = 16  # targets that are wide together
# Sums in O(n): seconds that are independent of the plan and of threads; factor on the planned seconds.
_GRID_FIXED, _GRID = 1.3e-3, 0.85
_TREE_FIXED, _TREE = 7e-3, 1.0
_MASKED_FIXED, _MASKED = 3.5e-3, 1.1
_GAINED = 0.8  # the part of a further thread that makes sums faster
_LOOK = 0.73e-3  # seconds of a direct sum, per thread and column, from which planning another way pays
_COLUMNS = 4, 6  # of keys and values: planning takes longer with more columns, but only between these numbers
_LEAST = 2.0  # threads
_DIGITS = 3  # kept of a measured number: more would be noise


@dataclass(frozen=True)
class Costs:
    """How fast a machine is, relative to the one on which the constants of this file were measured.

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

    def pairs(self, count: float, columns: int, dtype: np.dtype, scores: Array | None = None) -> float:
        """Predict the seconds of a direct sum.

        Args:
            count: pairs of a target and a source.
            columns: columns of keys and of values, together.
            dtype: the dtype of the tokens.
            scores: (q,) the largest |score| of each of q targets, a sample; None: all scores are small.
        """
        base, column, wide = _PAIR[dtype.itemsize]
        far = 0.0 if scores is None else float((scores > _REACH[dtype.itemsize]).mean())
        each = base + column * columns + wide * (1.0 - (1.0 - far) ** _TILE)
        return self.direct * count * each / self.speed

    def grid(self, planned: float, serial: float = 0.0) -> float:
        """Predict the seconds of a sum on one grid planned to take `planned` on one thread, `serial` of them on any."""
        return self.fast * (_GRID_FIXED + serial + _GRID * (planned - serial) / self.speed)

    def tree(self, planned: float) -> float:
        """Predict the seconds of a sum by a tree that is planned to take `planned` seconds on one thread."""
        return self.fast * (_TREE_FIXED + _TREE * planned / self.speed)

    def trees_within(self, seconds: float) -> float:
        """Invert `tree`: return the time on one thread for which a tree sum is predicted to take `seconds`."""
        return (seconds / self.fast - _TREE_FIXED) * self.speed / _TREE

    def masked(self, planned: float) -> float:
        """Predict the seconds of a masked sum in O(n^1.5) that is planned to take `planned` seconds on one thread."""
        return self.fast * (_MASKED_FIXED + _MASKED * planned / self.speed)

    def worth_a_look(self, pairs: float, columns: int, dtype: np.dtype) -> bool:
        """Return whether a sum is so large that the O(n) ways are worth planning: planning them takes time, too.

        On two threads it is so from 2500 points on the line on, and from 4600 in single precision. Of the costs of a
        machine only `threads` counts here.
        """
        base, column, _ = _PAIR[dtype.itemsize]
        fewest, most = _COLUMNS
        look = _LOOK * max(_LEAST, self.threads) * (1 + min(max(columns, fewest), most))
        return pairs * (base + column * columns) >= look


TYPICAL = Costs()  # where a machine cannot be measured


def may_choose(n: int, d: int) -> bool:
    """Return whether sums over n tokens of dimension d may be made in O(n), by any attention in any precision."""
    return TYPICAL.worth_a_look(float(n) * n, 2 * d, np.dtype(np.float64))
