"""Attentions made of others: all that follows from their heads, each behind a matrix W and a mask if it has them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._types import Array
from ..batches.affine import AffineHeads
from ..batches.reduced_form import ReducedForm
from ..errors import NoGaussianClosure
from .balance import Balance
from .base import Attention
from .cloud import Cloud
from .energy_forces import Force
from .gaussian_field import Affine
from .rates import Rate, exponents_below
from .small_matrices import product, side_by_side, times, transposed

if TYPE_CHECKING:
    from ..sums.backend import Backend
    from .single_head import SingleHead


@dataclass(frozen=True)
class Term:
    """A head of an attention: the matrices W multiply its field, the last one first, and it is masked or not."""

    head: SingleHead
    W: tuple[Array, ...] = ()  # each (rows, columns) or (B, rows, columns)
    masked: bool = False

    def _through(self, multiply: Callable[[Array, Array], Array], value: Array) -> Array:
        for W in reversed(self.W):
            value = multiply(W, value)
        return value

    def matrix(self, M: Array) -> Array:
        """Return W M, (..., rows, d)."""
        return self._through(np.matmul, M)

    def values(self, V: Array) -> Array:
        """Return W V for V (1 or B, 1, dv, d)."""
        return self._through(lambda W, value: product(W[..., None, :, :], value), V)

    def vector(self, c: Array) -> Array:
        """Return W c, (..., rows)."""
        return self._through(times, c)

    def field(self, values: Array) -> Array:
        """Return W times each of the vectors (..., m, dv)."""
        return self._through(lambda W, value: value @ transposed(W), values)


def terms_of(attention: Attention, t: float | None = None) -> Iterator[Term]:
    """Yield the single heads of an attention with their matrices at time t; t = None: without these."""
    if isinstance(attention, Composite):
        yield from attention._terms(t)
    else:
        yield Term(cast("SingleHead", attention))


def kinds(attention: Attention) -> tuple[str, ...]:
    """Return the names of the classes of an attention and its parts, each once: "Masked", "MultiHead", "L2"."""
    found = [type(attention).__name__]
    for own in attention.__getstate__().values():
        for part in own if isinstance(own, tuple) else (own,):
            if isinstance(part, Attention):
                found += kinds(part)
    return tuple(dict.fromkeys(found))


class Composite(Attention):
    """A sum of heads. A subclass says which they are, and how its field is evaluated."""

    @abstractmethod
    def _terms(self, t: float | None = None) -> Iterator[Term]:
        """Yield the single heads with their matrices at time t; t = None: without these."""

    @property
    def masked(self) -> bool:
        return any(term.masked for term in self._terms())

    @property
    def positional(self) -> bool:
        return any(term.masked or term.head.positional for term in self._terms())

    @property
    def averages(self) -> bool:
        return all(term.head.averages for term in self._terms())

    @property
    def mean_free(self) -> bool:
        return all(term.head.mean_free for term in self._terms())

    @property
    def never_blows_up(self) -> bool:
        return all(term.head.never_blows_up for term in self._terms())

    def _score_matrices(self, t: float) -> Iterator[Array]:
        for term in self._terms():
            yield term.head._score_matrix(t)

    # -- sums ---------------------------------------------------------------------------------------------------------

    def _totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        for term in self._terms():
            yield from _seen_by(term, cloud, backend, lambda head, seen: head._totals(seen, t, backend))

    def _log_totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        for term in self._terms():
            yield from _seen_by(term, cloud, backend, lambda head, seen: head._log_totals(seen, t, backend))

    def _made_of(self, t: float) -> Iterator[object]:
        yield from super()._made_of(t)
        for term in self._terms():
            yield from term.head.__getstate__().values()

    def _reduced_form(self, t: float = 0.0) -> ReducedForm | None:
        """Return the heads' forms side by side, where they have one weight and one mask, or none; W V for V."""
        found = self._forms(lambda head: head._reduced_form(t), t) if self._one_mask else []
        forms = [form for form, _ in found]
        kinds = {(type(form.weight), form.weight, form.normalised, form.D is None) for form in forms}
        if len(kinds) != 1:
            return None
        V = side_by_side([term.values(form.V) for form, term in found])
        D = None if forms[0].D is None else side_by_side([cast(Array, form.D) for form in forms])
        A, E, bias = (side_by_side([getattr(form, name) for form in forms]) for name in ("A", "E", "bias"))
        return ReducedForm(forms[0].weight, forms[0].normalised, A, E, V, bias, D)

    def _forms(self, form_of: Callable[[SingleHead], Any], t: float) -> list[tuple[Any, Term]]:
        """Return the form of every head at time t with its term; none where a head has no form."""
        found = [(form_of(term.head), term) for term in self._terms(t)]
        return [] if any(form is None for form, _ in found) else found

    @property
    def _one_mask(self) -> bool:
        """Whether all heads are masked, or none."""
        return len({term.masked for term in self._terms()}) == 1

    # -- Gaussian laws ------------------------------------------------------------------------------------------------

    def _closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """Return the sums of W M and of W c; of masked heads where all positions have the law (Theory 2.2)."""
        M: Array | float = 0.0
        c: Array | float = 0.0
        for term in self._terms(t):
            _refuse_unequal_positions(term)
            M_h, c_h = term.head._closure(mean, factor, t)
            M, c = M + term.matrix(M_h), c + term.vector(c_h)
        return np.asarray(M), np.asarray(c)

    def _gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        total: Array | float = 0.0
        for term in self._terms(t):
            if term.masked:
                _refuse_unequal_positions(term)
                term.head._closure(mean, factor, t)  # its field must be affine
            total = total + term.field(term.head._gaussian_field(x, mean, factor, t))
        return np.asarray(total)

    def _second_moment_map(self, second: Array, t: float) -> Array:
        """Return the sum of W M. Raises NoGaussianClosure where some heads are masked and others not."""
        if not self._one_mask:
            return super()._second_moment_map(second, t)
        return np.sum([term.matrix(term.head._second_moment_map(second, t)) for term in self._terms(t)], axis=0)

    def _affine_heads(self) -> AffineHeads | None:
        """Return the heads' forms side by side; W V for V."""
        constant = all(p.constant for p in self.parameters())
        found = self._forms(lambda head: head._affine_heads(), 0.0) if constant else []
        if not found or any(term.masked and not term.head.averages for _, term in found):
            return None
        forms = cast("list[AffineHeads]", [form for form, _ in found])
        D = [np.zeros_like(form.A) if form.D is None else form.D for form in forms]
        return AffineHeads(
            sum((form.kinds for form in forms), ()), sum((form.counts for form in forms), ()),
            side_by_side([form.A for form in forms]), side_by_side([term.values(form.V) for form, term in found]),
            side_by_side(D),
        )  # fmt: skip

    # -- bounds and energies ------------------------------------------------------------------------------------------

    def _rates(self, p: Array, t: float) -> Iterator[Rate]:
        """Yield the heads' bounds with W V for V; of masked averages in d_p, by Hardy's constant and the best r < p."""
        for term in self._terms(t):
            plain = list(term.head._rates(p, t, term.W))
            if not (term.masked and any(rate.averages for rate in plain)):
                yield from plain
                continue
            below = exponents_below(float(p[0]))
            for rate in term.head._rates(below, t, term.W):
                yield rate.behind_mask(float(p[0]), below)

    def _energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """Return the sums of the heads' energies and gradients, and of W times their fields."""
        if self.masked:
            return super()._energy_balance(cloud, t, backend)
        found = [(term.head._energy_balance(cloud, t, backend), term) for term in self._terms(t)]
        energies, gradients = ([getattr(one, part) for one, _ in found] for part in ("energy", "gradient"))
        with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
            fields = [term.field(one.field) for one, term in found]
            return Balance(np.sum(energies, axis=0), np.sum(gradients, axis=0), np.sum(fields, axis=0))

    def _energy_force(self, cloud: Cloud, t: float, backend: Backend, shift: Array) -> Force:
        """Return the sum over the heads."""
        return Force.of([term.head._energy_force(cloud, t, backend, shift, term.masked) for term in self._terms()])


def _refuse_unequal_positions(term: Term) -> None:
    if term.masked and not term.head.averages:
        raise NoGaussianClosure(
            "masked attention that does not average sees more mass at later positions: positions with equal "
            "Gaussians do not stay equal (Theory 2.2). Give fp.solve a Gaussian per position instead."
        )


def _seen_by(
    term: Term, cloud: Cloud, backend: Backend, totals: Callable[[SingleHead, Cloud], Iterator[Array]]
) -> Iterator[Array]:
    """Yield the totals of a head on what it sees of the cloud, in the order of the targets."""
    if not term.masked:
        yield from totals(term.head, cloud)
        return
    for found in totals(term.head, cloud.ordered(backend)):
        yield cloud.placed(found, np.empty_like(found))
