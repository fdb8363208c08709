"""What a sum is expected to cost on one thread: directly, or in O(n).

Direct sums take pairs (base + column (k + c)) for keys in R^k and c values; more where scores may be so large that the
exponential needs a shift (wide). Sums in O(n) take a time of their own beside a share of what their plans expect. All
this was measured on one machine; what is measured on another one are two factors (`calibration`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from ..errors import InputError, InputTypeError

# Seconds per pair on one core of a server with AVX2: always, per key or value column, and in wide sums.
_PAIR = {8: (1.05e-9, 0.053e-9, 0.68e-9), 4: (0.25e-9, 0.0235e-9, 0.19e-9)}  # by bytes of a number
_REACH = {8: 680.0, 4: 80.0}  # |score|, natural units, from which a direct sum is wide
_FIXED, _GRID, _TREE = 2.4e-3, 0.58, 1.2  # seconds of a sum in O(n) in any case; times what is expected of it
_MASKED_FIXED, _MASKED = 3.5e-3, 1.1  # the same of a masked sum
_DIGITS = 3  # kept of a measured number: more would be noise


@dataclass(frozen=True)
class Costs:
    """Times on a machine: direct sums and sums in O(n), each relative to the machine that the constants are of."""

    direct: float = 1.0
    fast: float = 1.0

    @staticmethod
    def of(values: object, argument: str = "costs") -> Costs:
        """From a table of the two. Raises InputError, InputTypeError: unless both are there and positive numbers."""
        names = [item.name for item in fields(Costs)]
        need = f"a table of the positive numbers {' and '.join(names)}"
        if isinstance(values, Costs):
            return values
        if not isinstance(values, dict):
            raise InputTypeError(argument, repr(values), need)
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
        return Costs(*(float(f"{value:.{_DIGITS}g}") for value in (self.direct, self.fast)))

    def pairs(self, count: float, columns: int, dtype: np.dtype, score: float = 0.0) -> float:
        """Seconds of a direct sum: pairs of targets and sources, columns of keys and values, the largest |score|."""
        base, column, wide = _PAIR[dtype.itemsize]
        return self.direct * count * (base + column * columns + (wide if score > _REACH[dtype.itemsize] else 0.0))

    def grid(self, planned: float) -> float:
        """Seconds of a sum on one grid, of which `planning` expects some."""
        return self.fast * (_FIXED + _GRID * planned)

    def tree(self, planned: float) -> float:
        """Seconds of a sum by the tree, which expects some itself."""
        return self.fast * (_FIXED + _TREE * planned)

    def trees_within(self, seconds: float) -> float:
        """What a tree may expect of itself to take less than so many seconds."""
        return (seconds / self.fast - _FIXED) / _TREE

    def masked(self, planned: float) -> float:
        """Seconds of a masked sum in O(n^1.5), of which `causal` expects some."""
        return self.fast * (_MASKED_FIXED + _MASKED * planned)


TYPICAL = Costs()  # where a machine cannot be measured


def worth_a_look(pairs: float, columns: int) -> bool:
    """Whether a sum may be faster in O(n) than directly: from 1700 targets and sources in the plane on."""
    return pairs * (20 + columns) >= 3e6 * 24


def may_choose(n: int, d: int) -> bool:
    """The same of sums over n tokens of dimension d, whatever the attention."""
    return worth_a_look(float(n) * n, 2 * d)
