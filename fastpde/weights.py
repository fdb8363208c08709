"""Weights: the functions w(s) of a score s, in readable formulas.

A weight is a NamedTuple without fields; its *type* selects the code of a kernel, so kernels are compiled and cached
once per weight and contain the name of none. `simd.emitters` has the same formulas for vectors of scores in registers.

A new weight needs a class here, its place in WEIGHTS, and an entry of `simd.emitters`. `Weight` is a user's own: its
function is compiled by itself, and kernels call it for a block of scores at a time.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from ._types import Array
from .errors import Explained, InputError, InputTypeError


class Exp(NamedTuple):
    """The weight w(s) = e^s: Softmax, L2, unnormalised exponential and Sinkhorn attention."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return np.exp(s)

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        return np.exp(s)

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Return c, v, v' with E w(z) = c v and E w'(z) = c v' for z ~ N(mean, spread^2); c may overflow."""
        one = np.ones_like(mean)
        return np.exp(mean + 0.5 * spread * spread), one, one


class Sigmoid(NamedTuple):
    """The weight w(s) = 1 / (1 + e^-s): sigmoid attention."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return 1.0 / (1.0 + np.exp(-s))

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        small = np.exp(-np.abs(s))
        return small / (1.0 + small) ** 2

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Return c, v, v' as `Exp.expected` does, to rounding.

        They are made by the trapezoidal rule on [-9, 9] standard deviations. Its contour may move up to the poles at
        distance p = pi / spread, so its error is e^{p^2 / 2 - 2 pi p / step}; e^{-42} leaves room for their order.
        """
        reach, digits = 9.0, 42.0
        p = min(np.pi / max(float(np.max(spread, initial=0.0)), 1e-300), np.sqrt(2.0 * digits))
        step = 2.0 * np.pi * p / (digits + 0.5 * p * p)
        nodes = np.arange(-np.ceil(reach / step), np.ceil(reach / step) + 1.0) * step
        bell = np.exp(-0.5 * nodes * nodes)
        value, slope = np.zeros_like(mean), np.zeros_like(mean)
        for node, part in zip(nodes, bell / bell.sum(), strict=True):
            z = mean + spread * node
            small = np.exp(-np.abs(z))
            value += part * np.where(z >= 0.0, 1.0, small) / (1.0 + small)
            slope += part * small / (1.0 + small) ** 2
        return np.ones_like(mean), value, slope


class Linear(NamedTuple):
    """The weight w(s) = s: linear attention, which is summed by moments, never pair by pair; and linear maps."""

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return np.asarray(s)

    def derivative(self, s: Array) -> Array:
        """Return w'(s)."""
        return np.ones_like(s)

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Return c, v, v' as `Exp.expected` does."""
        one = np.ones_like(mean)
        return one, mean, one


def slope_of(weight: Any) -> Any:
    """Return the weight w' of a weight w, of a linear one itself. Raises InputError where it is not known."""
    if isinstance(weight, Exp | Linear):
        return weight
    if isinstance(weight, Sigmoid):
        return _sigmoid_slope()
    if weight.derived is None:
        raise InputError("weight", repr(weight), "a weight with a derivative", "Give fp.Weight(f, derivative=...).")
    return weight.slope


@cache
def _sigmoid_slope() -> Weight:
    def slope(s):  # type: ignore[no-untyped-def]
        small = np.exp(-abs(s))
        return small / ((1.0 + small) * (1.0 + small))

    return Weight(slope)


_MOST_NODES = 1e5  # on either side of the mean, for an expectation
_CUT = 1e-10  # the largest term at nine standard deviations, relative to the sum of their sizes


class Called(NamedTuple):
    """A weight as kernels see it whose function is called at an address: see `simd.called`."""

    double: int  # address of the function of float64 scores
    single: int  # of float32 scores


class Weight(Explained):
    """A user's own weight of the score, w(s) = f(s): `fp.Softmax(Q, K, V, weight=fp.Weight(f))`.

        def kernel(s):
            return 1.0 / (1.0 + s * s)

        attention = fp.Exponential(Q, K, V, weight=fp.Weight(kernel))

    It is summed directly, in ensembles too. `exp` of NumPy or `math` in f is that of the built-in weights, right to a
    few units in the last place and as fast; other functions are those of the C library. Where f raises an error the
    result is nan. Every process compiles f again, a fraction of a second; the kernels around it are cached.

    The score of distances is an expanded square, right to rounding of |Qx|^2 and |Ky|^2: near zero it may have either
    sign, and f should be smooth there.

    Args:
        f: a function of one number that Numba compiles.
        derivative: f', likewise a function; None: not known.
        bounded_by: numbers (sup |f|, sup |f'|), for bounds of stability; None: not known.

    Raises:
        InputError, InputTypeError: naming the argument; for a function that Numba cannot compile when it is first used.
    """

    def __init__(self, f: Any, derivative: Any = None, bounded_by: Any = None) -> None:
        self._f, self._derived = (_function(name, g) for name, g in (("f", f), ("derivative", derivative)))
        if self._f is None:
            raise InputTypeError("f", "None", "a function of a number")
        self._bounded_by = _bounds(bounded_by)

    @property
    def f(self) -> Any:
        """The function f."""
        return self._f

    @property
    def derived(self) -> Any:
        """The derivative f', or None."""
        return self._derived

    @property
    def bounded_by(self) -> tuple[float, float] | None:
        """The bounds (sup |f|, sup |f'|), or None."""
        return self._bounded_by

    @cached_property
    def slope(self) -> Weight:
        """The derivative as a weight; there must be one."""
        return Weight(self._derived)

    def __repr__(self) -> str:
        return f"Weight({getattr(self.f, '__name__', 'f')})"

    def value(self, s: Array) -> Array:
        """Return w(s)."""
        return _of_each(self.f, s)

    def derivative(self, s: Array) -> Array:
        """Return w'(s). Raises InputError unless a derivative was given."""
        if self.derived is None:
            raise InputError("weight", repr(self), "a weight with a derivative", "Give fp.Weight(f, derivative=...).")
        return _of_each(self.derived, s)

    def expected(self, mean: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Return c, v, v' as `Exp.expected` does, by the trapezoidal rule on [-9, 9] standard deviations.

        Its steps are at most a tenth of a standard deviation and at most 0.2 in the score, which is right to rounding
        for functions without a pole within distance 1.2 of the real line. Without a derivative, E w'(z) is
        E w(z) (z - mean) / spread^2. Raises InputError where w grows too fast or scores vary too much for the rule.
        """
        step = min(0.1, 0.2 / max(float(np.max(spread, initial=0.0)), 1e-300))
        count = np.ceil(9.0 / step)
        if count > _MOST_NODES:
            raise InputError("weight", f"scores with a standard deviation of {spread.max():.3g}", "smaller ones")
        value, size, slope, total = *(np.zeros_like(mean) for _ in range(3)), 0.0
        if self.derived is None and not (spread > 0.0).all():
            self.derivative(mean)  # says what is missing
        ends = 0.0
        for node in np.arange(-count, count + 1.0) * step:
            bell = np.exp(-0.5 * node * node)
            z = mean + spread * node
            values = self.value(z)
            if abs(node) == count * step:
                ends = np.maximum(ends, bell * np.abs(values))
            value, size, total = value + bell * values, size + bell * np.abs(values), total + bell
            slope += bell * (values * node / spread if self.derived is None else self.derivative(z))
        if not (ends <= _CUT * size).all():
            came = f"{self!r} under scores with a standard deviation of {np.max(spread):.3g}"
            raise InputError("weight", came, "a weight that grows less, or smaller scores")
        return np.ones_like(mean), value / total, slope / total


def _of_each(f: Any, s: Array) -> Array:
    """Return f of each number of an array, in float64 and of its shape."""
    s = np.asarray(s, np.float64)
    with np.errstate(all="ignore"):  # as where it is compiled
        return np.array([f(number) for number in s.ravel()], np.float64).reshape(s.shape)


def _function(name: str, f: Any) -> Any:
    if f is not None and not callable(f):
        raise InputTypeError(name, type(f).__name__, "a function of a number")
    return f


def _bounds(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    try:
        bounds = tuple(float(bound) for bound in given)
    except (TypeError, ValueError) as error:
        raise InputTypeError("bounded_by", repr(given), "two numbers, sup |f| and sup |f'|") from error
    if len(bounds) != 2 or not all(0.0 <= bound < np.inf for bound in bounds):
        raise InputError("bounded_by", repr(given), "two numbers >= 0, sup |f| and sup |f'|")
    return bounds[0], bounds[1]


WEIGHTS: tuple[Any, ...] = (Exp(), Sigmoid(), Linear())


def check(weight: Any, *, own: bool = False) -> None:
    """Raise InputTypeError unless this is a weight; own: it has to be a user's own."""
    if isinstance(weight, Weight) or (not own and type(weight) in map(type, WEIGHTS)):
        return
    came, remedy = type(weight).__name__, ""
    if callable(weight):
        came = getattr(weight, "__name__", came)
        remedy = f"Write it as fp.Weight({came})."
    raise InputTypeError("weight", came, "fp.Weight(f), f a function of one number, the score", remedy)


def is_exponential(weight: Any) -> bool:
    """Return whether w(s + c) = w(c) w(s), so that sums can be made relative to their largest weight."""
    return isinstance(weight, Exp)


def is_bounded(weight: Any) -> bool:
    """Return whether w is bounded; a user's own is where its bounds were given."""
    return isinstance(weight, Sigmoid) or (isinstance(weight, Weight) and weight.bounded_by is not None)


def is_positive(weight: Any) -> bool:
    """Return whether w is positive everywhere, so that total weights have logarithms."""
    return isinstance(weight, Exp | Sigmoid)
