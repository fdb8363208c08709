"""Boxes, products and mixtures of laws, and the law of given points."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .._numbers import whole
from .._types import Array, as_numbers, as_tokens, as_weights
from ..errors import InputError
from .gaussian import Gaussian
from .law import Law, fixed, laws_of
from .quadrature import Rule, check_count, legendre, tensor, thinned


class Box(Law):
    """The uniform law in the box low <= x <= high, in d = 1 an interval.

    Nodes are a tensor product of Gauss-Legendre rules, m for each axis: exact for polynomials of degree 2m - 1 in each
    coordinate.
    """

    def __init__(self, low: Any, high: Any) -> None:
        """Make the law of two corners (d,); a number stands for all entries, two numbers for d = 1.

        Raises InputError, InputTypeError: naming the argument, unless low < high.
        """
        a, b = as_numbers("low", low), as_numbers("high", high)
        d = max(a.size, b.size)
        if a.shape not in ((), (d,)) or b.shape not in ((), (d,)) or not d:
            raise InputError(
                "high", f"shapes {a.shape} and {b.shape}", "low and high of the same shape (d,), or numbers"
            )
        self.low, self.high = fixed(np.broadcast_to(a, (d,))), fixed(np.broadcast_to(b, (d,)))
        if not (self.low < self.high).all():
            axis = int(np.argmin(self.low < self.high))
            came = f"{self.high[axis]:g} on axis {axis}"
            raise InputError("high", came, f"more than low = {self.low[axis]:g}")
        self._length = self.high - self.low
        self.mean = fixed(0.5 * (self.low + self.high))
        self.cov = fixed(np.diag(self._length**2 / 12.0))

    def __repr__(self) -> str:
        return f"Box(d={self.dimension})"

    @property
    def support_radius(self) -> float:
        """The distance of the farthest corner from the origin."""
        return float(np.linalg.norm(np.maximum(np.abs(self.low), np.abs(self.high))))

    @property
    def variates(self) -> tuple[int, int]:
        """The pair (0, d): a sample is made from d uniform numbers."""
        return 0, self.dimension

    def place(self, z: Array, u: Array) -> Array:
        """Return low + (high - low) u."""
        return np.asarray(self.low + self._length * u)

    def quantile(self, u: Any) -> Array:
        """Return low + (high - low) u (m,) for levels u (m,), in dimension 1. Raises InputError, InputTypeError."""
        return np.asarray(self.low[0] + self._length[0] * self._levels(u))

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (m^d, d) and weights (m^d,), exact to degree 2m - 1 in each coordinate.

        Raises InputError, InputTypeError naming m.
        """
        return tensor([legendre(m, a, b) for a, b in zip(self.low, self.high, strict=True)])

    def edge(self, m: int) -> Array:
        """Return the corners and other points (q, d) of the faces, (m + 1)^{d-1} on each.

        Raises InputError, InputTypeError naming m.
        """
        count, d = whole("m", m) + 1, self.dimension
        check_count(m, [2 * d, *[count] * (d - 1)])
        share = 0.5 - 0.5 * np.cos(np.linspace(0.0, math.pi, count))
        sides = []
        for axis in range(d):
            ways = [np.array([0.0, 1.0]) if i == axis else share for i in range(d)]
            sides.append(np.stack(np.meshgrid(*ways, indexing="ij"), axis=-1).reshape(-1, d))
        return np.asarray(self.low + self._length * np.concatenate(sides))

    def log_density(self, x: Any) -> Array:
        """Return minus the logarithm of the volume (...) at points x (..., d), -inf outside.

        Raises InputError, InputTypeError: for points of another dimension.
        """
        points, eps = self._checked(x)
        rounding = 2.0 * eps * np.maximum(np.abs(self.low), np.abs(self.high))
        inside = ((points >= self.low - rounding) & (points <= self.high + rounding)).all(axis=-1)
        return np.where(inside, -np.log(self._length).sum(), -np.inf)


class Product(Law):
    """The law of independent groups of coordinates, one law for each, side by side.

    Nodes are the tensor product of the rules of the laws, each with its own m points per axis.
    """

    def __init__(self, laws: Any) -> None:
        """Make the law of a list of laws. Raises InputError for what is no list of laws."""
        self.laws = laws_of(laws)
        ends = np.cumsum([0, *(law.dimension for law in self.laws)])
        self._parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.mean = fixed(np.concatenate([law.mean for law in self.laws], axis=-1))
        cov = np.zeros((ends[-1], ends[-1]))
        for part, law in zip(self._parts, self.laws, strict=True):
            cov[part, part] = law.cov
        self.cov = fixed(cov)

    def __repr__(self) -> str:
        return f"Product({self.laws})"

    @property
    def support_radius(self) -> float:
        """The root of the sum of the squares of those of the laws."""
        return math.hypot(*(law.support_radius for law in self.laws))

    @property
    def variates(self) -> tuple[int, int]:
        """The pair of the sums of normal and of uniform numbers of all laws."""
        counts = [law.variates for law in self.laws]
        return sum(a for a, _ in counts), sum(b for _, b in counts)

    def place(self, z: Array, u: Array) -> Array:
        """Return the points of all laws side by side, each made from the next columns of z and u."""
        x, a, b = np.empty((len(z), self.dimension)), 0, 0
        for part, law in zip(self._parts, self.laws, strict=True):
            normals, uniforms = law.variates
            x[:, part] = law.place(z[:, a : a + normals], u[:, b : b + uniforms])
            a, b = a + normals, b + uniforms
        return x

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (q, d) and weights (q,), q the product of the numbers of nodes of the laws.

        Raises InputError, InputTypeError, where a law has no rule or the nodes are too many.
        """
        return tensor([law.nodes(m) for law in self.laws])

    def log_density(self, x: Any) -> Array:
        """Return the sum (...) of the log-densities of the laws at points x (..., d).

        Raises InputError, InputTypeError: for points of another dimension, and where a law has no density.
        """
        points, _ = self._checked(x)
        given = np.asarray(x)  # in its own precision, by which edges are judged
        points = given if given.dtype.kind == "f" else points
        return np.asarray(sum(law.log_density(points[..., s]) for s, law in zip(self._parts, self.laws, strict=True)))


class Mixture(Law):
    """The mixture sum_m p_m law_m of laws of the same dimension.

    A sample takes one uniform number to choose a law. Nodes are those of all laws, with weights p_m times theirs.
    """

    def __init__(self, laws: Any, weights: Any = None) -> None:
        """Make the law of a list of laws and their weights p (m,) of at least 0 that sum to 1; None: equal weights.

        Raises InputError, InputTypeError: naming the argument.
        """
        self.laws = laws_of(laws)
        for i, law in enumerate(self.laws):
            if law.mean.shape != self.laws[0].mean.shape or law.mean.ndim > 1:
                need = f"one law in R^{self.laws[0].dimension}, as laws[0]"
                raise InputError(f"laws[{i}]", repr(law), need)
        m = len(self.laws)
        p = np.full(m, 1.0 / m) if weights is None else as_numbers("weights", weights).astype(np.float64)
        if p.shape != (m,) or p.min() < 0.0 or abs(p.sum() - 1.0) > 1e-9:
            raise InputError("weights", str(p.tolist()), f"{m} numbers of at least 0 that sum to 1")
        self.weights = fixed(p)
        self._parts = [(float(q), law) for q, law in zip(p, self.laws, strict=True) if q > 0.0]
        self._edges = np.cumsum(p)[:-1]
        means, covs = (np.array([getattr(law, name) for law in self.laws]) for name in ("mean", "cov"))
        self.mean = fixed(p @ means)
        away = means - self.mean
        self.cov = fixed(np.tensordot(p, covs, 1) + (p[:, None] * away).T @ away)
        roots = [law.root if isinstance(law, Gaussian) else None for law in self.laws]
        self._round = means, np.array(roots) if all(isinstance(root, float) for root in roots) else None

    def __repr__(self) -> str:
        return f"Mixture({self.laws})" if len(self.laws) <= 4 else f"Mixture of {len(self.laws)} laws"

    @property
    def support_radius(self) -> float:
        """The largest one of the laws whose weight is not 0."""
        return max(law.support_radius for _, law in self._parts)

    @property
    def variates(self) -> tuple[int, int]:
        """The pair of the largest numbers of normal and of uniform numbers of the laws, one uniform number more."""
        counts = [law.variates for law in self.laws]
        return max(a for a, _ in counts), 1 + max(b for _, b in counts)

    def place(self, z: Array, u: Array) -> Array:
        """Return the points of the laws that the first column of u chooses."""
        chosen = np.searchsorted(self._edges, u[:, 0], side="right")
        means, roots = self._round
        if roots is not None:  # many components cost no more than one
            return np.asarray(means[chosen] + roots[chosen, None] * z)
        x = np.empty((len(u), self.dimension))
        for i, law in enumerate(self.laws):
            mine, (normals, uniforms) = chosen == i, law.variates
            if mine.any():  # of all rows, since the rounding of a row may depend on how many there are
                x[mine] = law.place(z[:, :normals], u[:, 1 : 1 + uniforms])[mine]
        return x

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return the nodes x (q, d) of all laws whose weight is not 0, and their weights (q,) times p.

        Raises InputError, InputTypeError, where a law has no rule or the nodes are too many.
        """
        rules: list[Rule] = [(x, p * w) for p, law in self._parts for x, w in [law.nodes(m)]]
        check_count(m, [sum(len(w) for _, w in rules)])
        return thinned(*(np.concatenate(arrays) for arrays in zip(*rules, strict=True)))

    def edge(self, m: int) -> Array:
        """Return the points (q, d) of the edges of all laws whose weight is not 0.

        Raises InputError, InputTypeError, where a law has none.
        """
        return np.concatenate([law.edge(m) for _, law in self._parts])

    def log_density(self, x: Any) -> Array:
        """Return log sum_m p_m density_m (...) at points x (..., d).

        Raises InputError, InputTypeError: for points of another dimension, and where a law has no density.
        """
        self._checked(x)
        parts = [math.log(p) + law.log_density(x) for p, law in self._parts]
        return np.asarray(np.logaddexp.reduce(parts, axis=0))


class Empirical(Law):
    """The law sum_i w_i delta_{x_i} of given points; it has no density.

    Samples are drawn from the points with replacement. Nodes are the points and their weights themselves, for every m.
    """

    def __init__(self, x: Any, weights: Any = None) -> None:
        """Make the law of points x (n, d) and weights (n,), positive, sum 1; None: 1/n.

        Raises InputError, InputTypeError: naming the argument.
        """
        tokens = as_tokens("x", x)
        if tokens.ndim != 2:
            raise InputError("x", f"shape {tokens.shape}", "points of shape (n, d)")
        w = as_weights(weights, tokens.shape)
        self.x = fixed(tokens)
        self.weights = fixed(np.full(len(tokens), 1.0 / len(tokens)) if w is None else w[0] / w[0].sum())
        self._edges = np.cumsum(self.weights)[:-1]
        self.mean = fixed(self.weights @ self.x)
        away = self.x - self.mean
        self.cov = fixed((self.weights[:, None] * away).T @ away)

    def __repr__(self) -> str:
        return f"Empirical(n={len(self.x)}, d={self.dimension})"

    @property
    def support_radius(self) -> float:
        """The distance of the farthest point from the origin."""
        return float(np.linalg.norm(self.x, axis=1).max())

    @property
    def variates(self) -> tuple[int, int]:
        """The pair (0, 1): a uniform number chooses a point."""
        return 0, 1

    def place(self, z: Array, u: Array) -> Array:
        """Return the points that u chooses by the sums of the weights."""
        return np.asarray(self.x[np.searchsorted(self._edges, u[:, 0], side="right")])

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return the points (n, d) and their weights (n,), for every m."""
        return self.x.copy(), self.weights.copy()

    def edge(self, m: int) -> Array:
        """Return the points (n, d), for every m."""
        return self.x.copy()
