"""Masked (causal) attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from .._types import Array
from ..errors import InputError, InputTypeError
from .base import Attention, as_attention
from .cloud import Cloud
from .composite import Composite, Term, terms_of
from .derivatives import Linearised, LinearisedMask
from .linearised_law import LinearisedLaw
from .parameters import Parameter

if TYPE_CHECKING:
    from ..sums.backend import Backend


class Masked(Composite):
    """An attention whose token at position s sees the tokens at positions <= s only, ties and itself included.

    int dmu is replaced by int over [0, s] x R^d, in the normalisation too; mu itself is not rescaled.

    Source: Theory 1.1; Castin et al. 2025; Castin, Ablin, Peyre (ICML 2024).
    """

    def __init__(self, attention: Attention) -> None:
        """Mask an attention. Raises InputTypeError unless it is an attention without masks that can have one."""
        if as_attention(attention).masked:
            raise InputTypeError("attention", repr(attention), "an attention that is not masked yet")
        if attention.unmaskable:
            raise InputError("attention", repr(attention), "an attention that can be masked", attention.unmaskable)
        self.attention = attention

    def __repr__(self) -> str:
        return f"Masked({self.attention!r})"

    def parameters(self) -> Iterator[Parameter]:
        yield from self.attention.parameters()

    def _dimensions(self, t: float) -> tuple[int, int]:
        return self.attention._dimensions(t)

    def _evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        ordered = cloud.ordered(backend)
        if cloud.is_ordered:
            self.attention._evaluate(ordered, t, backend, out)
            return
        result = backend.workspace("masked_result", out.shape, out.dtype)
        self.attention._evaluate(ordered, t, backend, result)
        cloud.placed(result, out)

    def _linearised(self, cloud: Cloud, t: float, backend: Backend) -> Linearised:
        ordered = cloud.ordered(backend)  # in memory that the next evaluation uses
        own = {name: getattr(ordered, name) for name in ("x", "at", "weights")}
        kept = ordered.with_(**{name: None if value is None else value.copy() for name, value in own.items()})
        return LinearisedMask(self.attention._linearised(kept, t, backend), cloud)

    def _linearised_law(self, mean: Array, factor: Array, t: float) -> LinearisedLaw:
        self._closure(mean, factor, t)  # raises where equal positions do not stay equal
        return self.attention._linearised_law(mean, factor, t)

    def _named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        yield from self.attention._named_parameters()

    def _terms(self, t: float | None = None) -> Iterator[Term]:
        for term in terms_of(self.attention, t):
            yield replace(term, masked=True)
