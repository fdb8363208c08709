"""The abstract law: what samples, Sobol points, quadrature nodes and densities of all laws have in common."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import initial
from .._numbers import show, whole
from .._types import Array, as_numbers
from ..errors import ExplainedMethods, InputError

MOST_NODES = 4_000_000  # of one quadrature rule: a bound on what a typing error can ask for
_HALF_CELL = 2.0**-31  # scrambled Sobol numbers are multiples of 2^-30; in the middle of their cells none is 0 or 1


class Law(ExplainedMethods, ABC):
    """A probability law on R^d, made from independent N(0, 1) and uniform numbers by `place`.

    A law of your own is a subclass with `mean`, `cov`, `variates` and `place`; `log_density` and `nodes` are refused
    unless it has them.

    Attributes:
        mean: (d,) float64.
        cov: (d, d) float64.
    """

    mean: Array
    cov: Array

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return int(self.mean.shape[-1])

    @property
    def support_radius(self) -> float:
        """The largest |x| in the support; inf if it is unbounded, or not known."""
        return math.inf

    @property
    @abstractmethod
    def variates(self) -> tuple[int, int]:
        """The pair (a, b): how many N(0, 1) and how many uniform numbers make one sample."""

    @abstractmethod
    def place(self, z: Array, u: Array) -> Array:
        """Return points (n, d) of the law, made from normals z (n, a) and numbers u (n, b) uniform in [0, 1).

        Row i depends on row i of z and u alone.
        """

    def sample(
        self, n: int, seed: int, *, dtype: Any = np.float64, system: int = 0, rows: slice | None = None
    ) -> Array:
        """Return n independent points (n, d).

        Point i depends on the seed, `system` and i alone, to the bit: more points begin with those of fewer.

        Args:
            n: number of points, at least 1.
            seed: an int >= 0.
            dtype: float64, or float32: the float64 numbers, rounded.
            system: the number of a cloud of an ensemble; each has random numbers of its own.
            rows: a slice of the n points; only these are made, as by one process of many. None: all.

        Raises: InputError, InputTypeError, naming the argument.
        """
        count, seed, system = whole("n", n, 0), whole("seed", seed, 0), whole("system", system, 0)
        return initial.in_blocks(self.place, self.variates, count, seed, dtype=dtype, system=system, rows=rows)

    def sobol(self, n: int, seed: int) -> Array:
        """Return n scrambled Sobol points (n, d): a + b coordinates of the unit cube, through the inverse distribution
        functions and `place`.

        Each point has the law, and averages over all of them have errors near 1/n where those of samples have
        n^{-1/2}; powers of two are best. Different seeds are independent scrambles, whose spread is an error bar.

        Raises: InputError, InputTypeError, naming the argument.

        Source: Owen (1998), Scrambling Sobol' and Niederreiter-Xing points.
        """
        from scipy.special import ndtri
        from scipy.stats import qmc

        count, seed = whole("n", n, 1, 2**30), whole("seed", seed, 0)
        normals, uniforms = self.variates
        cube = qmc.Sobol(normals + uniforms, scramble=True, seed=np.random.default_rng(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that n is no power of two
            points = cube.random(count) + _HALF_CELL
        return self.place(ndtri(points[:, :normals]), points[:, normals:])

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (q, d) and weights (q,), positive with sum 1, of a quadrature rule with m points per axis.

        Raises: InputError, InputTypeError, where there is no rule or its nodes are too many.
        """
        raise InputError("law", repr(self), "a law with a quadrature rule", "Take sobol(n, seed).")

    def quantile(self, u: Any) -> Array:
        """Return the quantile function at levels u (m,) in (0, 1): points (m,), for a law on the line.

        Raises: InputError, InputTypeError, where it is not known, as for laws in more dimensions.
        """
        raise InputError("law", repr(self), "a law on the line whose quantile function is known, as fp.laws.Ball(1)")

    def edge(self, m: int) -> Array:
        """Return points (q, d), m per axis, on the outer boundary of the support.

        Raises: InputError, InputTypeError, where the support is unbounded or its boundary is not known.
        """
        raise InputError("law", repr(self), "a law whose support has a known boundary, as fp.laws.Ball(2)")

    def log_density(self, x: Any) -> Array:
        """Return the logarithm (...) of the density at points x (..., d), -inf outside of the support.

        Raises: InputError, InputTypeError, for points of another dimension and laws without a density.
        """
        raise self._singular()

    def density(self, x: Any) -> Array:
        """Return the density (...) at points x (..., d), in units of 1 / length^d.

        Raises: InputError, InputTypeError, as `log_density`.
        """
        return np.exp(self.log_density(x))

    def _levels(self, u: Any) -> Array:
        """Return levels (m,) of a law on the line. Raises InputError, InputTypeError naming u, or the law."""
        if self.dimension != 1:
            raise InputError("law", repr(self), "a law on the line, in dimension 1")
        levels = as_numbers("u", u).astype(np.float64)
        if levels.ndim != 1 or (levels.size and not (levels.min() > 0.0 and levels.max() < 1.0)):
            raise InputError("u", show(u), "levels (m,) between 0 and 1")
        return levels

    def _singular(self) -> InputError:
        """Return the error that says that the law has no density."""
        return InputError("law", repr(self), f"a law with a density in R^{self.dimension}")

    def _checked(self, x: Any) -> tuple[Array, float]:
        """Return points x (..., d) as float64, and the rounding error of a number of their precision.

        Raises InputError, InputTypeError for points of another dimension.
        """
        found = as_numbers("x", x)
        if found.ndim < 1 or found.shape[-1] != self.dimension:
            raise InputError("x", f"shape {found.shape}", f"shape (..., {self.dimension}), points of the law")
        return found.astype(np.float64), float(np.finfo(found.dtype).eps)


def law_of(name: str, value: object) -> Law:
    """Return one law, no batch, or raise InputError naming `name`."""
    if not isinstance(value, Law) or value.mean.ndim > 1:
        came = f"the class {value.__name__}" if isinstance(value, type) else show(value)
        raise InputError(name, came, "one law, as fp.laws.Ball(2)")
    return value


def laws_of(value: Any) -> list[Law]:
    """Return a list of one law or more, or raise InputError."""
    if not isinstance(value, Sequence) or not value:
        raise InputError("laws", show(value), "a list of one law or more")
    return [law_of(f"laws[{i}]", law) for i, law in enumerate(value)]


def centre(value: Any, d: int) -> Array:
    """Return a point (d,), read-only, of a number for all its entries or of (d,). Raises InputError naming mean."""
    found = as_numbers("mean", value)
    if found.shape not in ((), (d,)):
        raise InputError("mean", f"shape {found.shape}", f"a number or shape ({d},)")
    return fixed(np.broadcast_to(found, (d,)))


def fixed(value: Any) -> Array:
    """Return a copy as float64 that cannot be written."""
    array = np.array(value, dtype=np.float64)
    array.flags.writeable = False
    return array
