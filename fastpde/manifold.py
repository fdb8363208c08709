"""The manifold to which tokens are bound: all of R^d, or the unit sphere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._types import Array
from .errors import InputError, InputTypeError
from .integrate.space import VectorSpace
from .parallel.partition import Partition

# Elements per block: what one operation touches stays in the second-level cache, and nothing large is allocated.
_BLOCK = 16384
# How far from 1 the norm of a given token may be: the rounding of a division by the norm, with room to spare.
_SLACK = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-4}


class Manifold(ABC):
    """A closed subset M of R^d to which every token is bound: x_i' = P(x_i) Gamma_mu(x_i), P the tangent projection.

    Arrays hold one token per last axis, (n, d) or (B, n, d), and are C-contiguous, float64 or float32. What a method
    does to a token depends on that token alone, to the bit; only `start` allocates an array of that size.
    """

    @abstractmethod
    def check(self, x: Array, name: str = "x0") -> None:
        """Raise InputError, naming `name`, unless every token is on M up to a little more than rounding."""

    @abstractmethod
    def retract(self, x: Array) -> None:
        """Move every token to the point of M nearest to it, in place; to nan where there is none."""

    @abstractmethod
    def project(self, x: Array, v: Array) -> None:
        """Replace every vector of v, in place, by its part tangent to M at the token of x, which is on M."""

    def dimension(self, d: int) -> int:
        """Return the dimension of M in R^d. Raises InputError."""
        raise self._unknown()

    def pull_retraction(self, x: Array, c: Array) -> Array:
        """Return the transposed derivative of the retraction at points x, times vectors c. Raises InputError.

        It is the derivative itself, too: that of the map to the nearest point is symmetric.
        """
        raise self._unknown()

    def push_projection(self, x: Array, v: Array, dx: Array, dv: Array) -> Array:
        """Return the change of the projection of v at x (n, d) when these change by dx and dv (..., n, d).

        Raises InputError.
        """
        raise self._unknown()

    def pull_projection(self, x: Array, v: Array, c: Array) -> tuple[Array, Array]:
        """Return the transposed derivatives of the projection of v at x, in x and in v, times c. Raises InputError."""
        raise self._unknown()

    def divergence(self, x: Array, v: Array, trace: Array, image: Callable[[Array], Array]) -> Array:
        """Return the divergence (..., n) on M of a field's projection, at points x (..., n, d). Raises InputError.

        v, trace: the field, as x, and the trace of its derivative D (..., n). image: image(u) returns D u of vectors.
        """
        raise self._unknown()

    def _unknown(self) -> InputError:
        need, remedy = "fp.Euclidean() or fp.Sphere()", "Derivatives of others are not known."
        return InputError("manifold", repr(self), need, remedy)

    def space(self, shape: tuple[int, ...], dtype: Any, partition: Partition | None = None) -> VectorSpace:
        """Return the vector space of states (see `fastpde.integrate.space`) whose `combine` makes tokens on M.

        partition: which of all tokens a state has; None: all.
        """
        return VectorSpace(shape, dtype, partition, self.retract)

    def start(self, x0: Array) -> Array:
        """Check the tokens x0 and return them on M to rounding; x0 itself is not modified."""
        self.check(x0)
        x = x0.copy()
        self.retract(x)
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Euclidean(Manifold):
    """All of R^d: nothing to check, to retract or to project."""

    def check(self, x: Array, name: str = "x0") -> None:
        pass

    def retract(self, x: Array) -> None:
        pass

    def project(self, x: Array, v: Array) -> None:
        pass

    def space(self, shape: tuple[int, ...], dtype: Any, partition: Partition | None = None) -> VectorSpace:
        return VectorSpace(shape, dtype, partition)

    def dimension(self, d: int) -> int:
        return d

    def pull_retraction(self, x: Array, c: Array) -> Array:
        return c

    def push_projection(self, x: Array, v: Array, dx: Array, dv: Array) -> Array:
        return dv

    def divergence(self, x: Array, v: Array, trace: Array, image: Callable[[Array], Array]) -> Array:
        return trace

    def pull_projection(self, x: Array, v: Array, c: Array) -> tuple[Array, Array]:
        return np.zeros_like(c), c

    def start(self, x0: Array) -> Array:
        return x0


class Sphere(Manifold):
    """The unit sphere |x| = 1, where layer norm puts the tokens: P(x) v = v - <v, x> x, retraction x / |x|.

    A Runge-Kutta step of this manifold's space is a step for y' = P(y/|y|) Gamma(y/|y|), followed by y / |y|. That
    field is smooth and its exact solution stays on the sphere, so every method keeps its order.

    Source: Geshkovski, Letrouit, Polyanskiy, Rigollet, A mathematical perspective on Transformers (2025), Bull. AMS 62,
    427-479; retraction: Hairer, Lubich, Wanner, Geometric Numerical Integration (2006), IV.4.
    """

    def check(self, x: Array, name: str = "x0") -> None:
        """Raise InputError, naming `name`, unless every norm is 1 up to 1e-6 (float64) or 1e-4 (float32)."""
        for start, rows in _blocks(x):
            norms = np.sqrt(_dots(rows, rows))
            bad = np.flatnonzero(~(np.abs(norms - 1.0) <= _SLACK[x.dtype]))
            if bad.size:
                index = ", ".join(str(int(i)) for i in np.unravel_index(start + bad[0], x.shape[:-1]))
                came = f"a token {name}[{index}] of norm {norms[bad[0]]:.9g}"
                remedy = f"Divide the tokens by it: {name} / np.linalg.norm({name}, axis=-1, keepdims=True)."
                raise InputError(name, came, "tokens of norm 1, for the sphere", remedy)

    def retract(self, x: Array) -> None:
        from .kernels import sphere

        sphere.retract(x.reshape(-1), x.shape[-1])

    def project(self, x: Array, v: Array) -> None:
        from .kernels import sphere

        sphere.project(x.reshape(-1), v.reshape(-1), x.shape[-1])

    def dimension(self, d: int) -> int:
        return d - 1

    def pull_retraction(self, x: Array, c: Array) -> Array:
        norms = np.sqrt(_products(x, x))
        unit = x / norms
        return (c - _products(unit, c) * unit) / norms

    def push_projection(self, x: Array, v: Array, dx: Array, dv: Array) -> Array:
        """Return dv - <x, dv> x - <dx, v> x - <x, v> dx."""
        along, across = _products(x, dv) + _products(dx, v), _products(x, v)
        return dv - along * x - across * dx

    def divergence(self, x: Array, v: Array, trace: Array, image: Callable[[Array], Array]) -> Array:
        """Return tr D - <x, D x> - (d - 1) <x, v>."""
        found: Array = trace - (_products(x, image(x)) + (x.shape[-1] - 1) * _products(x, v))[..., 0]
        return found

    def pull_projection(self, x: Array, v: Array, c: Array) -> tuple[Array, Array]:
        """Return -<x, c> v - <x, v> c and c - <x, c> x."""
        along, across = _products(x, c), _products(x, v)
        return -along * v - across * c, c - along * x


def as_manifold(value: object) -> Manifold:
    """Return a manifold as it is, and for None all of R^d. Raises InputTypeError for anything else."""
    if value is None:
        return Euclidean()
    if not isinstance(value, Manifold):
        came = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise InputTypeError("manifold", came, "fp.Euclidean() or fp.Sphere()")
    return value


def _blocks(x: Array) -> Iterator[tuple[int, Array]]:
    """Yield all tokens in blocks: the index of the first one, and a view (rows, d)."""
    tokens = x.reshape(-1, x.shape[-1])
    step = max(1, _BLOCK // tokens.shape[1])
    for start in range(0, len(tokens), step):
        yield start, tokens[start : start + step]


def _products(x: Array, y: Array) -> Array:
    """Return <x_i, y_i> (..., 1) of arrays (..., d) in float64."""
    return np.einsum("...j,...j->...", x, y)[..., None]


def _dots(x: Array, y: Array) -> Array:
    """Return <x_i, y_i> (rows,), in float64."""
    # Converted first: a conversion on the fly would cut the sums at the ends of NumPy's buffer, wherever they fall.
    wide = (a.astype(np.float64, copy=False) for a in (x, y))
    return np.einsum("ij,ij->i", *wide)
