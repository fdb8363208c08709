"""Multi-head attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._types import Array
from ..errors import InputError, InputTypeError
from . import small_clouds
from .base import Attention
from .cloud import Cloud
from .composite import Composite, Term, terms_of
from .parameters import Parameter, Value, matrix, parameter

if TYPE_CHECKING:
    from ..sums.backend import Backend


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
            if not isinstance(head, Attention):
                raise InputTypeError(f"heads[{h}]", type(head).__name__, "an attention, as fp.Softmax(Q, K, V)")
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
            self.dimensions(0.0)

    def __repr__(self) -> str:
        return f"MultiHead([{', '.join(map(repr, self.heads))}])"

    def parameters(self) -> Iterator[Parameter]:
        for head in self.heads:
            yield from head.parameters()
        yield from self._each or ()
        if self._stack is not None:
            yield self._stack

    def outputs(self, t: float) -> list[Array] | None:
        """Return W_h (d, dv) or (B, d, dv) of every head, or None if there are none."""
        if self._each is not None:
            return [w(t) for w in self._each]
        if self._stack is None:
            return None
        stack = self._stack(t)
        if stack.shape[-3] != len(self.heads):
            raise InputError("W", f"shape {stack.shape}", f"{len(self.heads)} matrices, one per head")
        return [stack[..., h, :, :] for h in range(len(self.heads))]

    def dimensions(self, t: float) -> tuple[int, int]:
        sizes = []
        for h, head in enumerate(self.heads):
            try:
                sizes.append(head.dimensions(t))
            except InputError as error:
                raise InputError(f"heads[{h}]", str(error), "parameters that fit each other") from error
        outputs = self.outputs(t)
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

    def evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        if small_clouds.evaluate(self, cloud, t, backend, out):
            return
        outputs = self.outputs(t)
        out[...] = 0.0
        # The level names the scratch: a head may be a MultiHead itself.
        with backend.evaluation() as level:
            term = backend.workspace(f"head_term{level}", out.shape, out.dtype)
            for h, head in enumerate(self.heads):
                own = cloud if cloud.memory is None else cloud.with_(memory=cloud.memory.head(h))
                if outputs is None:
                    head.evaluate(own, t, backend, term)
                else:
                    field = backend.workspace(f"head_field{level}", (*out.shape[:2], outputs[h].shape[-1]), out.dtype)
                    head.evaluate(own, t, backend, field)
                    backend.project(field, outputs[h], term)
                out += term

    def terms(self, t: float | None = None) -> Iterator[Term]:
        outputs = None if t is None else self.outputs(t)
        for h, head in enumerate(self.heads):
            own = () if outputs is None else (outputs[h],)
            for term in terms_of(head, t):
                yield replace(term, W=(*own, *term.W))
