"""Laws that look the same in all directions: balls, spheres, annuli, and any density of the radius."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from .._numbers import positive, real, show, whole
from .._types import Array, as_numbers
from ..errors import InputError, InputTypeError
from .law import Law, centre, fixed
from .quadrature import Rule, directions, legendre, polar, radii

_CELLS = 256  # of each piece of a radial density, in which it is a polynomial
_DEGREE, _FEWER = 8, 5  # Gauss points of a cell, and for its error; both even see no jump near the middle of a cell
_EXACT = 1e-8  # relative error of the mass, above which a density has jumps or kinks that are no edges
_HALVINGS = 54  # of a cell: to rounding


class Round(Law):
    """The law of mean + r e: a unit vector e, uniform on the sphere, times an independent radius r.

    A sample takes the direction of d normal numbers and one uniform number for the radius.
    """

    def __init__(self, dimension: Any, second: float, mean: Any) -> None:
        """Set mean (d,) and cov = E r^2 / d I; `second` is E r^2."""
        d = len(mean)
        self.mean, self.cov = mean, fixed(second / d * np.eye(d))

    @property
    def variates(self) -> tuple[int, int]:
        """The pair (d, 1): d normal numbers make a direction, and a uniform one the radius."""
        return self.dimension, 1

    @property
    def support_radius(self) -> float:
        """The largest |x| in the support, |mean| + r for the largest r."""
        return float(np.linalg.norm(self.mean) + self.outermost)

    @property
    @abstractmethod
    def outermost(self) -> float:
        """The largest distance r from the mean."""

    @abstractmethod
    def radius_at(self, u: Array) -> Array:
        """Return the radius (n, 1), increasing in the uniform number u (n, 1)."""

    @abstractmethod
    def radial_rule(self, m: int) -> Rule:
        """Return nodes and weights of the radius. Raises InputError, InputTypeError naming m."""

    @abstractmethod
    def log_profile(self, r: Array, rounding: Array) -> Array:
        """Return the logarithm of the density at distances r from the mean, which have errors of size `rounding`."""

    def place(self, z: Array, u: Array) -> Array:
        """Return mean + r(u) z / |z|."""
        x = self.radius_at(u) * (z / np.linalg.norm(z, axis=1, keepdims=True))
        return np.asarray(x + self.mean) if self.mean.any() else x

    def quantile(self, u: Any) -> Array:
        """Return mean -+ r (m,), r the radius below which there is mass |2u - 1|, for levels u (m,) in dimension 1.

        At u = 1/2 it is mean - r. Raises InputError, InputTypeError.
        """
        away = 2.0 * self._levels(u) - 1.0
        return np.asarray(self.mean[0] + np.where(away > 0.0, 1.0, -1.0) * self.radius_at(np.abs(away)[:, None])[:, 0])

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (q, d) and weights (q,): a rule of the radius times one of directions, in d = 1, 2, 3.

        Directions are both signs, 2m angles, or m heights times 2m angles. Raises InputError, InputTypeError.
        """
        x, w = polar(m, self.radial_rule(m), self.dimension)
        return x + self.mean, w

    def edge(self, m: int) -> Array:
        """Return points (q, d) of the outer sphere: both signs, 2m angles, or m heights times 2m angles.

        Raises InputError, InputTypeError naming m, or for d > 3.
        """
        e, _ = directions(m, self.dimension)
        return self.mean + self.outermost * e

    def log_density(self, x: Any) -> Array:
        """Return the logarithm (...) of the density at points x (..., d), -inf outside of the support.

        Raises InputError, InputTypeError: for points of another dimension.
        """
        points, eps = self._checked(x)
        with np.errstate(over="ignore"):
            r = np.minimum(np.linalg.norm(points - self.mean, axis=-1), np.finfo(np.float64).max)
        return self.log_profile(r, 4.0 * eps * (r + np.linalg.norm(self.mean)))


class Ball(Round):
    """The uniform law in the ball |x - mean| <= radius.

    Nodes are m Gauss-Jacobi radii times directions, in d = 1 m Gauss-Legendre nodes: exact for polynomials of degree
    2m - 1.
    """

    def __init__(self, dimension: int, radius: float = 1.0, mean: Any = 0.0) -> None:
        """Make the law in R^dimension; `mean`, the centre, is a number for all entries, or (d,).

        Raises InputError, InputTypeError: naming the argument.
        """
        d, self.radius = whole("dimension", dimension), positive("radius", radius)
        super().__init__(d, self.radius**2 * d / (d + 2), centre(mean, d))

    def __repr__(self) -> str:
        return f"Ball(d={self.dimension}, radius={self.radius:g})"

    @property
    def outermost(self) -> float:
        """The largest distance from the mean."""
        return self.radius

    def radius_at(self, u: Array) -> Array:
        """Return radius u^{1/d}."""
        return np.asarray(self.radius * u ** (1.0 / self.dimension))

    def radial_rule(self, m: int) -> Rule:
        """Return the Gauss-Jacobi rule of the density d r^{d-1}."""
        r, w = radii(m, self.dimension)
        return self.radius * r, w

    def nodes(self, m: int) -> tuple[Array, Array]:
        """Return nodes x (q, d) and weights (q,), q = m, 2 m^2 or 2 m^3 in d = 1, 2 or 3, exact to degree 2m - 1.

        Raises InputError, InputTypeError.
        """
        if self.dimension > 1:
            return super().nodes(m)
        x, w = legendre(m, -self.radius, self.radius)
        return x[:, None] + self.mean, w.copy()

    def log_profile(self, r: Array, rounding: Array) -> Array:
        """Return minus the logarithm of the volume, -inf outside."""
        inside = r <= self.radius + rounding
        return np.where(inside, -_log_volume(self.dimension) - self.dimension * math.log(self.radius), -np.inf)


class Sphere(Round):
    """The uniform law on the sphere |x - mean| = radius; it has no density in R^d.

    Nodes are the directions: two points, 2m equal angles, or m Gauss-Legendre heights times 2m angles in d = 1, 2, 3:
    exact for polynomials of degree 2m - 1.
    """

    def __init__(self, dimension: int, radius: float = 1.0, mean: Any = 0.0) -> None:
        """Make the law in R^dimension; `mean`, the centre, is a number for all entries, or (d,).

        Raises InputError, InputTypeError: naming the argument.
        """
        d, self.radius = whole("dimension", dimension), positive("radius", radius)
        super().__init__(d, self.radius**2, centre(mean, d))

    def __repr__(self) -> str:
        return f"Sphere(d={self.dimension}, radius={self.radius:g})"

    @property
    def variates(self) -> tuple[int, int]:
        """The pair (d, 0): a sample is the direction of d normal numbers."""
        return self.dimension, 0

    @property
    def outermost(self) -> float:
        """The largest distance from the mean."""
        return self.radius

    def radius_at(self, u: Array) -> Array:
        """Return the radius."""
        return np.full((len(u), 1), self.radius)

    def radial_rule(self, m: int) -> Rule:
        """Return the one radius."""
        return np.array([self.radius]), np.ones(1)

    def log_profile(self, r: Array, rounding: Array) -> Array:
        """Raise InputError: there is no density."""
        raise self._singular()


class Annulus(Round):
    """The uniform law between two spheres, inner <= |x - mean| <= outer; in d = 1 two intervals.

    Nodes are m Gauss-Legendre radii, weighted by r^{d-1}, times directions: exact for polynomials of degree 2m - d.
    """

    def __init__(self, dimension: int, inner: float, outer: float = 1.0, mean: Any = 0.0) -> None:
        """Make the law in R^dimension; `mean`, the centre, is a number for all entries, or (d,).

        Raises InputError, InputTypeError: naming the argument, unless 0 <= inner < outer.
        """
        d = whole("dimension", dimension)
        self.inner, self.outer = real("inner", inner), positive("outer", outer)
        if not 0.0 <= self.inner < self.outer:
            raise InputError("inner", show(inner), f"a number from 0 to below outer = {self.outer:g}")
        self._share = self.inner / self.outer
        second = self.outer**2 * d / (d + 2) * _ratio(self._share, d + 2) / _ratio(self._share, d)
        super().__init__(d, second, centre(mean, d))

    def __repr__(self) -> str:
        return f"Annulus(d={self.dimension}, inner={self.inner:g}, outer={self.outer:g})"

    @property
    def outermost(self) -> float:
        """The largest distance from the mean."""
        return self.outer

    def radius_at(self, u: Array) -> Array:
        """Return (inner^d + u (outer^d - inner^d))^{1/d}."""
        low, d = self._share**self.dimension, self.dimension
        return np.clip(self.outer * (low + u * (1.0 - low)) ** (1.0 / d), self.inner, self.outer)

    def radial_rule(self, m: int) -> Rule:
        """Return the Gauss-Legendre rule with the weights r^{d-1}."""
        r, w = legendre(m, self.inner, self.outer)
        w = w * (r / self.outer) ** (self.dimension - 1)
        return r, w / w.sum()

    def log_profile(self, r: Array, rounding: Array) -> Array:
        """Return minus the logarithm of the volume, -inf outside."""
        inside = (r >= self.inner - rounding) & (r <= self.outer + rounding)
        d = self.dimension
        volume = _log_volume(d) + d * math.log(self.outer) + math.log((1.0 - self._share) * _ratio(self._share, d))
        return np.where(inside, -volume, -np.inf)


class Radial(Round):
    """The law with a density in proportion to density(|x - mean|), smooth between given edges and zero beyond the last.

    The radius has the density r^{d-1} density(r), which is kept as a polynomial in each of 256 cells of a piece: mass,
    moments and samples are those of it, with a relative error of 1e-8 at most, and to rounding where the density is
    smooth. Nodes are m Gauss-Legendre radii in each piece, weighted by r^{d-1} density(r), times directions: errors
    fall faster than any power of m where the density is analytic in the pieces.
    """

    def __init__(
        self, density: Callable[[Array], Any], dimension: int, edges: Any = (0.0, 1.0), mean: Any = 0.0
    ) -> None:
        """Make the law in R^dimension.

        Args:
            density: a function of radii (n,) that returns (n,) finite numbers of at least 0, of any total.
            dimension: d.
            edges: increasing radii of at least 0: the ends of the support, and between them where the density jumps or
                has a kink.
            mean: the centre, a number for all entries or (d,).

        Raises InputError, InputTypeError: naming the argument, also for a density that is not smooth between the edges.
        """
        d = whole("dimension", dimension)
        self.edges = fixed(as_numbers("edges", edges))
        if self.edges.ndim != 1 or len(self.edges) < 2 or self.edges[0] < 0.0 or (np.diff(self.edges) <= 0.0).any():
            raise InputError("edges", show(edges), "two increasing radii or more, of at least 0")
        if not callable(density):
            raise InputTypeError("density", show(density), "a function of radii (n,)")
        self._density, self._d = density, d
        # Narrow cells at the ends of a piece, where a density may have the slope of a root.
        share = 0.5 - 0.5 * np.cos(np.arange(_CELLS) * (math.pi / _CELLS))
        cuts = [a + (b - a) * share for a, b in itertools.pairwise(self.edges)]
        self._cells = np.append(np.concatenate(cuts), self.edges[-1])
        moments = self._integrate()
        super().__init__(d, moments[1] / moments[0], centre(mean, d))

    def _integrate(self) -> tuple[float, float]:
        """Keep the primitive of r^{d-1} density(r) in all cells; return the integrals of it and of r^2 times it."""
        s, w = np.polynomial.legendre.leggauss(_DEGREE)
        r, mass = self._at_points(self._cells, s)
        fit = mass @ np.linalg.inv(np.vander(s, increasing=True)).T
        primitive = np.zeros((len(r), _DEGREE + 1))
        primitive[:, 1:] = fit / np.arange(1, _DEGREE + 1)
        primitive[:, 0] = -(primitive * (-1.0) ** np.arange(_DEGREE + 1)).sum(axis=1)
        cells = mass @ w
        total = float(cells.sum())
        if not (0.0 < total < math.inf):
            raise InputError("density", f"a total of {total:g}", "a total above 0 and finite")
        # And by cells between the middles of these: a jump beside the end of a cell is in the middle of one of them.
        low, v = np.polynomial.legendre.leggauss(_FEWER)
        middles = 0.5 * (self._cells[1:] + self._cells[:-1])
        fewer, moved = (
            self._at_points(cuts, low)[1] @ v for cuts in (self._cells, np.sort(np.append(middles, self.edges)))
        )
        error = float(np.abs(fewer - cells).sum() + abs(moved.sum() - total)) / total
        if error > _EXACT:
            came, need = f"a total with an error of {error:.1g}", "a density that is smooth between the edges"
            raise InputError("density", came, need, "Give the radii of its jumps and kinks in edges.")
        self._total = total
        self._primitive, self._below = primitive / total, np.append(0.0, np.cumsum(cells / total))
        return total, float((mass * r**2 @ w).sum())

    def _at_points(self, cuts: Array, s: Array) -> Rule:
        """Return points r (k, q) at s in [-1, 1] of the cells between cuts (k + 1,), and the mass there per unit s."""
        half = 0.5 * np.diff(cuts)[:, None]
        r = 0.5 * (cuts[1:] + cuts[:-1])[:, None] + half * s
        return r, half * self._mass(r.ravel()).reshape(r.shape)

    def _profile(self, r: Array) -> Array:
        """Return the density (n,) at radii (n,). Raises InputError, InputTypeError for what is no density."""
        try:
            given = self._density(r)
        except (TypeError, ValueError) as error:  # of a function of one number
            came, remedy = f"a function that raises {type(error).__name__}: {error}", "Or wrap it: numpy.vectorize(f)."
            raise InputError("density", came, "one of all radii (n,) at once", remedy) from error
        found = as_numbers("density", given).astype(np.float64)
        if found.shape not in ((), r.shape):
            raise InputError("density", f"shape {found.shape} for radii {r.shape}", "one number for each radius")
        if found.size and found.min() < 0.0:
            raise InputError("density", f"{found.min():g}", "numbers of at least 0")
        return np.broadcast_to(found, r.shape)

    def _mass(self, r: Array) -> Array:
        """Return (r / outer)^{d-1} density(r)."""
        return self._profile(r) * (r / self.edges[-1]) ** (self._d - 1)

    def __repr__(self) -> str:
        return f"Radial(d={self.dimension}, edges={self.edges.tolist()})"

    @property
    def outermost(self) -> float:
        """The largest distance from the mean."""
        return float(self.edges[-1])

    def radius_at(self, u: Array) -> Array:
        """Return the radius below which there is mass u, by halvings of the cell that has it."""
        level = u.ravel()
        cell = np.clip(np.searchsorted(self._below, level, side="right") - 1, 0, len(self._primitive) - 1)
        level, terms = level - self._below[cell], self._primitive[cell].T
        low, high = -np.ones_like(level), np.ones_like(level)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            value = np.zeros_like(middle)
            for term in terms[::-1]:
                value = value * middle + term
            above = value > level
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        share = 0.5 * (1.0 + 0.5 * (low + high))
        return np.asarray(self._cells[cell] + share * (self._cells[cell + 1] - self._cells[cell]))[:, None]

    def radial_rule(self, m: int) -> Rule:
        """Return the Gauss-Legendre rules of the pieces with the weights r^{d-1} density(r)."""
        found = [(*legendre(m, a, b), b - a) for a, b in itertools.pairwise(self.edges)]
        r = np.concatenate([x for x, _, _ in found])
        w = np.concatenate([length * w for _, w, length in found]) * self._mass(r)
        if not w.sum() > 0.0:
            raise InputError("m", show(m), "enough points to meet the density", "Take a larger m.")
        return r, w / w.sum()

    def log_profile(self, r: Array, rounding: Array) -> Array:
        """Return the logarithm of the density, -inf outside."""
        d, outer = self.dimension, self.edges[-1]
        inside = (r >= self.edges[0] - rounding) & (r <= outer + rounding)
        found = self._profile(np.clip(r, self.edges[0], outer).ravel()).reshape(np.shape(r))
        surface = math.log(d) + _log_volume(d)
        with np.errstate(divide="ignore"):
            density = np.log(found) - math.log(self._total) - surface - (d - 1) * math.log(outer)
        return np.where(inside, density, -np.inf)


def _log_volume(d: int) -> float:
    """Return the logarithm of the volume of the unit ball, pi^{d/2} / Gamma(d/2 + 1)."""
    return 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)


def _ratio(share: float, power: int) -> float:
    """Return (1 - share^power) / (1 - share) as a sum, without cancellation."""
    return float(np.polyval(np.ones(power), share))
