"""Runge-Kutta methods as data that checks itself.

A method is its coefficients. With the stages k_s = f(t + c_s h, y + h sum_j a_sj k_j), a step is y1 = y + h sum_s b_s
k_s. Every tableau here is written in first-same-as-last (FSAL) form: the last row of `a` is `b`, so the last stage is
f(t + h, y1), which is also the first stage of the next step. Between the ends of a step

    y(t + theta h) = y + h sum_s b_s(theta) k_s,      b_s(theta) = sum_j P[s, j] theta^(j + 1).

Source: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993), II.1, II.2 (trees), II.6 (dense
output).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

# An order condition is a sum of products of coefficients. Its rounding error is a few eps times the sum of the absolute
# values of its terms; a wrong digit anywhere above the 12th is far outside.
_TOLERANCE = 1e-13

# Where the continuous extension is checked. Its conditions are polynomials in theta of degree at most 4, so agreement
# at these six points besides theta = 0 (where they hold trivially) is agreement everywhere.
_THETAS = (0.125, 0.25, 0.5, 0.625, 0.875, 1.0)

_ROWS = 3  # what `Tableau.by_sum` needs of the stages

Tree = tuple  # a rooted tree is the sorted tuple of the subtrees that hang from its root; the leaf is ()


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit FSAL Runge-Kutta method, refused if they violate its order conditions.

    Args:
        name: what users call it.
        order: order of the result y1.
        a, b, c: stage coefficients (S, S), weights (S,), nodes (S,).
        dense: P (S, degree), the continuous extension.
        dense_order: order of the continuous extension, uniformly in theta.
        b_error: b - b_hat (S,), the error estimate divided by h; None for a method without one.
        embedded_order: order of b_hat.

    Raises:
        ValueError: a coefficient is wrong; the text names the condition that fails.
    """

    name: str
    order: int
    a: Sequence[Sequence[Any]]  # coefficients come as fractions or floats and are kept as floats
    b: Sequence[Any]
    c: Sequence[Any]
    dense: Sequence[Sequence[Any]]
    dense_order: int
    b_error: Sequence[Any] | None = None
    embedded_order: int | None = None

    def __post_init__(self) -> None:
        # Python floats, so that a float32 state is never promoted to float64 by a NumPy scalar.
        for key in ("a", "dense"):
            object.__setattr__(self, key, tuple(tuple(map(float, row)) for row in getattr(self, key)))
        for key in ("b", "c", "b_error"):
            row = getattr(self, key)
            object.__setattr__(self, key, None if row is None else tuple(map(float, row)))
        _check_shape(self)
        _check_weights(self, "b", np.array(self.b), self.order)
        if self.b_error is not None:
            _check_weights(self, "b - b_error", np.array(self.b) - np.array(self.b_error), self.embedded_order or 0)
        for theta in _THETAS:
            _check_weights(self, "dense", np.array(self.weights_at(theta)), self.dense_order, theta)

    @property
    def stages(self) -> int:
        """The number of stages S, the FSAL stage included."""
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its own error."""
        return self.b_error is not None

    @property
    def dense_needs_last(self) -> bool:
        """Whether the continuous extension uses the FSAL stage."""
        return any(self.dense[-1])

    def weights_at(self, theta: Any) -> tuple[Any, ...]:
        """Return b_s(theta) (S,), by Horner's rule, for a number or an array theta."""
        return tuple(_horner(row, theta) for row in self.dense)

    def slopes_at(self, theta: float) -> tuple[float, ...]:
        """Return the derivatives b_s'(theta) (S,), so that y'(t0 + theta h) = sum_s b_s'(theta) k_s."""
        return tuple(sum((i + 1) * coefficient * theta**i for i, coefficient in enumerate(row)) for row in self.dense)

    @cached_property
    def by_sum(self) -> tuple[tuple[float, ...], ...] | None:
        """P (3, degree) of the continuous extension by k_first, sum_s b_s k_s and k_last, or None.

        It is there if these are all that is needed of the stages, and fewer than they are: the argument of every stage
        is made of the stage before alone.
        """
        inner = self.stages - 1
        chained = all(not any(row[: max(s - 1, 0)]) for s, row in enumerate(self.a[:inner]))
        if self.adaptive or inner <= _ROWS or not chained or not all(self.b[:inner]):
            return None
        dense, b = np.array(self.dense), np.array(self.b)
        total = dense[1] / b[1]
        rest = dense - np.outer(b, total)
        if np.abs(rest[1:inner]).max() > _slack(dense):
            return None
        return tuple(map(tuple, np.stack([rest[0], total, rest[-1]]).tolist()))

    def weights_by_sum(self, theta: Any) -> tuple[Any, ...]:
        """Return the weights of k_first, of the sum and of k_last of `by_sum`."""
        return tuple(_horner(row, theta) for row in self.by_sum or ())


def hermite(b: Sequence[Any], bump: Sequence[Any] | None = None) -> list[list[Any]]:
    """Return P (S, 3 or 4) of the cubic Hermite interpolant, plus theta^2 (1 - theta)^2 sum_s bump_s k_s.

    The interpolant meets y and k_first at theta = 0, y1 and k_last at theta = 1. Every C1 continuous extension of
    degree four has this form: the bump is all the freedom there is. Source: Hairer, Norsett, Wanner (1993) II.6.
    """
    last = len(b) - 1
    rows = [[0.0, 3 * w, -2 * w] for w in b]
    for s, cubic in ((0, (1, -2, 1)), (last, (0, -1, 1))):
        rows[s] = [r + q for r, q in zip(rows[s], cubic, strict=True)]
    if bump is None:
        return rows
    return [[r[0], r[1] + w, r[2] - 2 * w, w] for r, w in zip(rows, bump, strict=True)]


def trees(order: int) -> Iterator[Tree]:
    """Yield the rooted trees with `order` vertices: 1, 1, 2, 4, 9 of them for orders 1 to 5."""
    yield from sorted(_trees(order))


@cache
def _trees(order: int) -> frozenset[Tree]:
    return frozenset(tuple(sorted(forest)) for forest in _forests(order - 1, order - 1))


def _forests(size: int, largest: int) -> Iterator[Tree]:
    """Yield the multisets of trees with `size` vertices in total, none with more than `largest`."""
    if size == 0:
        yield ()
    for part in range(min(size, largest), 0, -1):
        for count in range(1, size // part + 1):
            for chosen in combinations_with_replacement(sorted(_trees(part)), count):
                for rest in _forests(size - part * count, part - 1):
                    yield chosen + rest


def density(tree: Tree) -> int:
    """Return gamma(tree) = |tree| times the product of gamma over its subtrees."""
    product = _vertices(tree)
    for child in tree:
        product *= density(child)
    return product


def elementary_weights(a: np.ndarray, tree: Tree) -> np.ndarray:
    """Return phi (S,) of a tree: phi(leaf) = 1, phi([u, v, ...]) = (a phi(u)) (a phi(v)) ... componentwise."""
    product = np.ones(len(a))
    for child in tree:
        product = product * (a @ elementary_weights(a, child))
    return product


def _vertices(tree: Tree) -> int:
    return 1 + sum(map(_vertices, tree))


def _text(tree: Tree) -> str:
    return "[" + "".join(map(_text, tree)) + "]" if tree else "t"


def _horner(row: Sequence[float], theta: Any) -> Any:
    value: Any = 0.0
    for coefficient in reversed(row):
        value = (value + coefficient) * theta
    return value


def _check_shape(tableau: Tableau) -> None:
    """Check lengths, explicitness, row sums, the FSAL form, and that the continuous extension ends in b."""
    a, b, c, dense = (np.array(getattr(tableau, key)) for key in ("a", "b", "c", "dense"))
    size = len(b)
    lengths = [*a.shape, len(c), len(dense), size if tableau.b_error is None else len(tableau.b_error)]
    facts = {
        "a, b, c, dense and b_error agree in the number of stages": lengths == [size] * 5,
        "b_error comes with an embedded order": (tableau.b_error is None) == (tableau.embedded_order is None),
    }
    _require(tableau, facts)
    facts = {
        "every coefficient is finite": all(np.isfinite(x).all() for x in (a, b, c, dense)),
        "a is strictly lower triangular": not np.triu(a).any(),
        "c is the row sums of a": np.allclose(a.sum(1), c, rtol=0, atol=_slack(a)),
        "the last row of a is b": np.array_equal(a[-1], b),
        "the dense output ends in b": np.allclose(dense.sum(1), b, rtol=0, atol=_slack(dense)),
    }
    _require(tableau, facts)


def _slack(rows: np.ndarray) -> float:
    return _TOLERANCE * max(1.0, float(np.abs(rows).sum(1).max()))


def _require(tableau: Tableau, facts: dict[str, bool]) -> None:
    for condition, holds in facts.items():
        if not holds:
            raise ValueError(f"tableau {tableau.name!r} breaks the condition: {condition}.")


def _check_weights(tableau: Tableau, what: str, weights: np.ndarray, order: int, theta: float = 1.0) -> None:
    """Check sum_s weights_s phi_s(tree) = theta^|tree| / gamma(tree) for the trees up to `order`."""
    a = np.array(tableau.a)
    for size in range(1, order + 1):
        for tree in trees(size):
            terms = weights * elementary_weights(a, tree)
            need = theta**size / density(tree)
            # `not <=` rather than `>`: a nan must fail.
            if not abs(terms.sum() - need) <= _TOLERANCE * max(1.0, float(np.abs(terms).sum())):
                where = f" at theta = {theta}" if what == "dense" else ""
                raise ValueError(
                    f"tableau {tableau.name!r} breaks the order {size} condition of tree {_text(tree)} "
                    f"for {what}{where}: got {terms.sum():.17g}, need {need:.17g}."
                )
