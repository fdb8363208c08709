"""The heads of an attention with constant parameters and a Gaussian closure, as closed forms need them, also exact."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from .._types import Array
from ..attention import Sinkhorn
from ..attention.base import Attention
from ..attention.composite import terms_of
from ..attention.score import Score
from . import exact


@dataclass(frozen=True)
class Head:
    """A head with a Gaussian closure: its score, for Sinkhorn attention also eps and the number of half-iterations."""

    score: Score
    eps: float | None = None
    n_half: int | None = None

    @property
    def is_linear(self) -> bool:
        """Whether it is linear attention."""
        return self.eps is None and not self.score.shifts

    @property
    def is_product(self) -> bool:
        """Whether it averages by e^{<A x, y>}, as softmax attention does."""
        return self.eps is None and self.score.shifts and not self.score.distance


Heads = list[tuple[Head, tuple[Array, ...]]]


def heads_of(attention: Attention) -> Heads:
    """Return the single heads in an attention, each with the matrices whose product is its W_h V_h."""
    found: Heads = []
    for term in terms_of(attention, 0.0):
        score = term.head.score(0.0)
        head = Head(score)
        if isinstance(term.head, Sinkhorn):
            head = Head(score, float(term.head.eps(0.0)), term.head.n_half)
        found.append((head, (*term.W, score.V)))
    return found


def product(matrices: Sequence[Array]) -> Array:
    """Multiply matrices, of floats or of fractions, in their order."""
    return functools.reduce(operator.matmul, matrices)


def exact_value(chain: tuple[Array, ...]) -> Array:
    """Return W_h V_h as fractions."""
    return product([exact.fractions(matrix) for matrix in chain])


def exact_scores(head: Head) -> Array:
    """Return scale K^T Q as fractions."""
    Q, K, scale = map(exact.fractions, (head.score.Q, head.score.K, head.score.scale))
    return K.T @ Q * scale.item()
