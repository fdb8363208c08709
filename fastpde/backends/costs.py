"""What a sum is expected to cost: directly, or in O(n).

Direct sums take pairs (base + column (k + c)) for keys in R^k and c values; more where scores may be so large that the
exponential needs a shift (wide). Sums in O(n) take a time of their own, which more threads do not make shorter, beside
a share of what their plans expect. All this was measured on one machine; what is measured on another one are two
factors (`calibration`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from .._types import Array
from ..errors import InputError, InputTypeError

# Seconds per pair on one core of a server with AVX2: always, per key or value column, and in wide sums.
_PAIR = {8: (1.05e-9, 0.053e-9, 0.68e-9), 4: (0.25e-9, 0.0235e-9, 0.19e-9)}  # by bytes of a number
_REACH = {8: 680.0, 4: 80.0}  # |score|, natural units, from which a direct sum is wide
_TILE = 16  # targets that are wide together
# Sums in O(n): seconds on one thread, however many there are; times what is expected of the rest.
_GRID_FIXED, _GRID = 1.3e-3, 0.85
_TREE_FIXED, _TREE = 7e-3, 1.0
_MASKED_FIXED, _MASKED = 3.5e-3, 1.1
_GAINED = 0.8  # of the time of a further thread
_LOOK = 0.73e-3  # seconds of a direct sum, per thread and column, that are some times as long as a look at its data
_COLUMNS = 4, 6  # of keys and values: with fewer a look does not take less, with more it does not take longer
_LEAST = 2.0  # threads
_DIGITS = 3  # kept of a measured number: more would be noise


@dataclass(frozen=True)
class Costs:
    """Times on a machine: direct sums and sums in O(n), each relative to the machine that the constants are of, when so
    many threads share the work."""

    direct: float = 1.0
    fast: float = 1.0
    threads: float = _LEAST

    @staticmethod
    def of(values: object, argument: str = "costs") -> Costs:
        """From a table of them. Raises InputError, InputTypeError: unless all are there and positive numbers; threads
        may be missing, as they are in tables of older runs."""
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
        """As `of` reads it."""
        return asdict(self)

    def rounded(self) -> Costs:
        """With few digits, which are written and read without loss."""
        return Costs(*(float(f"{value:.{_DIGITS}g}") for value in asdict(self).values()))

    @property
    def speed(self) -> float:
        """How many times faster all threads are than one."""
        return 1.0 + _GAINED * (self.threads - 1.0)

    def pairs(self, count: float, columns: int, dtype: np.dtype, scores: Array | None = None) -> float:
        """Seconds of a direct sum: pairs of targets and sources, columns of keys and values, and the largest |score| of
        some targets (k,)."""
        base, column, wide = _PAIR[dtype.itemsize]
        far = 0.0 if scores is None else float((scores > _REACH[dtype.itemsize]).mean())
        each = base + column * columns + wide * (1.0 - (1.0 - far) ** _TILE)
        return self.direct * count * each / self.speed

    def grid(self, planned: float, serial: float = 0.0) -> float:
        """Seconds of a sum on one grid, of which `planning` expects some, some of that on one thread."""
        return self.fast * (_GRID_FIXED + serial + _GRID * (planned - serial) / self.speed)

    def tree(self, planned: float) -> float:
        """Seconds of a sum by the tree, which expects some itself."""
        return self.fast * (_TREE_FIXED + _TREE * planned / self.speed)

    def trees_within(self, seconds: float) -> float:
        """What a tree may expect of itself to take less than so many seconds."""
        return (seconds / self.fast - _TREE_FIXED) * self.speed / _TREE

    def masked(self, planned: float) -> float:
        """Seconds of a masked sum in O(n^1.5), of which `causal` expects some."""
        return self.fast * (_MASKED_FIXED + _MASKED * planned / self.speed)

    def worth_a_look(self, pairs: float, columns: int, dtype: np.dtype) -> bool:
        """Whether a sum may be faster in O(n) than directly: on two threads from 2500 points on the line on, 4600 in
        single precision. Machines differ in `threads` only."""
        base, column, _ = _PAIR[dtype.itemsize]
        fewest, most = _COLUMNS
        look = _LOOK * max(_LEAST, self.threads) * (1 + min(max(columns, fewest), most))
        return pairs * (base + column * columns) >= look


TYPICAL = Costs()  # where a machine cannot be measured


def may_choose(n: int, d: int) -> bool:
    """The same of sums over n tokens of dimension d, whatever the attention and the precision."""
    return TYPICAL.worth_a_look(float(n) * n, 2 * d, np.dtype(np.float64))
