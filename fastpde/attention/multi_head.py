"""Multi-head attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from operator import is_
from typing import TYPE_CHECKING, Any, cast

from .._types import Array
from ..batches.reduced_form import ReducedForm
from ..errors import InputError, InputTypeError
from . import layered, side_by_side, small_clouds
from .base import KEPT, Attention, as_attention
from .cloud import Cloud
from .composite import Composite, Term, terms_of
from .derivatives import Linearised, LinearisedHeads
from .linearised_law import LinearisedLaw, LinearisedLawOfHeads
from .parameters import Layers, Parameter, Value, matrix, parameter
from .single_head import SingleHead
from .small_matrices import product

if TYPE_CHECKING:
    from ..sums.backend import Backend

_ONE, _CHECKED = f"{KEPT}_one", f"{KEPT}_checked"


class MultiHead(Composite):
    """Gamma_mu(x) = sum_h W_h Gamma_mu^h(x), Gamma^h the field of head h with V_h (dv, d), W_h (d, dv) or absent.

    Source: Theory 1.1; Castin et al. 2025.
    """

    def __init__(self, heads: Any, W: Value | None = None) -> None:
        """Add heads, H attentions of any variant.

        W: (H, d, dv), (B, H, d, dv), a function of time, `Layers`, a list of H matrices or such parameters (heads may
        then differ in dv), or None when every V_h is (d, d).

        Raises InputError, InputTypeError: for no heads, or shapes that do not fit.
        """
        if isinstance(heads, Attention | str) or not hasattr(heads, "__iter__"):
            raise InputTypeError("heads", type(heads).__name__, "a list of attentions")
        self.heads = tuple(heads)
        if not self.heads:
            raise InputError("heads", "no heads", "at least one")
        for h, head in enumerate(self.heads):
            as_attention(head, f"heads[{h}]")
        self.unmaskable = next((head.unmaskable for head in self.heads if head.unmaskable), "")
        self._stack: Parameter | None = None
        self._each: tuple[Parameter, ...] | None = None
        if isinstance(W, list | tuple):
            if len(W) != len(self.heads):
                raise InputError("W", f"{len(W)} matrices", f"{len(self.heads)}, one per head")
            self._each = tuple(matrix(f"W[{h}]", w) for h, w in enumerate(W))
        elif W is not None:
            self._stack = parameter("W", W, (3, 4))
        if all(p.constant for p in self.parameters()):
            self._dimensions(0.0)

    def __repr__(self) -> str:
        return f"MultiHead([{', '.join(map(repr, self.heads))}])"

    def parameters(self) -> Iterator[Parameter]:
        for head in self.heads:
            yield from head.parameters()
        yield from self._each or ()
        if self._stack is not None:
            yield self._stack

    def _named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for h, head in enumerate(self.heads):
            for name, p in head._named_parameters():
                yield f"heads[{h}].{name}", p
        for p in (*(self._each or ()), *filter(None, [self._stack])):
            yield p.name, p

    def _outputs(self, t: float) -> list[Array] | None:
        """Return W_h (d, dv) or (B, d, dv) of every head, or None if there are none."""
        if self._each is not None:
            return [w(t) for w in self._each]
        if self._stack is None:
            return None
        stack = self._stack(t)
        if stack.shape[-3] != len(self.heads):
            raise InputError("W", f"shape {stack.shape}", f"{len(self.heads)} matrices, one per head")
        return [stack[..., h, :, :] for h in range(len(self.heads))]

    @property
    def masked(self) -> bool:
        return any(head.masked for head in self.heads)

    # -- heads of one kind, prepared together -------------------------------------------------------------------------

    def _heads_as_one(self, t: float) -> tuple[SingleHead, Parameter | None] | None:
        """Return the heads as one, and W of all of them; None where they are too different at time t."""
        one, key = self._as_one(), (type(t), t)
        checked, at = vars(self).get(_CHECKED, (None, None))
        if one is None or (checked is one and at == key):
            return one
        try:
            for p in (*one[0].parameters(), *filter(None, one[1:])):
                p(t)
        except InputError:  # each head knows better what is wrong
            return None
        vars(self)[_CHECKED] = one, key
        return one

    def _as_one(self) -> tuple[SingleHead, Parameter | None] | None:
        """Return the heads as one, and W of all of them; None if they differ by more than values."""
        before, made_of, one = vars(self).get(_ONE, (-1, (), None))
        changes = Attention._changes  # read first: what another thread changes from here on is looked at next time
        if before != changes:
            now = (self._stack, self._each, *self.heads, *(p for head in self.heads for p in head.parameters()))
            now += tuple(own for head in self.heads for own in head.__getstate__().values())
            if not (len(now) == len(made_of) and all(map(is_, now, made_of))):
                made_of, one = now, self._stacked()
            vars(self)[_ONE] = changes, made_of, one
        return cast("tuple[SingleHead, Parameter | None] | None", one)

    def _stacked(self) -> tuple[SingleHead, Parameter | None] | None:
        try:
            W = self._stack if self._each is None else side_by_side.parameter_of(self._each)
        except side_by_side.Unlike:
            return None
        one = side_by_side.head_of(self.heads)
        return None if one is None else (one, W)

    def _made_of(self, t: float) -> Iterator[object]:
        found = self._heads_as_one(t)
        if found is None:
            yield from super()._made_of(t)
            return
        one, W = found
        yield from one._made_of(t)
        yield None if W is None else W(t)

    def _parameters_of_systems(self, t: float) -> Iterator[Parameter]:
        if self._heads_as_one(t) is None:
            yield from self.parameters()
        elif self._stack is not None:
            yield self._stack

    def _reduced_form(self, t: float = 0.0) -> ReducedForm | None:
        found = self._heads_as_one(t)
        if found is None:
            return super()._reduced_form(t)
        one, W = found
        form = layered.with_heads(one._reduced_form(t), 1, len(self.heads))
        return form if form is None or W is None else replace(form, V=product(W(t), form.V))

    def _layers(self) -> list[Layers]:
        found = self._as_one()
        if found is None:
            return []
        one, W = found
        mixes = [] if W is None else [replace(W, axes=(2,))]  # matrices (d, dv), one for each head
        return layered.layers_of([*one.parameters(), *mixes], axes=1)

    def _layers_form(self, first: int, last: int) -> ReducedForm | None:
        found = self._as_one()
        assert found is not None, "there are layers"
        one, W = found
        form = layered.form_of(one, len(self.heads), first, last)
        if form is None or W is None:
            return form
        mixed = W.source.stack[first:last] if isinstance(W.source, Layers) else W(0.0)
        return replace(form, V=product(mixed, form.V))

    def _dimensions(self, t: float) -> tuple[int, int]:
        found = self._heads_as_one(t)
        if found is not None:
            with suppress(InputError):  # each head knows better what is wrong
                d, length = found[0]._dimensions(t)
                shape = (len(self.heads), length, length) if found[1] is None else found[1](t).shape[-3:]
                if shape[::2] == (len(self.heads), length):
                    return d, shape[1]
        return self._dimensions_of_each(t)

    def _dimensions_of_each(self, t: float) -> tuple[int, int]:
        sizes = []
        for h, head in enumerate(self.heads):
            try:
                sizes.append(head._dimensions(t))
            except InputError as error:
                raise InputError(f"heads[{h}]", str(error), "parameters that fit each other") from error
        outputs = self._outputs(t)
        d, rows = sizes[0][0], 0
        for h, (columns, length) in enumerate(sizes):
            if columns != d:
                raise InputError(f"heads[{h}]", f"parameters with {columns} columns", f"{d}, as in heads[0]")
            if outputs is not None and outputs[h].shape[-1] != length:
                raise InputError(f"W[{h}]", f"shape {outputs[h].shape}", f"{length} columns, the rows of V of head {h}")
            out = length if outputs is None else outputs[h].shape[-2]
            rows = rows or out
            if out != rows:
                raise InputError(f"heads[{h}]", f"a field of length {out}", f"{rows}, as heads[0]")
        return d, rows

    def _evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        if small_clouds.evaluate(self, cloud, t, backend, out):
            return
        outputs = self._outputs(t)
        out[...] = 0.0
        # The level names the scratch: a head may be a MultiHead itself.
        with backend.evaluation() as level:
            term = backend.workspace(f"head_term{level}", out.shape, out.dtype)
            for h, head in enumerate(self.heads):
                own = cloud if cloud.memory is None else cloud.with_(memory=cloud.memory.head(h))
                if outputs is None:
                    head._evaluate(own, t, backend, term)
                else:
                    field = backend.workspace(f"head_field{level}", (*out.shape[:2], outputs[h].shape[-1]), out.dtype)
                    head._evaluate(own, t, backend, field)
                    backend.project(field, outputs[h], term)
                out += term

    def _linearised(self, cloud: Cloud, t: float, backend: Backend) -> Linearised:
        memories = [None if cloud.memory is None else cloud.memory.head(h) for h in range(len(self.heads))]
        own = [cloud.with_(memory=memory) for memory in memories]
        parts = [head._linearised(one, t, backend) for head, one in zip(self.heads, own, strict=True)]
        return LinearisedHeads(parts, self._outputs(t), backend, stacked=self._stack is not None)

    def _linearised_law(self, mean: Array, factor: Array, t: float) -> LinearisedLaw:
        parts = [head._linearised_law(mean, factor, t) for head in self.heads]
        return LinearisedLawOfHeads(parts, self._outputs(t), stacked=self._stack is not None)

    def _terms(self, t: float | None = None) -> Iterator[Term]:
        outputs = None if t is None else self._outputs(t)
        for h, head in enumerate(self.heads):
            own = () if outputs is None else (outputs[h],)
            for term in terms_of(head, t):
                yield replace(term, W=(*own, *term.W))
